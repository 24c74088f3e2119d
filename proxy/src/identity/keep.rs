//! Keeps the identity of this workload current until the process ends.

use std::sync::Arc;
use std::time::Duration;

use log::Level;
use tokio::time::{sleep, timeout};

use crate::identity::{Identity, Source, SourceError};
use crate::telemetry::event::event;

/// How long a start waits for the first identity: an agent attests a new workload within seconds.
const FIRST: Duration = Duration::from_secs(30);

/// Pause after a first fault; doubled with every further one.
const PAUSE: Duration = Duration::from_millis(250);

/// Waits for the first identity. Where the wait is not `patient` it is asked for once: what is wrong with a folder
/// is for people to mend.
///
/// # Errors
/// Why there is none.
pub async fn first(
    mut source: Box<dyn Source>,
    patient: bool,
) -> Result<(Identity, Box<dyn Source>), SourceError> {
    let mut last = None;
    let attempts = async {
        let mut pause = PAUSE;
        loop {
            match source.next().await {
                Ok(set) => return Ok(set),
                Err(error) if !patient => return Err(error),
                Err(error) => last = Some(error),
            }
            sleep(pause).await;
            pause = (pause * 2).min(source.patience());
        }
    };
    let outcome = timeout(FIRST, attempts).await;
    let Ok(set) = outcome else {
        let silent = || SourceError::Directory(format!("no identity within {FIRST:?}"));
        return Err(last.unwrap_or_else(silent));
    };
    let set = set?;
    Ok((Identity::new(set), source))
}

/// Takes over every set that the source gives. Ends only with its task.
pub async fn keep(identity: Arc<Identity>, mut source: Box<dyn Source>) {
    let mut pause = PAUSE;
    loop {
        match source.next().await {
            Ok(set) => {
                pause = PAUSE;
                let (id, expires) = (set.id.to_string(), set.expires.as_secs());
                if identity.publish(set) {
                    let fields = [("spiffe_id", id.into()), ("expires", expires.into())];
                    event(Level::Info, "identity renewed", &fields);
                }
            }
            Err(error) => {
                // Whoever reads of it finds it in the state.
                identity.failed(error.to_string());
                event(Level::Warn, "identity not renewed", &[("error", error.to_string().into())]);
                sleep(pause.min(source.patience())).await;
                pause = (pause * 2).min(source.patience());
            }
        }
    }
}
