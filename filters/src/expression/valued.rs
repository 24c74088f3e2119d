//! Expressions that give a value, whatever its type.

use super::compile::{Compiler, Frame, Node, Thunk};
use super::inputs::Input;
use super::value::{Constant, Value};
use super::{Environment, EvaluationError, Reads, Scope};
use crate::chain::Built;
use crate::fault::Path;

/// An expression, compiled, with what it reads.
pub(super) struct Valued {
    pub(super) source: Box<str>,
    constants: Box<[Constant]>,
    thunk: Thunk,
    pub(super) reads: Reads,
    pub(super) inputs: Vec<Input>,
}

impl Valued {
    /// Reads an expression; `fit` makes sure of its type.
    pub(super) fn new<'c>(
        source: &'c str,
        environment: &'c Environment,
        at: &'c Path,
        fit: impl FnOnce(&mut Compiler<'c>, Node) -> Option<Node>,
    ) -> Built<Self> {
        let mut compiler = Compiler::new(source, environment, at);
        let node = compiler.read().and_then(|(node, _)| fit(&mut compiler, node));
        let reads = compiler.reads;
        let Some(node) = node else { return Err(compiler.faults) };
        let thunk = compiler.thunk(node);
        let inputs = std::mem::take(&mut compiler.inputs);
        Ok(Self { source: source.into(), constants: compiler.constants.into(), thunk, reads, inputs })
    }

    pub(super) fn evaluate<'a>(&'a self, scope: &Scope<'a>) -> Result<Value<'a>, EvaluationError> {
        (self.thunk)(&Frame { scope: *scope, constants: &self.constants, local: None })
    }
}
