//! A piece of a file: its rows scored, and written as lines.

use std::fmt::Write;
use std::time::Duration;

use foregate_filters::score::Detail;

use super::Format;
use super::columns::Columns;
use super::rows::Row;
use crate::bundle::Bundle;
use crate::features::Reading;
use crate::features::extract::MAX_RECORDS;
use crate::output::Output;

/// What rows are scored with.
#[derive(Debug)]
pub struct Scoring<'a> {
    pub bundle: &'a Bundle,
    pub format: Format,
    /// Of CSV.
    pub columns: Option<Columns>,
    /// Since the Unix epoch.
    pub now: Duration,
}

/// The lines of some rows, and how many of these were at fault.
#[derive(Debug, Default)]
pub struct Lines {
    pub text: String,
    pub bad: u64,
}

type Answer = Result<(f32, Option<Box<Detail>>), String>;

impl Scoring<'_> {
    /// Scores rows, in order; what is at fault with one is told in its line.
    pub fn score(&self, rows: &[Row]) -> Lines {
        let mut lines = Lines::default();
        for piece in rows.chunks(MAX_RECORDS) {
            for (row, answer) in piece.iter().zip(self.answers(piece)) {
                lines.bad += u64::from(answer.is_err());
                match self.format {
                    Format::Ndjson => self.push_json(&mut lines.text, row.line, &answer),
                    Format::Csv => self.push_csv(&mut lines.text, row.line, &answer),
                }
            }
        }
        lines
    }

    fn answers(&self, rows: &[Row]) -> Vec<Answer> {
        let width = self.bundle.plan.width();
        let mut cells = Vec::with_capacity(rows.len() * width);
        let features: Vec<Result<(), String>> =
            rows.iter().map(|row| self.features(row, &mut cells)).collect();
        let count = features.iter().filter(|features| features.is_ok()).count();
        let mut columns = Vec::new();
        let whole = self.bundle.model.run(&cells, count, &mut columns).is_ok();
        let (mut inputs, mut outputs) =
            (cells.chunks_exact(width.max(1)), columns.chunks_exact(self.bundle.model.columns().max(1)));
        let answer = |features: Result<(), String>| {
            features?;
            let (input, output) = (inputs.next().unwrap_or_default(), outputs.next());
            match output.filter(|_| whole) {
                Some(output) => Ok(self.bundle.output.read_whole(output)),
                // Where they fail together, each runs alone: one must not spoil the others.
                None => self.alone(input),
            }
        };
        features.into_iter().map(answer).collect()
    }

    fn alone(&self, input: &[f32]) -> Answer {
        let mut output = Vec::new();
        self.bundle.model.run(input, 1, &mut output).map_err(|error| format!("model: {error}"))?;
        Ok(self.bundle.output.read_whole(&output))
    }

    /// Appends the features of a row.
    fn features(&self, row: &Row, cells: &mut Vec<f32>) -> Result<(), String> {
        if let Some(fault) = row.fault {
            return Err(fault.to_owned());
        }
        let record;
        let body = match &self.columns {
            Some(columns) => {
                record = columns.record(row)?;
                record.as_slice()
            }
            None => &row.text,
        };
        let reading = Reading { now: self.now, values: false };
        let found = self.bundle.plan.extract(body, &[], reading).map_err(|error| error.to_string())?;
        match found.records.as_slice() {
            [record] => record.features.clone().map_err(|error| error.to_string())?,
            many => return Err(format!("one record expected, and {} found", many.len())),
        }
        cells.extend(found.rows);
        Ok(())
    }

    fn push_json(&self, text: &mut String, line: u64, answer: &Answer) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{{\"line\":{line}");
        match answer {
            Err(fault) => {
                let _ = write!(text, ",\"error\":{}", quoted(fault));
            }
            Ok((score, detail)) => {
                let _ = write!(text, ",\"score\":{score}");
                for (name, value) in self.told(detail.as_deref()) {
                    let _ = write!(text, ",\"{name}\":{value}");
                }
            }
        }
        text.push_str("}\n");
    }

    fn push_csv(&self, text: &mut String, line: u64, answer: &Answer) {
        let names = self.names();
        match answer {
            Err(fault) => {
                let _ = write!(text, "{line},,");
                text.push_str(&",".repeat(names.len()));
                text.push_str(&cell(fault));
            }
            Ok((score, detail)) => {
                let _ = write!(text, "{line},{score}");
                for (name, value) in self.told(detail.as_deref()) {
                    // A class is told as it is, whatever has several parts as JSON.
                    let class = detail.as_ref().and_then(|detail| detail.class.as_deref());
                    let value = class.filter(|_| name == "class").map_or(value, str::to_owned);
                    text.push(',');
                    text.push_str(&cell(&value));
                }
                text.push(',');
            }
        }
        text.push('\n');
    }

    /// The header of the output, where it has one.
    pub fn header(&self) -> String {
        match self.format {
            Format::Ndjson => String::new(),
            Format::Csv => {
                let mut header = "line,score".to_owned();
                for name in self.names() {
                    header.push(',');
                    header.push_str(name);
                }
                header.push_str(",error\n");
                header
            }
        }
    }

    /// What is told beside the score.
    fn names(&self) -> &'static [&'static str] {
        match &*self.bundle.output {
            Output::Score => &[],
            Output::Classes(_) => &["class", "probabilities"],
            Output::Ranking(_) => &["items"],
            Output::Embedding => &["embedding"],
        }
    }

    /// The same with its JSON.
    fn told(&self, detail: Option<&Detail>) -> Vec<(&'static str, String)> {
        let Some(detail) = detail else { return Vec::new() };
        let json = |name: &'static str| match name {
            "class" => quoted(detail.class.as_deref().unwrap_or_default()),
            "items" => {
                let item = |item: &foregate_filters::score::Item| {
                    let label = item.label.as_deref().map_or_else(|| "null".to_owned(), quoted);
                    format!("{{\"key\":{},\"label\":{label},\"score\":{}}}", quoted(&item.key), item.score)
                };
                array(detail.items.iter().map(item))
            }
            _ => array(detail.values.iter().map(ToString::to_string)),
        };
        self.names().iter().map(|name| (*name, json(name))).collect()
    }
}

fn array(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A cell of CSV (RFC 4180). What a spreadsheet would take for a formula is told as text.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
