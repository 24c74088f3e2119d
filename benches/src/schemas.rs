//! Bodies against their bounds and their schema.

use std::io::Write;

use anyhow::{Result, anyhow, ensure};
use foregate_filters::validate::limits::Limits;
use foregate_filters::validate::schema::check::{Quick, holds};
use foregate_filters::validate::schema::compile::{Compiler, Dialect, Direction, Options};
use foregate_filters::validate::tape::{Tape, read};
use serde_json::Value;

use crate::measure::Table;

/// A lead of 1 KiB in 24 members, and a schema that speaks of each.
const LEAD: &[u8] = include_bytes!("../compare/lead.json");
const SCHEMA: &str = include_str!("../compare/lead.schema.json");

pub fn run<W: Write>(table: &mut Table<'_, W>) -> Result<()> {
    let schema: Value = serde_json::from_str(SCHEMA)?;
    let options = Options { dialect: Dialect::Json2020, direction: Direction::Either, formats: false };
    let mut compiler = Compiler::new(&schema, options);
    let root = compiler.schema(&schema, "");
    let set = compiler.finish().map_err(|faults| anyhow!("the schema is faulty: {faults:?}"))?;
    let limits = Limits::default();
    let (text, nodes) = read(LEAD, &limits).map_err(|fault| anyhow!("the lead is faulty: {fault:?}"))?;
    let tape = Tape { text, nodes: &nodes };
    ensure!(holds(&set, root, tape, 0, &mut Quick) == Ok(true), "the lead is not of its schema");
    table
        .row("lead of 1 KiB: read within its bounds", || read(LEAD, &limits).map(|(_, nodes)| nodes.len()))?;
    table.row("lead of 1 KiB: schema alone", || holds(&set, root, tape, 0, &mut Quick))?;
    table.row("lead of 1 KiB: read, and schema", || {
        let (text, nodes) = read(LEAD, &limits).ok()?;
        holds(&set, root, Tape { text, nodes: &nodes }, 0, &mut Quick).ok()
    })?;
    Ok(())
}
