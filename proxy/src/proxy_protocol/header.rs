//! Headers of the PROXY protocol, version 1 and 2: read and written, pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of version 2 (section 2.2 of the specification by `HAProxy` Technologies).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// First bytes of version 1.
const WORD: &[u8] = b"PROXY ";

/// Shortest header of version 1: `PROXY UNKNOWN` and a line break.
const SHORTEST: usize = 15;

/// Longest header of version 1, its line break included.
const LONGEST_LINE: usize = 107;

/// Bytes of version 2 before the addresses.
const FIXED: usize = 16;

/// Most bytes of addresses and TLVs that are read; real ones have a few hundred.
const MAX_REST: usize = 4096;

/// The TLV with the name that the client asked for (`PP2_TYPE_AUTHORITY`).
const AUTHORITY: u8 = 0x02;
/// The TLV with a checksum of the whole header (`PP2_TYPE_CRC32C`).
const CHECKSUM: u8 = 0x03;

/// Longest name in a header that is written: that of a host (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 255;

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection is the proxy's own, or nothing is known of the client: the socket's addresses hold.
    Local,
    Proxied(Ends),
}

/// How far a header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// At least so many more bytes belong to it: they may be read, and no more.
    Need(usize),
    /// It is whole, and nothing stands behind it.
    Done(Header),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("no header of the PROXY protocol")]
    Signature,
    #[error("a line of version 1 that says something else")]
    Line,
    #[error("a line of version 1 that does not end")]
    Endless,
    #[error("a version or command that does not exist")]
    Command,
    #[error("addresses of another kind than TCP over IP")]
    Family,
    #[error("a length that does not fit its addresses")]
    Length,
    #[error("a TLV that is longer than its header")]
    Tlv,
    #[error("a checksum that does not fit")]
    Checksum,
}

/// Looks at the first bytes of a connection.
///
/// # Errors
/// As soon as no byte to come can make them a header.
pub fn parse(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    if begins(SIGNATURE) {
        // Nothing yet fits both versions; what is asked for belongs to either.
        return if bytes.len() < FIXED { Ok(Progress::Need(need(bytes.len()))) } else { binary(bytes) };
    }
    if !begins(WORD) {
        return Err(HeaderError::Signature);
    }
    if bytes.len() < SHORTEST {
        return Ok(Progress::Need(SHORTEST - bytes.len()));
    }
    line(bytes)
}

/// Bytes to ask for while fewer than those of the fixed part of version 2 are there.
fn need(have: usize) -> usize {
    if have == 0 { SHORTEST } else { FIXED - have }
}

/// Version 1: a line of text.
fn line(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        let missing = if bytes.last() == Some(&b'\r') { 1 } else { 2 };
        // Never more than the longest line.
        return match LONGEST_LINE.checked_sub(bytes.len()) {
            None | Some(0) => Err(HeaderError::Endless),
            Some(left) => Ok(Progress::Need(missing.min(left))),
        };
    };
    let text = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(HeaderError::Line)?;
    if end + 1 != bytes.len() || bytes.len() > LONGEST_LINE || text.contains(&b'\r') {
        return Err(HeaderError::Line);
    }
    let text = std::str::from_utf8(text).map_err(|_| HeaderError::Line)?;
    let mut words = text.split(' ').skip(1);
    let header = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => return Ok(Progress::Done(Header::Local)),
        Some("TCP4") => ends(&mut words, |word| word.parse().ok().map(|it: Ipv4Addr| it.into())),
        Some("TCP6") => ends(&mut words, |word| word.parse().ok().map(|it: Ipv6Addr| it.into())),
        _ => None,
    };
    match (header, words.next()) {
        (Some(ends), None) => Ok(Progress::Done(Header::Proxied(ends))),
        _ => Err(HeaderError::Line),
    }
}

fn ends<'a>(words: &mut impl Iterator<Item = &'a str>, address: fn(&str) -> Option<IpAddr>) -> Option<Ends> {
    let source = address(words.next()?)?;
    let destination = address(words.next()?)?;
    let source = SocketAddr::new(source, port(words.next()?)?);
    Some(Ends { source, destination: SocketAddr::new(destination, port(words.next()?)?) })
}

/// A decimal number without sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word.len() == 1 || !word.starts_with('0'));
    if plain { word.parse().ok() } else { None }
}

/// Version 2: binary.
fn binary(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
    let (version, family) = (byte(12), byte(13));
    let length = usize::from(u16::from_be_bytes([byte(14), byte(15)]));
    let local = match version {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Command),
    };
    let addresses = match (local, family) {
        (true, _) | (false, 0x00) => 0,
        (false, 0x11) => 12,
        (false, 0x21) => 36,
        _ => return Err(HeaderError::Family),
    };
    if length > MAX_REST || length < addresses {
        return Err(HeaderError::Length);
    }
    let whole = FIXED + length;
    match whole.checked_sub(bytes.len()) {
        None => return Err(HeaderError::Length),
        Some(0) => {}
        Some(left) => return Ok(Progress::Need(left)),
    }
    if local {
        return Ok(Progress::Done(Header::Local));
    }
    let rest = bytes.get(FIXED..).unwrap_or_default();
    let (addresses, tlvs) = rest.split_at_checked(addresses).ok_or(HeaderError::Length)?;
    check(bytes, tlvs)?;
    Ok(Progress::Done(match addresses.len() {
        12 => Header::Proxied(read_ends::<4>(addresses).ok_or(HeaderError::Length)?),
        36 => Header::Proxied(read_ends::<16>(addresses).ok_or(HeaderError::Length)?),
        _ => Header::Local,
    }))
}

fn read_ends<const N: usize>(bytes: &[u8]) -> Option<Ends>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    Some(Ends {
        source: SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes(*source_port)),
        destination: SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes(*destination_port)),
    })
}

/// Walks over the TLVs; what they say is nobody's business but for the checksum.
fn check(whole: &[u8], mut tlvs: &[u8]) -> Result<(), HeaderError> {
    while !tlvs.is_empty() {
        let (head, rest) = tlvs.split_first_chunk::<3>().ok_or(HeaderError::Tlv)?;
        let [kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(HeaderError::Tlv)?;
        if kind == CHECKSUM {
            let told = <[u8; 4]>::try_from(value).map_err(|_| HeaderError::Tlv)?;
            let at = whole.len() - rest.len() - told.len();
            // The checksum is that of the header with zeros in its place.
            let zeroed = whole
                .iter()
                .enumerate()
                .map(|(index, byte)| if (at..at + told.len()).contains(&index) { 0 } else { *byte });
            if crc32c(zeroed) != u32::from_be_bytes(told) {
                return Err(HeaderError::Checksum);
            }
        }
        tlvs = rest;
    }
    Ok(())
}

/// CRC-32C (RFC 9260, appendix A), bit by bit: a header is short, and checksums are rare.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }
            },
        )
    })
}

/// The addresses of both ends, in one family.
enum Pair {
    V4([Ipv4Addr; 2]),
    V6([Ipv6Addr; 2]),
}

impl Ends {
    /// IPv4 where both are, IPv6 otherwise.
    fn pair(self) -> Pair {
        let ends = [self.source.ip().to_canonical(), self.destination.ip().to_canonical()];
        match ends {
            [IpAddr::V4(source), IpAddr::V4(destination)] => Pair::V4([source, destination]),
            _ => Pair::V6(ends.map(|address| match address {
                IpAddr::V4(four) => four.to_ipv6_mapped(),
                IpAddr::V6(six) => six,
            })),
        }
    }

    fn ports(self) -> [u16; 2] {
        [self.source.port(), self.destination.port()]
    }

    /// The header of a connection that is the gateway's own, in version 1.
    pub const fn own_line() -> &'static [u8] {
        b"PROXY UNKNOWN\r\n"
    }

    /// The same in version 2 (the command LOCAL).
    pub fn own_binary() -> Vec<u8> {
        [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat()
    }

    /// A header of version 1.
    pub fn to_line(self) -> Vec<u8> {
        let [from, to] = self.ports();
        match self.pair() {
            Pair::V4([source, destination]) => format!("PROXY TCP4 {source} {destination} {from} {to}\r\n"),
            Pair::V6([source, destination]) => format!("PROXY TCP6 {source} {destination} {from} {to}\r\n"),
        }
        .into_bytes()
    }

    /// A header of version 2, with the name that the client asked for in TLS.
    pub fn to_binary(self, name: Option<&str>) -> Vec<u8> {
        let (family, mut rest) = match self.pair() {
            Pair::V4(addresses) => (0x11, addresses.map(|address| address.octets()).concat()),
            Pair::V6(addresses) => (0x21, addresses.map(|address| address.octets()).concat()),
        };
        rest.extend(self.ports().map(u16::to_be_bytes).concat());
        if let Some(name) = name.filter(|name| name.len() <= MAX_NAME) {
            #[expect(clippy::cast_possible_truncation, reason = "at most 255")]
            rest.extend([AUTHORITY, 0, name.len() as u8]);
            rest.extend(name.as_bytes());
        }
        let length = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&SIGNATURE[..], &[0x21, family], &length, &rest].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::{Ends, Header, HeaderError, LONGEST_LINE, MAX_REST, Progress, SIGNATURE, crc32c, parse};

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// Feeds a header as a reader does: never more than is asked for. Gives the outcome and what was read.
    fn feed(bytes: &[u8]) -> (Result<Header, HeaderError>, usize) {
        let mut have = 0;
        loop {
            match parse(&bytes[..have]) {
                Err(error) => return (Err(error), have),
                Ok(Progress::Done(header)) => return (Ok(header), have),
                Ok(Progress::Need(more)) => {
                    assert!(more > 0, "{bytes:?} at {have}");
                    assert!(have + more <= bytes.len(), "asked for {more} at {have} of {bytes:?}");
                    have += more;
                }
            }
        }
    }

    fn binary(version: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[version, family], &length.to_be_bytes(), rest].concat()
    }

    const FOUR: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 9, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn headers_are_read_to_their_last_byte_and_no_further() {
        let v4 = Header::Proxied(ends("192.0.2.1:56324", "10.0.0.9:443"));
        let v6 = Header::Proxied(ends("[2001:db8::1]:56324", "[2001:db8::9]:443"));
        let six = ends("[2001:db8::1]:56324", "[2001:db8::9]:443").to_binary(None);
        let tlvs = [&FOUR[..], &[0x02, 0, 3, b'a', b'.', b'b'], &[0xea, 0, 0]].concat();
        for (header, said) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.9 56324 443\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001:db8::1 2001:db8::9 56324 443\r\n".to_vec(), v6),
            (Ends::own_line().to_vec(), Header::Local),
            (Ends::own_binary(), Header::Local),
            (b"PROXY UNKNOWN ffff:f ::1 1 2\r\n".to_vec(), Header::Local),
            (binary(0x21, 0x11, 12, &FOUR), v4),
            (six, v6),
            (binary(0x21, 0x11, 21, &tlvs), v4),
            (binary(0x20, 0x00, 0, &[]), Header::Local),
            (binary(0x20, 0x11, 12, &FOUR), Header::Local),
            (binary(0x20, 0x77, 3, &[1, 2, 3]), Header::Local),
            (binary(0x21, 0x00, 0, &[]), Header::Local),
            (binary(0x21, 0x00, 3, &[0xea, 0, 0]), Header::Local),
        ] {
            let followed = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(feed(&followed), (Ok(said), header.len()), "{header:?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let line = |text: &str| format!("{text}\r\n").into_bytes();
        let long = format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_LINE));
        let tlv = |rest: &[u8]| {
            let rest = [&FOUR[..], rest].concat();
            binary(0x21, 0x11, u16::try_from(rest.len()).unwrap(), &rest)
        };
        for (bytes, error) in [
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), HeaderError::Signature),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaa".to_vec(), HeaderError::Signature),
            (b"proxy TCP4 192.0.2.1 10.0.0.9 1 2\r\n".to_vec(), HeaderError::Signature),
            (b"PROXY\tTCP4 192.0.2.1 10.0.0.9 1 2\r\n".to_vec(), HeaderError::Signature),
            (line("PROXY  TCP4 192.0.2.1 10.0.0.9 1 2"), HeaderError::Line),
            (line("PROXY TCP4  192.0.2.1 10.0.0.9 1 2"), HeaderError::Line),
            (line("PROXY TCP4 192.0.2.1 10.0.0.9 1"), HeaderError::Line),
            (line("PROXY TCP4 192.0.2.1 10.0.0.9 1 2 3"), HeaderError::Line),
            (line("PROXY TCP4 192.0.2.1 10.0.0.9 1 2 "), HeaderError::Line),
            (line("PROXY TCP4 192.0.2.256 10.0.0.9 1 2"), HeaderError::Line),
            (line("PROXY TCP4 192.0.02.1 10.0.0.9 1 2"), HeaderError::Line),
            (line("PROXY TCP4 2001:db8::1 2001:db8::9 1 2"), HeaderError::Line),
            (line("PROXY TCP6 192.0.2.1 10.0.0.9 1 2"), HeaderError::Line),
            (line("PROXY TCP4 192.0.2.1 10.0.0.9 65536 2"), HeaderError::Line),
            (line("PROXY TCP4 192.0.2.1 10.0.0.9 +1 2"), HeaderError::Line),
            (line("PROXY TCP4 192.0.2.1 10.0.0.9 01 2"), HeaderError::Line),
            (line("PROXY TCP4 192.0.2.1 10.0.0.9 -1 2"), HeaderError::Line),
            (line("PROXY UDP4 192.0.2.1 10.0.0.9 1 2"), HeaderError::Line),
            (line("PROXY unknown 1 2"), HeaderError::Line),
            (b"PROXY TCP4 192.0.2.1 10.0.0.9 1 2\n".to_vec(), HeaderError::Line),
            (b"PROXY TCP4 192.0.2.1\r10.0.0.9 1 2\r\n".to_vec(), HeaderError::Line),
            (b"PROXY TCP4 192.0.2.1 10.0.\xff.9 1 2\r\n".to_vec(), HeaderError::Line),
            (long.into_bytes(), HeaderError::Endless),
            (binary(0x11, 0x11, 12, &FOUR), HeaderError::Command),
            (binary(0x31, 0x11, 12, &FOUR), HeaderError::Command),
            (binary(0x22, 0x11, 12, &FOUR), HeaderError::Command),
            (binary(0x21, 0x12, 12, &FOUR), HeaderError::Family),
            (binary(0x21, 0x31, 216, &[0; 216]), HeaderError::Family),
            (binary(0x21, 0x01, 12, &FOUR), HeaderError::Family),
            (binary(0x21, 0x11, 11, &FOUR), HeaderError::Length),
            (binary(0x21, 0x21, 12, &FOUR), HeaderError::Length),
            (binary(0x20, 0x00, u16::MAX, &[]), HeaderError::Length),
            (binary(0x21, 0x11, u16::try_from(MAX_REST).unwrap() + 1, &FOUR), HeaderError::Length),
            (tlv(&[0x02]), HeaderError::Tlv),
            (tlv(&[0x02, 0]), HeaderError::Tlv),
            (tlv(&[0x02, 0, 2, 1]), HeaderError::Tlv),
            (tlv(&[0x02, 0xff, 0xff, 1]), HeaderError::Tlv),
            (tlv(&[0x03, 0, 3, 1, 2, 3]), HeaderError::Tlv),
            (tlv(&[0x03, 0, 4, 1, 2, 3, 4]), HeaderError::Checksum),
        ] {
            let padded = [&bytes[..], &[b'x'; 200]].concat();
            assert_eq!(feed(&padded).0, Err(error), "{:?}", String::from_utf8_lossy(&bytes));
        }
        // Bytes beyond the header are never a part of it.
        let line = b"PROXY UNKNOWN\r\nG";
        assert_eq!(parse(line), Err(HeaderError::Line));
        assert_eq!(parse(&binary(0x20, 0, 0, b"G")), Err(HeaderError::Length));
    }

    #[test]
    fn every_cut_of_a_header_asks_for_more() {
        let headers = [
            b"PROXY TCP6 2001:db8::1 2001:db8::9 56324 443\r\n".to_vec(),
            ends("192.0.2.1:1", "10.0.0.9:2").to_binary(Some("crm.example.com")),
        ];
        for header in headers {
            for cut in 0..header.len() {
                match parse(&header[..cut]) {
                    Ok(Progress::Need(more)) => {
                        assert!(more > 0 && cut + more <= header.len(), "{cut} {more}");
                    }
                    other => panic!("{cut}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_checksum_is_that_of_the_header_without_it() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        let rest = [&FOUR[..], &[0x03, 0, 4, 0, 0, 0, 0], &[0x01, 0, 1, b'x']].concat();
        let mut header = binary(0x21, 0x11, u16::try_from(rest.len()).unwrap(), &rest);
        let sum = crc32c(header.iter().copied()).to_be_bytes();
        header[31..35].copy_from_slice(&sum);
        assert!(matches!(parse(&header), Ok(Progress::Done(Header::Proxied(_)))));
        header[20] ^= 1;
        assert_eq!(parse(&header), Err(HeaderError::Checksum));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (source, destination) in [
            ("192.0.2.1:56324", "10.0.0.9:443"),
            ("[2001:db8::1]:1", "[2001:db8::9]:65535"),
            ("192.0.2.1:0", "[2001:db8::9]:443"),
            ("[::ffff:192.0.2.1]:5", "10.0.0.9:443"),
        ] {
            let ends = ends(source, destination);
            for header in [ends.to_line(), ends.to_binary(None), ends.to_binary(Some("crm.example.com"))] {
                let (Ok(Header::Proxied(read)), length) = feed(&header) else { panic!("{header:?}") };
                assert_eq!(length, header.len());
                assert_eq!(read.source.ip().to_canonical(), ends.source.ip().to_canonical());
                assert_eq!(read.destination.ip().to_canonical(), ends.destination.ip().to_canonical());
                assert_eq!(read.source.port(), ends.source.port());
            }
        }
    }

    /// A small generator of numbers that look random, the same in every run.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn no_bytes_make_it_panic_or_ask_for_too_much() {
        let seeds = [
            b"PROXY TCP4 192.0.2.1 10.0.0.9 56324 443\r\n".to_vec(),
            ends("[2001:db8::1]:56324", "[2001:db8::9]:443").to_binary(Some("a.b")),
            binary(0x21, 0x11, 19, &[&FOUR[..], &[0x03, 0, 4, 0, 0, 0, 0]].concat()),
        ];
        let mut state = 0x2545_f491_4f6c_dd1d;
        for round in 0..200_000_usize {
            let mut bytes = seeds[round % seeds.len()].clone();
            for _ in 0..next(&mut state) % 4 {
                let at = usize::try_from(next(&mut state)).unwrap() % bytes.len();
                bytes[at] = next(&mut state).to_le_bytes()[0];
            }
            bytes.truncate(usize::try_from(next(&mut state)).unwrap() % (bytes.len() + 1));
            if let Ok(Progress::Need(more)) = parse(&bytes) {
                assert!(more > 0 && bytes.len() + more <= 16 + MAX_REST, "{bytes:?}");
            }
        }
    }
}
