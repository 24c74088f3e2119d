//! What the control plane serves to proxies: the stubs of `foregate.fleet.v1`.

#[expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod policies {
    include!(concat!(env!("OUT_DIR"), "/foregate.fleet.v1.Policies.rs"));
}

#[expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod identity {
    include!(concat!(env!("OUT_DIR"), "/foregate.fleet.v1.Identity.rs"));
}
