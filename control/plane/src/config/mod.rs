//! `control.yaml`: what the control plane is told when it starts.

pub mod authority;
pub mod identity;
pub mod tokens;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use foregate_filters::peer::is_trust_domain;
use rustls::pki_types::ServerName;
use serde::Deserialize;

use crate::config::authority::AuthorityConfig;
use crate::config::identity::IdentityConfig;
use crate::config::tokens::{JoinTokens, TokenReview};
use crate::grants::{GrantSpec, Grants};
use crate::kubernetes::part::KubernetesConfig;
use crate::rollout::RolloutSpec;
use crate::sources::kubernetes;
use crate::sources::spec::SourceSpec;

/// Largest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Most names of the control plane's own certificate.
const MAX_NAMES: usize = 32;

/// The whole file. A section of a part is a field here and a type in a file of its own; where it has rules that its
/// types cannot tell, it is asked for them in [`Config::check`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The trust domain of all workloads, such as `example.org`.
    pub trust_domain: String,
    /// Where proxies connect.
    pub listen: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[serde(default = "admin")]
    pub admin: SocketAddr,
    /// DNS names and addresses at which proxies reach this one: they stand in its certificate.
    pub names: Vec<String>,
    /// Folder for what must outlive the process; not everybody may write to it, and its files are for this user alone.
    pub state_dir: PathBuf,
    #[serde(default)]
    pub authority: AuthorityConfig,
    #[serde(default)]
    pub identity: IdentityConfig,
    /// Lets workloads identify themselves with tokens made by `foregate-control token create`.
    pub join_tokens: Option<JoinTokens>,
    /// Lets workloads identify themselves with tokens of Kubernetes service accounts.
    pub token_review: Option<TokenReview>,
    #[serde(default)]
    pub connections: Connections,
    /// Where policies come from.
    #[serde(default)]
    pub sources: Vec<SourceSpec>,
    /// Objects of a cluster as policies, and sidecars for its pods.
    pub kubernetes: Option<KubernetesConfig>,
    /// Which workloads may have which gateways.
    #[serde(default)]
    pub grants: Vec<GrantSpec>,
    /// How new policies reach proxies.
    #[serde(default)]
    pub rollout: RolloutSpec,
    #[serde(default)]
    pub insecure: Insecure,
}

/// What is held open at once.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Connections {
    /// Connections, 1 to 100000.
    pub limit: usize,
    /// Calls on one connection, 1 to 1000.
    pub calls: u32,
}

/// Every weakening of a safe default.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Insecure {
    /// Makes root and issuer where there are none, and keeps the key of the issuer in the state folder: for development.
    pub generate_authority: bool,
    /// Takes a key file that others on this machine may read.
    pub readable_keys: bool,
}

/// What is wrong with the file, where, and how to mend it.
#[derive(Debug, thiserror::Error)]
#[error("{file}{place}: {message}{}", .help.map(|help| format!("\n  help: {help}")).unwrap_or_default())]
pub struct ConfigError {
    file: String,
    /// `:line:column`, or nothing.
    place: String,
    message: String,
    help: Option<&'static str>,
}

/// A value that breaks a rule: under which key, how, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Keys from the top, such as `["authority", "lifetime"]`.
    pub keys: &'static [&'static str],
    pub message: String,
    pub help: &'static str,
}

fn admin() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9091))
}

impl Default for Connections {
    fn default() -> Self {
        Self { limit: 10_000, calls: 16 }
    }
}

impl Config {
    /// Reads the file; paths in it are taken from its folder.
    ///
    /// # Errors
    /// The first fault, with its place.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        let fault =
            |message: String| ConfigError { file: name.clone(), place: String::new(), message, help: None };
        let length = fs::metadata(file).map_err(|error| fault(error.to_string()))?.len();
        if length > MAX_FILE {
            return Err(fault(format!("it has {length} bytes, and at most {MAX_FILE} are read")));
        }
        let text = fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        Self::parse(&text, &name, folder)
    }

    fn parse(text: &str, name: &str, folder: &Path) -> Result<Self, ConfigError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_nodes: 20_000, max_aliases: 0, max_anchors: 0, max_depth: 16, max_documents: 1 },
            with_snippet: false,
        };
        let read: Result<Self, _> = serde_saphyr::from_str_with_options(text, options);
        let mut config = read.map_err(|error| ConfigError {
            file: name.to_owned(),
            place: error.location().map(|at| format!(":{}:{}", at.line(), at.column())).unwrap_or_default(),
            message: told(&error.to_string()),
            help: Some("control/plane/README.md lists all settings"),
        })?;
        config.check().map_err(|fault| ConfigError {
            file: name.to_owned(),
            place: place(text, fault.keys)
                .map(|(line, column)| format!(":{line}:{column}"))
                .unwrap_or_default(),
            message: fault.message,
            help: Some(fault.help),
        })?;
        config.state_dir = folder.join(&config.state_dir);
        config.authority.resolve(folder);
        config.sources.iter_mut().for_each(|source| source.resolve(folder));
        if let Some(review) = &mut config.token_review {
            review.resolve(folder);
        }
        if let Some(cluster) = &mut config.kubernetes {
            cluster.resolve(folder);
        }
        Ok(config)
    }

    /// What the types cannot tell.
    fn check(&self) -> Result<(), Fault> {
        let fault = |keys, message: String, help| Err(Fault { keys, message, help });
        if !is_trust_domain(&self.trust_domain) {
            let message = format!("`{}` is no trust domain", self.trust_domain);
            let help =
                "1 to 255 lower-case letters, digits, dots, dashes and underscores, such as example.org";
            return fault(&["trustDomain"], message, help);
        }
        if self.names.is_empty() || self.names.len() > MAX_NAMES {
            let message = format!("there are {} names, and 1 to {MAX_NAMES} are wanted", self.names.len());
            return fault(&["names"], message, "give the names and addresses at which proxies connect");
        }
        if let Some(name) = self.names.iter().find(|name| ServerName::try_from(name.as_str()).is_err()) {
            let message = format!("`{name}` is neither a DNS name nor an address");
            return fault(&["names"], message, "without scheme and port, such as control.example.org");
        }
        if !(1..=100_000).contains(&self.connections.limit) {
            let message = format!("{} connections", self.connections.limit);
            return fault(&["connections", "limit"], message, "1 to 100000");
        }
        if !(1..=1_000).contains(&self.connections.calls) {
            let message = format!("{} calls on one connection", self.connections.calls);
            return fault(&["connections", "calls"], message, "1 to 1000");
        }
        self.authority.check(self.insecure)?;
        self.identity.check(&self.trust_domain, self.authority.lifetime)?;
        self.check_policies()?;
        self.join_tokens.as_ref().map_or(Ok(()), JoinTokens::check)?;
        self.token_review.as_ref().map_or(Ok(()), TokenReview::check)
    }

    fn check_policies(&self) -> Result<(), Fault> {
        let help = "control/plane/POLICIES.md lists all settings";
        let fault = |keys, message: String| Err(Fault { keys, message, help });
        for (index, source) in self.sources.iter().enumerate() {
            if let Some((field, message)) = source.faults().into_iter().next() {
                return fault(&["sources"], format!("{field} of `{}`: {message}", source.name));
            }
            if self.sources.iter().take(index).any(|other| other.name == source.name) {
                return fault(&["sources"], format!("two sources are named `{}`", source.name));
            }
            if self.kubernetes.is_some() && source.name == kubernetes::NAME {
                let message = format!("`{}` is the source that the section of that name makes", source.name);
                return fault(&["sources"], message);
            }
        }
        if let Err(message) = Grants::new(&self.grants) {
            return fault(&["grants"], message);
        }
        match self.rollout.fault() {
            Some((field, message)) => fault(&["rollout"], format!("{field}: {message}")),
            None => Ok(()),
        }
    }

    /// The names that are addresses, and the others.
    pub fn split_names(&self) -> (Vec<IpAddr>, Vec<String>) {
        let (mut addresses, mut names) = (Vec::new(), Vec::new());
        for name in &self.names {
            match name.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(name.clone()),
            }
        }
        (addresses, names)
    }
}

/// What an error says, without the place, which stands before it.
fn told(error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    first.rsplit_once(" at line ").map_or(first, |(message, _)| message).to_owned()
}

/// Line and column, from 1, of the last of these keys in block style; of the nearest key above it that is found.
fn place(text: &str, keys: &[&str]) -> Option<(usize, usize)> {
    let (mut found, mut wanted) = (None, keys.iter());
    let mut key = wanted.next()?;
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.trim_start();
        if content.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':')) {
            found = Some((number, line.len() - content.len() + 1));
            match wanted.next() {
                Some(next) => key = next,
                None => break,
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Config;

    const GOOD: &str = "trustDomain: example.org
listen: 0.0.0.0:8443
names: [control.example.org, 127.0.0.1]
stateDir: state
insecure: { generateAuthority: true }
";

    fn refused(text: &str) -> String {
        Config::parse(text, "control.yaml", Path::new("/etc/foregate")).unwrap_err().to_string()
    }

    #[test]
    fn paths_are_taken_from_the_folder_of_the_file() {
        let config = Config::parse(GOOD, "control.yaml", Path::new("/etc/foregate")).unwrap();
        assert_eq!(config.state_dir, Path::new("/etc/foregate/state"));
        let (addresses, names) = config.split_names();
        assert_eq!(addresses, ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(names, ["control.example.org"]);
    }

    #[test]
    fn a_fault_tells_its_place_and_how_to_mend_it() {
        for (from, to, want) in [
            ("listen:", "lisen:", "control.yaml:2:1: unknown field"),
            ("0.0.0.0:8443", "8443", "control.yaml:2:9: "),
            (
                "trustDomain: example.org",
                "trustDomain: Example",
                "control.yaml:1:1: `Example` is no trust domain",
            ),
            ("[control.example.org, 127.0.0.1]", "[]", "control.yaml:3:1: there are 0 names"),
            ("127.0.0.1]", "\"https://a\"]", "control.yaml:3:1: `https://a` is neither"),
            ("stateDir: state\n", "", "missing field `stateDir`"),
            (
                "insecure: { generateAuthority: true }\n",
                "",
                "control.yaml: there is no certificate authority",
            ),
            ("insecure:", "connections: { limit: 0 }\ninsecure:", "control.yaml:5:1: 0 connections"),
            (
                "insecure:",
                "authority:\n  lifetime: 1s\ninsecure:",
                "control.yaml:6:3: certificates would live for 1s",
            ),
            (
                "insecure:",
                "identity:\n  reattest: 1s\ninsecure:",
                "control.yaml:6:3: workloads would be attested again after 1s",
            ),
            (
                "insecure:",
                "identity:\n  reattest: 8761h\ninsecure:",
                "control.yaml:6:3: workloads would be attested again after 31539600s",
            ),
            (
                "insecure:",
                "identity:\n  reattest: 1h\ninsecure:",
                "control.yaml:6:3: 3600s is shorter than certificates live, which is 86400s",
            ),
            (
                "insecure:",
                "identity:\n  withdrawn: [\"spiffe://a.test/ns/a/sa/b\"]\ninsecure:",
                "control.yaml:6:3: `spiffe://a.test/ns/a/sa/b` is of another trust domain",
            ),
        ] {
            let said = refused(&GOOD.replacen(from, to, 1));
            assert!(said.starts_with("control.yaml") && said.contains(want), "{to}: {said}");
            assert!(said.contains("\n  help: "), "{to}: {said}");
        }
    }
}
