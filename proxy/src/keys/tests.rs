//! Keys over real sockets: rotation, one fetch for all, limits, lying and silent issuers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, Uri};
use foregate_filters::jwt::Jwks;
use foregate_filters::keys::Keys;
use foregate_filters::moment::Moment;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::clock;
use crate::issuer::Issuer;
use crate::keys::schedule::{DEMAND_INTERVAL, MISSING_FOR};
use crate::keys::{Fetcher, IssuerKeys, KeysError, Source, UrlKeys};

/// What the issuer of a test answers with.
#[derive(Clone, Debug)]
enum Answer {
    Json(String),
    Typed(&'static str, String),
    Status(u16),
    Redirect(&'static str),
    /// More than any key set, in one piece or without a length.
    Huge {
        announced: bool,
    },
    Silence,
}

#[derive(Clone, Debug)]
struct Stand {
    answer: Arc<Mutex<Answer>>,
    fetches: Arc<AtomicUsize>,
    elsewhere: Arc<AtomicUsize>,
    address: SocketAddr,
}

impl Stand {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stand = Self {
            answer: Arc::new(Mutex::new(answer)),
            fetches: Arc::default(),
            elsewhere: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        let router = Router::new().fallback(serve).with_state(stand.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        stand
    }

    fn keys(&self) -> UrlKeys {
        UrlKeys::start(Source::Uri(format!("http://{}/jwks", self.address)), Fetcher::new(Handle::current()))
    }

    fn say(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

async fn serve(State(stand): State<Stand>, uri: Uri) -> Response<Body> {
    if uri.path() == "/elsewhere" {
        stand.elsewhere.fetch_add(1, Ordering::SeqCst);
    } else {
        stand.fetches.fetch_add(1, Ordering::SeqCst);
    }
    let answer = stand.answer.lock().unwrap().clone();
    let typed = |kind: &str, body: Body| Response::builder().header("content-type", kind).body(body).unwrap();
    match answer {
        Answer::Json(text) => typed("application/json", text.into()),
        Answer::Typed(kind, text) => typed(kind, text.into()),
        Answer::Status(status) => Response::builder().status(status).body(Body::empty()).unwrap(),
        Answer::Redirect(to) => {
            Response::builder().status(302).header("location", to).body(Body::empty()).unwrap()
        }
        Answer::Huge { announced } => {
            let text = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(1 << 20));
            if announced {
                return typed("application/json", text.into());
            }
            let pieces = text.into_bytes().chunks(1 << 14).map(<[u8]>::to_vec).collect::<Vec<_>>();
            let pieces = pieces.into_iter().map(Ok::<_, std::io::Error>);
            typed("application/json", Body::from_stream(futures_util::stream::iter(pieces)))
        }
        Answer::Silence => std::future::pending().await,
    }
}

/// A key set with one symmetric key of each kid: their material does not matter here.
fn set(kids: &[&str]) -> String {
    let keys: Vec<Value> =
        kids.iter().map(|kid| json!({"kty": "oct", "kid": kid, "k": "A".repeat(43)})).collect();
    json!({ "keys": keys }).to_string()
}

fn later(moment: Moment, span: Duration) -> Moment {
    Moment { unix: moment.unix + span, monotonic: moment.monotonic + span }
}

#[tokio::test]
async fn a_new_kid_is_fetched_when_it_is_asked_for() {
    let stand = Stand::start(Answer::Json(set(&["a"]))).await;
    let (keys, start) = (stand.keys(), clock::now());
    assert!(keys.current().is_none());
    assert!(keys.may_refetch(Some("a"), start));
    assert!(keys.refetch(Some("a"), start).await.unwrap().names("a"));
    stand.say(Answer::Json(set(&["b"])));
    let soon = later(start, DEMAND_INTERVAL);
    assert!(keys.may_refetch(Some("b"), soon));
    let rotated = keys.refetch(Some("b"), soon).await.unwrap();
    assert!(rotated.names("b") && !rotated.names("a"));
    assert!(keys.current().unwrap().names("b"));
    assert_eq!(stand.fetches(), 2);
}

#[tokio::test]
async fn a_hundred_waiters_share_one_fetch_and_one_may_leave() {
    let stand = Stand::start(Answer::Json(set(&["a"]))).await;
    let (keys, start) = (stand.keys(), clock::now());
    let mut leaver = keys.refetch(Some("a"), start);
    assert!(leaver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(leaver);
    let all = join_all((0..100).map(|_| keys.refetch(Some("a"), start))).await;
    assert_eq!(all.len(), 100);
    assert!(all.iter().all(|keys| keys.as_ref().is_some_and(|keys| keys.names("a"))));
    assert_eq!(stand.fetches(), 1);
}

#[tokio::test]
async fn two_fetches_on_demand_may_come_at_once_and_others_ten_seconds_apart() {
    let stand = Stand::start(Answer::Json(set(&["b"]))).await;
    let (keys, start) = (stand.keys(), clock::now());
    keys.refetch(None, start).await.unwrap();
    stand.say(Answer::Json(set(&["a"])));
    assert!(keys.may_refetch(Some("a"), start), "a rotation soon after another");
    assert!(keys.refetch(Some("a"), start).await.unwrap().names("a"));
    let early = later(start, Duration::from_millis(9_999));
    assert!(!keys.may_refetch(Some("x"), early));
    assert!(keys.refetch(Some("x"), early).await.unwrap().names("a"));
    assert_eq!(stand.fetches(), 2);
    assert!(keys.may_refetch(Some("x"), later(start, DEMAND_INTERVAL)));
}

#[tokio::test]
async fn a_kid_looked_for_in_vain_is_not_looked_for_again_for_a_minute() {
    let stand = Stand::start(Answer::Json(set(&["a"]))).await;
    let (keys, start) = (stand.keys(), clock::now());
    assert!(!keys.refetch(Some("x"), start).await.unwrap().names("x"));
    let soon = later(start, DEMAND_INTERVAL);
    assert!(!keys.may_refetch(Some("x"), soon));
    assert!(keys.may_refetch(Some("y"), soon));
    assert!(keys.may_refetch(None, soon));
    assert!(keys.may_refetch(Some("x"), later(start, MISSING_FOR)));
}

#[tokio::test]
async fn while_the_issuer_is_down_the_old_keys_stay_and_age() {
    let stand = Stand::start(Answer::Json(set(&["a"]))).await;
    let (keys, start) = (stand.keys(), clock::now());
    keys.refetch(None, start).await.unwrap();
    stand.say(Answer::Status(503));
    let soon = later(start, DEMAND_INTERVAL);
    assert!(keys.refetch(Some("x"), soon).await.unwrap().names("a"));
    let status = keys.status(later(clock::now(), Duration::from_hours(1)));
    assert_eq!((status.keys, status.succeeded, status.failed), (1, 1, 1));
    assert!(status.age.unwrap() >= Duration::from_hours(1));
    assert!(status.fault.unwrap().contains("503"));
    // An issuer that does not answer proves nothing about a kid.
    assert!(keys.may_refetch(Some("x"), later(soon, DEMAND_INTERVAL)));
}

#[tokio::test]
async fn answers_that_are_no_key_set_give_no_keys() {
    for (answer, fault) in [
        (Answer::Huge { announced: true }, "over 256 KiB"),
        (Answer::Huge { announced: false }, "over 256 KiB"),
        (Answer::Typed("text/html", set(&["a"])), "Content-Type"),
        (Answer::Typed("text/plain", set(&["a"])), "Content-Type"),
        (Answer::Redirect("/elsewhere"), "302"),
        (Answer::Status(404), "404"),
        (Answer::Status(204), "204"),
        (Answer::Json("<html>".into()), "not a JSON object"),
        (Answer::Json(set(&[])), "no key of the set"),
        (Answer::Json(r#"{"keys":[{"kty":"new"}]}"#.into()), "no key of the set"),
    ] {
        let stand = Stand::start(answer.clone()).await;
        let (keys, start) = (stand.keys(), clock::now());
        assert!(keys.refetch(None, start).await.is_none(), "{answer:?}");
        let status = keys.status(start);
        assert_eq!((status.keys, status.failed, status.age), (0, 1, None));
        let told = status.fault.unwrap();
        assert!(told.contains(fault), "{told:?} does not say {fault:?}");
        assert_eq!((stand.fetches(), stand.elsewhere.load(Ordering::SeqCst)), (1, 0));
    }
}

#[tokio::test]
async fn a_silent_issuer_holds_nobody_longer_than_the_bound() {
    let stand = Stand::start(Answer::Silence).await;
    let mut fetcher = Fetcher::new(Handle::current());
    fetcher.total = Duration::from_millis(50);
    let keys = UrlKeys::start(Source::Uri(format!("http://{}/jwks", stand.address)), fetcher);
    let start = clock::now();
    assert!(keys.refetch(Some("a"), start).await.is_none());
    assert!(keys.status(start).fault.unwrap().contains("in time"));
    assert!(keys.refetch(Some("a"), start).await.is_none());
    assert!(!keys.may_refetch(Some("a"), start));
}

#[tokio::test]
async fn an_issuer_is_discovered_and_its_rotation_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = Issuer::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let router = issuer.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let fetcher = Fetcher::new(Handle::current());
    let spec = Jwks { discover: true, ..Jwks::default() };
    let opened = IssuerKeys::open(issuer.url(), &spec, Path::new("/"), Some(&fetcher)).unwrap();
    let (keys, start) = (opened.keys(), clock::now());
    assert_eq!(keys.refetch(None, start).await.unwrap().count(), 1);
    issuer.rotate().unwrap();
    let kid = issuer.jwks()["keys"][0]["kid"].as_str().unwrap().to_owned();
    let rotated = keys.refetch(Some(&kid), later(start, DEMAND_INTERVAL)).await.unwrap();
    assert!(rotated.names(&kid));
    assert_eq!(opened.status(clock::now()).succeeded, 2);
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_is_refused() {
    let stand = Stand::start(Answer::Status(404)).await;
    let issuer = format!("http://{}", stand.address);
    for (document, fault) in [
        (json!({"issuer": "https://evil.example.com", "jwks_uri": issuer}), "another issuer"),
        (json!({"issuer": format!("{issuer}/"), "jwks_uri": issuer}), "another issuer"),
        (json!({"issuer": issuer}), "jwks_uri"),
        (json!({"issuer": issuer, "jwks_uri": "http://10.0.0.1/jwks"}), "not a URL that may be asked"),
        (json!({"issuer": issuer, "jwks_uri": "file:///etc/keys"}), "not a URL that may be asked"),
    ] {
        stand.say(Answer::Json(document.to_string()));
        let source = Source::Discovery { issuer: issuer.clone() };
        let keys = UrlKeys::start(source, Fetcher::new(Handle::current()));
        assert!(keys.refetch(None, clock::now()).await.is_none());
        let told = keys.status(clock::now()).fault.unwrap();
        assert!(told.contains(fault), "{told:?} does not say {fault:?}");
    }
}

#[tokio::test]
async fn keys_are_fetched_without_being_asked_for_and_no_more_once_dropped() {
    let stand = Stand::start(Answer::Json(set(&["a"]))).await;
    let keys = stand.keys();
    while keys.current().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(stand.fetches(), 1);
    let refresh = keys.refresh_task();
    assert!(!refresh.is_finished());
    drop(keys);
    while !refresh.is_finished() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_file_is_read_anew_and_a_bad_one_changes_nothing() {
    let folder = std::env::temp_dir().join(format!("foregate-keys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("jwks.json");
    std::fs::write(&file, set(&["a"])).unwrap();
    let spec = Jwks { file: Some("jwks.json".into()), ..Jwks::default() };
    let opened = IssuerKeys::open("acme", &spec, &folder, None).unwrap();
    let keys = opened.keys();
    std::fs::write(&file, set(&["b"])).unwrap();
    assert!(keys.current().unwrap().names("a"));
    opened.reload().unwrap();
    assert!(keys.current().unwrap().names("b"));
    std::fs::write(&file, "{").unwrap();
    assert!(matches!(opened.reload(), Err(KeysError::Set(_))));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(opened.reload(), Err(KeysError::Read { .. })));
    assert!(keys.current().unwrap().names("b"));
    let status = opened.status(clock::now());
    assert_eq!((status.source, status.succeeded, status.failed), ("file", 2, 2));
    assert!(status.fault.is_some());
    assert!(matches!(IssuerKeys::open("acme", &spec, &folder, None), Err(KeysError::Read { .. })));
}

#[test]
fn inline_keys_are_checked_and_a_url_without_fetcher_is_left_alone() {
    let open = |spec: &Jwks| IssuerKeys::open("acme", spec, Path::new("/"), None);
    let inline = |text: &str| Jwks { inline: Some(text.into()), ..Jwks::default() };
    let keys = open(&inline(&set(&["a"]))).unwrap().keys();
    assert!(keys.current().unwrap().names("a") && !keys.may_refetch(Some("x"), Moment::default()));
    assert!(matches!(open(&inline("{}")), Err(KeysError::Set(_))));
    assert!(matches!(open(&Jwks::default()), Err(KeysError::NoSource)));
    let fetched = Jwks { uri: Some("https://idp.example.com/jwks".into()), ..Jwks::default() };
    assert!(open(&fetched).unwrap().keys().current().is_none());
}
