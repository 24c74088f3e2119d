//! Schemas that hold, do not hold, and cannot be read; compared with another validator.

use serde_json::{Value, json};

use crate::validate::findings;
use crate::validate::limits::Limits;
use crate::validate::schema::Set;
use crate::validate::schema::check::{Exhausted, Quick, holds};
use crate::validate::schema::compile::{Compiler, Dialect, Direction, Options, SchemaFault};
use crate::validate::schema::generated::Seeded;
use crate::validate::tape::{Tape, read};

const PLAIN: Options = Options { dialect: Dialect::Json2020, direction: Direction::Either, formats: false };

fn compile(schema: &Value, options: Options) -> Result<Set, Vec<SchemaFault>> {
    let mut compiler = Compiler::new(schema, options);
    compiler.schema(schema, "");
    compiler.finish()
}

/// `ok`, or every violation as `pointer keyword`.
fn told(schema: &Value, instance: &str, options: Options) -> String {
    let set = compile(schema, options).unwrap();
    match findings::json(instance.as_bytes(), &Limits::default(), Some((&set, 0)), "body") {
        Ok(()) => "ok".to_owned(),
        Err(found) => {
            let all = found.violations("body");
            let all: Vec<String> = all.iter().map(|it| format!("{} {}", it.pointer, it.keyword)).collect();
            all.join(", ")
        }
    }
}

fn faults(schema: &Value, options: Options) -> Vec<String> {
    let faults = compile(schema, options).err().unwrap_or_default();
    faults.iter().map(|fault| format!("{} {}: {}", fault.code, fault.at, fault.message)).collect()
}

/// The published cases of JSON Schema 2020-12, where a folder of them is named: `FOREGATE_JSON_SCHEMA_SUITE`.
/// What is left out asks for remote documents, or for resources within resources.
#[test]
fn the_published_cases_hold() {
    let Some(folder) = std::env::var_os("FOREGATE_JSON_SCHEMA_SUITE") else { return };
    let (mut ran, mut left_out, mut wrong) = (0, Vec::new(), Vec::new());
    for (sub, formats) in [("", false), ("optional/format", true)] {
        let folder = std::path::Path::new(&folder).join(sub);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            if formats && super::format::Format::named(name.trim_end_matches(".json")).is_none() {
                continue;
            }
            let groups: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            for group in groups {
                let what = format!("{name}: {}", group["description"]);
                let set = match compile(&group["schema"], Options { formats, ..PLAIN }) {
                    Ok(set) => set,
                    Err(faults) => {
                        left_out.push(format!("{what}: {}", faults[0].message));
                        continue;
                    }
                };
                for case in group["tests"].as_array().unwrap() {
                    let text = case["data"].to_string();
                    let (text, nodes) = read(text.as_bytes(), &Limits::LARGEST).unwrap();
                    let is = holds(&set, 0, Tape { text, nodes: &nodes }, 0, &mut Quick);
                    ran += 1;
                    if is != Ok(case["valid"].as_bool().unwrap()) {
                        wrong.push(format!("{what}, {}: {is:?}", case["description"]));
                    }
                }
            }
        }
    }
    eprintln!("{ran} cases, left out {}:\n{}", left_out.len(), left_out.join("\n"));
    assert!(ran > 1_000 && wrong.is_empty(), "{} of {ran} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Another validator says the same of thousands of schemas and instances that nobody chose.
#[test]
fn generated_schemas_hold_where_another_validator_says_so() {
    let (mut compared, mut valid) = (0, 0);
    for seed in 1..=3_000 {
        let mut seeded = Seeded::new(seed);
        let schema = seeded.document();
        let set = compile(&schema, PLAIN).unwrap_or_else(|faults| panic!("{schema} {faults:?}"));
        let other = jsonschema::draft202012::new(&schema).unwrap();
        for _ in 0..12 {
            let instance = seeded.instance(3);
            let text = instance.to_string();
            let (text, nodes) = read(text.as_bytes(), &Limits::default()).unwrap();
            let is = holds(&set, 0, Tape { text, nodes: &nodes }, 0, &mut Quick);
            assert_eq!(is, Ok(other.is_valid(&instance)), "seed {seed}: {instance}\n{schema}");
            compared += 1;
            valid += usize::from(is == Ok(true));
        }
    }
    assert!(compared == 36_000 && (8_000..28_000).contains(&valid), "{valid} of {compared} hold");
}

#[test]
fn a_lead_is_told_everything_that_is_wrong_with_it_and_no_value() {
    let schema = json!({
        "type": "object",
        "required": ["Company", "LastName"],
        "properties": {
            "Company": { "type": "string", "minLength": 1, "maxLength": 3 },
            "Email": { "type": "string", "format": "email" },
            "AnnualRevenue": { "type": ["number", "null"], "minimum": 0 },
            "Tags": { "type": "array", "items": { "enum": ["a", "b"] }, "uniqueItems": true, "maxItems": 2 }
        },
        "additionalProperties": false
    });
    let options = Options { formats: true, ..PLAIN };
    for (instance, expected) in [
        (r#"{"Company":"abc","LastName":"x"}"#, "/LastName additionalProperties"),
        (r#"{"Company":"äöü"}"#, "/LastName required"),
        (
            r#"{"Company":"","Email":"no","AnnualRevenue":-1,"Tags":["a","a","c"],"LastName":"secret"}"#,
            "/Company minLength, /Email format, /AnnualRevenue minimum, /Tags maxItems, /Tags/1 uniqueItems, \
             /Tags/2 enum, /LastName additionalProperties",
        ),
        ("[]", " type"),
        (r#"{"Company":"abcd","Company":"a"}"#, " duplicate"),
    ] {
        assert_eq!(told(&schema, instance, options), expected, "{instance}");
    }
}

#[test]
fn what_reads_of_openapi_3_0_is_what_it_means() {
    let old = Options { dialect: Dialect::OpenApi30, ..PLAIN };
    let request = Options { direction: Direction::Request, ..old };
    for (schema, instance, options, expected) in [
        (json!({ "type": "string", "nullable": true }), "null", old, "ok"),
        (json!({ "type": "string", "nullable": true }), "null", PLAIN, " type"),
        (json!({ "nullable": true }), "null", old, "ok"),
        (json!({ "type": "integer", "minimum": 1, "exclusiveMinimum": true }), "1", old, " exclusiveMinimum"),
        (json!({ "type": "integer", "minimum": 1, "exclusiveMinimum": false }), "1", old, "ok"),
        (json!({ "type": "integer", "exclusiveMinimum": 1 }), "1", PLAIN, " exclusiveMinimum"),
        (
            json!({ "type": "integer", "format": "int32" }),
            "2147483648",
            Options { formats: true, ..request },
            " maximum",
        ),
        (json!({ "required": ["id"], "properties": { "id": { "readOnly": true } } }), "{}", request, "ok"),
        (
            json!({ "required": ["id"], "properties": { "id": { "writeOnly": true } } }),
            "{}",
            request,
            "/id required",
        ),
    ] {
        assert_eq!(told(&schema, instance, options), expected, "{schema} {instance}");
    }
}

#[test]
fn references_stay_within_the_document_and_come_to_an_end() {
    let tree = json!({
        "$ref": "#/$defs/node",
        "$defs": { "node": { "type": "object", "properties": { "next": { "$ref": "#/$defs/node" } }, "additionalProperties": false } }
    });
    assert_eq!(told(&tree, r#"{"next":{"next":{}}}"#, PLAIN), "ok");
    assert_eq!(told(&tree, r#"{"next":{"next":1}}"#, PLAIN), "/next/next type");
    for (schema, expected) in [
        (
            json!({ "$ref": "https://example.com/lead.json" }),
            "FG0690 /$ref: `https://example.com/lead.json` leads to another document, and nothing is fetched or read for it",
        ),
        (
            json!({ "$ref": "other.json#/a" }),
            "FG0690 /$ref: `other.json#/a` leads to another document, and nothing is fetched or read for it",
        ),
        (json!({ "$ref": "#/$defs/none" }), "FG0690 /$ref: `#/$defs/none` leads nowhere"),
        (json!({ "$ref": "#" }), "FG0690 : a schema that refers to itself for the same value, without end"),
        (
            json!({ "allOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "not": { "$ref": "#/$defs/b" } }, "b": { "anyOf": [{ "$ref": "#/$defs/a" }] } } }),
            "FG0690 : a schema that refers to itself for the same value, without end",
        ),
        (
            json!({ "$schema": "http://json-schema.org/draft-07/schema#" }),
            "FG0693 /$schema: $schema names another dialect; JSON Schema 2020-12 is read",
        ),
        (
            json!({ "properties": { "a": { "$id": "https://a/" } } }),
            "FG0693 /properties/a/$id: a schema within a document cannot have an $id of its own",
        ),
        (json!({ "requird": ["a"] }), "FG0689 /requird: unknown keyword `requird`: did you mean `required`?"),
        (
            json!({ "pattern": "(?=a)" }),
            "FG0691 /pattern: the pattern cannot be read: look-around, including look-ahead and look-behind, is not supported",
        ),
        (
            json!({ "type": "strin" }),
            "FG0689 /type: a type is null, boolean, number, integer, string, array or object, or a list of these",
        ),
        (json!({ "minLength": -1 }), "FG0689 /minLength: minLength is a whole number from 0 up"),
        (json!({ "items": [{}] }), "FG0689 /items: a schema is an object, true or false"),
    ] {
        assert_eq!(faults(&schema, PLAIN), [expected], "{schema}");
    }
}

#[test]
fn work_is_bounded_whatever_the_schema_and_the_text() {
    // Every level is asked about twice by the level above: 2^31 in all.
    let schema = json!({ "anyOf": [
        { "properties": { "a": { "$ref": "#" } }, "required": ["b"] },
        { "properties": { "a": { "$ref": "#" } }, "required": ["c"] }
    ] });
    let set = compile(&schema, PLAIN).unwrap();
    let deep = format!("{}1{}", "{\"a\":".repeat(31), "}".repeat(31));
    let (text, nodes) = read(deep.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(holds(&set, 0, Tape { text, nodes: &nodes }, 0, &mut Quick), Err(Exhausted));
    assert_eq!(told(&schema, &deep, PLAIN), " work");
}

#[test]
fn patterns_that_texts_hold_are_compiled_within_the_bound_of_work() {
    let schema = json!({ "items": { "format": "regex" } });
    let formats = Options { formats: true, ..PLAIN };
    let long = "a".repeat(1_000);
    for (pattern, count, expected) in
        [("^a+$", 90, "ok"), ("^a+$", 120, " work"), (&long, 3, "ok"), (&long, 4, " work")]
    {
        let text = json!(vec![pattern; count]).to_string();
        assert_eq!(told(&schema, &text, formats), expected, "{count} of {} bytes", pattern.len());
    }
    let wrong = json!(["a".repeat(1_025), "(?=a)"]).to_string();
    assert_eq!(told(&schema, &wrong, formats), "/0 format, /1 format");
    let noted = json!(vec!["^a+$"; 120]).to_string();
    assert_eq!(told(&schema, &noted, PLAIN), "ok", "what is only noted is not compiled");
}
