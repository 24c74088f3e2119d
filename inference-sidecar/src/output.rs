//! What the columns of an output mean: a score, classes, a ranking, an embedding.

use std::sync::Arc;

use foregate_filters::score::{Detail, Item, Offer};

use crate::model::largest;
use crate::rank::Index;
use crate::table::Table;

/// How far the probabilities of all classes may be from one.
const SUM_TOLERANCE: f32 = 1e-3;

/// How one row of output columns is read.
#[derive(Debug)]
pub enum Output {
    /// One column, which is the score.
    Score,
    /// One probability a class; the score is that of the likeliest one.
    Classes(Box<[Arc<str>]>),
    /// A query, against which items are held; the score is that of the best one.
    Ranking(Box<Ranking>),
    /// A vector as it is; the score is its Euclidean length.
    Embedding,
}

/// The items of a ranking.
#[derive(Debug)]
pub struct Ranking {
    table: Arc<Table>,
    index: Index,
    /// Items that are told.
    k: usize,
}

/// Why an output and the columns of the model do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    #[error("the output has {columns} columns for {labels} labels")]
    Labels { columns: usize, labels: usize },
    #[error("the output has {columns} columns, the items have {width}")]
    Items { columns: usize, width: usize },
    #[error("the probabilities of the classes do not sum to 1")]
    Sum,
    #[error("the bundle has no such table, or the table no such column")]
    Table,
    #[error("the table has no rows, or `k` is not within 1 to the number of them (at most 1000)")]
    Count,
}

/// Items of a ranking that are told at most.
const MAX_K: usize = 1_000;

impl Ranking {
    /// Takes the embeddings of a column of the table.
    pub fn new(table: Arc<Table>, column: &str, k: usize) -> Result<Self, OutputError> {
        let cells = table.column(column).ok_or(OutputError::Table)?;
        let index = Index::new(&cells.cells, cells.width);
        if k == 0 || k > table.keys.len().min(MAX_K) {
            return Err(OutputError::Count);
        }
        Ok(Self { table, index, k })
    }

    /// Items that are told.
    pub fn k(&self) -> usize {
        self.k
    }

    fn items(&self, query: &[f32]) -> Vec<Item> {
        let best = self.index.top(query, self.k).unwrap_or_default();
        let item = |(place, score): (usize, f32)| {
            let key = self.table.keys.get(place).cloned()?;
            Some(Item { key, label: self.table.labels.get(place).cloned().flatten(), score })
        };
        best.into_iter().filter_map(item).collect()
    }
}

impl Output {
    /// Refuses what the model cannot give.
    pub fn check(&self, columns: usize) -> Result<(), OutputError> {
        match self {
            Self::Classes(labels) if labels.len() != columns => {
                Err(OutputError::Labels { columns, labels: labels.len() })
            }
            Self::Ranking(ranking) if ranking.index.width() != columns => {
                Err(OutputError::Items { columns, width: ranking.index.width() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses an answer that is no answer of this kind, as golden vectors find out.
    pub fn check_answer(&self, cells: &[f32]) -> Result<(), OutputError> {
        let sum: f32 = cells.iter().sum();
        match self {
            Self::Classes(_) if (sum - 1.0).abs() > SUM_TOLERANCE => Err(OutputError::Sum),
            _ => Ok(()),
        }
    }

    /// What there is to say beside scores; `explains` where the model tells what its columns come from. The score of a
    /// ranking and of an embedding is no column, so that there are no reasons for it.
    pub fn offer(&self, explains: bool) -> Offer {
        let reasons = explains && matches!(self, Self::Score | Self::Classes(_));
        let items = if let Self::Ranking(ranking) = self { ranking.k } else { 0 };
        Offer { classes: matches!(self, Self::Classes(_)), items, reasons }
    }

    /// The same, with all columns in [`Detail::values`] where they are more than the score.
    pub fn read_whole(&self, cells: &[f32]) -> (f32, Option<Box<Detail>>) {
        let (score, mut detail) = self.read(cells);
        if matches!(self, Self::Classes(_) | Self::Embedding) {
            detail.get_or_insert_default().values = cells.to_vec();
        }
        (score, detail)
    }

    /// The score of one row, and what there is to say beside it, columns apart.
    pub fn read(&self, cells: &[f32]) -> (f32, Option<Box<Detail>>) {
        let first = || cells.first().copied().unwrap_or(f32::NAN);
        match self {
            Self::Score => (first(), None),
            Self::Classes(labels) => {
                let place = largest(cells);
                let score = cells.get(place).copied().unwrap_or(f32::NAN);
                let class = labels.get(place).cloned();
                (score, Some(Box::new(Detail { class, ..Detail::default() })))
            }
            Self::Ranking(ranking) => {
                let items = ranking.items(cells);
                let score = items.first().map_or(f32::NAN, |item| item.score);
                (score, Some(Box::new(Detail { items, ..Detail::default() })))
            }
            Self::Embedding => (cells.iter().map(|cell| cell * cell).sum::<f32>().sqrt(), None),
        }
    }
}
