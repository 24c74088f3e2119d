//! W3C trace context: read strictly, passed on with a span of ours.

use http::{HeaderMap, HeaderValue};

use crate::rare::{TRACEPARENT, TRACESTATE};

/// Longest `tracestate` that is passed on, in bytes: as much as the standard asks of everybody.
const MAX_TRACESTATE: usize = 512;

/// Length of a `traceparent` of version 00, and of what is read of later ones, in bytes.
const LENGTH: usize = 55;

/// The version that is none.
const NO_VERSION: u128 = 0xff;

/// The flags that version 00 defines: sampled, and random trace id. Others are not passed on.
const KNOWN_FLAGS: u8 = 0x03;

/// The flag of a trace that is kept.
pub const SAMPLED: u8 = 1;

/// Where a request stands in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Never zero.
    pub trace: u128,
    /// The span of the caller; `None` where the trace starts here.
    pub parent: Option<u64>,
    /// Our own span. Never zero.
    pub span: u64,
    /// Bit 0: sampled.
    pub flags: u8,
    /// `tracestate` as it came, several fields joined by a comma.
    pub state: Option<HeaderValue>,
}

/// A lower-case hexadecimal digit for a number below 16.
const fn digit(number: u8) -> u8 {
    if number < 10 { b'0' + number } else { b'a' + number - 10 }
}

/// A number of lower-case hexadecimal digits, all of them present.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u128::from(value))
    })
}

/// Trace id, parent id and flags of a `traceparent`. One of a later version is read as one of version 00, whatever it
/// says besides (W3C Trace Context, "Versioning of traceparent").
fn parse(value: &[u8]) -> Option<(u128, u64, u8)> {
    let (known, more) = value.split_at_checked(LENGTH)?;
    let mut parts = known.split(|byte| *byte == b'-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || trace.len() != 32 || parent.len() != 16 || flags.len() != 2 {
        return None;
    }
    let ends = match hex(version)? {
        0 => more.is_empty(),
        NO_VERSION => false,
        _ => more.is_empty() || more.starts_with(b"-"),
    };
    if !ends {
        return None;
    }
    let (trace, parent, flags) = (hex(trace)?, hex(parent)?, hex(flags)?);
    let (parent, flags) = (u64::try_from(parent).ok()?, u8::try_from(flags).ok()?);
    (trace != 0 && parent != 0).then_some((trace, parent, flags & KNOWN_FLAGS))
}

/// The fields of `tracestate` as one, where they fit.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut fields = headers.get_all(&TRACESTATE).iter();
    let first = fields.next()?;
    let Some(second) = fields.next() else {
        return (first.len() <= MAX_TRACESTATE && !first.is_empty()).then(|| first.clone());
    };
    let mut joined = first.as_bytes().to_vec();
    for field in std::iter::once(second).chain(fields) {
        joined.push(b',');
        joined.extend_from_slice(field.as_bytes());
        if joined.len() > MAX_TRACESTATE {
            return None;
        }
    }
    HeaderValue::from_bytes(&joined).ok()
}

impl TraceContext {
    /// Goes on with the caller's trace, or starts one (not sampled) where the caller sent none or a
    /// malformed one; `tracestate` is then dropped too. `entropy` gives 64 random bits a call.
    pub fn from_headers(headers: &HeaderMap, mut entropy: impl FnMut() -> u64) -> Self {
        let mut sent = headers.get_all(&TRACEPARENT).iter();
        let caller = match (sent.next(), sent.next()) {
            (Some(value), None) => parse(value.as_bytes()),
            _ => None,
        };
        if let Some((trace, parent, flags)) = caller {
            return Self {
                trace,
                parent: Some(parent),
                span: entropy().max(1),
                flags,
                state: state(headers),
            };
        }
        Self::begin(entropy)
    }

    /// Starts a trace, not sampled. `entropy` gives 64 random bits a call.
    pub fn begin(mut entropy: impl FnMut() -> u64) -> Self {
        let span = entropy().max(1);
        let trace = (u128::from(entropy()) << 64) | u128::from(entropy().max(1));
        Self { trace, parent: None, span, flags: 0, state: None }
    }

    /// True where this trace is kept: the caller asks for it, or it begins here and was chosen.
    pub const fn sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The `traceparent` for the upstream: our span is its parent.
    pub fn header_value(&self) -> HeaderValue {
        self.header_value_below(self.span)
    }

    /// The same with another span of ours as parent.
    pub fn header_value_below(&self, span: u64) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let mut write = |from: usize, bytes: &[u8]| {
            let places = text.get_mut(from..).unwrap_or_default();
            for (pair, byte) in places.chunks_exact_mut(2).zip(bytes) {
                pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
            }
        };
        write(3, &self.trace.to_be_bytes());
        write(36, &span.to_be_bytes());
        write(53, &[self.flags]);
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::TraceContext;
    use crate::rare::TRACEPARENT;
    use http::{HeaderMap, HeaderValue};

    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn read(fields: &[(&'static str, &str)]) -> TraceContext {
        let mut number = 0x0123_4567_89ab_cdef_u64;
        TraceContext::from_headers(&headers(fields), || {
            number += 1;
            number
        })
    }

    #[test]
    fn a_trace_goes_on_with_our_span_as_parent() {
        let context = read(&[("traceparent", SENT), ("tracestate", "a=1,b=2")]);
        assert_eq!(context.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(context.parent, Some(0xb7ad_6b71_6920_3331));
        assert!(context.sampled());
        assert_eq!(context.header_value(), "00-0af7651916cd43dd8448eb211c80319c-0123456789abcdf0-01");
        assert_eq!(context.state.unwrap(), "a=1,b=2");
    }

    #[test]
    fn a_malformed_parent_starts_a_trace_that_is_not_sampled() {
        let upper = SENT.to_uppercase();
        let long = format!("{SENT}-00");
        for bad in [
            "",
            "00",
            &upper,
            &long,
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333+-01",
        ] {
            let context = read(&[("traceparent", bad), ("tracestate", "a=1")]);
            assert_eq!((context.parent, context.flags, context.state), (None, 0, None), "{bad}");
            assert_ne!(context.trace, 0, "{bad}");
        }
        assert_eq!(read(&[]).parent, None);
        assert_eq!(read(&[("traceparent", SENT), ("traceparent", SENT)]).parent, None);
    }

    #[test]
    fn a_later_version_is_read_as_the_first_and_passed_on_as_such() {
        let later = |version: &str, more: &str| format!("{version}{}{more}", &SENT[2..]);
        for (version, more) in
            [("01", ""), ("01", "-"), ("cc", "-what-the-future-will-be-like"), ("fe", "-.")]
        {
            let context = read(&[("traceparent", &later(version, more)), ("tracestate", "a=1")]);
            assert_eq!(context.parent, Some(0xb7ad_6b71_6920_3331), "{version} {more}");
            assert_eq!(context.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, "{version} {more}");
            assert!(context.sampled() && context.state.is_some(), "{version} {more}");
            assert!(context.header_value().as_bytes().starts_with(b"00-0af765"), "{version} {more}");
        }
        let last = |flags: &str| later("01", "").replace("-01", flags);
        for bad in [
            later("01", "."),
            later("cc", ".what-the-future-will-be-like"),
            later("00", "-"),
            later("ff", ""),
            later("ff", "-more"),
            later("0G", ""),
            later("0A", ""),
            later(" 1", ""),
            later("1", ""),
            later("001", ""),
            later("01", "")[..54].to_owned(),
            later("01", "")[..54].to_owned() + "-",
            last("-0x"),
            last("-1-0"),
            last(".01"),
            later("01", "").replace("0af7", "0aF7"),
            later("01", "-more").replace("b7ad6b7169203331", "0000000000000000"),
        ] {
            let context = read(&[("traceparent", &bad), ("tracestate", "a=1")]);
            assert_eq!((context.parent, context.flags, context.state), (None, 0, None), "{bad}");
        }
    }

    #[test]
    fn unknown_flags_are_not_passed_on() {
        let sent = SENT.replace("-01", "-ff");
        assert_eq!(read(&[("traceparent", &sent)]).flags, 0x03);
    }

    #[test]
    fn a_new_trace_reads_as_a_valid_one() {
        let mut zeros = TraceContext::from_headers(&HeaderMap::new(), || 0);
        assert!(zeros.trace != 0 && zeros.span != 0);
        zeros.state = None;
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, zeros.header_value());
        let next = TraceContext::from_headers(&headers, || 7);
        assert_eq!((next.trace, next.parent), (zeros.trace, Some(zeros.span)));
    }

    #[test]
    fn state_is_joined_and_bounded() {
        let fit = "k=".to_owned() + &"v".repeat(510);
        let over = "k=".to_owned() + &"v".repeat(511);
        let half = "k=".to_owned() + &"v".repeat(300);
        for (fields, kept) in [
            (vec![fit.as_str()], Some(fit.as_str())),
            (vec![over.as_str()], None),
            (vec!["a=1", "b=2"], Some("a=1,b=2")),
            (vec![half.as_str(), half.as_str()], None),
            (vec![""], None),
        ] {
            let mut all = vec![("traceparent", SENT)];
            all.extend(fields.into_iter().map(|field| ("tracestate", field)));
            let state = read(&all).state;
            assert_eq!(state.as_ref().map(|value| value.to_str().unwrap()), kept);
        }
    }
}
