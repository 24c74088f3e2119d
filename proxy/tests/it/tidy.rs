//! Proves the house: arrows, sizes, purpose lines, names, and what must not occur.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use foregate_filters::spec::FilterSpec;
use foregate_filters::step::Step;
use serde_json::Value;

/// Each crate, and those of this workspace it may use.
const ARROWS: [(&str, &[&str]); 6] = [
    ("foregate-filters", &[]),
    ("foregate-policy", &["foregate-filters"]),
    ("foregate-control", &["foregate-filters", "foregate-policy"]),
    ("foregate-inference", &["foregate-filters"]),
    ("foregate", &["foregate-filters", "foregate-inference", "foregate-policy"]),
    ("foregate-benches", &["foregate", "foregate-filters", "foregate-inference", "foregate-policy"]),
];
/// What only some crates may use: the beginning of its name, and who may.
const RESERVED: [(&str, &[&str]); 6] = [
    ("pingora", &["foregate"]),
    ("hyper", &["foregate", "foregate-control", "foregate-inference"]),
    ("axum", &["foregate", "foregate-control"]),
    ("kube", &["foregate-control"]),
    ("k8s-openapi", &["foregate-control"]),
    ("tract", &["foregate-inference", "foregate-benches"]),
];
/// What decides without a socket, clock, log or runtime must not use, beginnings of names too.
const NOT_FOR_FILTERS: [&str; 8] =
    ["tokio", "async-std", "smol", "mio", "log", "tracing", "reqwest", "notify"];
/// The same, in sources.
const NOT_IN_FILTERS: [&str; 9] = [
    "Instant::now",
    "SystemTime",
    "println!",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::env",
    "thread::sleep",
    "log::",
];
/// Left for later, or left over. Split, so that this file holds none of them.
const LEFT_OVER: [&str; 7] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("db", "g!"),
    concat!("unimple", "mented!"),
    concat!("Co-Auth", "ored-By"),
];
/// Places of one machine.
const ELSEWHERE: [&str; 3] =
    [concat!("/wo", "rk/"), concat!("/tmp/", "bash_jobs"), concat!("../sha", "red/")];
/// Names that say nothing.
const EMPTY_NAMES: [&str; 7] = ["Manager", "Service", "Factory", "Helper", "Util", "Info", "Data"];
/// Lines of a file without its tests; a file is split before.
const MOST_LINES: usize = 500;
/// Words of a purpose line.
const MOST_WORDS: usize = 15;
/// Folders that hold nothing of ours.
const SKIPPED: [&str; 5] = ["target", ".git", ".venv", "node_modules", "__pycache__"];

/// A text file of the tree.
struct Text {
    /// From the top of the tree.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file below the top of the tree, sorted.
fn tree() -> Vec<Text> {
    let (mut folders, mut found) = (vec![root()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let skipped = SKIPPED.iter().any(|name| entry.file_name() == *name);
            if entry.file_type().unwrap().is_dir() {
                if !skipped {
                    folders.push(entry.path());
                }
            } else if !skipped && let Ok(text) = fs::read_to_string(entry.path()) {
                let path = entry.path().strip_prefix(root()).unwrap().display().to_string();
                found.push(Text { path, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn sources() -> Vec<Text> {
    let rust = |file: &Text| Path::new(&file.path).extension().is_some_and(|end| end == "rs");
    let sources: Vec<Text> = tree().into_iter().filter(rust).collect();
    assert!(sources.len() > 50, "the tree was not found");
    sources
}

impl Text {
    /// The lines, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The lines before the tests.
    fn without_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let all: Vec<&str> = self.text.lines().collect();
        let tests =
            all.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests {"));
        self.lines().take(tests.unwrap_or(all.len()))
    }

    /// True where all of the file is tests.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("/testing.rs")
    }

    fn at(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// A crate of the workspace.
struct Member {
    name: String,
    /// From the top of the tree, with a slash at its end.
    folder: String,
    /// Names of all it depends on, those for tests and builds included.
    dependencies: Vec<String>,
    /// The same as code calls them.
    called: Vec<String>,
}

fn crates() -> Vec<Member> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let member = |package: &Value| {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let folder = manifest.parent().unwrap().strip_prefix(root()).unwrap();
        let dependencies = package["dependencies"].as_array().unwrap().iter().map(name).collect();
        let called = |value: &Value| value["rename"].as_str().map_or_else(|| name(value), str::to_owned);
        let called = package["dependencies"].as_array().unwrap().iter().map(called).collect();
        Member { name: name(package), folder: format!("{}/", folder.display()), dependencies, called }
    };
    metadata["packages"].as_array().unwrap().iter().map(member).collect()
}

#[test]
fn arrows_point_down() {
    let mut faults = Vec::new();
    for Member { name, dependencies, .. } in crates() {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            faults.push(format!("Cargo.toml: {name} stands in no row of ARROWS"));
            continue;
        };
        for dependency in dependencies {
            let ours = dependency == "foregate" || dependency.starts_with("foregate-");
            if ours && !allowed.contains(&&*dependency) {
                faults.push(format!("{name} must not use {dependency}"));
            }
            for (reserved, users) in RESERVED {
                if dependency.starts_with(reserved) && !users.contains(&&*name) {
                    faults
                        .push(format!("{name} must not use {dependency}: only {} may", users.join(" and ")));
                }
            }
            if name == "foregate-filters"
                && NOT_FOR_FILTERS.iter().any(|banned| dependency.starts_with(banned))
            {
                faults.push(format!("{name} must not use {dependency}: filters only decide"));
            }
        }
    }
    none(&faults);
}

#[test]
fn every_dependency_is_used() {
    let sources = sources();
    let mut faults = Vec::new();
    for member in crates() {
        let here: Vec<&Text> = sources.iter().filter(|file| file.path.starts_with(&member.folder)).collect();
        for dependency in &member.called {
            let name = dependency.replace('-', "_");
            if !here.iter().any(|file| file.text.contains(&format!("{name}::"))) {
                faults.push(format!("{}Cargo.toml: `{dependency}` is used nowhere", member.folder));
            }
        }
    }
    none(&faults);
}

#[test]
fn every_crate_obeys_the_lints_of_the_workspace() {
    let mut faults = Vec::new();
    for file in tree().iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let ours = file.text.contains("name = \"foregate");
        if ours && !file.text.contains("[lints]\nworkspace = true") {
            faults.push(file.at(1, "`[lints] workspace = true` is missing"));
        }
    }
    let all = tree();
    let wants = [
        ("Cargo.toml", "unsafe_code = \"forbid\""),
        ("Cargo.toml", "pedantic = { level = \"warn\", priority = -1 }"),
        ("clippy.toml", "too-many-lines-threshold = 70"),
        ("clippy.toml", "std::time::Instant::now"),
        ("clippy.toml", "std::time::SystemTime::now"),
    ];
    for (path, wanted) in wants {
        if !all.iter().any(|file| file.path == path && file.text.contains(wanted)) {
            faults.push(format!("{path}:1: `{wanted}` is missing"));
        }
    }
    none(&faults);
}

#[test]
fn the_first_line_of_a_file_says_its_purpose() {
    let mut faults = Vec::new();
    for file in sources() {
        let words = file.text.lines().next().unwrap_or_default().strip_prefix("//! ");
        match words.map(|words| words.split_whitespace().count()) {
            Some(1..=MOST_WORDS) => {}
            Some(count) => faults.push(file.at(1, format_args!("{count} words, at most {MOST_WORDS}"))),
            None => faults.push(file.at(1, "is not `//! ` and the purpose of the file")),
        }
    }
    none(&faults);
}

#[test]
fn files_are_small() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test()) {
        let lines = file.without_tests().count();
        if lines >= MOST_LINES {
            faults
                .push(file.at(lines, format_args!("{lines} lines without tests: split before {MOST_LINES}")));
        }
    }
    none(&faults);
}

#[test]
fn nothing_is_left_over_or_belongs_elsewhere() {
    let word = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let mut faults = Vec::new();
    for file in tree().iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.lines() {
            for needle in LEFT_OVER.iter().chain(&ELSEWHERE) {
                let whole = line.match_indices(needle).any(|(at, found)| {
                    let (before, after) = (&line[..at], &line[at + found.len()..]);
                    let open = found.ends_with(['!', '/']);
                    !word(before.chars().next_back()) && (open || !word(after.chars().next()))
                });
                if whole {
                    faults.push(file.at(number, format_args!("`{needle}` does not belong here")));
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn names_say_something_and_imports_name_what_they_import() {
    let mut faults = Vec::new();
    for file in sources() {
        for (number, line) in file.lines() {
            let mut words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            if line.trim_start().starts_with("use ") && line.contains("::*") {
                faults.push(file.at(number, "a glob import"));
            }
            let is_type = words.by_ref().any(|word| ["struct", "enum", "trait"].contains(&word));
            let name = words.next().unwrap_or_default();
            let declares = line.trim_start().starts_with(['p', 's', 'e', 't']) && line.contains(name);
            if let Some(end) = EMPTY_NAMES.iter().find(|end| name.ends_with(*end) && is_type && declares) {
                faults.push(file.at(number, format_args!("`{name}`: {end} says nothing")));
            }
            if line.contains(concat!("fn g", "et_")) {
                faults.push(file.at(number, "a name that begins with a needless `get`"));
            }
        }
    }
    none(&faults);
}

#[test]
fn filters_know_no_socket_clock_log_or_runtime() {
    let mut faults = Vec::new();
    for file in sources().iter().filter(|file| file.path.starts_with("filters/src/") && !file.is_test()) {
        for (number, line) in file.without_tests() {
            if let Some(found) = NOT_IN_FILTERS.iter().find(|banned| line.contains(*banned)) {
                faults.push(file.at(number, format_args!("`{found}` in a filter")));
            }
        }
    }
    none(&faults);
}

#[test]
fn only_the_gateway_forwards_a_request() {
    let mut faults = Vec::new();
    let mut forwards = false;
    for file in sources().iter().filter(|file| file.path.starts_with("proxy/src/")) {
        for (number, line) in file.lines() {
            if ["dispatch::send", "dispatch::{send"].iter().any(|call| line.contains(call)) {
                if file.path == "proxy/src/gateway.rs" {
                    forwards = true;
                } else {
                    faults.push(file.at(number, "forwards a request; only gateway.rs may"));
                }
            }
        }
    }
    none(&faults);
    assert!(forwards, "proxy/src/gateway.rs forwards nothing");
}

/// The module that holds a filter, and a word of the cases that show it at work. A new variant needs a row here,
/// which the compiler asks for.
const fn home(filter: FilterSpec) -> (&'static str, &'static str) {
    match filter {
        FilterSpec::Addresses => ("addresses", "AddressDenied"),
        FilterSpec::Cors => ("cors", "OriginDenied"),
        FilterSpec::Preflight => ("preflight", "OriginDenied"),
        FilterSpec::FloodLimit | FilterSpec::RateLimit | FilterSpec::ScoreLimit => {
            ("rate_limit", "RateLimited")
        }
        FilterSpec::BodyLimit => ("rate_limit", "records: 397"),
        FilterSpec::Jwt => ("jwt", "TokenInvalid"),
        FilterSpec::Introspection => ("introspection", "IntrospectionUnavailable"),
        FilterSpec::ApiKey => ("api_key", "KeyInvalid"),
        FilterSpec::Identified => ("identified", "CredentialsMissing"),
        FilterSpec::Authorize | FilterSpec::Decide => ("authorize", "AccessDenied"),
        FilterSpec::Fairness => ("fairness", "fairness"),
        FilterSpec::ValidateHead => ("validate", "ParameterInvalid"),
        FilterSpec::ValidateBody => ("validate", "SchemaViolation"),
        FilterSpec::OrgQuota => ("org_quota", "rule: orgQuota"),
        FilterSpec::Enrich => ("enrich", "x-lead-score"),
        FilterSpec::Choose => ("choose", "quotes-fast"),
        FilterSpec::Inject => ("inject", "FaultInjected"),
        FilterSpec::Idempotency => ("idempotency", "IdempotencyKeyMissing"),
    }
}

#[test]
fn every_filter_is_one_module_with_tests_and_a_case() {
    let all = tree();
    let mut faults = Vec::new();
    for filter in FilterSpec::ALL {
        let (module, word) = home(filter);
        let (file, folder) = (format!("filters/src/{module}.rs"), format!("filters/src/{module}/"));
        let here = || all.iter().filter(|text| text.path == file || text.path.starts_with(&folder));
        for wanted in ["impl Filter for ", "#[test]"] {
            if !here().any(|text| text.text.contains(wanted)) {
                faults.push(format!("{file}:1: no `{wanted}` for {filter:?}"));
            }
        }
        let mut cases = all.iter().filter(|file| file.path.ends_with(".cases.yaml"));
        if !cases.any(|file| file.path.starts_with("policies/") && file.text.contains(word)) {
            faults.push(format!("policies: no case of {filter:?} with the word {word}"));
        }
    }
    none(&faults);
}

#[test]
fn the_order_of_filters_is_the_order_of_steps() {
    let text = fs::read_to_string(root().join("filters/src/spec.rs")).unwrap();
    let (_, variants) = text.split_once("pub enum FilterSpec {").unwrap();
    let (variants, _) = variants.split_once("\n}").unwrap();
    let written: Vec<&str> =
        variants.lines().map(str::trim).filter_map(|line| line.strip_suffix(',')).collect();
    let listed: Vec<String> = FilterSpec::ALL.iter().map(|filter| format!("{filter:?}")).collect();
    assert_eq!(written, listed, "filters/src/spec.rs: the variants and `ALL` differ");
    let steps: Vec<Step> = FilterSpec::ALL.into_iter().map(FilterSpec::step).collect();
    assert!(steps.is_sorted(), "filters/src/spec.rs: {steps:?}");
}

#[test]
fn the_documents_are_short_and_name_every_step() {
    let read =
        |name: &str| fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let lines = read("README.md").lines().count();
    assert!(lines < 200, "README.md:{lines}: has {lines} lines, and must stay under 200");
    let architecture = read("ARCHITECTURE.md");
    let missing: Vec<_> = Step::ALL.iter().filter(|step| !architecture.contains(&step.to_string())).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md:1: does not name the steps {missing:?}");
}

#[test]
fn metrics_and_their_list_agree() {
    let list = fs::read_to_string(root().join("proxy/METRICS.md")).unwrap();
    let rows = list.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let rows: BTreeSet<&str> = rows.filter(|name| !name.contains("istio") && name.contains('_')).collect();
    let ours = |name: &&str| ["foregate_", "http_", "process_"].iter().any(|start| name.starts_with(start));
    // A metric is a literal of its own; what is no metric is a label.
    let labels = ["foregate_upstream", "http_request_method", "http_response_status_code", "http_route"];
    let mut faults = Vec::new();
    let mut registered = BTreeSet::new();
    for file in sources().iter().filter(|file| file.path.starts_with("proxy/src/") && !file.is_test()) {
        for (line, text) in file.without_tests() {
            let literals = text.split('"').skip(1).step_by(2);
            let word =
                |it: &&str| it.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'2');
            for name in literals.filter(ours).filter(word).filter(|name| !labels.contains(name)) {
                // The registry adds unit and kind to the names that it is given.
                let whole = ["", "_total", "_seconds", "_info"].map(|suffix| format!("{name}{suffix}"));
                match whole.iter().find(|whole| rows.contains(&***whole)) {
                    Some(whole) => drop(registered.insert(whole.clone())),
                    None => faults.push(file.at(line, format_args!("{name} is not in proxy/METRICS.md"))),
                }
            }
        }
    }
    let unknown = rows.iter().filter(|name| ours(name) && !registered.contains(**name));
    faults.extend(unknown.map(|name| format!("proxy/METRICS.md: nothing registers {name}")));
    assert!(registered.len() > 100, "the metrics were not found");
    none(&faults);
}
