//! `AdmissionReviews`: what the API server asks, and what it is answered.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

/// The version that is spoken.
const API_VERSION: &str = "admission.k8s.io/v1";

/// A question, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Repeated in the answer.
    pub uid: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub operation: String,
    #[serde(default)]
    pub sub_resource: Option<String>,
    #[serde(default)]
    pub object: Value,
    #[serde(default)]
    pub old_object: Value,
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Operations of a JSON patch.
    pub patch: Vec<Value>,
    /// Why it is refused, in one text of several lines.
    pub refusal: Option<String>,
    pub warnings: Vec<String>,
}

/// Warnings longer than this are cut by the API server.
const MAX_WARNING: usize = 256;
/// More warnings than this are not shown.
const MAX_WARNINGS: usize = 16;

/// Reads a question.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(body: &[u8]) -> Result<Asked, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Review {
        api_version: String,
        kind: String,
        request: Asked,
    }
    let review: Review =
        serde_json::from_slice(body).map_err(|error| format!("this is no AdmissionReview: {error}"))?;
    if review.kind != "AdmissionReview" || review.api_version != API_VERSION {
        return Err(format!(
            "{} {} is not spoken; {API_VERSION} AdmissionReview is",
            review.api_version, review.kind
        ));
    }
    Ok(review.request)
}

impl Answer {
    pub fn refused(why: impl Into<String>) -> Self {
        Self { refusal: Some(why.into()), ..Self::default() }
    }

    pub fn warned(warning: impl Into<String>) -> Self {
        Self { warnings: vec![warning.into()], ..Self::default() }
    }

    /// The whole review.
    pub fn review(&self, uid: &str) -> Value {
        let mut response = json!({ "uid": uid, "allowed": self.refusal.is_none() });
        if let Some(fields) = response.as_object_mut() {
            if let Some(why) = &self.refusal {
                let status = json!({ "status": "Failure", "reason": "Invalid", "code": 422, "message": why });
                fields.insert("status".to_owned(), status);
            } else if !self.patch.is_empty() {
                let patch = STANDARD.encode(json!(self.patch).to_string());
                fields.insert("patchType".to_owned(), "JSONPatch".into());
                fields.insert("patch".to_owned(), patch.into());
            }
            if !self.warnings.is_empty() {
                let warnings: Vec<String> =
                    self.warnings.iter().take(MAX_WARNINGS).map(|text| cut(text)).collect();
                fields.insert("warnings".to_owned(), warnings.into());
            }
        }
        json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response })
    }
}

/// One line within the bounds of a header.
fn cut(text: &str) -> String {
    let line = text.replace(['\n', '\r'], " ");
    match line.char_indices().nth(MAX_WARNING - 3) {
        Some((end, _)) if line.chars().count() > MAX_WARNING => {
            format!("{}...", line.get(..end).unwrap_or_default())
        }
        _ => line,
    }
}
