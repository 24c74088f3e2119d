//! Checks enrichment specs and builds their rules.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{OnError, Rule, Spec};
use crate::edits::is_reserved;
use crate::fault::{Code, Fault, Path};
use crate::resources::Resources;

/// A score that takes longer than this is not in-line any more.
const LONGEST_DEADLINE: Duration = Duration::from_secs(1);

/// Words of CEL that cannot be names (language definition, "Syntax").
const CEL_RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Builds every rule, or tells everything that is wrong.
pub(super) fn rules(specs: &[Spec], at: &Path, resources: &dyn Resources) -> Result<Vec<Rule>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut rules = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let at = at.index(index);
        let (earlier, _) = specs.split_at(index);
        check_unique(spec, earlier, &at, &mut faults);
        rules.extend(rule(spec, &at, resources, &mut faults));
    }
    if faults.is_empty() { Ok(rules) } else { Err(faults) }
}

/// Two rules must not share a name, a header or a field.
fn check_unique(spec: &Spec, earlier: &[Spec], at: &Path, faults: &mut Vec<Fault>) {
    if earlier.iter().any(|other| other.name == spec.name) {
        let message = format!("there is already an enrichment called `{}`", spec.name);
        faults.push(Fault::new(Code::CONFLICT, at.key("name"), message));
    }
    let same = |mine: &Option<String>, theirs: &Option<String>| {
        mine.as_ref().zip(theirs.as_ref()).is_some_and(|(mine, theirs)| mine.eq_ignore_ascii_case(theirs))
    };
    if earlier.iter().any(|other| same(&spec.set.header, &other.set.header)) {
        let message = "another enrichment sets this header";
        faults.push(Fault::new(Code::CONFLICT, at.key("set").key("header"), message));
    }
    if earlier.iter().any(|other| same(&spec.set.body, &other.set.body)) {
        let message = "another enrichment sets this field";
        faults.push(Fault::new(Code::CONFLICT, at.key("set").key("body"), message));
    }
}

fn rule(spec: &Spec, at: &Path, resources: &dyn Resources, faults: &mut Vec<Fault>) -> Option<Rule> {
    let before = faults.len();
    check_name(&spec.name, &at.key("name"), faults);
    if spec.deadline.0.is_zero() || spec.deadline.0 > LONGEST_DEADLINE {
        let fault = Fault::new(Code::VALUE, at.key("deadline"), "the deadline must be over 0 and at most 1s");
        faults.push(fault.help("a score in-line takes well under 5ms"));
    }
    check_default(spec, at, faults);
    let set = at.key("set");
    let headers = spec.set.header.as_ref().and_then(|header| headers(header, &set.key("header"), faults));
    let field = spec.set.body.as_ref().and_then(|pointer| field(pointer, &set.key("body"), faults));
    let scorer = resources.scorer(&spec.model, &at.key("model")).map_err(|fault| faults.push(fault)).ok()?;
    if faults.len() > before {
        return None;
    }
    Some(Rule {
        name: Arc::from(spec.name.as_str()),
        model: Arc::from(scorer.model()),
        version: Arc::from(scorer.version()),
        scorer,
        deadline: spec.deadline,
        fallback: spec.default.filter(|_| spec.on_error == OnError::Continue),
        on_reserved: spec.on_reserved,
        headers,
        member: field.as_ref().map(|name| format!("{}:", serde_json::Value::from(name.as_str())).into()),
        reserved: field.into_iter().map(String::into_boxed_str).collect(),
    })
}

fn check_name(name: &str, at: &Path, faults: &mut Vec<Fault>) {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let goes_on = bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !starts || !goes_on || CEL_RESERVED.contains(&name) {
        let message = format!("`{name}` cannot be used in expressions");
        let fault = Fault::new(Code::VALUE, at.clone(), message);
        faults.push(fault.help("letters, digits and `_`, not starting with a digit, no word of CEL"));
    }
}

fn check_default(spec: &Spec, at: &Path, faults: &mut Vec<Fault>) {
    match (spec.on_error, spec.default) {
        (OnError::Continue, None) => {
            let fault = Fault::new(Code::CONFLICT, at.key("onError"), "`continue` needs a `default` score");
            faults.push(fault.help("add `default: 0.0` or another score that is safe to act upon"));
        }
        (OnError::Reject, Some(_)) => {
            let message = "a default has no effect with `onError: reject`";
            faults.push(Fault::new(Code::CONFLICT, at.key("default"), message));
        }
        (OnError::Continue, Some(default)) if !default.is_finite() => {
            faults.push(Fault::new(Code::VALUE, at.key("default"), "the default must be a finite number"));
        }
        _ => {}
    }
}

fn headers(name: &str, at: &Path, faults: &mut Vec<Fault>) -> Option<(HeaderName, HeaderName)> {
    let parsed = HeaderName::try_from(name).ok().zip(HeaderName::try_from(format!("{name}-status")).ok());
    let Some((score, status)) = parsed else {
        faults.push(Fault::new(Code::VALUE, at.clone(), format!("`{name}` is not a header name")));
        return None;
    };
    if is_reserved(&score) {
        let fault = Fault::new(Code::VALUE, at.clone(), format!("the header `{score}` cannot carry a score"));
        faults.push(fault.help("use a name of your own, such as `x-lead-score`"));
        return None;
    }
    Some((score, status))
}

/// The member name that a pointer of one level means (RFC 6901, section 3 and 4).
fn field(pointer: &str, at: &Path, faults: &mut Vec<Fault>) -> Option<String> {
    let name =
        pointer.strip_prefix('/').filter(|name| !name.is_empty() && !name.contains('/')).and_then(|name| {
            let plain = name.replace("~0", "").replace("~1", "");
            (!plain.contains('~')).then(|| name.replace("~1", "/").replace("~0", "~"))
        });
    if name.is_none() {
        let fault = Fault::new(Code::VALUE, at.clone(), format!("`{pointer}` is not a field of a record"));
        faults.push(fault.help("a JSON pointer of one level, such as `/Lead_Score__c`"));
    }
    name
}
