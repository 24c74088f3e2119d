//! `foregate-control check`: every fault of a folder of policies, or of a cluster.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use foregate_policy::compile::{Options, check_cases, compile};
use foregate_policy::diagnostic::{Diagnostic, Severity, sort};
use foregate_policy::load::load_folder;
use foregate_policy::render::{Format, render};
use kube::Client;

use crate::config::{Config, ConfigError};
use crate::declared::Declared;
use crate::inspect::{Names, inspect};
use crate::kubernetes::reach::{ReachError, configuration};
use crate::whole::Folder;

/// Configuration refused, as `foregate check` has it.
const REFUSED: u8 = 3;

/// Checks the policies of a folder, or a cluster. Exit codes: 0 fine, also with warnings; 1 something is wrong with the
/// cluster, or diagnostics could not be written; 2 usage; 3 policies or configuration refused.
///
/// Of a folder, keys, certificates, authorities and secrets that lie beside the policies are looked at; those that do not
/// are taken as declared, as models are. Keys are not fetched. Of a cluster, nothing is changed.
#[derive(Debug, Args)]
pub struct Check {
    /// Folder with policy files, or one file.
    #[arg(value_name = "FOLDER", required_unless_present = "cluster", conflicts_with = "cluster")]
    policies: Option<PathBuf>,
    /// Checks a cluster: versions, definitions, webhooks, certificates, clocks, rights, Lease, Pod Security.
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    place: Place,
    /// How diagnostics are written.
    #[arg(long, value_enum, default_value_t = Output::Human)]
    format: Output,
}

/// Which cluster, and where in it the control plane is.
#[derive(Debug, Args)]
struct Place {
    /// How to reach the API server; else as `KUBECONFIG` or the pod that this runs in says.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,
    /// Of the control plane.
    #[arg(
        long,
        value_name = "NAME",
        requires = "cluster",
        conflicts_with = "config",
        default_value = "foregate"
    )]
    namespace: String,
    /// The configuration of the control plane: it says what everything is called.
    #[arg(long, value_name = "FILE", requires = "cluster")]
    config: Option<PathBuf>,
    /// Looks at the rights of this service account of the namespace, not at those of whoever asks.
    #[arg(long, value_name = "NAME", requires = "cluster")]
    account: Option<String>,
}

/// Why a cluster cannot be looked at.
#[derive(Debug, thiserror::Error)]
enum PlaceError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}: it has no section `kubernetes`; name the configuration of a control plane that has one")]
    Absent(String),
    #[error("no way to the API server: {0}; name a kubeconfig with --kubeconfig")]
    Reach(#[from] ReachError),
    #[error("no way to the API server: {0}")]
    Client(#[from] kube::Error),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// With the line and a caret.
    Human,
    /// One JSON object a line.
    Json,
    /// A SARIF 2.1.0 log.
    Sarif,
    /// Workflow commands of GitHub.
    Github,
}

impl Check {
    pub fn run(self) -> ExitCode {
        let (diagnostics, refused) = match &self.policies {
            Some(folder) => (check(folder), ExitCode::from(REFUSED)),
            None => match self.place.inspect() {
                Ok(findings) => (findings, ExitCode::FAILURE),
                Err(error) => {
                    let _ = writeln!(io::stderr(), "foregate-control: {error}");
                    let of_config = matches!(error, PlaceError::Config(_) | PlaceError::Absent(_));
                    return if of_config { ExitCode::from(REFUSED) } else { ExitCode::FAILURE };
                }
            },
        };
        let mut out = io::stdout().lock();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let format = match self.format {
            Output::Human => Format::Human { color: out.is_terminal() && !plain },
            Output::Json => Format::Json,
            Output::Sarif => Format::Sarif,
            Output::Github => Format::Github,
        };
        if out.write_all(render(&diagnostics, format).as_bytes()).and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
        if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
            return refused;
        }
        ExitCode::SUCCESS
    }
}

impl Place {
    fn inspect(&self) -> Result<Vec<Diagnostic>, PlaceError> {
        // Libraries that make no choice of their own use the same cryptography.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = self.config.as_deref().map(Config::load).transpose()?;
        let mut names = match (&config, &self.config) {
            (Some(config), Some(file)) => {
                Names::of(config).ok_or_else(|| PlaceError::Absent(file.display().to_string()))?
            }
            _ => Names::usual(&self.namespace),
        };
        names.account.clone_from(&self.account);
        let configured = config.and_then(|config| config.kubernetes?.kubeconfig);
        let kubeconfig = self.kubeconfig.clone().or(configured);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = Client::try_from(configuration(kubeconfig.as_deref()).await?)?;
            Ok(inspect(client, names).await)
        })
    }
}

/// Every fault and warning below `folder`, those of cases included.
fn check(folder: &Path) -> Vec<Diagnostic> {
    let sources = match load_folder(folder) {
        Ok(sources) => sources,
        Err(faults) => return faults,
    };
    let compiled =
        compile(&sources, &Declared::beside(&sources.root, &Folder(&sources.root)), Options::default());
    let mut diagnostics = compiled.map_or_else(|faults| faults, |snapshot| snapshot.warnings);
    diagnostics.extend(check_cases(&sources));
    sort(&mut diagnostics);
    diagnostics
}
