//! Requests inside requests: whatever is sent, a backend reads one message in one way.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hostile::http2::{DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, fields, frame, outcome, start};
use crate::hostile::still_serves;
use crate::support::policies;
use crate::support::process::{Foregate, Options};
use crate::support::raw::RawClient;
use crate::support::upstream::Upstream;

/// What no backend may take for a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Connections at once.
const AT_ONCE: usize = 24;

/// Request lines as a strict backend read them, and what it could not read.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<(Vec<String>, Vec<String>)>>);

impl Recorder {
    async fn serve(self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            match message(&bytes, true) {
                Ok(Some(length)) => {
                    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
                    self.0.lock().unwrap().0.push(String::from_utf8_lossy(line).into_owned());
                    bytes.drain(..length);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
                Ok(None) => {
                    if !matches!(stream.read_buf(&mut bytes).await, Ok(read) if read > 0) {
                        return;
                    }
                }
                Err(why) => {
                    let told = format!("{why}: {:?}", String::from_utf8_lossy(&bytes));
                    self.0.lock().unwrap().1.push(told);
                    return;
                }
            }
        }
    }

    /// Takes what was read since the last time.
    fn take(&self) -> (Vec<String>, Vec<String>) {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// The length of one message at the start of `bytes`, if it is all there; what is wrong where two backends could
/// read it in two ways (RFC 9112). A `poor` backend knows codings in small letters only, and takes `_` for `-`.
fn message(bytes: &[u8], poor: bool) -> Result<Option<usize>, String> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let head = &bytes[..end.map_or(bytes.len(), |end| end + 2)];
    for (index, byte) in head.iter().enumerate() {
        let lone = match byte {
            b'\n' => index == 0 || head[index - 1] != b'\r',
            b'\r' => head.get(index + 1).is_some_and(|next| *next != b'\n'),
            0 => true,
            _ => false,
        };
        if lone {
            return Err(format!("a stray control character at {index}"));
        }
    }
    let Some(end) = end else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "not text".to_owned())?;
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    if words.len() != 3 || words[2] != "HTTP/1.1" || !words[1].starts_with('/') {
        return Err(format!("request line {words:?}"));
    }
    let (mut hosts, mut lengths, mut codings) = (0, Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(format!("no header: {line:?}"))?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(format!("header name {name:?}"));
        }
        let name = name.to_ascii_lowercase();
        let (name, value) = if poor {
            (name.replace('_', "-"), value.trim().to_owned())
        } else {
            (name, value.trim().to_ascii_lowercase())
        };
        match name.as_str() {
            "host" => hosts += 1,
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            _ => {}
        }
    }
    if hosts != 1 || lengths.len() + codings.len() > 1 {
        return Err(format!("{hosts} hosts, lengths {lengths:?}, codings {codings:?}"));
    }
    let body = &bytes[end + 4..];
    if let Some(length) = lengths.pop() {
        let length: usize = length.parse().map_err(|_| format!("length {length}"))?;
        return Ok((body.len() >= length).then_some(end + 4 + length));
    }
    match codings.pop().as_deref() {
        None => Ok(Some(end + 4)),
        Some("chunked") => Ok(chunks(body)?.map(|length| end + 4 + length)),
        Some(other) => Err(format!("coding {other}")),
    }
}

/// The length of a chunked body, its end included.
fn chunks(body: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(line) = body[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&body[at..at + line]).map_err(|_| "not text".to_owned())?;
        let size = usize::from_str_radix(text, 16).map_err(|_| format!("chunk size {text:?}"))?;
        at += line + 2;
        if size == 0 {
            // No trailers are announced here, so none may come.
            return match body.get(at..at + 2) {
                None => Ok(None),
                Some(b"\r\n") => Ok(Some(at + 2)),
                Some(_) => Err("trailers".to_owned()),
            };
        }
        match body.get(at + size..at + size + 2) {
            None => return Ok(None),
            Some(b"\r\n") => at += size + 2,
            Some(_) => return Err("a chunk without its end".to_owned()),
        }
    }
}

/// A gateway before a strict backend.
async fn world() -> (Foregate, Recorder, Upstream) {
    let recorder = Recorder::default();
    let serving = recorder.clone();
    let upstream = Upstream::raw(move |stream, _| serving.clone().serve(stream)).await;
    // What looks unfinished is given up soon.
    let options = Options::default().args(&["--head-timeout", "1s"]);
    let documents = policies::plain(upstream.address);
    let documents = documents.replace("  - backendRefs", "  - timeouts: { request: 1s }\n    backendRefs");
    let gateway = Foregate::start(&documents, options).await;
    (gateway, recorder, upstream)
}

/// Sends bytes, and reads the first answer and all that follows; the status of the first, 0 without one.
async fn poured(gateway: &Foregate, bytes: &[u8]) -> u16 {
    let mut client = RawClient::connect(gateway.address("edge/http")).await;
    client.send(bytes).await;
    let status = client.response().await.map_or(0, |response| response.status);
    client.finish().await;
    client.rest().await;
    status
}

/// Every one of these must be refused, or reach the backend as one message, with nothing of what is inside it.
async fn never_two(cases: &[(String, Vec<u8>)]) {
    let (gateway, recorder, _upstream) = world().await;
    for some in cases.chunks(AT_ONCE) {
        let statuses = join_all(some.iter().map(|(_, bytes)| poured(&gateway, bytes))).await;
        let (lines, faults) = recorder.take();
        let names: Vec<&String> = some.iter().map(|(name, _)| name).collect();
        assert!(faults.is_empty(), "{faults:#?} from one of {names:#?}");
        assert!(!lines.iter().any(|line| line.contains("smuggled")), "{lines:?} from one of {names:#?}");
        let answered = statuses.iter().filter(|status| **status == 200).count();
        assert!((answered..=some.len()).contains(&lines.len()), "{lines:?} from {names:#?}: {statuses:?}");
    }
    // What was on its way when a connection ended has arrived.
    gateway.wait_sample("http_server_active_requests", |count| count == 0.0).await;
    assert_eq!(recorder.take(), Default::default());
    still_serves(&gateway).await;
}

#[tokio::test]
async fn lengths_and_codings_in_every_combination() {
    let lengths = ["", "Content-Length: 4\r\n", "Content-Length: 0\r\n", "Content_Length: 4\r\n"];
    let codings = [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding:chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: chunked ",
        "TRANSFER-ENCODING: CHUNKED",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X-A: 1\r\n Transfer-Encoding: chunked",
        "X-A: 1\nTransfer-Encoding: chunked",
        "X-A: 1\rTransfer-Encoding: chunked",
        "X-A: 1\0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding\r\n : chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \x0cchunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding",
        "Connection: Content-Length",
    ];
    let chunked = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    let bodies = [format!("0\r\n\r\n{SMUGGLED}"), chunked, format!("abcd\r\n{SMUGGLED}")];
    let mut cases = Vec::new();
    for length in lengths {
        for coding in codings {
            for (first, second) in
                [(length.to_owned(), format!("{coding}\r\n")), (format!("{coding}\r\n"), length.to_owned())]
            {
                for body in &bodies {
                    let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{first}{second}\r\n{body}");
                    // Where one reading alone is possible, what follows is a request in its own right.
                    if !pipelined(&text) {
                        cases.push((text.clone(), text.into_bytes()));
                    }
                }
            }
        }
    }
    assert!(cases.len() > 500, "{}", cases.len());
    never_two(&cases).await;
}

/// True where every reader finds the same first message, so that what follows it is honest.
fn pipelined(text: &str) -> bool {
    matches!(message(text.as_bytes(), false), Ok(Some(length)) if length < text.len())
}

#[tokio::test]
async fn chunks_that_two_readers_could_count_in_two_ways() {
    let flood = "x".repeat(32 << 10);
    let zeros = "0".repeat(20 << 10);
    let chunks = [
        format!("3;a=b\r\nabc\r\n0\r\n{SMUGGLED}"),
        format!("3;\n\r\nabc\r\n0\r\n\r\n{SMUGGLED}"),
        format!("3;a=\"\r\nabc\r\n0\r\n{SMUGGLED}"),
        format!("3;{flood}\r\nabc\r\n0\r\n{SMUGGLED}"),
        format!("{zeros}3\r\nabc\r\n0\r\n{SMUGGLED}"),
        format!("3 \r\nabc\r\n0\r\n{SMUGGLED}"),
        format!("3\t;\r\nabc\r\n0\r\n{SMUGGLED}"),
        format!(" 3\r\nabc\r\n0\r\n{SMUGGLED}"),
        format!("\r\n3\r\nabc\r\n0\r\n{SMUGGLED}"),
        format!("3\nabc\n0\n\n{SMUGGLED}"),
        format!("3\rabc\r0\r\r{SMUGGLED}"),
        format!("3\r\nabc0\r\n\r\n{SMUGGLED}"),
        format!("3\r\nabc\n0\r\n\r\n{SMUGGLED}"),
        format!("3\r\nabc\r0\r\n\r\n{SMUGGLED}"),
        format!("3\r\nabc\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!("10000000000000003\r\nabc\r\n0\r\n\r\n{SMUGGLED}"),
        format!("ffffffffffffffff\r\nabc\r\n0\r\n\r\n{SMUGGLED}"),
        format!("-3\r\nabc\r\n0\r\n\r\n{SMUGGLED}"),
        format!("+3\r\nabc\r\n0\r\n\r\n{SMUGGLED}"),
        format!("0x3\r\nabc\r\n0\r\n\r\n{SMUGGLED}"),
        format!("3_0\r\nabc\r\n0\r\n\r\n{SMUGGLED}"),
        format!("3h\r\nabc\r\n0\r\n\r\n{SMUGGLED}"),
        format!("0\r\n{SMUGGLED}"),
        format!("0\n\r\n{SMUGGLED}"),
        format!("0\r\r\n\r\n{SMUGGLED}"),
        format!("0\r\nContent-Length: 5\r\nX-A: 1\n{SMUGGLED}"),
        format!("0\r\n X: 1\r\n\r\n{SMUGGLED}"),
        format!("0\r\nTransfer-Encoding : chunked\r\n\r\n{SMUGGLED}"),
        format!("00\r\n\r{SMUGGLED}"),
    ];
    let cases: Vec<_> = chunks
        .iter()
        .map(|chunks| {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            let name: String = chunks.chars().take(40).collect();
            (name, text.into_bytes())
        })
        .collect();
    never_two(&cases).await;
}

#[tokio::test]
async fn trailers_cannot_change_what_the_message_was() {
    let (gateway, recorder, _upstream) = world().await;
    for trailers in [
        "Content-Length: 50\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Host: b\r\n",
        "X-A: 1\r\n",
        "Authorization: Bearer x\r\n",
    ] {
        let text = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{trailers}\r\n"
        );
        assert_eq!(poured(&gateway, text.as_bytes()).await, 200, "{trailers}");
        assert_eq!(recorder.take(), (vec!["POST / HTTP/1.1".to_owned()], vec![]), "{trailers}");
    }
}

#[tokio::test]
async fn line_ends_and_first_lines_are_made_canonical_or_refused() {
    let cases: Vec<_> = [
        "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(),
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\n{SMUGGLED}").replace("GET /smuggled", "POST /smuggled"),
        format!("GET / HTTP/1.1\rHost: a\r\r{SMUGGLED}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\n\x0b\r\n{SMUGGLED}"),
        format!("GET / HTTP/1.1 \r\nHost: a\r\n{SMUGGLED}"),
        format!("GET /?x=\u{a0}HTTP/1.1 HTTP/1.1\r\nHost: a\r\n: \r\n{SMUGGLED}"),
        format!("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n{SMUGGLED}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{SMUGGLED}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nHost : b\r\n\r\n{SMUGGLED}"),
        format!("GET / HTTP/1.1\r\nHost_: a\r\nHost: a, b\r\n\r\n{SMUGGLED}"),
        format!("GET / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0{}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {0}, {0}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
    ]
    .into_iter()
    .map(|text| (text.clone(), text.into_bytes()))
    .collect();
    never_two(&cases).await;
}

#[tokio::test]
async fn heads_of_http2_cannot_hold_lines_of_http1() {
    let (gateway, recorder, _upstream) = world().await;
    let good = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let split = "/ HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled";
    let value = "1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a";
    let replaced = |name: &str, with: &'static str| {
        good.iter().map(|field| if field.0 == name { (field.0, with) } else { *field }).collect::<Vec<_>>()
    };
    let with = |more: &[(&'static str, &'static str)]| [&good[..], more].concat();
    let heads = [
        replaced(":path", split),
        replaced(":path", "/ HTTP/1.1\nX: 1"),
        replaced(":path", "/a b"),
        replaced(":path", "/a\tb"),
        replaced(":method", "POST / HTTP/1.1\r\nHost: a\r\n\r\nGET"),
        replaced(":method", "POST\n"),
        replaced(":authority", "a\r\nX: 1"),
        replaced(":authority", "a:80\nX: 1"),
        replaced(":scheme", "http://a/smuggled?"),
        replaced(":scheme", "http\r\nX: 1"),
        with(&[("x-a", value)]),
        with(&[("x-a", "1\n")]),
        with(&[("x-a", "1\r")]),
        with(&[("x-a", "\0")]),
        with(&[("x-a: 1\r\nx-b", "2")]),
        with(&[("x-a:", "2")]),
        with(&[("x-a ", "2")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("transfer_encoding", "chunked"), ("content_length", "5")]),
        with(&[("content-length", "5"), ("transfer-encoding", "chunked")]),
        with(&[("content-length", "5\r\nx-a: 1")]),
        with(&[("content-length", "4, 4")]),
        with(&[("cookie", "a=1"), ("cookie", "b=2\r\nx-a: 1")]),
        with(&[("host", "b")]),
        with(&[("expect", "100-continue"), ("connection", "upgrade"), ("upgrade", "h2c")]),
        with(&[("x-a", " 1 "), ("x-b", "\t1")]),
    ];
    let body = format!("0\r\n\r\n{SMUGGLED}");
    for head in heads {
        let mut stream = start(gateway.address("edge/http")).await;
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &fields(&head));
        bytes.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
        stream.write_all(&bytes).await.unwrap();
        let outcome = outcome(&mut stream).await;
        let (lines, faults) = recorder.take();
        assert!(faults.is_empty(), "{head:?}: {faults:#?}");
        let passed = usize::from(outcome == Outcome::Answered(0x88));
        assert_eq!(lines.len(), passed, "{head:?}: {lines:?}");
        assert!(!lines.iter().any(|line| line.contains("smuggled")), "{head:?}: {lines:?}");
    }
    still_serves(&gateway).await;
}

#[tokio::test]
async fn trailers_of_http2_cannot_frame_a_message_of_http1() {
    let (gateway, recorder, _upstream) = world().await;
    let head = fields(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]);
    for trailers in [
        [("content-length", "3")],
        [("transfer-encoding", "chunked")],
        [("host", "b")],
        [(":path", "/smuggled")],
        [("x-a", "1\r\nx-b: 2")],
        [("x-a", "1")],
    ] {
        let mut stream = start(gateway.address("edge/http")).await;
        let mut bytes = frame(HEADERS, END_HEADERS, 1, &head);
        bytes.extend(frame(DATA, 0, 1, b"abc"));
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&trailers)));
        stream.write_all(&bytes).await.unwrap();
        let outcome = outcome(&mut stream).await;
        let (lines, faults) = recorder.take();
        assert!(faults.is_empty(), "{trailers:?}: {faults:#?}");
        assert_eq!(lines.len(), usize::from(outcome == Outcome::Answered(0x88)), "{trailers:?}: {lines:?}");
    }
}
