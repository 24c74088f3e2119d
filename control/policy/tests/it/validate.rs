//! Schemas and contracts beside policies: where they lie, and how their faults are told.

use std::fs;
use std::path::PathBuf;

use foregate_policy::compile::{Options, compile};
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::load::load_folder;
use foregate_policy::snapshot::Snapshot;

use crate::materials::{BASE, CRM, Fake, brief, route};

const CONTRACT: &str = "# A contract.\nopenapi: 3.0.3\npaths:\n  /leads:\n    get:\n      parameters:\n      - { name: filter, in: query, style: deepObject, schema: { type: object } }\n      responses: { '200': { description: x } }\n";

/// A folder of one policy with this `validate`, and these files.
fn compiled(name: &str, validate: &str, files: &[(&str, &str)]) -> Result<Snapshot, Vec<Diagnostic>> {
    let root =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("validate-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    let policy = BASE.replace(
        "  insecure: { anonymous: true }\n",
        &format!("  insecure: {{ anonymous: true }}\n  validate: {validate}\n"),
    );
    fs::write(root.join("edge.yaml"), policy + &route("web", &format!("rules: [{{ {CRM} }}]"))).unwrap();
    for (file, text) in files {
        fs::write(root.join(file), text).unwrap();
    }
    let compiled = compile(&load_folder(&root).unwrap(), &Fake, Options::default());
    fs::remove_dir_all(&root).unwrap();
    compiled
}

#[test]
fn a_contract_lies_beside_its_policy_and_what_it_leaves_open_is_a_warning() {
    let snapshot = compiled("beside", "{ openapi: { file: crm.yaml } }", &[("crm.yaml", CONTRACT)]).unwrap();
    let told = brief(&snapshot.warnings);
    let warned = told.iter().filter(|told| told.starts_with("FG0726")).collect::<Vec<_>>();
    assert_eq!(warned.len(), 1, "{told:?}");
    assert!(
        warned[0].contains("crm.yaml, at /paths/~1leads/get/parameters/0: the parameter filter"),
        "{warned:?}"
    );
    assert_eq!(snapshot.routes.all()[0].chain.body(), foregate_filters::filter::BodyNeed::Whole);
}

#[test]
fn a_changed_schema_is_another_route() {
    let fingerprint = |schema: &str| {
        let validate = "{ body: { schema: { file: a.json }, maxSize: 2KiB } }";
        let snapshot = compiled("changed", validate, &[("a.json", schema)]).unwrap();
        let route = &snapshot.routes.all()[0];
        assert_eq!(route.body_limit, 2 << 10);
        route.fingerprint
    };
    assert_eq!(fingerprint("{\"type\":\"object\"}"), fingerprint("{\"type\": \"object\"}"));
    assert_ne!(fingerprint("{\"type\":\"object\"}"), fingerprint("{\"type\":\"array\"}"));
}

#[test]
fn faults_of_files_are_told_where_the_policy_names_them() {
    for (validate, file, expected) in [
        (
            "{ body: { schema: { file: a.json } } }",
            ("a.json", "{\"a\":1,\n\"a\":2}"),
            "line 2: a member name that stands twice",
        ),
        ("{ body: { schema: { file: a.json } } }", ("a.json", "{"), "line 1: the text ends too soon"),
        ("{ body: { schema: { file: b.json } } }", ("a.json", "{}"), "cannot be read: No such file"),
        ("{ body: { schema: { file: a.json } } }", ("a.json", "{\"type\":\"lead\"}"), "FG0689"),
        ("{ openapi: { file: crm.yaml } }", ("crm.yaml", "openapi: 3.0.3\npaths: {\n"), "crm.yaml, line"),
        ("{ openapi: { file: crm.yaml } }", ("crm.yaml", "openapi: 2.0\n"), "FG0693"),
        ("{ body: { schema: { inline: { minLength: x } } } }", ("a.json", "{}"), "minLength is a number"),
    ] {
        let told = brief(&compiled("faults", validate, &[file]).map(drop).unwrap_err());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(expected), "{told:?}");
    }
}
