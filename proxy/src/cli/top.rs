//! `foregate top`: how a running gateway does, in a terminal.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::cli::admin::{Admin, AdminError};
use crate::cli::funnel::{policies, steps};
use crate::cli::histogram::scores;
use crate::cli::output::{self, Paint, TextFormat, Tone, printable};

const PATH: &str = "/api/overview";

/// Puts the cursor at the top, and what is below the text out of sight (ECMA-48).
const TOP: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR: &str = "\x1b[2J";

#[derive(Debug, Args)]
pub(super) struct Top {
    #[command(flatten)]
    admin: Admin,
    /// Prints the numbers of now and ends, as it does where standard output is no terminal.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks, 1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    /// Most routes shown, 0 or more: those with most requests.
    #[arg(long, value_name = "N", default_value_t = 10)]
    routes: usize,
    /// How it is told: a table, or everything as a JSON object a line.
    #[arg(long, value_enum, default_value_t)]
    format: TextFormat,
}

impl Top {
    pub(super) fn run(self) -> ExitCode {
        match self.admin.block_on(self.show()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                output::error(&format!("foregate: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    async fn show(&self) -> Result<(), AdminError> {
        let client = self.admin.client()?;
        let terminal = io::stdout().is_terminal();
        let redraw = terminal && !self.once && self.format == TextFormat::Human;
        let mut first = true;
        loop {
            let (text, overview) = self.admin.ask(&client, PATH, "").await?;
            if !overview.get("routes").is_some_and(Value::is_array) {
                return Err(self.admin.strange(PATH));
            }
            let told = match self.format {
                TextFormat::Json => format!("{}\n", text.trim_end()),
                TextFormat::Human => {
                    let page = page(&overview, self.routes, Paint::stdout());
                    if redraw { drawn(&page, first) } else { page }
                }
            };
            if !output::written(&told) || self.once || !terminal {
                return Ok(());
            }
            first = false;
            tokio::time::sleep(Duration::from_secs(self.interval)).await;
        }
    }
}

/// The page in the place of the one before.
fn drawn(page: &str, first: bool) -> String {
    let lines = page.lines().map(|line| format!("{line}{CLEAR_LINE}\n"));
    let clear = if first { CLEAR } else { "" };
    format!("{clear}{TOP}{}{CLEAR_BELOW}", lines.collect::<String>())
}

/// The numbers as tables.
fn page(overview: &Value, most: usize, paint: Paint) -> String {
    let mut lines = head(overview, paint);
    let tables = [
        routes(overview, most, paint),
        steps(overview, paint),
        refusals(overview, paint),
        policies(overview, paint),
        models(overview, paint),
        scores(overview, paint),
    ];
    for table in tables.into_iter().filter(|table| !table.is_empty()) {
        lines.push(String::new());
        lines.extend(table);
    }
    lines.iter().fold(String::new(), |page, line| page + line.trim_end() + "\n")
}

fn head(overview: &Value, paint: Paint) -> Vec<String> {
    let state = text(&overview["state"]);
    let tone = if state == "ready" { Tone::Good } else { Tone::Warn };
    let (config, total, endpoints) = (&overview["config"], &overview["total"], &overview["endpoints"]);
    let revision = text(&config["revision"]);
    let revision = revision.get(..12).unwrap_or(&revision);
    let mut lines = vec![
        format!(
            "{}  revision {revision} of {}  {} of {} endpoints fit  {} in flight  {} UTC",
            paint.paint(&state, tone),
            text(&config["loaded_at"]).get(..19).unwrap_or_default(),
            endpoints["fit"],
            endpoints["all"],
            overview["in_flight"],
            text(&overview["at"]).get(11..19).unwrap_or_default(),
        ),
        format!(
            "{} requests/s  {} success  {} refusals/s  added p50 {} p99 {}  total p99 {}  of {} requests",
            rate(&total["requests_per_second"]),
            share(&total["success"]),
            rate(&total["refusals_per_second"]),
            micros(&total["added_p50_us"]),
            micros(&total["added_p99_us"]),
            micros(&total["p99_us"]),
            total["requests"],
        ),
    ];
    let failure = &config["failure"];
    if !failure.is_null() {
        let at = text(&failure["at"]);
        let told = format!("the configuration of {} was refused:", at.get(..19).unwrap_or_default());
        lines.push(paint.paint(&told, Tone::Bad));
        for diagnostic in failure["diagnostics"].as_array().into_iter().flatten() {
            let whole = diagnostic.as_str().unwrap_or_default();
            lines.extend(whole.lines().map(|line| format!("  {}", printable(line))));
        }
    }
    lines
}

fn routes(overview: &Value, most: usize, paint: Paint) -> Vec<String> {
    let all = overview["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let head = [
        "ROUTE",
        "REQ/S",
        "SUCCESS",
        "REFUSED/S",
        "ADDED P50",
        "ADDED P99",
        "P99",
        "REQUESTS",
        "REFUSED",
        "FAILED",
    ];
    let rows: Vec<_> = all
        .iter()
        .take(most)
        .map(|route| {
            [
                name(&route["name"]),
                rate(&route["requests_per_second"]),
                share(&route["success"]),
                rate(&route["refusals_per_second"]),
                micros(&route["added_p50_us"]),
                micros(&route["added_p99_us"]),
                micros(&route["p99_us"]),
                route["requests"].to_string(),
                route["refused"].to_string(),
                route["failed"].to_string(),
            ]
        })
        .collect();
    let mut lines = table(head, &rows, 1, paint);
    let omitted = all.len().saturating_sub(most) + usize_of(&overview["routes_omitted"]);
    if omitted > 0 {
        lines.push(format!("and {}", output::count(omitted, "more route")));
    }
    lines
}

/// Who refuses most.
fn refusals(overview: &Value, paint: Paint) -> Vec<String> {
    let all = overview["refusals"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = all
        .iter()
        .take(5)
        .map(|it| {
            let rule = if it["rule"] == "" { "-".to_owned() } else { text(&it["rule"]) };
            [name(&it["route"]), text(&it["step"]), text(&it["reason"]), rule, it["count"].to_string()]
        })
        .collect();
    if rows.is_empty() {
        return Vec::new();
    }
    table(["REFUSED ON", "IN", "AS", "BY", "REQUESTS"], &rows, 4, paint)
}

fn models(overview: &Value, paint: Paint) -> Vec<String> {
    let all = overview["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = all
        .iter()
        .map(|it| {
            let drift = match it.pointer("/drift/index").and_then(Value::as_f64) {
                Some(index) => {
                    format!("{index:.2} {}", it.pointer("/drift/feature").map(text).unwrap_or_default())
                }
                None => "-".to_owned(),
            };
            [text(&it["name"]), text(&it["version"]), text(&it["role"]), micros(&it["p99_us"]), drift]
        })
        .collect();
    if rows.is_empty() {
        return Vec::new();
    }
    table(["MODEL", "VERSION", "ROLE", "P99", "DRIFT"], &rows, 3, paint)
}

/// Columns from `right` on stand at the right.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: &[[String; N]],
    right: usize,
    paint: Paint,
) -> Vec<String> {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.len())).max().unwrap_or(0).min(40)
    });
    let aligned = |cells: [&str; N]| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            // Writing to a string does not fail.
            let _ = if column < right {
                write!(line, "{gap}{cell:width$.40}")
            } else {
                write!(line, "{gap}{cell:>width$.40}")
            };
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![paint.paint(&aligned(head), Tone::Bold)];
    lines.extend(rows.iter().map(|row| aligned(row.each_ref().map(String::as_str))));
    lines
}

/// The first `most` of what JSON has whole, and how many are left out; nothing where there are none.
pub(super) fn shortened<const N: usize>(
    head: [&str; N],
    mut rows: Vec<[String; N]>,
    (right, most): (usize, usize),
    paint: Paint,
) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let omitted = rows.len().saturating_sub(most);
    rows.truncate(most);
    let mut lines = table(head, &rows, right, paint);
    if omitted > 0 {
        lines.push(format!("and {} with --format json", output::count(omitted, "more line")));
    }
    lines
}

pub(super) fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or_default())
}

/// A route; requests that found none have no name.
fn name(value: &Value) -> String {
    if value == "" { "-".to_owned() } else { text(value) }
}

fn usize_of(value: &Value) -> usize {
    value.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or_default()
}

fn rate(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

/// As per cent; never rounded up to all.
fn share(value: &Value) -> String {
    value.as_f64().map_or_else(
        || "-".to_owned(),
        |share| {
            if share >= 1.0 { "100%".to_owned() } else { format!("{:.2}%", (share * 1e4).floor() / 1e2) }
        },
    )
}

fn micros(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(micros) if micros < 1e3 => format!("{micros:.0}us"),
        Some(micros) if micros < 1e6 => format!("{:.1}ms", micros / 1e3),
        Some(micros) => format!("{:.1}s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::{drawn, page};
    use crate::cli::output::Paint;
    use serde_json::{Value, json};

    fn overview() -> Value {
        json!({
            "at": "2026-09-21T14:13:20.000001Z", "state": "ready", "in_flight": 3, "routes_omitted": 4,
            "config": { "revision": "0123456789abcdef", "loaded_at": "2026-09-21T14:00:00.000000Z" },
            "total": { "requests": 120, "requests_per_second": 12.04, "refusals_per_second": 0.5,
                "success": 0.99996, "added_p50_us": 81.0, "added_p99_us": 1_240.0, "p99_us": null },
            "refused_in": { "route": 20, "admit": 5 },
            "routes": [
                { "name": "leads", "requests": 100, "refused": 5, "failed": 1, "requests_per_second": 12.04,
                  "refusals_per_second": 0.5, "success": 1.0, "added_p50_us": 81.0, "added_p99_us": 1_240.0, "p99_us": 2_100_000.0 },
                { "name": "", "requests": 20, "refused": 20, "failed": 0, "requests_per_second": 0.0,
                  "refusals_per_second": 0.0, "success": null, "added_p50_us": null, "added_p99_us": null, "p99_us": null },
            ],
            "refusals": [{ "route": "leads", "step": "admit", "reason": "RateLimited", "rule": "per\u{1b}org", "count": 5 }],
            "models": [{ "name": "lead-score", "version": "3", "role": "production", "p99_us": 18.2,
                "drift": { "feature": "score", "index": 0.314 },
                "scores": { "edges": [0.2, 0.5], "training": [5, 5, 10], "now": [0, 40, 0] } }],
            "policies": [{ "name": "limits", "routes": 1, "requests": 100, "refused_in": { "admit": 5 },
                "brings": [{ "step": "admit", "filters": ["rateLimit", "quota"] }, { "step": "decide", "filters": ["authorize"] }] }],
            "endpoints": { "all": 4, "fit": 3 },
        })
    }

    #[test]
    fn the_numbers_stand_in_tables() {
        let expected = "\
ready  revision 0123456789ab of 2026-09-21T14:00:00  3 of 4 endpoints fit  3 in flight  14:13:20 UTC
12.0 requests/s  99.99% success  0.5 refusals/s  added p50 81us p99 1.2ms  total p99 -  of 120 requests

ROUTE  REQ/S  SUCCESS  REFUSED/S  ADDED P50  ADDED P99   P99  REQUESTS  REFUSED  FAILED
leads   12.0     100%        0.5       81us      1.2ms  2.1s       100        5       1
-        0.0        -        0.0          -          -     -        20       20       0
and 4 more routes

STEP      REACHED  REFUSED
route         120       20
admit         100        5
dispatch       95        0

REFUSED ON  IN     AS           BY            REQUESTS
leads       admit  RateLimited  per\\u{1b}org         5

POLICY  IN      BY                REACHED  REFUSED
limits  admit   rateLimit, quota      100        5
limits  decide  authorize              95        0

MODEL       VERSION  ROLE         P99       DRIFT
lead-score  3        production  18us  0.31 score

SCORES OF   VERSION  NOW  TRAINING  EDGES         RECORDS
lead-score  3        .\u{2588}.  \u{2582}\u{2582}\u{2584}       0.20 to 0.50       40
";
        assert_eq!(page(&overview(), 10, Paint(false)), expected);
        assert!(page(&overview(), 1, Paint(false)).contains("and 5 more routes\n"));
    }

    #[test]
    fn a_refused_configuration_is_told_with_its_faults() {
        let mut seen = overview();
        seen["config"]["failure"] =
            json!({ "at": "2026-09-21T14:12:00.000000Z", "diagnostics": ["FG0401: no\n --> a.yaml:3:7"] });
        let page = page(&seen, 10, Paint(false));
        assert!(
            page.contains(
                "the configuration of 2026-09-21T14:12:00 was refused:\n  FG0401: no\n   --> a.yaml:3:7\n"
            ),
            "{page}"
        );
    }

    #[test]
    fn a_page_is_drawn_over_the_one_before() {
        assert_eq!(drawn("a\nb\n", true), "\u{1b}[2J\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(drawn("a\n", false), "\u{1b}[Ha\u{1b}[K\n\u{1b}[J");
    }
}
