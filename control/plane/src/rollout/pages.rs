//! What `foregate-control status` shows, for people.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use crate::clock;

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// How long ago something was that has a time in seconds since the Unix epoch.
fn age(then: u64) -> String {
    if then == 0 {
        return "never".to_owned();
    }
    let seconds = clock::now().unix.saturating_sub(Duration::from_secs(then)).as_secs();
    match seconds {
        0..=119 => format!("{seconds}s ago"),
        120..=7_199 => format!("{}m ago", seconds / 60),
        7_200..=172_799 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

fn lines(out: &mut String, indent: &str, lines: &[Value]) {
    for line in lines.iter().filter_map(Value::as_str) {
        let _ = writeln!(out, "{indent}{line}");
    }
}

/// True where something wants to be looked at.
pub fn has_faults(status: &Value) -> bool {
    let present = |value: &Value, key: &str| value.get(key).is_some_and(|value| !value.is_null());
    present(status, "refused")
        || list(status, "sources").iter().any(|source| present(source, "faults"))
        || list(status, "proxies").iter().any(|proxy| present(proxy, "refusal"))
}

pub fn status(status: &Value) -> String {
    let mut out = String::from("sources\n");
    for source in list(status, "sources") {
        let revision: String = text(source, "revision").chars().take(12).collect();
        let signer = text(source, "signer");
        let signer = if signer.is_empty() { String::new() } else { format!(", signed by {signer}") };
        let revision = if revision.is_empty() { "nothing yet".to_owned() } else { revision };
        let made = number(source, "time");
        let made = if made == 0 { String::new() } else { format!(", made {}", age(made)) };
        let _ = writeln!(
            out,
            "  {}: {revision}{signer}{made}, {} files, seen {}",
            text(source, "name"),
            number(source, "files"),
            age(number(source, "seen"))
        );
        if let Some(fault) = source.get("faults").filter(|fault| !fault.is_null()) {
            let _ = writeln!(out, "    at fault since {}:", age(number(fault, "since")));
            lines(&mut out, "      ", list(fault, "diagnostics"));
        }
    }
    out.push_str(&rollout(status));
    out.push_str("revisions kept\n");
    for label in list(status, "revisions") {
        let from: Vec<String> = list(label, "origins")
            .iter()
            .map(|origin| {
                let revision: String = text(origin, "revision").chars().take(12).collect();
                format!("{} {revision}", text(origin, "source"))
            })
            .collect();
        let _ = writeln!(
            out,
            "  {} compiled {} from {}",
            text(label, "id"),
            age(number(label, "made")),
            from.join(", ")
        );
    }
    let proxies = list(status, "proxies");
    let connected = proxies.iter().filter(|proxy| proxy.get("connected") == Some(&Value::Bool(true))).count();
    let _ = writeln!(out, "proxies: {} known, {connected} connected", proxies.len());
    for proxy in proxies {
        self::proxy(&mut out, proxy);
    }
    out
}

fn proxy(out: &mut String, proxy: &Value) {
    let connected = if proxy.get("connected") == Some(&Value::Bool(true)) { "connected" } else { "gone" };
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let labels: Vec<String> = proxy
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    let _ = writeln!(
        out,
        "  {} {} {} {connected}, seen {}, wanted {}, in force {} {}",
        text(proxy, "id"),
        text(proxy, "identity"),
        text(proxy, "version"),
        age(number(proxy, "lastSeen")),
        or_none(text(proxy, "wanted")),
        or_none(text(proxy, "inForce")),
        labels.join(",")
    );
    if !text(proxy, "withheld").is_empty() {
        let _ = writeln!(out, "    nothing is granted: {}", text(proxy, "withheld"));
    }
    let Some(refusal) = proxy.get("refusal").filter(|refusal| !refusal.is_null()) else { return };
    let _ = writeln!(out, "    refused {} {}:", text(refusal, "revision"), age(number(refusal, "at")));
    for finding in list(refusal, "findings") {
        let _ = writeln!(
            out,
            "      {} {}:{}:{}: {}",
            text(finding, "code"),
            text(finding, "file"),
            number(finding, "line"),
            number(finding, "column"),
            text(finding, "message")
        );
        if !text(finding, "help").is_empty() {
            let _ = writeln!(out, "        help: {}", text(finding, "help"));
        }
    }
}

/// What is in force, and what is on its way.
pub fn rollout(status: &Value) -> String {
    let mut out = String::new();
    let current = text(status, "current");
    let _ = writeln!(out, "in force: {}", if current.is_empty() { "nothing yet" } else { current });
    if let Some(rollout) = status.get("rollout").filter(|rollout| !rollout.is_null()) {
        let paused = if rollout.get("paused") == Some(&Value::Bool(true)) { ", paused" } else { "" };
        let percent = rollout.get("percent").and_then(Value::as_f64).unwrap_or_default();
        let _ = writeln!(
            out,
            "rolled out: {} to {percent} % of the proxies{paused}; {} took it, {} refused it, {} have no Gateway in it",
            text(rollout, "revision"),
            number(rollout, "took"),
            number(rollout, "refused"),
            number(rollout, "leftOut")
        );
    }
    if let Some(reverted) = status.get("reverted").filter(|reverted| !reverted.is_null()) {
        let _ = writeln!(
            out,
            "taken back: {} for {} {}: {}",
            text(reverted, "revision"),
            text(reverted, "to"),
            age(number(reverted, "at")),
            text(reverted, "reason")
        );
    }
    if let Some(refused) = status.get("refused").filter(|refused| !refused.is_null()) {
        let _ = writeln!(out, "refused: {} {}:", text(refused, "revision"), age(number(refused, "at")));
        lines(&mut out, "  ", list(refused, "diagnostics"));
    }
    let warnings = list(status, "warnings");
    if !warnings.is_empty() {
        out.push_str("warnings\n");
        lines(&mut out, "  ", warnings);
    }
    out
}
