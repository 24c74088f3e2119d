//! Where references lead: within one document, and nowhere else.

use ahash::AHashMap;
use serde_json::Value;

use crate::validate::tape::push_token;

/// The places of one document that references may name.
#[derive(Debug)]
pub struct References<'d> {
    root: &'d Value,
    /// `$id` of the document, without fragment.
    id: &'d str,
    /// Pointers by anchor; `None` where two places have the same one.
    anchors: AHashMap<&'d str, Option<String>>,
}

impl<'d> References<'d> {
    pub fn new(root: &'d Value) -> Self {
        let id = root.get("$id").and_then(Value::as_str).unwrap_or_default();
        let id = id.strip_suffix('#').unwrap_or(id);
        Self { root, id, anchors: anchors(root) }
    }

    /// The value that a reference names, with its pointer; why there is none otherwise.
    pub fn resolve(&self, reference: &str) -> Result<(&'d Value, String), String> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        if !document.is_empty() && (document != self.id || self.id.is_empty()) {
            return Err(format!(
                "`{reference}` leads to another document, and nothing is fetched or read for it"
            ));
        }
        let fragment = decode(fragment).ok_or_else(|| format!("`{reference}` is not a reference"))?;
        let pointer = if fragment.is_empty() || fragment.starts_with('/') {
            fragment
        } else {
            match self.anchors.get(&*fragment) {
                Some(Some(pointer)) => pointer.clone(),
                Some(None) => return Err(format!("two places have the anchor `{fragment}`")),
                None => return Err(format!("no place has the anchor `{fragment}`")),
            }
        };
        let found = self.root.pointer(&pointer).map(|value| (value, pointer));
        found.ok_or_else(|| format!("`{reference}` leads nowhere"))
    }
}

/// Escapes of a URI fragment resolved (RFC 6901, section 6).
fn decode(fragment: &str) -> Option<String> {
    if !fragment.contains('%') {
        return Some(fragment.to_owned());
    }
    crate::validate::text::percent_decode(fragment, false)
}

/// Every `$anchor` and `$dynamicAnchor`. Within one resource, a dynamic anchor is the only one of its name, so that
/// it is an anchor like others (core, section 8.2.3.2).
fn anchors(root: &Value) -> AHashMap<&str, Option<String>> {
    let mut found: AHashMap<&str, Option<String>> = AHashMap::new();
    let mut open = vec![(root, String::new())];
    while let Some((value, pointer)) = open.pop() {
        match value {
            Value::Object(members) => {
                let mut here: Vec<&str> = ["$anchor", "$dynamicAnchor"]
                    .into_iter()
                    .filter_map(|keyword| members.get(keyword)?.as_str())
                    .collect();
                here.dedup();
                for anchor in here {
                    let place = Some(pointer.clone());
                    found.entry(anchor).and_modify(|known| *known = None).or_insert(place);
                }
                let plain =
                    |name: &str| !matches!(name, "enum" | "const" | "default" | "examples" | "example");
                for (name, member) in members.iter().filter(|(name, _)| plain(name)) {
                    if member.is_object() || member.is_array() {
                        open.push((member, below(&pointer, name)));
                    }
                }
            }
            Value::Array(elements) => {
                let all = elements.iter().enumerate();
                open.extend(all.map(|(place, element)| (element, below(&pointer, &place.to_string()))));
            }
            _ => {}
        }
    }
    found
}

/// The pointer to a member or element.
pub fn below(pointer: &str, token: &str) -> String {
    let mut below = String::with_capacity(pointer.len() + token.len() + 1);
    below.push_str(pointer);
    below.push('/');
    push_token(&mut below, token);
    below
}
