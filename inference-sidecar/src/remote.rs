//! A model that another process runs: what it is asked, and what it may answer.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::ScoreFault;
use prost::Message;
use tokio::sync::oneshot;

use crate::bundle::Bundle;
use crate::output::Output;
use crate::protocol::messages::{
    InferRequestedOutputTensor, InferTensor, ModelInferRequest, ModelInferResponse, ModelMetadataResponse,
    ModelReadyRequest, Parameter, TensorMetadata,
};
use crate::protocol::{BUNDLE, framed};

/// The columns of the output, row by row, or why there are none.
pub type Columns = Result<Vec<f32>, ScoreFault>;

/// Asks another process to run a model.
pub trait Remote: Debug + Send + Sync {
    /// Asks for the columns of so many rows. The answer comes once the budget is used up, at the latest.
    ///
    /// # Errors
    /// [`ScoreFault::Busy`] where too many calls are under way, [`ScoreFault::Model`] where there is nobody to ask.
    fn submit(
        &self,
        rows: &[f32],
        count: usize,
        budget: Duration,
    ) -> Result<oneshot::Receiver<Columns>, ScoreFault>;
}

/// What a bundle expects of a process that runs its model.
#[derive(Clone, Debug)]
pub struct Contract {
    /// Name and version that the bundle has itself, whatever a policy calls the model.
    pub name: Box<str>,
    pub version: Box<str>,
    /// What the bundle is, whatever it calls itself.
    pub digest: Box<str>,
    /// The tensor of features.
    input: Box<str>,
    width: usize,
    /// The tensor that has all columns of the output.
    tensor: &'static str,
    columns: usize,
    output: Arc<Output>,
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    #[error("the sidecar's answer is no message of the protocol")]
    Malformed,
    #[error("the sidecar answered for model `{0}`")]
    Model(String),
    #[error("the sidecar has version {found}, not {wanted}")]
    Version { found: String, wanted: Box<str> },
    #[error(
        "the sidecar has another bundle under this name and version: its model.yaml has SHA-256 {found}, ours {wanted}"
    )]
    Bundle { found: String, wanted: Box<str> },
    #[error(
        "the sidecar does not tell which bundle it has: it must be a foregate-inference as new as this gateway"
    )]
    Untold,
    #[error("the sidecar answered without the one raw FP32 tensor `{0}`")]
    Tensor(&'static str),
    #[error("the sidecar answered with shape {found:?} for {rows} rows of {columns}")]
    Shape { found: Vec<i64>, rows: usize, columns: usize },
    #[error("the sidecar answered with {found} bytes for {wanted}")]
    Bytes { found: usize, wanted: usize },
    #[error("the sidecar answered with NaN or infinity")]
    NotFinite,
    #[error("the sidecar answered with probabilities that do not sum to 1")]
    Sum,
    #[error("the sidecar's model takes or gives other tensors than the bundle here")]
    Ports,
}

/// Bytes of a name that is shown at most: it comes from the other process.
const SHOWN: usize = 64;
/// Bytes of an answer beside its numbers at most: names, shapes, and parameters that nobody reads.
const BESIDE: usize = 4 << 10;

fn shown(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect()
}

impl AnswerError {
    /// True where the other process has, or may have, another bundle.
    pub fn is_of_bundle(&self) -> bool {
        matches!(self, Self::Bundle { .. } | Self::Untold)
    }
}

impl Contract {
    /// What this bundle expects; `None` for one that ranks, whose vectors no tensor of the protocol tells.
    pub fn of(bundle: &Bundle) -> Option<Self> {
        let tensor = match &*bundle.output {
            Output::Score => "score",
            Output::Classes(_) => "probabilities",
            Output::Embedding => "embedding",
            Output::Ranking(_) => return None,
        };
        Some(Self {
            name: bundle.name.clone(),
            version: bundle.version.clone(),
            digest: bundle.digest.clone(),
            input: bundle.manifest.input.name.as_str().into(),
            width: bundle.plan.width(),
            tensor,
            columns: if tensor == "score" { 1 } else { bundle.model.columns() },
            output: Arc::clone(&bundle.output),
        })
    }

    /// Bytes of the answer for so many rows at most.
    pub fn most(&self, rows: usize) -> usize {
        BESIDE + rows.saturating_mul(self.columns).saturating_mul(4)
    }

    /// `ModelMetadata` of the version, or of whatever is there, as a frame.
    pub fn ask_metadata(&self, of_version: bool) -> Bytes {
        let version = if of_version { self.version.to_string() } else { String::new() };
        framed(&ModelReadyRequest { name: self.name.to_string(), version })
    }

    /// Checks what the other process says of the model.
    pub fn check_metadata(&self, message: Bytes) -> Result<(), AnswerError> {
        let told = ModelMetadataResponse::decode(message).map_err(|_| AnswerError::Malformed)?;
        if told.name != *self.name {
            return Err(AnswerError::Model(shown(&told.name)));
        }
        if !told.versions.iter().any(|version| *version == *self.version) {
            let found = told.versions.iter().map(|version| shown(version)).take(8).collect::<Vec<_>>();
            return Err(AnswerError::Version { found: found.join(", "), wanted: self.version.clone() });
        }
        self.check_bundle(told.properties.get(BUNDLE).map(String::as_str))?;
        let has = |ports: &[TensorMetadata], name: &str, columns: Option<usize>| {
            ports.iter().any(|port| {
                let last = port.shape.get(1).map(|size| usize::try_from(*size).ok());
                port.name == name && port.datatype == "FP32" && last == columns.map(Some)
            })
        };
        let columns = (self.tensor != "score").then_some(self.columns);
        if has(&told.inputs, &self.input, Some(self.width)) && has(&told.outputs, self.tensor, columns) {
            Ok(())
        } else {
            Err(AnswerError::Ports)
        }
    }

    /// Two bundles may call themselves alike: a score of another one is none of ours.
    fn check_bundle(&self, found: Option<&str>) -> Result<(), AnswerError> {
        match found {
            Some(found) if *found == *self.digest => Ok(()),
            Some(found) => Err(AnswerError::Bundle { found: shown(found), wanted: self.digest.clone() }),
            None => Err(AnswerError::Untold),
        }
    }

    /// `ModelInfer` for so many rows, as a frame.
    pub fn ask(&self, rows: &[f32], count: usize) -> Bytes {
        let signed = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
        let raw: Vec<u8> = rows.iter().flat_map(|cell| cell.to_le_bytes()).collect();
        framed(&ModelInferRequest {
            model_name: self.name.to_string(),
            model_version: self.version.to_string(),
            id: String::new(),
            parameters: BTreeMap::new(),
            inputs: vec![InferTensor {
                name: self.input.to_string(),
                datatype: "FP32".to_owned(),
                shape: vec![signed(count), signed(self.width)],
                parameters: BTreeMap::new(),
                contents: None,
            }],
            outputs: vec![InferRequestedOutputTensor {
                name: self.tensor.to_owned(),
                parameters: BTreeMap::new(),
            }],
            raw_input_contents: vec![raw.into()],
        })
    }

    /// The columns in an answer for so many rows; nothing in it is taken on trust.
    pub fn read(&self, message: Bytes, rows: usize) -> Result<Vec<f32>, AnswerError> {
        let answer = ModelInferResponse::decode(message).map_err(|_| AnswerError::Malformed)?;
        if answer.model_name != *self.name {
            return Err(AnswerError::Model(shown(&answer.model_name)));
        }
        if answer.model_version != *self.version {
            let (found, wanted) = (shown(&answer.model_version), self.version.clone());
            return Err(AnswerError::Version { found, wanted });
        }
        let bundle = answer.parameters.get(BUNDLE).and_then(|parameter| parameter.choice.as_ref());
        self.check_bundle(match bundle {
            Some(Parameter::String(digest)) => Some(digest),
            _ => None,
        })?;
        let ([tensor], [raw]) = (answer.outputs.as_slice(), answer.raw_output_contents.as_slice()) else {
            return Err(AnswerError::Tensor(self.tensor));
        };
        if tensor.name != self.tensor || tensor.datatype != "FP32" || tensor.contents.is_some() {
            return Err(AnswerError::Tensor(self.tensor));
        }
        let sizes: Vec<usize> =
            tensor.shape.iter().map(|size| usize::try_from(*size).unwrap_or(usize::MAX)).collect();
        let fits = match sizes.as_slice() {
            [found] => *found == rows && self.columns == 1,
            [found, columns] => *found == rows && *columns == self.columns,
            _ => false,
        };
        if !fits {
            let found = tensor.shape.iter().copied().take(8).collect();
            return Err(AnswerError::Shape { found, rows, columns: self.columns });
        }
        let wanted = rows * self.columns * 4;
        if raw.len() != wanted {
            return Err(AnswerError::Bytes { found: raw.len(), wanted });
        }
        let (cells, _) = raw.as_chunks::<4>();
        let cells: Vec<f32> = cells.iter().map(|cell| f32::from_le_bytes(*cell)).collect();
        if !cells.iter().all(|cell| cell.is_finite()) {
            return Err(AnswerError::NotFinite);
        }
        let mut each = cells.chunks_exact(self.columns.max(1));
        if each.any(|row| self.output.check_answer(row).is_err()) {
            return Err(AnswerError::Sum);
        }
        Ok(cells)
    }
}
