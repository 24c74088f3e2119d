//! `infer` of the inference protocol: JSON, and binary tensors behind it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::Shared;
use super::super::fault::Fault;
use super::super::served::{Ask, Input, Served};
use super::super::tensors::{Announced, Cells, Tensor, check_parameters, only};
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
        let classification = self.classification.is_some_and(|classes| classes > 0);
        check_parameters(tensor, self.shared_memory_region.is_some(), classification)
    }
}

/// Reads a request, scores it and writes the answer. `header_length` is where its JSON ends.
pub(super) async fn infer(
    shared: &Shared,
    served: &Arc<Served>,
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
    let InputTensor { name, shape, datatype, parameters, data } = only(inputs)?;
    parameters.check(name)?;
    let input = Announced::new(served, name, datatype, shape, shared.limits.rows)?;
    match (parameters.binary_data_size, *data) {
        (Some(size), None) if size != binary.len() => {
            let what = format!("`binary_data_size` is {size}, and {} bytes follow the JSON", binary.len());
            Err(input.fault(&what))
        }
        (Some(_), None) => input.binary(binary),
        (None, Some(_)) if !binary.is_empty() => {
            Err(input.fault("bytes follow the JSON, and no `binary_data_size` tells of them"))
        }
        (None, Some(data)) if input.features => {
            Ok(Input::Features { cells: json_data::floats(name, data, &input.shape)?, rows: input.rows })
        }
        (None, Some(data)) => Ok(Input::Records(json_data::records(name, data, input.count)?)),
        (Some(_), Some(_)) => Err(input.fault("`data` and `binary_data_size` at once")),
        (None, None) => Err(input.fault("neither `data` nor `binary_data_size`")),
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
