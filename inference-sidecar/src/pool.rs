//! Dedicated threads for dear models: a bounded queue, drained in batches.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foregate_filters::score::ScoreFault;
use tokio::sync::oneshot;

use crate::clock::Stopwatch;
use crate::model::Model;

/// Calls that may wait; beyond it a call is refused as busy.
pub(crate) const QUEUE: usize = 256;
/// Calls taken from the queue at once, at most. Nobody waits for a batch to fill.
const BATCH: usize = 32;

/// What one call gets: a score for each of its rows.
pub(crate) type Answer = Result<Vec<f32>, ScoreFault>;

struct Job {
    rows: Vec<f32>,
    count: usize,
    queued: Stopwatch,
    budget: Duration,
    reply: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    model: Arc<dyn Model>,
}

/// Threads that run one model. They end when the pool is dropped.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("queued", &self.shared.lock().jobs.len()).finish()
    }
}

impl Pool {
    /// Starts `threads` threads; an error of the operating system is given back.
    pub(crate) fn start(model: Arc<dyn Model>, threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new(), model });
        let pool = Self { shared };
        for _ in 0..threads.max(1) {
            let shared = pool.shared.clone();
            std::thread::Builder::new().name("model".to_owned()).spawn(move || shared.work())?;
        }
        Ok(pool)
    }

    /// Queues rows; [`ScoreFault::Busy`] where the queue is full.
    pub(crate) fn submit(
        &self,
        rows: Vec<f32>,
        count: usize,
        budget: Duration,
    ) -> Result<oneshot::Receiver<Answer>, ScoreFault> {
        let (reply, answer) = oneshot::channel();
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= QUEUE {
            return Err(ScoreFault::Busy);
        }
        queue.jobs.push_back(Job { rows, count, queued: Stopwatch::start(), budget, reply });
        drop(queue);
        self.shared.filled.notify_one();
        Ok(answer)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_all();
    }
}

impl Shared {
    /// Nothing is taken out of the queue by halves, so that it is good even after a panic.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(jobs) = self.next_batch() {
            let (due, late): (Vec<Job>, Vec<Job>) =
                jobs.into_iter().partition(|job| job.queued.elapsed() < job.budget && !job.reply.is_closed());
            for job in late {
                // The caller may be gone already; then nobody minds.
                let _ = job.reply.send(Err(ScoreFault::Late));
            }
            // A model that panics costs the calls of this batch, not the thread.
            let _ = catch_unwind(AssertUnwindSafe(|| self.run(due)));
        }
    }

    /// What is queued now, at most a batch; waits while there is nothing. `None` once the pool is dropped.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            let count = queue.jobs.len().min(BATCH);
            if count > 0 {
                return Some(queue.jobs.drain(..count).collect());
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs several calls as one batch; where that fails, each alone, so that one cannot spoil the others.
    fn run(&self, jobs: Vec<Job>) {
        let mut rows = Vec::with_capacity(jobs.iter().map(|job| job.rows.len()).sum());
        for job in &jobs {
            rows.extend_from_slice(&job.rows);
        }
        let count = jobs.iter().map(|job| job.count).sum();
        let mut scores = Vec::with_capacity(count);
        let whole = self.model.run(&rows, count, &mut scores).is_ok() && scores.len() == count;
        let mut rest = scores.as_slice();
        for job in jobs {
            let answer = match rest.split_at_checked(job.count).filter(|_| whole) {
                Some((own, tail)) => {
                    rest = tail;
                    Ok(own.to_vec())
                }
                None => run(&*self.model, &job.rows, job.count),
            };
            let _ = job.reply.send(answer);
        }
    }
}

/// Runs one call.
pub(crate) fn run(model: &dyn Model, rows: &[f32], count: usize) -> Answer {
    let mut scores = Vec::with_capacity(count);
    match model.run(rows, count, &mut scores) {
        Ok(()) if scores.len() == count => Ok(scores),
        Ok(()) => Err(ScoreFault::Model("the number of scores is not that of the rows".into())),
        Err(error) => Err(ScoreFault::Model(error.to_string().into())),
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;
    use crate::model::{Model, ModelError};
    use std::sync::Arc;
    use std::time::Duration;

    /// Panics for rows that begin with a negative number.
    #[derive(Debug)]
    struct Fragile;

    impl Model for Fragile {
        fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
            assert!(rows.first().is_some_and(|first| *first >= 0.0), "a defect of the model");
            out.extend(std::iter::repeat_n(0.5, count));
            Ok(())
        }

        fn engine(&self) -> &'static str {
            "fragile"
        }
    }

    #[test]
    fn a_model_that_panics_costs_its_call_and_not_its_thread() {
        let pool = Pool::start(Arc::new(Fragile), 1).unwrap();
        let long = Duration::from_mins(1);
        for _ in 0..3 {
            let bad = pool.submit(vec![-1.0], 1, long).unwrap();
            assert!(bad.blocking_recv().is_err(), "nobody answers");
            let good = pool.submit(vec![1.0], 1, long).unwrap();
            assert_eq!(good.blocking_recv().unwrap(), Ok(vec![0.5]));
        }
    }
}
