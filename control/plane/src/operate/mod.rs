//! What operators ask the running process: HTTP on a unix socket in its state folder.

pub mod commands;
pub mod socket;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get as on_get, post as on_post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foregate_filters::units::TimeSpan;
use log::Level;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::attest::join::Tokens;
use crate::attest::parse_path;
use crate::authority::Authority;
use crate::authority::bundle::Bundle;
use crate::clock::{self, rfc3339};
use crate::event::event;

/// Letters of a line of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// What the routes below speak for.
#[derive(Clone, Debug)]
pub struct Operated {
    pub authority: Arc<Authority>,
    pub tokens: Option<Arc<Tokens>>,
}

/// A token that is wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    /// Such as `ns/crm/sa/leads`.
    pub identity: String,
    pub expires: TimeSpan,
    pub uses: u32,
}

/// Why a request is refused: the status, and a sentence.
type Refused = (StatusCode, String);

/// The routes of authority and tokens. Other parts merge their own.
pub fn routes(operated: Operated) -> Router {
    Router::new()
        .route("/authority", on_get(async |State(it): State<Operated>| Json(it.authority.status())))
        .route("/authority/roots", on_get(async |State(it): State<Operated>| Json(roots(&it.authority))))
        .route("/authority/rotate", on_post(rotate))
        .route("/authority/withdraw", on_post(withdraw))
        .route("/tokens", on_post(create))
        .with_state(operated)
}

/// The roots in force, in PEM, whenever they are others. Ends with its receivers.
pub fn follow_roots(authority: &Authority) -> watch::Receiver<Option<String>> {
    let mut bundles = authority.bundles();
    let (tell, told) = watch::channel(Some(pem(&bundles.borrow_and_update())));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = bundles.changed() => if changed.is_err() { return },
                () = tell.closed() => return,
            }
            tell.send_replace(Some(pem(&bundles.borrow_and_update())));
        }
    });
    told
}

/// The roots in force, in PEM.
fn roots(authority: &Authority) -> String {
    pem(&authority.bundles().borrow())
}

fn pem(bundle: &Bundle) -> String {
    let mut pem = String::new();
    for root in &bundle.roots {
        let text = STANDARD.encode(root);
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in text.as_bytes().chunks(PEM_LINE) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

#[expect(clippy::needless_pass_by_value, reason = "errors are handed over as `map_err` has them")]
fn refused(error: impl ToString) -> Refused {
    (StatusCode::CONFLICT, error.to_string())
}

async fn rotate(State(operated): State<Operated>) -> Result<Json<Value>, Refused> {
    let from = operated.authority.rotate(clock::now().unix).map_err(refused)?;
    event(Level::Info, "rotation begun", &[("signs", rfc3339(from).into())]);
    Ok(Json(operated.authority.status()))
}

async fn withdraw(
    State(operated): State<Operated>,
    Json(sha256): Json<String>,
) -> Result<Json<Value>, Refused> {
    operated.authority.withdraw(&sha256, clock::now().unix).map_err(refused)?;
    event(Level::Warn, "root withdrawn", &[("sha256", sha256.into())]);
    Ok(Json(operated.authority.status()))
}

async fn create(
    State(operated): State<Operated>,
    Json(wanted): Json<Wanted>,
) -> Result<Json<Value>, Refused> {
    let tokens = operated.tokens.as_ref();
    let tokens = tokens
        .ok_or_else(|| refused("join tokens are not taken: add `joinTokens: {}` to the configuration"))?;
    let path = parse_path(&wanted.identity).map_err(refused)?;
    let (now, life) = (clock::now().unix, wanted.expires.0);
    let token = tokens.create(&path, life, wanted.uses, now).map_err(refused)?;
    let id = operated.authority.id(&path).map_err(refused)?.to_string();
    let expires = rfc3339(now + Duration::from_secs(life.as_secs()));
    let fields = [
        ("spiffe_id", id.as_str().into()),
        ("expires", expires.as_str().into()),
        ("uses", wanted.uses.into()),
    ];
    event(Level::Info, "join token made", &fields);
    Ok(Json(json!({ "token": *token, "spiffeId": id, "expires": expires, "uses": wanted.uses })))
}
