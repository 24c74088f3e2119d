//! From the columns of a CSV file to records of a model.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::rows::Row;
use crate::features::spec::{FeatureSpec, FeatureType};

/// Which members of a record the columns of a file are.
#[derive(Debug)]
pub struct Columns {
    /// Of each column: `None` where no feature reads it.
    members: Vec<Option<Member>>,
}

#[derive(Clone, Debug)]
struct Member {
    path: Vec<String>,
    kind: FeatureType,
}

/// Why a header cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the file is empty: its first row must name the columns")]
    Absent,
    #[error("the header is not UTF-8")]
    NotUtf8,
    #[error("the column `{0}` occurs twice")]
    Twice(String),
    #[error("no column is read by the model, which reads {0}")]
    Foreign(String),
}

impl Columns {
    /// Matches names such as `Company` and `Account.Industry` with what the features read; other columns are left out.
    pub fn new(header: &Row, features: &[FeatureSpec]) -> Result<Self, HeaderError> {
        let known = members(features);
        let mut members: Vec<Option<Member>> = Vec::with_capacity(header.ends.len());
        for cell in header.cells() {
            let name = std::str::from_utf8(cell).map_err(|_| HeaderError::NotUtf8)?.trim();
            let member = known.get(name).cloned();
            let twice = |other: &Member| member.as_ref().is_some_and(|member| member.path == other.path);
            if members.iter().flatten().any(twice) {
                return Err(HeaderError::Twice(name.to_owned()));
            }
            members.push(member);
        }
        if members.iter().all(Option::is_none) {
            let known: Vec<&str> = known.keys().map(String::as_str).collect();
            return Err(HeaderError::Foreign(known.join(", ")));
        }
        Ok(Self { members })
    }

    /// The record of a row, as JSON. Empty cells are absent; what is no number stays a string.
    pub fn record(&self, row: &Row) -> Result<Vec<u8>, String> {
        if row.ends.len() != self.members.len() {
            return Err(format!("{} cells for {} columns", row.ends.len(), self.members.len()));
        }
        let mut record = Map::new();
        for (member, cell) in self.members.iter().zip(row.cells()) {
            let Some(member) = member else { continue };
            let text =
                std::str::from_utf8(cell).map_err(|_| format!("`{}` is not UTF-8", member.path.join(".")))?;
            if !text.is_empty() {
                put(&mut record, &member.path, member.value(text));
            }
        }
        Ok(Value::Object(record).to_string().into_bytes())
    }
}

/// What all features read, by the names that columns have.
fn members(features: &[FeatureSpec]) -> BTreeMap<String, Member> {
    let mut members = BTreeMap::new();
    for feature in features {
        let ends = [&feature.since, &feature.until].into_iter().flatten();
        let others = feature.also.iter().chain(ends);
        for pointer in std::iter::once(&feature.pointer).chain(others) {
            // The bundle was loaded, so that each is a pointer or `now`.
            let Ok(path) = feature.tokens(pointer) else { continue };
            members.entry(path.join(".")).or_insert(Member { path, kind: feature.kind });
        }
    }
    members
}

impl Member {
    fn value(&self, text: &str) -> Value {
        let word = text.trim();
        match self.kind {
            FeatureType::Number => {
                serde_json::from_str::<Number>(word).map_or_else(|_| Value::from(text), Value::Number)
            }
            FeatureType::Boolean if word.eq_ignore_ascii_case("true") => Value::Bool(true),
            FeatureType::Boolean if word.eq_ignore_ascii_case("false") => Value::Bool(false),
            FeatureType::Date => Value::from(word),
            FeatureType::Boolean | FeatureType::String | FeatureType::Text => Value::from(text),
        }
    }
}

fn put(record: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            record.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = record.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Place, Row, Rows};
    use super::{Columns, HeaderError};
    use crate::features::spec::FeatureSpec;

    fn features() -> Vec<FeatureSpec> {
        serde_saphyr::from_str(
            "- {name: a, pointer: /Size, type: number}\n\
             - {name: b, pointer: /Account/Industry, type: string}\n\
             - {name: c, pointer: /Open, type: boolean}\n\
             - {name: d, pointer: /CloseDate, type: date, since: now}\n",
        )
        .unwrap()
    }

    fn rows(text: &str) -> Vec<Row> {
        let mut rows = Rows::csv(text.as_bytes(), Place::start());
        std::iter::from_fn(|| rows.next_row().unwrap()).collect()
    }

    #[test]
    fn cells_become_members_of_the_type_that_features_read() {
        let rows = rows(
            "Id,Size,Account.Industry,Open,CloseDate\n1,2.50,007,TRUE,2027-01-01\n2,,\"a \"\"b\"\"\",no,\n3,x,,,\n4,5\n",
        );
        let columns = Columns::new(&rows[0], &features()).unwrap();
        let record = |row: usize| columns.record(&rows[row]).map(|text| String::from_utf8(text).unwrap());
        let full = r#"{"Size":2.5,"Account":{"Industry":"007"},"Open":true,"CloseDate":"2027-01-01"}"#;
        assert_eq!(record(1).unwrap(), full);
        assert_eq!(record(2).unwrap(), r#"{"Account":{"Industry":"a \"b\""},"Open":"no"}"#);
        assert_eq!(record(3).unwrap(), r#"{"Size":"x"}"#);
        assert_eq!(record(4).unwrap_err(), "2 cells for 5 columns");
    }

    #[test]
    fn headers_that_the_model_does_not_read_are_refused() {
        let fault = |text: &str| Columns::new(&rows(text)[0], &features()).unwrap_err();
        assert!(
            matches!(fault("Id,size\n"), HeaderError::Foreign(known) if known.contains("Account.Industry"))
        );
        assert_eq!(fault("Size,Size\n"), HeaderError::Twice("Size".to_owned()));
    }
}
