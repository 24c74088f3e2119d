//! What another process may answer for a bundle, and what is refused.

use bytes::Bytes;
use foregate_inference::bundle::Bundle;
use foregate_inference::protocol::messages::{
    InferParameter, InferTensor, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, Parameter,
    TensorMetadata,
};
use foregate_inference::protocol::{BUNDLE, unframed};
use foregate_inference::remote::{AnswerError, Contract};
use prost::Message;

use crate::serving::bundles;

fn contract(model: &str) -> Option<Contract> {
    Contract::of(&Bundle::load(&bundles().join(model)).unwrap())
}

/// The answer of a server with these cells, in this shape.
fn answer(contract: &Contract, tensor: &str, shape: &[i64], cells: &[f32]) -> ModelInferResponse {
    ModelInferResponse {
        model_name: contract.name.to_string(),
        model_version: contract.version.to_string(),
        id: String::new(),
        parameters: [(BUNDLE.to_owned(), parameter(&contract.digest))].into(),
        outputs: vec![InferTensor {
            name: tensor.to_owned(),
            datatype: "FP32".to_owned(),
            shape: shape.to_vec(),
            ..InferTensor::default()
        }],
        raw_output_contents: vec![Bytes::from(
            cells.iter().flat_map(|cell| cell.to_le_bytes()).collect::<Vec<_>>(),
        )],
    }
}

fn parameter(digest: &str) -> InferParameter {
    InferParameter { choice: Some(Parameter::String(digest.to_owned())) }
}

#[test]
fn a_question_names_model_version_and_the_one_tensor_that_has_all_columns() {
    let contract = contract("case-queue").unwrap();
    let asked = unframed(contract.ask(&[1.0, 2.0], 2)).unwrap();
    let asked = ModelInferRequest::decode(asked).unwrap();
    assert_eq!((asked.model_name.as_str(), asked.model_version.as_str()), ("case-queue", "1.0.0"));
    assert_eq!(
        asked.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(),
        ["probabilities"]
    );
    assert_eq!((asked.inputs.len(), asked.inputs[0].shape[0]), (1, 2));
    assert_eq!(asked.raw_input_contents, [&[0, 0, 128, 63, 0, 0, 0, 64][..]]);
}

#[test]
fn probabilities_of_all_classes_are_taken_where_they_sum_to_one() {
    let contract = contract("case-queue").unwrap();
    let good = [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.75, 0.0];
    let read = |shape: &[i64], cells: &[f32]| {
        let message = answer(&contract, "probabilities", shape, cells).encode_to_vec();
        assert!(message.len() <= contract.most(2));
        contract.read(message.into(), 2)
    };
    assert_eq!(read(&[2, 5], &good), Ok(good.to_vec()));
    let shape = |found: &[i64]| Err(AnswerError::Shape { found: found.to_vec(), rows: 2, columns: 5 });
    for wrong in [&[2_i64][..], &[10], &[5, 2], &[1, 10], &[3, 5], &[2, 5, 1], &[-2, 5], &[2, -5], &[]] {
        assert_eq!(read(wrong, &good), shape(wrong), "{wrong:?}");
    }
    assert_eq!(read(&[2, 5], &good[..5]), Err(AnswerError::Bytes { found: 20, wanted: 40 }));
    let mut bad = good;
    bad[7] = 0.5;
    assert_eq!(read(&[2, 5], &bad), Err(AnswerError::Sum));
    bad[7] = f32::NEG_INFINITY;
    assert_eq!(read(&[2, 5], &bad), Err(AnswerError::NotFinite));
}

#[test]
fn another_model_or_version_is_named_and_control_characters_are_not() {
    let contract = contract("lead-score").unwrap();
    let read = |change: fn(&mut ModelInferResponse)| {
        let mut message = answer(&contract, "score", &[1], &[0.5]);
        change(&mut message);
        contract.read(message.encode_to_vec().into(), 1).map_err(|error| error.to_string())
    };
    assert_eq!(read(|_| ()), Ok(vec![0.5]));
    assert_eq!(
        read(|it| it.model_version = "2\n\u{1b}[1m".to_owned() + &"9".repeat(1_000)),
        Err(format!("the sidecar has version 2[1m{}, not 1.0.0", "9".repeat(60)))
    );
    assert_eq!(read(|it| it.model_name.clear()), Err("the sidecar answered for model ``".to_owned()));
    // The same name and version, and another content; or nothing said of it.
    let other = read(|it| drop(it.parameters.insert(BUNDLE.to_owned(), parameter(&"0".repeat(64)))));
    let told = "the sidecar has another bundle under this name and version: its model.yaml has SHA-256 0000";
    assert!(other.unwrap_err().starts_with(told));
    let untold = read(|it| it.parameters.clear()).unwrap_err();
    assert!(untold.starts_with("the sidecar does not tell which bundle it has"), "{untold}");
    let raw = "the sidecar answered without the one raw FP32 tensor `score`".to_owned();
    assert_eq!(read(|it| it.outputs.push(it.outputs[0].clone())), Err(raw.clone()));
    assert_eq!(read(|it| it.raw_output_contents.push(Bytes::new())), Err(raw));
    assert_eq!(contract.read(Bytes::from_static(b"\xff\xff"), 1), Err(AnswerError::Malformed));
}

#[test]
fn metadata_must_have_the_version_and_the_tensors() {
    let contract = contract("lead-score").unwrap();
    let bundle = Bundle::load(&bundles().join("lead-score")).unwrap();
    let width = i64::try_from(bundle.plan.width()).unwrap();
    let port = |name: &str, shape: &[i64]| TensorMetadata {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: shape.to_vec(),
    };
    let good = ModelMetadataResponse {
        name: "lead-score".to_owned(),
        versions: vec!["0.9.0".to_owned(), "1.0.0".to_owned()],
        platform: String::new(),
        inputs: vec![port(&bundle.manifest.input.name, &[-1, width])],
        outputs: vec![port("score", &[-1])],
        properties: [(BUNDLE.to_owned(), contract.digest.to_string())].into(),
    };
    let check = |change: fn(&mut ModelMetadataResponse)| {
        let mut told = good.clone();
        change(&mut told);
        contract.check_metadata(told.encode_to_vec().into())
    };
    assert_eq!(check(|_| ()), Ok(()));
    let found = "0.9.0".to_owned();
    assert_eq!(
        check(|it| drop(it.versions.pop())),
        Err(AnswerError::Version { found, wanted: "1.0.0".into() })
    );
    assert_eq!(check(|it| it.properties.clear()), Err(AnswerError::Untold));
    let (found, wanted) = ("other".to_owned(), contract.digest.clone());
    let other = check(|it| drop(it.properties.insert(BUNDLE.to_owned(), "other".to_owned())));
    assert_eq!(other, Err(AnswerError::Bundle { found, wanted }));
    assert_eq!(check(|it| it.inputs[0].shape[1] += 1), Err(AnswerError::Ports));
    assert_eq!(check(|it| it.inputs.clear()), Err(AnswerError::Ports));
    assert_eq!(check(|it| it.outputs[0].name = "embedding".to_owned()), Err(AnswerError::Ports));
    assert_eq!(check(|it| it.name = "churn".to_owned()), Err(AnswerError::Model("churn".to_owned())));
}

#[test]
fn a_model_that_ranks_has_no_contract() {
    assert!(contract("product-next").is_none());
}
