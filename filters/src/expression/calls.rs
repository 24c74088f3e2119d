//! Functions: text, size, conversions, patterns, networks.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use cel::common::ast::{CallExpr, IdedExpr};
use ipnet::IpNet;
use regex::RegexBuilder;

use super::EvaluationError;
use super::compile::{Compiler, Evaluated, Kind, Node, Pure};
use super::names::address;
use super::syntax::Syntax;
use super::time::PARTS;
use super::types::Type;
use super::value::{Constant, Value};
use crate::addresses::unmapped;
use crate::fault::{Code, closest};

/// Bytes a compiled pattern may take: patterns come from policies, not from callers.
const PATTERN_BYTES: usize = 1 << 20;

/// Methods, besides [`PARTS`].
const METHODS: [&str; 7] =
    ["startsWith", "endsWith", "contains", "matches", "lowerAscii", "upperAscii", "size"];
const FUNCTIONS: [&str; 10] =
    ["has", "size", "string", "int", "double", "timestamp", "inCidr", "matches", "pathMatches", "pathParam"];
const MACROS: [&str; 3] = ["all", "exists", "exists_one"];

fn is_method(name: &str) -> bool {
    METHODS.contains(&name) || PARTS.contains(&name)
}

impl Compiler<'_> {
    pub(super) fn function(
        &mut self,
        syntax: &Syntax,
        expr: &IdedExpr,
        call: &CallExpr,
        target: Option<&IdedExpr>,
    ) -> Option<Node> {
        let range = syntax.range(expr);
        let name = call.func_name.as_str();
        let known = if target.is_some() { is_method(name) } else { FUNCTIONS.contains(&name) };
        if !known {
            return self.unknown_function(name, syntax, expr, target);
        }
        let nodes: Vec<_> = target.into_iter().chain(&call.args).map(|arg| self.node(syntax, arg)).collect();
        let mut nodes = nodes.into_iter().collect::<Option<Vec<_>>>()?.into_iter();
        match (name, nodes.next(), nodes.next(), nodes.next()) {
            ("size", Some(a), None, None) => self.size(a, range),
            ("string", Some(a), None, None) => self.conversion(a, Type::String, range, to_string),
            ("int", Some(a), None, None) => self.conversion(a, Type::Int, range, to_int),
            ("double", Some(a), None, None) => self.conversion(a, Type::Double, range, to_double),
            ("lowerAscii", Some(a), None, None) => self.case(a, range, lower),
            ("upperAscii", Some(a), None, None) => self.case(a, range, upper),
            ("startsWith", Some(a), Some(b), None) => self.text(name, a, b, range, |a, b| a.starts_with(b)),
            ("endsWith", Some(a), Some(b), None) => self.text(name, a, b, range, |a, b| a.ends_with(b)),
            ("contains", Some(a), Some(b), None) => self.text(name, a, b, range, |a, b| a.contains(b)),
            ("matches", Some(a), Some(b), None) => self.matches(a, b, range),
            ("inCidr", Some(a), Some(b), None) => self.in_cidr(a, b, range),
            ("timestamp", Some(a), None, None) => self.timestamp(a, range),
            ("pathMatches", Some(a), Some(b), None) => self.path_matches(a, b, range),
            ("pathParam", Some(a), Some(b), Some(c)) => self.path_param(a, b, c, range),
            (part, Some(a), zone, None) if PARTS.contains(&part) => self.part_of_time(part, a, zone, range),
            _ => {
                let message = format!("wrong number of arguments for {name}()");
                self.fault(Code::EXPRESSION_TYPE, range, message, None)
            }
        }
    }

    fn unknown_function(
        &mut self,
        name: &str,
        syntax: &Syntax,
        expr: &IdedExpr,
        target: Option<&IdedExpr>,
    ) -> Option<Node> {
        let spot = syntax.field(expr, name);
        if MACROS.contains(&name) {
            let instead = format!("write list.{name}(x, condition on x)");
            return self.unsupported(spot, &format!("{name}() in this form"), &instead);
        }
        let methods: Vec<&str> = METHODS.into_iter().chain(PARTS).collect();
        let known: &[&str] = if target.is_some() { &methods } else { &FUNCTIONS };
        let help = if target.is_some() && FUNCTIONS.contains(&name) {
            format!("write {name}(..) instead of ..{name}()")
        } else if target.is_none() && is_method(name) {
            format!("write text.{name}(..)")
        } else if let Some(near) = closest(name, known.iter().chain(&MACROS).copied()) {
            format!("did you mean {near}?")
        } else {
            format!("there are {}, {}", FUNCTIONS.join(", "), methods.join(", "))
        };
        self.unsupported(spot, &format!("the function {name}()"), &help)
    }

    fn size(&mut self, a: Node, range: Range<usize>) -> Option<Node> {
        if !matches!(a.ty, Type::String | Type::List(_) | Type::Map(_) | Type::Dyn) {
            let message = format!("size() takes a string, list or map, and this is of type {}", a.ty);
            return self.fault(Code::EXPRESSION_TYPE, a.range, message, None);
        }
        Some(self.pure(a, Type::Int, range, |value| {
            let size = match &value {
                Value::Str(text) => text.chars().count(),
                Value::List(list) => list.len(),
                Value::Map(map) => map.len(),
                other => {
                    return Err(EvaluationError::Type { wanted: "string, list or map", found: other.kind() });
                }
            };
            i64::try_from(size).map(Value::Int).map_err(|_| EvaluationError::Overflow)
        }))
    }

    fn conversion(&mut self, a: Node, ty: Type, range: Range<usize>, apply: Pure) -> Option<Node> {
        let taken = match ty {
            Type::String => !matches!(a.ty, Type::Null | Type::List(_) | Type::Map(_)),
            Type::Int => {
                matches!(a.ty, Type::String | Type::Int | Type::Double | Type::Timestamp | Type::Dyn)
            }
            _ => matches!(a.ty, Type::String | Type::Int | Type::Double | Type::Dyn),
        };
        if !taken {
            let message = format!("{} cannot be made a {ty}", a.ty);
            return self.fault(Code::EXPRESSION_TYPE, a.range, message, None);
        }
        Some(self.pure(a, ty, range, apply))
    }

    fn case(&mut self, a: Node, range: Range<usize>, apply: Pure) -> Option<Node> {
        let a = self.typed(a, &Type::String, "the text")?;
        Some(self.pure(a, Type::String, range, apply))
    }

    fn text(
        &mut self,
        name: &str,
        a: Node,
        b: Node,
        range: Range<usize>,
        holds: fn(&str, &str) -> bool,
    ) -> Option<Node> {
        let a = self.typed(a, &Type::String, &format!("the text before .{name}()"));
        let b = self.typed(b, &Type::String, &format!("the argument of {name}()"));
        let (a, b) = (a?, b?);
        let kind = match (a.kind, b.kind) {
            (Kind::Constant(Constant::Str(a)), Kind::Constant(Constant::Str(b))) => {
                Kind::Constant(Constant::Bool(holds(&a, &b)))
            }
            (kind, Kind::Constant(Constant::Str(b))) => {
                let a = self.thunk(Node { kind, ty: a.ty, range: a.range });
                Kind::test(move |frame| Ok(holds(a(frame)?.str()?, &b)))
            }
            (x, y) => {
                let a = self.thunk(Node { kind: x, ty: a.ty, range: a.range });
                let b = self.thunk(Node { kind: y, ty: b.ty, range: b.range });
                Kind::test(move |frame| Ok(holds(a(frame)?.str()?, b(frame)?.str()?)))
            }
        };
        Some(Node { kind, ty: Type::Bool, range })
    }

    fn matches(&mut self, a: Node, pattern: Node, range: Range<usize>) -> Option<Node> {
        let a = self.typed(a, &Type::String, "the text before .matches()")?;
        let Kind::Constant(Constant::Str(text)) = &pattern.kind else {
            let instead = "write the pattern as a literal, so that it is compiled once";
            return self.unsupported(pattern.range, "a pattern that is not a literal", instead);
        };
        let regex = match RegexBuilder::new(text).size_limit(PATTERN_BYTES).build() {
            Ok(regex) => regex,
            Err(error) => {
                let message = error.to_string();
                let line = message.lines().last().unwrap_or_default().trim();
                let line = line.strip_prefix("error: ").unwrap_or(line);
                let message = format!("the pattern cannot be used: {line}");
                return self.fault(Code::EXPRESSION_SYNTAX, pattern.range, message, None);
            }
        };
        let a = self.thunk(a);
        let kind = Kind::test(move |frame| Ok(regex.is_match(a(frame)?.str()?)));
        Some(Node { kind, ty: Type::Bool, range })
    }

    fn in_cidr(&mut self, a: Node, network: Node, range: Range<usize>) -> Option<Node> {
        let a = self.typed(a, &Type::String, "the first argument of inCidr()")?;
        let Kind::Constant(Constant::Str(text)) = &network.kind else {
            let instead = "write the network as a literal, such as \"10.0.0.0/8\"";
            return self.unsupported(network.range, "a network that is not a literal", instead);
        };
        let Ok(net) = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) else {
            let message = format!("{text:?} is not a network");
            let help = Some("write it as 10.0.0.0/8 or 2001:db8::/32".to_owned());
            return self.fault(Code::EXPRESSION_TYPE, network.range, message, help);
        };
        let net = unmapped(net);
        let kind = if let Some(address) = address(&a) {
            Kind::test(move |frame| Ok(net.contains(&address(&frame.scope))))
        } else {
            let a = self.thunk(a);
            Kind::test(move |frame| {
                let value = a(frame)?;
                let address = value.str()?.parse::<IpAddr>();
                let address = address.map_err(|_| EvaluationError::Conversion("an IP address"))?;
                Ok(net.contains(&address.to_canonical()))
            })
        };
        Some(Node { kind, ty: Type::Bool, range })
    }
}

fn to_string(value: Value<'_>) -> Evaluated<Value<'_>> {
    match value {
        Value::Str(text) => Ok(Value::Str(text)),
        Value::Time(time) => Ok(Value::Str(Cow::Owned(time.to_string()))),
        other => Ok(Value::Str(Cow::Owned(other.key()?.into_owned()))),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "checked against the range of i64")]
fn to_int(value: Value<'_>) -> Evaluated<Value<'_>> {
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    match value {
        Value::Int(value) => Ok(Value::Int(value)),
        Value::Time(time) => Ok(Value::Int(time.seconds())),
        Value::Double(value) if value > -BOUND && value < BOUND => Ok(Value::Int(value as i64)),
        Value::Double(_) => Err(EvaluationError::Overflow),
        other => other.str()?.parse().map(Value::Int).map_err(|_| EvaluationError::Conversion("an integer")),
    }
}

#[expect(clippy::cast_precision_loss, reason = "CEL rounds to the nearest double")]
fn to_double(value: Value<'_>) -> Evaluated<Value<'_>> {
    match value {
        Value::Double(value) => Ok(Value::Double(value)),
        Value::Int(value) => Ok(Value::Double(value as f64)),
        other => other.str()?.parse().map(Value::Double).map_err(|_| EvaluationError::Conversion("a number")),
    }
}

fn lower(value: Value<'_>) -> Evaluated<Value<'_>> {
    cased(value, |byte| byte.is_ascii_uppercase(), str::to_ascii_lowercase)
}

fn upper(value: Value<'_>) -> Evaluated<Value<'_>> {
    cased(value, |byte| byte.is_ascii_lowercase(), str::to_ascii_uppercase)
}

fn cased(value: Value<'_>, other: fn(u8) -> bool, change: fn(&str) -> String) -> Evaluated<Value<'_>> {
    if value.str()?.bytes().any(other) { Ok(Value::Str(Cow::Owned(change(value.str()?)))) } else { Ok(value) }
}
