//! Which operators run, and what to do in place of those that do not.

use std::collections::BTreeSet;

use tract_onnx::pb::GraphProto;

use super::OnnxError;

/// Domains whose operators are those of ONNX.
const DOMAINS: [&str; 3] = ["", "ai.onnx", "ai.onnx.ml"];

/// Refuses the first operator that the engine does not know.
pub(super) fn check(graph: &GraphProto) -> Result<(), OnnxError> {
    let known = tract_onnx::onnx().op_register.0;
    let used: BTreeSet<(&str, &str)> =
        graph.node.iter().map(|node| (node.op_type.as_str(), node.domain.as_str())).collect();
    for (operator, domain) in used {
        if !DOMAINS.contains(&domain) {
            return Err(OnnxError::Domain { operator: operator.to_owned(), domain: domain.to_owned() });
        }
        if !known.contains_key(operator) {
            return Err(OnnxError::Operator(operator.to_owned()));
        }
    }
    Ok(())
}

/// What people can do who meet this operator.
pub(super) fn instead(operator: &str) -> &'static str {
    match operator {
        "ZipMap" => "export with `zipmap=False` and name the tensor of probabilities as output",
        "Scaler" | "Normalizer" => "write it as `scale` in the feature spec",
        "Imputer" => "write it as `impute` in the feature spec",
        "OneHotEncoder" => "write it as `oneHot` in the feature spec",
        "LabelEncoder" | "CategoryMapper" => {
            "write it as `ordinal` in the feature spec, or name the tensor of probabilities as output"
        }
        "Binarizer" => "write it as `bucket` in the feature spec",
        "StringNormalizer" | "TfIdfVectorizer" | "Tokenizer" | "StringConcat" | "StringSplit" => {
            "write it as `normalize` and `ngrams` in the feature spec"
        }
        "ArrayFeatureExtractor" | "DictVectorizer" | "FeatureVectorizer" | "CastMap" => {
            "let the feature spec make the row of numbers that the model takes"
        }
        "SVMClassifier" | "SVMRegressor" => "export a linear model as MatMul and Add, or trees",
        "LinearRegressor" => "export it as MatMul and Add",
        "If" | "Loop" | "Scan" => "export the model without control flow",
        _ => "export the model without it",
    }
}
