//! A loaded bundle as the filters see it: bodies in, scores out.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::score::{Detail, Offer, RecordScore, ScoreCall, ScoreFault, Scorer, Scores};

use crate::bundle::manifest::Manifest;
use crate::bundle::reference::Reference;
use crate::bundle::{Bundle, Cost};
use crate::clock::Stopwatch;
use crate::features::extract::{Extraction, Found, MAX_RECORDS};
use crate::features::{Plan, Reading};
use crate::live::Live;
use crate::model::{Model, ModelError};
use crate::output::Output;
use crate::pool::{Answer, Pool, Ran, run};
use crate::reasons::{Contributions, tell};
use crate::remote::{Columns, Remote};

/// Bodies over this size are not scored on the worker thread that serves other requests too, in bytes.
const INLINE_BODY: usize = 32 * 1024;
/// Work for one request on the worker thread, at most.
const INLINE_TIME: Duration = Duration::from_micros(200);

/// Scores with one model: at once where that is cheap, else on threads of its own.
///
/// Which of the two, runs measured at load decide at first, and what runs cost lately from then on.
#[derive(Debug)]
pub struct ModelScorer {
    name: Box<str>,
    version: Box<str>,
    digest: Box<str>,
    manifest: Manifest,
    reference: Option<Arc<Reference>>,
    plan: Plan,
    model: Arc<dyn Model>,
    output: Arc<Output>,
    live: Arc<Live>,
    /// Runs what is not explained, where another process has the model.
    remote: Option<Arc<dyn Remote>>,
    pool: Pool,
    offer: Offer,
}

/// The features of a body.
#[derive(Debug)]
pub(crate) struct Features {
    /// One for each record: true where it has a row.
    pub(crate) present: Vec<bool>,
    /// Row-major.
    pub(crate) rows: Vec<f32>,
}

/// Rows of features that are to be scored.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Row-major, as wide as the features of the model.
    pub cells: Vec<f32>,
    pub count: usize,
    /// True where the reasons are wanted too.
    pub explain: bool,
    /// One value a feature of each row, as [`Extraction`] has them; empty where they are not known.
    pub values: Vec<Option<Box<str>>>,
}

/// The scores of rows.
#[derive(Debug)]
pub struct Scored {
    pub scores: Vec<RowScore>,
    /// How long they waited for a thread of the model, all in all.
    pub queued: Duration,
}

/// The score of one row, and what there is to say beside it.
pub type RowScore = (f32, Option<Box<Detail>>);

impl ModelScorer {
    /// Makes a scorer under the name that the policy gives the model; `threads` serve what does not run inline.
    pub fn new(name: &str, bundle: Bundle, threads: usize) -> Self {
        let Bundle {
            version, digest, manifest, reference, plan, model, output, cost, placed, per_row, ..
        } = bundle;
        let live = Arc::new(Live::new(cost, per_row, !placed));
        let pool = Pool::new(model.clone(), threads, Arc::clone(&live));
        let offer = output.offer(explains(&*model, plan.width()));
        let (name, remote) = (name.into(), None);
        Self { name, version, digest, manifest, reference, plan, model, output, live, remote, pool, offer }
    }

    /// The same with scores from another process. Features, checks and reasons stay here.
    #[must_use]
    pub fn with_remote(self, remote: Arc<dyn Remote>) -> Self {
        Self { remote: Some(remote), ..self }
    }

    /// True where another process gives the scores.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// SHA-256 of the manifest of the bundle, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The population it was trained on, where its bundle tells.
    pub fn reference(&self) -> Option<&Arc<Reference>> {
        self.reference.as_ref()
    }

    /// Columns of one row.
    pub(crate) fn width(&self) -> usize {
        self.plan.width()
    }

    /// True where a body like this one is scored on the thread that asks, as things are.
    pub(crate) fn is_inline(&self, call: &ScoreCall) -> bool {
        // Reasons cost more than any score that is given here.
        let cheap = self.cost() == Cost::Inline && self.remote.is_none();
        cheap && !call.explain && call.body.len() <= INLINE_BODY
    }

    /// Reads a body that was answered, and runs nothing.
    pub(crate) fn features(&self, call: &ScoreCall) -> Result<Features, ScoreFault> {
        let Extraction { records, rows, .. } = self.extract_again(call)?;
        Ok(Features { present: records.iter().map(|record| record.features.is_ok()).collect(), rows })
    }

    /// Scores a body that was answered, on this thread, whatever that costs; where another process scores, this
    /// thread waits.
    pub(crate) fn run_here(&self, call: &ScoreCall) -> Scores {
        let Extraction { records, rows, .. } = self.extract_again(call)?;
        let answer = match (scorable(&records), &self.remote) {
            (0, _) => Ok(Ran::default()),
            (count, None) => run(&*self.model, &rows, count),
            (count, Some(remote)) => {
                let answer = remote.submit(&rows, count, call.budget);
                let columns =
                    answer.and_then(|answer| answer.blocking_recv().unwrap_or_else(|_| Err(gone())));
                columns.map(|cells| Ran { cells, ..Ran::default() })
            }
        };
        Ok(self.conclude(records, answer, &[]))
    }

    /// Where single records are scored now.
    pub fn cost(&self) -> Cost {
        self.live.cost()
    }

    /// The time for one row that 99 of 100 of the last timed runs kept to; zero before the first.
    pub fn p99(&self) -> Duration {
        self.live.p99()
    }

    /// The same of half of them.
    pub fn median(&self) -> Duration {
        self.live.median()
    }

    /// The features of its records.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The model itself.
    pub fn engine(&self) -> &dyn Model {
        &*self.model
    }

    /// What the columns of the output mean.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Scores rows of features that are there already, row-major: at once where that is cheap, else on the
    /// model's threads, in pieces of at most 200 rows. `values` has one a feature of each row, or none at all.
    ///
    /// [`ScoreFault::Late`] and [`ScoreFault::Busy`] as for [`Scorer::submit`].
    pub async fn score_rows(&self, ask: Rows, budget: Duration) -> Result<Scored, ScoreFault> {
        let Rows { cells, count, explain, values } = ask;
        let explain = explain && self.offer.reasons;
        let (watch, width) = (Stopwatch::start(), self.plan.width());
        if cells.len() != count * width {
            return Err(ScoreFault::Model(ModelError::Width.to_string().into()));
        }
        let told = self.plan.features().len().max(1);
        let mut values = values.chunks_exact(told);
        let (mut scores, mut queued) = (Vec::with_capacity(count), Duration::ZERO);
        let cheap = !explain && self.is_cheap(count, budget);
        for piece in cells.chunks((MAX_RECORDS * width).max(1)) {
            let rows = piece.len() / width.max(1);
            let left = budget.saturating_sub(watch.elapsed());
            let ran = if cheap {
                self.run(piece, rows)?
            } else {
                self.run_threaded(piece.to_vec(), rows, left, explain).await?
            };
            queued += ran.queued;
            let mut reasons = ran.reasons.iter();
            scores.extend(ran.cells.chunks_exact(self.model.columns().max(1)).map(|cells| {
                let (score, detail) = self.output.read_whole(cells);
                let reasons = reasons.next().and_then(Option::as_ref);
                (score, self.explained(detail, reasons, values.next().unwrap_or_default()))
            }));
        }
        Ok(Scored { scores, queued })
    }

    /// True where so many rows are scored on the thread of the request.
    fn is_cheap(&self, rows: usize, budget: Duration) -> bool {
        let time = self.live.per_row().saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX));
        let cheap = self.cost() == Cost::Inline && self.remote.is_none();
        cheap && (rows == 1 || time <= INLINE_TIME.min(budget))
    }

    /// Scores off this thread: in the other process where there is one, else on the threads of the model.
    async fn run_threaded(&self, rows: Vec<f32>, count: usize, budget: Duration, explain: bool) -> Answer {
        let Some(remote) = &self.remote else { return self.run_pooled(rows, count, budget, explain).await };
        let asked = self.run_remote(&**remote, &rows, count, budget);
        if !explain {
            return asked.await.map(|cells| Ran { cells, ..Ran::default() });
        }
        // Reasons are sought here, meanwhile: where they are late, the score is given without them.
        let reasons = self.run_pooled(rows.clone(), count, budget / 2, true);
        let (cells, ran) = tokio::join!(asked, reasons);
        Ok(Ran { cells: cells?, ..ran.unwrap_or_default() })
    }

    async fn run_pooled(&self, rows: Vec<f32>, count: usize, budget: Duration, explain: bool) -> Answer {
        let answer = self.pool.submit(rows, count, budget, explain)?;
        match tokio::time::timeout(budget, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(ScoreFault::Late),
        }
    }

    async fn run_remote(&self, remote: &dyn Remote, rows: &[f32], count: usize, budget: Duration) -> Columns {
        let answer = remote.submit(rows, count, budget)?;
        match tokio::time::timeout(budget, answer).await {
            Ok(Ok(columns)) => columns,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(ScoreFault::Late),
        }
    }

    fn extract(&self, call: &ScoreCall) -> Result<Extraction, ScoreFault> {
        let reading = Reading { now: call.now, values: call.explain };
        self.plan.extract(&call.body, &call.reserved, reading)
    }

    fn extract_again(&self, call: &ScoreCall) -> Result<Extraction, ScoreFault> {
        self.plan.extract_again(&call.body, &call.reserved, Reading { now: call.now, values: false })
    }

    async fn answer(&self, call: ScoreCall) -> Scores {
        let Extraction { records, rows, values } = self.extract(&call)?;
        let count = scorable(&records);
        if count == 0 {
            return Ok(self.join(records, &Ran::default(), &[]));
        }
        let explain = call.explain && self.offer.reasons;
        let answer = self.run_threaded(rows, count, call.budget, explain).await;
        Ok(self.conclude(records, answer, &values))
    }

    /// Runs on this thread; now and then with an eye on the clock.
    fn run(&self, rows: &[f32], count: usize) -> Answer {
        if !self.live.is_due() {
            return run(&*self.model, rows, count);
        }
        let watch = Stopwatch::start();
        let answer = run(&*self.model, rows, count);
        self.live.note(watch.elapsed(), count);
        answer
    }

    /// Gives every record that has features its score, in order.
    fn join(&self, records: Vec<Found>, ran: &Ran, values: &[Option<Box<str>>]) -> Vec<RecordScore> {
        let mut cells = ran.cells.chunks_exact(self.model.columns().max(1));
        let mut values = values.chunks_exact(self.plan.features().len().max(1));
        let mut reasons = ran.reasons.iter();
        let mut score = || -> Result<(f32, Option<Box<Detail>>), ScoreFault> {
            let cells = cells.next().ok_or_else(|| ScoreFault::Model("a record without a score".into()))?;
            let (score, detail) = self.output.read(cells);
            let reasons = reasons.next().and_then(Option::as_ref);
            Ok((score, self.explained(detail, reasons, values.next().unwrap_or_default())))
        };
        let join = |record: Found| {
            let Found { features, insert_at, empty, reserved } = record;
            let (score, detail) = match features.and_then(|()| score()) {
                Ok((score, detail)) => (Ok(score), detail),
                Err(fault) => (Err(fault), None),
            };
            RecordScore { score, insert_at, empty, reserved, detail, version: None }
        };
        records.into_iter().map(join).collect()
    }

    fn explained(
        &self,
        detail: Option<Box<Detail>>,
        contributions: Option<&Contributions>,
        values: &[Option<Box<str>>],
    ) -> Option<Box<Detail>> {
        let Some(contributions) = contributions else { return detail };
        let mut detail = detail.unwrap_or_default();
        detail.reasons = Some(tell(&self.plan, contributions, values));
        Some(detail)
    }

    /// A fault of the model is the fault of each record; where they lie stays known, so that defaults can be
    /// written.
    fn conclude(&self, records: Vec<Found>, answer: Answer, values: &[Option<Box<str>>]) -> Vec<RecordScore> {
        match answer {
            Ok(ran) => self.join(records, &ran, values),
            Err(fault) => {
                let failed = |mut record: Found| {
                    record.features = record.features.and(Err(fault.clone()));
                    record
                };
                self.join(records.into_iter().map(failed).collect(), &Ran::default(), &[])
            }
        }
    }
}

fn gone() -> ScoreFault {
    ScoreFault::Model("its thread is gone".into())
}

/// True where the model can tell reasons, of any row.
fn explains(model: &dyn Model, width: usize) -> bool {
    model.explain(&vec![0.0; width], &vec![0.0; model.columns()]).is_some()
}

fn scorable(records: &[Found]) -> usize {
    records.iter().filter(|record| record.features.is_ok()).count()
}

impl Scorer for ModelScorer {
    fn model(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn offer(&self) -> Option<Offer> {
        Some(self.offer)
    }

    fn score(&self, call: &ScoreCall) -> Option<Scores> {
        if !self.is_inline(call) {
            return None;
        }
        let Extraction { records, rows, .. } = match self.extract(call) {
            Ok(extraction) => extraction,
            Err(fault) => return Some(Err(fault)),
        };
        let count = scorable(&records);
        if count > 1 && !self.is_cheap(count, call.budget) {
            return None;
        }
        if count == 0 {
            return Some(Ok(self.join(records, &Ran::default(), &[])));
        }
        let answer = self.run(&rows, count);
        Some(Ok(self.conclude(records, answer, &[])))
    }

    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>> {
        Box::pin(self.answer(call))
    }
}
