//! Functions of time and paths: timestamps, their parts in a zone, patterns.

use std::borrow::Cow;
use std::ops::Range;

use super::EvaluationError;
use super::compile::{Compiler, Evaluated, Kind, Node};
use super::paths::Pattern;
use super::types::Type;
use super::value::{Constant, Value};
use crate::fault::Code;
use crate::timestamp::{Civil, Offset, Timestamp};

/// Methods of a point in time, named and counted as CEL does: months and days of the month from 0, Sunday is 0.
/// `getDate` counts days from 1.
pub(super) const PARTS: [&str; 8] = [
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
];

fn part(name: &str) -> Option<fn(Civil) -> i64> {
    Some(match name {
        "getFullYear" => |civil| civil.year,
        "getMonth" => |civil| civil.month - 1,
        "getDate" => |civil| civil.day,
        "getDayOfMonth" => |civil| civil.day - 1,
        "getDayOfWeek" => |civil| civil.weekday,
        "getHours" => |civil| civil.hour,
        "getMinutes" => |civil| civil.minute,
        "getSeconds" => |civil| civil.second,
        _ => return None,
    })
}

impl Compiler<'_> {
    /// `request.time.getHours("+02:00")`: UTC where no zone is named.
    pub(super) fn part_of_time(
        &mut self,
        name: &str,
        time: Node,
        zone: Option<Node>,
        range: Range<usize>,
    ) -> Option<Node> {
        let time = self.typed(time, &Type::Timestamp, &format!("the value before .{name}()"))?;
        let offset = match zone {
            None => Offset::default(),
            Some(zone) => {
                let Kind::Constant(Constant::Str(text)) = &zone.kind else {
                    let instead = "write the zone as a literal, such as \"+02:00\"";
                    return self.unsupported(zone.range, "a zone that is not a literal", instead);
                };
                match text.parse::<Offset>() {
                    Ok(offset) => offset,
                    Err(error) => {
                        let help = Some("named zones change with the law of the land".to_owned());
                        return self.fault(Code::EXPRESSION_TYPE, zone.range, error.to_string(), help);
                    }
                }
            }
        };
        let part = part(name)?;
        let time = self.thunk(time);
        let kind = Kind::thunk(move |frame| Ok(Value::Int(part(time(frame)?.time()?.civil(offset)))));
        Some(Node { kind, ty: Type::Int, range })
    }

    /// `timestamp("2027-01-31T12:00:00Z")`; also of seconds since the epoch, as claims have them.
    pub(super) fn timestamp(&mut self, a: Node, range: Range<usize>) -> Option<Node> {
        if !matches!(a.ty, Type::String | Type::Int | Type::Double | Type::Timestamp | Type::Dyn) {
            let message = format!("{} cannot be made a timestamp", a.ty);
            return self.fault(Code::EXPRESSION_TYPE, a.range, message, None);
        }
        if let Kind::Constant(Constant::Str(text)) = &a.kind
            && let Err(error) = text.parse::<Timestamp>()
        {
            return self.fault(Code::EXPRESSION_TYPE, a.range, error.to_string(), None);
        }
        Some(self.pure(a, Type::Timestamp, range, |value| to_timestamp(&value)))
    }

    /// `pathMatches(request.path, "/accounts/{id}/orders")`.
    pub(super) fn path_matches(&mut self, path: Node, pattern: Node, range: Range<usize>) -> Option<Node> {
        let path = self.typed(path, &Type::String, "the first argument of pathMatches()")?;
        let pattern = self.pattern(pattern)?;
        let path = self.thunk(path);
        let kind = Kind::test(move |frame| Ok(pattern.matches(path(frame)?.str()?)));
        Some(Node { kind, ty: Type::Bool, range })
    }

    /// `pathParam(request.path, "/accounts/{id}/orders", "id")`: an error where the path has another form.
    pub(super) fn path_param(
        &mut self,
        path: Node,
        pattern: Node,
        name: Node,
        range: Range<usize>,
    ) -> Option<Node> {
        let path = self.typed(path, &Type::String, "the first argument of pathParam()")?;
        let pattern = self.pattern(pattern)?;
        let Kind::Constant(Constant::Str(wanted)) = name.kind else {
            return self.unsupported(
                name.range,
                "a name that is not a literal",
                "write the name as a literal",
            );
        };
        let Some(place) = pattern.place(&wanted) else {
            let message = format!("the pattern has no {{{wanted}}}");
            return self.fault(Code::EXPRESSION_NAME, name.range, message, None);
        };
        let path = self.thunk(path);
        let kind = Kind::thunk(move |frame| {
            let found = match path(frame)? {
                Value::Str(Cow::Borrowed(text)) => pattern.segment(text, place),
                other => pattern.segment(other.str()?, place).map(|text| Cow::Owned(text.into_owned())),
            };
            found.map(Value::Str).ok_or_else(|| EvaluationError::Absent(wanted.clone()))
        });
        Some(Node { kind, ty: Type::String, range })
    }

    fn pattern(&mut self, node: Node) -> Option<Pattern> {
        let Kind::Constant(Constant::Str(text)) = &node.kind else {
            let instead = "write the pattern as a literal, so that it is compiled once";
            return self.unsupported(node.range, "a pattern that is not a literal", instead);
        };
        match Pattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(why) => {
                let help = Some("patterns look like /accounts/{id}/orders/** or /health".to_owned());
                self.fault(Code::EXPRESSION_TYPE, node.range, why, help)
            }
        }
    }
}

fn to_timestamp<'a>(value: &Value<'_>) -> Evaluated<Value<'a>> {
    let seconds = match value {
        Value::Time(time) => return Ok(Value::Time(*time)),
        Value::Int(seconds) => *seconds,
        Value::Double(seconds) if seconds.is_finite() => {
            #[expect(clippy::cast_possible_truncation, reason = "what is out of range is refused below")]
            let whole = seconds.trunc() as i64;
            whole
        }
        other => {
            let parsed = other.str()?.parse().map(Value::Time);
            return parsed.map_err(|_| EvaluationError::Conversion("a point in time"));
        }
    };
    Timestamp::from_seconds(seconds).map(Value::Time).ok_or(EvaluationError::Overflow)
}
