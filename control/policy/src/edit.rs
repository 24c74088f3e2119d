//! Changes members of a document in its text; comments and layout stay.

use std::ops::Range;

use crate::node::{Node, NodeKind, Style};
use crate::parse::parse;

/// Sets a member of the mapping at `way` to a plain word, in the first document that `fits`. A member that is
/// not there yet is put behind the first one.
///
/// `None` where there is no such document or mapping, or where its text cannot be changed without harm.
pub fn set(text: &str, fits: impl Fn(&Node) -> bool, way: &[&str], key: &str, word: &str) -> Option<String> {
    let root = document(text, fits)?;
    let mapping = way.iter().try_fold(&root, |node, key| node.key(key))?;
    let NodeKind::Map(members) = &mapping.kind else { return None };
    let word = quoted(word);
    if let Some(member) = members.iter().find(|member| member.key == key) {
        let plain = matches!(member.value.kind, NodeKind::Text(_) | NodeKind::Number(_));
        return (plain && member.value.style != Style::Block)
            .then(|| splice(text, &member.value.span, &word))?;
    }
    let first = members.first()?;
    let end = end(text, &first.value);
    if is_flow(text, mapping) {
        return splice(text, &(end..end), &format!(", {key}: {word}"));
    }
    let line = line(text, first.key_span.start);
    let indent = text.get(line.start..first.key_span.start)?;
    if !indent.bytes().all(|byte| byte == b' ') {
        return None;
    }
    let after = self::line(text, end).end;
    splice(text, &(after..after), &format!("\n{indent}{key}: {word}"))
}

/// Takes a member out of the mapping at `way`, in the first document that `fits`; the text as it is where there
/// is no such member. `None` as for [`set`], and where nothing would be left of the mapping.
pub fn remove(text: &str, fits: impl Fn(&Node) -> bool, way: &[&str], key: &str) -> Option<String> {
    let root = document(text, fits)?;
    let mapping = way.iter().try_fold(&root, |node, key| node.key(key))?;
    let NodeKind::Map(members) = &mapping.kind else { return None };
    let Some(place) = members.iter().position(|member| member.key == key) else {
        return Some(text.to_owned());
    };
    let member = members.get(place)?;
    if members.len() == 1 {
        return None;
    }
    let until = end(text, &member.value);
    if is_flow(text, mapping) {
        let before =
            place.checked_sub(1).and_then(|place| members.get(place)).map(|member| end(text, &member.value));
        let range = match (members.get(place + 1), before) {
            (Some(next), _) => member.key_span.start..next.key_span.start,
            (None, before) => before?..until,
        };
        return splice(text, &range, "");
    }
    let start = line(text, member.key_span.start).start;
    if !text.get(start..member.key_span.start)?.bytes().all(|byte| byte == b' ') {
        return None;
    }
    let stop = line(text, until).end;
    splice(text, &(start..text.len().min(stop + 1)), "")
}

fn document(text: &str, fits: impl Fn(&Node) -> bool) -> Option<Node> {
    parse(text).documents.into_iter().find(|root| fits(root))
}

/// True for `{ a: 1 }` and `[1]`.
fn is_flow(text: &str, node: &Node) -> bool {
    matches!(text.as_bytes().get(node.span.start), Some(b'{' | b'['))
}

/// Where a value ends: behind its closing bracket, or its last scalar. The span of a block reaches to what follows it.
fn end(text: &str, node: &Node) -> usize {
    let inner = match &node.kind {
        _ if is_flow(text, node) => None,
        NodeKind::Map(members) => members.last().map(|member| &member.value),
        NodeKind::List(items) => items.last(),
        _ => None,
    };
    inner.map_or(node.span.end, |inner| end(text, inner))
}

/// The line of this byte, without its end.
fn line(text: &str, at: usize) -> Range<usize> {
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    let end = text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |end| at + end);
    start..end
}

/// The word as YAML, in quotes where it would be read as something else.
fn quoted(word: &str) -> String {
    let plain = word.starts_with(|first: char| first.is_ascii_alphabetic())
        && !["true", "false", "null"].contains(&word)
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain { word.to_owned() } else { serde_json::Value::from(word).to_string() }
}

fn splice(text: &str, range: &Range<usize>, new: &str) -> Option<String> {
    Some([text.get(..range.start)?, new, text.get(range.end..)?].concat())
}

#[cfg(test)]
mod tests {
    use super::{remove, set};
    use crate::node::Node;

    fn model(root: &Node) -> bool {
        root.key("kind").and_then(Node::text) == Some("Model")
    }

    const WAY: [&str; 2] = ["spec", "rollout"];

    const BLOCK: &str = "\
# The scores of leads.
kind: Policy
spec: { rollout: { production: other } }
---
kind: Model
spec:
  rollout:
    # decides
    production: v1 # since May
    canary:
      version: v2
      percent: 10 # for a start
    guardrails: { p99: 5ms }
  placement: Auto
";

    const FLOW: &str = "kind: Model # a\nspec:\n  rollout: { production: v1, canary: { version: v2, percent: 10 }, \
                        guardrails: { p99: 5ms } } # b\n";

    #[test]
    fn a_member_is_replaced_put_in_and_taken_out_where_mappings_are_blocks() {
        let text = set(BLOCK, model, &WAY, "production", "v2").unwrap();
        assert_eq!(text, BLOCK.replace("production: v1", "production: v2"));
        let text = set(BLOCK, model, &WAY, "previous", "v1").unwrap();
        assert_eq!(text, BLOCK.replace("since May\n", "since May\n    previous: v1\n"));
        let text = remove(BLOCK, model, &WAY, "canary").unwrap();
        let canary = "    canary:\n      version: v2\n      percent: 10 # for a start\n";
        assert!(BLOCK.contains(canary));
        assert_eq!(text, BLOCK.replace(canary, ""));
        let text = remove(BLOCK, model, &WAY, "guardrails").unwrap();
        assert_eq!(text, BLOCK.replace("    guardrails: { p99: 5ms }\n", ""));
        assert_eq!(remove(BLOCK, model, &WAY, "shadow").as_deref(), Some(BLOCK));
    }

    #[test]
    fn a_member_is_replaced_put_in_and_taken_out_where_mappings_are_in_one_line() {
        let text = set(FLOW, model, &WAY, "production", "v2").unwrap();
        assert_eq!(text, FLOW.replace("production: v1", "production: v2"));
        let text = set(FLOW, model, &WAY, "previous", "1").unwrap();
        assert_eq!(text, FLOW.replace("production: v1", "production: v1, previous: \"1\""));
        let text = remove(FLOW, model, &WAY, "canary").unwrap();
        assert_eq!(text, FLOW.replace("canary: { version: v2, percent: 10 }, ", ""));
        let text = remove(FLOW, model, &WAY, "guardrails").unwrap();
        assert_eq!(text, FLOW.replace(", guardrails: { p99: 5ms }", ""));
    }

    #[test]
    fn what_cannot_be_found_is_not_changed() {
        assert_eq!(set(BLOCK, |_| false, &WAY, "production", "v2"), None);
        assert_eq!(set(BLOCK, model, &["spec", "nothing"], "production", "v2"), None);
        assert_eq!(set(BLOCK, model, &WAY, "canary", "v2"), None, "a mapping is no word");
        assert_eq!(remove("kind: Model\nspec: { rollout: { a: 1 } }\n", model, &WAY, "a"), None);
    }
}
