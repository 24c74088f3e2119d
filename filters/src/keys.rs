//! The border between token checks and key material: keys now, keys fetched anew.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::jwt::key_set::KeySet;
use crate::moment::Moment;

/// The verification keys of one issuer, kept current by somebody else.
pub trait Keys: Debug + Send + Sync {
    /// The keys known now; `None` while none could ever be had.
    fn current(&self) -> Option<Arc<KeySet>>;

    /// True where asking again for this `kid` could help: keys come from a URL, the rate limit of
    /// fetches allows one, and the `kid` was not just looked for in vain.
    /// Never where keys do not come from a URL.
    fn may_refetch(&self, kid: Option<&str>, moment: Moment) -> bool {
        let _ = (kid, moment);
        false
    }

    /// Fetches the keys once for all who wait, and gives what is known then.
    fn refetch<'a>(
        &'a self,
        kid: Option<&'a str>,
        moment: Moment,
    ) -> Pin<Box<dyn Future<Output = Option<Arc<KeySet>>> + Send + 'a>> {
        let _ = (kid, moment);
        Box::pin(std::future::ready(self.current()))
    }
}
