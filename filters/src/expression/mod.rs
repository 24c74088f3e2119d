//! CEL expressions, type-checked when they are read and compiled to closures.

mod body;
mod calls;
mod compile;
pub mod gate;
pub mod inputs;
pub mod int;
mod macros;
mod names;
mod operators;
mod paths;
pub mod probe;
mod syntax;
#[cfg(test)]
mod tests;
mod time;
mod types;
mod value;
mod valued;

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use http::request;

use crate::chain::Built;
use crate::context::RequestContext;
use crate::fault::{Fault, Path};
use compile::{Compiler, Frame, Test};
use gate::Gate;
use inputs::Input;
use probe::KeyGate;
use types::Type;
use value::Constant;
use valued::Valued;

/// An `enrich` rule that expressions may name, and what of it they may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enriched {
    pub name: String,
    /// False where it is known that its model has no classes.
    pub class: bool,
    /// True where it names bands of scores.
    pub band: bool,
}

/// What expressions of one policy may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The `enrich` rules that run before the expression.
    pub rules: Vec<Enriched>,
    /// True where a token is required, so that `jwt` can be read.
    pub principal: bool,
    /// True where an API key is accepted, so that `consumer` can be read.
    pub consumer: bool,
    /// True where whoever reads `request.body` is asked once it is there.
    pub body: bool,
}

/// What an expression reads when it is evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub head: &'a request::Parts,
    pub ctx: &'a RequestContext,
}

/// The parts of a request an expression reads: a bit set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads(u8);

/// Why an expression has no value for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    #[error("there is no verified token")]
    NoPrincipal,
    #[error("the connection has no peer certificate with such a SPIFFE id")]
    NoPeer,
    #[error("the connection was not redirected here, so that it has no other destination")]
    NotCaptured,
    #[error("there is no API key")]
    NoConsumer,
    #[error("enrich rule {0} left no score")]
    NoScore(Box<str>),
    #[error("no such key: {0}")]
    Absent(Box<str>),
    #[error("no element {0}")]
    Index(i64),
    #[error("{wanted} wanted, {found} found")]
    Type { wanted: &'static str, found: &'static str },
    #[error("integer overflow")]
    Overflow,
    #[error("division by zero")]
    DivisionByZero,
    #[error("not {0}")]
    Conversion(&'static str),
    #[error("header {0} is not UTF-8")]
    NotUtf8(Box<str>),
    #[error("the key is empty")]
    EmptyKey,
    #[error("the cost must be from 0 to 1000000, and is {0}")]
    Cost(i64),
    #[error("the body cannot be read: {0}")]
    Body(&'static str),
}

/// An expression of type bool.
pub struct BoolExpression {
    source: Box<str>,
    constants: Box<[Constant]>,
    test: Test,
    reads: Reads,
    inputs: Vec<Input>,
    gate: Gate,
    keys: Vec<KeyGate>,
}

/// An expression whose value, as text, is a key.
pub struct KeyExpression(Valued);

impl Reads {
    pub const NOTHING: Self = Self(0);
    /// The request head.
    pub const REQUEST: Self = Self(1);
    /// The connection: the client address, and the workload at the other end.
    pub const SOURCE: Self = Self(2);
    /// The verified token or API key.
    pub const PRINCIPAL: Self = Self(4);
    /// What an `enrich` rule found out.
    pub const SCORE: Self = Self(8);
    /// The whole request body.
    pub const BODY: Self = Self(16);

    /// True where every part of `other` is read.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Reads {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Reads {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// What an expression that compiles probably does not mean: claims that resemble names of ours.
pub fn hints(source: &str, environment: &Environment, at: &Path) -> Vec<Fault> {
    let mut compiler = Compiler::new(source, environment, at);
    let _ = compiler.read();
    compiler.hints
}

impl BoolExpression {
    /// Reads an expression that must be of type bool; every fault of it otherwise, at `at`.
    ///
    /// At most 4 KiB of text and 32 levels of nesting.
    pub fn new(source: &str, environment: &Environment, at: &Path) -> Built<Self> {
        let mut compiler = Compiler::new(source, environment, at);
        let (node, gates) = compiler.read().unzip();
        let node = node.and_then(|node| compiler.typed(node, &Type::Bool, "an access rule or condition"));
        let reads = compiler.reads;
        let (Some(node), Some((gate, keys))) = (node, gates) else { return Err(compiler.faults) };
        let test = compiler.test(node);
        let inputs = std::mem::take(&mut compiler.inputs);
        let constants = compiler.constants.into();
        Ok(Self { source: source.into(), constants, test, reads, inputs, gate, keys })
    }

    pub const fn reads(&self) -> Reads {
        self.reads
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The names it reads, each once.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// What method and path it needs to be true.
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What strings it compares values with to be true.
    pub fn keys(&self) -> &[KeyGate] {
        &self.keys
    }

    /// The value for one request. Never blocks; takes time in proportion to the lists it looks through.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<bool, EvaluationError> {
        (self.test)(&Frame { scope: *scope, constants: &self.constants, local: None })
    }
}

impl KeyExpression {
    /// Reads an expression whose value can be a key: string, int, bool, double, or a claim.
    pub fn new(source: &str, environment: &Environment, at: &Path) -> Built<Self> {
        Valued::new(source, environment, at, Compiler::keyed).map(Self)
    }

    pub const fn reads(&self) -> Reads {
        self.0.reads
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The names it reads, each once.
    pub fn inputs(&self) -> &[Input] {
        &self.0.inputs
    }

    /// Hands the key of one request, as text, to `with`. A key that is empty, null, a list or a map
    /// is an error.
    pub fn evaluate<T>(&self, scope: &Scope<'_>, with: impl FnOnce(&str) -> T) -> Result<T, EvaluationError> {
        let value = self.0.evaluate(scope)?;
        let text = value.key()?;
        if text.is_empty() { Err(EvaluationError::EmptyKey) } else { Ok(with(&text)) }
    }
}

impl fmt::Debug for BoolExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoolExpression").field(&self.source).finish()
    }
}

impl fmt::Debug for KeyExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyExpression").field(&self.0.source).finish()
    }
}
