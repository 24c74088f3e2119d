//! `sessionPersistence` of a rule (GEP-1619): requests that belong together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use foregate_filters::units::TimeSpan;

use crate::documents::HEADER_NAME;
use crate::documents::balancing::SessionType;

/// Requests of one session go to one backend, and to one endpoint of it, while these are fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// Name of the cookie or header; `foregate-session` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HEADER_NAME), length(max = 128))]
    pub session_name: Option<String>,
    #[serde(default, rename = "type")]
    pub kind: SessionType,
    /// How long a session lasts, 1s to 8760h; for ever where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<TimeSpan>,
    /// How long it lasts without a request, 1s to 8760h; for ever where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeSpan>,
    /// With type Cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    #[serde(default)]
    pub lifetime_type: LifetimeType,
}

/// How long a browser keeps the cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(rename = "CookieLifetimeType")]
pub enum LifetimeType {
    /// Until it closes.
    #[default]
    Session,
    /// For the `absoluteTimeout`, which must be there.
    Permanent,
}
