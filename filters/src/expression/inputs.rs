//! The names that an expression reads, for those who explain decisions.

use std::fmt;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::names::ROOTS;

/// A name as an expression reads it: `request.method`, `request.headers["x-staff"]`, `enrich.lead.score`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Input {
    /// What stands before the first dot.
    pub root: Box<str>,
    /// What stands behind it; `claims` where a claim is read without that word.
    pub field: Box<str>,
    /// The header, claim or field below it, where the expression names one.
    pub key: Option<Box<str>>,
}

impl Input {
    pub fn new(root: &str, field: &str) -> Self {
        Self { root: root.into(), field: field.into(), key: None }
    }

    /// What an `enrich` rule found out.
    pub fn scored(rule: &str, field: &str) -> Self {
        Self::new("enrich", rule).of(field)
    }

    fn of(mut self, key: &str) -> Self {
        self.key = Some(key.into());
        self
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) if *self.root == *"enrich" || *self.field == *"body" => {
                write!(f, "{}.{}.{key}", self.root, self.field)
            }
            Some(key) => write!(f, "{}.{}[{key:?}]", self.root, self.field),
            None => write!(f, "{}.{}", self.root, self.field),
        }
    }
}

/// Fields of `jwt` that are no claims by name.
const JWT: [&str; 6] = ["issuer", "subject", "scopes", "audiences", "expires", "claims"];

/// Every name below this node, each once, in the order of the text.
pub(super) fn inputs(root: &IdedExpr) -> Vec<Input> {
    let mut found = Vec::new();
    walk(root, &mut Vec::new(), &mut found);
    found
}

/// The name that this node itself reads.
pub(super) fn input_of(node: &IdedExpr) -> Option<Input> {
    match &node.expr {
        Expr::Select(select) if !select.test => named(node, &[]),
        Expr::Call(call) if call.func_name == operators::INDEX => keyed(call, &[]),
        _ => None,
    }
}

fn walk<'a>(node: &'a IdedExpr, locals: &mut Vec<&'a str>, found: &mut Vec<Input>) {
    match &node.expr {
        Expr::Select(select) => match named(node, locals) {
            Some(input) => note(input, found),
            None => walk(&select.operand, locals, found),
        },
        Expr::Call(call) => match keyed(call, locals) {
            Some(input) => note(input, found),
            None => call.target.as_deref().into_iter().chain(&call.args).for_each(|part| {
                walk(part, locals, found);
            }),
        },
        Expr::Comprehension(macro_) => {
            walk(&macro_.iter_range, locals, found);
            locals.push(&macro_.iter_var);
            walk(&macro_.loop_step, locals, found);
            locals.pop();
        }
        Expr::List(list) => list.elements.iter().for_each(|item| walk(item, locals, found)),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

fn note(input: Input, found: &mut Vec<Input>) {
    if !found.contains(&input) {
        found.push(input);
    }
}

/// A selection that begins with a name of the environment.
fn named(node: &IdedExpr, locals: &[&str]) -> Option<Input> {
    let mut fields = Vec::new();
    let mut node = node;
    while let Expr::Select(select) = &node.expr {
        fields.push(select.field.as_str());
        node = &select.operand;
    }
    let Expr::Ident(root) = &node.expr else { return None };
    if !ROOTS.contains(&root.as_str()) || locals.contains(&root.as_str()) {
        return None;
    }
    let mut fields = fields.into_iter().rev();
    let field = fields.next()?;
    if root == "jwt" && !JWT.contains(&field) {
        return Some(Input::new(root, "claims").of(field));
    }
    let input = Input::new(root, field);
    Some(match fields.next() {
        Some(key) => input.of(key),
        None => input,
    })
}

/// `request.headers["x"]` and `"x" in request.headers`.
fn keyed(call: &CallExpr, locals: &[&str]) -> Option<Input> {
    let ((operators::INDEX, [map, key]) | (operators::IN, [key, map])) =
        (call.func_name.as_str(), call.args.as_slice())
    else {
        return None;
    };
    let Expr::Literal(LiteralValue::String(key)) = &key.expr else { return None };
    let input = named(map, locals)?;
    let is_map = matches!(&*input.field, "headers" | "claims" | "metadata") && input.key.is_none();
    is_map.then(|| input.of(key.inner()))
}

#[cfg(test)]
mod tests {
    use crate::expression::{BoolExpression, Enriched, Environment};
    use crate::fault::Path;

    #[track_caller]
    fn reads(text: &str) -> String {
        let lead = Enriched { name: "lead".to_owned(), ..Enriched::default() };
        let environment = Environment { rules: vec![lead], principal: true, consumer: true, body: true };
        let expression = BoolExpression::new(text, &environment, &Path::default()).unwrap();
        expression.inputs().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        for (text, expected) in [
            ("request.method == 'GET' || request.method == 'PUT'", "request.method"),
            ("request.headers['x-a'] == 'b'", "request.headers[\"x-a\"]"),
            (
                "'x-a' in request.headers && size(request.headers) > 1",
                "request.headers[\"x-a\"] request.headers",
            ),
            ("request.headers[request.path] == 'b'", "request.headers request.path"),
            ("'a' in jwt.scopes && jwt.org == 'x'", "jwt.scopes jwt.claims[\"org\"]"),
            ("jwt.claims.org == jwt.claims['team']", "jwt.claims[\"org\"] jwt.claims[\"team\"]"),
            ("jwt.scopes.exists(peer, peer == 'x')", "jwt.scopes"),
            ("enrich.lead.score < 0.5", "enrich.lead.score"),
            ("consumer.metadata.tier == 'gold'", "consumer.metadata[\"tier\"]"),
            ("has(peer.id) && peer.id.startsWith(route.name)", "peer.id route.name"),
            ("inCidr(source.address, '10.0.0.0/8')", "source.address"),
            ("request.method in ['GET', request.host]", "request.method request.host"),
            ("request.body.size > 1 && request.body.records < 9", "request.body.size request.body.records"),
            ("true", ""),
        ] {
            assert_eq!(reads(text), expected, "{text}");
        }
    }
}
