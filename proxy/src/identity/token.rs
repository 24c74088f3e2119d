//! The token that proves the workload: read anew each time, held back once refused.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use foregate_policy::fleet::Proof;
use zeroize::Zeroizing;

/// How a join token begins; any other is that of a service account.
const JOIN: &str = "fgj.";

/// Largest token, in bytes.
const MAX_TOKEN: u64 = 16 << 10;

/// How long a token that was refused is not shown again, unless the certificate is not taken either: what was wrong
/// may have been mended at the control plane.
const HELD_BACK: Duration = Duration::from_hours(6);

/// How long a token that was refused is not shown again without a certificate beside it.
const ALONE_AGAIN: Duration = Duration::from_mins(10);

/// A token that proved nothing.
pub struct Refused {
    token: Zeroizing<String>,
    /// What the control plane said when it was first refused.
    why: String,
    /// When it was shown last, since the epoch.
    shown: Duration,
    /// When it was shown last without a certificate beside it, since the epoch.
    alone: Option<Duration>,
}

impl Refused {
    pub fn new(token: Zeroizing<String>, why: String, now: Duration) -> Self {
        Self { token, why, shown: now, alone: None }
    }

    pub fn why(&self) -> &str {
        &self.why
    }

    pub fn is(&self, token: &str) -> bool {
        *self.token == token
    }

    /// It was shown once more, and refused.
    pub fn again(&mut self, now: Duration) {
        self.shown = now;
    }

    /// True where it may be shown without a certificate, and notes that it is: a control plane counts what comes to
    /// nothing against all others at this address.
    pub fn may_stand_alone(&mut self, now: Duration) -> bool {
        let recently = |at| now.checked_sub(at).is_some_and(|ago| ago < ALONE_AGAIN);
        let may = !self.alone.is_some_and(recently);
        if may {
            self.alone = Some(now);
        }
        may
    }

    /// True where it is this token, and not the time to show it again.
    pub fn holds_back(&self, token: &str, now: Duration) -> bool {
        // A clock that was set back tells nothing of how long ago that was.
        self.is(token) && now.checked_sub(self.shown).is_some_and(|ago| ago < HELD_BACK)
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("why", &self.why).finish_non_exhaustive()
    }
}

/// What a token is to the control plane.
pub fn proof(token: &str) -> Proof {
    if token.starts_with(JOIN) {
        Proof::JoinToken(token.to_owned())
    } else {
        Proof::ServiceAccountToken(token.to_owned())
    }
}

/// The token in a file, without the space around it.
///
/// # Errors
/// What the system says, and where it is too large for a token.
pub fn read(file: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    File::open(file)?.take(MAX_TOKEN + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TOKEN {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Zeroizing::new(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ALONE_AGAIN, HELD_BACK, Refused};

    #[test]
    fn a_refused_token_is_held_back_for_hours_and_another_one_is_not() {
        let at = Duration::from_secs(1_790_000_000);
        let mut refused = Refused::new("fgj.one".to_owned().into(), "used up".to_owned(), at);
        let holds = |refused: &Refused, now| refused.holds_back("fgj.one", now);
        assert!(holds(&refused, at) && holds(&refused, at + HELD_BACK / 2));
        assert!(!refused.holds_back("fgj.two", at), "another one may be good");
        assert!(!holds(&refused, at + HELD_BACK), "what was wrong may be mended");
        assert!(!holds(&refused, at.checked_sub(HELD_BACK).unwrap()), "the clock was set back");
        refused.again(at + HELD_BACK);
        assert!(holds(&refused, at + HELD_BACK) && !holds(&refused, at + HELD_BACK * 2));
        assert_eq!(refused.why(), "used up", "as it was told first");
    }

    #[test]
    fn a_refused_token_stands_alone_at_once_and_then_seldom() {
        let at = Duration::from_secs(1_790_000_000);
        let mut refused = Refused::new("fgj.one".to_owned().into(), "used up".to_owned(), at);
        assert!(refused.may_stand_alone(at) && !refused.may_stand_alone(at + ALONE_AGAIN / 2));
        assert!(refused.may_stand_alone(at + ALONE_AGAIN) && !refused.may_stand_alone(at + ALONE_AGAIN));
        assert!(refused.may_stand_alone(at), "the clock was set back");
    }
}
