//! Runs ONNX graphs with tract, one state for each caller at work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    DatumExt, Framework, InferenceModelExt, IntoRunnable, IntoTValue, Symbol, SymbolValues, TDim, Tensor,
    ToDim, TractResult, TypedModel, TypedRunnableModel, TypedSimpleState, tvec,
};

/// Rows of one run at most, with which the size of every tensor is computed beforehand.
const MAX_ROWS: i64 = 256;
/// Numbers in one tensor of a run at most: 256 MiB of f32.
const MAX_CELLS: i64 = 1 << 26;

/// An optimised graph with a symbolic number of rows.
#[derive(Debug)]
pub struct Graph {
    plan: Arc<TypedRunnableModel>,
    /// States kept for reuse: as many as callers ever ran at once.
    states: Mutex<Vec<TypedSimpleState>>,
    width: usize,
}

/// What tract says against a graph or a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GraphError(pub String);

fn explain(error: &impl std::fmt::Debug) -> GraphError {
    let text = format!("{error:?}");
    GraphError(text.lines().next().unwrap_or_default().to_owned())
}

/// A defect of the engine that some file brings out must cost that file, and not the process.
fn guarded<T>(work: impl FnOnce() -> Result<T, GraphError>) -> Result<T, GraphError> {
    let defect = || GraphError("the engine panicked; this graph cannot be run".to_owned());
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(defect()))
}

impl Graph {
    /// Optimises the graph for rows of `width` columns; refuses tensors of over 2^26 numbers for 256 rows.
    pub fn new(model: &ModelProto, width: usize) -> Result<Self, GraphError> {
        let plan = guarded(|| plan(model, width).map_err(|error| explain(&error))?)?;
        Ok(Self { plan, states: Mutex::new(Vec::new()), width })
    }

    /// Appends all columns of the output for `count` rows, and gives the number of columns.
    pub fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<usize, GraphError> {
        let pooled = self.states.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut state = match pooled {
            Some(state) => state,
            None => self.plan.spawn().map_err(|error| explain(&error))?,
        };
        let columns = guarded(|| run(&mut state, rows, count, self.width, out))?;
        self.states.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        Ok(columns)
    }
}

type Plan = Result<Arc<TypedRunnableModel>, GraphError>;

fn plan(model: &ModelProto, width: usize) -> TractResult<Plan> {
    let mut inference = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_output_types(true)
        .with_ignore_value_info(true)
        .model_for_proto_model(model)?;
    let symbol = inference.symbols.sym("N");
    let shape: [TDim; 2] = [symbol.to_dim(), width.to_dim()];
    inference.set_input_fact(0, f32::fact(shape).into())?;
    let typed: TypedModel = inference.into_optimized()?;
    if let Some(node) = too_large(&typed, &symbol) {
        return Ok(Err(GraphError(format!(
            "`{node}` gives over 2^26 numbers for 256 rows, or an unknown number"
        ))));
    }
    typed.into_runnable().map(Ok)
}

/// The first node whose output is larger than a run may make it, or of a size that cannot be told.
fn too_large(model: &TypedModel, rows: &Symbol) -> Option<String> {
    let values = SymbolValues::default().with(rows, MAX_ROWS);
    let fits = |shape: &[TDim]| {
        let cells = shape.iter().try_fold(1_i64, |cells, dim| {
            cells.checked_mul(dim.eval_to_i64(&values).ok().filter(|size| *size >= 0)?)
        });
        cells.is_some_and(|cells| cells <= MAX_CELLS)
    };
    let mut nodes = model.nodes().iter();
    let found = nodes.find(|node| node.outputs.iter().any(|output| !fits(&output.fact.shape)));
    found.map(|node| node.name.clone())
}

fn run(
    state: &mut TypedSimpleState,
    rows: &[f32],
    count: usize,
    width: usize,
    out: &mut Vec<f32>,
) -> Result<usize, GraphError> {
    let input = Tensor::from_shape(&[count, width], rows).map_err(|error| explain(&error))?;
    let outputs = state.run(tvec!(input.into_tvalue())).map_err(|error| explain(&error))?;
    let output = outputs.first().ok_or_else(|| GraphError("no output".to_owned()))?;
    let columns = match output.shape() {
        [rows] if *rows == count => 1,
        [rows, columns] if *rows == count => *columns,
        shape => return Err(GraphError(format!("an output of shape {shape:?} for {count} rows"))),
    };
    let cells = output.to_plain_array_view::<f32>().map_err(|error| explain(&error))?;
    out.extend(cells.iter());
    Ok(columns)
}
