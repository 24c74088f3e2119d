//! A gateway to try: toy CRM, token issuer, embedded policies and model in one process.

pub mod calls;
mod crm;
pub mod folder;
pub mod stage;
