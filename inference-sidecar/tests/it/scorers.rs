//! Scorers: inline and on threads, busy, late, batched.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::{ScoreCall, ScoreFault, Scorer};
use foregate_inference::bundle::{Bundle, Cost};
use foregate_inference::model::{Model, ModelError};
use foregate_inference::scorer::ModelScorer;

const LEAD: &str =
    r#"{"AnnualRevenue":18500000,"NumberOfEmployees":240,"Industry":"Transportation","Lead_Score__c":1}"#;

fn bundle() -> Bundle {
    Bundle::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/lead-score")).unwrap()
}

fn call(body: &str, budget: Duration) -> ScoreCall {
    let reserved = Arc::from(vec![Box::from("Lead_Score__c")]);
    let body = Bytes::copy_from_slice(body.as_bytes());
    ScoreCall { body, reserved, budget, now: Duration::from_secs(1_768_478_401), explain: false }
}

/// Says when a run begins, and goes on when told to.
#[derive(Debug)]
struct Gated {
    inner: Arc<dyn Model>,
    begun: Mutex<Sender<usize>>,
    go: Mutex<Receiver<()>>,
    runs: AtomicUsize,
}

impl Model for Gated {
    fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        self.begun.lock().unwrap().send(count).unwrap();
        self.go.lock().unwrap().recv().map_err(|_| ModelError::Width)?;
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.inner.run(rows, count, out)
    }

    fn engine(&self) -> &'static str {
        "gated"
    }
}

struct Stand {
    scorer: Arc<ModelScorer>,
    model: Arc<Gated>,
    begun: Receiver<usize>,
    go: Sender<()>,
}

fn gated() -> Stand {
    let (begun_in, begun) = channel();
    let (go, go_out) = channel();
    let mut bundle = bundle();
    let inner = bundle.model.clone();
    let model = Arc::new(Gated {
        inner,
        begun: Mutex::new(begun_in),
        go: Mutex::new(go_out),
        runs: AtomicUsize::new(0),
    });
    bundle.model = model.clone();
    bundle.cost = Cost::Threads;
    Stand { scorer: Arc::new(ModelScorer::new("lead-score", bundle, 1)), model, begun, go }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
}

#[test]
fn inline_and_threads_give_the_same_scores() {
    let mut cheap = bundle();
    cheap.cost = Cost::Inline;
    let mut dear = bundle();
    dear.cost = Cost::Threads;
    let (cheap, dear) = (ModelScorer::new("a", cheap, 1), ModelScorer::new("b", dear, 1));
    let call = call(LEAD, Duration::from_secs(1));
    let scores = cheap.score(&call).unwrap().unwrap();
    assert!(scores[0].score.as_ref().is_ok_and(|score| (0.0..=1.0).contains(score)));
    assert_eq!(scores[0].reserved.len(), 1);
    assert_eq!(dear.score(&call), None);
    assert_eq!(runtime().block_on(dear.submit(call)).unwrap(), scores);
}

#[test]
fn large_bodies_and_long_collections_never_run_inline() {
    let mut cheap = bundle();
    cheap.cost = Cost::Inline;
    cheap.per_row = Duration::from_micros(3);
    let cheap = ModelScorer::new("a", cheap, 1);
    let second = Duration::from_secs(1);
    let padded = format!("{{\"Notes\":\"{}\"}}", "n".repeat(32 << 10));
    assert_eq!(cheap.score(&call(&padded, second)), None);
    let collection = |count: usize| format!("{{\"records\":[{}]}}", vec!["{}"; count].join(","));
    assert_eq!(cheap.score(&call(&collection(67), second)), None, "200 us at most");
    assert_eq!(cheap.score(&call(&collection(66), Duration::from_micros(100))), None, "the deadline at most");
    assert!(cheap.score(&call(&collection(66), second)).is_some());
}

#[test]
fn a_large_body_is_read_beside_the_thread_that_asks() {
    let stand = gated();
    let runtime = runtime();
    let minute = Duration::from_mins(1);
    let held = {
        let scorer = stand.scorer.clone();
        runtime.spawn(async move { scorer.submit(call(LEAD, minute)).await })
    };
    assert_eq!(stand.begun.recv().unwrap(), 1, "its thread is taken");
    let padded = |size: usize| format!("{{\"Notes\":\"{}\",\"Lead_Score__c\":1}}", "n".repeat(size));
    runtime.block_on(async {
        let mut waiting = Vec::new();
        for (size, queued) in [(40 << 10, "queued: 0"), (1 << 10, "queued: 1")] {
            let scorer = stand.scorer.clone();
            let mut score = Box::pin(async move { scorer.submit(call(&padded(size), minute)).await });
            // What was read here waits for the thread of the model at once.
            assert!(poll_fn(|cx| Poll::Ready(score.as_mut().poll(cx).is_pending())).await);
            assert!(format!("{:?}", stand.scorer).contains(queued), "{size}");
            waiting.push(score);
        }
        // Runs of the three at most.
        (0..3).for_each(|_| stand.go.send(()).unwrap());
        for score in waiting {
            let records = tokio::spawn(score).await.unwrap().unwrap();
            assert!(records[0].score.is_ok() && records[0].reserved.len() == 1, "{records:?}");
        }
        assert!(held.await.unwrap().is_ok());
    });
}

#[test]
fn what_waits_is_batched_and_each_gets_its_own_scores() {
    let stand = gated();
    let runtime = runtime();
    let body = |visits: usize| format!(r#"{{"Website_Visits__c":{visits},"Email_Opens_30d__c":{visits}}}"#);
    let spawn = |visits: usize| {
        let scorer = stand.scorer.clone();
        let call = call(&body(visits), Duration::from_mins(1));
        runtime.spawn(async move { scorer.submit(call).await })
    };
    let mut tasks = vec![spawn(0)];
    assert_eq!(stand.begun.recv().unwrap(), 1, "the first call does not wait for company");
    tasks.extend((1..=32).map(spawn));
    while !format!("{:?}", stand.scorer).contains("queued: 32") {
        std::thread::yield_now();
    }
    stand.go.send(()).unwrap();
    assert_eq!(stand.begun.recv().unwrap(), 32);
    stand.go.send(()).unwrap();
    let mut cheap = bundle();
    cheap.cost = Cost::Inline;
    let cheap = ModelScorer::new("a", cheap, 1);
    for (visits, task) in tasks.into_iter().enumerate() {
        let alone = cheap.score(&call(&body(visits), Duration::from_secs(1))).unwrap().unwrap();
        assert_eq!(runtime.block_on(task).unwrap().unwrap(), alone);
    }
    assert_eq!(stand.model.runs.load(Ordering::SeqCst), 2);
}

#[test]
fn late_and_busy_calls_still_tell_where_the_records_lie() {
    let stand = gated();
    let runtime = runtime();
    let held = {
        let scorer = stand.scorer.clone();
        runtime.spawn(async move { scorer.submit(call(LEAD, Duration::from_mins(1))).await })
    };
    assert_eq!(stand.begun.recv().unwrap(), 1);
    let late = runtime.block_on(stand.scorer.submit(call(LEAD, Duration::from_millis(2)))).unwrap();
    assert_eq!((&late[0].score, late[0].insert_at, late[0].reserved.len()), (&Err(ScoreFault::Late), 1, 1));
    let waiting: Vec<_> = (0..255)
        .map(|_| {
            let scorer = stand.scorer.clone();
            runtime.spawn(async move { scorer.submit(call(LEAD, Duration::from_mins(1))).await })
        })
        .collect();
    while !format!("{:?}", stand.scorer).contains("queued: 256") {
        std::thread::yield_now();
    }
    let busy = runtime.block_on(stand.scorer.submit(call(LEAD, Duration::from_secs(1)))).unwrap();
    assert_eq!((&busy[0].score, busy[0].reserved.len()), (&Err(ScoreFault::Busy), 1));
    (0..64).for_each(|_| stand.go.send(()).unwrap());
    assert!(runtime.block_on(held).unwrap().unwrap()[0].score.is_ok());
    for task in waiting {
        assert!(runtime.block_on(task).unwrap().unwrap()[0].score.is_ok());
    }
    let rows: usize = stand.begun.try_iter().sum();
    assert_eq!(rows, 255, "the late call is never run");
}

#[test]
fn threads_end_with_their_scorer() {
    let stand = gated();
    let model = Arc::downgrade(&stand.model);
    drop((stand.scorer, stand.model));
    while model.strong_count() > 0 {
        std::thread::yield_now();
    }
}
