//! A gateway to try: toy CRM, token issuer, embedded policies and model in one process.

mod calls;
mod crm;
mod folder;
mod stage;

pub use calls::{Call, Outcome};
pub use stage::{Stage, StageError};
