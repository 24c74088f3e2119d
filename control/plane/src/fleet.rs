//! What the control plane serves to proxies: the stubs of `foregate.fleet.v1`.

pub mod policies {
    include!(concat!(env!("OUT_DIR"), "/foregate.fleet.v1.Policies.rs"));
}

pub mod identity {
    include!(concat!(env!("OUT_DIR"), "/foregate.fleet.v1.Identity.rs"));
}
