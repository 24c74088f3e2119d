//! One trait over forests and graphs: rows of features in, columns of an output out.

use std::fmt::Debug;

use crate::forest::Forest;
use crate::graph::{Graph, GraphError};
use crate::linear::Linear;
use crate::onnx::{Network, OnnxError, Ports, open};
use crate::reasons::{Contributions, Margin};

/// A model that turns rows of features into numbers.
pub trait Model: Debug + Send + Sync {
    /// Appends [`Model::columns`] finite numbers for each of `count` rows of `rows`, which is row-major.
    fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError>;

    /// Numbers that one row gives: one for a score, more for classes or an embedding.
    fn columns(&self) -> usize {
        1
    }

    /// `forest` or `graph`, for people.
    fn engine(&self) -> &'static str;

    /// Takes the rows that reasons are held against; row-major.
    fn learn(&mut self, _rows: &[f32]) {}

    /// What each column of the row adds to the score; of several classes, to the one that `answer` favours.
    ///
    /// Exact for tree ensembles and linear graphs. `None` for all others.
    fn explain(&self, _row: &[f32], _answer: &[f32]) -> Option<Contributions> {
        None
    }
}

/// Why a model gave no score.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("the rows do not have the width of the model")]
    Width,
    #[error("the output has {columns} columns, the score should be in column {index}")]
    Column { columns: usize, index: usize },
    #[error("the output has {found} columns in place of {expected}")]
    Columns { found: usize, expected: usize },
    #[error("the output of row {0} is not a finite number")]
    NotFinite(usize),
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Columns of an output at most.
const MAX_COLUMNS: usize = 4096;

/// Reads an ONNX file and makes it runnable; `index` is the output column that is the score, `None` wants all.
pub fn load(
    bytes: &[u8],
    ports: &Ports,
    index: impl Into<Option<usize>>,
) -> Result<Box<dyn Model>, LoadError> {
    let (index, width) = (index.into(), ports.width);
    Ok(match open(bytes, ports)? {
        Network::Forest(forest) => {
            let pick = Pick::new(index, forest.columns())?;
            Box::new(ForestModel { forest: *forest, width, pick })
        }
        Network::Graph(model) => {
            let graph = Graph::new(&model, width).map_err(ModelError::Graph)?;
            let proto = model.graph.as_ref();
            let linear = proto.and_then(|proto| Linear::read(proto, &ports.input, width, &ports.output));
            // How wide the output is, the graph itself tells best.
            let columns = graph.run(&vec![0.0; width], 1, &mut Vec::new()).map_err(ModelError::Graph)?;
            let linear = linear.filter(|linear| linear.columns() == columns);
            Box::new(GraphModel { graph, linear, width, pick: Pick::new(index, columns)? })
        }
    })
}

/// Why a file gives no runnable model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Which columns of an output are wanted.
#[derive(Clone, Copy, Debug)]
struct Pick {
    /// `None` for all.
    index: Option<usize>,
    /// Columns of the output.
    columns: usize,
}

#[derive(Debug)]
struct ForestModel {
    forest: Forest,
    width: usize,
    pick: Pick,
}

#[derive(Debug)]
struct GraphModel {
    graph: Graph,
    linear: Option<Linear>,
    width: usize,
    pick: Pick,
}

impl Pick {
    fn new(index: Option<usize>, columns: usize) -> Result<Self, ModelError> {
        match index {
            Some(index) if index >= columns => Err(ModelError::Column { columns, index }),
            None if columns == 0 || columns > MAX_COLUMNS => {
                Err(ModelError::Columns { found: columns, expected: MAX_COLUMNS })
            }
            index => Ok(Self { index, columns }),
        }
    }

    fn wanted(self) -> usize {
        if self.index.is_some() { 1 } else { self.columns }
    }

    /// Takes the wanted columns out of all; NaN and infinity are no scores. `row` is that of the first cells.
    fn pick(self, cells: &[f32], row: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        for (place, cells) in cells.chunks_exact(self.columns.max(1)).enumerate() {
            let wanted = match self.index {
                Some(index) => cells.get(index..=index).unwrap_or_default(),
                None => cells,
            };
            if !wanted.iter().all(|cell| cell.is_finite()) {
                return Err(ModelError::NotFinite(row + place));
            }
            out.extend_from_slice(wanted);
        }
        Ok(())
    }

    /// The column whose reasons are told.
    fn favoured(self, answer: &[f32]) -> usize {
        self.index.unwrap_or_else(|| largest(answer))
    }
}

/// The place of the largest number, the first of equals.
pub fn largest(cells: &[f32]) -> usize {
    let best = cells.iter().enumerate().fold(None, |best: Option<(usize, f32)>, (place, cell)| match best {
        Some((_, most)) if *cell <= most => best,
        _ => Some((place, *cell)),
    });
    best.map_or(0, |(place, _)| place)
}

/// Asks for the contributions of all columns to one column of the output.
fn contributions(width: usize, ask: impl FnOnce(&mut [f64]) -> Option<Margin>) -> Option<Contributions> {
    let mut columns = vec![0.0; width];
    let margin = ask(&mut columns)?;
    Some(Contributions { margin, columns })
}

impl Model for ForestModel {
    fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        if rows.len() != count * self.width {
            return Err(ModelError::Width);
        }
        let mut tallies = Vec::new();
        let mut cells = Vec::with_capacity(self.pick.columns);
        for (place, row) in rows.chunks_exact(self.width).enumerate() {
            cells.clear();
            self.forest.run_row(row, &mut tallies, &mut cells).ok_or(ModelError::Width)?;
            self.pick.pick(&cells, place, out)?;
        }
        Ok(())
    }

    fn columns(&self) -> usize {
        self.pick.wanted()
    }

    fn engine(&self) -> &'static str {
        "forest"
    }

    fn learn(&mut self, rows: &[f32]) {
        self.forest.learn(rows);
    }

    fn explain(&self, row: &[f32], answer: &[f32]) -> Option<Contributions> {
        let column = self.pick.favoured(answer);
        contributions(self.width, |out| self.forest.explain(row, column, out))
    }
}

impl Model for GraphModel {
    fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        if rows.len() != count * self.width {
            return Err(ModelError::Width);
        }
        let mut cells = Vec::with_capacity(count * self.pick.columns);
        // The graph engine multiplies what is zero as well, and narrow products slowly.
        let found = match &self.linear {
            Some(linear) => {
                linear.run(rows, &mut cells);
                linear.columns()
            }
            None => self.graph.run(rows, count, &mut cells)?,
        };
        if found != self.pick.columns {
            return Err(ModelError::Columns { found, expected: self.pick.columns });
        }
        self.pick.pick(&cells, 0, out)
    }

    fn columns(&self) -> usize {
        self.pick.wanted()
    }

    fn engine(&self) -> &'static str {
        "graph"
    }

    fn learn(&mut self, rows: &[f32]) {
        if let Some(linear) = &mut self.linear {
            linear.learn(rows);
        }
    }

    fn explain(&self, row: &[f32], answer: &[f32]) -> Option<Contributions> {
        let (linear, column) = (self.linear.as_ref()?, self.pick.favoured(answer));
        contributions(self.width, |out| linear.explain(row, column, out))
    }
}
