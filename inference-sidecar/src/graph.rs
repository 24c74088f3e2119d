//! Runs ONNX graphs with tract, one state for each caller at work.

use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    DatumExt, Framework, InferenceModelExt, IntoRunnable, IntoTValue, TDim, Tensor, ToDim, TractResult,
    TypedModel, TypedRunnableModel, TypedSimpleState, tvec,
};

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

impl Graph {
    /// Optimises the graph for rows of `width` columns.
    pub fn new(model: &ModelProto, width: usize) -> Result<Self, GraphError> {
        let plan = plan(model, width).map_err(|error| explain(&error))?;
        Ok(Self { plan, states: Mutex::new(Vec::new()), width })
    }

    /// Appends all columns of the output for `count` rows, and gives the number of columns.
    pub fn run(&self, rows: &[f32], count: usize, out: &mut Vec<f32>) -> Result<usize, GraphError> {
        let pooled = self.states.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut state = match pooled {
            Some(state) => state,
            None => self.plan.spawn().map_err(|error| explain(&error))?,
        };
        let columns = run(&mut state, rows, count, self.width, out)?;
        self.states.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        Ok(columns)
    }
}

fn plan(model: &ModelProto, width: usize) -> TractResult<Arc<TypedRunnableModel>> {
    let mut inference = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_output_types(true)
        .with_ignore_value_info(true)
        .model_for_proto_model(model)?;
    let rows = inference.symbols.sym("N").to_dim();
    let shape: [TDim; 2] = [rows, width.to_dim()];
    inference.set_input_fact(0, f32::fact(shape).into())?;
    let typed: TypedModel = inference.into_optimized()?;
    typed.into_runnable()
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
