//! A loaded bundle as the filters see it: bodies in, scores out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::score::{RecordScore, ScoreCall, ScoreFault, Scorer, Scores};

use crate::bundle::{Bundle, Cost};
use crate::features::Plan;
use crate::features::extract::{Extraction, Found};
use crate::model::Model;
use crate::pool::{Pool, run};

/// Bodies over this size are not read on the worker thread that serves other requests too, in bytes.
const INLINE_BODY: usize = 32 * 1024;
/// Work for one request on the worker thread, at most.
const INLINE_TIME: Duration = Duration::from_micros(200);

/// Scores with one model: at once where that is cheap, else on threads of its own.
#[derive(Debug)]
pub struct ModelScorer {
    name: Box<str>,
    version: Box<str>,
    plan: Plan,
    model: Arc<dyn Model>,
    cost: Cost,
    /// Time one row of a large batch takes.
    per_row: Duration,
    pool: Pool,
}

impl ModelScorer {
    /// Makes a scorer under the name that the policy gives the model; `threads` serve what does not run inline.
    pub fn new(name: &str, bundle: Bundle, threads: usize) -> io::Result<Self> {
        let Bundle { version, plan, model, cost, per_row, .. } = bundle;
        let pool = Pool::start(model.clone(), threads)?;
        Ok(Self { name: name.into(), version, plan, model, cost, per_row, pool })
    }

    /// Where single records are scored.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    async fn answer(&self, call: ScoreCall) -> Scores {
        let Extraction { records, rows } = self.plan.extract(&call.body, &call.reserved)?;
        let count = scorable(&records);
        if count == 0 {
            return Ok(join(records, &[]));
        }
        let answer = match self.pool.submit(rows, count, call.budget) {
            Ok(answer) => match tokio::time::timeout(call.budget, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(ScoreFault::Model("its thread is gone".into())),
                Err(_) => Err(ScoreFault::Late),
            },
            Err(fault) => Err(fault),
        };
        Ok(conclude(records, answer))
    }
}

fn scorable(records: &[Found]) -> usize {
    records.iter().filter(|record| record.features.is_ok()).count()
}

/// Gives every record that has features its score, in order.
fn join(records: Vec<Found>, scores: &[f32]) -> Vec<RecordScore> {
    let mut scores = scores.iter().copied();
    let missing = || ScoreFault::Model("a record without a score".into());
    records
        .into_iter()
        .map(|record| RecordScore {
            score: record.features.and_then(|()| scores.next().ok_or_else(missing)),
            insert_at: record.insert_at,
            empty: record.empty,
            reserved: record.reserved,
        })
        .collect()
}

/// A fault of the model is the fault of each record; where they lie stays known, so that defaults can be written.
fn conclude(records: Vec<Found>, answer: Result<Vec<f32>, ScoreFault>) -> Vec<RecordScore> {
    match answer {
        Ok(scores) => join(records, &scores),
        Err(fault) => {
            let failed = |mut record: Found| {
                record.features = record.features.and(Err(fault.clone()));
                record
            };
            join(records.into_iter().map(failed).collect(), &[])
        }
    }
}

impl Scorer for ModelScorer {
    fn model(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn score(&self, call: &ScoreCall) -> Option<Scores> {
        if self.cost == Cost::Threads || call.body.len() > INLINE_BODY {
            return None;
        }
        let Extraction { records, rows } = match self.plan.extract(&call.body, &call.reserved) {
            Ok(extraction) => extraction,
            Err(fault) => return Some(Err(fault)),
        };
        let count = scorable(&records);
        let time = self.per_row.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        if count > 1 && time > INLINE_TIME.min(call.budget) {
            return None;
        }
        if count == 0 {
            return Some(Ok(join(records, &[])));
        }
        Some(Ok(conclude(records, run(&*self.model, &rows, count))))
    }

    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>> {
        Box::pin(self.answer(call))
    }
}
