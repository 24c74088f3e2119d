//! One model as the server has it: inputs, outputs, and what it did.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foregate_filters::score::{Detail, Scorer};

use super::body::aside;
use super::fault::Fault;
use super::statistics::{Spans, Statistics};
use super::tensors::{Cells, Datatype, Port, Tensor};
use crate::bundle::Bundle;
use crate::clock::{self, Stopwatch};
use crate::features::Reading;
use crate::features::extract::MAX_RECORDS;
use crate::features::spec::Missing;
use crate::output::Output;
use crate::scorer::{ModelScorer, RowScore, Rows, Scored};

/// Name of the input that takes JSON records.
pub const RECORD: &str = "record";
/// Name of the output that tells reasons.
pub const REASONS: &str = "reasons";
/// Work with features of larger requests leaves the threads that serve connections, in bytes.
const INLINE_INPUT: usize = 64 << 10;

/// A loaded model.
#[derive(Debug)]
pub struct Served {
    pub name: Box<str>,
    pub version: Box<str>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// True where it can tell reasons.
    pub explains: bool,
    pub statistics: Statistics,
    /// `forest` or `graph`.
    pub engine: &'static str,
    /// True where NaN is what is missing; other models make a number of it that says nothing.
    takes_nan: bool,
    scorer: ModelScorer,
}

/// What is to be scored.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Rows of features, row-major; NaN stands for what is missing, where features of the model may be.
    Features { cells: Vec<f32>, rows: usize },
    /// JSON records, which go through the features of the model.
    Records(Vec<Bytes>),
}

/// A request, whatever protocol it came by.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub input: Input,
    /// True where reasons are wanted.
    pub explain: bool,
    /// Names of outputs; all but reasons where there is none.
    pub outputs: Vec<Box<str>>,
    /// Time left.
    pub budget: Duration,
}

impl Served {
    /// With so many threads for what does not run on the threads of connections.
    pub fn new(bundle: Bundle, threads: usize) -> Self {
        let (name, version) = (bundle.name.clone(), bundle.version.clone());
        let (width, features) = (bundle.plan.width(), bundle.manifest.input.name.as_str().into());
        let takes_nan = bundle.manifest.features.iter().any(|feature| feature.missing == Some(Missing::Nan));
        let scorer = ModelScorer::new(&name, bundle, threads);
        let inputs = vec![
            Port { name: features, datatype: Datatype::Fp32, shape: vec![-1, signed(width)] },
            Port { name: RECORD.into(), datatype: Datatype::Bytes, shape: vec![-1] },
        ];
        let model = scorer.engine();
        let explains = scorer.offer().is_some_and(|offer| offer.reasons);
        let mut outputs = ports(scorer.output(), model.columns());
        if explains {
            outputs.push(Port { name: REASONS.into(), datatype: Datatype::Bytes, shape: vec![-1] });
        }
        let engine = model.engine();
        let statistics = Statistics::default();
        Self { name, version, inputs, outputs, explains, statistics, engine, takes_nan, scorer }
    }

    /// SHA-256 of the manifest of its bundle, in hexadecimal.
    pub fn digest(&self) -> &str {
        self.scorer.digest()
    }

    /// `onnx_forest` or `onnx_graph`.
    pub fn platform(&self) -> String {
        format!("onnx_{}", self.engine)
    }

    /// Name of the input that takes features.
    pub fn features_name(&self) -> &str {
        self.inputs.first().map_or("", |port| &port.name)
    }

    /// Columns of the features.
    pub fn width(&self) -> usize {
        self.scorer.plan().width()
    }

    /// Scores, and notes how it went.
    pub async fn infer(self: &Arc<Self>, ask: Ask) -> Result<Vec<Tensor>, Fault> {
        let watch = Stopwatch::start();
        let answer = self.answer(ask).await;
        if answer.is_err() {
            self.statistics.failed(watch.elapsed());
        }
        answer
    }

    async fn answer(self: &Arc<Self>, ask: Ask) -> Result<Vec<Tensor>, Fault> {
        let Ask { input, explain, outputs, budget } = ask;
        for name in &outputs {
            if !self.outputs.iter().any(|port| port.name == *name) {
                let known: Vec<&str> = self.outputs.iter().map(|port| &*port.name).collect();
                let known = known.join(", ");
                return Err(Fault::invalid(format!("no output `{name}`: this model gives {known}")));
            }
        }
        let explain = explain || outputs.iter().any(|name| &**name == REASONS);
        if explain && !self.explains {
            return Err(Fault::invalid("this model tells no reasons: leave `explain` out"));
        }
        let (watch, now) = (Stopwatch::start(), clock::now());
        let mut spans = Spans::default();
        let rows = self.rows(input, Reading { now, values: explain }).await?;
        spans.input = watch.elapsed();
        let count = rows.count;
        let left = budget.saturating_sub(spans.input);
        let Scored { scores, queued } = self.scorer.score_rows(rows, left).await?;
        let scored = watch.elapsed();
        spans.queue = queued;
        spans.infer = scored.saturating_sub(spans.input + queued);
        let wanted = |name: &str| {
            if outputs.is_empty() {
                name != REASONS || explain
            } else {
                outputs.iter().any(|it| &**it == name)
            }
        };
        let tensors = self.tensors(&scores, wanted);
        spans.output = watch.elapsed().saturating_sub(scored);
        self.statistics.succeeded(now, count, count.div_ceil(MAX_RECORDS), spans);
        Ok(tensors)
    }

    /// The features of the input. Those of large records are computed off the threads of connections.
    async fn rows(self: &Arc<Self>, input: Input, reading: Reading) -> Result<Rows, Fault> {
        match input {
            Input::Features { cells, rows } => {
                let fits = |cell: &f32| cell.is_finite() || (cell.is_nan() && self.takes_nan);
                if let Some(place) = cells.iter().position(|cell| !fits(cell)) {
                    let (row, column) = (place / self.width().max(1), place % self.width().max(1));
                    let what = "is NaN or infinite, which this model does not take";
                    return Err(Fault::invalid(format!("row {row}, column {column} {what}")));
                }
                Ok(Rows { cells, count: rows, explain: reading.values, values: Vec::new() })
            }
            Input::Records(records) => {
                let size: usize = records.iter().map(Bytes::len).sum();
                if size > INLINE_INPUT {
                    let served = Arc::clone(self);
                    aside(move || served.extract(&records, reading)).await?
                } else {
                    self.extract(&records, reading)
                }
            }
        }
    }

    fn extract(&self, records: &[Bytes], reading: Reading) -> Result<Rows, Fault> {
        let plan = self.scorer.plan();
        let mut rows = Rows { explain: reading.values, count: records.len(), ..Rows::default() };
        rows.cells.reserve(records.len() * plan.width());
        for (place, record) in records.iter().enumerate() {
            let fault = |what: String| Fault::invalid(format!("record {place}: {what}"));
            let found = plan.extract(record, &[], reading).map_err(|error| fault(error.to_string()))?;
            match found.records.as_slice() {
                [record] => record.features.clone().map_err(|error| fault(error.to_string()))?,
                many => return Err(fault(format!("one record expected, and {} found", many.len()))),
            }
            rows.cells.extend(found.rows);
            rows.values.extend(found.values);
        }
        Ok(rows)
    }

    fn tensors(&self, scores: &[RowScore], wanted: impl Fn(&str) -> bool) -> Vec<Tensor> {
        let rows = scores.len();
        let mut tensors = Vec::with_capacity(self.outputs.len());
        let mut give = |name: &'static str, columns: Option<usize>, cells: &dyn Fn() -> Cells| {
            if wanted(name) {
                let shape = std::iter::once(rows).chain(columns).collect();
                tensors.push(Tensor { name, shape, cells: cells() });
            }
        };
        give("score", None, &|| Cells::Fp32(scores.iter().map(|(score, _)| *score).collect()));
        let values =
            || Cells::Fp32(details(scores).flat_map(|detail| detail.values.iter().copied()).collect());
        match self.scorer.output() {
            Output::Score => {}
            Output::Classes(labels) => {
                let class = |detail: &Detail| bytes(detail.class.as_deref().unwrap_or_default());
                give("class", None, &|| Cells::Bytes(details(scores).map(class).collect()));
                give("probabilities", Some(labels.len()), &values);
            }
            Output::Ranking(ranking) => {
                let items = || details(scores).flat_map(|detail| detail.items.iter());
                give("items", Some(ranking.k()), &|| {
                    Cells::Bytes(items().map(|item| bytes(&item.key)).collect())
                });
                let label = |label: Option<&str>| bytes(label.unwrap_or_default());
                give("item_labels", Some(ranking.k()), &|| {
                    Cells::Bytes(items().map(|item| label(item.label.as_deref())).collect())
                });
                give("item_scores", Some(ranking.k()), &|| {
                    Cells::Fp32(items().map(|item| item.score).collect())
                });
            }
            Output::Embedding => give("embedding", Some(self.scorer.engine().columns()), &values),
        }
        give(REASONS, None, &|| Cells::Bytes(scores.iter().map(reasons).collect()));
        tensors
    }
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn details(scores: &[RowScore]) -> impl Iterator<Item = &Detail> {
    scores.iter().filter_map(|(_, detail)| detail.as_deref())
}

/// `{"predictionScore":..,"topPredictors":[..]}`; without predictors where time ran out.
fn reasons((score, detail): &RowScore) -> Bytes {
    let mut text = format!("{{\"predictionScore\":{score}");
    if let Some(reasons) = detail.as_ref().and_then(|detail| detail.reasons.as_ref()) {
        text.push_str(",\"topPredictors\":");
        reasons.push_json(&mut text);
    }
    text.push('}');
    text.into()
}

/// The outputs of a kind of model, but reasons.
fn ports(output: &Output, columns: usize) -> Vec<Port> {
    let port = |name: &str, datatype, columns: Option<usize>| {
        let shape = std::iter::once(-1).chain(columns.map(signed)).collect();
        Port { name: name.into(), datatype, shape }
    };
    let mut ports = vec![port("score", Datatype::Fp32, None)];
    match output {
        Output::Score => {}
        Output::Classes(labels) => {
            ports.push(port("class", Datatype::Bytes, None));
            ports.push(port("probabilities", Datatype::Fp32, Some(labels.len())));
        }
        Output::Ranking(ranking) => {
            ports.push(port("items", Datatype::Bytes, Some(ranking.k())));
            ports.push(port("item_labels", Datatype::Bytes, Some(ranking.k())));
            ports.push(port("item_scores", Datatype::Fp32, Some(ranking.k())));
        }
        Output::Embedding => ports.push(port("embedding", Datatype::Fp32, Some(columns))),
    }
    ports
}

impl Input {
    /// Rows that are to be scored.
    pub fn rows(&self) -> usize {
        match self {
            Self::Features { rows, .. } => *rows,
            Self::Records(records) => records.len(),
        }
    }
}

impl Served {
    /// Which of the inputs a tensor is: `true` for features, `false` for records.
    pub fn takes_features(&self, name: &str, datatype: &str) -> Result<bool, Fault> {
        let port = self.inputs.iter().find(|port| *port.name == *name && port.datatype.name() == datatype);
        let known = || {
            let ports = self.inputs.iter();
            let known = ports.map(|port| format!("`{}` ({})", port.name, port.datatype.name()));
            known.collect::<Vec<_>>().join(" or ")
        };
        port.map(|port| port.datatype == Datatype::Fp32).ok_or_else(|| {
            Fault::invalid(format!("no input `{name}` of type {datatype}: this model takes {}", known()))
        })
    }
}
