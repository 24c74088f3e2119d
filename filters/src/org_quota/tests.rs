//! Pools of calls against an org that counts.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::pool::{Pool, Refused, Ticket};
use super::spec::Spec;
use super::usage::LIMIT_INFO;
use crate::fault::Path;
use crate::testing::{TestResources, build, check, faults, get, run};

const THREE: &str = r"
classes:
- { name: interactive, until: 100 }
- { name: sync, until: 90 }
- { name: bulk, until: 70, share: 20 }
consumers: { desk: { class: interactive }, erp: { class: sync }, report: { class: sync, share: 10 } }
";

fn rules(text: &str) -> Result<super::spec::Rules, Vec<String>> {
    let spec: Spec = serde_saphyr::from_str(text).unwrap();
    spec.rules(&Path::default().key("spec").key("orgQuota")).map_err(|wrong| {
        wrong.iter().map(|fault| format!("{} {}: {}", fault.code, fault.at, fault.message)).collect()
    })
}

fn pool(text: &str) -> Arc<Pool> {
    Arc::new(Pool::new(rules(text).unwrap(), None))
}

fn says(text: &str) -> HeaderMap {
    [(LIMIT_INFO, HeaderValue::from_str(text).unwrap())].into_iter().collect()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1_000 + seconds)
}

fn send(pool: &Arc<Pool>, who: &str, now: Duration) -> Result<Box<Ticket>, Refused> {
    pool.admit(Some(who), now).map(|admitted| {
        let mut ticket = admitted.ticket;
        ticket.sent();
        ticket
    })
}

/// Makes a call, which the org answers with this usage.
fn call(pool: &Arc<Pool>, who: &str, now: Duration, used: u64) -> Result<(), Refused> {
    send(pool, who, now).map(|ticket| ticket.answered(&says(&format!("api-usage={used}/1000")), now))
}

fn passes(pool: &Arc<Pool>, who: &str, now: Duration) -> bool {
    // Given back at once: nothing is sent.
    pool.admit(Some(who), now).is_ok()
}

#[test]
fn low_classes_are_refused_first_as_the_pool_runs_low() {
    let pool = pool(THREE);
    for (used, desk, erp, other) in [
        (0, true, true, true),
        (699, true, true, true),
        (700, true, true, false),
        (899, true, true, false),
        (900, true, false, false),
        (999, true, false, false),
        (1_000, false, false, false),
        (1_200, false, false, false),
        // Calls of a day ago have fallen out.
        (650, true, true, true),
    ] {
        pool.admit(Some("desk"), at(100_000))
            .unwrap()
            .ticket
            .answered(&says(&format!("api-usage={used}/1000")), at(0));
        let now = at(10);
        let told = (passes(&pool, "desk", now), passes(&pool, "erp", now), passes(&pool, "anybody", now));
        assert_eq!(told, (desk, erp, other), "{used}");
    }
}

#[test]
fn refusals_tell_whether_anybody_may_still_call() {
    let pool = pool(THREE);
    call(&pool, "desk", at(0), 950).unwrap();
    let reserved = pool.admit(None, at(1)).unwrap_err();
    assert_eq!((&*reserved.class, reserved.exhausted, reserved.retry_after.as_secs()), ("bulk", false, 60));
    call(&pool, "desk", at(1), 1_000).unwrap();
    assert!(pool.admit(Some("desk"), at(2)).unwrap_err().exhausted);
}

#[test]
fn a_burst_between_two_readings_does_not_overshoot() {
    let pool = pool(THREE);
    call(&pool, "desk", at(0), 690).unwrap();
    let sent: Vec<_> = (0..50).filter_map(|_| send(&pool, "bulk", at(1)).ok()).collect();
    assert_eq!(sent.len(), 10, "exactly what is left of 70 %");
    // Answers without a word, and calls that broke off, count as made.
    for (number, ticket) in sent.into_iter().enumerate() {
        if number % 2 == 0 {
            ticket.answered(&HeaderMap::new(), at(2));
        }
    }
    assert!(!passes(&pool, "bulk", at(2)));
    assert_eq!(pool.standing(at(2)).used, Some(700));
    // What was never sent is given back.
    drop(pool.admit(Some("erp"), at(2)).unwrap());
    let mut unsent = send(&pool, "erp", at(2)).unwrap();
    unsent.unsent();
    drop(unsent);
    assert_eq!(pool.standing(at(2)).used, Some(700));
}

#[test]
fn answers_that_overtake_each_other_do_not_lower_the_count() {
    let pool = pool(THREE);
    call(&pool, "desk", at(0), 600).unwrap();
    let (early, late) = (send(&pool, "desk", at(1)).unwrap(), send(&pool, "desk", at(1)).unwrap());
    late.answered(&says("api-usage=702/1000"), at(2));
    early.answered(&says("api-usage=701/1000"), at(3));
    assert_eq!(pool.standing(at(3)).used, Some(702));
    // One that began afterwards knows better, also where it says less.
    call(&pool, "desk", at(4), 640).unwrap();
    assert_eq!(pool.standing(at(4)).used, Some(640));
}

#[test]
fn the_count_falls_also_while_calls_never_cease() {
    let pool = pool(THREE);
    let mut open = vec![send(&pool, "desk", at(0)).unwrap()];
    for second in 1..50 {
        open.push(send(&pool, "desk", at(second)).unwrap());
        let used = 900 - second * 5;
        open.remove(0).answered(&says(&format!("api-usage={used}/1000")), at(second));
    }
    assert!(pool.standing(at(50)).used.unwrap() < 680);
}

#[test]
fn what_other_integrations_use_is_noticed_with_the_next_answer() {
    let pool = pool(THREE);
    call(&pool, "bulk", at(0), 100).unwrap();
    assert!(passes(&pool, "bulk", at(1)));
    call(&pool, "bulk", at(1), 899).unwrap();
    assert!(!passes(&pool, "bulk", at(2)) && passes(&pool, "erp", at(2)));
}

#[test]
fn the_important_are_never_refused_while_others_pass() {
    let pool = pool(THREE.replace(", share: 20", "").as_str());
    let mut used: u64 = 0;
    let mut random = 7_u64;
    for step in 0..20_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let now = at(step / 10);
        let told = [passes(&pool, "desk", now), passes(&pool, "erp", now), passes(&pool, "x", now)];
        assert!(told.is_sorted_by(|important, other| important >= other), "{step}: {told:?}");
        let who = ["desk", "erp", "x"][usize::try_from(random >> 33).unwrap() % 3];
        if let Ok(ticket) = send(&pool, who, now) {
            used += 1;
            if !random.is_multiple_of(5) {
                let text = if random.is_multiple_of(7) {
                    "nonsense".to_owned()
                } else {
                    format!("api-usage={used}/1000")
                };
                ticket.answered(&says(&text), now);
            }
        }
        used = used.saturating_sub(u64::from(random.is_multiple_of(11)));
    }
    assert!(pool.standing(at(2_000)).ignored > 0);
}

#[test]
fn shares_bound_what_one_consumer_or_class_uses_in_a_day() {
    let pool = pool(THREE);
    for used in 1..=100 {
        call(&pool, "report", at(0), used).unwrap();
    }
    let refused = pool.admit(Some("report"), at(60)).unwrap_err();
    assert!(!refused.exhausted && refused.detail.starts_with("report has used its share"), "{refused:?}");
    assert_eq!(refused.retry_after, Duration::from_hours(1).saturating_sub(at(60)));
    assert!(passes(&pool, "erp", at(60)));
    for used in 101..=300 {
        call(&pool, "bulk", at(60), used).unwrap();
    }
    assert!(!passes(&pool, "bulk", at(60)), "20 % of a thousand");
    assert!(!passes(&pool, "report", at(23 * 3600 - 1_000)));
    assert!(passes(&pool, "report", at(24 * 3600)), "a day later");
}

#[test]
fn what_is_old_is_asked_about_anew_by_one_call() {
    let pool = pool(THREE);
    call(&pool, "desk", at(0), 1_000).unwrap();
    assert!(!passes(&pool, "desk", at(59)));
    let probe = send(&pool, "desk", at(60)).unwrap();
    assert!(!passes(&pool, "desk", at(61)), "one is enough");
    assert!(!passes(&pool, "erp", at(61)), "and the important come first");
    probe.answered(&says("api-usage=500/1000"), at(62));
    assert!(passes(&pool, "desk", at(62)) && passes(&pool, "bulk", at(62)));
    // With nobody else there, the least important ask too.
    call(&pool, "desk", at(63), 800).unwrap();
    assert!(!passes(&pool, "bulk", at(63 + 179)) && send(&pool, "bulk", at(63 + 180)).is_ok());
}

#[test]
fn after_a_day_without_a_word_nothing_is_known() {
    let pool = pool(THREE);
    call(&pool, "desk", at(0), 1_000).unwrap();
    let later = at(24 * 3600);
    assert_eq!(pool.standing(later).used, None);
    let open: Vec<_> = (0..200).filter_map(|_| send(&pool, "desk", later).ok()).collect();
    assert_eq!(open.len(), 101, "a hundred may find out, and then one a minute");
    let told = self::pool(&format!("{THREE}limit: 50"));
    let open: Vec<_> = (0..200).filter_map(|_| send(&told, "desk", Duration::ZERO).ok()).collect();
    assert_eq!(open.len(), 50, "where the document says how many there are");
}

#[test]
fn the_limit_of_the_app_counts_as_well() {
    let pool = pool(&format!("{THREE}app: gateway"));
    let told = |pool: &Arc<Pool>, app: &str, used: u64| {
        let text = format!("api-usage=1/1000; per-app-api-usage={used}/100(appName={app})");
        pool.admit(Some("desk"), at(0)).unwrap().ticket.answered(&says(&text), at(0));
    };
    told(&pool, "other", 100);
    assert!(passes(&pool, "bulk", at(1)));
    told(&pool, "gateway", 80);
    assert!(!passes(&pool, "bulk", at(1)) && passes(&pool, "erp", at(1)));
}

#[test]
fn calls_that_nothing_is_said_about_fall_out_after_a_day() {
    let pool = pool(&format!("{THREE}limit: 50"));
    let hours = |hours: u64| Duration::from_hours(hours);
    for (hour, calls) in [(1, 30), (9, 20)] {
        for _ in 0..calls {
            let ticket = send(&pool, "desk", hours(hour)).unwrap();
            // Answered without a word, or broken off.
            if hour == 1 { ticket.answered(&HeaderMap::new(), hours(hour)) } else { drop(ticket) }
        }
    }
    let passing = |now: Duration| {
        let open: Vec<_> = std::iter::from_fn(|| send(&pool, "desk", now).ok()).take(60).collect();
        let passed = open.len();
        for mut ticket in open {
            ticket.unsent();
        }
        passed
    };
    // Beside those that are left, one may find out how the org stands.
    assert_eq!([passing(hours(9)), passing(hours(24))], [1, 1]);
    assert_eq!(passing(hours(25)), 31, "what was called in the first hour");
    assert_eq!(passing(hours(33)), 51);
    // What the org says counts again, with what it has not in it.
    call(&pool, "desk", hours(34), 100).unwrap();
    send(&pool, "desk", hours(34)).unwrap().answered(&HeaderMap::new(), hours(34));
    assert_eq!(pool.standing(hours(35)).used, Some(101));
    call(&pool, "desk", hours(57), 90).unwrap();
    assert_eq!(pool.standing(hours(58)).used, Some(90), "the first call is past, and none is counted twice");
}

#[test]
fn what_was_said_of_the_app_grows_old_while_the_org_goes_on_telling() {
    let pool = pool(&format!("{THREE}app: gateway"));
    let app = |used: u64| format!("api-usage=1/1000; per-app-api-usage={used}/100(appName=gateway)");
    let tell = |text: &str, now: Duration| {
        pool.admit(Some("desk"), now).unwrap().ticket.answered(&says(text), now);
    };
    tell(&app(95), at(0));
    for second in 1..60 {
        tell("api-usage=1/1000", at(second));
        assert!(!passes(&pool, "erp", at(second)), "the app is at 95 %");
    }
    // The least important but one waits for two minutes, and then one call finds out.
    tell("api-usage=1/1000", at(119));
    assert!(
        !passes(&pool, "erp", at(119)) && passes(&pool, "erp", at(120)) && !passes(&pool, "erp", at(121))
    );
    for hour in 1..24 {
        tell("api-usage=1/1000", at(hour * 3_600));
    }
    assert!(
        passes(&pool, "erp", at(23 * 3_600)) && !passes(&pool, "erp", at(23 * 3_600)),
        "one call finds out"
    );
    tell("api-usage=1/1000", at(24 * 3_600));
    assert!((0..10).all(|_| passes(&pool, "erp", at(24 * 3_600))), "a day later nothing is known of the app");
    tell(&app(95), at(24 * 3_600 + 1));
    assert!(!passes(&pool, "erp", at(24 * 3_600 + 1)));
}

#[test]
fn rules_in_audit_mode_refuse_nobody_and_tell() {
    let pool = pool(&format!("{THREE}mode: audit"));
    call(&pool, "desk", at(0), 1_000).unwrap();
    let admitted = pool.admit(Some("erp"), at(1)).unwrap();
    assert_eq!(&*admitted.audit.unwrap().class, "sync");
    assert_eq!(
        pool.counted(1).map(|(name, admitted, refused)| (&**name, admitted, refused)),
        Some(("sync", 0, 1))
    );
}

#[test]
fn what_is_known_outlives_the_rules() {
    let first = pool(THREE);
    call(&first, "report", at(0), 950).unwrap();
    let open = send(&first, "desk", at(0)).unwrap();
    let second = Arc::new(Pool::new(rules(&THREE.replace("90", "96")).unwrap(), Some(&first)));
    assert!(passes(&second, "erp", at(1)));
    assert_eq!(second.standing(at(1)).used, Some(951));
    drop(open);
    assert_eq!(second.standing(at(1)).used, Some(951), "a call that was sent counts");
}

#[test]
fn what_cannot_be_meant_is_a_fault() {
    for (text, expected) in [
        ("classes: []", "FG0301 spec.orgQuota.classes: there must be 1 to 8 classes"),
        (
            "classes: [{ name: a, until: 50 }, { name: b, until: 60 }]",
            "FG0302 spec.orgQuota.classes[1].until: it would pass while a, which is more important, is refused",
        ),
        (
            "classes: [{ name: a, until: 50 }, { name: a, until: 50 }]",
            "FG0302 spec.orgQuota.classes[1].name: a second class named a",
        ),
        (
            "classes: [{ name: a, until: 0 }]",
            "FG0301 spec.orgQuota.classes[0].until: until must be from 1 to 100 per cent",
        ),
        (
            "classes: [{ name: a, until: 9 }]\ndefault: b",
            "FG0304 spec.orgQuota.default: there is no class `b`",
        ),
        (
            "classes: [{ name: a, until: 9 }]\nconsumers: { x: { class: b } }",
            "FG0304 spec.orgQuota.consumers.x.class: there is no class `b`",
        ),
        (
            "classes: [{ name: a, until: 9, share: 101 }]",
            "FG0301 spec.orgQuota.classes[0].share: share must be from 1 to 100 per cent",
        ),
        (
            "classes: [{ name: a, until: 9 }]\nrefresh: 2h",
            "FG0301 spec.orgQuota.refresh: refresh must be from 1s to 1h",
        ),
        (
            "classes: [{ name: 'a b', until: 9 }]",
            "FG0301 spec.orgQuota.classes[0].name: a name has 1 to 63 letters, digits, - _ or ., and starts with a letter or digit",
        ),
    ] {
        assert_eq!(rules(text).unwrap_err(), [expected], "{text}");
    }
}

const KEYED: &str = "insecure: { anonymous: true }\norgQuota: { key: 'request.headers[\"x-client\"]' }";

#[test]
fn whose_call_it_is_must_be_known() {
    let chain = build(KEYED, &TestResources::default()).unwrap();
    let (ctx, _) = run(&chain, &get("/").header("x-client", "erp"));
    assert_eq!(ctx.org_consumer.as_deref(), Some("erp"));
    check(KEYED, &get("/"), "admit: RuleError by orgQuota");
    let wrong = faults("insecure: { anonymous: true }\norgQuota: { key: nope }");
    assert_eq!(wrong, ["FG0402 spec.orgQuota.key: unknown name nope"]);
}
