//! What operators ask about policies and rollouts, on the socket of the process.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get as on_get, post as on_post};
use axum::{Json, Router};
use foregate_filters::units::TimeSpan;
use log::Level;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::clock;
use crate::distribution::Distribution;
use crate::event::event;
use crate::revision::{Content, Revision};
use crate::rollout::check_steps;
use crate::stream::offering::one_line;

/// Why a request is refused: the status, and a sentence.
type Refusal = (StatusCode, String);
type Answer = Result<Json<Value>, Refusal>;

/// A rollout that is wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    pub revision: String,
    /// Per cent; those of the configuration where absent.
    pub steps: Option<Vec<f64>>,
    pub interval: Option<TimeSpan>,
}

/// A revision that is wanted back; the one before this where absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Back {
    pub revision: Option<String>,
}

/// The routes of policies. They are for the socket of operators.
pub fn routes(distribution: Arc<Distribution>) -> Router {
    Router::new()
        .route("/policies", on_get(async |State(it): State<Arc<Distribution>>| Json(status(&it))))
        .route("/policies/revisions/{id}", on_get(revision))
        .route("/policies/rollout", on_post(begin))
        .route("/policies/pause", on_post(async |State(it): State<Arc<Distribution>>| pause(&it, true)))
        .route("/policies/resume", on_post(async |State(it): State<Arc<Distribution>>| pause(&it, false)))
        .route("/policies/revert", on_post(revert))
        .with_state(distribution)
}

/// Everything that `foregate-control status` shows.
fn status(it: &Distribution) -> Value {
    let plan = it.offering.plan();
    let sources: Vec<Value> = it
        .board
        .states()
        .iter()
        .map(|state| {
            let tree = state.tree.as_ref();
            json!({
                "name": &*state.place.name,
                "revision": tree.map(|tree| &tree.revision),
                "signer": tree.and_then(|tree| tree.signer.as_ref()),
                "time": tree.and_then(|tree| tree.time),
                "files": tree.map_or(0, |tree| tree.files.len()),
                "seen": state.seen.as_secs(),
                "faults": state.fault.as_ref().map(|(since, fault)| json!({
                    "since": since.as_secs(),
                    "diagnostics": fault.0.iter().map(one_line).collect::<Vec<_>>(),
                })),
            })
        })
        .collect();
    let warnings = plan.current.as_ref().and_then(|id| it.offering.revision(id));
    let warnings: Vec<String> = warnings.iter().flat_map(|it| &it.warnings).map(one_line).collect();
    let rollout = plan.rollout.as_ref().map(|rollout| {
        let evidence = it.offering.evidence();
        let tally = |id: &str| {
            let tally = evidence.of(id);
            json!({ "requests": tally.requests, "refused": tally.refused, "failed": tally.failed })
        };
        json!({
            "revision": rollout.revision,
            "percent": rollout.percent(),
            "steps": rollout.steps,
            "paused": rollout.paused,
            "since": rollout.since.as_secs(),
            "interval": rollout.interval.as_secs_f64(),
            "took": evidence.took.len(),
            "refused": evidence.refused.len(),
            "leftOut": evidence.left_out.len(),
            "new": tally(&rollout.revision),
            "old": tally(plan.current.as_deref().unwrap_or_default()),
        })
    });
    json!({
        "sources": sources,
        "current": plan.current,
        "rollout": rollout,
        "reverted": plan.reverted.as_ref().map(|reverted| json!({
            "revision": reverted.revision,
            "to": reverted.to,
            "reason": reverted.reason,
            "at": reverted.at.as_secs(),
        })),
        "refused": it.offering.refused().map(|refused| json!({
            "revision": refused.id,
            "at": refused.at.as_secs(),
            "diagnostics": refused.diagnostics.iter().map(one_line).collect::<Vec<_>>(),
        })),
        "warnings": warnings,
        "revisions": it.shelf.labels(),
        "proxies": it.proxies.all(),
    })
}

/// The parts of a revision: documents with their text, files with their digests alone, since some are secrets.
pub fn parts(revision: &Revision) -> Value {
    let parts: Vec<Value> = revision
        .resources
        .values()
        .map(|resource| match &resource.content {
            Content::Document { path, line, text } => json!({
                "name": &*resource.name, "version": &*resource.version,
                "path": &**path, "line": line, "text": &**text,
            }),
            Content::File(_) => json!({ "name": &*resource.name, "version": &*resource.version }),
        })
        .collect();
    json!({ "id": revision.label.id, "parts": parts })
}

async fn revision(State(it): State<Arc<Distribution>>, Path(id): Path<String>) -> Answer {
    let revision = load(&it, &id).await?;
    Ok(Json(parts(&revision)))
}

/// A revision that is in use, or kept.
async fn load(it: &Arc<Distribution>, id: &str) -> Result<Arc<Revision>, Refusal> {
    if let Some(revision) = it.offering.revision(id) {
        return Ok(revision);
    }
    let (shelf, wanted) = (Arc::clone(&it.shelf), id.to_owned());
    let read = spawn_blocking(move || shelf.read(&wanted)).await;
    let defect = |_| (StatusCode::INTERNAL_SERVER_ERROR, "a defect while reading the revision".to_owned());
    read.map_err(defect)?.map(Arc::new).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(one_line).collect();
        (StatusCode::CONFLICT, lines.join("\n"))
    })
}

fn conflict(message: impl Into<String>) -> Refusal {
    (StatusCode::CONFLICT, message.into())
}

async fn begin(State(it): State<Arc<Distribution>>, Json(wanted): Json<Wanted>) -> Answer {
    let spec = &it.offering.spec;
    let steps = wanted.steps.unwrap_or_else(|| spec.steps.clone());
    check_steps(&steps).map_err(conflict)?;
    let interval = wanted.interval.map_or(spec.interval.0, |interval| interval.0);
    let revision = load(&it, &wanted.revision).await?;
    event(Level::Info, "rollout asked for", &[("revision", wanted.revision.as_str().into())]);
    it.offering.begin(revision, &steps, interval, clock::now().unix);
    Ok(Json(status(&it)))
}

fn pause(it: &Distribution, paused: bool) -> Answer {
    if !it.offering.pause(paused, clock::now().unix) {
        return Err(conflict("no revision is being rolled out"));
    }
    event(Level::Info, if paused { "rollout paused" } else { "rollout resumed" }, &[]);
    Ok(Json(status(it)))
}

async fn revert(State(it): State<Arc<Distribution>>, Json(back): Json<Back>) -> Answer {
    let now = clock::now().unix;
    let reason = "an operator asked for it";
    let id = match back.revision {
        Some(id) => id,
        // What is not in force everywhere is given up; else it is the one before that goes back.
        None if it.offering.abort(reason, now) => return Ok(Json(status(&it))),
        None => {
            let current = it.offering.plan().current;
            let labels = it.shelf.labels();
            let at = labels.iter().position(|label| current.as_deref() == Some(&*label.id));
            let before = at.and_then(|at| labels.get(at + 1));
            before.map(|label| label.id.clone()).ok_or_else(|| conflict("no earlier revision is kept"))?
        }
    };
    let revision = load(&it, &id).await?;
    event(Level::Info, "revert asked for", &[("revision", id.as_str().into())]);
    it.offering.set(revision, reason, now);
    Ok(Json(status(&it)))
}
