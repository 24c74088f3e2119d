//! What is told of the server and its models, as messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::repository::Listed;
use super::super::served::Served;
use super::super::statistics::{Sum, Sums};
use super::super::tensors::Port;
use super::super::{EXTENSIONS, NAME};
use crate::protocol::BUNDLE;
use crate::protocol::messages::{
    InferStatistics, ModelIndex, ModelMetadataResponse, ModelStatistics, ModelStatisticsResponse,
    RepositoryIndexResponse, ServerMetadataResponse, StatisticDuration, TensorMetadata,
};

pub(super) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// `served` is the one asked for; `versions` are all of that name.
pub(super) fn model(served: &Served, versions: &[Arc<Served>]) -> ModelMetadataResponse {
    let port = |port: &Port| TensorMetadata {
        name: port.name.to_string(),
        datatype: port.datatype.name().to_owned(),
        shape: port.shape.clone(),
    };
    ModelMetadataResponse {
        name: served.name.to_string(),
        versions: versions.iter().map(|served| served.version.to_string()).collect(),
        platform: served.platform(),
        inputs: served.inputs.iter().map(port).collect(),
        outputs: served.outputs.iter().map(port).collect(),
        properties: BTreeMap::from([(BUNDLE.to_owned(), served.digest().to_owned())]),
    }
}

pub(super) fn statistics(models: &[Arc<Served>]) -> ModelStatisticsResponse {
    let sum = |sum: Sum| Some(StatisticDuration { count: sum.count, ns: sum.ns });
    let sums = |sums: Sums| InferStatistics {
        success: sum(sums.success),
        fail: sum(sums.fail),
        queue: sum(sums.queue),
        compute_input: sum(sums.compute_input),
        compute_infer: sum(sums.compute_infer),
        compute_output: sum(sums.compute_output),
        cache_hit: sum(sums.cache_hit),
        cache_miss: sum(sums.cache_miss),
    };
    let line = |served: &Arc<Served>| {
        let counts = served.statistics.counts();
        ModelStatistics {
            name: served.name.to_string(),
            version: served.version.to_string(),
            last_inference: counts.last_inference,
            inference_count: counts.inference_count,
            execution_count: counts.execution_count,
            inference_stats: Some(sums(counts.inference_stats)),
        }
    };
    ModelStatisticsResponse { model_stats: models.iter().map(line).collect() }
}

pub(super) fn index(lines: Vec<Listed>) -> RepositoryIndexResponse {
    let line = |line: Listed| ModelIndex {
        name: line.name,
        version: line.version,
        state: line.state.to_owned(),
        reason: line.reason,
    };
    RepositoryIndexResponse { models: lines.into_iter().map(line).collect() }
}
