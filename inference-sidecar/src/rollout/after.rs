//! What is done with a body once it was answered: other versions, comparison, drift.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use foregate_filters::score::{RecordScore, ScoreCall};

use crate::clock::Stopwatch;
use crate::rollout::drift::Watch;
use crate::rollout::trial::{Role, Trial};
use crate::scorer::{Features, ModelScorer};

/// Bodies that may wait.
const QUEUE: usize = 256;
/// Bytes of the bodies that may wait.
const QUEUE_BYTES: usize = 8 << 20;

/// What takes part once production, or the canary, has answered.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) production: Arc<ModelScorer>,
    /// Absent where its bundle has no reference.
    pub(super) drift: Option<Watch>,
    pub(super) canary: Option<(Arc<ModelScorer>, Arc<Trial>)>,
    pub(super) shadow: Option<(Arc<ModelScorer>, Arc<Trial>)>,
}

/// A body and what was answered.
struct Job {
    call: ScoreCall,
    /// Who answered.
    role: Role,
    answers: Vec<Answer>,
}

/// What two versions are compared by.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    score: Result<f32, ()>,
    /// The class, or the best item.
    word: Option<Arc<str>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    closed: bool,
}

struct Shared {
    cast: Cast,
    queue: Mutex<Queue>,
    filled: Condvar,
    dropped: AtomicU64,
}

/// A thread that works off answered bodies. It ends when this is dropped.
pub(super) struct After(Arc<Shared>);

impl std::fmt::Debug for After {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("After").field("queued", &self.0.lock().jobs.len()).finish_non_exhaustive()
    }
}

impl After {
    /// Starts the thread; an error of the operating system is given back.
    pub(super) fn start(cast: Cast) -> io::Result<Self> {
        let (queue, filled, dropped) = Default::default();
        let shared = Arc::new(Shared { cast, queue, filled, dropped });
        let worker = Arc::clone(&shared);
        std::thread::Builder::new().name("rollout".to_owned()).spawn(move || worker.work())?;
        Ok(Self(shared))
    }

    pub(super) fn cast(&self) -> &Cast {
        &self.0.cast
    }

    /// Bodies that were left out because too many waited.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Puts a body to the end of the queue; it is dropped and counted where that is full.
    pub(super) fn put(&self, call: &ScoreCall, role: Role, records: &[RecordScore]) {
        let bytes = call.body.len();
        let job = Job { call: call.clone(), role, answers: records.iter().map(answer).collect() };
        let mut queue = self.0.lock();
        if queue.jobs.len() >= QUEUE || queue.bytes + bytes > QUEUE_BYTES {
            drop(queue);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes += bytes;
        queue.jobs.push_back(job);
        drop(queue);
        self.0.filled.notify_one();
    }
}

impl Drop for After {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.filled.notify_all();
    }
}

impl Shared {
    /// Nothing is taken out of the queue by halves, so that it is good even after a panic.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            self.cast.work(&job);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                queue.bytes -= job.call.body.len();
                return Some(job);
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Cast {
    fn work(&self, job: &Job) {
        if let (Role::Canary, Some((scorer, trial))) = (job.role, &self.canary) {
            compare(trial, &run(&self.production, &job.call), &job.answers);
            if trial.drift.is_some() {
                note_rows(scorer, job, |row, score| trial.note_row(row, score));
            }
            return;
        }
        if let Some((scorer, trial)) = self.shadow.as_ref().filter(|(_, trial)| trial.is_on()) {
            shadow(scorer, trial, job);
        }
        if let Some(drift) = &self.drift {
            // Production has nobody to be replaced by: its drift is told and not acted upon.
            note_rows(&self.production, job, |row, score| drop(drift.note(row, score)));
        }
    }
}

/// Runs the shadow and compares it.
fn shadow(scorer: &ModelScorer, trial: &Trial, job: &Job) {
    let watch = Stopwatch::start();
    let theirs = run(scorer, &job.call);
    let took = watch.elapsed();
    let good = job.answers.iter().filter(|answer| answer.score.is_ok()).count();
    trial.note_call(Some(took), good, failures(&theirs, &job.answers));
    compare(trial, &job.answers, &theirs);
    if trial.drift.is_some() {
        let job = Job { call: job.call.clone(), role: Role::Shadow, answers: theirs };
        note_rows(scorer, &job, |row, score| trial.note_row(row, score));
    }
}

/// Records that the first fails on and the second does not.
fn failures(first: &[Answer], second: &[Answer]) -> usize {
    let of_first = |place: usize| first.get(place).is_some_and(|answer| answer.score.is_ok());
    second.iter().enumerate().filter(|(place, answer)| answer.score.is_ok() && !of_first(*place)).count()
}

fn compare(trial: &Trial, production: &[Answer], tried: &[Answer]) {
    let pairs = production.iter().zip(tried).filter_map(|(production, tried)| {
        match (production.score, tried.score) {
            (Ok(a), Ok(b)) => Some(production.word != tried.word || (a - b).abs() > trial.tolerance()),
            _ => None,
        }
    });
    let (mut records, mut differ) = (0, 0);
    for differs in pairs {
        records += 1;
        differ += usize::from(differs);
    }
    if records > 0 {
        trial.note_compared(records, differ);
    }
}

/// What a version answers on this thread. A model that panics here costs this body and nothing else.
fn run(scorer: &ModelScorer, call: &ScoreCall) -> Vec<Answer> {
    match catch_unwind(AssertUnwindSafe(|| scorer.run_here(call))) {
        Ok(Ok(records)) => records.iter().map(answer).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// Notes every record that has features and a score, without another run.
fn note_rows(scorer: &ModelScorer, job: &Job, mut note: impl FnMut(&[f32], f32)) {
    let read = catch_unwind(AssertUnwindSafe(|| scorer.features(&job.call)));
    let Ok(Ok(Features { present, rows })) = read else { return };
    let answers = job.answers.iter().zip(present).filter(|(_, present)| *present);
    for ((answer, _), row) in answers.zip(rows.chunks_exact(scorer.width().max(1))) {
        if let Ok(score) = answer.score {
            note(row, score);
        }
    }
}

fn answer(record: &RecordScore) -> Answer {
    let detail = record.detail.as_ref();
    let item = || detail.and_then(|detail| detail.items.first()).map(|item| Arc::clone(&item.key));
    let word = detail.and_then(|detail| detail.class.clone()).or_else(item);
    Answer { score: record.score.as_ref().map(|score| *score).map_err(drop), word }
}
