//! The identity of the process, from its start on.

use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::fleet::channel::Channel;
use crate::identity::control::{Control, ControlIdentity};
use crate::identity::directory::Directory;
use crate::identity::keep::{first, keep};
use crate::identity::workload_api::WorkloadApi;
use crate::identity::{Identity, Origin, Source, SourceError};
use crate::run_options::RunOptions;
use crate::telemetry::Telemetry;

/// An identity that is kept current.
#[derive(Clone, Debug)]
pub struct Begun {
    pub identity: Arc<Identity>,
    /// The control plane, where there is one: calls show the certificate in force.
    pub channel: Option<Arc<Channel>>,
}

/// Waits for the first identity, and keeps it current from then on.
///
/// # Errors
/// Why there is none.
pub fn begin(
    origin: &Origin,
    options: &RunOptions,
    background: &Runtime,
    telemetry: &Telemetry,
) -> Result<Begun, SourceError> {
    let mut channel = None;
    let source: Box<dyn Source> = match origin {
        Origin::Directory(folder) => Box::new(Directory::new(folder.clone())),
        Origin::Socket(socket) => Box::new(WorkloadApi::new(socket.clone())),
        Origin::Control => {
            let unsaid = || SourceError::Control("--control does not say where it is".to_owned());
            let control = options.control.clone().ok_or_else(unsaid)?;
            let settings = ControlIdentity {
                token: options.control_token.clone(),
                state_dir: options.state.as_ref().map(|state| state.folder.clone()),
            };
            let channel = channel.insert(Arc::new(Channel::new(control.clone())));
            Box::new(Control::new(control, Arc::clone(channel), settings))
        }
    };
    let patient = !matches!(origin, Origin::Directory(_));
    let (identity, source) = background.block_on(first(source, patient))?;
    let identity = Arc::new(identity);
    identity.measure(telemetry);
    background.spawn(keep(Arc::clone(&identity), source));
    let of = |control| Arc::new(Channel::of(control, Arc::clone(&identity)));
    let channel = channel.or_else(|| options.control.clone().map(of));
    Ok(Begun { identity, channel })
}
