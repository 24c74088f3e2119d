//! One trait over forests and graphs: rows of features in, one score a row out.

use std::fmt::Debug;

use crate::forest::Forest;
use crate::graph::{Graph, GraphError};
use crate::onnx::{Network, OnnxError, Ports, open};

/// A model that turns rows of features into scores.
pub trait Model: Debug + Send + Sync {
    /// Appends one finite score for each of `count` rows of `rows`, which is row-major.
    fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError>;

    /// `forest` or `graph`, for people.
    fn engine(&self) -> &'static str;
}

/// Why a model gave no score.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    #[error("the rows do not have the width of the model")]
    Width,
    #[error("the output has {columns} columns, the score should be in column {index}")]
    Column { columns: usize, index: usize },
    #[error("the output of row {0} is not a finite number")]
    NotFinite(usize),
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Reads an ONNX file and makes it runnable; `index` is the output column that is the score.
pub fn load(bytes: &[u8], ports: &Ports, index: usize) -> Result<Box<dyn Model>, LoadError> {
    Ok(match open(bytes, ports)? {
        Network::Forest(forest) => {
            let columns = forest.columns();
            if index >= columns {
                return Err(ModelError::Column { columns, index }.into());
            }
            Box::new(ForestModel { forest: *forest, width: ports.width, index })
        }
        Network::Graph(model) => {
            let graph = Graph::new(&model, ports.width).map_err(ModelError::Graph)?;
            Box::new(GraphModel { graph, width: ports.width, index })
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

#[derive(Debug)]
struct ForestModel {
    forest: Forest,
    width: usize,
    index: usize,
}

#[derive(Debug)]
struct GraphModel {
    graph: Graph,
    width: usize,
    index: usize,
}

/// Takes the score column out of all columns; NaN and infinity are no scores.
fn pick(cells: &[f32], columns: usize, index: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
    for (row, cells) in cells.chunks_exact(columns.max(1)).enumerate() {
        let score = *cells.get(index).ok_or(ModelError::Column { columns, index })?;
        if !score.is_finite() {
            return Err(ModelError::NotFinite(row));
        }
        out.push(score);
    }
    Ok(())
}

impl Model for ForestModel {
    fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        if rows.len() != count * self.width {
            return Err(ModelError::Width);
        }
        let mut tallies = Vec::new();
        let mut cells = Vec::with_capacity(self.forest.columns());
        for row in rows.chunks_exact(self.width) {
            cells.clear();
            self.forest.run_row(row, &mut tallies, &mut cells).ok_or(ModelError::Width)?;
            pick(&cells, cells.len(), self.index, out)?;
        }
        Ok(())
    }

    fn engine(&self) -> &'static str {
        "forest"
    }
}

impl Model for GraphModel {
    fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<(), ModelError> {
        if rows.len() != count * self.width {
            return Err(ModelError::Width);
        }
        let mut cells = Vec::with_capacity(count);
        let columns = self.graph.run(rows, count, &mut cells)?;
        pick(&cells, columns, self.index, out)
    }

    fn engine(&self) -> &'static str {
        "graph"
    }
}
