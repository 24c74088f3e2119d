//! The macros `all`, `exists` and `exists_one` over lists.

use std::ops::Range;

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators};

use super::compile::{Compiler, Evaluated, Frame, Kind, Local, Node, Test};
use super::syntax::Syntax;
use super::types::Type;
use super::value::{List, Value};
use crate::fault::Code;

/// Macros inside macros: each level multiplies the work by the length of a list.
const MAX_NESTED: usize = 2;

#[derive(Clone, Copy)]
enum Macro {
    All,
    Exists,
    ExistsOne,
}

/// Knows a macro by the shape of its expansion; the predicate is the second part.
fn recognise(loop_: &ComprehensionExpr) -> Option<(Macro, &IdedExpr)> {
    let Expr::Call(step) = &loop_.loop_step.expr else { return None };
    let (Expr::Literal(start), [first, second, ..]) = (&loop_.accu_init.expr, step.args.as_slice()) else {
        return None;
    };
    match (start, step.func_name.as_str()) {
        (LiteralValue::Boolean(_), operators::LOGICAL_AND) => Some((Macro::All, second)),
        (LiteralValue::Boolean(_), operators::LOGICAL_OR) => Some((Macro::Exists, second)),
        (LiteralValue::Int(_), operators::CONDITIONAL) => Some((Macro::ExistsOne, first)),
        _ => None,
    }
}

impl Compiler<'_> {
    pub(super) fn comprehension(
        &mut self,
        syntax: &Syntax,
        loop_: &ComprehensionExpr,
        range: Range<usize>,
    ) -> Option<Node> {
        let Some((which, predicate)) = recognise(loop_) else {
            let instead = "use all(x, ..), exists(x, ..) or exists_one(x, ..) on the list itself";
            return self.unsupported(range, "a macro that makes a list", instead);
        };
        if self.locals.len() >= MAX_NESTED {
            return self.unsupported(range, "a macro inside two others", "split the rule");
        }
        let list = self.node(syntax, &loop_.iter_range)?;
        let of = match &list.ty {
            Type::List(of) => of.as_ref().clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let message = format!("all() and exists() look through a list, and this is of type {other}");
                return self.fault(Code::EXPRESSION_TYPE, list.range, message, None);
            }
        };
        let list = self.thunk(list);
        self.locals.push((loop_.iter_var.clone(), of));
        let predicate = self.node(syntax, predicate);
        self.locals.pop();
        let predicate = self.typed(predicate?, &Type::Bool, "the condition of a macro")?;
        let test = self.test(predicate);
        let kind = match which {
            Macro::All => Kind::test(move |frame| decide(frame, &list(frame)?.list()?, &test, false)),
            Macro::Exists => Kind::test(move |frame| decide(frame, &list(frame)?.list()?, &test, true)),
            Macro::ExistsOne => Kind::test(move |frame| one(frame, &list(frame)?.list()?, &test)),
        };
        Some(Node { kind, ty: Type::Bool, range })
    }
}

fn with<'a>(frame: &Frame<'_, 'a>, value: Value<'a>, test: &Test) -> Evaluated<bool> {
    let local = Local { value, outer: frame.local };
    test(&Frame { scope: frame.scope, constants: frame.constants, local: Some(&local) })
}

/// True as soon as one element gives `decides`: then an error of another one does not count.
fn decide<'a>(frame: &Frame<'_, 'a>, list: &List<'a>, test: &Test, decides: bool) -> Evaluated<bool> {
    let mut failed = None;
    for value in list.iter() {
        match with(frame, value, test) {
            Ok(found) if found == decides => return Ok(decides),
            Ok(_) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(!decides), Err)
}

fn one<'a>(frame: &Frame<'_, 'a>, list: &List<'a>, test: &Test) -> Evaluated<bool> {
    let mut found = 0_usize;
    for value in list.iter() {
        found += usize::from(with(frame, value, test)?);
    }
    Ok(found == 1)
}
