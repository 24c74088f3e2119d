//! Reads the text of an expression, within bounds, into a syntax tree.

use std::ops::Range;
use std::thread;

use cel::common::ast::{Expr, IdedExpr, SourceInfo};
use cel::parser::{ParseErrors, Parser};

use crate::fault::{Code, Fault, Path};

/// Longest text: rules are read by people.
pub(super) const MAX_BYTES: usize = 4096;
/// Deepest nesting; far beyond what a person can follow.
const MAX_DEPTH: u16 = 32;
/// The parser recurses once for every operator of a chain, which the length alone bounds.
const STACK: usize = 64 << 20;

/// The syntax tree of an expression, and where its nodes stand in the text.
pub(super) struct Syntax {
    pub(super) root: IdedExpr,
    offsets: SourceInfo,
}

impl Syntax {
    /// Parses; every fault of form otherwise.
    pub(super) fn parse(text: &str, at: &Path) -> Result<Self, Vec<Fault>> {
        let fault = |message: &str| Fault::new(Code::EXPRESSION_SYNTAX, at.clone(), message);
        if text.trim().is_empty() {
            return Err(vec![fault("the expression is empty")]);
        }
        if text.len() > MAX_BYTES {
            return Err(vec![
                fault("the expression is longer than 4096 bytes").within(MAX_BYTES..text.len()),
            ]);
        }
        let source = text.to_owned();
        let parsed = thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || parse_bounded(&source))
            .map(thread::JoinHandle::join);
        match parsed {
            Ok(Ok(Ok(syntax))) => Ok(syntax),
            Ok(Ok(Err(Refused::Deep))) => {
                Err(vec![fault("the expression is nested too deeply").help("split it into several rules")])
            }
            Ok(Ok(Err(Refused::Form(errors)))) => Err(errors
                .into_iter()
                .map(|(place, message)| fault(&message).within(clamp(place, text)))
                .collect()),
            Ok(Err(_)) => Err(vec![fault("the expression is not well-formed")]),
            Err(_) => Err(vec![fault("no thread to parse the expression on")]),
        }
    }

    /// The bytes of the token that stands for a node: an operator, a name, a literal.
    fn token(&self, node: &IdedExpr) -> Range<usize> {
        let (start, stop) = self.offsets.offset_for(node.id).unwrap_or_default();
        clamp(start as usize..(stop as usize).saturating_add(1), &self.offsets.source)
    }

    /// The bytes of a node with all its parts.
    pub(super) fn range(&self, node: &IdedExpr) -> Range<usize> {
        if let Expr::Select(select) = &node.expr {
            return self.range(&select.operand).start..self.field(node, &select.field).end;
        }
        let token = self.token(node);
        let mut range = parts(node)
            .into_iter()
            .map(|part| self.range(part))
            .fold(token, |all, part| all.start.min(part.start)..all.end.max(part.end));
        let closed = match &node.expr {
            Expr::Call(call) if call.func_name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                range.start = range.start.min(self.field(node, &call.func_name).start);
                true
            }
            other => matches!(other, Expr::Comprehension(_)),
        };
        let rest = self.offsets.source.get(range.end..).unwrap_or_default();
        if closed && rest.trim_start().starts_with(')') {
            range.end += rest.len() - rest.trim_start().len() + 1;
        }
        range
    }

    /// The bytes of the field or function name behind the operand of a node.
    pub(super) fn field(&self, node: &IdedExpr, name: &str) -> Range<usize> {
        let token = self.token(node);
        let operand = match &node.expr {
            Expr::Select(select) => Some(&select.operand),
            Expr::Call(call) => call.target.as_ref(),
            _ => None,
        };
        let source = &self.offsets.source;
        let start = if let Some(operand) = operand {
            let from = self.range(operand).end;
            source.get(from..).and_then(|rest| rest.find(name)).map(|offset| from + offset)
        } else {
            // The token of a call is its parenthesis.
            source.get(..token.start).and_then(|before| before.trim_end().strip_suffix(name)).map(str::len)
        };
        start.map_or(token, |start| start..start + name.len())
    }
}

enum Refused {
    Deep,
    Form(Vec<(Range<usize>, String)>),
}

fn parse_bounded(source: &str) -> Result<Syntax, Refused> {
    let parser = Parser::new().max_recursion_depth(MAX_DEPTH).error_recovery_limit(8);
    let (root, offsets) = parser.parse_with_source_info(source).map_err(|errors| form(source, errors))?;
    if deeper(&root, usize::from(MAX_DEPTH) * 4) {
        return Err(Refused::Deep);
    }
    Ok(Syntax { root, offsets })
}

fn form(source: &str, errors: ParseErrors) -> Refused {
    if errors.errors.iter().any(|error| error.to_string().contains("Recursion limit")) {
        return Refused::Deep;
    }
    let one = |error: cel::parser::ParseError| {
        let line = usize::try_from(error.pos.0).unwrap_or(1).max(1);
        let column = usize::try_from(error.pos.1).unwrap_or(1).max(1);
        let before: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let rest = source.get(before..).unwrap_or_default();
        let start = before + rest.char_indices().nth(column - 1).map_or(rest.len(), |(offset, _)| offset);
        let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg).to_owned();
        (start..start + 1, message)
    };
    Refused::Form(errors.errors.into_iter().map(one).collect())
}

/// True where the tree has more than `left` levels; never recurses deeper itself.
fn deeper(node: &IdedExpr, left: usize) -> bool {
    left == 0 || parts(node).into_iter().any(|part| deeper(part, left - 1))
}

fn parts(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(macro_) => vec![&macro_.iter_range, &macro_.loop_step],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

/// The range within the text, widened to whole characters.
fn clamp(range: Range<usize>, text: &str) -> Range<usize> {
    let end = text.ceil_char_boundary(range.end);
    text.floor_char_boundary(range.start.min(end))..end
}
