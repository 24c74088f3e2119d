//! Records as lines of the combined log format of Apache and nginx.

use std::fmt::Write;
use std::time::Duration;

use crate::telemetry::json::Timestamp;
use crate::telemetry::record::{Protocol, Record};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends `client - user [time] "request" status bytes "referer" "agent"`, without a line break.
///
/// Whatever could end a field or a line, or is no printable ASCII, is `\xHH`, as nginx has it.
pub fn write(record: &Record, line: &mut Vec<u8>) {
    let mut text = String::with_capacity(256);
    let _ = write!(text, "{} - ", record.client);
    match record.subject.as_ref().map(|principal| &*principal.subject).filter(|subject| !subject.is_empty()) {
        Some(subject) => escape(subject, true, &mut text),
        None => text.push('-'),
    }
    time(record.moment.unix, &mut text);
    if record.protocol.is_stream() {
        text.push_str("\"-\" 0 ");
    } else {
        text.push('"');
        escape(record.method.as_str(), true, &mut text);
        text.push(' ');
        escape(&record.path, true, &mut text);
        let version = if record.protocol == Protocol::Http2 { "2.0" } else { record.protocol.version() };
        let _ = write!(text, " HTTP/{version}\" {} ", record.status);
    }
    let _ = write!(text, "{}", record.bytes_sent);
    let came = record.came_with.as_deref();
    for field in [came.map(|came| &came.referer), came.map(|came| &came.agent)] {
        text.push_str(" \"");
        match field.filter(|field| !field.is_empty()) {
            Some(field) => escape(field, false, &mut text),
            None => text.push('-'),
        }
        text.push('"');
    }
    line.extend_from_slice(text.as_bytes());
}

/// ` [21/Sep/2026:14:13:20 +0000] `
fn time(unix: Duration, text: &mut String) {
    let iso = Timestamp(unix).to_string();
    let part = |from: usize, to: usize| iso.get(from..to).unwrap_or("00");
    let month = part(5, 7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let _ =
        write!(text, " [{}/{}/{}:{} +0000] ", part(8, 10), month.unwrap_or(&"Jan"), part(0, 4), part(11, 19));
}

fn escape(value: &str, spaces: bool, text: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => drop(write!(text, "\\x{byte:02X}")),
            b' ' if spaces => text.push_str("\\x20"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => drop(write!(text, "\\x{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::telemetry::ecs::Ecs;
    use crate::telemetry::json;
    use crate::telemetry::record::{CameWith, Record};
    use crate::telemetry::testing::{full_record, record};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use serde_json::Value;

    fn line(record: &Record) -> String {
        let mut line = Vec::new();
        write(record, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_is_that_of_apache_and_nginx() {
        let mut record = record();
        record.came_with =
            Some(Box::new(CameWith { agent: "curl/8 \"x\"".into(), referer: "https://a.example/b".into() }));
        assert_eq!(
            line(&record),
            "203.0.113.7 - - [21/Sep/2026:14:13:20 +0000] \"POST /services/data/v62.0/sobjects/Lead HTTP/2.0\" 201 64 \
             \"https://a.example/b\" \"curl/8 \\x22x\\x22\""
        );
        assert!(line(&full_record()).starts_with("203.0.113.7 - uid:005 ["));
        assert!(line(&full_record()).ends_with(" 429 64 \"-\" \"-\""));
    }

    /// Fields of a combined line, read as log readers do: by quotes, brackets and spaces.
    fn fields(line: &str) -> Vec<String> {
        let (mut fields, mut rest) = (Vec::new(), line);
        while !rest.is_empty() {
            let end = match rest.as_bytes()[0] {
                b'"' => rest[1..].find('"').unwrap() + 2,
                b'[' => rest.find(']').unwrap() + 1,
                _ => rest.find(' ').unwrap_or(rest.len()),
            };
            fields.push(rest[..end].to_owned());
            rest = rest[end..].strip_prefix(' ').unwrap_or(&rest[end..]);
        }
        fields
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_breaks_a_line_in_any_format(
            path in any::<String>(), host in any::<String>(), agent in any::<String>(),
            referer in any::<String>(), detail in any::<String>(), rule in any::<String>(),
        ) {
            let mut record = full_record();
            (record.path, record.host) = (path.clone().into(), host.clone().into());
            let refusal = record.refusal.as_mut().unwrap();
            (refusal.detail, refusal.rule) = (detail.clone().into(), rule.into());
            record.came_with = Some(Box::new(CameWith { agent: agent.clone().into(), referer: referer.into() }));

            let combined = line(&record);
            prop_assert!(combined.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{combined}");
            prop_assert_eq!(fields(&combined).len(), 9, "{}", combined);

            let (mut plain, mut ecs) = (Vec::new(), Vec::new());
            json::write(&record, &mut plain).unwrap();
            json::write(&Ecs(&record), &mut ecs).unwrap();
            for text in [&plain, &ecs] {
                prop_assert!(text.iter().all(|byte| (0x20..0x7f).contains(byte)));
                let value: Value = serde_json::from_slice(text).unwrap();
                prop_assert_eq!(&value["url.path"], &path);
                prop_assert_eq!(&value["foregate.detail"], &detail);
            }
            let value: Value = serde_json::from_slice(&ecs).unwrap();
            prop_assert_eq!(&value["user_agent.original"], &agent);
            prop_assert_eq!(&value["url.domain"], &host);
        }
    }
}
