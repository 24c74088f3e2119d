//! Rollouts: who decides, who is compared, and what takes a version off.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::{ScoreCall, ScoreFault, Scorer};
use foregate_inference::bundle::error::BundleFault;
use foregate_inference::bundle::{Bundle, Cost};
use foregate_inference::model::{Model, ModelError};
use foregate_inference::rollout::trial::{Breach, Event, Guardrail, Guardrails, Role, Tell, Trial};
use foregate_inference::rollout::{Parts, Rollout, Version, fit};
use foregate_inference::scorer::ModelScorer;

use crate::bundles::{copy, digest, edit};

/// Runs a model, and then something else.
#[derive(Debug)]
struct Odd {
    inner: Arc<dyn Model>,
    what: What,
}

#[derive(Debug)]
enum What {
    Fails,
    Panics,
    /// Fails until it is mended.
    Mended(Arc<AtomicBool>),
    Adds(f32),
    /// Fails, and counts its runs.
    Counts(Arc<AtomicUsize>),
    /// Waits to be told; says that it began.
    Held(Mutex<Sender<()>>, Mutex<Receiver<()>>),
}

impl Model for Odd {
    fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        match &self.what {
            What::Fails => return Err(ModelError::NotFinite(0)),
            What::Counts(runs) => {
                runs.fetch_add(1, Ordering::SeqCst);
                return Err(ModelError::NotFinite(0));
            }
            What::Panics => panic!("a defect of the model"),
            What::Mended(mended) if !mended.load(Ordering::SeqCst) => return Err(ModelError::NotFinite(0)),
            What::Held(begun, go) => {
                let _ = begun.lock().unwrap().send(());
                let _ = go.lock().unwrap().recv();
            }
            What::Mended(_) | What::Adds(_) => {}
        }
        self.inner.run(rows, count, out)?;
        if let What::Adds(more) = self.what {
            for score in out.iter_mut() {
                *score += more;
            }
        }
        Ok(())
    }

    fn engine(&self) -> &'static str {
        "odd"
    }
}

fn loaded(folder: &Path, cost: Cost, what: Option<What>) -> Arc<ModelScorer> {
    let mut bundle = Bundle::load(folder).unwrap();
    bundle.place(cost);
    if let Some(what) = what {
        bundle.model = Arc::new(Odd { inner: bundle.model.clone(), what });
    }
    Arc::new(ModelScorer::new("lead-score", bundle, 1))
}

fn version(name: &str, scorer: Arc<ModelScorer>) -> Version {
    Version { name: name.into(), scorer }
}

fn lead_score() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/lead-score")
}

fn inline(name: &str, what: impl Into<Option<What>>) -> Version {
    version(name, loaded(&lead_score(), Cost::Inline, what.into()))
}

fn threads(name: &str, what: impl Into<Option<What>>) -> Version {
    version(name, loaded(&lead_score(), Cost::Threads, what.into()))
}

const LOOSE: Guardrails = Guardrails {
    p99: None,
    error_share: None,
    disagreement: None,
    tolerance: 0.1,
    drift: None,
    hold_off: None,
    min_records: 20,
};

type Heard = Arc<Mutex<Vec<Event>>>;

fn rollout(parts: Parts) -> (Rollout, Heard) {
    let heard = Heard::default();
    let ears = Arc::clone(&heard);
    let tell: Tell = Arc::new(move |event| ears.lock().unwrap().push(event.clone()));
    (Rollout::new("lead-score", parts, &tell).unwrap(), heard)
}

fn canary(canary: Version, parts: u32, guardrails: Guardrails) -> Parts {
    Parts { production: inline("v1", None), canary: Some((canary, parts)), shadow: None, guardrails }
}

fn shadow(shadow: Version, guardrails: Guardrails) -> Parts {
    Parts { production: inline("v1", None), canary: None, shadow: Some(shadow), guardrails }
}

fn call(body: &str) -> ScoreCall {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let budget = Duration::from_secs(10);
    ScoreCall { body, reserved: Arc::default(), budget, now: Duration::ZERO, explain: false }
}

fn lead(number: usize) -> String {
    format!(r#"{{"Id":"00Q5g00000ab{number:03}","Website_Visits__c":{number}}}"#)
}

/// The score of the one record, and the version that gave it.
fn scored(rollout: &Rollout, body: &str) -> (f32, String) {
    let records = rollout.score(&call(body)).unwrap().unwrap();
    let version = records[0].version.clone().map_or(rollout.version().to_owned(), |it| it.to_string());
    (records[0].score.clone().unwrap(), version)
}

fn trial(rollout: &Rollout) -> &Arc<Trial> {
    rollout.trials().next().unwrap()
}

fn wait(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

fn broken(heard: &Heard) -> Vec<(Guardrail, f64)> {
    let heard = heard.lock().unwrap();
    let breach = |event: &Event| match event {
        Event::TakenOff { breach: Breach { guardrail, measured, .. }, .. } => Some((*guardrail, *measured)),
        Event::TriedAgain { .. } => None,
    };
    heard.iter().filter_map(breach).collect()
}

#[test]
fn a_canary_decides_about_its_share_always_the_same_and_says_so() {
    let (rollout, _) = rollout(canary(inline("v2", What::Adds(0.5)), 2_000, LOOSE));
    let (alone, _) = self::rollout(canary(inline("v2", None), 1, LOOSE));
    let mut by_canary = 0;
    for number in 0..500 {
        let (score, version) = scored(&rollout, &lead(number));
        let (production, _) = scored(&alone, &lead(number));
        match version.as_str() {
            "v1" => assert_eq!(score, production, "{number}"),
            "v2" => assert_eq!(score, production + 0.5, "{number}"),
            other => panic!("{other}"),
        }
        by_canary += usize::from(version == "v2");
        let more = lead(number).replace('}', r#","Title":"CFO"}"#);
        assert_eq!(scored(&rollout, &more).1, version, "the record is the same");
    }
    assert!((70..130).contains(&by_canary), "{by_canary} of 500 are no fifth");
    assert_eq!((rollout.model(), rollout.version(), rollout.canary_share()), ("lead-score", "v1", 2_000));
}

#[test]
fn what_a_canary_fails_on_production_decides_and_the_canary_is_taken_off() {
    for what in [What::Fails, What::Panics] {
        let bounds = Guardrails { error_share: Some(0.5), ..LOOSE };
        let (rollout, heard) = rollout(canary(inline("v2", what), 5_000, bounds));
        for number in 0..200 {
            let (_, version) = scored(&rollout, &lead(number));
            assert_eq!(version, "v1", "{number}");
        }
        assert_eq!(broken(&heard), [(Guardrail::ErrorShare, 1.0)]);
        assert_eq!((rollout.canary_share(), trial(&rollout).held_off()), (0, None));
        let errors = trial(&rollout).counts.errors.load(Ordering::SeqCst);
        assert_eq!(errors, 20, "taken off as soon as enough were seen");
    }
}

#[test]
fn a_canary_that_fails_is_run_once_wherever_production_runs() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let placed = |name: &str, cost, micros, counts: Option<&Arc<AtomicUsize>>| {
        let mut bundle = Bundle::load(&lead_score()).unwrap();
        bundle.place(cost);
        bundle.per_row = Duration::from_micros(micros);
        if let Some(runs) = counts {
            let (inner, what) = (bundle.model.clone(), What::Counts(Arc::clone(runs)));
            bundle.model = Arc::new(Odd { inner, what });
        }
        version(name, Arc::new(ModelScorer::new("lead-score", bundle, 1)))
    };
    let productions = [(Cost::Inline, 1), (Cost::Threads, 1), (Cost::Inline, 1_000)];
    // One that is on threads itself, or is for collections, too.
    let canaries = [(Cost::Inline, 1), (Cost::Threads, 1), (Cost::Inline, 1_000)];
    for (ours, theirs) in productions.into_iter().flat_map(|ours| canaries.map(|theirs| (ours, theirs))) {
        let runs = Arc::new(AtomicUsize::new(0));
        let two = placed("v2", theirs.0, theirs.1, Some(&runs));
        let production = placed("v1", ours.0, ours.1, None);
        let (rollout, _) = rollout(Parts { production, ..canary(two, 9_900, LOOSE) });
        for number in 0..40 {
            let one = lead(number);
            let body = if number % 2 == 0 { one } else { format!(r#"{{"records":[{one},{one}]}}"#) };
            let (call, before) = (call(&body), runs.load(Ordering::SeqCst));
            let scores = rollout.score(&call);
            let scores = scores.unwrap_or_else(|| runtime.block_on(rollout.submit(call))).unwrap();
            assert!(scores.iter().all(|it| it.score.is_ok() && it.version.is_none()), "{scores:?}");
            assert!(runs.load(Ordering::SeqCst) <= before + 1, "{number}");
        }
        assert!(runs.load(Ordering::SeqCst) >= 30, "it was tried");
    }
}

#[test]
fn what_production_fails_on_too_is_no_error_of_the_canary() {
    let bounds = Guardrails { error_share: Some(0.0), ..LOOSE };
    let (rollout, heard) = rollout(canary(inline("v2", None), 5_000, bounds));
    for number in 0..200 {
        let bad = lead(number).replace('}', r#","AnnualRevenue":"much"}"#);
        let records = rollout.score(&call(&bad)).unwrap().unwrap();
        assert!(matches!(records[0].score, Err(ScoreFault::Feature(_))));
        assert!(rollout.score(&call(&format!("{number}{{"))).unwrap().is_err());
    }
    assert!(broken(&heard).is_empty());
    assert!(trial(&rollout).is_on());
}

#[test]
fn a_canary_on_threads_that_is_late_leaves_time_for_production() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (begun, _begun) = channel();
    let (go, wait_for_it) = channel::<()>();
    let held = What::Held(Mutex::new(begun), Mutex::new(wait_for_it));
    let bounds = Guardrails { p99: Some(Duration::from_millis(5)), error_share: Some(0.5), ..LOOSE };
    let (rollout, heard) = rollout(canary(threads("v2", held), 9_900, bounds));
    let mut number = 0;
    while broken(&heard).is_empty() {
        let call = ScoreCall { budget: Duration::from_millis(300), ..call(&lead(number)) };
        number += 1;
        if let Some(scores) = rollout.score(&call) {
            assert!(scores.unwrap()[0].version.is_none());
            continue;
        }
        let records = runtime.block_on(rollout.submit(call)).unwrap();
        assert!(records[0].score.is_ok() && records[0].version.is_none(), "{records:?}");
    }
    assert_eq!(broken(&heard)[0], (Guardrail::P99, 1.0));
    assert!(scored(&rollout, &lead(0)).1 == "v1" && number < 40, "{number}");
    drop(go);
}

#[test]
fn after_the_hold_off_a_canary_is_tried_again_and_may_stay() {
    let mended = Arc::new(AtomicBool::new(false));
    let hold_off = Some(Duration::from_millis(30));
    let bounds = Guardrails { error_share: Some(0.5), hold_off, ..LOOSE };
    let (rollout, heard) = rollout(canary(inline("v2", What::Mended(Arc::clone(&mended))), 9_900, bounds));
    let mut number = 0;
    while broken(&heard).is_empty() {
        assert_eq!(scored(&rollout, &lead(number)).1, "v1");
        number += 1;
    }
    assert!(trial(&rollout).held_off().is_some_and(|left| left <= Duration::from_millis(30)));
    mended.store(true, Ordering::SeqCst);
    wait(|| scored(&rollout, &lead(1)).1 == "v2");
    let events = heard.lock().unwrap().clone();
    assert!(matches!(&events[1], Event::TriedAgain { role: Role::Canary, version } if &**version == "v2"));
    assert_eq!((rollout.canary_share(), trial(&rollout).held_off()), (9_900, Some(Duration::ZERO)));
    (0..100).for_each(|number| drop(scored(&rollout, &lead(number))));
    assert_eq!(broken(&heard).len(), 1, "what it did before the hold-off is forgotten");
}

#[test]
fn a_canary_that_says_something_else_than_production_is_taken_off() {
    let bounds = Guardrails { disagreement: Some(0.1), ..LOOSE };
    for (adds, stays) in [(0.05, true), (0.3, false)] {
        let (rollout, heard) = rollout(canary(inline("v2", What::Adds(adds)), 9_900, bounds.clone()));
        (0..60).for_each(|number| drop(scored(&rollout, &lead(number))));
        let trial = trial(&rollout);
        wait(|| trial.counts.compared.load(Ordering::SeqCst) >= if stays { 55 } else { 20 });
        wait(|| stays || !broken(&heard).is_empty());
        assert_eq!(trial.is_on(), stays, "{:?}", broken(&heard));
        assert_eq!(broken(&heard).is_empty(), stays);
    }
}

#[test]
fn a_shadow_is_compared_and_never_used() {
    let bounds = Guardrails { disagreement: Some(0.1), ..LOOSE };
    let (rollout, heard) = rollout(shadow(inline("v3", What::Adds(0.3)), bounds));
    let (alone, _) = self::rollout(shadow(inline("v3", None), LOOSE));
    for number in 0..100 {
        let (score, version) = scored(&rollout, &lead(number));
        assert_eq!((score, version.as_str()), (scored(&alone, &lead(number)).0, "v1"));
    }
    wait(|| !broken(&heard).is_empty());
    assert_eq!(broken(&heard), [(Guardrail::Disagreement, 1.0)]);
    wait(|| trial(&alone).counts.compared.load(Ordering::SeqCst) == 100);
    assert_eq!(trial(&alone).counts.disagreed.load(Ordering::SeqCst), 0);
    // One that fails is counted, and costs nobody anything.
    let bounds = Guardrails { error_share: Some(0.9), ..LOOSE };
    for what in [What::Fails, What::Panics] {
        let (failing, heard) = self::rollout(shadow(inline("v3", what), bounds.clone()));
        (0..20).for_each(|number| assert_eq!(scored(&failing, &lead(number)).1, "v1"));
        wait(|| !broken(&heard).is_empty());
        assert_eq!(broken(&heard), [(Guardrail::ErrorShare, 1.0)]);
    }
}

#[test]
fn a_shadow_that_cannot_keep_up_is_left_out_and_counted() {
    let (begun, begins) = channel();
    let (go, wait_for_it) = channel();
    let held = What::Held(Mutex::new(begun), Mutex::new(wait_for_it));
    let (rollout, _) = rollout(shadow(inline("v3", held), LOOSE));
    scored(&rollout, &lead(0));
    begins.recv().unwrap();
    // One runs, 256 wait, the rest is dropped.
    (0..300).for_each(|number| drop(scored(&rollout, &lead(number))));
    assert_eq!(rollout.dropped(), 44);
    drop(go);
    wait(|| trial(&rollout).counts.compared.load(Ordering::SeqCst) == 257);
    // Large bodies count by their bytes.
    let (begun, begins) = channel();
    let (go, wait_for_it) = channel();
    let held = What::Held(Mutex::new(begun), Mutex::new(wait_for_it));
    let parts = Parts { production: threads("v1", None), ..shadow(inline("v3", held), LOOSE) };
    let (rollout, _) = self::rollout(parts);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let large = format!("{{\"Notes\":\"{}\"}}", "n".repeat((1 << 20) - 12));
    let submit = || drop(runtime.block_on(rollout.submit(call(&large))).unwrap());
    submit();
    begins.recv().unwrap();
    (0..10).for_each(|_| submit());
    assert_eq!(rollout.dropped(), 2);
    drop(go);
}

/// A copy of a bundle whose reference says that leads have these many visits.
fn with_reference(test: &str, reference: &str) -> std::path::PathBuf {
    let dir = copy(test);
    let shipped = digest(&fs::read(dir.join("reference.json")).unwrap());
    fs::write(dir.join("reference.json"), reference).unwrap();
    edit(&dir, "model.yaml", |text| text.replace(&shipped, &digest(reference.as_bytes())));
    dir
}

/// Half of the leads have few visits (as the feature scales them), a quarter more, a quarter many. No score is
/// above a half.
const REFERENCE: &str = r#"{"features":{"website_visits":{"edges":[1.5,4],"counts":[500,250,250,0]},
    "country":{"counts":[400,300,300,0]}},"score":{"edges":[0.5],"counts":[1000,0,0]}}"#;

#[test]
fn a_population_that_moves_takes_a_canary_off() {
    let dir = with_reference("reference", REFERENCE);
    let bounds = Guardrails { drift: Some(0.25), min_records: 400, ..LOOSE };
    let parts = || {
        let two = version("v2", loaded(&dir, Cost::Inline, None));
        Parts {
            production: version("v1", loaded(&dir, Cost::Inline, None)),
            ..canary(two, 9_900, bounds.clone())
        }
    };
    let country = |number: usize| ["US", "US", "US", "US", "GB", "GB", "GB", "FR", "DE", ""][number % 10];
    let lead = |number: usize, visits: &str| {
        format!(r#"{{"Id":"{number}","Country":"{}"{visits}}}"#, country(number))
    };
    let stable = ["", r#","Website_Visits__c":1"#, r#","Website_Visits__c":5"#, r#","Website_Visits__c":50"#];
    let (rollout, heard) = rollout(parts());
    let feed = |rollout: &Rollout, visits: &dyn Fn(usize) -> &'static str| {
        let mut records = 0;
        for number in 0..500 {
            scored(rollout, &lead(number, visits(number)));
            records += 1;
            // No body may be dropped here: the queue is let run dry.
            if records % 100 == 0 {
                wait(|| format!("{rollout:?}").contains("After { queued: 0"));
            }
        }
        assert_eq!(rollout.dropped(), 0);
    };
    feed(&rollout, &|number| stable[number / 10 % 4]);
    wait(|| rollout.drift(Role::Canary).is_some());
    let drift = rollout.drift(Role::Canary).unwrap();
    assert_eq!(
        rollout.watched(Role::Canary).iter().map(|it| &**it).collect::<Vec<_>>(),
        ["country", "website_visits", "score"]
    );
    assert!(drift.iter().all(|moved| (0.0..0.1).contains(moved)) && broken(&heard).is_empty(), "{drift:?}");
    let (rollout, heard) = self::rollout(parts());
    feed(&rollout, &|_| r#","Website_Visits__c":50"#);
    wait(|| !broken(&heard).is_empty());
    let breach = trial(&rollout).last().unwrap();
    assert_eq!((breach.guardrail, breach.feature.as_deref()), (Guardrail::Drift, Some("website_visits")));
    assert!(broken(&heard)[0].1 > 1.0, "{breach:?}");
}

/// One record over and over is no population that any model was trained on.
#[test]
fn every_shipped_model_is_watched_for_drift() {
    let bundles = lead_score().parent().unwrap().to_owned();
    for folder in fs::read_dir(bundles).unwrap().map(|entry| entry.unwrap().path()) {
        let bounds = Guardrails { drift: Some(0.5), min_records: 40, ..LOOSE };
        let of = |name: &str| version(name, loaded(&folder, Cost::Inline, None));
        let parts = Parts {
            production: of("v1"),
            canary: Some((of("v2"), 10_000)),
            shadow: None,
            guardrails: bounds,
        };
        let (rollout, heard) = rollout(parts);
        for number in 0..40 {
            scored(&rollout, &format!(r#"{{"Id":"{number}","Subject":"The same again"}}"#));
        }
        wait(|| !broken(&heard).is_empty());
        let breach = trial(&rollout).last().unwrap();
        assert_eq!(breach.guardrail, Guardrail::Drift, "{}: {breach:?}", folder.display());
        assert_eq!(&**rollout.watched(Role::Canary).last().unwrap(), "score");
    }
}

#[test]
fn a_reference_that_does_not_fit_the_bundle_is_refused() {
    assert!(Bundle::load(&with_reference("good-reference", REFERENCE)).unwrap().reference.is_some());
    for (from, to, part) in [
        ("website_visits", "visits", "no feature `visits`"),
        ("[1.5,4]", "[4,1.5]", "larger than the one before"),
        ("[500,250,250,0]", "[500,250,250]", "one count a bin"),
        ("[400,300,300,0]", "[400,300]", "one count a bin"),
        (r#""country":{"#, r#""country":{"edges":[1],"#, "only a single column"),
        ("[1000,0,0]", "[0,0,0]", "must not all be 0"),
        ("[1000,0,0]", "[-1,0,0]", "invalid value"),
        (r#","score""#, r#","scores""#, "unknown field"),
    ] {
        let dir = with_reference("bad-reference", &REFERENCE.replace(from, to));
        let error = Bundle::load(&dir).unwrap_err();
        assert!(error.file == "reference.json" && error.to_string().contains(part), "{to}: {error}");
    }
    let dir = with_reference("changed-reference", REFERENCE);
    edit(&dir, "reference.json", |text| text.replace("1000", "1001"));
    assert!(matches!(Bundle::load(&dir).unwrap_err().fault, BundleFault::Digest { .. }));
}

#[test]
fn a_version_of_another_object_task_or_other_classes_does_not_fit() {
    let scorer = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles").join(name);
        loaded(&folder, Cost::Threads, None)
    };
    let lead = scorer("lead-score");
    assert_eq!(fit::check(&lead, &scorer("lead-score-logistic")), Ok(()));
    for (ours, theirs, part) in [
        (&lead, scorer("churn-risk"), "records of Contact"),
        (&scorer("case-queue"), scorer("case-sentiment"), "another task"),
        (&scorer("case-queue"), scorer("case-priority"), "classes are not those"),
        // Policies ask production for reasons; this one runs what tells none.
        (&lead, loaded(&lead_score(), Cost::Threads, Some(What::Adds(0.0))), "and it tells none"),
    ] {
        let misfit = fit::check(ours, &theirs).unwrap_err().to_string();
        assert!(misfit.contains(part), "{misfit}");
    }
}

#[test]
fn calls_that_are_explained_are_not_judged_by_their_time() {
    let bounds = Guardrails { p99: Some(Duration::from_nanos(1)), min_records: 5, ..LOOSE };
    let (rollout, heard) = rollout(canary(threads("v2", None), 10_000, bounds));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let submit = |explain| {
        let call = ScoreCall { explain, ..call(&lead(1)) };
        assert!(runtime.block_on(rollout.submit(call)).unwrap()[0].score.is_ok());
    };
    (0..20).for_each(|_| submit(true));
    assert!(broken(&heard).is_empty());
    (0..5).for_each(|_| submit(false));
    assert_eq!(broken(&heard), [(Guardrail::P99, 1.0)]);
}
