//! Request bodies on their way up: none, collected, or streaming past.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::admission::bodies::Share;
use crate::mirror::Tee;
use crate::owned::Owned;
use crate::progress::Progress;
use bytes::{Bytes, BytesMut};
use foregate_filters::reason::Reason;
use foregate_filters::verdict::Reply;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::timeout;

/// Longest time that a refusal waits for its client to finish sending.
const LINGER: Duration = Duration::from_secs(1);

/// Most that is read of a refused body.
const LINGER_BYTES: usize = 4 << 20;

/// Why a request body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("{0}")]
    Client(#[from] hyper::Error),
    #[error("nothing of the body came for too long")]
    Late,
}

/// The body sent to an upstream.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    /// Collected and perhaps changed by filters; `None` once sent.
    Full(Option<Bytes>),
    /// Passes by unread.
    Stream(Incoming, Arc<Progress>, Arc<Owned>),
    /// The same, while copies for others wait for it.
    Tee(Box<Tee>),
}

impl RequestBody {
    /// A body that passes by; trailers that pose as headers of ours stay behind.
    pub fn streaming(incoming: Incoming, owned: &Arc<Owned>) -> Self {
        if incoming.is_end_stream() {
            Self::Empty
        } else {
            Self::Stream(incoming, Arc::default(), Arc::clone(owned))
        }
    }

    /// A second copy for a second attempt; `None` where the body passes by only once.
    pub fn replay(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Stream(..) | Self::Tee(_) => None,
        }
    }

    /// What has not been read of a body that passes by.
    pub fn unread(self) -> Option<Incoming> {
        match self {
            Self::Stream(incoming, ..) => Some(incoming),
            Self::Tee(mut tee) => std::mem::replace(&mut tee.inner, Self::Empty).unread(),
            Self::Empty | Self::Full(_) => None,
        }
    }

    /// Who tells how much of a streaming body has come.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Stream(_, progress, _) => Some(Arc::clone(progress)),
            Self::Tee(tee) => tee.inner.progress(),
            Self::Empty | Self::Full(_) => None,
        }
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(Some(bytes)) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(incoming, progress, owned) => {
                let mut frame = match Pin::new(&mut *incoming).poll_frame(cx) {
                    Poll::Ready(frame) => frame.map(|frame| frame.map_err(BodyError::from)),
                    Poll::Pending if progress.waits(cx) => Some(Err(BodyError::Late)),
                    Poll::Pending => return Poll::Pending,
                };
                let mut trailers = false;
                if let Some(Ok(frame)) = &mut frame
                    && let Some(fields) = frame.trailers_mut()
                {
                    trailers = true;
                    owned.strip_trailers(fields);
                }
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    progress.comes(data.len());
                }
                if frame.as_ref().is_some_and(Result::is_err) {
                    progress.breaks();
                }
                if frame.is_none() || trailers || incoming.is_end_stream() {
                    progress.ends();
                }
                Poll::Ready(frame)
            }
            Self::Tee(tee) => tee.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(incoming, ..) => incoming.is_end_stream(),
            Self::Tee(tee) => tee.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(incoming, ..) => incoming.size_hint(),
            Self::Tee(tee) => tee.inner.size_hint(),
        }
    }
}

/// Reads the whole body within `limit` bytes and `deadline`.
///
/// # Errors
/// `BodyTooLarge` over the limit (at once where the announced length is over it), `BodyTimeout` past the
/// deadline, `BodyMalformed` where the client breaks off or its framing is broken, `BodyMemoryExhausted` where
/// `share` cannot grow with it.
pub async fn collect(
    body: &mut Incoming,
    limit: usize,
    deadline: Duration,
    mut share: Share,
) -> Result<Bytes, Reply> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(too_large(limit));
    }
    match timeout(deadline, read(body, limit, usize::try_from(announced).unwrap_or(0), &mut share)).await {
        Ok(outcome) => outcome.map(|whole| share.hold(whole)),
        Err(_) => {
            Err(Reply::new(Reason::BodyTimeout).detail(format!("body not complete after {deadline:?}")))
        }
    }
}

/// Reads what a refused client still sends, within [`LINGER`] and [`LINGER_BYTES`], and forgets it; true where that
/// was all.
pub async fn discard(mut body: Incoming) -> bool {
    use http_body_util::BodyExt;
    let reading = async {
        let mut left = LINGER_BYTES;
        loop {
            match body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                    Some(less) => left = less,
                    None => return false,
                },
            }
        }
    };
    // Late or not, the answer goes out now.
    timeout(LINGER, reading).await.unwrap_or(false)
}

async fn read(
    body: &mut Incoming,
    limit: usize,
    announced: usize,
    share: &mut Share,
) -> Result<Bytes, Reply> {
    use http_body_util::BodyExt;
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Reply::new(Reason::BodyMalformed).detail(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let have = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if have + data.len() > limit {
            return Err(too_large(limit));
        }
        // As it arrives, not as it is announced: who only announces holds nothing.
        share.grow((have + data.len()) as u64).map_err(|reply| *reply)?;
        match &first {
            None => first = Some(data),
            Some(head) => {
                if rest.is_empty() {
                    rest.reserve(announced.max(head.len() + data.len()));
                    rest.extend_from_slice(head);
                    first = Some(Bytes::new());
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}

fn too_large(limit: usize) -> Reply {
    Reply::new(Reason::BodyTooLarge).detail(format!("more than {limit} bytes"))
}
