//! Scores in `foregate top`: those of now beside those of training, a letter a bin.

use serde_json::Value;

use crate::cli::output::Paint;
use crate::cli::top::{shortened, text};

/// Most models with a line.
const MAX_LINES: usize = 5;

/// Most letters; where there are more bins, neighbours are put together.
const MAX_BARS: usize = 40;

/// From nothing to the most that a bin of either has.
const BARS: [char; 9] =
    ['.', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];

/// What shares are parts of.
const WHOLE: u64 = 1_000_000;

/// A line for each version whose bundle tells of its training records.
pub(super) fn scores(overview: &Value, paint: Paint) -> Vec<String> {
    let all = overview["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    shortened(
        ["SCORES OF", "VERSION", "NOW", "TRAINING", "EDGES", "RECORDS"],
        all.iter().filter_map(row).collect(),
        (5, MAX_LINES),
        paint,
    )
}

fn row(model: &Value) -> Option<[String; 6]> {
    let scores = model.get("scores")?;
    let (now, training) = (counts(&scores["now"]), counts(&scores["training"]));
    let records = now.iter().sum::<u64>();
    let (now, training) = (shares(&now), shares(&training));
    let most = now.iter().chain(&training).copied().max().unwrap_or_default();
    let edges = scores["edges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let edge = |edge: &Value| format!("{:.2}", edge.as_f64().unwrap_or_default());
    let edges = match edges {
        [] => String::new(),
        [only] => edge(only),
        [first, .., last] => format!("{} to {}", edge(first), edge(last)),
    };
    let (now, training) = (bars(&now, most), bars(&training, most));
    Some([text(&model["name"]), text(&model["version"]), now, training, edges, records.to_string()])
}

fn counts(value: &Value) -> Vec<u64> {
    value.as_array().into_iter().flatten().map(|count| count.as_u64().unwrap_or_default()).collect()
}

/// The share of each bin, or of as many together as need be.
fn shares(counts: &[u64]) -> Vec<u64> {
    let all = counts.iter().sum::<u64>().max(1);
    let together = counts.len().div_ceil(MAX_BARS).max(1);
    counts.chunks(together).map(|bins| bins.iter().sum::<u64>().saturating_mul(WHOLE) / all).collect()
}

/// The least share that is any has a bar, too.
fn bars(shares: &[u64], most: u64) -> String {
    let bar = |share: &u64| {
        let height = (share * 8).div_ceil(most.max(1));
        usize::try_from(height).ok().and_then(|height| BARS.get(height)).copied().unwrap_or('\u{2588}')
    };
    shares.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::scores;
    use crate::cli::output::Paint;
    use serde_json::{Value, json};

    fn told(models: &Value) -> Vec<String> {
        scores(&json!({ "models": models }), Paint(false))
    }

    #[test]
    fn a_bar_stands_for_a_share() {
        let of = json!({ "edges": [0.1, 0.5, 0.9], "training": [10, 40, 40, 10], "now": [0, 1, 199, 0] });
        let told = told(&json!([{ "name": "lead-score", "version": "3", "scores": of }, { "name": "none" }]));
        assert_eq!(told.len(), 2, "{told:?}");
        let cells: Vec<&str> = told[1].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let (now, training) = (".\u{2581}\u{2588}.", "\u{2581}\u{2584}\u{2584}\u{2581}");
        assert_eq!(cells, ["lead-score", "3", now, training, "0.10 to 0.90", "200"]);
    }

    #[test]
    fn many_bins_and_many_models_are_put_together() {
        let of = json!({ "edges": [0.5], "training": vec![1; 65], "now": vec![0; 65] });
        let all = told(&json!(vec![json!({ "name": "m", "version": "1", "scores": of }); 7]));
        assert_eq!(all.len(), 7, "{all:?}");
        assert_eq!(all[6], "and 2 more lines with --format json");
        assert!(all[1].contains(&".".repeat(33)) && !all[1].contains(&".".repeat(34)), "{}", all[1]);
        assert!(told(&json!([])).is_empty());
    }
}
