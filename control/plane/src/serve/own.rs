//! The control plane's own certificate: signed by its authority, renewed in time.

use std::sync::Arc;
use std::time::Duration;

use log::Level;
use rcgen::KeyPair;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::time::sleep;

use crate::authority::signer::Subject;
use crate::authority::{Authority, AuthorityError};
use crate::clock;
use crate::config::Config;
use crate::event::event;
use crate::process::Shutdown;
use crate::serve::tls::{Shown, provider};

/// The path of the control plane's own SPIFFE id, which no workload is given.
pub const PATH: &str = "/foregate/control";

/// Pause after a fault.
const PAUSE: Duration = Duration::from_secs(1);

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("no key could be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("certificate and key do not fit: {0}")]
    Unfit(#[from] rustls::Error),
    #[error("the trust domain makes no id")]
    Id,
}

/// Signs a certificate for a new key and shows it; gives how long it is good for.
///
/// # Errors
/// Where it cannot be signed.
pub fn renew(authority: &Authority, config: &Config, shown: &Shown) -> Result<Duration, OwnError> {
    let now = clock::now().unix;
    let (addresses, names) = config.split_names();
    let subject =
        Subject { id: authority.id(PATH).map_err(|_| OwnError::Id)?, names, addresses, attested: None };
    let key = KeyPair::generate()?;
    let issued = authority.issue(&key, &subject, now)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    shown.replace(CertifiedKey::from_der(issued.chain, key, &provider())?);
    Ok(issued.expires.saturating_sub(now))
}

/// Renews at two thirds of its life, and at once when another issuer signs, until the process ends.
pub async fn keep(
    authority: Arc<Authority>,
    config: Arc<Config>,
    shown: Arc<Shown>,
    first: Duration,
    shutdown: Shutdown,
) {
    let mut issuers = authority.issuers();
    let mut pause = first * 2 / 3;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            _ = issuers.changed() => {}
            () = shutdown.begun() => return,
        }
        pause = match renew(&authority, &config, &shown) {
            Ok(life) => life * 2 / 3,
            Err(error) => {
                event(Level::Error, "own certificate not renewed", &[("error", error.to_string().into())]);
                PAUSE
            }
        };
    }
}
