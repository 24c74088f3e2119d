//! `ModelInfer`: typed and raw contents.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::super::Shared;
use super::super::fault::Fault;
use super::super::served::{Ask, Input, Served};
use super::super::tensors::{Announced, Cells, Tensor, check_parameters, only};
use super::{bounds, decode, named};
use crate::protocol::messages::{
    InferParameter, InferTensor, InferTensorContents, ModelInferRequest, ModelInferResponse, Parameter,
};
use crate::protocol::{BUNDLE, framed};

/// Reads a call, scores it and writes the answer, raw where its inputs were.
pub(super) async fn infer(shared: &Shared, message: Bytes, budget: Duration) -> Result<Bytes, Fault> {
    Ok(framed(&score(shared, read(shared, message)?, budget).await?))
}

/// A call, read within bounds.
pub(super) fn read(shared: &Shared, message: Bytes) -> Result<ModelInferRequest, Fault> {
    bounds::check(&message, shared.limits.rows)?;
    decode(message)
}

/// The answer to a call.
pub(super) async fn score(
    shared: &Shared,
    request: ModelInferRequest,
    budget: Duration,
) -> Result<ModelInferResponse, Fault> {
    let served = shared.repository.find(&request.model_name, named(&request.model_version))?;
    let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = request;
    let raw = !raw_input_contents.is_empty();
    let input = input(shared, &served, inputs, raw_input_contents)?;
    for output in &outputs {
        check(&output.name, &output.parameters)?;
    }
    let ask = Ask {
        input,
        explain: explain(&parameters)?,
        outputs: outputs.into_iter().map(|output| output.name.into()).collect(),
        budget: asked(&parameters).map_or(budget, |asked| asked.min(budget)),
    };
    let tensors = shared.infer(&served, ask).await?;
    Ok(written(&served, id, tensors, raw))
}

fn input(
    shared: &Shared,
    served: &Served,
    mut inputs: Vec<InferTensor>,
    raw: Vec<Bytes>,
) -> Result<Input, Fault> {
    let contents = inputs.first_mut().and_then(|input| input.contents.take());
    let InferTensor { name, datatype, shape, parameters, .. } = only(&inputs)?;
    check(name, parameters)?;
    let input = Announced::new(served, name, datatype, shape, shared.limits.rows)?;
    let mut raw = raw.into_iter();
    match (raw.next(), raw.next(), contents) {
        (Some(binary), None, None) => input.binary(binary),
        (None, _, Some(contents)) => {
            let InferTensorContents { fp32_contents, bytes_contents } = contents;
            let found = if input.features { fp32_contents.len() } else { bytes_contents.len() };
            if found != input.count {
                let what = format!("its contents have {found} elements, and its shape {}", input.count);
                return Err(input.fault(&what));
            }
            Ok(if input.features {
                Input::Features { cells: fp32_contents, rows: input.rows }
            } else {
                Input::Records(bytes_contents)
            })
        }
        (Some(_), Some(_), _) => Err(input.fault("more raw contents than inputs")),
        (Some(_), None, Some(_)) => Err(input.fault("contents and raw contents at once")),
        (None, _, None) => Err(input.fault("no contents")),
    }
}

fn check(tensor: &str, parameters: &BTreeMap<String, InferParameter>) -> Result<(), Fault> {
    let asks = |name: &str| parameters.contains_key(name);
    check_parameters(tensor, asks("shared_memory_region"), asks("classification"))
}

fn explain(parameters: &BTreeMap<String, InferParameter>) -> Result<bool, Fault> {
    match parameters.get("explain").map(|parameter| &parameter.choice) {
        None => Ok(false),
        Some(Some(Parameter::Bool(explain))) => Ok(*explain),
        Some(_) => Err(Fault::invalid("the parameter `explain` is true or false")),
    }
}

/// The time that the client gives in its parameters, in microseconds.
fn asked(parameters: &BTreeMap<String, InferParameter>) -> Option<Duration> {
    let micros = match &parameters.get("timeout")?.choice {
        Some(Parameter::Int64(micros)) => u64::try_from(*micros).ok()?,
        Some(Parameter::Uint64(micros)) => *micros,
        _ => return None,
    };
    Some(Duration::from_micros(micros)).filter(|asked| !asked.is_zero())
}

fn written(served: &Served, id: String, tensors: Vec<Tensor>, raw: bool) -> ModelInferResponse {
    let bundle = InferParameter { choice: Some(Parameter::String(served.digest().to_owned())) };
    let mut response = ModelInferResponse {
        model_name: served.name.to_string(),
        model_version: served.version.to_string(),
        id,
        parameters: BTreeMap::from([(BUNDLE.to_owned(), bundle)]),
        outputs: Vec::with_capacity(tensors.len()),
        raw_output_contents: Vec::new(),
    };
    for Tensor { name, shape, cells } in tensors {
        let shape = shape.into_iter().map(|size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        let datatype = cells.datatype().name().to_owned();
        let contents = if raw {
            response.raw_output_contents.push(cells.to_binary().into());
            None
        } else {
            Some(match cells {
                Cells::Fp32(cells) => {
                    InferTensorContents { fp32_contents: cells, bytes_contents: Vec::new() }
                }
                Cells::Bytes(cells) => {
                    InferTensorContents { fp32_contents: Vec::new(), bytes_contents: cells }
                }
            })
        };
        let parameters = BTreeMap::new();
        response.outputs.push(InferTensor { name: name.to_owned(), datatype, shape, parameters, contents });
    }
    response
}
