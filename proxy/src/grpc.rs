//! gRPC calls: how they are known, their deadlines, refusals as trailers alone.

use std::time::Duration;

use bytes::Bytes;
use foregate_filters::grpc_timeout;
use foregate_filters::reason::Reason;
use foregate_filters::verdict::Reply;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};

use crate::telemetry::code::{Code, Ending};

/// Time that a caller gives its call, counted from when it was sent (gRPC over HTTP/2).
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

const GRPC: &[u8] = b"application/grpc";

/// Longest wait for a response head that a caller can ask for where the route says nothing.
const LONGEST: Duration = Duration::from_hours(1);

/// A request that is a gRPC call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// When it must be over, on the monotonic clock.
    pub deadline: Option<Duration>,
    /// How it ends, as far as its caller was told.
    pub ending: Ending,
}

impl Call {
    /// A `POST` in HTTP/2 with the content type of gRPC; requests of other methods are not looked at.
    pub fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.version() != Version::HTTP_2 || request.method() != Method::POST {
            return None;
        }
        is_grpc(request.headers().get(CONTENT_TYPE)?).then(Self::default)
    }

    /// Reads `grpc-timeout` of a call that came at `since`.
    ///
    /// # Errors
    /// A reply where it is there and means nothing.
    pub fn read(&mut self, headers: &HeaderMap, since: Duration) -> Result<(), Box<Reply>> {
        let mut sent = headers.get_all(GRPC_TIMEOUT).iter();
        let Some(value) = sent.next() else { return Ok(()) };
        let time = value.to_str().ok().and_then(grpc_timeout::parse).filter(|_| sent.next().is_none());
        let Some(time) = time else {
            return Err(Box::new(Reply::new(Reason::RequestMalformed).detail("grpc-timeout is no time")));
        };
        self.deadline = Some(since.saturating_add(time));
        Ok(())
    }

    /// No later than so long after `since`; zero is no bound.
    pub fn bound(&mut self, limit: Option<Duration>, since: Duration) {
        if let Some(limit) = limit.filter(|limit| !limit.is_zero()) {
            let end = since.saturating_add(limit);
            self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
        }
    }

    /// Time that is left at `now`; `None` without deadline.
    pub fn left(self, now: Duration) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_sub(now))
    }

    /// How long the response head may be waited for: `route` is what the route allows, `said` whether it says so
    /// itself. What a caller asks for takes the place of the gateway's default, within an hour.
    pub fn wait(self, now: Duration, route: Option<Duration>, said: bool) -> Option<Duration> {
        match (self.left(now), route) {
            (Some(left), Some(route)) if said => Some(left.min(route)),
            (Some(left), None) => Some(left),
            (Some(left), Some(_)) => Some(left.min(LONGEST)),
            (None, route) => route,
        }
    }

    /// Tells the upstream how much of its time is left.
    pub fn pass_on(self, headers: &mut HeaderMap, now: Duration) {
        if let Some(left) = self.left(now) {
            headers.insert(GRPC_TIMEOUT, timeout(left));
        }
    }

    /// Notes what the head of its answer says of how it ends. With another status than 200, or of another type, that
    /// is no answer of gRPC, and the status says it ("HTTP to gRPC status code mapping").
    pub fn answered(&mut self, head: &Parts) {
        let speaks = head.status == StatusCode::OK && head.headers.get(CONTENT_TYPE).is_some_and(is_grpc);
        self.ending = if speaks { said(&head.headers).unwrap_or(Ending::Open) } else { Ending::Unasked };
    }

    /// Notes what the trailers of its answer say.
    pub fn ended(&mut self, trailers: &HeaderMap) {
        if self.ending == Ending::Open
            && let Some(said) = said(trailers)
        {
            self.ending = said;
        }
    }

    /// Notes that it is refused, or ended here for this reason.
    pub fn refused(&mut self, reason: Reason) {
        self.ending = Ending::Said(Code::of(reason.grpc_code()));
    }
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    let Some((start, rest)) = content_type.as_bytes().split_at_checked(GRPC.len()) else { return false };
    start.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// A value of `grpc-timeout`: in the finest unit for which eight digits suffice, never more than `time`.
pub fn timeout(time: Duration) -> HeaderValue {
    const TOO_MANY: u128 = 100_000_000;
    let secs = u128::from(time.as_secs());
    let units = [
        (time.as_nanos(), 'n'),
        (time.as_micros(), 'u'),
        (time.as_millis(), 'm'),
        (secs, 'S'),
        (secs / 60, 'M'),
        (secs / 3_600, 'H'),
    ];
    let fits = units.into_iter().find(|(number, _)| *number < TOO_MANY);
    let (number, unit) = fits.unwrap_or((TOO_MANY - 1, 'H'));
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0n"))
}

/// The whole answer to a refused call: status 200, and what gRPC calls trailers-only.
pub fn refusal(reply: &Reply) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.extend(trailers(reply.reason));
    for (name, value) in &reply.headers {
        headers.insert(name, value.clone());
    }
    response
}

/// How the call ended, where these headers or trailers say it.
fn said(headers: &HeaderMap) -> Option<Ending> {
    headers.get(GRPC_STATUS).map(|status| Ending::Said(Code::parse(status)))
}

/// How a call ends: code, and the reason with its title.
pub fn trailers(reason: Reason) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(reason.grpc_code())));
    // Names and titles hold no character that must be percent-encoded; a test holds them to that.
    if let Ok(message) = HeaderValue::try_from(format!("{}: {}", reason.name(), reason.title())) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::{Call, GRPC_TIMEOUT, refusal, timeout, trailers};
    use crate::telemetry::code::{Code, Ending};
    use foregate_filters::reason::Reason;
    use foregate_filters::verdict::Reply;
    use http::{HeaderMap, Request, Response, Version};
    use std::time::Duration;

    #[test]
    fn calls_are_posts_in_http2_with_their_content_type() {
        for (version, method, content_type, call) in [
            (Version::HTTP_2, "POST", "application/grpc", true),
            (Version::HTTP_2, "POST", "application/grpc+proto", true),
            (Version::HTTP_2, "POST", "Application/gRPC; x=y", true),
            (Version::HTTP_2, "POST", "application/grpc-web", false),
            (Version::HTTP_2, "POST", "application/json", false),
            (Version::HTTP_2, "GET", "application/grpc", false),
            (Version::HTTP_11, "POST", "application/grpc", false),
        ] {
            let request = Request::builder().version(version).method(method);
            let request = request.header("content-type", content_type).body(()).unwrap();
            assert_eq!(Call::of(&request).is_some(), call, "{version:?} {method} {content_type}");
        }
    }

    #[test]
    fn timeouts_are_written_in_the_finest_unit() {
        for (time, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(99), "99000000n"),
            (Duration::from_millis(1_500), "1500000u"),
            (Duration::from_secs(200), "200000m"),
            (Duration::from_hours(48), "172800S"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(timeout(time), text);
        }
    }

    #[test]
    fn a_deadline_is_the_nearer_of_the_callers_and_the_routes() {
        let since = Duration::from_secs(100);
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, "5S".parse().unwrap());
        let mut call = Call::default();
        call.read(&headers, since).unwrap();
        assert_eq!(call.left(Duration::from_secs(101)), Some(Duration::from_secs(4)));
        call.bound(Some(Duration::from_secs(9)), since);
        assert_eq!(call.left(since), Some(Duration::from_secs(5)));
        call.bound(Some(Duration::ZERO), since);
        assert_eq!(call.left(since), Some(Duration::from_secs(5)));
        call.bound(Some(Duration::from_secs(2)), since);
        call.pass_on(&mut headers, Duration::from_millis(100_500));
        assert_eq!(headers[GRPC_TIMEOUT], "1500000u");
        assert_eq!(call.left(Duration::from_hours(1)), Some(Duration::ZERO));
        headers.append(GRPC_TIMEOUT, "1S".parse().unwrap());
        assert!(Call::default().read(&headers, since).is_err());
    }

    #[test]
    fn a_caller_waits_as_long_as_it_says_where_the_route_says_nothing() {
        let call = |secs: u64| Call { deadline: Some(Duration::from_secs(secs)), ..Call::default() };
        let (now, minute) = (Duration::from_secs(0), Duration::from_mins(1));
        for (call, route, said, want) in [
            (call(5), Some(minute), true, Some(Duration::from_secs(5))),
            (call(500), Some(minute), true, Some(minute)),
            (call(500), Some(minute), false, Some(Duration::from_secs(500))),
            (call(50_000), Some(minute), false, Some(Duration::from_hours(1))),
            (call(50_000), None, true, Some(Duration::from_secs(50_000))),
            (Call::default(), Some(minute), false, Some(minute)),
            (Call::default(), None, true, None),
        ] {
            assert_eq!(call.wait(now, route, said), want, "{call:?} {route:?} {said}");
        }
    }

    #[test]
    fn a_code_is_read_from_answers_of_grpc_alone_and_once() {
        let (not_found, internal) = (Ending::Said(Code::of(5)), Ending::Said(Code::of(13)));
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "13".parse().unwrap());
        for (status, content_type, code, begun, ended) in [
            (200, "application/grpc", None, Ending::Open, internal),
            (200, "application/grpc+proto", Some("5"), not_found, not_found),
            (200, "application/json", Some("5"), Ending::Unasked, Ending::Unasked),
            (200, "application/grpc-web", Some("5"), Ending::Unasked, Ending::Unasked),
            (503, "application/grpc", Some("5"), Ending::Unasked, Ending::Unasked),
        ] {
            let mut response = Response::builder().status(status).header("content-type", content_type);
            if let Some(code) = code {
                response = response.header("grpc-status", code);
            }
            let (head, ()) = response.body(()).unwrap().into_parts();
            let mut call = Call::default();
            call.answered(&head);
            assert_eq!(call.ending, begun, "{status} {content_type} {code:?}");
            call.ended(&HeaderMap::new());
            assert_eq!(call.ending, begun, "trailers that do not say it");
            call.ended(&trailers);
            assert_eq!(call.ending, ended, "{status} {content_type} {code:?}");
            call.refused(Reason::DeadlineExceeded);
            assert_eq!(call.ending, Ending::Said(Code::of(4)));
        }
    }

    #[test]
    fn every_reason_is_a_status_and_a_message_of_plain_text() {
        for reason in Reason::ALL {
            let given = refusal(&Reply::new(*reason).detail("secret detail"));
            assert_eq!(given.headers()["grpc-status"], reason.grpc_code().to_string().as_str());
            let message = trailers(*reason).remove("grpc-message").unwrap();
            let plain = |byte: &u8| (0x20..=0x7e).contains(byte) && *byte != b'%';
            assert!(message.as_bytes().iter().all(plain), "{message:?}");
            assert!(!format!("{given:?}").contains("secret"));
        }
    }
}
