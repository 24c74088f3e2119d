//! What is wrong with a specification, and where in its document.

use std::fmt;
use std::ops::Range;

/// The number of a kind of fault, printed as `FG0102`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FG{:04}", self.0)
    }
}

impl Code {
    /// A value is not of the form its field wants (an address, a duration, a header name).
    pub const VALUE: Self = Self(301);
    /// A required value is missing, or two values contradict each other.
    pub const CONFLICT: Self = Self(302);
    /// A value weakens a safe default and is not named under `insecure`.
    pub const INSECURE: Self = Self(303);
    /// A name refers to nothing.
    pub const REFERENCE: Self = Self(304);
    /// A file cannot be read, or does not hold what it should.
    pub const FILE: Self = Self(305);
    /// A secret that is referred to cannot be had, or is not what it should be.
    pub const SECRET: Self = Self(310);
    /// An expression is not well-formed.
    pub const EXPRESSION_SYNTAX: Self = Self(401);
    /// An expression uses a name that does not exist.
    pub const EXPRESSION_NAME: Self = Self(402);
    /// An expression has the wrong type.
    pub const EXPRESSION_TYPE: Self = Self(403);
    /// An expression uses a part of CEL that is not supported.
    pub const EXPRESSION_UNSUPPORTED: Self = Self(404);
    /// A time zone that does not exist.
    pub const TIME_ZONE: Self = Self(677);
    /// A model bundle is refused.
    pub const MODEL: Self = Self(501);
    /// An expression reads a claim whose name is nearly one of ours; a warning.
    pub const CLAIM_LIKENESS: Self = Self(607);
    /// A model is asked for what it does not say.
    pub const MODEL_ANSWER: Self = Self(684);
    /// Steps of a band that leave scores without a name.
    pub const BAND: Self = Self(685);
    /// A feature store cannot be had, or is not what a bundle looks up in.
    pub const FEATURE_STORE: Self = Self(686);
    /// A schema is not one of JSON Schema 2020-12.
    pub const SCHEMA: Self = Self(689);
    /// A reference of a schema leads nowhere, elsewhere, or back to itself.
    pub const SCHEMA_REFERENCE: Self = Self(690);
    /// A pattern cannot be matched in linear time and bounded memory.
    pub const SCHEMA_PATTERN: Self = Self(691);
    /// A schema or contract is larger than any may be.
    pub const SCHEMA_SIZE: Self = Self(692);
    /// A dialect, or a part of one, that is not checked.
    pub const SCHEMA_DIALECT: Self = Self(693);
    /// A contract is not `OpenAPI` 3.0 or 3.1.
    pub const CONTRACT: Self = Self(694);
    /// Bodies of a content type that cannot be checked are asked for.
    pub const CONTENT_TYPE: Self = Self(695);
    /// A part of a contract is passed on unchecked; a warning.
    pub const CONTRACT_UNCHECKED: Self = Self(726);
}

/// One element of the way from the top of a document to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathItem {
    Key(String),
    Index(usize),
}

/// The way from the top of a document to a value, as `spec`, `authorize`, `0`, `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<PathItem>);

impl Path {
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut items = self.0.clone();
        items.push(PathItem::Key(key.to_owned()));
        Self(items)
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut items = self.0.clone();
        items.push(PathItem::Index(index));
        Self(items)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, item) in self.0.iter().enumerate() {
            match item {
                PathItem::Key(key) if position == 0 => f.write_str(key)?,
                PathItem::Key(key) => write!(f, ".{key}")?,
                PathItem::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// One thing that is wrong, at one place of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub at: Path,
    /// Bytes inside the value at `at`, where the fault is narrower than the value.
    pub within: Option<Range<usize>>,
    /// What is wrong, in one line, without a full stop.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl Fault {
    pub fn new(code: Code, at: Path, message: impl Into<String>) -> Self {
        Self { code, at, within: None, message: message.into(), help: None }
    }

    #[must_use]
    pub fn within(mut self, range: Range<usize>) -> Self {
        self.within = Some(range);
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The known name closest to an unknown one, where it is close enough to be a slip.
pub fn closest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&unknown.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.82)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
