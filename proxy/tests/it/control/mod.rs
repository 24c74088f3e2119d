//! Gateways with a control plane: where their identity comes from, and what they do without it.

mod channel;
mod identity;
mod plane;
