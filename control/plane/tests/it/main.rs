//! The command as a user calls it, and the parts that talk to Kubernetes.

#[cfg(test)]
mod apiserver;
#[cfg(test)]
mod check;
#[cfg(test)]
mod crds;
#[cfg(test)]
mod injection;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod kubernetes_faults;
#[cfg(test)]
mod kubernetes_lease;
#[cfg(test)]
mod kubernetes_rbac;
#[cfg(test)]
mod kubernetes_render;
#[cfg(test)]
mod kubernetes_scale;
#[cfg(test)]
mod kubernetes_types;
#[cfg(test)]
mod webhooks;
