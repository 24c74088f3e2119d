//! What a model says beside the score, and where it goes.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bands::Bands;
use crate::context::{Beside, RequestContext};
use crate::decimal;
use crate::edits::HeaderEdit;
use crate::percent;
use crate::score::{Detail, Item, Reasons, RecordScore};

/// Records whose reasons are kept with the decision: a batch must not fill the log.
const KEPT_REASONS: usize = 8;

/// Longest list in a header, in bytes: services take no longer heads. Beyond it the header is left out.
const MAX_LIST: usize = 8 * 1024;

/// Where the class goes whose probability the score is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "EnrichClass")]
pub struct ClassSpec {
    /// JSON pointer, one level deep, to the field of each record that gets the class, such as `/Case_Queue__c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Request header for the class; several records give a comma-separated list in their order. Left out where that
    /// has over 8 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

/// Where the best items of a ranking go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "EnrichRanking")]
pub struct RankingSpec {
    /// JSON pointer, one level deep, to the field of each record that gets the keys of the items, as a JSON array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Request header for the keys, joined by `;`; several records give a comma-separated list in their order. Left out
    /// where that has over 8 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Items that are told, at most as many as the model ranks; all of those where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub count: Option<u16>,
    /// True: the field holds objects `{"key": .., "score": ..}` in place of keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scores: bool,
    /// True: the field holds the array as text, for fields that take no other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_text: bool,
}

/// Where the reasons go, of the records that are explained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "EnrichReasons")]
pub struct ReasonsSpec {
    /// JSON pointer, one level deep, to the field of each record that gets the reasons, as Salesforce tells
    /// predictions: `[{"contributionValue": .., "predictorFields": [{"label": .., "name": .., "value": ..}]}]`.
    pub body: String,
    /// True: the field holds the array as text, for fields that take no other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_text: bool,
}

/// Which requests are explained. Reasons cost more than the score: they are sought on the threads of the model, once the
/// scores are known. No record is begun with after half of the time that the model has, which for a canary is half of
/// the deadline; it and those behind it are scored without reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "EnrichExplain")]
pub struct ExplainSpec {
    /// So many of a hundred requests, 1 to 100. Of cases none, unless it is 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: Option<u8>,
    /// Requests that bring this header with the value `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_request: Option<String>,
}

/// A place of its own: a header, a member of each record, or both.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) header: Option<HeaderName>,
    /// JSON text with quotes and colon.
    pub(super) member: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Ranking {
    pub(super) place: Place,
    pub(super) count: usize,
    pub(super) scores: bool,
    pub(super) as_text: bool,
}

#[derive(Debug)]
pub(super) struct Explain {
    pub(super) percent: u8,
    pub(super) on_request: Option<HeaderName>,
}

/// The places of one rule for what is no score.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) class: Option<Place>,
    pub(super) ranking: Option<Ranking>,
    pub(super) band: Option<(Bands, Place)>,
    /// The member, and true where it holds text.
    pub(super) reasons: Option<(Box<str>, bool)>,
    pub(super) explain: Option<Explain>,
}

impl Places {
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let places = [
            self.class.as_ref(),
            self.ranking.as_ref().map(|ranking| &ranking.place),
            self.band.as_ref().map(|(_, place)| place),
        ];
        places.into_iter().flatten().filter_map(|place| place.header.as_ref())
    }

    /// True where this request is explained; the same for one request whenever it is asked.
    pub(super) fn explains(&self, head: &request::Parts, ctx: &RequestContext) -> bool {
        let Some(explain) = &self.explain else { return false };
        let asked = |name: &HeaderName| {
            head.headers.get(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
        };
        // Cases come from no port: whether they are drawn must not depend on when they run.
        let drawn = || ctx.client.peer.port() != 0 && draw(ctx) < u64::from(explain.percent);
        explain.on_request.as_ref().is_some_and(asked) || explain.percent == 100 || drawn()
    }

    /// Appends the members of one record, each with a comma before it where text stands there already.
    pub(super) fn push_members(&self, text: &mut String, detail: Option<&Detail>, score: f32) {
        let begin = |text: &mut String, member: &str| {
            text.push_str(if text.is_empty() { "" } else { "," });
            text.push_str(member);
        };
        let class = detail.and_then(|detail| detail.class.as_deref());
        if let Some((place, class)) = self.class.as_ref().zip(class)
            && let Some(member) = &place.member
        {
            begin(text, member);
            push_quoted(text, class);
        }
        let items = detail.map(|detail| detail.items.as_slice()).filter(|items| !items.is_empty());
        if let Some((ranking, items)) = self.ranking.as_ref().zip(items)
            && let Some(member) = &ranking.place.member
        {
            begin(text, member);
            push_json(text, ranking.as_text, |text| ranking.push(text, items));
        }
        if let Some((bands, place)) = &self.band
            && let Some(member) = &place.member
        {
            begin(text, member);
            push_quoted(text, bands.name(score));
        }
        let reasons = detail.and_then(|detail| detail.reasons.as_ref());
        if let Some(((member, as_text), reasons)) = self.reasons.as_ref().zip(reasons) {
            begin(text, member);
            push_json(text, *as_text, |text| reasons.push_json(text));
        }
    }

    /// Lists of one entry a record, in their order.
    pub(super) fn edit_headers(&self, records: &[RecordScore], scores: &[f32], ctx: &mut RequestContext) {
        let details = || records.iter().map(|record| record.detail.as_deref());
        if let Some(header) = self.class.as_ref().and_then(|place| place.header.as_ref()) {
            let classes =
                details().map(|detail| detail.and_then(|it| it.class.as_deref()).unwrap_or_default());
            set(header, list(classes, push_plain), ctx);
        }
        if let Some((ranking, header)) =
            self.ranking.as_ref().and_then(|it| Some((it, it.place.header.as_ref()?)))
        {
            let items = details().map(|detail| detail.map(|it| it.items.as_slice()).unwrap_or_default());
            set(header, list(items, |text, items| ranking.push_keys(text, items)), ctx);
        }
        if let Some((bands, header)) =
            self.band.as_ref().and_then(|(bands, place)| Some((bands, place.header.as_ref()?)))
        {
            let names = scores.iter().map(|score| bands.name(*score));
            set(header, list(names, |text, name| push_plain(text, name)), ctx);
        }
    }

    fn bands(&self, scores: &[f32]) -> Box<[Arc<str>]> {
        let bands = self.band.as_ref().map(|(bands, _)| bands);
        bands
            .into_iter()
            .flat_map(|bands| scores.iter().map(|score| Arc::clone(bands.name(*score))))
            .collect()
    }
}

impl Ranking {
    /// Appends the JSON array.
    fn push(&self, text: &mut String, items: &[Item]) {
        text.push('[');
        for (place, item) in items.iter().take(self.count).enumerate() {
            text.push_str(if place == 0 { "" } else { "," });
            if self.scores {
                text.push_str("{\"key\":");
                push_quoted(text, &item.key);
                text.push_str(",\"score\":");
                decimal::push_score(text, item.score);
                text.push('}');
            } else {
                push_quoted(text, &item.key);
            }
        }
        text.push(']');
    }

    fn push_keys(&self, text: &mut String, items: &[Item]) {
        for (place, item) in items.iter().take(self.count).enumerate() {
            text.push_str(if place == 0 { "" } else { ";" });
            push_plain(text, &item.key);
        }
    }
}

/// What is kept of it as a fact; nothing where the model says no more than the score.
pub(super) fn fact(places: Option<&Places>, records: &[RecordScore], scores: &[f32]) -> Option<Box<Beside>> {
    let details = || records.iter().map(|record| record.detail.as_deref());
    let class = |detail: Option<&Detail>| detail.and_then(|detail| detail.class.clone());
    let any_class = details().any(|detail| detail.is_some_and(|detail| detail.class.is_some()));
    let reasons = |detail: Option<&Detail>| detail.and_then(|detail| detail.reasons.clone());
    let reasoned = details().any(|detail| detail.is_some_and(|detail| detail.reasons.is_some()));
    let banded = places.is_some_and(|places| places.band.is_some());
    if !any_class && !reasoned && !banded {
        return None;
    }
    let classes = details().take(if any_class { records.len() } else { 0 });
    let classes = classes.map(|it| class(it).unwrap_or_default()).collect();
    let kept = if reasoned { KEPT_REASONS } else { 0 };
    let reasons: Box<[Option<Reasons>]> = details().take(kept).map(reasons).collect();
    let bands = places.map(|places| places.bands(scores)).unwrap_or_default();
    Some(Box::new(Beside { classes, bands, reasons }))
}

/// A number under a hundred, the same for one request whenever it is asked: the finalizer of splitmix64.
fn draw(ctx: &RequestContext) -> u64 {
    let nanos = ctx.moment.unix.as_nanos() ^ u128::from(ctx.client.peer.port()) << 40;
    let mut word = u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or_default();
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) % 100
}

fn set(header: &HeaderName, list: String, ctx: &mut RequestContext) {
    ctx.edits.request.push(match HeaderValue::try_from(list) {
        Ok(value) if !value.is_empty() => HeaderEdit::Set(header.clone(), value),
        _ => HeaderEdit::Remove(header.clone()),
    });
}

fn list<T>(entries: impl Iterator<Item = T>, mut push: impl FnMut(&mut String, T)) -> String {
    let mut text = String::new();
    for (place, entry) in entries.enumerate() {
        text.push_str(if place == 0 { "" } else { "," });
        push(&mut text, entry);
        if text.len() > MAX_LIST {
            return String::new();
        }
    }
    text
}

/// Appends a word of a header list: what would end it, or cannot stand in a header, is percent-encoded.
fn push_plain(text: &mut String, word: &str) {
    percent::push(text, word.bytes(), |byte| !matches!(byte, b',' | b';' | b'%' | b'"' | ..0x20 | 0x7f..));
}

/// Appends a JSON string.
fn push_quoted(text: &mut String, word: &str) {
    if word.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        text.push('"');
        text.push_str(word);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(word).to_string());
    }
}

/// Appends JSON as it is, or as a JSON string.
fn push_json(text: &mut String, as_text: bool, push: impl FnOnce(&mut String)) {
    if as_text {
        let mut json = String::new();
        push(&mut json);
        push_quoted(text, &json);
    } else {
        push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::{draw, push_plain, push_quoted};
    use crate::testing::get;
    use std::time::Duration;

    #[test]
    fn words_of_a_list_cannot_end_it() {
        for (word, plain, quoted) in [
            ("Account access", "Account access", "\"Account access\""),
            ("a,b;c%", "a%2Cb%3Bc%25", "\"a,b;c%\""),
            ("Z\u{fc}rich\n", "Z%C3%BCrich%0A", "\"Z\u{fc}rich\\n\""),
            ("\"\\", "%22\\", "\"\\\"\\\\\""),
            ("", "", "\"\""),
        ] {
            let (mut header, mut json) = (String::new(), String::new());
            push_plain(&mut header, word);
            push_quoted(&mut json, word);
            assert_eq!((header.as_str(), json.as_str()), (plain, quoted));
        }
    }

    #[test]
    fn so_many_of_a_hundred_are_drawn_and_each_always_alike() {
        let mut call = get("/");
        let drawn = (0..20_000_u64).filter(|number| {
            // Arrivals a microsecond apart, as clocks of some machines tell them.
            call.moment.unix = Duration::from_hours(500_000) + Duration::from_micros(*number);
            let ctx = call.context();
            assert_eq!(draw(&ctx), draw(&ctx));
            draw(&ctx) < 5
        });
        let drawn = drawn.count();
        assert!((850..1_150).contains(&drawn), "{drawn} of 20,000 are not 5 %");
    }
}
