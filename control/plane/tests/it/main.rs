//! The command as a user calls it, and the control plane as proxies meet it.

#[cfg(test)]
mod authority;
#[cfg(test)]
mod check;
#[cfg(test)]
mod fleet {
    //! The stubs of `foregate.fleet.v1`, from the side of proxies.
    #[expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
    pub mod policies {
        include!(concat!(env!("OUT_DIR"), "/foregate.fleet.v1.Policies.rs"));
    }

    #[expect(clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
    pub mod identity {
        include!(concat!(env!("OUT_DIR"), "/foregate.fleet.v1.Identity.rs"));
    }
}
#[cfg(test)]
mod serve;
#[cfg(test)]
mod sign;
#[cfg(test)]
mod support;
