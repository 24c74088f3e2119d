//! `foregate model promote` and `rollback`: change the rollout in its policy file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::document::{Document, Kind, ObjectName};
use foregate_policy::edit;
use foregate_policy::files::Beside;
use foregate_policy::load::{Sources, load_folder};
use foregate_policy::model::{Model, Rollout};
use foregate_policy::node::Node;
use serde_json::json;

use crate::cli::REFUSED;
use crate::cli::model::gate::{Check, Side, checks};
use crate::cli::model::{compiled, named};
use crate::cli::output::{self, TextFormat};
use crate::shared::Shared;

/// The way to what is changed.
const ROLLOUT: [&str; 2] = ["spec", "rollout"];

#[derive(Debug, Args)]
struct Target {
    /// Folder with policy files, or one file.
    #[arg(value_name = "FOLDER")]
    policies: PathBuf,
    /// Name of the model.
    #[arg(value_name = "MODEL")]
    model: String,
    /// Tells what would be changed, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

#[derive(Debug, Args)]
pub(super) struct Promote {
    #[command(flatten)]
    target: Target,
    /// The version to promote [default: the canary, or else the shadow].
    #[arg(long, value_name = "NAME")]
    version: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    target: Target,
}

/// Why nothing was changed.
#[derive(Debug)]
enum Stop {
    /// Nothing to do, or nothing that can be done.
    Problem(String),
    /// Policies that do not compile.
    Faults(Vec<Diagnostic>),
    /// The gate refused the version.
    Gate,
}

impl From<Vec<Diagnostic>> for Stop {
    fn from(faults: Vec<Diagnostic>) -> Self {
        Self::Faults(faults)
    }
}

/// One change of the rollout.
#[derive(Debug)]
enum Change<'a> {
    Set(&'static str, &'a str),
    Remove(&'static str),
}

/// Policies as they are, with the model that is to be changed.
struct Stage {
    sources: Sources,
    shared: Shared,
    model: Model,
    rollout: Rollout,
}

impl Stage {
    fn new(target: &Target) -> Result<Self, Stop> {
        let sources = load_folder(&target.policies)?;
        let shared = Shared::new(None, None);
        let snapshot = compiled(&sources, &shared)?;
        let model = snapshot.models.into_iter().find(|model| *model.name == *target.model);
        let model = model.ok_or_else(|| Stop::Problem(format!("there is no model `{}`", target.model)))?;
        let alone = || Stop::Problem(format!("`{}` has one bundle and no rollout", target.model));
        let rollout = model.rollout.clone().ok_or_else(alone)?;
        Ok(Self { sources, shared, model, rollout })
    }

    fn name(&self, place: usize) -> &str {
        self.model.versions.get(place).map_or("-", named)
    }

    fn document(&self) -> Option<&Document> {
        let named = |document: &&Document| {
            document.kind == Kind::Model && document.name.to_string() == *self.model.name
        };
        self.sources.documents.iter().find(named)
    }

    /// The policies with changes in the document of the model, compiled: the file, and its new text.
    fn changed(&self, changes: &[Change<'_>]) -> Result<Changed, Stop> {
        let document = self.document().ok_or_else(|| Stop::Problem("the document is gone".to_owned()))?;
        let path = document.file.path.clone();
        let by_hand = || {
            let message =
                format!("{}: the rollout is written in a way that is changed by hand only", path.display());
            Stop::Problem(message)
        };
        let fits = |root: &Node| {
            let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
            let metadata = root.key("metadata");
            let field = |key: &str| text(metadata.and_then(|metadata| metadata.key(key)));
            let name = ObjectName::new(field("namespace").as_deref(), &field("name").unwrap_or_default());
            text(root.key("kind")).as_deref() == Some(Kind::Model.word()) && name == document.name
        };
        let mut text = document.file.text.clone();
        for change in changes {
            text = match change {
                Change::Set(key, word) => edit::set(&text, fits, &ROLLOUT, key, word),
                Change::Remove(key) => edit::remove(&text, fits, &ROLLOUT, key),
            }
            .ok_or_else(by_hand)?;
        }
        let mut sources = Sources { root: self.sources.root.clone(), ..Sources::default() };
        for file in &self.sources.files {
            let same = file.path == path;
            sources.add(file.path.clone(), if same { text.clone() } else { file.text.clone() });
        }
        compiled(&sources, &self.shared)?;
        Ok(Changed { path, old: document.file.text.clone(), text })
    }
}

/// A file, and what is to stand in it.
struct Changed {
    path: PathBuf,
    old: String,
    text: String,
}

/// A version that becomes production is on trial no longer.
fn off_trial(rollout: &Rollout, place: usize, changes: &mut Vec<Change<'_>>, told: &mut String) {
    let trials = [("canary", rollout.canary.map(|(place, _)| place)), ("shadow", rollout.shadow)];
    for (role, _) in trials.into_iter().filter(|(_, version)| *version == Some(place)) {
        changes.push(Change::Remove(role));
        told.extend([", ", role, " removed"]);
    }
}

/// Puts a new text in the place of the old one, whole or not at all; an error where the file has changed since.
fn replace(path: &Path, old: &str, text: &str) -> std::io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mut beside = Beside::private(&path)?;
    beside.file().write_all(text.as_bytes())?;
    beside.file().set_permissions(fs::metadata(&path)?.permissions())?;
    if fs::read_to_string(&path)? != old {
        return Err(std::io::Error::other("somebody has changed it meanwhile: say it again"));
    }
    beside.put()
}

/// Makes the changes, and tells of them.
fn carry_out(target: &Target, stage: &Stage, changes: &[Change<'_>], told: &str) -> Result<(), Stop> {
    let Changed { path, old, text } = stage.changed(changes)?;
    if !target.dry_run {
        replace(&path, &old, &text).map_err(|error| Stop::Problem(format!("{}: {error}", path.display())))?;
    }
    if target.format == TextFormat::Json {
        let line = json!({ "model": target.model, "file": path.display().to_string(), "changed": !target.dry_run, "what": told });
        output::line(&line.to_string());
    } else {
        let would = if target.dry_run { "would change " } else { "" };
        output::line(&format!("{would}{}: {told}", path.display()));
    }
    Ok(())
}

fn end(outcome: Result<(), Stop>, format: TextFormat) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Problem(why)) => {
            output::error(&format!("foregate: {why}"));
            ExitCode::FAILURE
        }
        Err(Stop::Faults(faults)) => {
            output::diagnostics(&faults, format.into());
            ExitCode::from(REFUSED)
        }
        Err(Stop::Gate) => {
            output::error("foregate: the version has not passed; nothing was changed");
            ExitCode::from(REFUSED)
        }
    }
}

impl Promote {
    pub(super) fn run(self) -> ExitCode {
        end(self.promote(), self.target.format)
    }

    fn promote(&self) -> Result<(), Stop> {
        let stage = Stage::new(&self.target)?;
        let rollout = &stage.rollout;
        let place = match &self.version {
            Some(name) => {
                let found = stage.model.versions.iter().position(|version| named(version) == name);
                found.ok_or_else(|| {
                    Stop::Problem(format!("`{}` has no version `{name}`", self.target.model))
                })?
            }
            None => rollout.canary.map(|(place, _)| place).or(rollout.shadow).ok_or_else(|| {
                Stop::Problem("there is neither a canary nor a shadow: name the version".to_owned())
            })?,
        };
        if place == rollout.production {
            return Err(Stop::Problem(format!("`{}` is production", stage.name(place))));
        }
        self.pass(&stage, place)?;
        let (old, new) = (stage.name(rollout.production), stage.name(place));
        let mut changes = vec![Change::Set("production", new), Change::Set("previous", old)];
        let mut told = format!("production {old} -> {new}, previous {old}");
        off_trial(rollout, place, &mut changes, &mut told);
        carry_out(&self.target, &stage, &changes, &told)
    }

    /// Lets the version through the gate, and tells every check.
    fn pass(&self, stage: &Stage, place: usize) -> Result<(), Stop> {
        let loaded = stage.shared.models().into_iter().find(|loaded| loaded.name == stage.model.name);
        let side = |place: usize| {
            let scorer = &loaded.as_ref()?.versions.get(place)?.1;
            Some(Side { scorer, folder: &stage.model.versions.get(place)?.bundle })
        };
        let sides = side(stage.rollout.production).zip(side(place));
        let (production, version) =
            sides.ok_or_else(|| Stop::Problem("a version is not loaded".to_owned()))?;
        let checks = checks(&stage.rollout.gate, production, version);
        for Check { name: check, ok, found } in &checks {
            if self.target.format == TextFormat::Json {
                output::line(&json!({ "check": check, "ok": ok, "found": found }).to_string());
            } else {
                output::line(&format!("{:<8} {check}: {found}", if *ok { "passed" } else { "refused" }));
            }
        }
        if checks.iter().all(|check| check.ok) { Ok(()) } else { Err(Stop::Gate) }
    }
}

impl Rollback {
    pub(super) fn run(self) -> ExitCode {
        end(self.roll_back(), self.target.format)
    }

    fn roll_back(&self) -> Result<(), Stop> {
        let stage = Stage::new(&self.target)?;
        let production = stage.name(stage.rollout.production);
        if let Some((canary, _)) = stage.rollout.canary {
            let told = format!(
                "canary {} removed, production {production} decides about everything",
                stage.name(canary)
            );
            return carry_out(&self.target, &stage, &[Change::Remove("canary")], &told);
        }
        let Some(previous) = stage.rollout.previous else {
            let message = "there is neither a canary nor a version that was production before";
            return Err(Stop::Problem(message.to_owned()));
        };
        let name = stage.name(previous);
        let mut changes = vec![Change::Set("production", name), Change::Remove("previous")];
        let mut told = format!("production {production} -> {name}, previous removed");
        off_trial(&stage.rollout, previous, &mut changes, &mut told);
        carry_out(&self.target, &stage, &changes, &told)
    }
}
