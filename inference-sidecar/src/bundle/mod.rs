//! Loads a model bundle, and refuses one that does not compute what it claims.

pub mod error;
mod golden;
pub mod manifest;
mod measure;
pub mod reference;

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::bench::Records;
use crate::bundle::error::{BundleError, BundleFault};
use crate::bundle::golden::Judge;
use crate::bundle::manifest::{Baseline, Explain, FileRef, Files, MANIFEST, Manifest, Task};
use crate::bundle::reference::Reference;
use crate::features::Plan;
use crate::features::spec::SpecError;
use crate::model::{Model, load};
use crate::onnx::Ports;
use crate::output::{Output, OutputError, Ranking};
use crate::store::FeatureStore;
use crate::table::{Table, Tables};

/// Bytes of `model.yaml` at most.
pub const MAX_MANIFEST: u64 = 256 << 10;
/// Name of the detached signature of the manifest inside the folder: 64 bytes of Ed25519.
pub const SIGNATURE: &str = "bundle.sig";
/// Bytes of it at most.
pub const MAX_SIGNATURE: u64 = 64;
/// Bytes of the ONNX file at most.
const MAX_MODEL: u64 = 256 << 20;
/// Bytes of the golden vectors at most.
const MAX_GOLDEN: u64 = 64 << 20;
/// Bytes of one table at most.
const MAX_TABLE: u64 = 256 << 20;
/// Bytes of the reference population at most.
const MAX_REFERENCE: u64 = 1 << 20;
/// Tables at most.
const MAX_TABLES: usize = 16;

/// Where a model runs, by what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// On the thread that serves the request.
    Inline,
    /// On threads of its own.
    Threads,
}

/// A bundle whose files, features and scores have been checked.
#[derive(Debug)]
pub struct Bundle {
    pub name: Box<str>,
    pub version: Box<str>,
    /// SHA-256 of the manifest, in hexadecimal. The manifest holds the digests of all other files: two bundles with the
    /// same one are the same.
    pub digest: Box<str>,
    pub manifest: Manifest,
    /// The population that the model was trained on, where the bundle tells.
    pub reference: Option<Arc<Reference>>,
    pub plan: Plan,
    pub model: Arc<dyn Model>,
    pub output: Arc<Output>,
    pub cost: Cost,
    /// True where a person said where the model runs: what runs cost then moves it nowhere.
    pub placed: bool,
    /// Time one row of a large batch takes.
    pub per_row: Duration,
}

/// True where one of those who may sign has made this signature (second) of these bytes (first).
pub type Signed<'a> = &'a dyn Fn(&[u8], &[u8]) -> bool;

impl Bundle {
    /// Reads the folder `dir`. Checks digests, operators, golden vectors and batch sizes, and measures the cost.
    pub fn load(dir: &Path) -> Result<Self, BundleError> {
        Self::load_signed(dir, None)
    }

    /// The same for a bundle that must do without a feature store.
    #[cfg(feature = "server")]
    pub fn load_alone(dir: &Path) -> Result<Self, BundleError> {
        let bundle = Self::load(dir)?;
        if bundle.plan.looks_up() {
            return Err(BundleError::new(MANIFEST, BundleFault::NoStore));
        }
        Ok(bundle)
    }

    /// The same for a bundle that somebody must have signed.
    ///
    /// Every file is read once, and what was checked is what is used: the signature holds for the manifest, and the
    /// digests in it for all other files. A bundle that is replaced meanwhile is found out by them.
    pub fn load_signed(dir: &Path, signed: Option<Signed<'_>>) -> Result<Self, BundleError> {
        let text = read_bounded(dir, MANIFEST, MAX_MANIFEST)?;
        if let Some(signed) = signed {
            let signature = read_bounded(dir, SIGNATURE, MAX_SIGNATURE)?;
            if !signed(&text, &signature) {
                return Err(BundleError::new(SIGNATURE, BundleFault::Signature));
            }
        }
        let digest = hex(&Sha256::digest(&text)).into();
        let text = utf8(text)?;
        let manifest = Manifest::parse(&text)?;
        let tables = tables(dir, &manifest)?;
        let plan = Plan::compile(&manifest.object, &manifest.features, &tables)
            .map_err(|error| BundleError::new(MANIFEST, error.into()).locate(&text, "features"))?;
        if plan.width() != manifest.input.width {
            let fault = BundleFault::Width { declared: manifest.input.width, computed: plan.width() };
            return Err(BundleError::new(MANIFEST, fault).locate(&text, "input"));
        }
        if !baseline_fits(&manifest) {
            let fault = BundleFault::Baseline(plan.width());
            return Err(BundleError::new(MANIFEST, fault).locate(&text, "explain"));
        }
        let output = output(&manifest, &tables)
            .map_err(|error| BundleError::new(MANIFEST, error.into()).locate(&text, "items"))?;
        let onnx = read_checked(dir, &manifest.files.model, MAX_MODEL)?;
        let golden = read_checked(dir, &manifest.files.golden, MAX_GOLDEN)?;
        let (input, named) = (manifest.input.name.clone(), manifest.output.name.clone());
        let ports = Ports { input, width: manifest.input.width, output: named };
        let refuse = |fault| BundleError::new(&manifest.files.model.path, fault);
        let mut model = load(&onnx, &ports, manifest.output.index).map_err(|error| refuse(error.into()))?;
        output.check(model.columns()).map_err(|error| refuse(error.into()))?;
        let judge = Judge { plan: &plan, model: &*model, output: &output, task: manifest.task };
        let rows =
            judge.check(&golden).map_err(|fault| BundleError::new(&manifest.files.golden.path, fault))?;
        match &manifest.explain {
            Some(Explain { baseline: Baseline::Row(row) }) => model.learn(row),
            _ => model.learn(&rows),
        }
        let reference = reference(dir, &manifest, &plan)?;
        let (cost, per_row) = measure::measure(&*model, &rows, plan.width()).map_err(refuse)?;
        Ok(Self {
            name: manifest.name.as_str().into(),
            version: manifest.version.as_str().into(),
            digest,
            manifest,
            reference,
            plan,
            model: model.into(),
            output: Arc::new(output),
            cost,
            placed: false,
            per_row,
        })
    }

    /// Says where features are looked up; a column that the store lacks is a fault.
    pub fn attach(&mut self, store: &Arc<FeatureStore>) -> Result<(), SpecError> {
        self.plan.attach(store)
    }

    /// The records of the golden vectors in the folder `dir`.
    pub fn records(dir: &Path, manifest: &Manifest) -> Result<Records, BundleError> {
        let golden = read_checked(dir, &manifest.files.golden, MAX_GOLDEN)?;
        golden::records(&golden).map_err(|fault| BundleError::new(&manifest.files.golden.path, fault))
    }

    /// Reads the manifest alone.
    pub fn peek(dir: &Path) -> Result<Manifest, BundleError> {
        Manifest::parse(&utf8(read_bounded(dir, MANIFEST, MAX_MANIFEST)?)?)
    }

    /// Says where the model runs, whatever its runs cost.
    pub fn place(&mut self, cost: Cost) {
        self.cost = cost;
        self.placed = true;
    }
}

/// Every file that a manifest names, and its bytes at most.
pub fn files(manifest: &Manifest) -> Vec<(&FileRef, u64)> {
    let Files { model, golden, reference, tables } = &manifest.files;
    let mut files = vec![(model, MAX_MODEL), (golden, MAX_GOLDEN)];
    files.extend(reference.iter().map(|file| (file, MAX_REFERENCE)));
    files.extend(tables.values().map(|file| (file, MAX_TABLE)));
    files
}

fn utf8(manifest: Vec<u8>) -> Result<String, BundleError> {
    String::from_utf8(manifest).map_err(|_| BundleError::new(MANIFEST, BundleFault::NotUtf8))
}

fn baseline_fits(manifest: &Manifest) -> bool {
    match &manifest.explain {
        Some(Explain { baseline: Baseline::Row(row) }) => {
            row.len() == manifest.input.width && row.iter().all(|cell| cell.is_finite())
        }
        _ => true,
    }
}

fn tables(dir: &Path, manifest: &Manifest) -> Result<Tables, BundleError> {
    if manifest.files.tables.len() > MAX_TABLES {
        let fault = BundleFault::Value(format!("over {MAX_TABLES} tables"));
        return Err(BundleError::new(MANIFEST, fault));
    }
    let files = manifest.files.tables.iter();
    files
        .map(|(name, file)| {
            let bytes = read_checked(dir, file, MAX_TABLE)?;
            let table = Table::parse(&bytes).map_err(|error| BundleError::new(&file.path, error.into()))?;
            Ok((name.clone(), Arc::new(table)))
        })
        .collect()
}

fn reference(dir: &Path, manifest: &Manifest, plan: &Plan) -> Result<Option<Arc<Reference>>, BundleError> {
    let Some(file) = &manifest.files.reference else { return Ok(None) };
    let bytes = read_checked(dir, file, MAX_REFERENCE)?;
    let reference = Reference::parse(&bytes, plan).map_err(|fault| BundleError::new(&file.path, fault))?;
    Ok(Some(Arc::new(reference)))
}

fn output(manifest: &Manifest, tables: &Tables) -> Result<Output, OutputError> {
    Ok(match (manifest.task, &manifest.items) {
        (Task::Ranking, Some(items)) => {
            let table = tables.get(&items.table).ok_or(OutputError::Table)?;
            Output::Ranking(Box::new(Ranking::new(Arc::clone(table), &items.column, items.k)?))
        }
        (Task::Ranking, None) => return Err(OutputError::Table),
        (Task::Embedding, _) => Output::Embedding,
        _ if manifest.output.labels.is_empty() => Output::Score,
        _ => Output::Classes(manifest.output.labels.iter().map(|label| label.as_str().into()).collect()),
    })
}

/// A file of the bundle with the digest that the manifest claims.
fn read_checked(dir: &Path, file: &FileRef, limit: u64) -> Result<Vec<u8>, BundleError> {
    if !file.is_inside() {
        return Err(BundleError::new(MANIFEST, BundleFault::Outside(file.path.clone())));
    }
    let bytes = read_bounded(dir, &file.path, limit)?;
    let digest = hex(&Sha256::digest(&bytes));
    if digest.eq_ignore_ascii_case(&file.sha256) {
        Ok(bytes)
    } else {
        Err(BundleError::new(&file.path, BundleFault::Digest { claimed: file.sha256.clone(), found: digest }))
    }
}

/// A digest in hexadecimal.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A regular file inside the folder, links resolved; never more than `limit` bytes of it.
fn read_bounded(dir: &Path, name: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
    let refuse = |fault| BundleError::new(name, fault);
    let unreadable = |error: std::io::Error| refuse(BundleFault::Unreadable(error.to_string()));
    let home = fs::canonicalize(dir).map_err(unreadable)?;
    let path = fs::canonicalize(dir.join(name)).map_err(unreadable)?;
    if !path.starts_with(&home) || !path.is_file() {
        return Err(refuse(BundleFault::Outside(name.to_owned())));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit { Err(refuse(BundleFault::TooLarge { limit })) } else { Ok(bytes) }
}
