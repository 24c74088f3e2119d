//! `foregate model`: looks at bundles, and moves rollouts on and back.

mod bundle;
mod gate;
mod list;
mod promote;
mod pull;
mod sign;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use foregate_policy::compile::{Options, compile};
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::load::Sources;
use foregate_policy::model;
use foregate_policy::snapshot::Snapshot;

use crate::cli::materials::Lent;
use crate::shared::Shared;

#[derive(Debug, Args)]
pub(super) struct Model {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists the models of a folder of policies, their versions and the parts they play.
    List(list::List),
    /// Shows what a bundle is: object, task, features, metrics.
    Inspect(bundle::Inspect),
    /// Measures what single scores cost on this machine.
    Bench(bundle::Bench),
    /// Checks digests and golden vectors of a bundle, and who signed it.
    Verify(bundle::Verify),
    /// Signs a bundle, once its digests and golden vectors have been checked.
    Sign(sign::Sign),
    /// Makes a key that signs, in a file that does not exist yet, and prints its public half.
    Key(sign::Key),
    /// Makes the canary, the shadow or another version production, once it has passed the gate.
    Promote(promote::Promote),
    /// Fetches bundles from the registries that models name, and checks them, before they take their place.
    Pull(pull::Pull),
    /// Takes the canary off, or goes back to the version that was production before.
    Rollback(promote::Rollback),
}

impl Model {
    pub(super) fn run(self) -> ExitCode {
        match self.what {
            What::List(list) => list.run(),
            What::Inspect(inspect) => inspect.run(),
            What::Bench(bench) => bench.run(),
            What::Verify(verify) => verify.run(),
            What::Sign(sign) => sign.run(),
            What::Key(key) => key.run(),
            What::Promote(promote) => promote.run(),
            What::Pull(pull) => pull.run(),
            What::Rollback(rollback) => rollback.run(),
        }
    }
}

/// Compiles policies as `foregate check --without-secrets` does; every bundle is loaded for it.
fn compiled(sources: &Sources, shared: &Shared) -> Result<Snapshot, Vec<Diagnostic>> {
    shared.begin();
    let snapshot = compile(sources, &Lent::to_check(shared, false), Options::default())?;
    shared.commit();
    Ok(snapshot)
}

/// What a version is called: its name in the document, or `-` for a bundle alone.
fn named(version: &model::Version) -> &str {
    version.name.as_deref().unwrap_or("-")
}

/// The part that a version plays.
fn part(model: &model::Model, place: usize) -> &'static str {
    let Some(rollout) = &model.rollout else { return "production" };
    if rollout.production == place {
        "production"
    } else if rollout.canary.is_some_and(|(canary, _)| canary == place) {
        "canary"
    } else if rollout.shadow == Some(place) {
        "shadow"
    } else {
        "standby"
    }
}
