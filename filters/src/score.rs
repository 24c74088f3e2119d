//! The border between filters and models: what is asked, what comes back.

use std::fmt::Debug;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

/// A body to be scored.
#[derive(Clone, Debug)]
pub struct ScoreCall {
    /// The whole request body.
    pub body: Bytes,
    /// Member names of a record that only the gateway may set; the scorer reports where it met them.
    pub reserved: Arc<[Box<str>]>,
    /// Time left for the score.
    pub budget: Duration,
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

    /// Version of the model.
    fn version(&self) -> &str;

    /// Scores here and now where the model is cheap enough for that; `None` asks for [`Scorer::submit`].
    fn score(&self, call: &ScoreCall) -> Option<Scores>;

    /// Scores on the model's own threads; ends with [`ScoreFault::Late`] when the budget is used up,
    /// with [`ScoreFault::Busy`] when the queue is full.
    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>>;
}
