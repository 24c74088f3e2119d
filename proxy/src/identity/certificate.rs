//! What a certificate says of itself that path validation does not look at.

use std::time::Duration;

use foregate_filters::peer::SpiffeId;
use foregate_filters::svid::{Svid, SvidError};

/// Extensions by their object identifiers in DER (RFC 5280, section 4.2.1).
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// When a token last proved the workload, as the control plane has it: 2.25.5739218406193482117.
const ATTESTED: &[u8] = &[0x69, 0xcf, 0xd2, 0xf3, 0x97, 0xb9, 0xac, 0xaf, 0x93, 0x05];
/// What a key may be used for (RFC 5280, section 4.2.1.12).
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Tags of DER (X.690, section 8).
const BOOLEAN: u8 = 0x01;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `uniformResourceIdentifier` among the names of a subject.
const URI: u8 = 0x86;

/// The end of a connection at which a certificate is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What is read of one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Every URI among the alternative names; one that is no text is empty.
    pub uris: Vec<&'a str>,
    /// Since the epoch.
    pub not_before: Duration,
    /// Since the epoch.
    pub not_after: Duration,
    /// When a token last proved the workload, since the epoch; the control plane says so.
    pub attested: Option<Duration>,
    authority: bool,
    digital_signature: bool,
    /// True where the key may sign certificates or revocation lists.
    signs_others: bool,
    roles: Vec<Role>,
}

/// The workload that a certificate names, where it is fit to name one at this end of a connection. Says
/// nothing of who signed it.
///
/// # Errors
/// The first rule of X509-SVID that it breaks.
pub fn svid(der: &[u8], role: Role) -> Result<SpiffeId, SvidError> {
    let facts = Facts::read(der).ok_or(SvidError::Malformed)?;
    let svid = Svid {
        uris: &facts.uris,
        authority: facts.authority,
        digital_signature: facts.digital_signature,
        signs_others: facts.signs_others,
        purpose: facts.roles.contains(&role),
    };
    svid.workload()
}

impl<'a> Facts<'a> {
    /// Reads a certificate in DER (RFC 5280, section 4.1); `None` for what is none.
    pub fn read(der: &'a [u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).take(SEQUENCE)?);
        let mut body = Der(certificate.take(SEQUENCE)?);
        body.skip(VERSION);
        body.take(INTEGER)?;
        body.take(SEQUENCE)?;
        body.take(SEQUENCE)?;
        let mut validity = Der(body.take(SEQUENCE)?);
        let mut facts = Self { not_before: validity.time()?, not_after: validity.time()?, ..Self::default() };
        body.take(SEQUENCE)?;
        body.take(SEQUENCE)?;
        let mut extensions = Der(&[]);
        while let Some((tag, value)) = body.next() {
            if tag == EXTENSIONS {
                extensions = Der(Der(value).take(SEQUENCE)?);
            }
        }
        while !extensions.0.is_empty() {
            let mut extension = Der(extensions.take(SEQUENCE)?);
            let name = extension.take(OID)?;
            extension.skip(BOOLEAN);
            facts.extension(name, extension.take(OCTET_STRING)?)?;
        }
        Some(facts)
    }

    fn extension(&mut self, name: &[u8], value: &'a [u8]) -> Option<()> {
        match name {
            SUBJECT_ALT_NAME => {
                let mut names = Der(Der(value).take(SEQUENCE)?);
                while !names.0.is_empty() {
                    if let (URI, uri) = names.next()? {
                        self.uris.push(std::str::from_utf8(uri).unwrap_or_default());
                    }
                }
            }
            KEY_USAGE => {
                let (_unused, bits) = Der(value).take(BIT_STRING)?.split_first()?;
                let first = bits.first().copied().unwrap_or_default();
                self.digital_signature = first & 0x80 != 0;
                // keyCertSign and cRLSign.
                self.signs_others = first & 0x06 != 0;
            }
            BASIC_CONSTRAINTS => {
                let mut constraints = Der(Der(value).take(SEQUENCE)?);
                self.authority =
                    constraints.skip(BOOLEAN).is_some_and(|set| set.first().is_some_and(|set| *set != 0));
            }
            ATTESTED => {
                // Shown to operators alone: what cannot be read makes the certificate no other.
                let bytes = Der(value).take(INTEGER).filter(|bytes| bytes.len() <= 8);
                let seconds = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                self.attested = bytes.map(seconds).map(Duration::from_secs);
            }
            EXTENDED_KEY_USAGE => {
                let mut purposes = Der(Der(value).take(SEQUENCE)?);
                while !purposes.0.is_empty() {
                    match purposes.take(OID)? {
                        SERVER_AUTH => self.roles.push(Role::Server),
                        CLIENT_AUTH => self.roles.push(Role::Client),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// What is left of a run of values in DER.
#[derive(Clone, Copy, Debug)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value with its tag; `None` at the end, and where the rest is not DER.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            // Three bytes of length are what a handshake message may have (RFC 8446, section 4).
            long @ 0x81..=0x83 => {
                let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, value))
    }

    /// The next value, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    /// The next value, where it has this tag; otherwise it stays.
    fn skip(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let value = ahead.take(tag)?;
        *self = ahead;
        Some(value)
    }

    /// A time since the epoch (RFC 5280, section 4.1.2.5).
    fn time(&mut self) -> Option<Duration> {
        let (tag, text) = self.next()?;
        let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let year: u64 = text.get(..2)?.parse().ok()?;
                (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
            }
            GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
            _ => return None,
        };
        let mut fields = [0u64; 5];
        for (index, field) in fields.iter_mut().enumerate() {
            *field = rest.get(index * 2..index * 2 + 2)?.parse().ok()?;
        }
        let [month, day, hour, minute, second] = fields;
        let days = days(year, month, day)?;
        Some(Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
    }
}

/// Days since 1970-01-01 in the Gregorian calendar; days before it count as 0.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    // Years begin in March here, so that the day of a leap year is the last one.
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let year = if month > 2 { year } else { year.checked_sub(1)? };
    let day = (153 * shifted + 2) / 5 + day.checked_sub(1)?;
    Some((year * 365 + year / 4 - year / 100 + year / 400 + day).saturating_sub(719_468))
}

#[cfg(test)]
mod tests {
    use super::days;

    #[test]
    fn days_are_counted_from_the_epoch() {
        for ((year, month, day), want) in [
            ((1970, 1, 1), 0),
            ((1970, 1, 2), 1),
            ((1969, 12, 31), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 25), 20_782),
            ((4096, 1, 1), 776_506),
        ] {
            assert_eq!(days(year, month, day), Some(want), "{year}-{month}-{day}");
        }
    }
}
