//! Features, rankings and stores without anything around them.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use foregate_inference::features::spec::FeatureSpec;
use foregate_inference::features::{Plan, Reading};
use foregate_inference::rank::Index;
use foregate_inference::store::line::Update;
use foregate_inference::store::{FeatureStore, StoreKey};
use foregate_inference::table::Tables;

use crate::bundles;
use crate::measure::Table;

/// Items of a catalogue, and numbers of each.
const ITEMS: usize = 9_066;
const WIDTH: usize = 64;
/// How the words of a case become columns.
const WORDS: &str = r#"[{"name":"words","pointer":"/Subject","also":["/Description"],"type":"text",
"normalize":{"lower":true,"unaccent":true,"digits":"0"},
"ngrams":{"words":[1,2],"chars":[3,5],"buckets":4093,"tf":"log","norm":"l2"}}]"#;

/// Rows of a feature store.
const ROWS: usize = 200_000;
const STORE_KEY: &[u8] = b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const LOOKED_UP: &str = r#"[{"name":"a","pointer":"/AccountId","type":"number","store":{"column":"c3"},"default":0},
{"name":"b","pointer":"/AccountId","type":"number","store":{"column":"c9"},"default":0}]"#;

/// Measures everything.
pub fn run<W: Write>(table: &mut Table<'_, W>) -> Result<()> {
    bundles::run(table)?;
    words(table)?;
    ranking(table)?;
    store(table)
}

fn words<W: Write>(table: &mut Table<'_, W>) -> Result<()> {
    let specs: Vec<FeatureSpec> = serde_json::from_str(WORDS)?;
    let plan = Plan::compile("Case", &specs, &Tables::new())?;
    let text = "Since yesterday's release our users cannot sign in to the portal: 'invalid session', although the \
                password is right. We tried three browsers in Zürich; error 4711. Please escalate! ";
    for (name, times) in
        [("hashed text of a case, 600 letters", 3), ("hashed text of a case, 4,096 letters", 25)]
    {
        let description = serde_json::Value::from(text.repeat(times)).to_string();
        let body = format!(r#"{{"Subject":"Cannot log in after the update","Description":{description}}}"#);
        let columns = plan.extract(body.as_bytes(), &[], Reading::default())?.rows.len();
        ensure!(columns == plan.width(), "{columns} columns");
        table.row(name, || plan.extract(body.as_bytes(), &[], Reading::default()))?;
    }
    Ok(())
}

fn ranking<W: Write>(table: &mut Table<'_, W>) -> Result<()> {
    let name = "best 5 of 9,066 items, 64 numbers each";
    if !table.wants(name) {
        return Ok(());
    }
    let mut state = 1_u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap_or_default()) / 32_768.0 - 1.0
    };
    let rows: Vec<f32> = (0..ITEMS * WIDTH).map(|_| number()).collect();
    let query: Vec<f32> = (0..WIDTH).map(|_| number()).collect();
    let index = Index::new(&rows, WIDTH);
    index.top(&query, 5).filter(|best| best.len() == 5).context("too few items")?;
    table.row(name, || index.top(&query, 5))?;
    Ok(())
}

/// One key of many rows, alone and as part of reading a lead.
fn store<W: Write>(table: &mut Table<'_, W>) -> Result<()> {
    let (alone, within) = ("one of 200,000 rows by key, 16 numbers", "a record with two numbers looked up");
    if !table.wants(alone) && !table.wants(within) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("features.redb");
    let columns: Vec<String> = (0..16).map(|column| format!("c{column}")).collect();
    FeatureStore::create(&path, &StoreKey::parse(STORE_KEY)?, &columns)?;
    let store = Arc::new(FeatureStore::open(&path, StoreKey::parse(STORE_KEY)?)?);
    let keys: Vec<String> = (0..ROWS).map(|row| format!("0015e00000{row:08}")).collect();
    let update = |key: &String| Update { key: key.as_str().into(), at: 1, cells: Some([0.5; 16].into()) };
    store.apply(keys.iter().map(update).collect::<Vec<_>>())?;
    let mut place = 0;
    let mut next = move || {
        // Far apart, so that hardly any row is in a cache of the processor already.
        place = (place + 77_773) % ROWS;
        place
    };
    table.row(alone, || {
        let key = keys.get(next()).map(String::as_str).unwrap_or_default();
        store.pin().find(key).map(|row| row.at)
    })?;
    let specs: Vec<FeatureSpec> = serde_json::from_str(LOOKED_UP)?;
    let mut plan = Plan::compile("Lead", &specs, &Tables::new())?;
    plan.attach(&store)?;
    let body = format!(r#"{{"LastName":"Okafor","AccountId":"{}"}}"#, keys.last().context("no keys")?);
    let rows = plan.extract(body.as_bytes(), &[], Reading::default())?.rows;
    ensure!(rows == [0.5, 0.5], "{rows:?}");
    table.row(within, || plan.extract(body.as_bytes(), &[], Reading::default()))?;
    Ok(())
}
