//! `foregate model list`: versions, and the parts they play.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use foregate_policy::load::load_folder;
use serde_json::json;

use crate::cli::REFUSED;
use crate::cli::model::{compiled, named, part};
use crate::cli::output::{self, TextFormat};
use crate::shared::Shared;

#[derive(Debug, Args)]
pub(super) struct List {
    /// Folder with policy files, or one file.
    #[arg(value_name = "FOLDER")]
    policies: PathBuf,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

impl List {
    pub(super) fn run(self) -> ExitCode {
        let shared = Shared::new(None, None);
        let snapshot = match load_folder(&self.policies).and_then(|sources| compiled(&sources, &shared)) {
            Ok(snapshot) => snapshot,
            Err(faults) => {
                output::diagnostics(&faults, self.format.into());
                return ExitCode::from(REFUSED);
            }
        };
        let loaded = shared.models();
        for model in &snapshot.models {
            let versions = loaded.iter().find(|loaded| loaded.name == model.name);
            for (place, version) in model.versions.iter().enumerate() {
                let scorer = versions.and_then(|loaded| loaded.versions.get(place)).map(|(_, scorer)| scorer);
                let bundle = scorer.map(|scorer| scorer.manifest());
                let bundle = bundle.map(|it| format!("{} {}", it.name, it.version)).unwrap_or_default();
                let role = part(model, place);
                let share =
                    model.rollout.as_ref().and_then(|rollout| rollout.canary).filter(|_| role == "canary");
                let percent = share.map(|(_, share)| f64::from(share) / 100.0);
                self.tell(
                    &model.name,
                    named(version),
                    role,
                    percent,
                    &bundle,
                    &version.bundle.display().to_string(),
                );
            }
        }
        ExitCode::SUCCESS
    }

    fn tell(&self, model: &str, version: &str, role: &str, percent: Option<f64>, bundle: &str, path: &str) {
        if self.format == TextFormat::Json {
            let line = json!({ "model": model, "version": version, "role": role, "percent": percent,
                               "bundle": bundle, "path": path });
            return output::line(&line.to_string());
        }
        let role = percent.map_or(role.to_owned(), |percent| format!("{role} {percent} %"));
        output::line(&format!("{model:<20} {version:<10} {role:<14} {bundle:<28} {path}"));
    }
}
