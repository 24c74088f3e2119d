//! The border between filters and models: what is asked, what comes back.

use std::fmt::Debug;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::decimal;

/// A body to be scored.
#[derive(Clone, Debug)]
pub struct ScoreCall {
    /// The whole request body.
    pub body: Bytes,
    /// Member names of a record that only the gateway may set; the scorer reports where it met them.
    pub reserved: Arc<[Box<str>]>,
    /// Time left for the score.
    pub budget: Duration,
    /// The moment of the request, since the Unix epoch: what dates of records are held against.
    pub now: Duration,
    /// True where the reasons for the scores are wanted too. They cost more than the scores.
    pub explain: bool,
}

/// One record found in the body, and its score.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordScore {
    /// The score, a probability in 0..=1 for classifiers; why there is none otherwise.
    pub score: Result<f32, ScoreFault>,
    /// Byte offset just behind the `{` of the record: where members may be inserted.
    pub insert_at: usize,
    /// True where the record has no other member left, so that no comma may follow an inserted one.
    pub empty: bool,
    /// Byte ranges to remove so that reserved members sent by the client are gone, commas included;
    /// sorted, not overlapping, all at or behind `insert_at`.
    pub reserved: SmallVec<[Range<usize>; 1]>,
    /// What the model says beside the score; `None` where that is all it says.
    pub detail: Option<Box<Detail>>,
    /// The version that gave the score, where that is not the one of [`Scorer::version`].
    pub version: Option<Arc<str>>,
}

/// What a model says beside one score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    /// The class whose probability the score is.
    pub class: Option<Arc<str>>,
    /// All columns of the output: probabilities of the classes in order, or an embedding. Empty for one score, and where
    /// a body was scored: nothing in a request reads them.
    pub values: Vec<f32>,
    /// Of a ranking: the best items, best first.
    pub items: Vec<Item>,
    /// Why the score is what it is; `None` where nobody asked, time ran out, or the model gives no reasons.
    pub reasons: Option<Reasons>,
}

/// One item of a ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub key: Arc<str>,
    /// For people.
    pub label: Option<Arc<str>>,
    pub score: f32,
}

/// What each feature adds to a score, in the unit of the model before its last transform: log-odds for most
/// classifiers. `base` and all contributions together are that margin; only the largest are listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reasons {
    /// What the model says of the average record.
    pub base: f32,
    pub margin: f32,
    /// By falling size.
    pub predictors: Vec<Predictor>,
}

/// One feature and what it adds.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictor {
    pub contribution: f32,
    pub label: Arc<str>,
    pub name: Arc<str>,
    /// JSON; `None` where it is absent or must not be told.
    pub value: Option<Box<str>>,
}

impl Reasons {
    /// Appends the JSON of Salesforce predictions: `[{"contributionValue":..,"predictorFields":[{..}]}]`.
    pub fn push_json(&self, text: &mut String) {
        let quoted = |word: &str| serde_json::Value::from(word).to_string();
        text.push('[');
        for (place, predictor) in self.predictors.iter().enumerate() {
            text.push_str(if place == 0 { "" } else { "," });
            text.push_str("{\"contributionValue\":");
            decimal::push_score(text, predictor.contribution);
            text.push_str(",\"predictorFields\":[{\"label\":");
            text.push_str(&quoted(&predictor.label));
            text.push_str(",\"name\":");
            text.push_str(&quoted(&predictor.name));
            text.push_str(",\"value\":");
            text.push_str(predictor.value.as_deref().unwrap_or("null"));
            text.push_str("}]}");
        }
        text.push(']');
    }
}

/// What a model can say beside its scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// True where each score is that of a class.
    pub classes: bool,
    /// Items that it ranks; 0 where it ranks none.
    pub items: usize,
    /// True where it can tell reasons.
    pub reasons: bool,
}

/// Why there is no score.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreFault {
    /// The body is not the JSON that the feature spec reads. The offset is in bytes.
    #[error("byte {offset}: {what}")]
    Body { offset: usize, what: &'static str },
    /// A feature is missing or of the wrong type, and has no default.
    #[error("feature {0}")]
    Feature(Box<str>),
    /// The budget ran out.
    #[error("late")]
    Late,
    /// The queue of the model is full.
    #[error("queue full")]
    Busy,
    /// The model itself failed, or gave NaN or infinity.
    #[error("model: {0}")]
    Model(Box<str>),
}

/// The outcome for one body: every record in order of appearance, or why the body cannot be read.
pub type Scores = Result<Vec<RecordScore>, ScoreFault>;

/// A model ready to score.
pub trait Scorer: Debug + Send + Sync {
    /// Name of the model, as the policy has it.
    fn model(&self) -> &str;

    /// Version of the model; of a rollout, the one in production.
    fn version(&self) -> &str;

    /// What it can say beside scores; `None` where that is not known before it is asked.
    fn offer(&self) -> Option<Offer> {
        None
    }

    /// Scores here and now where the model is cheap enough for that; `None` asks for [`Scorer::submit`].
    fn score(&self, call: &ScoreCall) -> Option<Scores>;

    /// Scores on the model's own threads; ends with [`ScoreFault::Late`] when the budget is used up,
    /// with [`ScoreFault::Busy`] when the queue is full.
    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>>;
}

#[cfg(test)]
mod tests {
    use super::{Predictor, Reasons};

    #[test]
    fn reasons_are_told_in_the_words_of_salesforce() {
        let predictor = |contribution, value: Option<&str>| Predictor {
            contribution,
            label: "Visits \"30 d\"".into(),
            name: "visits".into(),
            value: value.map(Into::into),
        };
        let predictors = vec![predictor(0.25, Some("14")), predictor(-0.125, None)];
        let mut text = String::new();
        Reasons { base: 0.0, margin: 0.125, predictors }.push_json(&mut text);
        assert_eq!(
            text,
            r#"[{"contributionValue":0.25,"predictorFields":[{"label":"Visits \"30 d\"","name":"visits","value":14}]},"#
                .to_owned()
                + r#"{"contributionValue":-0.125,"predictorFields":[{"label":"Visits \"30 d\"","name":"visits","value":null}]}]"#
        );
    }
}
