//! A toy CRM: takes leads as Salesforce does, and tells what it received.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

/// Leads that are remembered; the oldest make room.
const MAX_LEADS: usize = 1000;
/// Records of one collection, as Salesforce has it.
const MAX_RECORDS: usize = 200;
/// Headers that are shown: those a gateway sets.
const SHOWN: [&str; 6] =
    ["x-lead-score", "x-lead-score-status", "x-caller", "x-request-id", "traceparent", "x-forwarded-for"];

#[derive(Debug, Default)]
struct Leads {
    last: u32,
    kept: VecDeque<(String, Value)>,
}

type Shared = Arc<Mutex<Leads>>;

/// The CRM, empty.
pub(super) fn router() -> Router {
    Router::new()
        .route("/services/data/v62.0/sobjects/Lead", post(create).get(recent))
        .route("/services/data/v62.0/sobjects/Lead/{id}", get(one))
        .route("/services/data/v62.0/composite/sobjects", post(collection))
        .fallback(async || error(StatusCode::NOT_FOUND, "NOT_FOUND", "The requested resource does not exist"))
        .with_state(Shared::default())
}

impl Leads {
    /// Keeps a lead under a new id.
    fn add(&mut self, lead: Value) -> String {
        self.last = self.last.wrapping_add(1);
        let id = format!("00QFG{:013}", self.last);
        if self.kept.len() == MAX_LEADS {
            self.kept.pop_front();
        }
        self.kept.push_back((id.clone(), lead));
        id
    }
}

fn lock(leads: &Shared) -> MutexGuard<'_, Leads> {
    leads.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn create(State(leads): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(lead @ Value::Object(_)) = serde_json::from_slice::<Value>(&body) else { return not_json() };
    if lead.get("LastName").and_then(Value::as_str).is_none_or(str::is_empty) {
        let message = "Required fields are missing: [LastName]";
        return error(StatusCode::BAD_REQUEST, "REQUIRED_FIELD_MISSING", message);
    }
    let id = lock(&leads).add(lead.clone());
    let received = json!({ "headers": shown(&headers), "body": lead });
    let answer = json!({ "id": id, "success": true, "errors": [], "received": received });
    json(StatusCode::CREATED, &answer)
}

async fn collection(State(leads): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(_) => return not_json(),
    };
    let Some(records) = body.get("records").and_then(Value::as_array) else { return not_json() };
    if records.len() > MAX_RECORDS {
        return error(StatusCode::BAD_REQUEST, "EXCEEDED_ID_LIMIT", "record limit reached");
    }
    let mut leads = lock(&leads);
    let headers = shown(&headers);
    let added = records.iter().map(|record| {
        let id = leads.add(record.clone());
        let received = json!({ "headers": headers, "body": record });
        json!({ "id": id, "success": true, "errors": [], "received": received })
    });
    json(StatusCode::OK, &Value::Array(added.collect()))
}

async fn recent(State(leads): State<Shared>) -> Response {
    let leads = lock(&leads);
    let records: Vec<Value> = leads.kept.iter().rev().take(20).map(|(id, lead)| with_id(id, lead)).collect();
    json(StatusCode::OK, &json!({ "totalSize": leads.kept.len(), "records": records }))
}

async fn one(State(leads): State<Shared>, Path(id): Path<String>) -> Response {
    let leads = lock(&leads);
    match leads.kept.iter().find(|(kept, _)| *kept == id) {
        Some((id, lead)) => json(StatusCode::OK, &with_id(id, lead)),
        None => error(StatusCode::NOT_FOUND, "NOT_FOUND", "The requested resource does not exist"),
    }
}

fn with_id(id: &str, lead: &Value) -> Value {
    let mut record = lead.as_object().cloned().unwrap_or_default();
    record.insert("Id".to_owned(), id.into());
    Value::Object(record)
}

fn shown(headers: &HeaderMap) -> Map<String, Value> {
    let text = |name: &&str| {
        let value = headers.get(*name)?;
        Some(((*name).to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
    };
    SHOWN.iter().filter_map(text).collect()
}

fn not_json() -> Response {
    error(StatusCode::BAD_REQUEST, "JSON_PARSER_ERROR", "The body is not a record in JSON")
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    json(status, &json!([{ "errorCode": code, "message": message }]))
}

fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], format!("{body:#}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::{Leads, MAX_LEADS};
    use serde_json::json;

    #[test]
    fn the_oldest_leads_make_room() {
        let mut leads = Leads::default();
        let first = leads.add(json!({}));
        for _ in 0..MAX_LEADS {
            leads.add(json!({}));
        }
        assert_eq!(leads.kept.len(), MAX_LEADS);
        assert!(leads.kept.iter().all(|(id, _)| *id != first));
        assert_eq!(first.len(), 18);
    }
}
