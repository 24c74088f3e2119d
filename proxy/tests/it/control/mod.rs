//! Gateways with a control plane: where identity comes from, what happens without it.

mod channel;
mod identity;
mod plane;
