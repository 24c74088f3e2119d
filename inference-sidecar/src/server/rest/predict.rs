//! `:predict` of TensorFlow Serving: rows of `instances`, or columns of `inputs`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::Shared;
use super::super::fault::{Fault, Kind};
use super::super::served::{Ask, Input, RECORD, Served};
use super::super::tensors::{Cells, Tensor};
use super::{Reply, json_data};

/// The one signature that models here have.
const SIGNATURE: &str = "serving_default";

#[derive(Deserialize)]
struct Request<'a> {
    signature_name: Option<String>,
    #[serde(borrow)]
    instances: Option<&'a RawValue>,
    #[serde(borrow)]
    inputs: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Rows<'a> {
    predictions: Vec<Named<Cell<'a>>>,
}

#[derive(Serialize)]
struct Columns<'a> {
    outputs: Named<Vec<Cell<'a>>>,
}

/// Bytes as JSON has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    b64: String,
}

/// What one instance is.
enum Instance<'a> {
    Features(&'a RawValue),
    Record(Bytes),
}

/// Reads a request, scores it, and answers in the form it was asked in.
pub(super) async fn predict(
    shared: &Shared,
    served: &Arc<Served>,
    body: Bytes,
    budget: Duration,
) -> Result<Reply, Fault> {
    let request: Request<'_> =
        serde_json::from_slice(&body).map_err(|error| Fault::invalid(format!("the request: {error}")))?;
    if request.signature_name.as_deref().is_some_and(|name| name != SIGNATURE) {
        return Err(Fault::invalid(format!("the one signature is `{SIGNATURE}`")));
    }
    let (input, by_row) = match (request.instances, request.inputs) {
        (Some(instances), None) => (rows(shared, served, instances)?, true),
        (None, Some(inputs)) => (columns(shared, served, inputs)?, false),
        _ => return Err(Fault::invalid("a request has `instances` or `inputs`, and not both")),
    };
    let ask = Ask { input, explain: false, outputs: Vec::new(), budget };
    let tensors = shared.infer(served, ask).await?;
    Ok(if by_row {
        Reply::json(&Rows { predictions: predictions(&tensors) })
    } else {
        Reply::json(&Columns { outputs: outputs(&tensors) })
    })
}

/// The instances, which are all features or all records.
fn rows(shared: &Shared, served: &Served, instances: &RawValue) -> Result<Input, Fault> {
    let instances = elements(shared, instances)?;
    let (mut cells, mut records) = (Vec::new(), Vec::new());
    for (place, instance) in instances.iter().enumerate() {
        let fault = |what: String| Fault::invalid(format!("instance {place}: {what}"));
        match told(served, instance).ok_or_else(|| fault("neither features nor a record".to_owned()))? {
            Instance::Features(data) if records.is_empty() => {
                let row = json_data::floats(served.features_name(), data, &[served.width()]);
                cells.extend(row.map_err(|error| fault(error.message))?);
            }
            Instance::Record(record) if cells.is_empty() => records.push(record),
            _ => return Err(fault("features and records in one request".to_owned())),
        }
    }
    if records.is_empty() {
        Ok(Input::Features { cells, rows: instances.len() })
    } else {
        Ok(Input::Records(records))
    }
}

/// One element a row, within the bound of rows.
fn elements<'a>(shared: &Shared, data: &'a RawValue) -> Result<Vec<&'a RawValue>, Fault> {
    let most = shared.limits.rows;
    let elements = json_data::elements(data, most).map_err(|error| Fault::invalid(error.to_string()))?;
    match elements.len() {
        0 => Err(Fault::invalid("the request has no row")),
        rows if rows > most => Err(Fault::new(Kind::TooLarge, format!("a request has at most {most} rows"))),
        _ => Ok(elements),
    }
}

/// What an instance is: an array of features, a record, or an object that names one of the inputs and nothing else.
fn told<'a>(served: &Served, instance: &'a RawValue) -> Option<Instance<'a>> {
    match instance.get().as_bytes().first()? {
        b'[' => Some(Instance::Features(instance)),
        b'"' => json_data::record(instance).map(Instance::Record),
        b'{' => match json_data::alone(instance) {
            Some((name, data)) if name == served.features_name() => Some(Instance::Features(data)),
            Some((name, data)) if name == RECORD => bytes(data).map(Instance::Record),
            Some((name, _)) if name == "b64" => bytes(instance).map(Instance::Record),
            _ => json_data::record(instance).map(Instance::Record),
        },
        _ => None,
    }
}

/// A record: an object, a string that holds one, or its bytes in base64.
fn bytes(data: &RawValue) -> Option<Bytes> {
    match serde_json::from_str::<Encoded>(data.get()) {
        Ok(encoded) => STANDARD.decode(encoded.b64).ok().map(Bytes::from),
        Err(_) => json_data::record(data),
    }
}

/// All rows of the one input, named or not.
fn columns(shared: &Shared, served: &Served, inputs: &RawValue) -> Result<Input, Fault> {
    let features = served.features_name();
    let fault = || {
        Fault::invalid(format!(
            "`inputs` has `{features}`, an array of rows, or `{RECORD}`, an array of records"
        ))
    };
    let (name, data) = if inputs.get().starts_with('{') {
        json_data::alone(inputs).ok_or_else(fault)?
    } else {
        (Cow::Borrowed(features), inputs)
    };
    if !data.get().starts_with('[') {
        return Err(fault());
    }
    let elements = elements(shared, data)?;
    let array_of_rows = elements.iter().all(|element| element.get().starts_with('['));
    if name == features && array_of_rows {
        let shape = [elements.len(), served.width()];
        let cells = json_data::floats(&name, data, &shape)?;
        return Ok(Input::Features { cells, rows: elements.len() });
    }
    // Without a name, what it is tells which it is.
    if name != RECORD && (name != features || inputs.get().starts_with('{')) {
        return Err(fault());
    }
    let records: Option<Vec<Bytes>> = elements.into_iter().map(bytes).collect();
    records.map(Input::Records).ok_or_else(fault)
}

/// What a tensor has for one row: an array where it has columns.
#[derive(Serialize)]
#[serde(untagged)]
enum Cell<'a> {
    Number(f32),
    Numbers(&'a [f32]),
    Text(Cow<'a, str>),
    Texts(Vec<Cow<'a, str>>),
}

/// Of one output its value alone, of several an object with their names.
#[derive(Serialize)]
#[serde(untagged)]
enum Named<T> {
    Alone(T),
    Many(BTreeMap<&'static str, T>),
}

impl<T> Named<T> {
    fn of<'a>(tensors: &'a [Tensor], value: impl Fn(&'a Tensor) -> T) -> Self {
        match tensors {
            [tensor] => Self::Alone(value(tensor)),
            many => Self::Many(many.iter().map(|tensor| (tensor.name, value(tensor))).collect()),
        }
    }
}

/// Row by row.
fn predictions(tensors: &[Tensor]) -> Vec<Named<Cell<'_>>> {
    let rows = tensors.first().map_or(0, rows_of);
    (0..rows).map(|row| Named::of(tensors, |tensor| cell(tensor, row))).collect()
}

/// Tensor by tensor.
fn outputs(tensors: &[Tensor]) -> Named<Vec<Cell<'_>>> {
    Named::of(tensors, |tensor| (0..rows_of(tensor)).map(|row| cell(tensor, row)).collect())
}

fn rows_of(tensor: &Tensor) -> usize {
    tensor.shape.first().copied().unwrap_or(0)
}

fn cell(tensor: &Tensor, row: usize) -> Cell<'_> {
    let columns = tensor.shape.get(1).copied();
    let width = columns.unwrap_or(1);
    let range = row * width..(row + 1) * width;
    match &tensor.cells {
        Cells::Fp32(numbers) => match (numbers.get(range).unwrap_or_default(), columns) {
            ([number], None) => Cell::Number(*number),
            (numbers, _) => Cell::Numbers(numbers),
        },
        Cells::Bytes(texts) => match (texts.get(range).unwrap_or_default(), columns) {
            ([text], None) => Cell::Text(String::from_utf8_lossy(text)),
            (texts, _) => Cell::Texts(texts.iter().map(|text| String::from_utf8_lossy(text)).collect()),
        },
    }
}
