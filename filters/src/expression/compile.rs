//! Turns a syntax tree into typed nodes, and these into closures.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr};

use super::gate::Gate;
use super::inputs::{Input, inputs};
use super::probe::{KeyGate, Known, key_gates};
use super::syntax::Syntax;
use super::types::Type;
use super::value::{Constant, Value};
use super::{Environment, EvaluationError, Reads, Scope};
use crate::fault::{Code, Fault, Path};

pub(super) type Evaluated<T> = Result<T, EvaluationError>;
/// A compiled expression of any type.
pub(super) type Thunk = Box<dyn for<'f, 'a> Fn(&'f Frame<'f, 'a>) -> Evaluated<Value<'a>> + Send + Sync>;
/// A compiled expression of type bool.
pub(super) type Test = Box<dyn for<'f, 'a> Fn(&'f Frame<'f, 'a>) -> Evaluated<bool> + Send + Sync>;
/// A function of one value that reads nothing else.
pub(super) type Pure = for<'a> fn(Value<'a>) -> Evaluated<Value<'a>>;
/// A function of two values that reads nothing else.
pub(super) type Pure2 = for<'a> fn(Value<'a>, Value<'a>) -> Evaluated<Value<'a>>;

/// What closures see during one evaluation.
#[derive(Clone, Copy)]
pub(super) struct Frame<'f, 'a> {
    pub(super) scope: Scope<'a>,
    pub(super) constants: &'a [Constant],
    /// The innermost variable of a macro.
    pub(super) local: Option<&'f Local<'f, 'a>>,
}

/// The variable of a macro, and those around it.
pub(super) struct Local<'f, 'a> {
    pub(super) value: Value<'a>,
    pub(super) outer: Option<&'f Local<'f, 'a>>,
}

/// A typed part of an expression.
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) ty: Type,
    /// Its bytes in the text.
    pub(super) range: Range<usize>,
}

/// How a node is evaluated.
pub(super) enum Kind {
    Constant(Constant),
    Test(Test),
    Thunk(Thunk),
    /// A text that every request has.
    Text(for<'a> fn(&Scope<'a>) -> Cow<'a, str>),
    /// All request headers.
    Headers,
    /// An address that is written as text only where text is wanted.
    Address(fn(&Scope<'_>) -> IpAddr),
}

/// Compiles one expression and gathers its faults.
pub(super) struct Compiler<'e> {
    text: &'e str,
    pub(super) environment: &'e Environment,
    pub(super) at: &'e Path,
    pub(super) faults: Vec<Fault>,
    /// What is no fault, and probably not meant.
    pub(super) hints: Vec<Fault>,
    pub(super) constants: Vec<Constant>,
    pub(super) reads: Reads,
    /// Every name the text reads.
    pub(super) inputs: Vec<Input>,
    /// Variables of the macros around the current node, outermost first.
    pub(super) locals: Vec<(String, Type)>,
}

impl Kind {
    pub(super) fn thunk(
        thunk: impl for<'f, 'a> Fn(&'f Frame<'f, 'a>) -> Evaluated<Value<'a>> + Send + Sync + 'static,
    ) -> Self {
        Self::Thunk(Box::new(thunk))
    }

    pub(super) fn test(
        test: impl for<'f, 'a> Fn(&'f Frame<'f, 'a>) -> Evaluated<bool> + Send + Sync + 'static,
    ) -> Self {
        Self::Test(Box::new(test))
    }
}

impl<'e> Compiler<'e> {
    pub(super) fn new(text: &'e str, environment: &'e Environment, at: &'e Path) -> Self {
        Self {
            text,
            environment,
            at,
            faults: Vec::new(),
            hints: Vec::new(),
            constants: Vec::new(),
            reads: Reads::NOTHING,
            inputs: Vec::new(),
            locals: Vec::new(),
        }
    }

    /// The typed tree and its gates; `None` once a fault is noted.
    pub(super) fn read(&mut self) -> Option<(Node, (Gate, Vec<KeyGate>))> {
        match Syntax::parse(self.text, self.at) {
            Ok(syntax) => {
                self.inputs = inputs(&syntax.root);
                let node = self.node(&syntax, &syntax.root)?;
                let known = Known { text: self.text, environment: self.environment, at: self.at };
                let keys = key_gates(&syntax, &known);
                Some((node, (Gate::of(&syntax.root), keys)))
            }
            Err(mut faults) => {
                self.faults.append(&mut faults);
                None
            }
        }
    }

    /// Notes a fault and gives `None`, so that it can end a function.
    pub(super) fn fault<T>(
        &mut self,
        code: Code,
        range: Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Option<T> {
        let mut fault = Fault::new(code, self.at.clone(), message).within(range);
        fault.help = help;
        self.faults.push(fault);
        None
    }

    pub(super) fn unsupported<T>(&mut self, range: Range<usize>, what: &str, instead: &str) -> Option<T> {
        self.fault(
            Code::EXPRESSION_UNSUPPORTED,
            range,
            format!("{what} cannot be used here"),
            Some(instead.to_owned()),
        )
    }

    /// The node, if it can be of the type `wanted`.
    pub(super) fn typed(&mut self, node: Node, wanted: &Type, by: &str) -> Option<Node> {
        if node.ty.fits(wanted) {
            return Some(node);
        }
        let message = format!("{by} must be of type {wanted}, and this is of type {}", node.ty);
        self.fault(Code::EXPRESSION_TYPE, node.range, message, None)
    }

    /// The node, if its value can be the key of a limit.
    pub(super) fn keyed(&mut self, node: Node) -> Option<Node> {
        match node.ty {
            Type::String | Type::Int | Type::Bool | Type::Double | Type::Dyn => Some(node),
            Type::Null | Type::Timestamp | Type::List(_) | Type::Map(_) => {
                let message =
                    format!("a key must be a string, int, bool or double, and this is of type {}", node.ty);
                self.fault(Code::EXPRESSION_TYPE, node.range, message, None)
            }
        }
    }

    pub(super) fn node(&mut self, syntax: &Syntax, expr: &IdedExpr) -> Option<Node> {
        let range = syntax.range(expr);
        match &expr.expr {
            Expr::Literal(literal) => self.literal(literal, range),
            Expr::Ident(name) => self.ident(name, range),
            Expr::Select(select) if select.test => self.has(syntax, expr, select),
            Expr::Select(select) => self.select(syntax, expr, select),
            Expr::Call(call) => self.call(syntax, expr, call),
            Expr::Comprehension(comprehension) => self.comprehension(syntax, comprehension, range),
            Expr::List(list) => {
                let items: Vec<_> = list.elements.iter().map(|item| self.node(syntax, item)).collect();
                Some(self.list(items.into_iter().collect::<Option<_>>()?, range))
            }
            Expr::Map(_) => self.unsupported(range, "a map literal", "compare the values one by one"),
            Expr::Struct(_) => self.unsupported(range, "a message", "only plain values exist here"),
            Expr::Unspecified => {
                self.fault(Code::EXPRESSION_SYNTAX, range, "the expression is not well-formed", None)
            }
        }
    }

    fn literal(&mut self, literal: &LiteralValue, range: Range<usize>) -> Option<Node> {
        let (constant, ty) = match literal {
            LiteralValue::Null => (Constant::Null, Type::Null),
            LiteralValue::Boolean(value) => (Constant::Bool(*value.inner()), Type::Bool),
            LiteralValue::Int(value) => (Constant::Int(*value.inner()), Type::Int),
            LiteralValue::Double(value) => (Constant::Double(*value.inner()), Type::Double),
            LiteralValue::String(value) => (Constant::Str(value.inner().into()), Type::String),
            LiteralValue::UInt(_) => {
                return self.unsupported(range, "an unsigned number", "write it without u");
            }
            LiteralValue::Bytes(_) => {
                return self.unsupported(range, "a byte string", "write a string, without b");
            }
        };
        Some(Node { kind: Kind::Constant(constant), ty, range })
    }

    fn list(&mut self, items: Vec<Node>, range: Range<usize>) -> Node {
        let mut types = items.iter().map(|item| item.ty.clone());
        let first = types.next().unwrap_or(Type::Dyn);
        let ty = Type::list(types.fold(first, |all, one| all.join(&one)));
        let constants: Option<Vec<_>> = items
            .iter()
            .map(|item| if let Kind::Constant(constant) = &item.kind { Some(constant.clone()) } else { None })
            .collect();
        let kind = if let Some(constants) = constants {
            Kind::Constant(Constant::List(constants.into()))
        } else {
            let items: Vec<Thunk> = items.into_iter().map(|item| self.thunk(item)).collect();
            Kind::thunk(move |frame| {
                let values = items.iter().map(|item| item(frame)).collect::<Evaluated<Vec<_>>>()?;
                Ok(Value::List(super::value::List::Values(values)))
            })
        };
        Node { kind, ty, range }
    }

    /// A selection on a value: a member of a map.
    pub(super) fn member(&mut self, node: Node, name: &str, range: Range<usize>) -> Option<Node> {
        let of = match &node.ty {
            Type::Map(of) => of.as_ref().clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let message = format!("{other} has no fields");
                return self.fault(Code::EXPRESSION_TYPE, range, message, None);
            }
        };
        let key = Node { kind: Kind::Constant(Constant::Str(name.into())), ty: Type::String, range };
        Some(self.at(node, key, of))
    }

    /// `has(a.b)`: whether the member is there.
    fn has(&mut self, syntax: &Syntax, expr: &IdedExpr, select: &SelectExpr) -> Option<Node> {
        let range = syntax.range(expr);
        if self.names_field(select) {
            // A claim, or a field of somebody who need not be there: present if it can be read.
            let node = self.field(syntax, expr, select)?;
            if node.ty != Type::Dyn && !Self::optional_field(select) {
                let message = "has() asks for a member of a map, and this field is always there";
                return self.fault(Code::EXPRESSION_TYPE, node.range, message, None);
            }
            let thunk = self.thunk(node);
            let kind = Kind::test(move |frame| match thunk(frame) {
                Ok(_) => Ok(true),
                Err(
                    EvaluationError::Absent(_)
                    | EvaluationError::NoPeer
                    | EvaluationError::NotCaptured
                    | EvaluationError::NoConsumer
                    | EvaluationError::NoPrincipal,
                ) => Ok(false),
                Err(error) => Err(error),
            });
            return Some(Node { kind, ty: Type::Bool, range });
        }
        let operand = self.node(syntax, &select.operand)?;
        if !operand.ty.fits(&Type::map(Type::Dyn)) {
            let message = format!("has() asks for a member of a map, and this is of type {}", operand.ty);
            return self.fault(Code::EXPRESSION_TYPE, operand.range, message, None);
        }
        let key = Node {
            kind: Kind::Constant(Constant::Str(select.field.as_str().into())),
            ty: Type::String,
            range,
        };
        Some(self.holds(operand, key))
    }

    fn select(&mut self, syntax: &Syntax, expr: &IdedExpr, select: &SelectExpr) -> Option<Node> {
        if self.names_field(select) {
            return self.field(syntax, expr, select);
        }
        let operand = self.node(syntax, &select.operand)?;
        self.member(operand, &select.field, syntax.range(expr))
    }

    fn call(&mut self, syntax: &Syntax, expr: &IdedExpr, call: &CallExpr) -> Option<Node> {
        match call.target.as_deref() {
            None if !call.func_name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                self.operator(syntax, expr, call)
            }
            target => self.function(syntax, expr, call, target),
        }
    }

    /// The closure that gives the node's value.
    pub(super) fn thunk(&mut self, node: Node) -> Thunk {
        match node.kind {
            Kind::Thunk(thunk) => thunk,
            Kind::Test(test) => Box::new(move |frame| test(frame).map(Value::Bool)),
            Kind::Text(read) => Box::new(move |frame| Ok(Value::Str(read(&frame.scope)))),
            Kind::Headers => {
                Box::new(|frame| Ok(Value::Map(super::value::Map::Headers(&frame.scope.head.headers))))
            }
            Kind::Address(address) => {
                Box::new(move |frame| Ok(Value::Str(Cow::Owned(address(&frame.scope).to_string()))))
            }
            Kind::Constant(constant) => match constant {
                Constant::Null => Box::new(|_| Ok(Value::Null)),
                Constant::Bool(value) => Box::new(move |_| Ok(Value::Bool(value))),
                Constant::Int(value) => Box::new(move |_| Ok(Value::Int(value))),
                Constant::Double(value) => Box::new(move |_| Ok(Value::Double(value))),
                Constant::Time(value) => Box::new(move |_| Ok(Value::Time(value))),
                constant @ (Constant::Str(_) | Constant::List(_)) => {
                    let index = self.constants.len();
                    self.constants.push(constant);
                    Box::new(move |frame| Ok(frame.constants.get(index).map_or(Value::Null, Constant::value)))
                }
            },
        }
    }

    /// The closure that gives the node's value as a bool.
    pub(super) fn test(&mut self, node: Node) -> Test {
        match node.kind {
            Kind::Test(test) => test,
            Kind::Constant(Constant::Bool(value)) => Box::new(move |_| Ok(value)),
            kind => {
                let thunk = self.thunk(Node { kind, ty: node.ty, range: node.range });
                Box::new(move |frame| thunk(frame)?.bool())
            }
        }
    }

    /// Applies a pure function, at once where its argument is constant.
    pub(super) fn pure(&mut self, node: Node, ty: Type, range: Range<usize>, apply: Pure) -> Node {
        if let Kind::Constant(constant) = &node.kind
            && let Some(folded) = apply(constant.value()).ok().as_ref().and_then(Constant::of)
        {
            return Node { kind: Kind::Constant(folded), ty, range };
        }
        let thunk = self.thunk(node);
        Node { kind: Kind::thunk(move |frame| apply(thunk(frame)?)), ty, range }
    }

    /// Applies a pure function, at once where both arguments are constant.
    pub(super) fn pure2(&mut self, a: Node, b: Node, ty: Type, range: Range<usize>, apply: Pure2) -> Node {
        if let (Kind::Constant(a), Kind::Constant(b)) = (&a.kind, &b.kind)
            && let Some(folded) = apply(a.value(), b.value()).ok().as_ref().and_then(Constant::of)
        {
            return Node { kind: Kind::Constant(folded), ty, range };
        }
        let (a, b) = (self.thunk(a), self.thunk(b));
        Node { kind: Kind::thunk(move |frame| apply(a(frame)?, b(frame)?)), ty, range }
    }
}
