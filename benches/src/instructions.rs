//! Parts of a request, a fixed number of times, for a program that counts instructions.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use foregate_inference::bundle::Bundle;
use foregate_inference::features::Reading;
use foregate_policy::route::Route;
use foregate_policy::routes::RouteTable;
use http::request;
use jsonwebtoken::Algorithm;

use crate::keys::Issuer;
use crate::micro::{self, CLOCK, LEAD, NOW};
use crate::policies::{self, ANONYMOUS, HOST, LIMITED, PORT, PROTECTED, TOKEN};

/// How often each part is prepared anew: tables are hashed with other keys then, which makes a difference.
const ROUNDS: usize = 8;
/// How often it runs each time. `tests/it/instructions.rs` divides by both.
const TIMES: u32 = 40;
/// Routes among which one is found.
const ROUTES: usize = 100;

type Count = fn(&Route, &request::Parts);

/// Runs every part; what is counted are the functions whose names begin with `count_`.
pub fn run() -> Result<()> {
    let issuer = Issuer::new(Algorithm::ES256)?;
    let head = micro::head(&issuer.token(NOW)?)?;
    let snapshot = policies::snapshot(ROUTES, ANONYMOUS, &micro::materials(&issuer, true)?)?;
    policies::route(&snapshot, &head)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference-sidecar/bundles/lead-score");
    let bundle = Bundle::load(&folder)?;
    let row = bundle.plan.extract(LEAD, &[], Reading::default())?.rows;
    ensure!(row.len() == bundle.plan.width(), "{} columns", row.len());
    for _ in 0..ROUNDS {
        count_route(&snapshot.routes, &head);
        count_extract(&bundle);
        count_score(&bundle, &row);
        for (policy, count) in
            [(TOKEN, count_token as Count), (LIMITED, count_limit), (PROTECTED, count_chain)]
        {
            let snapshot = policies::snapshot(1, policy, &micro::materials(&issuer, true)?)?;
            let route = policies::route(&snapshot, &head)?;
            // The first request verifies the token, and must be let through.
            micro::judge(&route.chain, &head, &mut micro::context(CLOCK), None)?;
            count(&route, &head);
        }
    }
    Ok(())
}

#[inline(never)]
fn count_route(routes: &RouteTable, head: &request::Parts) {
    for _ in 0..TIMES {
        black_box(routes.find(PORT, false, HOST, black_box(head)).is_ok());
    }
}

#[inline(never)]
fn count_token(route: &Route, head: &request::Parts) {
    judge(route, head);
}

#[inline(never)]
fn count_limit(route: &Route, head: &request::Parts) {
    judge(route, head);
}

#[inline(never)]
fn count_chain(route: &Route, head: &request::Parts) {
    judge(route, head);
}

#[inline(never)]
fn count_extract(bundle: &Bundle) {
    for _ in 0..TIMES {
        black_box(bundle.plan.extract(black_box(LEAD), &[], Reading::default()).is_ok());
    }
}

#[inline(never)]
fn count_score(bundle: &Bundle, row: &[f32]) {
    let mut scores = Vec::with_capacity(bundle.model.columns());
    for _ in 0..TIMES {
        scores.clear();
        black_box(bundle.model.run(black_box(row), 1, &mut scores).is_ok());
    }
}

/// The whole chain, each time a microsecond later, so that the limit admits all.
fn judge(route: &Route, head: &request::Parts) {
    for number in 1..=TIMES {
        let mut ctx = micro::context(CLOCK + Duration::from_micros(number.into()));
        black_box(micro::settle(route.chain.run_head(black_box(head), &mut ctx)).is_some());
    }
}
