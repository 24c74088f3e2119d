//! The parts of a request, each alone and on realistic input.

use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use foregate_filters::api_key::key::{Digest, SECRET_BYTES, key, prefix};
use foregate_filters::chain::Chain;
use foregate_filters::context::{Client, RequestContext};
use foregate_filters::edits::splice;
use foregate_filters::expression::{BoolExpression, Environment, Scope};
use foregate_filters::fault::Path;
use foregate_filters::moment::Moment;
use http::{Request, request};
use jsonwebtoken::Algorithm;

use crate::inference;
use crate::keys::{Issuer, SCOPE};
use crate::limits;
use crate::materials::Bench;
use crate::measure::Table;
use crate::memory::resident;
use crate::picks;
use crate::policies::{self, ANONYMOUS, COUNTED, HOST, PORT, PROTECTED, TOKEN};
use crate::schemas;

/// When requests come, in Unix seconds.
pub const NOW: u64 = 1_800_000_000;
/// The same by a clock that only goes on.
pub const CLOCK: Duration = Duration::from_secs(5);
/// Tokens in the cache.
const TOKENS: usize = 100_000;
/// A lead of 1 KiB with every field that the models read.
pub const LEAD: &[u8] = include_bytes!("../compare/lead.json");
/// An access rule of three parts.
const RULE: &str =
    r#""crm.write" in jwt.scopes && request.method == "POST" && request.path.startsWith("/services/data/")"#;

/// Access rules that differ by a number, from 0.
const RULE_OF_PATH: &str = r#"allow: 'request.method == "POST" && request.path.startsWith("/services/data/v60.0/sobjects/TNUMBER/") && "x-request-id" in request.headers'"#;
const RULE_OF_PATTERN: &str = r#"allow: 'pathMatches(request.path, "/services/data/v60.0/sobjects/TNUMBER/{object}") && "x-request-id" in request.headers'"#;
const RULE_OF_STRING: &str =
    r#"allow: 'request.query == "trace=NUMBER" && "x-request-id" in request.headers'"#;
const RULE_OF_HEADER: &str =
    r#"allow: '"x-request-id" in request.headers && request.query != "trace=2" && NUMBER == 0'"#;

/// Measures everything whose name holds `only`.
pub fn run<W: Write>(out: &mut W, only: &str) -> Result<()> {
    let issuer = Issuer::new(Algorithm::ES256)?;
    let head = head(&issuer.token(NOW)?)?;
    let mut table = Table::new(out, only)?;
    routes(&mut table, &issuer, &head)?;
    chains(&mut table, &issuer, &head)?;
    expression(&mut table, &issuer, &head)?;
    rules(&mut table, &issuer, &head)?;
    keys(&mut table, &issuer)?;
    limits::run(&mut table)?;
    picks::run(&mut table)?;
    inference::run(&mut table)?;
    tokens(&mut table, &issuer)?;
    leads(&mut table, &issuer, &head)?;
    schemas::run(&mut table)
}

fn routes<W: Write>(table: &mut Table<'_, W>, issuer: &Issuer, head: &request::Parts) -> Result<()> {
    for count in [1, 20, 1000, 10_000] {
        let snapshot = policies::snapshot(count, ANONYMOUS, &materials(issuer, true)?)?;
        policies::route(&snapshot, head)?;
        let name = format!("route lookup, {count} prefix routes");
        table.row(&name, || snapshot.routes.find(PORT, false, HOST, head).map(|route| route.id))?;
    }
    Ok(())
}

fn chains<W: Write>(table: &mut Table<'_, W>, issuer: &Issuer, head: &request::Parts) -> Result<()> {
    for (name, policy, caches) in [
        ("context alone, nothing required", ANONYMOUS, true),
        ("token verify, ES256, cold", TOKEN, false),
        ("token verify, cached", TOKEN, true),
        ("chain: token (cached), limit, authorize", PROTECTED, true),
        ("chain: rate limit, quota and concurrency together", COUNTED, true),
    ] {
        let snapshot = policies::snapshot(1, policy, &materials(issuer, caches)?)?;
        let route = policies::route(&snapshot, head)?;
        let mut clock = CLOCK;
        judge(&route.chain, head, &mut context(clock), None)?;
        table.row(name, || {
            // Time passes, so that the limit admits all.
            clock += Duration::from_micros(1);
            let mut ctx = context(clock);
            settle(route.chain.run_head(head, &mut ctx)).is_some_and(|outcome| outcome.is_ok())
        })?;
    }
    Ok(())
}

fn expression<W: Write>(table: &mut Table<'_, W>, issuer: &Issuer, head: &request::Parts) -> Result<()> {
    let environment = Environment { principal: true, ..Environment::default() };
    let Ok(rule) = BoolExpression::new(RULE, &environment, &Path::default()) else {
        bail!("the rule is faulty")
    };
    let snapshot = policies::snapshot(1, TOKEN, &materials(issuer, true)?)?;
    let mut ctx = context(CLOCK);
    judge(&policies::route(&snapshot, head)?.chain, head, &mut ctx, None)?;
    ensure!(rule.evaluate(&Scope { head, ctx: &ctx })?, "the rule does not hold");
    table.row("expression of three parts", || rule.evaluate(&Scope { head, ctx: &ctx }))?;
    Ok(())
}

/// Many access rules, of which few concern a request: the last one allows it.
fn rules<W: Write>(table: &mut Table<'_, W>, issuer: &Issuer, head: &request::Parts) -> Result<()> {
    for (name, each) in [
        ("1,000 access rules, each with method and path prefix", RULE_OF_PATH),
        ("1,000 access rules, each with a path pattern", RULE_OF_PATTERN),
        ("1,000 access rules, each with a string of its own", RULE_OF_STRING),
        ("1,000 access rules, nothing to look up", RULE_OF_HEADER),
    ] {
        if !table.wants(name) {
            continue;
        }
        let mut policy = String::from("authorize:");
        for number in (0..1_000).rev() {
            let rule = each.replace("NUMBER", &number.to_string());
            std::fmt::Write::write_fmt(&mut policy, format_args!("\n  - {{ name: r{number}, {rule} }}"))?;
        }
        let snapshot = policies::snapshot(1, &policy, &materials(issuer, true)?)?;
        let route = policies::route(&snapshot, head)?;
        let clock = CLOCK;
        judge(&route.chain, head, &mut context(clock), None)?;
        table.row(name, || {
            let mut ctx = context(clock);
            settle(route.chain.run_head(head, &mut ctx)).is_some_and(|outcome| outcome.is_ok())
        })?;
    }
    Ok(())
}

/// One of 10,000 API keys, found and proved.
fn keys<W: Write>(table: &mut Table<'_, W>, issuer: &Issuer) -> Result<()> {
    let name = "API key, one of 10,000 consumers";
    if !table.wants(name) {
        return Ok(());
    }
    let made = |number: u64| {
        let mut secret = [7; SECRET_BYTES];
        if let Some(first) = secret.first_chunk_mut() {
            *first = number.to_be_bytes();
        }
        key(&number.to_be_bytes(), &secret)
    };
    let mut policy = String::from("insecure: { anonymous: true }\n  apiKey: {}");
    for number in 0..10_000 {
        let key = made(number);
        let (prefix, hash) = (prefix(&key).unwrap_or_default(), Digest::of_key(&key));
        let document = format!(
            "\n---\napiVersion: foregate.dev/v1alpha1\nkind: Consumer\nmetadata: {{ name: c{number} }}\n\
             spec: {{ keys: [{{ prefix: \"{prefix}\", hash: \"{hash}\" }}] }}"
        );
        policy.push_str(&document);
    }
    let snapshot = policies::snapshot(1, &policy, &materials(issuer, true)?)?;
    let request = Request::builder().uri("/services/data/v60.0/sobjects/T0").header("x-api-key", made(5_000));
    let head = request.body(())?.into_parts().0;
    let route = policies::route(&snapshot, &head)?;
    let clock = CLOCK;
    judge(&route.chain, &head, &mut context(clock), None)?;
    table.row(name, || {
        let mut ctx = context(clock);
        settle(route.chain.run_head(&head, &mut ctx)).is_some_and(|outcome| outcome.is_ok())
    })?;
    Ok(())
}

fn leads<W: Write>(table: &mut Table<'_, W>, issuer: &Issuer, head: &request::Parts) -> Result<()> {
    let body = Bytes::from_static(LEAD);
    for (name, bundle) in [
        ("lead of 1 KiB: extract, boosted trees, splice", "lead-score"),
        ("lead of 1 KiB: extract, linear model, splice", "lead-score-logistic"),
    ] {
        if !table.wants(name) {
            continue;
        }
        let snapshot = policies::snapshot(1, &policies::scored(bundle), &materials(issuer, true)?)?;
        let route = policies::route(&snapshot, head)?;
        let clock = CLOCK;
        let mut ctx = context(clock);
        judge(&route.chain, head, &mut ctx, Some(&body))?;
        let scored = splice(&body, &ctx.edits.body).context("the splices do not fit")?;
        ensure!(scored.windows(13).any(|window| window == b"Lead_Score__c"), "no score in the body");
        let edits = ctx.edits.body.clone();
        table.row(&format!("{name}: the splice alone"), || splice(&body, &edits))?;
        table.row(name, || {
            let mut ctx = context(clock);
            ctx.body = Some(body.clone());
            let outcome = settle(route.chain.run_body(head, &mut ctx));
            (outcome.is_some_and(|outcome| outcome.is_ok()), splice(&body, &ctx.edits.body))
        })?;
    }
    Ok(())
}

fn tokens<W: Write>(table: &mut Table<'_, W>, issuer: &Issuer) -> Result<()> {
    let name = "token verify, cached, 100,000 tokens";
    if !table.wants(name) {
        return Ok(());
    }
    let snapshot = policies::snapshot(1, TOKEN, &materials(issuer, true)?)?;
    let heads: Vec<request::Parts> = (0..TOKENS)
        .map(|number| head(&issuer.token_of(&format!("user-{number}"), SCOPE, NOW)?))
        .collect::<Result<_>>()?;
    let route = policies::route(&snapshot, heads.first().context("no token")?)?;
    let clock = CLOCK;
    let before = resident();
    for head in &heads {
        judge(&route.chain, head, &mut context(clock), None)?;
    }
    if let (Some(before), Some(after)) = (before, resident()) {
        table.note(
            "memory of 100,000 cached tokens, MiB",
            &(after.saturating_sub(before) >> 10).to_string(),
        )?;
    }
    let mut number = 0;
    table.row(name, || {
        // A stride that visits every token, far from the one before.
        number = (number + 61_803) % TOKENS;
        let mut ctx = context(clock);
        heads
            .get(number)
            .and_then(|head| settle(route.chain.run_head(head, &mut ctx)))
            .is_some_and(|it| it.is_ok())
    })?;
    Ok(())
}

pub fn materials(issuer: &Issuer, caches: bool) -> Result<Bench> {
    Ok(Bench { keys: Arc::new(issuer.keys()?), caches, models: Mutex::new(HashMap::new()) })
}

fn moment(monotonic: Duration) -> Moment {
    Moment { unix: Duration::from_secs(NOW), monotonic }
}

pub fn context(monotonic: Duration) -> RequestContext {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let client = Client { peer: SocketAddr::new(address, 40_000), address, tls: true, destination: None };
    RequestContext::new(moment(monotonic), client)
}

/// A request as an integration sends it.
pub fn head(token: &str) -> Result<request::Parts> {
    let request = Request::builder()
        .method("POST")
        .uri("/services/data/v60.0/sobjects/T0/Lead?trace=1")
        .header("host", HOST)
        .header("user-agent", "SFDC-Callout/62.0")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip")
        .header("content-type", "application/json; charset=utf-8")
        .header("content-length", "1024")
        .header("authorization", format!("Bearer {token}"))
        .header("x-request-id", "0d1c7a52-7d5c-4f2e-9e43-0a4f6a1f5b0e")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    Ok(request.body(())?.into_parts().0)
}

/// Runs the whole chain; a refusal is an error.
pub fn judge(
    chain: &Chain,
    head: &request::Parts,
    ctx: &mut RequestContext,
    body: Option<&Bytes>,
) -> Result<()> {
    let outcome = settle(chain.run_head(head, ctx)).context("a filter waits")?;
    if let Err(refusal) = outcome {
        bail!("refused: {refusal:?}");
    }
    ctx.body = body.cloned();
    match settle(chain.run_body(head, ctx)).context("a filter waits")? {
        Ok(()) => Ok(()),
        Err(refusal) => bail!("refused: {refusal:?}"),
    }
}

/// The value of a future that needs no waiting.
pub fn settle<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
