//! Dedicated threads for dear models: a bounded queue, drained in batches.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use foregate_filters::score::ScoreFault;
use rustix::process::{getpriority_process, setpriority_process};
use rustix::thread::gettid;
use tokio::sync::oneshot;

use crate::clock::Stopwatch;
use crate::live::Live;
use crate::model::Model;
use crate::reasons::Contributions;

/// Calls that may wait; beyond it a call is refused as busy.
pub(crate) const QUEUE: usize = 256;
/// Calls taken from the queue at once, at most. Nobody waits for a batch to fill.
const BATCH: usize = 32;
/// Rows of a batch at most, so that the memory of a run is bounded; a single call may have 200 alone.
const BATCH_ROWS: usize = 256;

/// What is added to the niceness of a thread of a model, so that whoever serves requests takes the processor from it at once.
/// Where both have much to do it still has a tenth of what they have.
const NICENESS: i32 = 10;

/// Threads of a model where nobody says how many: half of the processors, one at least. The others are for requests.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1))
}

/// What one call gets for its rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ran {
    /// The columns of the output, row by row.
    pub(crate) cells: Vec<f32>,
    /// One for each row, where reasons were asked for and time was left.
    pub(crate) reasons: Vec<Option<Contributions>>,
    /// How long the rows waited for a thread.
    pub(crate) queued: Duration,
}

pub(crate) type Answer = Result<Ran, ScoreFault>;

struct Job {
    rows: Vec<f32>,
    count: usize,
    explain: bool,
    queued: Stopwatch,
    budget: Duration,
    reply: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that were started.
    threads: usize,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    model: Arc<dyn Model>,
    live: Arc<Live>,
    /// Threads at most.
    threads: usize,
}

/// Threads that run one model: started by the first call, as many models never need one. They end when the pool is
/// dropped.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("queued", &self.shared.lock().jobs.len()).finish()
    }
}

impl Pool {
    /// A pool that has `threads` threads once it is used, one at least.
    pub(crate) fn new(model: Arc<dyn Model>, threads: usize, live: Arc<Live>) -> Self {
        let (queue, filled, threads) = (Mutex::default(), Condvar::new(), threads.max(1));
        Self { shared: Arc::new(Shared { queue, filled, model, live, threads }) }
    }

    /// Queues rows; [`ScoreFault::Busy`] where the queue is full, or the system gives no thread to work it off.
    pub(crate) fn submit(
        &self,
        rows: Vec<f32>,
        count: usize,
        budget: Duration,
        explain: bool,
    ) -> Result<oneshot::Receiver<Answer>, ScoreFault> {
        let (reply, answer) = oneshot::channel();
        let mut queue = self.shared.lock();
        while queue.threads < self.shared.threads {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new().name("model".to_owned()).spawn(move || shared.work());
            if started.is_err() {
                break;
            }
            queue.threads += 1;
        }
        if queue.threads == 0 || queue.jobs.len() >= QUEUE {
            return Err(ScoreFault::Busy);
        }
        queue.jobs.push_back(Job { rows, count, explain, queued: Stopwatch::start(), budget, reply });
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
        yield_to_others();
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
            let count = batch(&queue.jobs);
            if count > 0 {
                return Some(queue.jobs.drain(..count).collect());
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs several calls as one batch; where that fails, each alone, so that one cannot spoil the others.
    fn run(&self, jobs: Vec<Job>) {
        let waits: Vec<Duration> = jobs.iter().map(|job| job.queued.elapsed()).collect();
        let mut rows = Vec::with_capacity(jobs.iter().map(|job| job.rows.len()).sum());
        for job in &jobs {
            rows.extend_from_slice(&job.rows);
        }
        let (count, alone): (usize, bool) = (jobs.iter().map(|job| job.count).sum(), jobs.len() == 1);
        let columns = self.model.columns();
        let watch = Stopwatch::start();
        let whole = run(&*self.model, &rows, count);
        self.live.note(watch.elapsed(), count);
        let mut rest = whole.as_ref().map_or(&[][..], |ran| ran.cells.as_slice());
        for (job, queued) in jobs.into_iter().zip(waits) {
            let answer = match (&whole, rest.split_at_checked(job.count * columns)) {
                (Ok(_), Some((own, tail))) => {
                    rest = tail;
                    Ok(Ran { cells: own.to_vec(), ..Ran::default() })
                }
                (Err(fault), _) if alone => Err(fault.clone()),
                _ => run(&*self.model, &job.rows, job.count),
            };
            let answer = answer.map(|ran| self.explain(&job, Ran { queued, ..ran }));
            let _ = job.reply.send(answer);
        }
    }

    /// Adds the reasons, as long as there is time: the scores must not be late for them.
    fn explain(&self, job: &Job, mut ran: Ran) -> Ran {
        if !job.explain || job.count == 0 {
            return ran;
        }
        let rows = job.rows.chunks_exact((job.rows.len() / job.count).max(1));
        let cells = ran.cells.chunks_exact(self.model.columns().max(1));
        let in_time = |_: &(&[f32], &[f32])| job.queued.elapsed() < job.budget / 2;
        let reasons = rows.zip(cells).take_while(in_time);
        ran.reasons = reasons.map(|(row, cells)| self.model.explain(row, cells)).collect();
        ran
    }
}

/// Lowers the priority of this thread; where the system refuses, it works as any other, and the operator is told once.
fn yield_to_others() {
    static TOLD: Once = Once::new();
    let own = Some(gettid());
    // Linux has a niceness for each thread.
    let yielded = getpriority_process(own).and_then(|niceness| setpriority_process(own, niceness + NICENESS));
    if let Err(error) = yielded {
        TOLD.call_once(|| {
            log::warn!("threads of models compete with requests: setpriority is refused: {error}");
        });
    }
}

/// How many of the first calls make a batch; one at least, where there is one.
fn batch(jobs: &VecDeque<Job>) -> usize {
    let mut rows = 0;
    let fits = jobs.iter().take(BATCH).take_while(|job| {
        rows += job.count;
        rows <= BATCH_ROWS
    });
    fits.count().max(usize::from(!jobs.is_empty()))
}

/// Runs one call.
pub(crate) fn run(model: &dyn Model, rows: &[f32], count: usize) -> Answer {
    let mut cells = Vec::with_capacity(count * model.columns());
    match model.run(rows, count, &mut cells) {
        Ok(()) if cells.len() == count * model.columns() => Ok(Ran { cells, ..Ran::default() }),
        Ok(()) => Err(ScoreFault::Model("the number of scores is not that of the rows".into())),
        Err(error) => Err(ScoreFault::Model(error.to_string().into())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Pool, default_threads, run};
    use crate::bundle::Cost;
    use crate::live::Live;
    use crate::model::{Model, ModelError};
    use rustix::process::getpriority_process;
    use rustix::thread::gettid;
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

    /// Says how nice the thread is that runs it.
    #[derive(Debug)]
    struct Nice;

    impl Model for Nice {
        fn run(&self, _: &[f32], _: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
            let niceness = getpriority_process(Some(gettid())).unwrap();
            out.push(f32::from(i8::try_from(niceness).unwrap()));
            Ok(())
        }

        fn engine(&self) -> &'static str {
            "nice"
        }
    }

    #[test]
    fn threads_of_models_are_nicer_than_those_that_serve() {
        let live = Arc::new(Live::new(Cost::Threads, Duration::ZERO, true));
        let pool = Pool::new(Arc::new(Nice), 1, live);
        let answer = pool.submit(vec![1.0], 1, Duration::from_mins(1), false).unwrap();
        let theirs = answer.blocking_recv().unwrap().unwrap().cells;
        let own = run(&Nice, &[1.0], 1).unwrap().cells;
        // 19 is the most.
        assert!((theirs[0] - (own[0] + 10.0).min(19.0)).abs() < 0.5, "{theirs:?} {own:?}");
    }

    #[test]
    fn half_of_the_processors_are_left_to_requests() {
        let processors = std::thread::available_parallelism().unwrap().get();
        let threads = default_threads();
        assert!(threads >= 1 && (processors == 1 || threads < processors), "{threads} of {processors}");
    }

    #[test]
    fn a_model_that_panics_costs_its_call_and_not_its_thread() {
        let live = Arc::new(Live::new(Cost::Threads, Duration::ZERO, true));
        let pool = Pool::new(Arc::new(Fragile), 1, live);
        let long = Duration::from_mins(1);
        for _ in 0..3 {
            let bad = pool.submit(vec![-1.0], 1, long, false).unwrap();
            assert!(bad.blocking_recv().is_err(), "nobody answers");
            let good = pool.submit(vec![1.0], 1, long, false).unwrap();
            assert_eq!(good.blocking_recv().unwrap().unwrap().cells, [0.5]);
        }
    }
}
