//! Checks enrichment specs and builds their rules.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::bands::Bands;
use super::beside::{Explain, ExplainSpec, Place, Places, Ranking};
use super::{OnError, Rule, Set, Spec};
use crate::edits::is_reserved;
use crate::fault::{Code, Fault, Path};
use crate::resources::Resources;
use crate::score::Offer;

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

/// Two rules must not share a name, and no two places a header or a field.
fn check_unique(spec: &Spec, earlier: &[Spec], at: &Path, faults: &mut Vec<Fault>) {
    if earlier.iter().any(|other| other.name == spec.name) {
        let message = format!("there is already an enrichment called `{}`", spec.name);
        faults.push(Fault::new(Code::CONFLICT, at.key("name"), message));
    }
    let mut taken: Vec<Written<'_>> = earlier.iter().flat_map(|other| written(&other.set)).collect();
    for place in written(&spec.set) {
        let same =
            |other: &Written<'_>| other.key == place.key && other.text.eq_ignore_ascii_case(place.text);
        if taken.iter().any(same) {
            let what = if place.key == HEADER { "header" } else { "field" };
            let message = format!("another enrichment sets this {what}");
            faults.push(Fault::new(Code::CONFLICT, place.at(&at.key("set")), message));
        }
        taken.push(place);
    }
}

const HEADER: &str = "header";
const BODY: &str = "body";

/// A header or a field that a rule sets.
struct Written<'a> {
    /// Empty for the score itself.
    section: &'static str,
    key: &'static str,
    text: &'a str,
}

impl Written<'_> {
    fn at(&self, set: &Path) -> Path {
        if self.section.is_empty() { set.key(self.key) } else { set.key(self.section).key(self.key) }
    }
}

/// Every header and field of a rule.
fn written(set: &Set) -> Vec<Written<'_>> {
    let Set { header, body, class, ranking, band, reasons } = set;
    let places = [
        ("", header.as_ref(), body.as_ref()),
        (
            "class",
            class.as_ref().and_then(|it| it.header.as_ref()),
            class.as_ref().and_then(|it| it.body.as_ref()),
        ),
        (
            "ranking",
            ranking.as_ref().and_then(|it| it.header.as_ref()),
            ranking.as_ref().and_then(|it| it.body.as_ref()),
        ),
        (
            "band",
            band.as_ref().and_then(|it| it.header.as_ref()),
            band.as_ref().and_then(|it| it.body.as_ref()),
        ),
        ("reasons", None, reasons.as_ref().map(|it| &it.body)),
    ];
    places
        .into_iter()
        .flat_map(|(section, header, body)| [(section, HEADER, header), (section, BODY, body)])
        .filter_map(|(section, key, text)| Some(Written { section, key, text: text? }))
        .collect()
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
    let headers = spec.set.header.as_ref().and_then(|header| headers(header, &set.key(HEADER), faults));
    let field = spec.set.body.as_ref().and_then(|pointer| field(pointer, &set.key(BODY), faults));
    let mut reserved: Vec<Box<str>> = field.iter().map(|name| name.as_str().into()).collect();
    let places = places(spec, at, &mut reserved, faults);
    let scorer = resources.scorer(&spec.model, &at.key("model")).map_err(|fault| faults.push(fault)).ok()?;
    check_offer(spec, scorer.offer(), at, faults);
    if faults.len() > before {
        return None;
    }
    Some(Rule {
        name: Arc::from(spec.name.as_str()),
        model: Arc::from(scorer.model()),
        version: Arc::from(scorer.version()),
        told: told(spec, scorer.offer()),
        scorer,
        deadline: spec.deadline,
        fallback: spec.default.filter(|_| spec.on_error == OnError::Continue),
        on_reserved: spec.on_reserved,
        headers,
        member: field.map(|name| member(&name)),
        reserved: reserved.into(),
        places,
    })
}

/// What there is to read of a rule for those who explain decisions.
fn told(spec: &Spec, offer: Option<Offer>) -> Vec<&'static str> {
    let classes = offer.is_some_and(|offer| offer.classes);
    let beside = [
        ("class", classes || spec.set.class.is_some()),
        ("band", spec.set.band.is_some()),
        ("reasons", spec.explain.is_some()),
    ];
    let beside = beside.into_iter().filter(|(_, there)| *there).map(|(field, _)| field);
    ["score", "model", "version"].into_iter().chain(beside).collect()
}

/// Where goes what is no score; `None` where nothing does.
fn places(
    spec: &Spec,
    at: &Path,
    reserved: &mut Vec<Box<str>>,
    faults: &mut Vec<Fault>,
) -> Option<Box<Places>> {
    let (Set { class, ranking, band, reasons, .. }, set) = (&spec.set, at.key("set"));
    let explain = spec.explain.as_ref().map(|explain| self::explain(explain, &at.key("explain"), faults));
    if class.is_none() && ranking.is_none() && band.is_none() && reasons.is_none() && explain.is_none() {
        return None;
    }
    let mut place =
        |section: &str, header: Option<&String>, body: Option<&String>, faults: &mut Vec<Fault>| {
            let at = set.key(section);
            let name = body.and_then(|pointer| field(pointer, &at.key(BODY), faults));
            reserved.extend(name.iter().map(|name| Box::from(name.as_str())));
            Place {
                header: header.and_then(|name| own_header(name, &at.key(HEADER), faults)),
                member: name.map(|name| member(&name)),
            }
        };
    let somewhere = |section: &str, found: bool, faults: &mut Vec<Fault>| {
        if !found {
            let fault =
                Fault::new(Code::CONFLICT, set.key(section), "neither `body` nor `header`: it goes nowhere");
            faults.push(fault.help("name a field of the record or a header"));
        }
    };
    let class = class.as_ref().map(|it| {
        somewhere("class", it.body.is_some() || it.header.is_some(), faults);
        place("class", it.header.as_ref(), it.body.as_ref(), faults)
    });
    let ranking = ranking.as_ref().map(|it| {
        somewhere("ranking", it.body.is_some() || it.header.is_some(), faults);
        let place = place("ranking", it.header.as_ref(), it.body.as_ref(), faults);
        let count = it.count.map_or(usize::MAX, usize::from);
        Ranking { place, count, scores: it.scores, as_text: it.as_text }
    });
    let band = band.as_ref().and_then(|it| {
        let place = place("band", it.header.as_ref(), it.body.as_ref(), faults);
        Some((Bands::build(&it.steps, &set.key("band").key("steps"), faults)?, place))
    });
    let reasons = reasons.as_ref().and_then(|it| {
        if spec.explain.is_none() {
            let fault = Fault::new(Code::CONFLICT, set.key("reasons"), "no request is explained");
            faults.push(fault.help("say which: explain: { percent: 5 }"));
        }
        Some((place("reasons", None, Some(&it.body), faults).member?, it.as_text))
    });
    Some(Box::new(Places { class, ranking, band, reasons, explain }))
}

fn explain(spec: &ExplainSpec, at: &Path, faults: &mut Vec<Fault>) -> Explain {
    if spec.percent.is_none() && spec.on_request.is_none() {
        let fault =
            Fault::new(Code::CONFLICT, at.clone(), "neither `percent` nor `onRequest`: nothing is explained");
        faults.push(fault.help("write percent: 5, or the name of a header"));
    }
    if spec.percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
        faults.push(Fault::new(Code::VALUE, at.key("percent"), "percent must be from 1 to 100"));
    }
    let on_request = spec.on_request.as_ref().and_then(|name| {
        let parsed = HeaderName::try_from(name.as_str()).ok();
        if parsed.is_none() {
            let message = format!("`{name}` is not a header name");
            faults.push(Fault::new(Code::VALUE, at.key("onRequest"), message));
        }
        parsed
    });
    Explain { percent: spec.percent.unwrap_or_default(), on_request }
}

/// Refuses what the model is known not to say.
fn check_offer(spec: &Spec, offer: Option<Offer>, at: &Path, faults: &mut Vec<Fault>) {
    let Some(offer) = offer else { return };
    let (Set { class, ranking, .. }, set) = (&spec.set, at.key("set"));
    let mut fault = |at: Path, message: String, help: &str| {
        faults.push(Fault::new(Code::MODEL_ANSWER, at, message).help(help));
    };
    let model = &spec.model;
    if class.is_some() && !offer.classes {
        fault(
            set.key("class"),
            format!("the model {model} has no classes"),
            "its bundle has `labels` where it has",
        );
    }
    if let Some(ranking) = ranking {
        if offer.items == 0 {
            let help = "its bundle has `items` where it does";
            fault(set.key("ranking"), format!("the model {model} ranks nothing"), help);
        } else if ranking.count.is_some_and(|count| count == 0 || usize::from(count) > offer.items) {
            let message = format!("count must be from 1 to the {} items that the model tells", offer.items);
            fault(set.key("ranking").key("count"), message, "`items.k` of the bundle says how many");
        }
    }
    if spec.explain.is_some() && !offer.reasons {
        let help = "reasons are exact for tree ensembles and linear models, and given for no other";
        fault(at.key("explain"), format!("the model {model} gives no reasons"), help);
    }
}

/// A member as JSON text, with quotes and colon.
fn member(name: &str) -> Box<str> {
    format!("{}:", serde_json::Value::from(name)).into()
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

/// The header of the score, and the one of its status.
fn headers(name: &str, at: &Path, faults: &mut Vec<Fault>) -> Option<(HeaderName, HeaderName)> {
    let score = own_header(name, at, faults)?;
    let status = HeaderName::try_from(format!("{name}-status"));
    let status = status.map_err(|_| faults.push(not_a_header(name, at)));
    Some((score, status.ok()?))
}

fn own_header(name: &str, at: &Path, faults: &mut Vec<Fault>) -> Option<HeaderName> {
    let Ok(header) = HeaderName::try_from(name) else {
        faults.push(not_a_header(name, at));
        return None;
    };
    if is_reserved(&header) {
        let fault =
            Fault::new(Code::VALUE, at.clone(), format!("the header `{header}` cannot carry a score"));
        faults.push(fault.help("use a name of your own, such as `x-lead-score`"));
        return None;
    }
    Some(header)
}

fn not_a_header(name: &str, at: &Path) -> Fault {
    Fault::new(Code::VALUE, at.clone(), format!("`{name}` is not a header name"))
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
