//! The names an expression can read, and where each value comes from.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use cel::common::ast::{Expr, IdedExpr, SelectExpr};
use http::HeaderMap;
use http::header::HOST;
use http::uri::Uri;

use super::body::{self, BODY};
use super::compile::{Compiler, Evaluated, Frame, Kind, Node};
use super::syntax::Syntax;
use super::types::Type;
use super::value::{List, Map, Value};
use super::{EvaluationError, Reads, Scope};
use crate::consumer::Consumer;
use crate::context::{Beside, ScoreFact};
use crate::fault::{Code, Fault, closest};
use crate::peer::SpiffeId;
use crate::principal::Principal;
use crate::timestamp::Timestamp;

/// Names that stand before a dot.
pub(super) const ROOTS: [&str; 8] =
    ["request", "source", "destination", "peer", "jwt", "consumer", "enrich", "route"];
const REQUEST: [&str; 7] = ["method", "path", "query", "host", "scheme", "headers", "time"];
const SOURCE: [&str; 3] = ["address", "peer", "tls"];
const DESTINATION: [&str; 1] = ["port"];
const PEER: [&str; 5] = ["id", "trustDomain", "path", "namespace", "serviceAccount"];
const CONSUMER: [&str; 3] = ["name", "groups", "metadata"];
const JWT: [&str; 6] = ["issuer", "subject", "scopes", "audiences", "expires", "claims"];
/// Claims in common use that resemble names of ours (RFC 7519, section 4.1; RFC 8693, section 4.2).
const CLAIMS: [&str; 8] = ["iss", "sub", "aud", "exp", "scope", "scp", "client_id", "act"];
const ROUTE: [&str; 1] = ["name"];
const ENRICH: [&str; 12] =
    ["score", "min", "max", "count", "scores", "ok", "model", "version", "class", "classes", "band", "bands"];

impl Compiler<'_> {
    /// A name that stands alone: the variable of a macro, or a fault.
    pub(super) fn ident(&mut self, name: &str, range: Range<usize>) -> Option<Node> {
        let position = self.locals.iter().rev().position(|(local, _)| local == name);
        if let Some(up) = position {
            let ty = self.locals.iter().rev().nth(up).map_or(Type::Dyn, |(_, ty)| ty.clone());
            let kind = Kind::thunk(move |frame| {
                let mut local = frame.local;
                for _ in 0..up {
                    local = local.and_then(|local| local.outer);
                }
                local.map(|local| local.value.clone()).ok_or(EvaluationError::Index(0))
            });
            return Some(Node { kind, ty, range });
        }
        if ROOTS.contains(&name) {
            let help = Some(self.fields_of(name));
            return self.fault(
                Code::EXPRESSION_TYPE,
                range,
                format!("{name} is not a value by itself"),
                help,
            );
        }
        let known = ROOTS.into_iter().chain(self.locals.iter().map(|(local, _)| local.as_str()));
        let help = match closest(name, known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known names are {}; text stands in quotes", ROOTS.join(", ")),
        };
        self.fault(Code::EXPRESSION_NAME, range, format!("unknown name {name}"), Some(help))
    }

    /// True where a selection starts with a name of the environment.
    pub(super) fn names_field(&self, select: &SelectExpr) -> bool {
        let root = |expr: &Expr, known: &[&str]| {
            matches!(expr, Expr::Ident(name) if known.contains(&name.as_str())
                && self.locals.iter().all(|(local, _)| local != name))
        };
        match &select.operand.expr {
            Expr::Select(inner) => {
                let body = || inner.field == "body" && root(&inner.operand.expr, &["request"]);
                !inner.test && (root(&inner.operand.expr, &["enrich"]) || body())
            }
            operand => root(operand, &ROOTS),
        }
    }

    /// The value of a selection for which [`Self::names_field`] is true.
    pub(super) fn field(&mut self, syntax: &Syntax, expr: &IdedExpr, select: &SelectExpr) -> Option<Node> {
        let range = syntax.range(expr);
        let name = select.field.as_str();
        let spot = syntax.field(expr, name);
        match &select.operand.expr {
            Expr::Select(inner) if inner.operand.expr == Expr::Ident("request".to_owned()) => {
                self.body(name, range, spot)
            }
            Expr::Select(inner) => {
                self.rule(&inner.field, &syntax.field(&select.operand, &inner.field))?;
                self.enrich(&inner.field, name, range, spot)
            }
            Expr::Ident(root) => match root.as_str() {
                "request" => self.request(name, range, spot),
                "source" => self.source(name, range, spot),
                "destination" => self.destination(name, range, spot),
                "peer" => self.peer(name, range, spot),
                "jwt" => self.jwt(name, range),
                "consumer" => self.consumer(name, range, spot),
                "route" => self.route(name, range, spot),
                _ => {
                    self.rule(name, &spot)?;
                    let help =
                        Some(format!("it has enrich.{name}.{}", ENRICH.join(&format!(", enrich.{name}."))));
                    let message = format!("enrich.{name} is not a value by itself");
                    self.fault(Code::EXPRESSION_TYPE, range, message, help)
                }
            },
            _ => self.fault(Code::EXPRESSION_TYPE, range, "this is not a field", None),
        }
    }

    fn fields_of(&self, root: &str) -> String {
        let fields: Vec<&str> = match root {
            "request" => REQUEST.to_vec(),
            "source" => SOURCE.to_vec(),
            "destination" => DESTINATION.to_vec(),
            "peer" => PEER.to_vec(),
            "consumer" => CONSUMER.to_vec(),
            "route" => ROUTE.to_vec(),
            "jwt" => JWT.to_vec(),
            _ => self.environment.rules.iter().map(|rule| rule.name.as_str()).collect(),
        };
        if fields.is_empty() {
            return "the policy has no enrich rule".to_owned();
        }
        format!("it has {root}.{}", fields.join(&format!(", {root}.")))
    }

    fn unknown(&mut self, root: &str, name: &str, fields: &[&str], spot: Range<usize>) -> Option<Node> {
        let help = match closest(name, fields.iter().copied()) {
            Some(near) => format!("did you mean {root}.{near}?"),
            None => format!("it has {root}.{}", fields.join(&format!(", {root}."))),
        };
        self.fault(Code::EXPRESSION_NAME, spot, format!("unknown field {root}.{name}"), Some(help))
    }

    fn request(&mut self, name: &str, range: Range<usize>, spot: Range<usize>) -> Option<Node> {
        self.reads |= Reads::REQUEST;
        let kind = match name {
            "method" => Kind::Text(|scope| Cow::Borrowed(scope.head.method.as_str())),
            "path" => Kind::Text(|scope| Cow::Borrowed(scope.head.uri.path())),
            "query" => Kind::Text(|scope| Cow::Borrowed(scope.head.uri.query().unwrap_or_default())),
            "host" => Kind::Text(|scope| host(&scope.head.uri, &scope.head.headers)),
            "scheme" => Kind::Text(|scope| {
                let by_connection = if scope.ctx.client.tls { "https" } else { "http" };
                Cow::Borrowed(scope.head.uri.scheme_str().unwrap_or(by_connection))
            }),
            "time" => {
                let kind =
                    Kind::thunk(|frame| Ok(Value::Time(Timestamp::from_unix(frame.scope.ctx.moment.unix))));
                return Some(Node { kind, ty: Type::Timestamp, range });
            }
            "body" => {
                let help = format!("it has request.body.{}", BODY.join(", request.body."));
                let message = "request.body is not a value by itself";
                return self.fault(Code::EXPRESSION_TYPE, range, message, Some(help));
            }
            "headers" => return Some(Node { kind: Kind::Headers, ty: Type::map(Type::String), range }),
            _ => return self.unknown("request", name, &REQUEST, spot),
        };
        Some(Node { kind, ty: Type::String, range })
    }

    fn body(&mut self, name: &str, range: Range<usize>, spot: Range<usize>) -> Option<Node> {
        self.reads |= Reads::BODY;
        if !self.environment.body {
            let help = "limits can read it, as the cost of a request";
            let message = "request.body cannot be read here: the body is not there yet";
            return self.fault(Code::EXPRESSION_NAME, range, message, Some(help.to_owned()));
        }
        let read = match name {
            "size" => body::size,
            "records" => body::records,
            _ => return self.unknown("request.body", name, &BODY, spot),
        };
        let kind = Kind::thunk(move |frame| read(&frame.scope).map(Value::Int));
        Some(Node { kind, ty: Type::Int, range })
    }

    fn source(&mut self, name: &str, range: Range<usize>, spot: Range<usize>) -> Option<Node> {
        self.reads |= Reads::SOURCE;
        let (kind, ty) = match name {
            "address" => (Kind::Address(|scope| scope.ctx.client.address.to_canonical()), Type::String),
            "peer" => (Kind::Address(|scope| scope.ctx.client.peer.ip().to_canonical()), Type::String),
            "tls" => (Kind::test(|frame| Ok(frame.scope.ctx.client.tls)), Type::Bool),
            _ => return self.unknown("source", name, &SOURCE, spot),
        };
        Some(Node { kind, ty, range })
    }

    /// Where a connection meant to go that the kernel redirected to us.
    fn destination(&mut self, name: &str, range: Range<usize>, spot: Range<usize>) -> Option<Node> {
        self.reads |= Reads::SOURCE;
        if name != "port" {
            return self.unknown("destination", name, &DESTINATION, spot);
        }
        let kind = Kind::thunk(|frame| {
            let port = frame.scope.ctx.client.destination.map(|destination| destination.port());
            port.map(|port| Value::Int(port.into())).ok_or(EvaluationError::NotCaptured)
        });
        Some(Node { kind, ty: Type::Int, range })
    }

    fn route(&mut self, name: &str, range: Range<usize>, spot: Range<usize>) -> Option<Node> {
        match name {
            "name" => {
                let kind = Kind::Text(|scope| Cow::Borrowed(&scope.ctx.route));
                Some(Node { kind, ty: Type::String, range })
            }
            _ => self.unknown("route", name, &ROUTE, spot),
        }
    }

    fn peer(&mut self, name: &str, range: Range<usize>, spot: Range<usize>) -> Option<Node> {
        self.reads |= Reads::SOURCE;
        let read: for<'a> fn(&'a SpiffeId) -> Option<&'a str> = match name {
            "id" => |id| Some(id.as_str()),
            "trustDomain" => |id| Some(id.trust_domain()),
            "path" => |id| Some(id.path()),
            "namespace" => SpiffeId::namespace,
            "serviceAccount" => SpiffeId::service_account,
            _ => return self.unknown("peer", name, &PEER, spot),
        };
        let kind = Kind::thunk(move |frame| {
            let id = frame.scope.ctx.peer.as_ref().and_then(|peer| peer.id.as_ref());
            id.and_then(read).map(Value::text).ok_or(EvaluationError::NoPeer)
        });
        Some(Node { kind, ty: Type::String, range })
    }

    fn consumer(&mut self, name: &str, range: Range<usize>, spot: Range<usize>) -> Option<Node> {
        self.reads |= Reads::PRINCIPAL;
        if !self.environment.consumer {
            let help = "add an apiKey section to the policy; without one no key is verified";
            let message = "consumer cannot be read: no API key is accepted here";
            return self.fault(Code::EXPRESSION_NAME, range, message, Some(help.to_owned()));
        }
        let (ty, read): (_, for<'a> fn(&'a Consumer) -> Value<'a>) = match name {
            "name" => (Type::String, |consumer| Value::text(&consumer.name)),
            "groups" => (Type::list(Type::String), |consumer| Value::List(List::Texts(&consumer.groups))),
            "metadata" => (Type::map(Type::Dyn), |consumer| Value::Map(Map::Json(&consumer.metadata))),
            _ => return self.unknown("consumer", name, &CONSUMER, spot),
        };
        let kind = Kind::thunk(move |frame| {
            frame.scope.ctx.consumer.as_deref().map(read).ok_or(EvaluationError::NoConsumer)
        });
        Some(Node { kind, ty, range })
    }

    /// True for fields that some requests have and others do not, so that `has()` may ask for them.
    pub(super) fn optional_field(select: &SelectExpr) -> bool {
        matches!(&select.operand.expr, Expr::Ident(root) if matches!(root.as_str(), "destination" | "peer" | "consumer" | "jwt"))
    }

    fn jwt(&mut self, name: &str, range: Range<usize>) -> Option<Node> {
        self.reads |= Reads::PRINCIPAL;
        if !self.environment.principal {
            let help = "add a jwt section to the policy; without one no token is verified";
            let message = "jwt cannot be read: no token is required here";
            return self.fault(Code::EXPRESSION_NAME, range, message, Some(help.to_owned()));
        }
        let (kind, ty) = match name {
            "issuer" => (claim(|principal| Ok(Value::text(&principal.issuer))), Type::String),
            "subject" => (claim(|principal| Ok(Value::text(&principal.subject))), Type::String),
            "scopes" => {
                let scopes = claim(|principal| Ok(Value::List(List::Texts(&principal.scopes))));
                (scopes, Type::list(Type::String))
            }
            "audiences" => (claim(|principal| Ok(audiences(principal))), Type::list(Type::String)),
            "expires" => {
                let expires = claim(|principal| {
                    i64::try_from(principal.expires).map(Value::Int).map_err(|_| EvaluationError::Overflow)
                });
                (expires, Type::Int)
            }
            "claims" => {
                (claim(|principal| Ok(Value::Map(Map::Json(&principal.claims)))), Type::map(Type::Dyn))
            }
            other => {
                self.doubt(other, range.clone());
                (claim_named(other.into()), Type::Dyn)
            }
        };
        Some(Node { kind, ty, range })
    }

    /// Any claim may be named, so that a slip in a name of ours is none to the compiler: a hint tells of it.
    fn doubt(&mut self, claim: &str, range: Range<usize>) {
        if CLAIMS.contains(&claim) {
            return;
        }
        if let Some(near) = closest(claim, JWT) {
            let message = format!("jwt.{claim} reads a claim of that name");
            let help =
                format!("did you mean jwt.{near}? A claim is meant by jwt.claims[\"{claim}\"] without doubt");
            let fault = Fault::new(Code::CLAIM_LIKENESS, self.at.clone(), message);
            self.hints.push(fault.within(range).help(help));
        }
    }

    /// `None`, and a fault, where there is no such rule.
    fn rule(&mut self, name: &str, spot: &Range<usize>) -> Option<()> {
        self.reads |= Reads::SCORE;
        if self.environment.rules.iter().any(|rule| rule.name == name) {
            return Some(());
        }
        let help = match closest(name, self.environment.rules.iter().map(|rule| rule.name.as_str())) {
            Some(near) => format!("did you mean enrich.{near}?"),
            None => self.fields_of("enrich"),
        };
        let message = format!("there is no enrich rule {name}");
        self.fault(Code::EXPRESSION_NAME, spot.clone(), message, Some(help))
    }

    fn enrich(&mut self, rule: &str, name: &str, range: Range<usize>, spot: Range<usize>) -> Option<Node> {
        let known = self.environment.rules.iter().find(|known| known.name == rule);
        let lacks = known.and_then(|known| match name {
            "class" | "classes" if !known.class => {
                Some(("the model of", "classes", "only a classification with labels has classes"))
            }
            "band" | "bands" if !known.band => {
                Some(("the rule", "bands", "name the scores by set: { band: { steps: [..] } }"))
            }
            _ => None,
        });
        if let Some((who, what, help)) = lacks {
            let message = format!("{who} enrich.{rule} has no {what}");
            return self.fault(Code::EXPRESSION_NAME, spot, message, Some(help.to_owned()));
        }
        let (ty, read): (_, for<'a> fn(&'a ScoreFact) -> Option<Value<'a>>) = match name {
            "score" | "max" => (Type::Double, |fact| extreme(fact, f32::max)),
            "min" => (Type::Double, |fact| extreme(fact, f32::min)),
            "count" => (Type::Int, |fact| i64::try_from(fact.scores.len()).ok().map(Value::Int)),
            "scores" => (Type::list(Type::Double), |fact| Some(Value::List(List::Floats(&fact.scores)))),
            "ok" => (Type::Bool, |fact| Some(Value::Bool(fact.fault.is_none()))),
            "model" => (Type::String, |fact| Some(Value::text(&fact.model))),
            "version" => (Type::String, |fact| Some(Value::text(&fact.version))),
            "class" => (Type::String, |fact| Some(Value::text(fact.class()))),
            "band" => (Type::String, |fact| Some(Value::text(fact.band()))),
            "classes" => (Type::list(Type::String), |fact| Some(beside(fact, |it| &it.classes))),
            "bands" => (Type::list(Type::String), |fact| Some(beside(fact, |it| &it.bands))),
            _ => return self.unknown(&format!("enrich.{rule}"), name, &ENRICH, spot),
        };
        let rule: Box<str> = rule.into();
        let kind = Kind::thunk(move |frame| {
            let fact = frame.scope.ctx.score(&rule);
            fact.and_then(read).ok_or_else(|| EvaluationError::NoScore(rule.clone()))
        });
        Some(Node { kind, ty, range })
    }
}

fn principal<'a>(frame: &Frame<'_, 'a>) -> Evaluated<&'a Principal> {
    frame.scope.ctx.principal.as_deref().ok_or(EvaluationError::NoPrincipal)
}

fn claim(read: for<'a> fn(&'a Principal) -> Evaluated<Value<'a>>) -> Kind {
    Kind::thunk(move |frame| read(principal(frame)?))
}

fn claim_named(name: Box<str>) -> Kind {
    Kind::thunk(move |frame| Map::Json(&principal(frame)?.claims).at(&name))
}

/// `aud` is one string or a list of them (RFC 7519, section 4.1.3).
fn audiences(principal: &Principal) -> Value<'_> {
    match principal.claims.get("aud") {
        Some(serde_json::Value::Array(list)) => Value::List(List::Json(list)),
        Some(one) => Value::List(List::Json(std::slice::from_ref(one))),
        None => Value::List(List::Json(&[])),
    }
}

/// A list with one text a record; empty where nobody says it.
fn beside(fact: &ScoreFact, list: fn(&Beside) -> &[Arc<str>]) -> Value<'_> {
    Value::List(List::Shared(fact.beside.as_deref().map(list).unwrap_or_default()))
}

/// The highest or lowest of the scores; `None` where there is none, or one is not a number.
fn extreme(fact: &ScoreFact, pick: fn(f32, f32) -> f32) -> Option<Value<'_>> {
    if fact.scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    fact.scores.iter().copied().reduce(pick).map(|score| Value::Double(f64::from(score)))
}

/// The host asked for, in lower case, without its port.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Cow<'a, str> {
    let by_header = || headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = uri.authority().map(http::uri::Authority::as_str).or_else(by_header).unwrap_or_default();
    let port =
        authority.rfind(':').filter(|colon| !authority.get(*colon..).unwrap_or_default().contains(']'));
    let host = port.map_or(authority, |colon| authority.get(..colon).unwrap_or_default());
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The address behind a node, for functions that take one.
pub(super) fn address(node: &Node) -> Option<fn(&Scope<'_>) -> IpAddr> {
    if let Kind::Address(address) = node.kind { Some(address) } else { None }
}
