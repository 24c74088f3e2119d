//! Operators: logic that absorbs errors, comparison, checked arithmetic, membership.

use std::cmp::Ordering;
use std::ops::Range;

use cel::common::ast::{CallExpr, IdedExpr, operators};
use http::HeaderName;

use super::EvaluationError;
use super::compile::{Compiler, Evaluated, Kind, Node, Pure2, Test};
use super::syntax::Syntax;
use super::types::Type;
use super::value::{Constant, Value, joined};
use crate::fault::Code;

impl Compiler<'_> {
    pub(super) fn operator(&mut self, syntax: &Syntax, expr: &IdedExpr, call: &CallExpr) -> Option<Node> {
        let range = syntax.range(expr);
        // Every operand is looked at before the first fault ends this node.
        let nodes: Vec<_> = call.args.iter().map(|arg| self.node(syntax, arg)).collect();
        let mut nodes = nodes.into_iter().collect::<Option<Vec<_>>>()?.into_iter();
        match (call.func_name.as_str(), nodes.next(), nodes.next(), nodes.next()) {
            (operators::LOGICAL_NOT, Some(a), None, None) => self.not(a, range),
            (operators::NEGATE, Some(a), None, None) => self.negate(a, range),
            (operators::LOGICAL_AND, Some(a), Some(b), None) => self.logic(a, b, false, range),
            (operators::LOGICAL_OR, Some(a), Some(b), None) => self.logic(a, b, true, range),
            (operators::CONDITIONAL, Some(test), Some(a), Some(b)) => self.conditional(test, a, b, range),
            (operators::EQUALS, Some(a), Some(b), None) => self.equality(a, b, true, range),
            (operators::NOT_EQUALS, Some(a), Some(b), None) => self.equality(a, b, false, range),
            (operators::LESS, Some(a), Some(b), None) => self.comparison(a, b, range, Ordering::is_lt),
            (operators::LESS_EQUALS, Some(a), Some(b), None) => self.comparison(a, b, range, Ordering::is_le),
            (operators::GREATER, Some(a), Some(b), None) => self.comparison(a, b, range, Ordering::is_gt),
            (operators::GREATER_EQUALS, Some(a), Some(b), None) => {
                self.comparison(a, b, range, Ordering::is_ge)
            }
            (operators::ADD, Some(a), Some(b), None) => self.add(a, b, range),
            (operators::SUBSTRACT, Some(a), Some(b), None) => self.arithmetic(a, b, range, subtract),
            (operators::MULTIPLY, Some(a), Some(b), None) => self.arithmetic(a, b, range, multiply),
            (operators::DIVIDE, Some(a), Some(b), None) => self.arithmetic(a, b, range, divide),
            (operators::MODULO, Some(a), Some(b), None) => self.modulo(a, b, range),
            (operators::IN, Some(a), Some(b), None) => self.membership(b, a),
            (operators::INDEX, Some(a), Some(b), None) => self.index(a, b),
            (other, ..) => {
                let what = format!("the operator {}", other.replace('_', ""));
                self.unsupported(range, &what, "use ! && || == != < <= > >= + - * / % in ?: and []")
            }
        }
    }

    fn not(&mut self, a: Node, range: Range<usize>) -> Option<Node> {
        let a = self.typed(a, &Type::Bool, "the operand of !")?;
        let kind = if let Kind::Constant(Constant::Bool(value)) = a.kind {
            Kind::Constant(Constant::Bool(!value))
        } else {
            let a = self.test(a);
            Kind::test(move |frame| a(frame).map(|value| !value))
        };
        Some(Node { kind, ty: Type::Bool, range })
    }

    fn negate(&mut self, a: Node, range: Range<usize>) -> Option<Node> {
        if !a.ty.numeric() {
            let message = format!("- takes a number, and this is of type {}", a.ty);
            return self.fault(Code::EXPRESSION_TYPE, a.range, message, None);
        }
        let ty = a.ty.clone();
        Some(self.pure(a, ty, range, |value| match value {
            Value::Int(value) => value.checked_neg().map(Value::Int).ok_or(EvaluationError::Overflow),
            Value::Double(value) => Ok(Value::Double(-value)),
            other => Err(EvaluationError::Type { wanted: "number", found: other.kind() }),
        }))
    }

    /// `||` where `decides` is true, `&&` where it is false: the value that decides alone, whatever
    /// the other side gives, an error included.
    fn logic(&mut self, a: Node, b: Node, decides: bool, range: Range<usize>) -> Option<Node> {
        let by = if decides { "an operand of ||" } else { "an operand of &&" };
        let (a, b) = (self.typed(a, &Type::Bool, by), self.typed(b, &Type::Bool, by));
        let (a, b) = (a?, b?);
        let kind = match (a.kind, b.kind) {
            (Kind::Constant(Constant::Bool(value)), other)
            | (other, Kind::Constant(Constant::Bool(value))) => {
                if value == decides {
                    Kind::Constant(Constant::Bool(decides))
                } else {
                    let rest = Node { kind: other, ty: Type::Bool, range: range.clone() };
                    match rest.kind {
                        Kind::Constant(Constant::Bool(value)) => Kind::Constant(Constant::Bool(value)),
                        kind => Kind::Test(self.test(Node { kind, ..rest })),
                    }
                }
            }
            (x, y) => {
                let x = self.test(Node { kind: x, ty: Type::Bool, range: a.range });
                let y = self.test(Node { kind: y, ty: Type::Bool, range: b.range });
                if decides { Kind::Test(or(x, y)) } else { Kind::Test(and(x, y)) }
            }
        };
        Some(Node { kind, ty: Type::Bool, range })
    }

    fn conditional(&mut self, test: Node, a: Node, b: Node, range: Range<usize>) -> Option<Node> {
        let test = self.typed(test, &Type::Bool, "the condition of ?:")?;
        if !a.ty.fits(&b.ty) {
            let message = format!("both sides of : must be of one type, and these are {} and {}", a.ty, b.ty);
            return self.fault(Code::EXPRESSION_TYPE, a.range.start..b.range.end, message, None);
        }
        let ty = a.ty.clone().join(&b.ty);
        if let Kind::Constant(Constant::Bool(value)) = test.kind {
            return Some(Node { kind: if value { a.kind } else { b.kind }, ty, range });
        }
        let (test, a, b) = (self.test(test), self.thunk(a), self.thunk(b));
        let kind = Kind::thunk(move |frame| if test(frame)? { a(frame) } else { b(frame) });
        Some(Node { kind, ty, range })
    }

    fn equality(&mut self, a: Node, b: Node, equal: bool, range: Range<usize>) -> Option<Node> {
        if !a.ty.comparable(&b.ty) {
            let message = format!("{} and {} are never equal", a.ty, b.ty);
            return self.fault(Code::EXPRESSION_TYPE, range, message, None);
        }
        let kind = match (a.kind, b.kind) {
            (Kind::Constant(x), Kind::Constant(y)) => {
                Kind::Constant(Constant::Bool(x.value().equals(&y.value()) == equal))
            }
            // The commonest comparisons by far: a text of the request with a literal.
            (Kind::Constant(Constant::Str(text)), Kind::Text(read))
            | (Kind::Text(read), Kind::Constant(Constant::Str(text))) => {
                Kind::test(move |frame| Ok((*read(&frame.scope) == *text) == equal))
            }
            (Kind::Constant(Constant::Str(text)), Kind::Thunk(thunk))
            | (Kind::Thunk(thunk), Kind::Constant(Constant::Str(text))) => Kind::test(move |frame| {
                Ok(matches!(thunk(frame)?, Value::Str(found) if *found == *text) == equal)
            }),
            (x, y) => {
                let x = self.thunk(Node { kind: x, ty: a.ty, range: a.range });
                let y = self.thunk(Node { kind: y, ty: b.ty, range: b.range });
                Kind::test(move |frame| Ok(x(frame)?.equals(&y(frame)?) == equal))
            }
        };
        Some(Node { kind, ty: Type::Bool, range })
    }

    fn comparison(
        &mut self,
        a: Node,
        b: Node,
        range: Range<usize>,
        holds: fn(Ordering) -> bool,
    ) -> Option<Node> {
        let ordered = |ty: &Type| ty.numeric() || matches!(ty, Type::String | Type::Bool | Type::Timestamp);
        if !(a.ty.comparable(&b.ty) && ordered(&a.ty) && ordered(&b.ty)) {
            let message = format!("{} and {} have no order", a.ty, b.ty);
            return self.fault(Code::EXPRESSION_TYPE, range, message, None);
        }
        if let (Kind::Constant(x), Kind::Constant(y)) = (&a.kind, &b.kind)
            && let Ok(order) = x.value().order(&y.value())
        {
            let kind = Kind::Constant(Constant::Bool(order.is_some_and(holds)));
            return Some(Node { kind, ty: Type::Bool, range });
        }
        let (a, b) = (self.thunk(a), self.thunk(b));
        let kind = Kind::test(move |frame| Ok(a(frame)?.order(&b(frame)?)?.is_some_and(holds)));
        Some(Node { kind, ty: Type::Bool, range })
    }

    fn add(&mut self, a: Node, b: Node, range: Range<usize>) -> Option<Node> {
        match (&a.ty, &b.ty) {
            (Type::String, Type::String | Type::Dyn) | (Type::Dyn, Type::String) => {
                Some(self.pure2(a, b, Type::String, range, add))
            }
            (Type::String, other) | (other, Type::String) => {
                let message = format!("+ cannot join string and {other}");
                let help = "write string(..) around the value that is not a string".to_owned();
                self.fault(Code::EXPRESSION_TYPE, range, message, Some(help))
            }
            (Type::List(_), _) | (_, Type::List(_)) => {
                self.unsupported(range, "+ between lists", "test each list with in, joined by ||")
            }
            _ => self.arithmetic(a, b, range, add),
        }
    }

    fn modulo(&mut self, a: Node, b: Node, range: Range<usize>) -> Option<Node> {
        if a.ty == Type::Double || b.ty == Type::Double {
            return self.fault(Code::EXPRESSION_TYPE, range, "% takes integers", None);
        }
        self.arithmetic(a, b, range, modulo)
    }

    fn arithmetic(&mut self, a: Node, b: Node, range: Range<usize>, apply: Pure2) -> Option<Node> {
        if !(a.ty.numeric() && b.ty.numeric()) {
            let message = format!("no arithmetic between {} and {}", a.ty, b.ty);
            return self.fault(Code::EXPRESSION_TYPE, range, message, None);
        }
        if !a.ty.fits(&b.ty) {
            let help = Some("write double(..) around the integer".to_owned());
            return self.fault(Code::EXPRESSION_TYPE, range, "no arithmetic between int and double", help);
        }
        let ty = if a.ty == Type::Dyn { b.ty.clone() } else { a.ty.clone() };
        Some(self.pure2(a, b, ty, range, apply))
    }

    /// `item in list`, `key in map`.
    fn membership(&mut self, whole: Node, item: Node) -> Option<Node> {
        match &whole.ty {
            Type::List(of) if !item.ty.comparable(of) => {
                let message = format!("a list of {of} never holds a value of type {}", item.ty);
                self.fault(Code::EXPRESSION_TYPE, item.range, message, None)
            }
            Type::Map(_) if !item.ty.fits(&Type::String) => {
                let message = format!("keys are strings, and this is of type {}", item.ty);
                self.fault(Code::EXPRESSION_TYPE, item.range, message, None)
            }
            Type::List(_) | Type::Map(_) | Type::Dyn => Some(self.holds(whole, item)),
            other => {
                let message = format!("in looks into a list or a map, and this is of type {other}");
                let help = (*other == Type::String).then(|| "use contains() on a string".to_owned());
                self.fault(Code::EXPRESSION_TYPE, whole.range, message, help)
            }
        }
    }

    /// Whether a list or map, as its type says, holds an item or key.
    pub(super) fn holds(&mut self, whole: Node, item: Node) -> Node {
        let range = whole.range.start.min(item.range.start)..whole.range.end.max(item.range.end);
        let kind = match (whole.kind, item.kind) {
            (Kind::Headers, Kind::Constant(Constant::Str(name))) => match HeaderName::try_from(&*name) {
                Ok(name) => Kind::test(move |frame| Ok(frame.scope.head.headers.contains_key(&name))),
                Err(_) => Kind::Constant(Constant::Bool(false)),
            },
            (Kind::Constant(list), Kind::Constant(item)) => {
                Kind::Constant(Constant::Bool(holds(&list.value(), &item.value()).unwrap_or(false)))
            }
            (kind, Kind::Constant(Constant::Str(text))) => {
                let whole = self.thunk(Node { kind, ty: whole.ty, range: whole.range });
                Kind::test(move |frame| match whole(frame)? {
                    Value::List(list) => Ok(list.holds_text(&text)),
                    Value::Map(map) => Ok(map.holds(&text)),
                    other => Err(EvaluationError::Type { wanted: "list or map", found: other.kind() }),
                })
            }
            (whole_kind, item_kind) => {
                let whole = self.thunk(Node { kind: whole_kind, ty: whole.ty, range: whole.range });
                let item = self.thunk(Node { kind: item_kind, ty: item.ty, range: item.range });
                Kind::test(move |frame| holds(&whole(frame)?, &item(frame)?))
            }
        };
        Node { kind, ty: Type::Bool, range }
    }

    fn index(&mut self, whole: Node, key: Node) -> Option<Node> {
        let (wanted, of) = match &whole.ty {
            Type::List(of) => (Type::Int, of.as_ref().clone()),
            Type::Map(of) => (Type::String, of.as_ref().clone()),
            Type::Dyn if matches!(key.ty, Type::Int | Type::String | Type::Dyn) => (Type::Dyn, Type::Dyn),
            Type::Dyn => (Type::String, Type::Dyn),
            other => {
                let message = format!("[] takes a list or a map, and this is of type {other}");
                return self.fault(Code::EXPRESSION_TYPE, whole.range, message, None);
            }
        };
        let key = self.typed(key, &wanted, "the value between [ ]")?;
        if let (Kind::Headers, Kind::Constant(Constant::Str(name))) = (&whole.kind, &key.kind)
            && HeaderName::try_from(&**name).is_err()
        {
            let message = format!("{name:?} is not a header name");
            return self.fault(Code::EXPRESSION_NAME, key.range, message, None);
        }
        Some(self.at(whole, key, of))
    }

    /// The element of a list or map, as its type says; an error where there is none.
    pub(super) fn at(&mut self, whole: Node, key: Node, ty: Type) -> Node {
        let range = whole.range.start..key.range.end.max(whole.range.end);
        let kind = match (whole.kind, key.kind) {
            (Kind::Headers, Kind::Constant(Constant::Str(name))) => match HeaderName::try_from(&*name) {
                Ok(name) => {
                    Kind::thunk(move |frame| joined(&frame.scope.head.headers.get_all(&name), name.as_str()))
                }
                Err(_) => Kind::thunk(move |_| Err(EvaluationError::Absent(name.clone()))),
            },
            (whole_kind, key_kind) => {
                let computed = !matches!(key_kind, Kind::Constant(_));
                let whole = self.thunk(Node { kind: whole_kind, ty: whole.ty, range: whole.range });
                let key = self.thunk(Node { kind: key_kind, ty: key.ty, range: key.range });
                Kind::thunk(move |frame| {
                    let found = element(whole(frame)?, &key(frame)?);
                    if computed { found.map_err(unnamed) } else { found }
                })
            }
        };
        Node { kind, ty, range }
    }
}

fn and(a: Test, b: Test) -> Test {
    Box::new(move |frame| match a(frame) {
        Ok(true) => b(frame),
        Ok(false) => Ok(false),
        Err(error) => {
            if b(frame) == Ok(false) {
                Ok(false)
            } else {
                Err(error)
            }
        }
    })
}

fn or(a: Test, b: Test) -> Test {
    Box::new(move |frame| match a(frame) {
        Ok(false) => b(frame),
        Ok(true) => Ok(true),
        Err(error) => {
            if b(frame) == Ok(true) {
                Ok(true)
            } else {
                Err(error)
            }
        }
    })
}

fn holds(whole: &Value<'_>, item: &Value<'_>) -> Evaluated<bool> {
    match whole {
        Value::List(list) => Ok(list.holds(item)),
        Value::Map(map) => Ok(map.holds(item.str()?)),
        other => Err(EvaluationError::Type { wanted: "list or map", found: other.kind() }),
    }
}

/// Hides a key that came with the request: errors are written down, and it may be a secret.
fn unnamed(error: EvaluationError) -> EvaluationError {
    match error {
        EvaluationError::Absent(_) => EvaluationError::Absent("(computed)".into()),
        EvaluationError::NotUtf8(_) => EvaluationError::NotUtf8("(computed)".into()),
        other => other,
    }
}

fn element<'a>(whole: Value<'a>, key: &Value<'_>) -> Evaluated<Value<'a>> {
    match (whole, key) {
        (Value::List(list), Value::Int(index)) => {
            let element = usize::try_from(*index).ok().and_then(|index| list.at(index));
            element.ok_or(EvaluationError::Index(*index))
        }
        (Value::List(_), other) => Err(EvaluationError::Type { wanted: "int", found: other.kind() }),
        (Value::Map(map), key) => map.at(key.str()?),
        (other, _) => Err(EvaluationError::Type { wanted: "list or map", found: other.kind() }),
    }
}

fn add<'a>(a: Value<'a>, b: Value<'a>) -> Evaluated<Value<'a>> {
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => Ok(Value::Str(a + b)),
        (a, b) => numbers(a, b, i64::checked_add, |a, b| a + b),
    }
}

fn subtract<'a>(a: Value<'a>, b: Value<'a>) -> Evaluated<Value<'a>> {
    numbers(a, b, i64::checked_sub, |a, b| a - b)
}

fn multiply<'a>(a: Value<'a>, b: Value<'a>) -> Evaluated<Value<'a>> {
    numbers(a, b, i64::checked_mul, |a, b| a * b)
}

fn divide<'a>(a: Value<'a>, b: Value<'a>) -> Evaluated<Value<'a>> {
    if matches!(b, Value::Int(0)) {
        return Err(EvaluationError::DivisionByZero);
    }
    numbers(a, b, i64::checked_div, |a, b| a / b)
}

fn modulo<'a>(a: Value<'a>, b: Value<'a>) -> Evaluated<Value<'a>> {
    match (a, b) {
        (Value::Int(_), Value::Int(0)) => Err(EvaluationError::DivisionByZero),
        (Value::Int(a), Value::Int(b)) => a.checked_rem(b).map(Value::Int).ok_or(EvaluationError::Overflow),
        (Value::Int(_), other) | (other, _) => {
            Err(EvaluationError::Type { wanted: "int", found: other.kind() })
        }
    }
}

fn numbers<'a>(
    a: Value<'a>,
    b: Value<'a>,
    ints: fn(i64, i64) -> Option<i64>,
    doubles: fn(f64, f64) -> f64,
) -> Evaluated<Value<'a>> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => ints(a, b).map(Value::Int).ok_or(EvaluationError::Overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(doubles(a, b))),
        (Value::Int(_), other) => Err(EvaluationError::Type { wanted: "int", found: other.kind() }),
        (Value::Double(_), other) => Err(EvaluationError::Type { wanted: "double", found: other.kind() }),
        (other, _) => Err(EvaluationError::Type { wanted: "number", found: other.kind() }),
    }
}
