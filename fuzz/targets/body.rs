//! A body that passes is one value to another parser too; no body panics.
#![no_main]

use std::sync::LazyLock;

use foregate_filters::validate::decode::decode;
use foregate_filters::validate::findings;
use foregate_filters::validate::limits::Limits;
use foregate_filters::validate::media::Coding;
use foregate_filters::validate::schema::Set;
use foregate_filters::validate::schema::compile::{Compiler, Dialect, Direction, Options};
use foregate_filters::validate::tape::{Tape, read};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// Every kind of rule, and references back to the top.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "type": ["object", "array", "string"],
        "required": ["LastName"],
        "properties": {
            "LastName": { "type": "string", "minLength": 1, "maxLength": 8, "pattern": "^[A-Za-z]+$" },
            "AnnualRevenue": { "multipleOf": 0.01, "minimum": -1, "exclusiveMaximum": 1e20 },
            "Tags": { "items": { "enum": ["a", 1, null, { "b": [1.0] }] }, "uniqueItems": true, "contains": { "const": "a" } },
            "Email": { "format": "email" },
            "Time": { "anyOf": [{ "format": "date-time" }, { "format": "duration" }, { "format": "uri" }] },
            "Next": { "$ref": "#" }
        },
        "items": { "oneOf": [{ "$ref": "#" }, { "type": "number" }] },
        "patternProperties": { "__c$": { "not": { "type": "object" } } },
        "propertyNames": { "maxLength": 20 },
        "if": { "required": ["Email"] },
        "then": { "required": ["Time"] },
        "unevaluatedProperties": { "type": "boolean" }
    })
});

static SET: LazyLock<Set> = LazyLock::new(|| {
    let options = Options { dialect: Dialect::Json2020, direction: Direction::Either, formats: true };
    let mut compiler = Compiler::new(&SCHEMA, options);
    compiler.schema(&SCHEMA, "");
    compiler.finish().expect("the schema is sound")
});

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let coding = [Coding::Identity, Coding::Gzip, Coding::Deflate][usize::from(kind % 3)];
    let Ok(body) = decode(rest, coding, 1 << 16) else { return };
    let limits = Limits { values: 5_000, ..Limits::default() };
    let told = findings::json(&body, &limits, Some((&SET, 0)), "body");
    if let Err(found) = told {
        let violations = found.violations("body");
        assert!((1..=16).contains(&violations.len()), "{violations:?}");
    }
    let Ok((text, nodes)) = read(&body, &limits) else { return };
    serde_json::from_slice::<serde::de::IgnoredAny>(&body).expect("another parser reads it as well");
    let tape = Tape { text, nodes: &nodes };
    for place in 0..nodes.len().min(50) {
        // Numbers may be larger than the other parser holds.
        if let Ok(value) = serde_json::from_slice::<Value>(&body) {
            assert!(value.pointer(&tape.pointer(place)).is_some(), "every pointer leads somewhere");
        }
    }
});
