//! Diagnostics for people, editors, scanners and pull requests.

use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With the line and a caret; in colour where the terminal shows it.
    Human { color: bool },
    /// One JSON object a line.
    Json,
    /// A SARIF 2.1.0 log.
    Sarif,
    /// Workflow commands of GitHub, one a line.
    Github,
}

/// Characters of a source line that are shown; a longer one is cut around the fault.
const SHOWN: usize = 160;

/// Writes diagnostics; empty for none, but for SARIF, which is a whole log in any case.
pub fn render(diagnostics: &[Diagnostic], format: Format) -> String {
    match format {
        Format::Human { color } => {
            let renderer = if color { Renderer::styled() } else { Renderer::plain() };
            let renderer = renderer.decor_style(DecorStyle::Ascii);
            diagnostics.iter().map(|diagnostic| human(diagnostic, &renderer) + "\n\n").collect()
        }
        Format::Json => {
            diagnostics.iter().map(|diagnostic| json_line(diagnostic).to_string() + "\n").collect()
        }
        Format::Sarif => format!("{:#}\n", sarif(diagnostics)),
        Format::Github => diagnostics.iter().map(|diagnostic| github(diagnostic) + "\n").collect(),
    }
}

fn human(diagnostic: &Diagnostic, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code.to_string());
    let group = if diagnostic.line == 0 {
        title.element(Origin::path(diagnostic.file.as_str()))
    } else {
        let (line, span) = excerpt(diagnostic);
        let snippet = Snippet::source(line)
            .line_start(diagnostic.line)
            .path(diagnostic.file.as_str())
            .annotation(AnnotationKind::Primary.span(span));
        title.element(snippet)
    };
    let help =
        diagnostic.help.iter().map(|help| Group::with_title(Level::HELP.secondary_title(help.as_str())));
    let groups: Vec<Group<'_>> = std::iter::once(group).chain(help).collect();
    renderer.render(&groups)
}

/// The line, and the bytes of it to underline: at least one, none behind its end.
fn excerpt(diagnostic: &Diagnostic) -> (&str, Range<usize>) {
    let line = diagnostic.source_line.as_str();
    let byte =
        |column: usize| line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    let start = byte(diagnostic.column);
    let end = if diagnostic.end.0 == diagnostic.line { byte(diagnostic.end.1) } else { line.len() };
    let end = end.max(byte(diagnostic.column + 1));
    if line.chars().count() <= SHOWN {
        return (line, start..end);
    }
    let cut = byte(SHOWN.max(diagnostic.column + SHOWN / 2));
    (line.get(..cut).unwrap_or(line), start..end.min(cut))
}

fn severity(diagnostic: &Diagnostic) -> &'static str {
    match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn json_line(diagnostic: &Diagnostic) -> Value {
    json!({
        "code": diagnostic.code.to_string(),
        "severity": severity(diagnostic),
        "file": diagnostic.file,
        "line": diagnostic.line,
        "column": diagnostic.column,
        "endLine": diagnostic.end.0,
        "endColumn": diagnostic.end.1,
        "message": diagnostic.message,
        "help": diagnostic.help,
    })
}

fn sarif(diagnostics: &[Diagnostic]) -> Value {
    let rules: Vec<Value> = codes::all()
        .filter(|entry| diagnostics.iter().any(|diagnostic| diagnostic.code == entry.code))
        .map(|entry| {
            json!({
                "id": entry.code.to_string(),
                "shortDescription": { "text": entry.title },
                "fullDescription": { "text": entry.explanation },
            })
        })
        .collect();
    let results: Vec<Value> = diagnostics
        .iter()
        .map(|diagnostic| {
            let artifact = json!({ "uri": diagnostic.file.replace(' ', "%20") });
            let location = if diagnostic.line == 0 {
                json!({ "artifactLocation": artifact })
            } else {
                let region = json!({
                    "startLine": diagnostic.line,
                    "startColumn": diagnostic.column,
                    "endLine": diagnostic.end.0,
                    "endColumn": diagnostic.end.1,
                });
                json!({ "artifactLocation": artifact, "region": region })
            };
            json!({
                "ruleId": diagnostic.code.to_string(),
                "level": severity(diagnostic),
                "message": { "text": with_help(diagnostic) },
                "locations": [{ "physicalLocation": location }],
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "foregate",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn with_help(diagnostic: &Diagnostic) -> String {
    match &diagnostic.help {
        Some(help) => format!("{}; {help}", diagnostic.message),
        None => diagnostic.message.clone(),
    }
}

fn github(diagnostic: &Diagnostic) -> String {
    let text = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |value: &str| text(value).replace(':', "%3A").replace(',', "%2C");
    let place = if diagnostic.line == 0 {
        String::new()
    } else {
        let (line, column) = (diagnostic.line, diagnostic.column);
        let (end_line, end_column) = diagnostic.end;
        format!(",line={line},col={column},endLine={end_line},endColumn={end_column}")
    };
    format!(
        "::{} file={}{place},title={}::{}",
        severity(diagnostic),
        property(&diagnostic.file),
        diagnostic.code,
        text(&with_help(diagnostic))
    )
}
