//! Expressions of type int.

use std::fmt;

use super::inputs::Input;
use super::types::Type;
use super::value::Value;
use super::valued::Valued;
use super::{Environment, EvaluationError, Reads, Scope};
use crate::chain::Built;
use crate::fault::Path;

/// An expression of type int.
pub struct IntExpression(Valued);

impl IntExpression {
    /// Reads an expression that must be of type int; every fault of it otherwise, at `at`. `what` names it there.
    ///
    /// At most 4 KiB of text and 32 levels of nesting.
    pub fn new(source: &str, what: &str, environment: &Environment, at: &Path) -> Built<Self> {
        Valued::new(source, environment, at, |compiler, node| compiler.typed(node, &Type::Int, what))
            .map(Self)
    }

    pub const fn reads(&self) -> Reads {
        self.0.reads
    }

    /// The names it reads, each once.
    pub fn inputs(&self) -> &[Input] {
        &self.0.inputs
    }

    /// The value for one request. A claim that is no whole number is an error.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<i64, EvaluationError> {
        match self.0.evaluate(scope)? {
            Value::Int(value) => Ok(value),
            other => Err(EvaluationError::Type { wanted: "int", found: other.kind() }),
        }
    }
}

impl fmt::Debug for IntExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IntExpression").field(&self.0.source).finish()
    }
}
