//! Whether the API server is there, and its clock agrees with ours.

use std::time::Duration;

use foregate_policy::codes;
use http::Method;

use crate::clock;
use crate::inspect::Inspection;

/// `Date` is to the second, and an answer takes its time.
const NOTICED: Duration = Duration::from_secs(5);
/// Certificates of workloads begin a minute before they are made.
const HARMFUL: Duration = Duration::from_mins(1);

impl Inspection {
    /// False where there is nobody to ask.
    pub(super) async fn clocks(&mut self) -> bool {
        let asked = self.reader.send(Method::GET, "/version", None).await;
        let Some(answer) = self.read("apiserver", asked) else { return false };
        let theirs = answer.date.as_deref().and_then(read);
        let Some(theirs) = theirs else { return true };
        let ours = clock::now().unix;
        let apart = ours.abs_diff(theirs);
        if apart <= NOTICED {
            return true;
        }
        let which = if ours > theirs { "ahead of" } else { "behind" };
        let message =
            format!("the clock of this machine is {} s {which} that of the API server", apart.as_secs());
        let help = "have both follow a time server: certificates begin a minute before they are made, and tokens end \
                    by the clock";
        if apart >= HARMFUL {
            self.error("apiserver", codes::CLOCKS, message, help);
        } else {
            self.warning("apiserver", codes::CLOCKS, message, help);
        }
        true
    }
}

/// A time of HTTP, since the Unix epoch.
fn read(date: &str) -> Option<Duration> {
    let at = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
    u64::try_from(at).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::read;

    #[test]
    fn times_of_http_are_read() {
        assert_eq!(read("Tue, 15 Nov 1994 08:12:31 GMT"), Some(Duration::from_secs(784_887_151)));
        assert_eq!(read("yesterday"), None);
    }
}
