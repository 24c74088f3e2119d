//! The types of expressions, known before a request comes.

use std::fmt;

/// What is known of a value before there is a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Bool,
    Int,
    Double,
    String,
    /// A point in time.
    Timestamp,
    List(Box<Type>),
    /// A map from strings.
    Map(Box<Type>),
    /// Known only at evaluation: a claim.
    Dyn,
}

impl Type {
    pub(super) fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    pub(super) fn map(of: Self) -> Self {
        Self::Map(Box::new(of))
    }

    /// True where a value of this type can stand where `wanted` is asked for.
    pub(super) fn fits(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(a), Self::List(b)) | (Self::Map(a), Self::Map(b)) => a.fits(b),
            (a, b) => a == b,
        }
    }

    /// True where values of both types can be equal.
    pub(super) fn comparable(&self, other: &Self) -> bool {
        self.fits(other) || (self.numeric() && other.numeric())
    }

    pub(super) fn numeric(&self) -> bool {
        matches!(self, Self::Int | Self::Double | Self::Dyn)
    }

    /// The type of a value that is of one of two types.
    pub(super) fn join(self, other: &Self) -> Self {
        if self == *other { self } else { Self::Dyn }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(of) => write!(f, "list of {of}"),
            Self::Map(of) => write!(f, "map of {of}"),
            Self::Dyn => f.write_str("any"),
        }
    }
}
