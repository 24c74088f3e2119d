//! How commands write: for people, editors, scanners and pull requests.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use foregate_policy::diagnostic::Diagnostic;
use foregate_policy::render::{self, render};

use crate::telemetry::event;

/// Who reads the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// People: the line with a caret; in colour on a terminal, unless `NO_COLOR` is set.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
    /// A SARIF 2.1.0 log, for code scanning.
    Sarif,
    /// Workflow commands of GitHub.
    Github,
}

/// Who reads output that names no places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum TextFormat {
    /// People.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl From<TextFormat> for Format {
    fn from(format: TextFormat) -> Self {
        match format {
            TextFormat::Human => Self::Human,
            TextFormat::Json => Self::Json,
        }
    }
}

/// True where this stream may be coloured (<https://no-color.org>).
fn color(terminal: bool) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    terminal && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes diagnostics: to standard error for people, to standard output for programs.
pub(super) fn diagnostics(diagnostics: &[Diagnostic], format: Format) {
    let format = match format {
        Format::Human => {
            let format = render::Format::Human { color: color(io::stderr().is_terminal()) };
            return error(render(diagnostics, format).trim_end_matches('\n'));
        }
        Format::Json => render::Format::Json,
        Format::Sarif => render::Format::Sarif,
        Format::Github => render::Format::Github,
    };
    text(&render(diagnostics, format));
}

/// Writes to standard output. Where the reader is gone, so is the text.
pub(super) fn text(text: &str) {
    let _ = written(text);
}

/// Writes to standard output; false where the reader is gone.
pub(super) fn written(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Colours of a terminal that are few enough to mean something (ECMA-48, section 8.3.117).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Bold,
    Faint,
    Warn,
    Bad,
    Good,
}

/// Paints text where standard output is a terminal that may be coloured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    pub(super) fn stdout() -> Self {
        Self(color(io::stdout().is_terminal()))
    }

    pub(super) fn paint(self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Bold => 1,
            Tone::Faint => 2,
            Tone::Bad => 31,
            Tone::Good => 32,
            Tone::Warn => 33,
            Tone::Plain => return text.to_owned(),
        };
        if self.0 && !text.trim().is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes a line to standard output.
pub(super) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Writes a line to standard error, behind all events so far; nothing for no text, nor where nobody reads those: a
/// process must end all the same.
pub(super) fn error(text: &str) {
    if !text.is_empty() && event::flush(event::LAST) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

/// A count with its noun: `1 file`, `2 files`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The text without anything that could steer a terminal: control characters and what is not ASCII are
/// escaped, since the text may hold what a client sent.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() && !letter.is_ascii_control() {
            safe.push(letter);
        } else {
            safe.extend(letter.escape_unicode());
        }
    }
    safe
}
