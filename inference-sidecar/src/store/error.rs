//! Why a feature store cannot be had or written.

use std::path::PathBuf;

use super::snapshot::{MAX_CELLS, MAX_COLUMNS, MAX_ROWS};

/// A store that cannot be had or written. Never tells a key or a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("is in use by another process that reads or writes it")]
    Busy,
    #[error("is no feature store")]
    NoStore,
    #[error("is of format {0}, which this version does not read")]
    Format(u32),
    #[error("was made with another key, or its head was changed from outside")]
    Key,
    #[error("is damaged: {0}")]
    Damaged(String),
    #[error("is there already")]
    Exists,
    #[error("would hold over {MAX_ROWS} rows or {MAX_CELLS} numbers")]
    TooLarge,
    #[error("needs 1 to {MAX_COLUMNS} columns with distinct names of 1 to 128 bytes")]
    Columns,
    #[error("has other columns than before")]
    OtherColumns,
}

/// A store, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the feature store {} {fault}", path.display())]
pub struct StoreFault {
    pub path: PathBuf,
    #[source]
    pub fault: StoreError,
}
