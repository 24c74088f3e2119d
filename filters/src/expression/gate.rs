//! What method and path an expression needs to be true, read off its syntax.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use http::Method;

use super::paths::Pattern;

/// A condition that holds wherever an expression is true, and that costs next to nothing to look at.
///
/// Where it does not hold, the expression is false: `&&` is, as soon as one side is, whatever the other gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    pub methods: Methods,
    pub path: PathGate,
}

/// A set of methods; those without a bit of their own share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods(u16);

/// What a path must look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathGate {
    #[default]
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
}

impl Default for Methods {
    fn default() -> Self {
        Self(u16::MAX)
    }
}

impl Methods {
    /// The set of this method and those that share its bit.
    pub fn of(method: &Method) -> Self {
        Self(match *method {
            Method::GET => 1,
            Method::HEAD => 1 << 1,
            Method::POST => 1 << 2,
            Method::PUT => 1 << 3,
            Method::PATCH => 1 << 4,
            Method::DELETE => 1 << 5,
            Method::OPTIONS => 1 << 6,
            _ => 1 << 7,
        })
    }

    /// True where both sets have a method in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The set of a method in words; a word that is no method is in the set of strangers.
    fn named(name: &str) -> Self {
        Method::from_bytes(name.as_bytes()).map_or(Self(1 << 7), |method| Self::of(&method))
    }
}

impl Gate {
    /// The gate of an expression.
    pub(super) fn of(expr: &IdedExpr) -> Self {
        let Expr::Call(call) = &expr.expr else { return Self::default() };
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND, [a, b]) => Self::of(a).and(Self::of(b)),
            (operators::LOGICAL_OR, [a, b]) => {
                Self { methods: Methods(Self::of(a).methods.0 | Self::of(b).methods.0), path: PathGate::Any }
            }
            (operators::EQUALS, [a, b]) => equality(a, b).or_else(|| equality(b, a)).unwrap_or_default(),
            (operators::IN, [item, list]) if is_field(item, "method") => {
                Self { methods: one_of(list).unwrap_or_default(), path: PathGate::Any }
            }
            _ => Self { methods: Methods::default(), path: by_path(call).unwrap_or_default() },
        }
    }

    fn and(self, other: Self) -> Self {
        let path = match (self.path, other.path) {
            (PathGate::Any, path) | (path, PathGate::Any) => path,
            (PathGate::Exact(path), _) | (_, PathGate::Exact(path)) => PathGate::Exact(path),
            (PathGate::Prefix(a), PathGate::Prefix(b)) => {
                PathGate::Prefix(if a.len() < b.len() { b } else { a })
            }
        };
        Self { methods: Methods(self.methods.0 & other.methods.0), path }
    }
}

/// `request.method == "GET"`, `request.path == "/x"`.
fn equality(field: &IdedExpr, value: &IdedExpr) -> Option<Gate> {
    let value = text(value)?;
    if is_field(field, "method") {
        return Some(Gate { methods: Methods::named(value), path: PathGate::Any });
    }
    is_field(field, "path").then(|| Gate { path: PathGate::Exact(value.into()), ..Gate::default() })
}

/// The methods of a list of literals.
fn one_of(list: &IdedExpr) -> Option<Methods> {
    let Expr::List(list) = &list.expr else { return None };
    list.elements
        .iter()
        .try_fold(Methods(0), |all, item| Some(Methods(all.0 | Methods::named(text(item)?).0)))
}

/// `request.path.startsWith("/x")`, `pathMatches(request.path, "/x/{id}")`.
fn by_path(call: &CallExpr) -> Option<PathGate> {
    match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
        ("startsWith", Some(target), [prefix]) if is_field(target, "path") => {
            Some(PathGate::Prefix(text(prefix)?.into()))
        }
        ("pathMatches", None, [path, pattern]) if is_field(path, "path") => {
            let (prefix, whole) = Pattern::parse(text(pattern)?).ok()?.prefix();
            Some(if whole { PathGate::Exact(prefix.into()) } else { PathGate::Prefix(prefix.into()) })
        }
        _ => None,
    }
}

/// True for `request.<name>`.
fn is_field(expr: &IdedExpr, name: &str) -> bool {
    let Expr::Select(select) = &expr.expr else { return false };
    !select.test
        && select.field == name
        && matches!(&select.operand.expr, Expr::Ident(root) if root == "request")
}

fn text(expr: &IdedExpr) -> Option<&str> {
    if let Expr::Literal(LiteralValue::String(value)) = &expr.expr { Some(value.inner()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::{Gate, Methods, PathGate};
    use crate::expression::{BoolExpression, Environment};
    use crate::fault::Path;
    use http::Method;

    fn gate(text: &str) -> Gate {
        let environment = Environment { principal: true, ..Environment::default() };
        BoolExpression::new(text, &environment, &Path::default()).unwrap().gate().clone()
    }

    #[test]
    fn conjuncts_of_method_and_path_are_gates() {
        for (text, method, path) in [
            (r#"request.method == "GET""#, Some(Method::GET), PathGate::Any),
            (
                r#""POST" == request.method && request.path == "/x""#,
                Some(Method::POST),
                PathGate::Exact("/x".into()),
            ),
            (r#"jwt.a && (request.path.startsWith("/a/") && jwt.b)"#, None, PathGate::Prefix("/a/".into())),
            (
                r#"request.path.startsWith("/a/") && request.path.startsWith("/a/b")"#,
                None,
                PathGate::Prefix("/a/b".into()),
            ),
            (r#"pathMatches(request.path, "/a/{id}")"#, None, PathGate::Prefix("/a/".into())),
            (r#"pathMatches(request.path, "/a/b")"#, None, PathGate::Exact("/a/b".into())),
            (r#"request.path.startsWith("/a") || jwt.a"#, None, PathGate::Any),
            (r#"!(request.path == "/x")"#, None, PathGate::Any),
            (r#"request.path != "/x" && request.method != "GET""#, None, PathGate::Any),
            (r#"request.path == "/x" ? true : false"#, None, PathGate::Any),
        ] {
            let methods = method.map_or(Methods::default(), |method| Methods::of(&method));
            assert_eq!(gate(text), Gate { methods, path }, "{text}");
        }
        let several = gate(r#"request.method in ["GET", "HEAD"] || request.method == "BREW""#).methods;
        let meets = |method: Method| several.meets(Methods::of(&method));
        assert!(meets(Method::GET) && meets(Method::HEAD) && !meets(Method::POST));
        assert!(meets(Method::from_bytes(b"BREW").unwrap()) && meets(Method::from_bytes(b"OTHER").unwrap()));
    }
}
