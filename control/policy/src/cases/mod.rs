//! Runs cases: each is one request or connection, and the verdict it must get.

mod connection;
pub(crate) mod credentials;
mod flow;
mod stand_in;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::fault::{Code, Path};
use foregate_filters::moment::Moment;
use foregate_filters::peer::{Peer, SpiffeId};
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;
use http::{Method, Request, request};
use serde_json::Value;

use crate::codes;
use crate::compile::typed::{self, spec};
use crate::compile::{Materials, Options, compile};
use crate::diagnostic::{Diagnostic, sort};
use crate::document::{Document, Kind};
use crate::documents::case::{self, Case, Token};
use crate::load::Sources;
use crate::node::Node;
use crate::snapshot::Snapshot;

use self::connection::Incoming;
use self::credentials::{Credentials, case_key, case_secret};
use self::flow::{Arrival, Outcome, Verdict};
use self::stand_in::StandIn;

/// Signs the tokens of cases, with keys that [`Materials`] hands out for the same issuers.
pub trait CaseTokens {
    /// A signed token, or why there can be none.
    fn token(&self, token: &Token, moment: Moment) -> Result<String, String>;
}

/// How one case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The sentence the case has for a name.
    pub name: String,
    pub file: String,
    pub line: usize,
    /// What differs from what was expected; empty where the case passed.
    pub differences: Vec<String>,
}

/// Monotonic time between two cases: more than any period of a limit, so that none meets another's counters.
const APART: Duration = Duration::from_hours(48);

/// What comes in.
#[derive(Clone, Debug)]
enum Arriving {
    Request(Box<Arrival>),
    Connection(Box<Incoming>),
}

impl Arriving {
    fn decide(self, snapshot: &Snapshot) -> Outcome {
        match self {
            Self::Request(arrival) => flow::decide(snapshot, *arrival),
            Self::Connection(incoming) => connection::decide(snapshot, *incoming),
        }
    }
}

impl Report {
    pub fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compiles the policies and runs every case against them; faults of either are all told at once.
///
/// Cases run in order, each as if `moment` were two days of monotonic time after the one before. A verdict that
/// must wait for something outside the process fails its case.
pub fn run(
    sources: &Sources,
    materials: &dyn Materials,
    options: Options,
    tokens: &dyn CaseTokens,
    moment: Moment,
) -> Result<Vec<Report>, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let cases = typed::cases(sources, &mut faults);
    let mut ready = Vec::new();
    for (index, (document, case)) in cases.iter().enumerate() {
        let later = u32::try_from(index).unwrap_or(u32::MAX);
        let moment =
            Moment { monotonic: moment.monotonic.saturating_add(APART.saturating_mul(later)), ..moment };
        ready.extend(
            prepare(sources, document, case, tokens, moment, &mut faults)
                .map(|arrival| (*document, case, arrival)),
        );
    }
    let stand_in = StandIn::new(materials);
    let snapshot = match compile(sources, &stand_in, options) {
        Ok(snapshot) if faults.is_empty() => snapshot,
        Ok(_) => {
            sort(&mut faults);
            return Err(faults);
        }
        Err(mut wrong) => {
            wrong.append(&mut faults);
            sort(&mut wrong);
            return Err(wrong);
        }
    };
    let reports = ready.into_iter().map(|(document, case, arrival)| {
        let request = case.spec.request.as_ref();
        stand_in.set(models(sources, case), request.and_then(|request| request.introspection.as_ref()));
        let connection = case.spec.connection.as_ref().and_then(|connection| connection.times);
        let mut earlier = Vec::new();
        for _ in 1..request.and_then(|request| request.times).or(connection).unwrap_or(1) {
            let outcome = arrival.clone().decide(&snapshot);
            earlier.extend(request.is_some_and(|request| request.open).then_some(outcome));
        }
        let outcome = arrival.decide(&snapshot);
        let place = document.file.position(document.root.locate(&Document::name_path()).start);
        Report {
            name: case.metadata.name.clone(),
            file: document.file.path.display().to_string(),
            line: place.line,
            differences: flow::compare(&snapshot, &case.spec.expect, &outcome),
        }
    });
    Ok(reports.collect())
}

/// Scores by model, from scores by rule: the policies say which rule asks which model.
fn models(sources: &Sources, case: &Case) -> Vec<(String, f32)> {
    let mut scores = Vec::new();
    for policy in sources.documents.iter().filter(|document| document.kind == Kind::Policy) {
        let rules = policy.root.key("spec").and_then(|spec| spec.key("enrich"));
        for rule in rules.into_iter().flat_map(Node::items) {
            let text = |key: &str| rule.key(key).and_then(Node::text);
            if let (Some(name), Some(model)) = (text("name"), text("model"))
                && let Some(score) = case.spec.scores.get(name)
            {
                scores.push((model.to_owned(), *score));
            }
        }
    }
    scores
}

fn prepare(
    sources: &Sources,
    document: &Document,
    case: &Case,
    tokens: &dyn CaseTokens,
    moment: Moment,
    faults: &mut Vec<Diagnostic>,
) -> Option<Arriving> {
    let before = faults.len();
    let mut fault = |at: &Path, code: Code, message: String| {
        faults.push(Diagnostic::at(document, at, code, message));
    };
    let expect = spec().key("expect");
    let known = |name: &&String| Reason::from_name(name).is_none();
    if let Some(name) = case.spec.expect.reason.as_ref().filter(known) {
        fault(&expect.key("reason"), codes::CASE_VALUE, format!("there is no reason `{name}`"));
    }
    let unknown = |name: &&String| Step::ALL.iter().all(|step| step.name() != name.as_str());
    if let Some(name) = case.spec.expect.step.as_ref().filter(unknown) {
        fault(&expect.key("step"), codes::CASE_VALUE, format!("there is no step `{name}`"));
    }
    let said = match (&case.spec.request, &case.spec.connection) {
        (Some(request), None) => {
            if case.spec.expect.refused {
                let message = "a request is refused with a status: write `reply`".to_owned();
                fault(&expect.key("refused"), codes::CASE_VALUE, message);
            }
            request
        }
        (None, Some(said)) => {
            for (field, _) in of_requests(&case.spec.expect).into_iter().filter(|(_, said)| *said) {
                fault(&expect.key(field), codes::CASE_VALUE, format!("a connection has no `{field}`"));
            }
            let at = spec().key("connection").key("peer");
            let peer = said.peer.as_deref().map(|id| peer(id, moment)).transpose();
            let peer = peer.map_err(|why| fault(&at, codes::CASE_VALUE, why)).ok().flatten();
            let incoming = Arriving::Connection(Box::new(Incoming::new(said, peer, moment)));
            return (faults.len() == before).then_some(incoming);
        }
        _ => {
            let message = "a case has either a `request` or a `connection`".to_owned();
            fault(&spec(), codes::CASE_VALUE, message);
            return None;
        }
    };
    let at = spec().key("request");
    let token = said.token.as_ref().map(|token| tokens.token(token, moment)).transpose();
    let token = token.map_err(|why| fault(&at.key("token"), codes::CASE_VALUE, why)).ok().flatten();
    let consumer = said.consumer.as_deref().map(|name| credentials(sources, name)).transpose();
    let consumer = consumer.map_err(|why| fault(&at.key("consumer"), codes::CASE_VALUE, why)).ok().flatten();
    let body = body(document, said.body.as_ref());
    let body = body.map_err(|why| fault(&at.key("body"), Code::FILE, why)).ok();
    let peer = said.peer.as_deref().map(|id| peer(id, moment)).transpose();
    let peer = peer.map_err(|why| fault(&at.key("peer"), codes::CASE_VALUE, why)).ok().flatten();
    let head = head(said, token.as_deref()).map_err(|why| fault(&at, codes::CASE_VALUE, why)).ok();
    if faults.len() > before {
        return None;
    }
    Some(Arriving::Request(Box::new(Arrival {
        head: head?,
        body: body?,
        consumer,
        host: said.host.as_deref().unwrap_or("localhost").to_ascii_lowercase(),
        port: said.port,
        destination: said.destination,
        tls: said.scheme.map(|scheme| scheme == case::Scheme::Https),
        source: said.source.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        peer,
        moment,
    })))
}

/// What is expected that a connection has not.
fn of_requests(expect: &case::Expect) -> [(&'static str, bool); 3] {
    [
        ("reply", expect.reply.is_some()),
        ("requestHeaders", !expect.request_headers.is_empty()),
        ("body", expect.body.is_some()),
    ]
}

/// The workload whose certificate a case takes for verified.
fn peer(id: &str, moment: Moment) -> Result<Arc<Peer>, String> {
    let id = SpiffeId::parse(id).map_err(|why| format!("`{id}` is no SPIFFE id: {why}"))?;
    Ok(Arc::new(Peer { id: Some(id), thumbprint: [0; 32], expires: moment.unix.saturating_add(APART) }))
}

/// What a consumer of this name sends.
fn credentials(sources: &Sources, name: &str) -> Result<Credentials, String> {
    let consumers = || sources.documents.iter().filter(|document| document.kind == Kind::Consumer);
    let found = consumers().find(|document| document.name.to_string() == name);
    let document = found.ok_or_else(|| format!("there is no Consumer named `{name}`"))?;
    let client = document.root.key("spec").and_then(|spec| spec.key("client"));
    let id = client.and_then(|client| client.key("id")).and_then(Node::text);
    let client = id.map(|id| (id.to_owned(), case_secret(name)));
    Ok(Credentials { key: case_key(name), client })
}

fn head(said: &case::Request, token: Option<&str>) -> Result<request::Parts, String> {
    let method = said.method.as_deref().unwrap_or("GET");
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is not a method"))?;
    let host = said.host.as_deref().unwrap_or("localhost");
    let mut builder = Request::builder().method(method).uri(&said.path).header("host", host);
    if said.body.as_ref().is_some_and(|body| !body.is_string()) && !said.headers.contains_key("content-type")
    {
        builder = builder.header("content-type", "application/json");
    }
    for (name, value) in &said.headers {
        builder = builder.header(name, value);
    }
    if let Some(token) = token {
        builder = builder.header("authorization", format!("Bearer {token}"));
    }
    let (head, ()) = builder.body(()).map_err(|error| error.to_string())?.into_parts();
    Ok(head)
}

fn body(document: &Document, said: Option<&Value>) -> Result<Bytes, String> {
    match said {
        None => Ok(Bytes::new()),
        Some(Value::String(text)) => Ok(Bytes::from(text.clone())),
        Some(Value::Object(members)) if members.len() == 1 && members.contains_key("file") => {
            let name = members.get("file").and_then(Value::as_str).ok_or("`file` must be a path")?;
            let path = document.file.folder().join(name);
            fs::read(&path).map(Bytes::from).map_err(|error| format!("{}: {error}", path.display()))
        }
        Some(json) => Ok(Bytes::from(json.to_string())),
    }
}

/// A verdict in one line, for differences.
fn describe(outcome: &Outcome) -> String {
    match &outcome.verdict {
        Verdict::Refused { reason, step, rule, detail } => {
            let rule = if rule.is_empty() { String::new() } else { format!(", rule {rule}") };
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            let status =
                if outcome.connection { String::new() } else { format!("{} ", reason.status().as_u16()) };
            format!("refused with {status}{reason} in {step}{rule}{detail}")
        }
        Verdict::Answered { status } => format!("answered with {}", status.as_u16()),
        Verdict::Forwarded { .. } if outcome.connection => "passed on".to_owned(),
        Verdict::Forwarded { .. } => "forwarded".to_owned(),
        Verdict::Waits => "the verdict waits for something outside".to_owned(),
    }
}

/// Shared names of routes.
type Name = Arc<str>;
