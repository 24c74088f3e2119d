//! Models: one bundle or versions, and what a rollout may say of them.

use std::time::Duration;

use crate::materials::{BASE, CRM, brief, compiled, route};

fn text(spec: &str) -> String {
    let enrich = "insecure: { anonymous: true }\n  enrich: [{ name: a, model: lead-score, deadline: 3ms, set: { header: x-a } }]";
    BASE.replace("insecure: { anonymous: true }", enrich)
        + &route("web", &format!("rules: [{{ {CRM} }}]"))
        + "apiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: lead-score }\nspec:\n"
        + &spec.lines().fold(String::new(), |spec, line| spec + "  " + line + "\n")
}

const VERSIONS: &str = "versions:
- { name: v1, bundle: { path: models/1 } }
- { name: v2, bundle: { path: models/2 } }
- { name: v3, bundle: { path: models/3 } }
";

fn rollout(rollout: &str) -> String {
    text(&format!("{VERSIONS}rollout: {{ {rollout} }}"))
}

/// Code and message of every fault.
fn faults(text: &str) -> Vec<String> {
    let told = compiled(text).unwrap_err();
    told.iter().map(|fault| format!("{} {}", fault.code, fault.message)).collect()
}

#[test]
fn a_rollout_says_which_version_plays_which_part() {
    let said = "production: v2, previous: v1, canary: { version: v3, percent: 0.5 }, shadow: { version: v1 }, \
                guardrails: { p99: 5ms, errorShare: 0.01, disagreement: 0.1, drift: 0.25, holdOff: 10m, minRecords: 500 }";
    let snapshot = compiled(&rollout(said)).unwrap();
    assert!(snapshot.warnings.is_empty(), "{:?}", snapshot.warnings);
    let model = &snapshot.models[0];
    let rollout = model.rollout.as_ref().unwrap();
    assert_eq!((rollout.production, rollout.canary, rollout.shadow), (1, Some((2, 50)), Some(0)));
    let rails = &rollout.guardrails;
    assert_eq!((rails.p99, rails.hold_off), (Some(Duration::from_millis(5)), Some(Duration::from_mins(10))));
    assert_eq!((rails.error_share, rails.disagreement, rails.drift), (Some(0.01), Some(0.1), Some(0.25)));
    assert_eq!(rails.min_records, 500);
    let names: Vec<_> = model.versions.iter().map(|version| version.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["v1", "v2", "v3"]);
    assert!(model.versions[2].bundle.ends_with("policies/models/3"));
    let alone = compiled(&text("bundle: { path: models/1 }")).unwrap();
    assert!(alone.models[0].rollout.is_none() && alone.models[0].versions[0].name.is_none());
}

#[test]
fn what_contradicts_itself_is_told_all_at_once() {
    for (spec, told) in [
        ("placement: Inline", "FG0678 the model has no bundle"),
        (
            "bundle: { path: a }\nversions: [{ name: v1, bundle: { path: a } }]",
            "FG0678 a model has either one bundle or versions",
        ),
        ("bundle: { path: a }\nrollout: { production: v1 }", "FG0678 one bundle alone has no rollout"),
        ("versions: [{ name: v1, bundle: { path: a } }]", "FG0678 none of the versions is production"),
        (
            "versions: [{ name: v1, bundle: { path: a } }, { name: v1, bundle: { path: b } }]\nrollout: { production: v1 }",
            "FG0678 there is already a version called `v1`",
        ),
        ("versions: [{ name: V1, bundle: { path: a } }]\nrollout: { production: V1 }", "FG0116"),
    ] {
        let faults = faults(&text(spec));
        assert!(faults.len() == 1 && faults[0].starts_with(told), "{spec}: {faults:?}");
    }
    for (said, told) in [
        ("production: v4", "FG0304 there is no version named `v4`"),
        ("production: v1, previous: old", "FG0304 there is no version named `old`"),
        (
            "production: v1, canary: { version: v1, percent: 10 }",
            "FG0678 the canary is the version in production",
        ),
        ("production: v1, shadow: { version: v1 }", "FG0678 the shadow is the version in production"),
        ("production: v1, canary: { version: v2, percent: 0 }", "FG0107"),
        ("production: v1, canary: { version: v2, percent: 100 }", "FG0107"),
        ("production: v1, guardrails: { errorShare: 1.5 }", "FG0107"),
        ("production: v1, guardrails: { minRecords: 5 }", "FG0107"),
        ("production: v1, guardrails: { p99: 2s }", "FG0301 the time must be between 1us and 1s"),
        ("production: v1, guardrails: { holdOff: 10ms }", "FG0301 the time must be between 1s and 2592000s"),
    ] {
        let faults = faults(&rollout(said));
        assert!(faults.len() == 1 && faults[0].starts_with(told), "{said}: {faults:?}");
    }
    let both =
        faults(&rollout("production: v1, canary: { version: v2, percent: 5 }, shadow: { version: v2 }"));
    assert_eq!(both, ["FG0678 the shadow is the canary, which is compared with production in any case"]);
    let several = rollout("production: v4, shadow: { version: v5 }").replace("models/2", "models/broken");
    let several = faults(&several);
    assert_eq!(several.len(), 3, "{several:?}");
    assert!(several.contains(&"FG0501 the golden vectors differ".to_owned()));
}

#[test]
fn faults_point_at_the_version_and_name_one_that_is_meant() {
    let text = rollout("production: v1").replace("models/3", "models/broken");
    let told = brief(&compiled(&text).unwrap_err());
    let line = text.lines().position(|line| line.contains("models/broken")).unwrap() + 1;
    assert!(told.len() == 1 && told[0].starts_with(&format!("FG0501 {line}:")), "{told:?}");
    let told = compiled(&rollout("production: v1, shadow: { version: v33 }")).unwrap_err();
    assert_eq!(told[0].help.as_deref(), Some("did you mean `v3`?"));
}

#[test]
fn canaries_without_guardrails_and_noisy_ones_are_warned_of() {
    let warnings = |said: &str| {
        let warnings = compiled(&rollout(said)).unwrap().warnings;
        warnings.iter().map(|warning| warning.code.0).collect::<Vec<_>>()
    };
    let canary = "production: v1, canary: { version: v2, percent: 10 }";
    assert_eq!(warnings(canary), [721]);
    assert_eq!(warnings(&format!("{canary}, guardrails: {{ holdOff: 10m }}")), [721]);
    assert!(warnings(&format!("{canary}, guardrails: {{ p99: 5ms }}")).is_empty());
    assert!(warnings("production: v1, shadow: { version: v2 }").is_empty());
    assert_eq!(warnings(&format!("{canary}, guardrails: {{ drift: 0.25, minRecords: 100 }}")), [722]);
}
