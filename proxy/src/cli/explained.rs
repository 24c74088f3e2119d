//! A decision as text for people: one line a step, then the reason.

use serde_json::Value;

use crate::cli::output::printable;

/// Width of a line of advice.
const WIDTH: usize = 96;

/// The whole page. Whatever a client may have sent is escaped.
pub(super) fn page(decision: &Value) -> String {
    let mut lines = vec![headline(decision), request(decision), String::new()];
    let steps = decision["foregate.steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<[String; 5]> = steps.iter().map(row).collect();
    let head = ["step", "verdict", "rule", "place", "time"].map(str::to_owned);
    let widths: [usize; 4] = std::array::from_fn(|column| {
        let cells = rows.iter().chain([&head]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).min(60)
    });
    lines.push(aligned(&head, &widths));
    for (step, cells) in steps.iter().zip(&rows) {
        lines.push(aligned(cells, &widths));
        lines.extend(details(step));
    }
    lines.push(String::new());
    lines.extend(ending(decision));
    let mut page = String::new();
    for line in lines {
        page.push_str(printable(&line).trim_end());
        page.push('\n');
    }
    page
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn headline(decision: &Value) -> String {
    let (id, at) = (text(decision, "foregate.decision"), text(decision, "timestamp"));
    let status = match &decision["http.response.status_code"] {
        Value::Null => format!("ended as {}", text(decision, "foregate.end")),
        status => format!("status {status}"),
    };
    let verdict = match text(decision, "foregate.reason") {
        "" => "passed".to_owned(),
        reason => format!("refused in {} as {reason}", text(decision, "foregate.step")),
    };
    format!("decision {id} of {at}: {verdict}, {status}")
}

fn request(decision: &Value) -> String {
    let part = |name| text(decision, name);
    let route = match (part("http.route"), part("foregate.route")) {
        ("", "") => String::new(),
        // One of the two is empty.
        (of_request, of_connection) => format!(", route {of_request}{of_connection}"),
    };
    let revision = match part("foregate.revision") {
        "" => String::new(),
        revision => format!(", revision {revision}"),
    };
    if !part("network.transport").is_empty() {
        let name = match part("tls.client.server_name") {
            "" => String::new(),
            name => format!(" for {name}"),
        };
        return format!(
            "a connection{name} from {}, listener {}{route}{revision}",
            part("client.address"),
            part("foregate.listener"),
        );
    }
    format!(
        "{} {}://{}{} from {}, listener {}{route}{revision}",
        part("http.request.method"),
        part("url.scheme"),
        part("server.address"),
        part("url.path"),
        part("client.address"),
        part("foregate.listener"),
    )
}

/// Step, verdict, rule, place, time.
fn row(step: &Value) -> [String; 5] {
    let filter = text(step, "filter");
    let name = match (text(step, "rule"), text(step, "kind")) {
        ("", _) => String::new(),
        (rule, "") => rule.to_owned(),
        (rule, kind) => format!("{kind} {rule}"),
    };
    let rule = match (filter, name.as_str(), text(step, "policy")) {
        ("", name, _) => name.to_owned(),
        (filter, "", "") => filter.to_owned(),
        (filter, "", policy) => format!("{filter} of {policy}"),
        (_, name, "") => name.to_owned(),
        (_, name, policy) => format!("{name} of {policy}"),
    };
    let place = step["line"].as_u64().map(|line| format!("{}:{line}", text(step, "file")));
    let time = step["duration_us"].as_f64().map(micros);
    let verdict = text(step, "verdict").to_owned();
    [text(step, "step").to_owned(), verdict, rule, place.unwrap_or_default(), time.unwrap_or_default()]
}

fn micros(micros: f64) -> String {
    if micros >= 1_000.0 { format!("{:.1} ms", micros / 1_000.0) } else { format!("{micros:.1} us") }
}

fn aligned(cells: &[String; 5], widths: &[usize; 4]) -> String {
    let [step, verdict, rule, place, time] = cells;
    let [a, b, c, d] = *widths;
    format!("{step:a$}  {verdict:b$}  {rule:c$}  {place:d$}  {time}")
}

/// What stands below a step: its expression and inputs where it refused, its limits and audits.
fn details(step: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if text(step, "verdict") == "refused" {
        if let Some(expression) = step["expression"].as_str() {
            lines.push(format!("    asks {expression}"));
        }
        for (name, value) in step["inputs"].as_object().into_iter().flatten() {
            lines.push(format!("    {name} = {}", told(value)));
        }
    }
    for limit in step["limits"].as_array().into_iter().flatten() {
        let state = if limit["admitted"] == true { "admitted" } else { "used up" };
        let (rule, remaining, key) = (text(limit, "rule"), &limit["remaining"], text(limit, "key"));
        lines.push(format!("    limit {rule}: {state}, {remaining} remaining for key {key}"));
    }
    for audit in step["audits"].as_array().into_iter().flatten() {
        let place = format!("{}:{}", text(audit, "file"), audit["line"]);
        lines.push(format!("    audit {}: {}, {place}", text(audit, "rule"), text(audit, "detail")));
    }
    lines
}

fn told(value: &Value) -> String {
    match value {
        Value::Null => "absent".to_owned(),
        Value::Object(_) => "not told".to_owned(),
        other => other.to_string(),
    }
}

fn ending(decision: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let reason = text(decision, "foregate.reason");
    if !reason.is_empty() {
        let rule = match text(decision, "foregate.rule") {
            "" => String::new(),
            rule => format!(" by {rule}"),
        };
        let detail = match text(decision, "foregate.detail") {
            "" => String::new(),
            detail => format!(": {detail}"),
        };
        lines.push(format!("reason: {reason}{rule}{detail}"));
        lines.extend(wrapped("to do: ", text(decision, "foregate.advice")));
    }
    let total = decision["foregate.duration_us"].as_f64().map(micros).unwrap_or_default();
    lines.push(format!("total: {total}, ended {}", text(decision, "foregate.end")));
    let steps = decision["foregate.steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let timed = |step: &&Value| !step["filter"].is_null() && !step["duration_us"].is_null();
    if steps.iter().find(timed).is_none() && steps.iter().any(|step| !step["filter"].is_null()) {
        lines.push(
            "The time of each filter is taken for a sample only: see --decision-sample of `foregate run`."
                .to_owned(),
        );
    }
    lines
}

fn wrapped(label: &str, words: &str) -> Vec<String> {
    let mut lines = vec![label.to_owned()];
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < WIDTH => {
                if !line.ends_with(' ') {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(format!("{:width$}{word}", "", width = label.len())),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::page;
    use crate::telemetry::explain::steps::Explained;
    use crate::telemetry::record::Protocol;
    use crate::telemetry::testing::explained_record;

    #[test]
    fn a_connection_is_told_of_as_one() {
        let mut record = explained_record();
        (record.protocol, record.host, record.status) = (Protocol::Tls, "db.example.com".into(), 0);
        let page = page(&serde_json::to_value(Explained(&record)).unwrap());
        let lines: Vec<&str> = page.lines().collect();
        assert!(lines[0].ends_with("refused in admit as RateLimited, ended as complete"), "{page}");
        assert!(
            lines[1].starts_with("a connection for db.example.com from 203.0.113.7, listener https"),
            "{page}"
        );
        assert!(lines[1].contains(", route leads") && !page.contains("status"), "{page}");
    }

    #[test]
    fn a_page_has_one_line_a_step_and_says_what_to_do() {
        let mut record = explained_record();
        record.path = "/\u{1b}[2Jx".into();
        let decision = serde_json::to_value(Explained(&record)).unwrap();
        let page = page(&decision);
        let lines: Vec<&str> = page.lines().collect();
        assert!(lines[0].contains("refused in admit as RateLimited, status 429"), "{page}");
        assert!(
            lines[1].contains("/\\u{1b}[2Jx from 203.0.113.7") && lines[1].ends_with("revision a1b2c3"),
            "{page}"
        );
        let admit = lines.iter().find(|line| line.starts_with("admit")).unwrap();
        for part in ["refused", "limit per-org of edge", "edge.yaml:14", "3.0 us"] {
            assert!(admit.contains(part), "{part} in {admit}");
        }
        for part in [
            "    jwt.claims[\"org\"] = not told",
            "reason: RateLimited by per-org: used up",
            "to do: The key above",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
        assert!(page.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{page}");
    }
}
