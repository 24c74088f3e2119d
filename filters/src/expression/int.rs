//! Expressions of type int.

use std::fmt;

use super::compile::{Compiler, Frame, Thunk};
use super::inputs::Input;
use super::types::Type;
use super::value::{Constant, Value};
use super::{Environment, EvaluationError, Reads, Scope};
use crate::chain::Built;
use crate::fault::Path;

/// An expression of type int.
pub struct IntExpression {
    source: Box<str>,
    constants: Box<[Constant]>,
    thunk: Thunk,
    reads: Reads,
    inputs: Vec<Input>,
}

impl IntExpression {
    /// Reads an expression that must be of type int; every fault of it otherwise, at `at`. `what` names it there.
    ///
    /// At most 4 KiB of text and 32 levels of nesting.
    pub fn new(source: &str, what: &str, environment: &Environment, at: &Path) -> Built<Self> {
        let mut compiler = Compiler::new(source, environment, at);
        let node = compiler.read().and_then(|(node, _)| compiler.typed(node, &Type::Int, what));
        let reads = compiler.reads;
        let Some(node) = node else { return Err(compiler.faults) };
        let thunk = compiler.thunk(node);
        let inputs = std::mem::take(&mut compiler.inputs);
        Ok(Self { source: source.into(), constants: compiler.constants.into(), thunk, reads, inputs })
    }

    pub const fn reads(&self) -> Reads {
        self.reads
    }

    /// The names it reads, each once.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The value for one request. A claim that is no whole number is an error.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<i64, EvaluationError> {
        match (self.thunk)(&Frame { scope: *scope, constants: &self.constants, local: None })? {
            Value::Int(value) => Ok(value),
            other => Err(EvaluationError::Type { wanted: "int", found: other.kind() }),
        }
    }
}

impl fmt::Debug for IntExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntExpression").field(&self.source).finish()
    }
}
