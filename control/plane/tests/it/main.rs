//! The command as users call it, the control plane as proxies and clusters meet it.

#[cfg(test)]
mod apiserver;
#[cfg(test)]
mod attested;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod book;
#[cfg(test)]
mod check;
#[cfg(test)]
mod check_cluster;
#[cfg(test)]
mod cluster_to_proxy;
#[cfg(test)]
mod crds;
#[cfg(test)]
mod deploy;
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
mod injection;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod kubernetes_faults;
#[cfg(test)]
mod kubernetes_lease;
#[cfg(test)]
mod kubernetes_left_out;
#[cfg(test)]
mod kubernetes_rbac;
#[cfg(test)]
mod kubernetes_render;
#[cfg(test)]
mod kubernetes_scale;
#[cfg(test)]
mod kubernetes_types;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod sign;
#[cfg(test)]
mod support;
#[cfg(test)]
mod webhooks;
