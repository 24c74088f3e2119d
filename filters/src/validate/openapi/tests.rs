//! Contracts: what they admit, and what is no contract.

use http::{HeaderMap, StatusCode, response};
use serde_json::{Value, json};

use crate::reason::Reason;
use crate::testing::{Call, TestResources, build, get, run};
use crate::validate::answers::Matched;

fn contract(version: &str) -> Value {
    json!({
        "openapi": version,
        "paths": {
            "/leads": {
                "parameters": [{ "$ref": "#/components/parameters/trace" }],
                "get": {
                    "parameters": [
                        { "name": "limit", "in": "query", "schema": { "type": "integer", "minimum": 1, "maximum": 100 } },
                        { "name": "status", "in": "query", "schema": { "type": "array", "items": { "enum": ["open", "closed"] }, "maxItems": 2 } },
                        { "name": "ids", "in": "query", "explode": false, "schema": { "type": "array", "items": { "type": "integer" } } },
                        { "name": "exact", "in": "query", "schema": { "type": "boolean" } },
                        { "name": "since", "in": "query", "required": true, "schema": { "type": "string", "format": "date" } },
                        { "name": "filter", "in": "query", "content": { "application/json": { "schema": { "type": "object", "maxProperties": 1 } } } },
                        { "name": "session", "in": "cookie", "schema": { "type": "string", "maxLength": 8 } }
                    ],
                    "responses": {
                        "200": { "content": { "application/json": { "schema": { "type": "array", "items": { "$ref": "#/components/schemas/Lead" } } } } },
                        "4XX": { "content": { "application/problem+json": {} } },
                        "204": { "description": "none" }
                    }
                },
                "post": {
                    "requestBody": { "required": true, "content": {
                        "application/json": { "schema": { "$ref": "#/components/schemas/Lead" } },
                        "text/csv": {}
                    } },
                    "responses": { "default": { "description": "any" } }
                }
            },
            "/leads/{id}": {
                "get": {
                    "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "string", "pattern": "^[0-9A-Z]{3}$" } }],
                    "responses": { "200": { "description": "x" } }
                }
            },
            "/leads/mine": { "get": { "responses": { "200": { "description": "x" } } } },
            "/files/{name}.csv": {
                "get": {
                    "parameters": [{ "name": "name", "in": "path", "required": true, "schema": { "type": "integer" } }],
                    "responses": { "200": { "description": "x" } }
                }
            }
        },
        "components": {
            "parameters": { "trace": { "name": "X-Trace", "in": "header", "schema": { "type": "integer" } } },
            "schemas": { "Lead": {
                "type": "object",
                "required": ["id", "LastName", "token"],
                "properties": {
                    "id": { "type": "string", "readOnly": true },
                    "token": { "type": "string", "writeOnly": true },
                    "LastName": { "type": "string" }
                }
            } },
            "securitySchemes": { "key": { "type": "apiKey", "in": "query", "name": "api_key" } }
        }
    })
}

const POLICY: &str =
    "insecure: { anonymous: true }\nvalidate: { openapi: { file: crm.yaml, basePath: /crm, formats: true } }";

fn resources(contract: Value) -> TestResources {
    TestResources { files: [("crm.yaml".to_owned(), contract)].into(), ..TestResources::default() }
}

fn told(policy: &str, call: &Call) -> String {
    let chain = build(policy, &resources(contract("3.0.3"))).unwrap();
    match run(&chain, call).1 {
        Ok(()) => "continue".to_owned(),
        Err(refusal) => {
            let detail = match &*refusal.reply.detail {
                "" => String::new(),
                detail => format!(": {detail}"),
            };
            format!("{}{detail}", refusal.reply.reason)
        }
    }
}

fn post(content_type: &str, body: &'static str) -> Call {
    get("/crm/leads").method("POST").header("content-type", content_type).body(body)
}

#[test]
fn operations_are_those_of_the_contract() {
    for (call, expected) in [
        (get("/crm/leads/00A"), "continue"),
        (get("/crm/leads/00A").method("HEAD"), "continue"),
        (get("/crm/leads/mine"), "continue"),
        (get("/crm/files/7.csv"), "continue"),
        (get("/leads/00A"), "OperationUnknown"),
        (get("/crm/leads/00A/notes"), "OperationUnknown"),
        (get("/crm/leads/"), "OperationUnknown"),
        (get("/crmx/leads/00A"), "OperationUnknown"),
        (
            get("/crm/leads/00A").method("DELETE"),
            "MethodRefused: the contract has this path with other methods",
        ),
        (get("/crm/files/x.csv"), "ParameterInvalid: path name type"),
        (get("/crm/leads/00a"), "ParameterInvalid: path id pattern"),
    ] {
        assert_eq!(told(POLICY, &call), expected, "{call:?}");
    }
    let chain = build(POLICY, &resources(contract("3.1.0"))).unwrap();
    let refused = run(&chain, &get("/crm/leads").method("PATCH")).1.unwrap_err().reply;
    assert_eq!(refused.headers[0].1, "GET, POST");
}

#[test]
fn parameters_are_read_as_their_schemas_have_them() {
    for (query, expected) in [
        ("since=2027-01-31", "continue"),
        ("since=2027-01-31&limit=100&exact=true&api_key=k", "continue"),
        ("since=2027-01-31&status=open&status=closed", "continue"),
        ("since=2027-01-31&ids=1,2,3", "continue"),
        ("since=2027-01-31&filter=%7B%22a%22:1%7D", "continue"),
        ("since=2027%2D01%2D31", "continue"),
        ("", "ParameterInvalid: query since required"),
        ("since=2027-02-31", "ParameterInvalid: query since format"),
        ("since=2027-01-31&limit=0", "ParameterInvalid: query limit minimum"),
        ("since=2027-01-31&limit=ten", "ParameterInvalid: query limit type"),
        ("since=2027-01-31&limit=1&limit=2", "ParameterInvalid: query limit repeated"),
        ("since=2027-01-31&exact=1", "ParameterInvalid: query exact type"),
        ("since=2027-01-31&status=open&status=gone", "ParameterInvalid: query status /1 enum"),
        ("since=2027-01-31&ids=1,x", "ParameterInvalid: query ids /1 type"),
        ("since=2027-01-31&filter=%7B%22a%22:1,%22a%22:2%7D", "ParameterInvalid: query filter duplicate"),
        ("since=2027-01-31&admin=1", "ParameterInvalid: query admin undeclared"),
        ("since=%2", "ParameterInvalid: query malformed"),
        ("since=%ff", "ParameterInvalid: query malformed"),
    ] {
        assert_eq!(told(POLICY, &get(&format!("/crm/leads?{query}"))), expected, "{query}");
    }
    let open = POLICY.replace("formats", "undeclaredQuery: continue, formats");
    assert_eq!(told(&open, &get("/crm/leads?since=2027-01-31&admin=1")), "continue");
    let since = || get("/crm/leads?since=2027-01-31");
    for (call, expected) in [
        (since().header("x-trace", "7").header("cookie", "a=b; session=12345678"), "continue"),
        (since().header("x-trace", "x"), "ParameterInvalid: header X-Trace type"),
        (since().header("x-trace", "1").header("x-trace", "2"), "ParameterInvalid: header X-Trace repeated"),
        (since().header("cookie", "session=123456789"), "ParameterInvalid: cookie session maxLength"),
    ] {
        assert_eq!(told(POLICY, &call), expected, "{call:?}");
    }
}

#[test]
fn bodies_are_of_a_type_and_a_schema_of_the_operation() {
    let lead = r#"{"LastName":"Okafor","token":"t"}"#;
    for (call, expected) in [
        (post("application/json", lead), "continue"),
        (post("application/json", "{}"), "SchemaViolation: body /LastName required; body /token required"),
        (post("application/json", "{"), "BodyInvalid: byte 1: the text ends too soon"),
        (post("text/csv", "a,b"), "continue"),
        (post("text/plain", "a"), "MediaTypeUnsupported: a content type that the contract does not name"),
        (post("application/json", ""), "BodyInvalid: body required"),
        (
            get("/crm/leads/00A").header("content-type", "application/json").body("{}"),
            "BodyInvalid: body undeclared",
        ),
        (get("/crm/leads/00A").body("{}"), "BodyInvalid: body undeclared"),
    ] {
        assert_eq!(told(POLICY, &call), expected, "{call:?}");
    }
}

fn matched(policy: &str) -> Matched {
    let chain = build(policy, &resources(contract("3.0.3"))).unwrap();
    *run(&chain, &get("/crm/leads?since=2027-01-31")).0.contract.unwrap()
}

fn head(status: u16, content_type: &str) -> response::Parts {
    let mut head = http::Response::new(()).into_parts().0;
    head.status = StatusCode::from_u16(status).unwrap();
    head.headers = HeaderMap::new();
    if !content_type.is_empty() {
        head.headers.insert("content-type", content_type.parse().unwrap());
    }
    head
}

#[test]
fn responses_are_those_of_the_contract() {
    let matched = matched(&POLICY.replace("formats", "responses: enforce, formats"));
    for (status, content_type, body, expected) in [
        (200, "application/json", r#"[{"id":"1","LastName":"a"}]"#, ""),
        (200, "application/json", r#"[{"id":"1"}]"#, "GET /leads: response /0/LastName required"),
        (200, "application/json", "[", "GET /leads: response json"),
        (200, "text/html", "", "GET /leads: response contentType"),
        (200, "", "", "GET /leads: response contentType"),
        (404, "application/problem+json", "anything", ""),
        (204, "", "", ""),
        (500, "application/json", "", "GET /leads: response status"),
    ] {
        let refused = match matched.head(&head(status, content_type), false) {
            Ok(None) => None,
            Ok(Some(check)) => matched.body(check, body.as_bytes()).err(),
            Err(refused) => Some(refused),
        };
        let told = refused.map(|reply| {
            assert_eq!((reply.reason, reply.violations.len()), (Reason::ResponseInvalid, 0));
            reply.detail.into_string()
        });
        assert_eq!(told.unwrap_or_default(), expected, "{status} {content_type} {body}");
    }
    assert_eq!(matched.head(&head(200, "application/json"), true).map(|check| check.is_none()), Ok(true));
}

#[test]
fn what_is_no_contract_is_told_with_its_place() {
    let path = |item: Value| json!({ "openapi": "3.1.0", "paths": { "/a/{id}": item } });
    let answered = |mut operation: Value| {
        operation["responses"] = json!({ "200": { "description": "x" } });
        path(json!({ "get": operation }))
    };
    let id = json!({ "name": "id", "in": "path", "required": true, "schema": {} });
    for (contract, expected) in [
        (
            json!({ "swagger": "2.0" }),
            "FG0693 crm.yaml, at /openapi: a contract is OpenAPI 3.0.x or 3.1.x, and says so under `openapi`",
        ),
        (json!({ "openapi": "3.1.0" }), "FG0694 crm.yaml, at /paths: a contract has paths"),
        (
            answered(json!({})),
            "FG0694 crm.yaml, at /paths/~1a~1{id}/get: no parameter says what `{id}` may be",
        ),
        (
            answered(json!({ "parameters": [{ "$ref": "common.yaml#/id" }, id] })),
            "FG0690 crm.yaml, at /paths/~1a~1{id}/get/parameters/0/$ref: `common.yaml#/id` leads to another document, and nothing is fetched or read for it",
        ),
        (
            answered(
                json!({ "parameters": [id], "requestBody": { "content": { "application/json": { "schema": { "type": "strin" } } } } }),
            ),
            "FG0689 crm.yaml, at /paths/~1a~1{id}/get/requestBody/content/application~1json/schema/type: a type is null, boolean, number, integer, string, array or object, or a list of these",
        ),
        (
            json!({ "openapi": "3.1.0", "paths": { "/a/{b}{c}": {} } }),
            "FG0694 crm.yaml, at /paths/~1a~1{b}{c}: more than one variable in a segment",
        ),
        (
            json!({ "openapi": "3.1.0", "paths": { "/a/{b}": {}, "/a/{c}": {} } }),
            "FG0694 crm.yaml, at /paths/~1a~1{c}: another path of the document matches exactly the same requests",
        ),
    ] {
        let policy = POLICY.replace("formats", "responses: audit, formats");
        let faults = build(&policy, &resources(contract)).unwrap_err();
        let told: Vec<String> =
            faults.iter().map(|fault| format!("{} {}", fault.fault.code, fault.fault.message)).collect();
        assert_eq!(told, [expected]);
        assert_eq!(faults[0].fault.at.to_string(), "spec.validate.openapi.file");
    }
}
