//! Writes values as YAML in block style, a line for each.

use std::fmt::Write;

use serde_json::Value;

/// The document as text, with a line break at its end. Strings are quoted, so that none is taken for a number.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (at, (key, value)) in members.iter().enumerate() {
                if at > 0 {
                    indent(depth, out);
                }
                out.push_str(&word(key));
                out.push(':');
                below(value, depth, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    indent(depth, out);
                }
                out.push_str("- ");
                block(item, depth + 1, out);
            }
        }
        scalar => {
            // Strings as JSON has them are strings of YAML; so are numbers, `{}`, `[]`, `null`.
            out.push_str(&printable(&scalar.to_string()));
            out.push('\n');
        }
    }
}

/// What stands behind a key.
fn below(value: &Value, depth: usize, out: &mut String) {
    let nested = match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        indent(depth + 1, out);
        block(value, depth + 1, out);
    } else {
        out.push(' ');
        block(value, depth, out);
    }
}

fn indent(depth: usize, out: &mut String) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn word(key: &str) -> String {
    let plain = key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'));
    // `true`, `null`, `y` and their like stand for something else somewhere.
    if plain && key.len() > 5 || matches!(key, "kind" | "name" | "spec" | "type" | "value" | "path" | "port")
    {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// A string in double quotes.
pub fn quoted(text: &str) -> String {
    printable(&Value::from(text).to_string())
}

/// JSON with what YAML does not take for printable (YAML 1.2.2, 5.1) written as escapes.
fn printable(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        if matches!(letter, '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') {
            let _ = write!(text, "\\u{:04x}", u32::from(letter));
        } else {
            text.push(letter);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::write;
    use foregate_policy::parse::parse;
    use serde_json::json;

    #[test]
    fn what_is_written_reads_back_as_it_was() {
        let value = json!({
            "apiVersion": "v1", "empty": {}, "none": [], "null": null, "y": "y", "a b": "x: y # z",
            "text": "line\nline\t\"quoted\" \\ \u{1}\u{7f}\u{9b}\u{feff} ü \u{2028} 😀 ---\n--- x", "number": -1.5, "big": 18_446_744_073_709_551_615_u64,
            "list": ["1", 1, true, ["a", ["b"]], { "k": [{ "x": 1, "y": { "z": [] } }, "s"] }],
            "true": "true", "1": "0x10"
        });
        let text = write(&value);
        let parsed = parse(&text);
        assert_eq!(parsed.faults, [], "{text}");
        assert_eq!(parsed.documents.len(), 1, "{text}");
        assert_eq!(parsed.documents[0].to_json(), value, "{text}");
        assert!(text.contains("\napiVersion:") || text.starts_with("apiVersion:"), "{text}");
    }
}
