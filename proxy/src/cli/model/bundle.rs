//! `foregate model inspect`, `bench` and `verify`: one bundle, without policies.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use foregate_inference::bench::{Records, time};
use foregate_inference::bundle::{Bundle, SIGNATURE, files};
use foregate_inference::scorer::ModelScorer;
use serde_json::{Map, Value, json};

use crate::cli::REFUSED;
use crate::cli::output::{self, TextFormat, count};
use crate::decision_log::keys::{KeyRef, PublicKey};
use crate::shared::models::Signers;

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Folder of the bundle.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Folder of the bundle.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Scores that are measured, 100 to 10000000.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    calls: u32,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Folder of the bundle.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Public key that must have signed it: Ed25519, PEM. Without it no signature is checked.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How it is written.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

/// The bundle at this path is not what it claims.
fn refused(bundle: &Path, error: &impl std::fmt::Display, format: TextFormat) -> ExitCode {
    if format == TextFormat::Json {
        output::line(&json!({ "ok": false, "bundle": bundle, "error": error.to_string() }).to_string());
    } else {
        output::error(&output::printable(&format!("foregate: {}: {error}", bundle.display())));
    }
    ExitCode::FAILURE
}

/// One JSON object, or a line for each member.
fn tell(members: &Map<String, Value>, format: TextFormat) {
    if format == TextFormat::Json {
        return output::line(&Value::from(members.clone()).to_string());
    }
    for (name, value) in members {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            Value::Object(members) => {
                members.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        output::line(&output::printable(&format!("{:<12} {value}", name.replace('_', " "))));
    }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

impl Inspect {
    pub(super) fn run(self) -> ExitCode {
        let bundle = match Bundle::load(&self.bundle) {
            Ok(bundle) => bundle,
            Err(error) => return refused(&self.bundle, &error, self.format),
        };
        let manifest = &bundle.manifest;
        let features: Vec<&str> = bundle.plan.features().iter().map(|feature| &*feature.name).collect();
        let told = json!({
            "name": manifest.name,
            "version": manifest.version,
            "object": manifest.object,
            "task": format!("{:?}", manifest.task).to_lowercase(),
            "classes": (!manifest.output.labels.is_empty()).then_some(&manifest.output.labels),
            "engine": bundle.model.engine(),
            "columns": bundle.plan.width(),
            "features": features,
            "metrics": manifest.metrics,
            "trained_on": format!("{} ({}), seed {}", manifest.trained_on.dataset, manifest.trained_on.licence, manifest.trained_on.seed),
            "runs": format!("{:?}", bundle.cost).to_lowercase(),
            "reference": bundle.reference.is_some(),
            "signature": self.bundle.join(SIGNATURE).is_file(),
        });
        tell(&members(told), self.format);
        ExitCode::SUCCESS
    }
}

/// A bundle ready to score, and its golden records.
fn ready(folder: &Path) -> Result<(ModelScorer, Records), String> {
    let bundle = Bundle::load(folder).map_err(|error| error.to_string())?;
    let records = Bundle::records(folder, &bundle.manifest).map_err(|error| error.to_string())?;
    let scorer = ModelScorer::new("bench", bundle, 1);
    Ok((scorer, records))
}

impl Bench {
    pub(super) fn run(self) -> ExitCode {
        let (scorer, records) = match ready(&self.bundle) {
            Ok(ready) => ready,
            Err(error) => return refused(&self.bundle, &error, self.format),
        };
        let calls = usize::try_from(self.calls).unwrap_or(usize::MAX);
        let Some(timing) = time(&scorer, &records, calls) else {
            return refused(&self.bundle, &"there is no golden record", self.format);
        };
        let micros = |time: std::time::Duration| (time.as_secs_f64() * 1e8).round() / 100.0;
        let told = json!({
            "calls": timing.calls,
            "p50_us": micros(timing.p50),
            "p99_us": micros(timing.p99),
            "max_us": micros(timing.max),
            "per_second": (f64::from(self.calls) / timing.total.as_secs_f64()).round(),
        });
        tell(&members(told), self.format);
        ExitCode::SUCCESS
    }
}

impl Verify {
    pub(super) fn run(self) -> ExitCode {
        let key = match self.key.clone().map(|file| PublicKey::load(&KeyRef::File(file))).transpose() {
            Ok(key) => key,
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                return ExitCode::from(REFUSED);
            }
        };
        let signer = key.as_ref().map(|key| key.id().to_owned());
        let loaded = Signers::new(key.into_iter().collect()).load_bundle(&self.bundle);
        let loaded = loaded.and_then(|bundle| Ok((Bundle::records(&self.bundle, &bundle.manifest)?, bundle)));
        let (records, bundle) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return refused(&self.bundle, &error, self.format),
        };
        let manifest = &bundle.manifest;
        let files = files(manifest).len();
        if self.format == TextFormat::Json {
            let (name, version) = (&manifest.name, &manifest.version);
            let told = json!({ "ok": true, "name": name, "version": version, "files": files,
                               "vectors": records.bodies.len(), "signed_by": signer });
            output::line(&told.to_string());
            return ExitCode::SUCCESS;
        }
        let proof = match signer {
            Some(signer) => format!("signed by {signer}"),
            None => "no signature was checked: give --key".to_owned(),
        };
        let (files, vectors) = (count(files, "file"), count(records.bodies.len(), "golden vector"));
        output::line(&format!("ok: {} {}, {files}, {vectors}; {proof}", manifest.name, manifest.version));
        ExitCode::SUCCESS
    }
}
