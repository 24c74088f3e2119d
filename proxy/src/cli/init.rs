//! `foregate init`: redirects the connections of a pod to its sidecar.

use std::process::ExitCode;

use clap::Args;
use foregate_policy::redirect::{Ports, subnets};
use ipnet::IpNet;

use crate::cli::{USAGE, output};
use crate::redirect::backend::{Backend, apply, scripts, undo};
use crate::redirect::{Inbound, Rules};

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct Init {
    /// Port of the listener with protocol foregate.dev/Inbound: connections to this host go there.
    #[arg(long, value_name = "PORT", default_value_t = 15_006, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,
    /// Port of the listener with protocol foregate.dev/Outbound: connections from this host go there.
    #[arg(long, value_name = "PORT", default_value_t = 15_001, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    /// User that the sidecar runs as, and nobody else: what it opens itself is left alone. Not 0.
    #[arg(long, value_name = "UID", default_value_t = 1_337, value_parser = clap::value_parser!(u32).range(1..))]
    proxy_uid: u32,
    /// Ports of this host that are reached past the sidecar, such as those of probes: `9000,15020-15021`.
    #[arg(long, value_name = "PORTS", conflicts_with = "inbound_only_ports")]
    skip_inbound_ports: Option<Ports>,
    /// The ports of this host that go to the sidecar; all others are reached past it.
    #[arg(long, value_name = "PORTS")]
    inbound_only_ports: Option<Ports>,
    /// Ports of others that this host reaches past the sidecar.
    #[arg(long, value_name = "PORTS")]
    skip_outbound_ports: Option<Ports>,
    /// Subnets that this host reaches past the sidecar: `10.0.0.0/8,fd00::/8`.
    #[arg(long, value_name = "SUBNETS", value_parser = parse_subnets)]
    skip_subnets: Option<Subnets>,
    /// Which programs change the rules.
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// Prints the script, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Takes the rules of an earlier call away.
    #[arg(long)]
    undo: bool,
}

const AFTER: &str = "Needs the capability NET_ADMIN in the network namespace of the pod. Called again, it replaces its own \
rules and touches no others. UDP and whatever stays on loopback are left alone.";

/// Clap takes a `Vec` for an argument that is repeated.
#[derive(Clone, Debug)]
struct Subnets(Vec<IpNet>);

fn parse_subnets(text: &str) -> Result<Subnets, String> {
    subnets(text).map(Subnets)
}

impl Init {
    pub(super) fn run(self) -> ExitCode {
        if self.inbound_port == self.outbound_port {
            output::error("foregate: --inbound-port and --outbound-port must differ");
            return ExitCode::from(USAGE);
        }
        let (backend, taken, dry) = (self.backend, self.undo, self.dry_run);
        let rules = (!taken).then(|| self.rules());
        if dry {
            output::text(&scripts(rules.as_ref(), backend));
            return ExitCode::SUCCESS;
        }
        let outcome = match &rules {
            Some(rules) => apply(rules, backend).map(|program| {
                let Rules { inbound_port, outbound_port, .. } = rules;
                format!("redirected with {program}: inbound to :{inbound_port}, outbound to :{outbound_port}")
            }),
            None => undo(backend).map(|()| "nothing is redirected any more".to_owned()),
        };
        match outcome {
            Ok(done) => {
                output::line(&done);
                ExitCode::SUCCESS
            }
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn rules(self) -> Rules {
        Rules {
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            proxy_uid: self.proxy_uid,
            inbound: match self.inbound_only_ports {
                Some(ports) => Inbound::Only(ports),
                None => Inbound::AllBut(self.skip_inbound_ports.unwrap_or_default()),
            },
            skip_outbound_ports: self.skip_outbound_ports.unwrap_or_default(),
            skip_subnets: self.skip_subnets.map(|subnets| subnets.0).unwrap_or_default(),
        }
    }
}
