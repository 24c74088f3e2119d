//! Turns the values of one feature into its columns.

use std::borrow::Cow;

use foregate_filters::json::{Kind, Scalar};
use smallvec::SmallVec;

use super::date::{UtcTime, parse};
use super::draft::Slot;
use super::spec::{Default, FeatureSpec, FeatureType, SpecError};
use super::strings::TextCode;
use super::text::{Buckets, Ngrams};
use super::trie::Node;
use crate::table::Tables;

/// The compiled transforms of one feature. All arithmetic in f64, cast to f32 at the end.
#[derive(Debug)]
pub(super) enum Encoder {
    Number { source: Source, absent: Option<f64>, log: bool, shape: Shape },
    Text { absent: Option<Box<str>>, lenient: bool, code: TextCode },
    Words { absent: Option<Box<str>>, lenient: bool, ngrams: Ngrams },
    Flag { absent: Option<bool>, lenient: bool },
}

/// Where a number comes from. The members are the first ones of the feature, in this order.
#[derive(Debug)]
pub(super) enum Source {
    Member {
        lenient: bool,
    },
    /// What the feature store has.
    Store,
    /// The time between a member and another one, or the moment of the request.
    Span {
        lenient: bool,
        to_now: bool,
        until: bool,
        unit: f64,
    },
}

#[derive(Debug)]
pub(super) enum Shape {
    Plain,
    Scale { mean: f64, std: f64 },
    Bucket(Box<[f64]>),
}

/// The members of one feature in one record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'s, 'a> {
    pub(super) slots: &'s [Slot<'a>],
    pub(super) nodes: &'s [Node],
    /// The moment of the request.
    pub(super) now: UtcTime,
    /// What the feature store has for this feature.
    pub(super) stored: Option<f32>,
}

/// Code points of a value that explanations tell, at most.
const MAX_TOLD: usize = 80;
const WRONG_TYPE: &str = "of the wrong type";
const ABSENT: &str = "required, but absent";
const TOO_LARGE: &str = "a number beyond its range";

impl<'a> Values<'_, 'a> {
    fn at(&self, place: usize) -> Slot<'a> {
        let node = self.nodes.get(place);
        node.and_then(|node| self.slots.get(node.index())).copied().unwrap_or_default()
    }
}

impl Encoder {
    pub(super) fn new(spec: &FeatureSpec, tables: &Tables) -> Result<Self, SpecError> {
        let sources = [spec.default.is_some(), spec.impute.is_some(), spec.missing.is_some()];
        if sources.into_iter().filter(|set| *set).count() > 1 {
            return Err(spec.error("only one of `default`, `impute` and `missing`"));
        }
        let numeric = spec.impute.is_some() || spec.missing.is_some() || spec.log;
        let numeric = numeric || spec.scale.is_some() || spec.bucket.is_some();
        let coded = spec.one_hot.is_some() || spec.ordinal.is_some() || spec.hash.is_some();
        let coded = coded || spec.otherwise.is_some() || spec.lookup.is_some();
        let dated = spec.since.is_some() || spec.until.is_some() || spec.unit.is_some();
        let written = !spec.also.is_empty() || spec.normalize.is_some() || spec.ngrams.is_some();
        let kind = spec.kind;
        if numeric && !matches!(kind, FeatureType::Number | FeatureType::Date) {
            return Err(spec.error("a transform of numbers on what is none"));
        }
        if coded && kind != FeatureType::String {
            return Err(spec.error("an encoding of strings on what is none"));
        }
        if dated && kind != FeatureType::Date {
            return Err(spec.error("`since`, `until` and `unit` belong to a date"));
        }
        if written && kind != FeatureType::Text {
            return Err(spec.error("`also`, `normalize` and `ngrams` belong to a text"));
        }
        if spec.store.is_some() && (kind != FeatureType::Number || spec.lenient) {
            return Err(spec.error("what is looked up in a store is a number, and never `lenient`"));
        }
        if spec.store.is_some() && sources.into_iter().all(|set| !set) {
            return Err(spec
                .error("what is looked up needs a `default`, `impute` or `missing`: a key may be unknown"));
        }
        match kind {
            FeatureType::Number if spec.store.is_some() => number(spec, Source::Store),
            FeatureType::Number => number(spec, Source::Member { lenient: spec.lenient }),
            FeatureType::Date => number(spec, span(spec)?),
            FeatureType::String => {
                let code = TextCode::new(spec, tables)?;
                Ok(Self::Text { absent: text_default(spec)?, lenient: spec.lenient, code })
            }
            FeatureType::Text => {
                let ngrams = ngrams(spec)?;
                Ok(Self::Words { absent: text_default(spec)?, lenient: spec.lenient, ngrams })
            }
            FeatureType::Boolean => match &spec.default {
                None => Ok(Self::Flag { absent: None, lenient: spec.lenient }),
                Some(Default::Boolean(flag)) => Ok(Self::Flag { absent: Some(*flag), lenient: spec.lenient }),
                Some(_) => Err(spec.error("the default is not a boolean")),
            },
        }
    }

    /// Columns this feature gives.
    pub(super) fn width(&self) -> usize {
        match self {
            Self::Number { shape: Shape::Bucket(edges), .. } => edges.len() + 1,
            Self::Text { code, .. } => code.width(),
            Self::Words { ngrams, .. } => ngrams.buckets.len(),
            Self::Number { .. } | Self::Flag { .. } => 1,
        }
    }

    /// Appends exactly `width` columns, or tells why the values have none.
    pub(super) fn encode(&self, values: Values<'_, '_>, out: &mut Vec<f32>) -> Result<(), &'static str> {
        match self {
            Self::Number { source, absent, log, shape } => {
                let value = match source.read(values)? {
                    Some(value) => value,
                    None => absent.ok_or(ABSENT)?,
                };
                shape.encode(if *log { log1p(value) } else { value }, out)
            }
            Self::Text { absent, lenient, code } => match values.at(0).typed(Kind::String, *lenient)? {
                Some(scalar) => code.encode(&scalar.unescape(), out),
                None => code.encode(absent.as_deref().ok_or(ABSENT)?, out),
            },
            Self::Words { absent, lenient, ngrams } => {
                let mut fields = SmallVec::<[Cow<'_, str>; 4]>::new();
                for place in 0..values.nodes.len() {
                    fields.extend(values.at(place).typed(Kind::String, *lenient)?.map(|it| it.unescape()));
                }
                if fields.is_empty() {
                    fields.push(Cow::Borrowed(absent.as_deref().ok_or(ABSENT)?));
                }
                ngrams.encode(fields.iter().map(AsRef::as_ref), out);
                Ok(())
            }
            Self::Flag { absent, lenient } => {
                let flag = match values.at(0) {
                    Slot::Scalar(scalar) if scalar.kind == Kind::True => true,
                    other => match other.typed(Kind::False, *lenient)? {
                        Some(_) => false,
                        None => absent.ok_or(ABSENT)?,
                    },
                };
                out.push(if flag { 1.0 } else { 0.0 });
                Ok(())
            }
        }
    }
}

impl<'a> Slot<'a> {
    /// The value where it has this kind; `None` where it is absent or null, or counts as such.
    fn typed(&self, kind: Kind, lenient: bool) -> Result<Option<Scalar<'a>>, &'static str> {
        match self {
            Self::Scalar(scalar) if scalar.kind == kind => Ok(Some(*scalar)),
            Self::Absent => Ok(None),
            Self::Scalar(scalar) if scalar.kind == Kind::Null => Ok(None),
            Self::Scalar(_) | Self::Container if lenient => Ok(None),
            Self::Scalar(_) | Self::Container => Err(WRONG_TYPE),
        }
    }

    fn number(&self, lenient: bool) -> Result<Option<f64>, &'static str> {
        let read = |text: &str| read_number(text).filter(|x| x.is_finite()).ok_or(TOO_LARGE);
        match self {
            Self::Scalar(scalar) if lenient && scalar.kind == Kind::String => {
                let text = scalar.unescape();
                let text = text.trim_matches([' ', '\t', '\r', '\n']);
                if is_number(text) { read(text).map(Some) } else { Ok(None) }
            }
            _ => self.typed(Kind::Number, lenient)?.map(|scalar| read(scalar.raw)).transpose(),
        }
    }

    fn date(&self, lenient: bool) -> Result<Option<UtcTime>, &'static str> {
        let Some(scalar) = self.typed(Kind::String, lenient)? else { return Ok(None) };
        match parse(&scalar.unescape()) {
            None if lenient => Ok(None),
            None => Err("a text that is no date"),
            time => Ok(time),
        }
    }
}

impl Slot<'_> {
    /// The value as JSON, cut short; `None` where it is absent or no scalar.
    pub(super) fn told(&self) -> Option<Box<str>> {
        let Self::Scalar(scalar) = self else { return None };
        match scalar.kind {
            Kind::String => {
                let text = scalar.unescape();
                let cut: String = text.chars().take(MAX_TOLD).collect();
                serde_json::to_string(&cut).ok().map(Into::into)
            }
            Kind::Null => None,
            _ => (scalar.raw.len() <= MAX_TOLD).then(|| scalar.raw.into()),
        }
    }
}

impl Source {
    fn read(&self, values: Values<'_, '_>) -> Result<Option<f64>, &'static str> {
        match self {
            Self::Member { lenient } => values.at(0).number(*lenient),
            Self::Store => Ok(values.stored.map(f64::from)),
            Self::Span { lenient, to_now, until, unit } => {
                let value = values.at(0).date(*lenient)?;
                let end = if *to_now { Some(values.now) } else { values.at(1).date(*lenient)? };
                let Some((value, end)) = value.zip(end) else { return Ok(None) };
                Ok(Some(if *until { end.since(value, *unit) } else { value.since(end, *unit) }))
            }
        }
    }
}

fn number(spec: &FeatureSpec, source: Source) -> Result<Encoder, SpecError> {
    let absent = match (&spec.default, spec.impute, spec.missing) {
        (Some(Default::Number(value)), ..) => Some(*value),
        (None, Some(value), _) => Some(value),
        (Some(_), ..) => return Err(spec.error("the default is not a number")),
        (None, None, Some(_)) if spec.bucket.is_some() => {
            return Err(spec.error("`missing: nan` has no bucket"));
        }
        (None, None, Some(_)) => Some(f64::NAN),
        (None, None, None) => None,
    };
    if spec.missing.is_none() && absent.is_some_and(|value| !value.is_finite()) {
        return Err(spec.error("the stand-in for an absent value must be finite"));
    }
    let shape = match (spec.scale, &spec.bucket) {
        (Some(_), Some(_)) => return Err(spec.error("`scale` or `bucket`, not both")),
        (Some(scale), None) => {
            if !(scale.mean.is_finite() && scale.std.is_finite() && scale.std > 0.0) {
                return Err(spec.error("`scale` needs a finite mean and a std above zero"));
            }
            Shape::Scale { mean: scale.mean, std: scale.std }
        }
        (None, Some(bucket)) => {
            let rises = bucket.edges.is_sorted_by(|a, b| a < b) && bucket.edges.iter().all(|x| x.is_finite());
            if !rises || bucket.edges.is_empty() {
                return Err(spec.error("bucket edges must rise, and be at least one"));
            }
            Shape::Bucket(bucket.edges.clone().into())
        }
        (None, None) => Shape::Plain,
    };
    Ok(Encoder::Number { source, absent, log: spec.log, shape })
}

fn span(spec: &FeatureSpec) -> Result<Source, SpecError> {
    let (end, until) = match (&spec.since, &spec.until) {
        (Some(end), None) => (end, false),
        (None, Some(end)) => (end, true),
        _ => return Err(spec.error("a date needs exactly one of `since` and `until`")),
    };
    let unit = spec.unit.unwrap_or_default().seconds();
    Ok(Source::Span { lenient: spec.lenient, to_now: end == "now", until, unit })
}

fn text_default(spec: &FeatureSpec) -> Result<Option<Box<str>>, SpecError> {
    match &spec.default {
        None => Ok(None),
        Some(Default::String(text)) => Ok(Some(text.as_str().into())),
        Some(_) => Err(spec.error("the default is not a string")),
    }
}

fn ngrams(spec: &FeatureSpec) -> Result<Ngrams, SpecError> {
    let rules = spec.ngrams.as_ref().ok_or_else(|| spec.error("a text needs `ngrams`"))?;
    let normalize = spec.normalize.clone().unwrap_or_default();
    let ranges = [rules.words, rules.chars];
    let sound = |range: &[usize; 2]| matches!(range, [low, high] if 1 <= *low && low <= high && *high <= 8);
    if !ranges.iter().flatten().all(sound) || ranges.iter().flatten().count() == 0 {
        return Err(spec.error("`ngrams` needs `words` or `chars`, each from 1 to 8"));
    }
    if normalize.unaccent && !normalize.lower {
        return Err(spec.error("`unaccent` needs `lower`"));
    }
    if normalize.digits.is_some_and(|digit| !digit.is_ascii_alphanumeric()) {
        return Err(spec.error("`digits` is one ASCII letter or digit"));
    }
    Ok(Ngrams {
        lower: normalize.lower,
        unaccent: normalize.unaccent,
        digits: normalize.digits,
        words: rules.words.map(Into::into),
        chars: rules.chars.map(Into::into),
        buckets: Buckets::new(rules.buckets).ok_or_else(|| spec.error("a hash needs at least one bucket"))?,
        tf: rules.tf,
        norm: rules.norm,
    })
}

impl Shape {
    fn encode(&self, value: f64, out: &mut Vec<f32>) -> Result<(), &'static str> {
        match self {
            Self::Plain => push(value, out),
            Self::Scale { mean, std } => push((value - mean) / std, out),
            Self::Bucket(edges) => {
                one_of(edges.len() + 1, Some(edges.partition_point(|edge| *edge <= value)), out);
                Ok(())
            }
        }
    }
}

/// The number that JSON text means. Most are whole and short: those need no algorithm for floats.
fn read_number(text: &str) -> Option<f64> {
    match text.parse::<u32>() {
        Ok(number) => Some(f64::from(number)),
        Err(_) => text.parse().ok(),
    }
}

/// True for a number of JSON (RFC 8259, section 6), and nothing around it.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (text, exponent) =
        text.split_once(['e', 'E']).map_or((text, None), |(text, tail)| (text, Some(tail)));
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, tail)| (whole, Some(tail)));
    let exponent = exponent.map(|tail| tail.strip_prefix(['+', '-']).unwrap_or(tail));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

/// Appends one column; NaN is a value here, beyond f32 is a fault.
pub(super) fn push(value: f64, out: &mut Vec<f32>) -> Result<(), &'static str> {
    if value.abs() > f64::from(f32::MAX) {
        return Err(TOO_LARGE);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked; the tensor is f32")]
    out.push(value as f32);
    Ok(())
}

pub(super) fn one_of(width: usize, column: Option<usize>, out: &mut Vec<f32>) {
    let start = out.len();
    out.resize(start + width, 0.0);
    if let Some(cell) = column.and_then(|column| out.get_mut(start + column)) {
        *cell = 1.0;
    }
}

/// `ln(1 + x)` with x clamped at 0 from below; NaN stays NaN.
fn log1p(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x.ln_1p() }
}
