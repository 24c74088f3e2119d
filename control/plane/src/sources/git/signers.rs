//! Who may sign: the allowed signers file of OpenSSH (ssh-keygen(1), ALLOWED SIGNERS).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::DateTime;

use crate::sources::git::sshsig::{SignatureError, SshSignature};

/// What git signs under.
const NAMESPACE: &str = "git";
/// Largest file of signers, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why nobody can be told apart by a file of signers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignersError {
    #[error("{0}")]
    Unreadable(String),
    #[error("line {line}: {fault}")]
    Line { line: usize, fault: String },
}

/// Why a signature is not one that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    #[error("it is signed with PGP or X.509; only SSH signatures are verified")]
    OtherFormat,
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("it is signed for {0:?}, not for git")]
    Namespace(String),
    #[error("its key is not in the file of allowed signers")]
    Unknown,
    #[error("the key of {0} is not allowed to sign for git")]
    NotForGit(String),
    #[error("the key of {0} is not valid at that time")]
    Expired(String),
}

/// One line: who may sign, with what, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signer {
    principals: String,
    key: Vec<u8>,
    namespaces: Option<String>,
    /// Seconds since the Unix epoch.
    after: Option<i64>,
    before: Option<i64>,
}

/// Everybody who may sign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers(Vec<Signer>);

impl Signers {
    /// Reads the file.
    ///
    /// # Errors
    /// The first line that is not understood: whoever wrote it meant somebody.
    pub fn read(path: &Path) -> Result<Self, SignersError> {
        let unreadable = |error: std::io::Error| SignersError::Unreadable(error.to_string());
        let mut text = String::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE {
            return Err(SignersError::Unreadable("it is larger than 1 MiB".to_owned()));
        }
        Self::parse(&text)
    }

    /// # Errors
    /// The first line that is not understood.
    pub fn parse(text: &str) -> Result<Self, SignersError> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let read = lines.map(|(line, text)| signer(text).map_err(|fault| SignersError::Line { line, fault }));
        read.collect::<Result<_, _>>().map(Self)
    }

    /// Who signed `message`, where one may: at `times`, each in seconds since the Unix epoch.
    ///
    /// # Errors
    /// Why nobody did.
    pub fn verify(&self, signature: &str, message: &[u8], times: &[i64]) -> Result<String, Untrusted> {
        if !signature.trim_start().starts_with("-----BEGIN SSH SIGNATURE-----") {
            return Err(Untrusted::OtherFormat);
        }
        let signature = SshSignature::parse(signature)?;
        signature.verify(message)?;
        if signature.namespace != NAMESPACE {
            return Err(Untrusted::Namespace(signature.namespace));
        }
        let mut refused = Untrusted::Unknown;
        for signer in self.0.iter().filter(|signer| signer.key == signature.key) {
            let who = || signer.principals.clone();
            if signer.namespaces.as_deref().is_some_and(|list| !listed(list, NAMESPACE)) {
                refused = Untrusted::NotForGit(who());
            } else if !times.iter().all(|time| signer.holds(*time)) {
                refused = Untrusted::Expired(who());
            } else {
                return Ok(who());
            }
        }
        Err(refused)
    }
}

impl Signer {
    fn holds(&self, time: i64) -> bool {
        self.after.is_none_or(|after| time >= after) && self.before.is_none_or(|before| time < before)
    }
}

/// `PRINCIPALS [OPTIONS] TYPE KEY [COMMENT]`.
fn signer(line: &str) -> Result<Signer, String> {
    let mut words = words(line)?.into_iter();
    let principals = words.next().ok_or("no principal")?.replace('"', "");
    let mut next = words.next().ok_or("no key")?;
    let mut signer = Signer { principals, key: Vec::new(), namespaces: None, after: None, before: None };
    if !is_key_type(&next) {
        for option in split(&next) {
            signer.option(option)?;
        }
        next = words.next().ok_or("no key")?;
    }
    if !is_key_type(&next) {
        return Err(format!("`{next}` is no type of key"));
    }
    let encoded = words.next().ok_or("no key")?;
    signer.key = STANDARD.decode(&encoded).map_err(|_| "the key is not base64".to_owned())?;
    let named = signer.key.get(4..4 + next.len()).is_some_and(|name| name == next.as_bytes());
    if named { Ok(signer) } else { Err(format!("the key is not of type {next}")) }
}

fn is_key_type(word: &str) -> bool {
    word.starts_with("ssh-") || word.starts_with("ecdsa-") || word.starts_with("sk-")
}

impl Signer {
    fn option(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        match name.to_ascii_lowercase().as_str() {
            "namespaces" if !value.is_empty() => self.namespaces = Some(value.to_owned()),
            "valid-after" => self.after = Some(moment(value)?),
            "valid-before" => self.before = Some(moment(value)?),
            "cert-authority" => return Err("certificates of SSH are not supported".to_owned()),
            _ => return Err(format!("`{option}` is no option")),
        }
        Ok(())
    }
}

/// `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, with or without `Z`: in UTC.
fn moment(text: &str) -> Result<i64, String> {
    let fault = || format!("`{text}` is no time such as 20270131 or 202701311200Z");
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(digits.len(), 8 | 12 | 14) {
        return Err(fault());
    }
    let part = |from: usize, length: usize| {
        digits.get(from..from + length).and_then(|part| part.parse::<i16>().ok()).unwrap_or(0)
    };
    let small = |from: usize| i8::try_from(part(from, 2)).unwrap_or(0);
    let time = DateTime::new(part(0, 4), small(4), small(6), small(8), small(10), small(12), 0);
    let time = time.and_then(|time| jiff::tz::TimeZone::UTC.to_timestamp(time));
    time.map(jiff::Timestamp::as_second).map_err(|_| fault())
}

/// True where a list such as `git,file*` names this namespace and does not exclude it.
fn listed(list: &str, namespace: &str) -> bool {
    let mut named = false;
    for pattern in list.split(',') {
        let (excludes, pattern) = pattern.strip_prefix('!').map_or((false, pattern), |rest| (true, rest));
        if glob(pattern.as_bytes(), namespace.as_bytes()) {
            if excludes {
                return false;
            }
            named = true;
        }
    }
    named
}

/// `*` and `?`, as `ssh_config(5)` has them.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text) || text.split_first().is_some_and(|(_, text)| glob(pattern, text))
        }
        (Some((b'?', pattern)), Some((_, text))) => glob(pattern, text),
        (Some((first, pattern)), Some((letter, text))) => first == letter && glob(pattern, text),
        _ => false,
    }
}

/// Words between blanks; quotes keep blanks together.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for letter in line.chars() {
        if letter == '"' {
            quoted = !quoted;
        }
        if letter.is_whitespace() && !quoted {
            if !word.is_empty() {
                all.push(std::mem::take(&mut word));
            }
        } else {
            word.push(letter);
        }
    }
    if quoted {
        return Err("a quotation mark is missing".to_owned());
    }
    if !word.is_empty() {
        all.push(word);
    }
    Ok(all)
}

/// Options between commas; quotes keep commas.
fn split(options: &str) -> Vec<&str> {
    let mut quoted = false;
    options
        .split(move |letter| {
            quoted ^= letter == '"';
            letter == ',' && !quoted
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Signers, SignersError, Untrusted, listed, moment};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdbIC9lAAw7sHUYWxwVBvSqYBvlVgFBCcEXJcgOPPDR";

    #[test]
    fn lines_are_read_with_their_options() {
        let text = format!(
            "# comment\n\nada@example.org,*@ops.example.org namespaces=\"file,git\",valid-before=\"20270101Z\" {KEY} ada\ngrace {KEY}\n"
        );
        let Signers(signers) = Signers::parse(&text).unwrap();
        assert_eq!(signers.len(), 2);
        assert_eq!(signers[0].principals, "ada@example.org,*@ops.example.org");
        assert_eq!(signers[0].namespaces.as_deref(), Some("file,git"));
        assert_eq!(signers[0].before, Some(1_798_761_600));
        assert!(signers[0].holds(1_798_761_599) && !signers[0].holds(1_798_761_600));
    }

    #[test]
    fn what_is_not_understood_is_a_fault_with_its_line() {
        for (text, why) in [
            (format!("ada cert-authority {KEY}"), "certificates of SSH"),
            (format!("ada valid-before=\"soon\" {KEY}"), "is no time"),
            (format!("ada verify {KEY}"), "is no option"),
            ("ada ssh-ed25519".to_owned(), "no key"),
            ("ada ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAINdb".to_owned(), "not of type"),
            (format!("ada namespaces=\"git {KEY}"), "quotation mark"),
        ] {
            let Err(SignersError::Line { line, fault }) = Signers::parse(&format!("\n{text}")) else {
                panic!("{text} was read")
            };
            assert_eq!(line, 2);
            assert!(fault.contains(why), "{fault}");
        }
    }

    #[test]
    fn times_and_namespaces_are_those_of_openssh() {
        assert_eq!(moment("19700101"), Ok(0));
        assert_eq!(moment("197001010001Z"), Ok(60));
        assert_eq!(moment("19700101000001"), Ok(1));
        assert!(moment("20271301").is_err());
        assert!(listed("git", "git") && listed("file,g*", "git") && listed("?it", "git"));
        assert!(!listed("file", "git") && !listed("*,!git", "git"));
    }

    #[test]
    fn a_signature_of_another_kind_is_told_as_such() {
        let pgp = "-----BEGIN PGP SIGNATURE-----\n";
        assert_eq!(Signers::default().verify(pgp, b"", &[]), Err(Untrusted::OtherFormat));
    }
}
