//! Where an `Upstream` finds its endpoints: addresses, DNS, files.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use foregate_filters::units::TimeSpan;

/// One endpoint, or a name that stands for several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "UpstreamEndpoint")]
pub enum Endpoint {
    /// `host:port`; the host is a DNS name, an IPv4 address, or an IPv6 address in brackets.
    Address(#[schemars(length(max = 261))] String),
    Detailed(Detailed),
}

/// An endpoint with its weight and place: `address` or `srv`, one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamEndpointDetails")]
pub struct Detailed {
    /// `host:port`, as in the short form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 261))]
    pub address: Option<String>,
    /// A name whose SRV records give hosts, ports, weights and priorities, such as `_http._tcp.crm.example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub srv: Option<String>,
    /// Its share in relation to the others, 1 to 1000; 1 where absent. SRV records bring their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: Option<u32>,
    /// Where it stands. Endpoints in the zone of the gateway (`--zone`) are used before others of their priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Those with a higher number are used where too few of the lower ones are fit; 0 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 15))]
    pub priority: Option<u8>,
}

impl Endpoint {
    /// The `host:port` that is written here.
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Address(address) => Some(address),
            Self::Detailed(detailed) => detailed.address.as_deref(),
        }
    }
}

/// How names of endpoints are looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamDns")]
pub struct Dns {
    /// The server to ask, as address and port; those of the system where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub server: Option<SocketAddr>,
    /// An answer is believed for no shorter time than this, 1s to 1h; 5s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ttl: Option<TimeSpan>,
    /// Nor for longer than this, 1s to 24h; 5m where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<TimeSpan>,
    /// How long the last answer is used while DNS fails, 0s to 24h; 1h where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stale: Option<TimeSpan>,
}
