//! The gateway over real sockets, and the house it is built in.

#[cfg(test)]
mod added;
#[cfg(test)]
mod addresses;
#[cfg(test)]
mod api_keys;
#[cfg(test)]
mod authorize;
#[cfg(test)]
mod binary_upgrade;
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod body_deadlines;
#[cfg(test)]
mod book;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod concurrent;
#[cfg(test)]
mod console;
#[cfg(test)]
mod control;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod decision_log;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod enrich;
#[cfg(test)]
mod events;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod forged;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod gateway_api;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod identity_rotation;
#[cfg(test)]
mod introspection;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod mlflow;
#[cfg(test)]
mod model_command;
#[cfg(test)]
mod model_pull;
#[cfg(test)]
mod mtls;
#[cfg(test)]
mod observe;
#[cfg(test)]
mod oidc;
#[cfg(test)]
mod open;
#[cfg(test)]
mod org_quota;
#[cfg(test)]
mod otlp_logs;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod panics;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod proxy_protocol;
#[cfg(test)]
mod quotas;
#[cfg(test)]
mod references;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod rollout;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod shadow;
#[cfg(test)]
mod shared_port;
#[cfg(test)]
mod sidecar;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod store;
#[cfg(test)]
mod stream_balancing;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod upstreams;
#[cfg(test)]
mod validate;
