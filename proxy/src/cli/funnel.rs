//! The steps of requests in `foregate top`: how many come to each, who refuses there.

use foregate_filters::step::Step;
use serde_json::Value;

use crate::cli::output::Paint;
use crate::cli::top::{shortened, table, text};

/// Most lines of policies.
const MAX_LINES: usize = 10;

/// A step, the requests that come to it, and those that are refused there.
type Passed = (Step, u64, u64);

/// What is refused in a step comes to none after it, but is answered and recorded.
fn funnel(requests: &Value, refused_in: &Value) -> [Passed; Step::ALL.len()] {
    let refused = Step::ALL.map(|step| (step, refused_in[step.name()].as_u64().unwrap_or_default()));
    // Connections that are passed on unread are refused, and are no requests.
    let all = requests.as_u64().unwrap_or_default().max(refused.iter().map(|(_, count)| count).sum());
    let mut left = all;
    refused.map(|(step, refused)| {
        let reached = if matches!(step, Step::Respond | Step::Record) { all } else { left };
        left = left.saturating_sub(refused);
        (step, reached, refused)
    })
}

/// The steps that refuse, and what is left to be dispatched.
pub(super) fn steps(overview: &Value, paint: Paint) -> Vec<String> {
    let rows: Vec<_> =
        funnel(overview.pointer("/total/requests").unwrap_or(&Value::Null), &overview["refused_in"])
            .into_iter()
            .filter(|(step, _, refused)| *refused > 0 || *step == Step::Dispatch)
            .map(|(step, reached, refused)| {
                [step.name().to_owned(), reached.to_string(), refused.to_string()]
            })
            .collect();
    table(["STEP", "REACHED", "REFUSED"], &rows, 1, paint)
}

/// The steps that policies have filters in, with the numbers of the routes of each.
pub(super) fn policies(overview: &Value, paint: Paint) -> Vec<String> {
    let all = overview["policies"].as_array().map(Vec::as_slice).unwrap_or_default();
    shortened(
        ["POLICY", "IN", "BY", "REACHED", "REFUSED"],
        all.iter().flat_map(policy).collect(),
        (3, MAX_LINES),
        paint,
    )
}

fn policy(policy: &Value) -> Vec<[String; 5]> {
    let funnel = funnel(&policy["requests"], &policy["refused_in"]);
    let brings = policy["brings"].as_array().into_iter().flatten();
    let row = |brought: &Value| {
        let (step, reached, refused) = funnel.iter().find(|(step, ..)| brought["step"] == step.name())?;
        let filters: Vec<String> = brought["filters"].as_array().into_iter().flatten().map(text).collect();
        let numbers = (reached.to_string(), refused.to_string());
        Some([text(&policy["name"]), step.name().to_owned(), filters.join(", "), numbers.0, numbers.1])
    };
    brings.filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::{policies, steps};
    use crate::cli::output::Paint;
    use serde_json::json;

    #[test]
    fn what_is_refused_comes_to_no_later_step() {
        let overview =
            json!({ "total": { "requests": 10 }, "refused_in": { "route": 1, "admit": 2, "dispatch": 3 } });
        let told = steps(&overview, Paint(false));
        let told: Vec<Vec<&str>> = told.iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            told,
            [
                vec!["STEP", "REACHED", "REFUSED"],
                vec!["route", "10", "1"],
                vec!["admit", "9", "2"],
                vec!["dispatch", "7", "3"],
            ]
        );
        let unread = json!({ "total": { "requests": 0 }, "refused_in": { "route": 4 } });
        assert!(steps(&unread, Paint(false))[1].ends_with("4        4"));
        assert_eq!(steps(&json!({}), Paint(false)).len(), 2);
    }

    #[test]
    fn many_policies_are_cut_short_and_counted() {
        let brings = json!([{ "step": "admit", "filters": ["quota"] }, { "step": "later", "filters": [] }]);
        let refused = json!({ "guard": 1, "admit": 1 });
        let policy = json!({ "name": "all", "requests": 3, "refused_in": refused, "brings": brings });
        let told = policies(&json!({ "policies": vec![policy; 12] }), Paint(false));
        assert_eq!(told.len(), 12);
        assert!(told[1].split_whitespace().eq(["all", "admit", "quota", "2", "1"]), "{}", told[1]);
        assert_eq!(told[11], "and 2 more lines with --format json");
        assert!(policies(&json!({}), Paint(false)).is_empty());
    }
}
