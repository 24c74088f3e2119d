//! `infer` of the inference protocol: JSON, and binary tensors behind it.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::Shared;
use super::super::fault::Fault;
use super::super::served::{Ask, Input, Served};
use super::super::tensors::{Cells, Tensor, byte_elements, elements, feature_rows, floats, record_rows};
use super::{JSON, Reply, json_data};

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

#[derive(Deserialize)]
struct Request<'a> {
    id: Option<String>,
    #[serde(default)]
    parameters: RequestParameters,
    #[serde(borrow, deserialize_with = "json_data::few")]
    inputs: Vec<InputTensor<'a>>,
    #[serde(default, deserialize_with = "json_data::few")]
    outputs: Vec<Wanted>,
}

/// Others, such as those of sequences, mean nothing here.
#[derive(Default, Deserialize)]
struct RequestParameters {
    #[serde(default)]
    explain: bool,
    #[serde(default)]
    binary_data_output: bool,
    /// Microseconds.
    timeout: Option<u64>,
}

#[derive(Deserialize)]
struct InputTensor<'a> {
    name: String,
    #[serde(deserialize_with = "json_data::few")]
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: TensorParameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Wanted {
    name: Box<str>,
    #[serde(default)]
    parameters: TensorParameters,
}

#[derive(Default, Deserialize)]
struct TensorParameters {
    binary_data_size: Option<usize>,
    binary_data: Option<bool>,
    classification: Option<u64>,
    shared_memory_region: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<OutputTensor<'a>>,
}

#[derive(Serialize)]
struct OutputTensor<'a> {
    name: &'static str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Elements<'a>>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// The cells of a tensor as JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Elements<'a> {
    Numbers(&'a [f32]),
    Texts(Vec<&'a str>),
}

impl<'a> Elements<'a> {
    fn of(cells: &'a Cells) -> Self {
        match cells {
            Cells::Fp32(numbers) => Self::Numbers(numbers),
            // What models say is text.
            Cells::Bytes(texts) => {
                Self::Texts(texts.iter().map(|text| std::str::from_utf8(text).unwrap_or_default()).collect())
            }
        }
    }
}

impl TensorParameters {
    fn check(&self, tensor: &str) -> Result<(), Fault> {
        if self.shared_memory_region.is_some() {
            return Err(Fault::invalid(format!("`{tensor}`: no memory is shared with this server")));
        }
        if self.classification.is_some_and(|classes| classes > 0) {
            let what =
                "`classification` is not spoken here; models with classes give `class` and `probabilities`";
            return Err(Fault::invalid(format!("`{tensor}`: {what}")));
        }
        Ok(())
    }
}

/// Reads a request, scores it and writes the answer. `header_length` is where its JSON ends.
pub(super) async fn infer(
    shared: &Shared,
    served: &Served,
    header_length: Option<usize>,
    mut body: Bytes,
    budget: Duration,
) -> Result<Reply, Fault> {
    let binary = match header_length {
        Some(length) if length > body.len() => {
            return Err(Fault::invalid("`Inference-Header-Content-Length` is more than the body has"));
        }
        Some(length) => body.split_off(length),
        None => Bytes::new(),
    };
    let request: Request<'_> =
        serde_json::from_slice(&body).map_err(|error| Fault::invalid(format!("the request: {error}")))?;
    let input = input(shared, served, &request.inputs, binary)?;
    for wanted in &request.outputs {
        wanted.parameters.check(&wanted.name)?;
    }
    let asked = request.parameters.timeout.filter(|micros| *micros > 0).map(Duration::from_micros);
    let ask = Ask {
        input,
        explain: request.parameters.explain,
        outputs: request.outputs.iter().map(|wanted| wanted.name.clone()).collect(),
        budget: asked.map_or(budget, |asked| asked.min(budget)),
    };
    let tensors = shared.infer(served, ask).await?;
    let is_binary = |tensor: &Tensor| {
        let wanted = request.outputs.iter().find(|wanted| *wanted.name == *tensor.name);
        let own = wanted.and_then(|wanted| wanted.parameters.binary_data);
        own.unwrap_or(request.parameters.binary_data_output)
    };
    Ok(written(served, request.id.as_deref(), &tensors, is_binary))
}

/// The one input; its binary form is the next part of what follows the JSON.
fn input(
    shared: &Shared,
    served: &Served,
    inputs: &[InputTensor<'_>],
    binary: Bytes,
) -> Result<Input, Fault> {
    let [tensor] = inputs else {
        let message = format!("a request has one input, features or records; this one has {}", inputs.len());
        return Err(Fault::invalid(message));
    };
    let name = tensor.name.as_str();
    tensor.parameters.check(name)?;
    let features = served.takes_features(name, &tensor.datatype)?;
    let (shape, count) = elements(name, &tensor.shape)?;
    let rows = if features {
        feature_rows(name, &shape, served.width(), shared.limits.rows)?
    } else {
        record_rows(name, &shape, shared.limits.rows)?
    };
    let fault = |what: &str| Err(Fault::invalid(format!("input `{name}`: {what}")));
    match (tensor.parameters.binary_data_size, tensor.data) {
        (Some(size), None) if size != binary.len() => {
            fault(&format!("`binary_data_size` is {size}, and {} bytes follow the JSON", binary.len()))
        }
        (Some(_), None) if features => Ok(Input::Features { cells: floats(name, &binary, count)?, rows }),
        (Some(_), None) => Ok(Input::Records(byte_elements(name, binary, count)?)),
        (None, Some(_)) if !binary.is_empty() => {
            fault("bytes follow the JSON, and no `binary_data_size` tells of them")
        }
        (None, Some(data)) if features => {
            Ok(Input::Features { cells: json_data::floats(name, data, &shape)?, rows })
        }
        (None, Some(data)) => Ok(Input::Records(json_data::records(name, data, count)?)),
        (Some(_), Some(_)) => fault("`data` and `binary_data_size` at once"),
        (None, None) => fault("neither `data` nor `binary_data_size`"),
    }
}

fn written(
    served: &Served,
    id: Option<&str>,
    tensors: &[Tensor],
    is_binary: impl Fn(&Tensor) -> bool,
) -> Reply {
    let mut binary = Vec::new();
    let mut some = false;
    let mut outputs = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let Tensor { name, shape, cells } = tensor;
        let mut output =
            OutputTensor { name, datatype: cells.datatype().name(), shape, parameters: None, data: None };
        if is_binary(tensor) {
            let own = cells.to_binary();
            output.parameters = Some(BinarySize { binary_data_size: own.len() });
            binary.extend(own);
            some = true;
        } else {
            output.data = Some(Elements::of(cells));
        }
        outputs.push(output);
    }
    let answer = Answer { model_name: &served.name, model_version: &served.version, id, outputs };
    let mut reply = Reply::json(&answer);
    if some {
        reply.header_length = Some(reply.body.len());
        reply.body.extend(binary);
    }
    reply.media = if some { OCTETS } else { JSON };
    reply
}
