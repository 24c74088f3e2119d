//! Strings that an expression compares a value with: they tell which rules cannot be true.

use std::fmt;
use std::sync::Arc;

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::compile::{Compiler, Frame, Kind, Thunk};
use super::inputs::input_of;
use super::syntax::Syntax;
use super::value::{Constant, Value};
use super::{Environment, Scope};
use crate::fault::Path;

/// A condition on a value, such as `jwt.org == "a"` or `"crm.read" in jwt.scopes`.
///
/// Where its value is of the wanted type and the condition does not hold, the expression is false.
#[derive(Clone, Debug)]
pub struct KeyGate {
    pub probe: Arc<Probe>,
    pub wanted: Box<str>,
}

/// Reads the value of a condition.
pub struct Probe {
    /// The value as the expression has it.
    source: Box<str>,
    /// True where the value is a list that has to hold the string.
    member: bool,
    thunk: Thunk,
    constants: Box<[Constant]>,
}

impl PartialEq for Probe {
    /// True only where both give the same value for every request.
    fn eq(&self, other: &Self) -> bool {
        self.member == other.member && self.source == other.source
    }
}

impl Probe {
    /// Hands every string of the value to `with`. False where the value is not of the wanted type, or there
    /// is none: then nothing is known of any rule.
    pub fn strings(&self, scope: &Scope<'_>, mut with: impl FnMut(&str)) -> bool {
        match (self.thunk)(&Frame { scope: *scope, constants: &self.constants, local: None }) {
            Ok(Value::Str(text)) if !self.member => {
                with(&text);
                true
            }
            Ok(Value::List(list)) if self.member => {
                for item in list.iter() {
                    if let Value::Str(text) = &item {
                        with(text);
                    }
                }
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// Of a part of an expression that was compiled without fault; `None` for what is no name.
    fn new(syntax: &Syntax, of: &IdedExpr, member: bool, known: &Known<'_>) -> Option<Self> {
        input_of(of)?;
        let mut compiler = Compiler::new(known.text, known.environment, known.at);
        let node = compiler.node(syntax, of)?;
        // An address is compared as one, not as its text.
        if matches!(node.kind, Kind::Address(_)) {
            return None;
        }
        let source = known.text.get(node.range.clone())?.into();
        let thunk = compiler.thunk(node);
        Some(Self { source, member, thunk, constants: compiler.constants.into() })
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probe").field(&self.source).finish()
    }
}

/// What an expression is compiled with.
pub(super) struct Known<'k> {
    pub(super) text: &'k str,
    pub(super) environment: &'k Environment,
    pub(super) at: &'k Path,
}

/// The conditions that stand in the outermost conjunction.
pub(super) fn key_gates(syntax: &Syntax, known: &Known<'_>) -> Vec<KeyGate> {
    let mut found = Vec::new();
    let mut open = vec![&syntax.root];
    while let Some(expr) = open.pop() {
        let Expr::Call(call) = &expr.expr else { continue };
        let [a, b] = call.args.as_slice() else { continue };
        let parts = match call.func_name.as_str() {
            operators::LOGICAL_AND => {
                open.extend([b, a]);
                continue;
            }
            operators::EQUALS => text(b).map(|wanted| (a, false, wanted)).or(text(a).map(|w| (b, false, w))),
            operators::IN => text(a).map(|wanted| (b, true, wanted)),
            _ => None,
        };
        if let Some((of, member, wanted)) = parts
            && let Some(probe) = Probe::new(syntax, of, member, known)
        {
            found.push(KeyGate { probe: Arc::new(probe), wanted: wanted.into() });
        }
    }
    found
}

fn text(expr: &IdedExpr) -> Option<&str> {
    if let Expr::Literal(LiteralValue::String(value)) = &expr.expr { Some(value.inner()) } else { None }
}

#[cfg(test)]
mod tests {
    use crate::expression::{BoolExpression, Environment};
    use crate::fault::Path;

    #[test]
    fn comparisons_with_strings_in_the_conjunction_are_key_gates() {
        let environment = Environment { principal: true, consumer: true, ..Environment::default() };
        for (text, wanted) in [
            (
                r#"jwt.org == "a" && ("x" in jwt.scopes && request.path == "/")"#,
                "jwt.org=a jwt.scopes~x request.path=/",
            ),
            (r#""a" == request.headers["x-tenant"]"#, r#"request.headers["x-tenant"=a"#),
            (r#"peer.id == "spiffe://a/b" && jwt.admin"#, "peer.id=spiffe://a/b"),
            (r#"jwt.org == "a" || jwt.org == "b""#, ""),
            (r#"!(jwt.org == "a") && jwt.org != "c""#, ""),
            ("jwt.org == jwt.other && 1 == 1", ""),
            (r#"["a"].exists(x, x == "a")"#, ""),
            (r#"source.address == "10.0.0.1""#, ""),
            (r#"jwt.a.b == "x" && jwt.a.c == "x""#, "jwt.a.b=x jwt.a.c=x"),
        ] {
            let expression = BoolExpression::new(text, &environment, &Path::default()).unwrap();
            let told: Vec<String> = expression
                .keys()
                .iter()
                .map(|gate| {
                    let sign = if gate.probe.member { '~' } else { '=' };
                    format!("{}{sign}{}", gate.probe.source, gate.wanted)
                })
                .collect();
            assert_eq!(told.join(" "), wanted, "{text}");
        }
    }
}
