//! The reference implementation for Python, asked about what passed and what was refused.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use foregate_filters::validate::limits::Limits;
use foregate_filters::validate::schema::check::{Quick, holds};
use foregate_filters::validate::schema::compile::{Compiler, Dialect, Direction, Options};
use foregate_filters::validate::tape::{Tape, read};
use serde_json::{Value, json};

#[path = "../../../../filters/src/validate/schema/generated.rs"]
mod generated;

use self::generated::Seeded;

/// A process of `schema_oracle.py`, ended with its test.
pub struct Oracle(Child);

impl Oracle {
    pub fn start() -> Self {
        let python = std::env::var("FOREGATE_PYTHON")
            .expect("FOREGATE_PYTHON names no Python with jsonschema: run `bash .ci/test`, which makes one");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/schema_oracle.py");
        let mut command = Command::new(python);
        Self(command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// `valid`, `invalid` or `malformed` for each body, for each of several schemas.
    pub fn ask(mut self, asked: &[(Value, Vec<Vec<u8>>)]) -> Vec<Vec<String>> {
        let mut input = self.0.stdin.take().unwrap();
        let lines: Vec<String> = asked
            .iter()
            .map(|(schema, bodies)| {
                let bodies: Vec<String> = bodies.iter().map(|body| STANDARD.encode(body)).collect();
                json!({ "schema": schema, "bodies": bodies }).to_string()
            })
            .collect();
        // Apart: whoever writes all before it reads may wait forever.
        let writer = std::thread::spawn(move || {
            for line in lines {
                writeln!(input, "{line}").unwrap();
            }
        });
        let output = BufReader::new(self.0.stdout.take().unwrap());
        let told: Vec<Vec<String>> =
            output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        writer.join().unwrap();
        assert_eq!(told.len(), asked.len(), "the oracle broke off");
        told
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn generated_schemas_hold_where_the_reference_implementation_says_so() {
    let options = Options { dialect: Dialect::Json2020, direction: Direction::Either, formats: false };
    let (mut asked, mut ours) = (Vec::new(), Vec::new());
    for seed in 10_001..=11_500 {
        let mut seeded = Seeded::new(seed);
        let schema = seeded.document();
        let mut compiler = Compiler::new(&schema, options);
        compiler.schema(&schema, "");
        let set = compiler.finish().unwrap();
        let bodies: Vec<Vec<u8>> = (0..8).map(|_| seeded.instance(3).to_string().into_bytes()).collect();
        for body in &bodies {
            let (text, nodes) = read(body, &Limits::default()).unwrap();
            ours.push(holds(&set, 0, Tape { text, nodes: &nodes }, 0, &mut Quick).unwrap());
        }
        asked.push((schema, bodies));
    }
    let told = Oracle::start().ask(&asked).concat();
    assert_eq!(told.len(), 12_000);
    for (place, (is, told)) in ours.iter().zip(&told).enumerate() {
        let (schema, bodies) = &asked[place / 8];
        let body = String::from_utf8_lossy(&bodies[place % 8]);
        assert_eq!(*is, told == "valid", "{told}: {body}\n{schema}");
    }
    assert!(ours.iter().filter(|valid| **valid).count() > 2_000, "too few hold to mean much");
}
