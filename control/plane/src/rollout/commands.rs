//! `foregate-control status | diff | rollout | revert`: what operators ask a running control plane.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use foregate_filters::units::TimeSpan;
use serde_json::{Value, json};

use crate::operate::commands::{CommandError, Which};
use crate::revision::build::compile_tree;
use crate::revision::merge::{ENDPOINTS, Merged};
use crate::revision::{Label, Resource};
use crate::rollout::difference::{Difference, differences, page};
use crate::rollout::pages;
use crate::rollout::routes::{Back, Wanted, parts};
use crate::sources::board::Place;
use crate::sources::folder;
use crate::sources::spec::Limits;
use crate::stream::offering::one_line;

/// Configuration refused, as `foregate` has it.
const REFUSED: u8 = 3;

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Human,
    /// One JSON document.
    Json,
}

/// Shows sources, revisions, rollout and proxies. Exit codes: 0 fine; 1 a source is at fault, or something was refused
/// or taken back, or there was no answer; 2 usage.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    which: Which,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: Output,
}

/// Shows how a revision differs from another, or a folder from a revision. Exit codes: 0 they are the same; 1 they
/// differ, or there was no answer; 2 usage; 3 the folder does not compile.
#[derive(Debug, Args)]
pub struct Diff {
    #[command(flatten)]
    which: Which,
    /// The older one; what is in force where it is not given.
    #[arg(long, value_name = "REVISION")]
    from: Option<String>,
    /// The newer one.
    #[arg(value_name = "REVISION", required_unless_present = "folder", conflicts_with = "folder")]
    to: Option<String>,
    /// A folder in place of the newer one.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: Output,
}

/// Rolls a revision out, and pauses or resumes that.
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Gives a revision to a part of the proxies, then to more.
    Start(Start),
    /// Stays at the step that was taken.
    Pause(Which),
    /// Goes on.
    Resume(Which),
}

#[derive(Debug, Args)]
pub struct Start {
    #[command(flatten)]
    which: Which,
    /// The revision, as `foregate-control status` shows it.
    #[arg(value_name = "REVISION")]
    revision: String,
    /// Per cent of the proxies, step by step; those of the configuration where they are not given.
    #[arg(long, value_name = "PERCENT,..", value_delimiter = ',')]
    steps: Option<Vec<f64>>,
    /// How long each step is looked at.
    #[arg(long, value_name = "TIME")]
    interval: Option<TimeSpan>,
}

/// Gives all proxies an earlier revision at once, and gives up what is being rolled out.
#[derive(Debug, Args)]
pub struct Revert {
    #[command(flatten)]
    which: Which,
    /// The one before the one in force where it is not given.
    #[arg(value_name = "REVISION")]
    revision: Option<String>,
}

fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "foregate-control: {error}");
    ExitCode::FAILURE
}

impl Status {
    pub fn run(&self) -> ExitCode {
        let status = match self.which.ask("/policies", None) {
            Ok(status) => status,
            Err(error) => return failed(&error),
        };
        let text = match self.format {
            Output::Human => pages::status(&status),
            Output::Json => format!("{status:#}\n"),
        };
        if print(&text) && !pages::has_faults(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Diff {
    pub fn run(&self) -> ExitCode {
        let new = match (&self.folder, &self.to) {
            (Some(folder), _) => match revision_of(folder) {
                Ok(revision) => revision,
                Err(lines) => {
                    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
                    return ExitCode::from(REFUSED);
                }
            },
            (None, Some(to)) => match self.revision(to) {
                Ok(revision) => revision,
                Err(error) => return failed(&error),
            },
            (None, None) => return ExitCode::FAILURE,
        };
        let old = match self.old().and_then(|id| self.revision(&id)) {
            Ok(revision) => revision,
            Err(error) => return failed(&error),
        };
        let found = differences(&old, &new);
        let text = match self.format {
            Output::Human => page(&found),
            Output::Json => format!("{:#}\n", Value::Array(found.iter().map(as_json).collect())),
        };
        if print(&text) && found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn old(&self) -> Result<String, CommandError> {
        if let Some(from) = &self.from {
            return Ok(from.clone());
        }
        let status = self.which.ask("/policies", None)?;
        Ok(status.get("current").and_then(Value::as_str).unwrap_or("none").to_owned())
    }

    fn revision(&self, id: &str) -> Result<Value, CommandError> {
        self.which.ask(&format!("/policies/revisions/{id}"), None)
    }
}

fn as_json(difference: &Difference) -> Value {
    let Difference { name, how, path, lines } = difference;
    json!({ "name": name, "how": how, "path": path, "lines": lines })
}

/// What a folder would be as a revision.
fn revision_of(path: &Path) -> Result<Value, Vec<String>> {
    let lines = |faults: Vec<foregate_policy::diagnostic::Diagnostic>| faults.iter().map(one_line).collect();
    let tree = folder::read("folder", path, Limits::default()).map_err(|fault| lines(fault.0))?;
    let mut merged = Merged::default();
    merged.places.push(Place::default());
    for (way, content) in tree.files {
        if way.ends_with(ENDPOINTS) {
            let resource = Resource::file(&way, content);
            merged.endpoints.insert(way, resource.into());
        } else {
            merged.files.insert(way, (content, 0));
        }
    }
    let root = path.canonicalize().map_err(|error| vec![error.to_string()])?;
    let label = Label { id: "folder".to_owned(), made: 0, origins: Vec::new() };
    compile_tree(&merged, &root, label).map(|revision| parts(&revision)).map_err(lines)
}

impl RolloutCommand {
    pub fn run(&self) -> ExitCode {
        let answer = match self {
            Self::Start(Start { which, revision, steps, interval }) => {
                let wanted = Wanted { revision: revision.clone(), steps: steps.clone(), interval: *interval };
                which.ask("/policies/rollout", serde_json::to_value(wanted).ok().as_ref())
            }
            Self::Pause(which) => which.ask("/policies/pause", Some(&Value::Null)),
            Self::Resume(which) => which.ask("/policies/resume", Some(&Value::Null)),
        };
        told(answer)
    }
}

impl Revert {
    pub fn run(&self) -> ExitCode {
        let back = Back { revision: self.revision.clone() };
        told(self.which.ask("/policies/revert", serde_json::to_value(back).ok().as_ref()))
    }
}

fn told(answer: Result<Value, CommandError>) -> ExitCode {
    match answer {
        Ok(status) if print(&pages::rollout(&status)) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}
