//! Arguments of `foregate run` about what a proxy is to the control plane.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;

use crate::fleet::follow::{NodeOptions, OnLostGrant};
use crate::run_options::FleetOptions;

/// What this proxy says of itself to the control plane that its policies come from.
#[derive(Debug, Args)]
pub(super) struct FleetArgs {
    /// Name of this proxy, the same over restarts; made once and kept in --state-dir where it is not given.
    #[arg(long, value_name = "NAME", requires = "control")]
    node_id: Option<String>,
    /// What grants and people tell this proxy by; `gateway=NAMESPACE/NAME` asks for the policies of that Gateway alone.
    /// Repeatable.
    #[arg(long, value_name = "NAME=VALUE", requires = "control", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// What becomes of policies that the control plane grants no longer: all listeners refuse with 503, and the proxy is
    /// not ready; or they stay in force.
    #[arg(long, value_name = "HOW", requires = "control", value_enum, default_value_t)]
    on_lost_grant: OnLostGrant,
}

/// Reads `tier=front`.
fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl FleetArgs {
    /// Policies come from the control plane, and are kept in `state`.
    pub(super) fn options(self, state: PathBuf) -> FleetOptions {
        let labels = self.label.into_iter().collect::<HashMap<_, _>>();
        let id = self.node_id.unwrap_or_default();
        let node = NodeOptions { id, labels, zone: None, on_lost_grant: self.on_lost_grant };
        FleetOptions { node, state }
    }
}
