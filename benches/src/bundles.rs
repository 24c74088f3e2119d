//! The shipped models alone: runs, reasons, triage, loading, memory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use foregate_inference::bundle::Bundle;
use foregate_inference::features::Reading;

use crate::measure::Table;
use crate::memory::resident;

/// Copies of a bundle whose memory is divided by their number: what is needed once counts little.
const COPIES: u64 = 16;
/// A case of 600 letters.
const CASE: &str = r#"{"Subject":"Cannot log in after the update","Origin":"Web","Priority":"Medium","Type":"Problem",
"Description":"WORDSWORDSWORDS"}"#;
const WORDS: &str = "Since yesterday's release our users cannot sign in to the portal: 'invalid session', although the \
                     password is right. We tried three browsers in Z\u{fc}rich; error 4711. Please escalate! ";

/// Measures everything.
pub fn run<W: Write>(table: &mut Table<'_, W>) -> Result<()> {
    for folder in folders()? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        models(table, &folder, &name)?;
        loading(table, &folder, &name)?;
        if name.starts_with("case-") {
            triage(table, &folder, &name)?;
        }
    }
    Ok(())
}

fn folders() -> Result<Vec<PathBuf>> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/bundles");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(home)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    folders.sort();
    Ok(folders)
}

/// A model on the features of its first golden record; `compare/engines.py` times the same beside us.
fn models<W: Write>(table: &mut Table<'_, W>, folder: &Path, name: &str) -> Result<()> {
    let (alone, why) = (format!("model alone, {name}"), format!("reasons of one score, {name}"));
    if !table.wants(&alone) && !table.wants(&why) {
        return Ok(());
    }
    let bundle = Bundle::load(folder)?;
    let golden = Bundle::records(folder, &bundle.manifest)?;
    let record = golden.bodies.first().context("no golden record")?;
    let row = bundle.plan.extract(record, &[], Reading { now: golden.now, values: false })?.rows;
    let mut scores = Vec::with_capacity(bundle.model.columns());
    table.row(&alone, || {
        scores.clear();
        bundle.model.run(&row, 1, &mut scores).is_ok()
    })?;
    if bundle.model.explain(&row, &scores).is_some() {
        table.row(&why, || bundle.model.explain(&row, &scores))?;
    }
    Ok(())
}

/// Everything that loading does: digests, golden vectors, what a run costs. And the memory that it takes for good.
fn loading<W: Write>(table: &mut Table<'_, W>, folder: &Path, name: &str) -> Result<()> {
    table.row(&format!("bundle loaded, {name}"), || {
        Bundle::load(folder).map(|bundle| bundle.model.columns())
    })?;
    let memory = format!("memory of a bundle, KiB, {name}");
    if !table.wants(&memory) {
        return Ok(());
    }
    let first = Bundle::load(folder)?;
    let before = resident().context("no /proc")?;
    let copies = (0..COPIES).map(|_| Ok(Bundle::load(folder)?)).collect::<Result<Vec<_>>>()?;
    let after = resident().context("no /proc")?;
    drop((first, copies));
    Ok(table.note(&memory, &(after.saturating_sub(before) / COPIES).to_string())?)
}

/// A case as it comes, to its class.
fn triage<W: Write>(table: &mut Table<'_, W>, folder: &Path, name: &str) -> Result<()> {
    let row = format!("case of 600 letters: features and model, {name}");
    if !table.wants(&row) {
        return Ok(());
    }
    let (bundle, body) = (Bundle::load(folder)?, CASE.replace("WORDS", WORDS));
    let mut scores = Vec::with_capacity(bundle.model.columns());
    let mut score = || {
        scores.clear();
        let found = bundle.plan.extract(body.as_bytes(), &[], Reading::default())?;
        bundle.model.run(&found.rows, 1, &mut scores)?;
        Ok::<_, anyhow::Error>(bundle.output.read(&scores).0)
    };
    ensure!(score()?.is_finite(), "no score");
    Ok(table.row(&row, score)?)
}
