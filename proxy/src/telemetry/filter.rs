//! Which decisions are asked for: the same words for queries, the console and commands.

use std::fmt;
use std::str::FromStr;

use foregate_filters::fault::closest;
use foregate_filters::reason::Reason;
use foregate_filters::step::Step;

use crate::telemetry::record::Record;

/// The words of a filter.
pub const WORDS: [&str; 7] = ["route", "status", "step", "reason", "rule", "consumer", "refused"];

/// Stands for the absence of a name: of requests that found no route, of refusals without a rule.
const NONE: &str = "-";

/// Decisions pass that fit all of it; the empty one lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    route: Option<Box<str>>,
    status: Option<Status>,
    step: Option<Step>,
    reason: Option<Reason>,
    rule: Option<Box<str>>,
    consumer: Option<Box<str>>,
    refused: bool,
}

/// A status code, or a class of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Code(u16),
    /// `4xx` is 4.
    Class(u16),
}

/// A filter that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("`{0}` is no word of a filter; there are {words}", words = WORDS.join(", "))]
    Word(Box<str>),
    #[error("{word} `{value}` is not known{}", near(.closest.as_ref()))]
    Value { word: &'static str, value: Box<str>, closest: Option<&'static str> },
    #[error("status is a code such as 429 or a class such as 4xx, not `{0}`")]
    Status(Box<str>),
    #[error("refused is true or false, not `{0}`")]
    Refused(Box<str>),
    #[error("{0} is given without a value")]
    Empty(&'static str),
    #[error("{0} is given twice")]
    Twice(&'static str),
}

fn near(closest: Option<&&'static str>) -> String {
    closest.map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

impl Filter {
    /// Reads pairs of words and values.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        let mut known = Vec::new();
        for (word, value) in pairs {
            let Some(word) = WORDS.into_iter().find(|known| *known == word) else {
                return Err(FilterError::Word(word.into()));
            };
            if known.contains(&word) {
                return Err(FilterError::Twice(word));
            }
            if value.is_empty() {
                return Err(FilterError::Empty(word));
            }
            known.push(word);
            filter.set(word, value)?;
        }
        Ok(filter)
    }

    fn set(&mut self, word: &'static str, value: &str) -> Result<(), FilterError> {
        let name = || Some(if value == NONE { "".into() } else { value.into() });
        match word {
            "route" => self.route = name(),
            "rule" => self.rule = name(),
            "consumer" => self.consumer = name(),
            "status" => self.status = Some(value.parse()?),
            "step" => {
                let find = Step::ALL.into_iter().find(|step| step.name() == value);
                self.step = Some(find.ok_or_else(|| unknown(word, value, Step::ALL.map(Step::name)))?);
            }
            "reason" => {
                let names = Reason::ALL.iter().map(|reason| reason.name());
                self.reason = Some(Reason::from_name(value).ok_or_else(|| unknown(word, value, names))?);
            }
            _ => self.refused = value.parse().map_err(|_| FilterError::Refused(value.into()))?,
        }
        Ok(())
    }

    /// The words that are set, as a query has them.
    pub fn words(&self) -> Vec<(&'static str, String)> {
        let name = |name: &Option<Box<str>>| {
            name.as_deref().map(|name| if name.is_empty() { NONE } else { name }.to_owned())
        };
        let [route, status, step, reason, rule, consumer, refused] = WORDS;
        let set = [
            (route, name(&self.route)),
            (status, self.status.map(|status| status.to_string())),
            (step, self.step.map(|step| step.name().to_owned())),
            (reason, self.reason.map(|reason| reason.name().to_owned())),
            (rule, name(&self.rule)),
            (consumer, name(&self.consumer)),
            (refused, self.refused.then(|| "true".to_owned())),
        ];
        set.into_iter().filter_map(|(word, value)| Some((word, value?))).collect()
    }

    /// A route goes by the name of its document, and of its rule behind that: `leads`, or `leads/writers`.
    fn on_route(&self, name: &str) -> bool {
        self.route.as_deref().is_none_or(|asked| match name.strip_prefix(asked) {
            Some(rest) => rest.is_empty() || (rest.starts_with('/') && !asked.is_empty()),
            None => false,
        })
    }

    /// True where the decision fits.
    pub fn passes(&self, record: &Record) -> bool {
        let refusal = record.refusal.as_ref();
        let named = |asked: &Option<Box<str>>, name: &str| asked.as_deref().is_none_or(|it| it == name);
        if self.refused && refusal.is_none() || !self.on_route(&record.route) {
            return false;
        }
        if self.status.is_some_and(|status| record.protocol.is_stream() || !status.holds(record.status)) {
            return false;
        }
        let consumer = record.consumer.as_ref().map_or("", |consumer| &*consumer.name);
        if !named(&self.consumer, consumer) {
            return false;
        }
        let Some(refusal) = refusal else {
            return self.step.is_none() && self.reason.is_none() && self.rule.is_none();
        };
        self.step.is_none_or(|step| step == refusal.step)
            && self.reason.is_none_or(|reason| reason == refusal.reason)
            && named(&self.rule, &refusal.rule)
    }
}

fn unknown(word: &'static str, value: &str, known: impl IntoIterator<Item = &'static str>) -> FilterError {
    FilterError::Value { word, value: value.into(), closest: closest(value, known) }
}

impl Status {
    const fn holds(self, code: u16) -> bool {
        match self {
            Self::Code(asked) => asked == code,
            Self::Class(class) => class == code / 100,
        }
    }
}

impl FromStr for Status {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let wrong = || FilterError::Status(text.into());
        let (number, class) = match text.strip_suffix("xx") {
            Some(class) => (class, true),
            None => (text, false),
        };
        let number: u16 = number.parse().map_err(|_| wrong())?;
        match (class, number) {
            (true, 1..=5) => Ok(Self::Class(number)),
            (false, 100..=599) => Ok(Self::Code(number)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, FilterError};
    use crate::telemetry::testing::{full_record, record};

    fn parse(query: &str) -> Result<Filter, FilterError> {
        Filter::parse(
            query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap()),
        )
    }

    #[test]
    fn every_word_lets_pass_what_it_names_and_nothing_else() {
        for (query, refused, passed) in [
            ("", true, true),
            ("route=leads", true, true),
            ("route=cases", false, false),
            ("route=-", false, false),
            ("status=429", true, false),
            ("status=4xx", true, false),
            ("status=2xx", false, true),
            ("step=admit", true, false),
            ("step=guard", false, false),
            ("reason=RateLimited", true, false),
            ("reason=TokenMissing", false, false),
            ("rule=per-org", true, false),
            ("rule=-", false, false),
            ("consumer=acme", false, false),
            ("consumer=-", true, true),
            ("refused=true", true, false),
            ("refused=false", true, true),
            ("route=leads&status=4xx&step=admit&refused=true", true, false),
            ("route=leads&status=2xx&step=admit", false, false),
        ] {
            let filter = parse(query).unwrap();
            assert_eq!(filter.passes(&full_record()), refused, "refused: {query}");
            assert_eq!(filter.passes(&record()), passed, "passed: {query}");
        }
    }

    #[test]
    fn a_route_is_named_with_its_rule_or_without() {
        let mut record = record();
        record.route = "leads/writers".into();
        for (asked, passes) in
            [("leads", true), ("leads/writers", true), ("lead", false), ("leads/w", false), ("-", false)]
        {
            assert_eq!(Filter::parse([("route", asked)]).unwrap().passes(&record), passes, "{asked}");
        }
    }

    #[test]
    fn words_come_back_as_they_were_given() {
        let query =
            "route=-&status=5xx&step=dispatch&reason=UpstreamTimeout&rule=a b&consumer=acme&refused=true";
        let words = parse(query).unwrap().words();
        let text: Vec<String> = words.iter().map(|(word, value)| format!("{word}={value}")).collect();
        assert_eq!(text.join("&"), query);
        assert_eq!(parse("refused=false&status=404").unwrap().words(), [("status", "404".to_owned())]);
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_what_could() {
        for (query, told) in [
            (
                "rout=leads",
                "`rout` is no word of a filter; there are route, status, step, reason, rule, consumer, refused",
            ),
            ("step=admitt", "step `admitt` is not known; did you mean admit?"),
            ("step=zzz", "step `zzz` is not known"),
            ("reason=RateLimitd", "reason `RateLimitd` is not known; did you mean RateLimited?"),
            ("status=6xx", "status is a code such as 429 or a class such as 4xx, not `6xx`"),
            ("status=99", "status is a code such as 429 or a class such as 4xx, not `99`"),
            ("refused=yes", "refused is true or false, not `yes`"),
            ("rule=", "rule is given without a value"),
            ("rule=a&rule=b", "rule is given twice"),
        ] {
            assert_eq!(parse(query).unwrap_err().to_string(), told, "{query}");
        }
    }
}
