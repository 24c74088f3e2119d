//! How the API server is reached: by a file, or as the environment says.

use std::path::Path;

use kube::Config;
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Why nobody knows where it is.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    File(#[from] KubeconfigError),
    #[error(transparent)]
    Environment(#[from] InferConfigError),
}

/// From this kubeconfig; where none is given, from `KUBECONFIG` or the cluster that this runs in.
///
/// # Errors
/// Where the file or the environment names no API server.
pub async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, ReachError> {
    match kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file)?;
            Ok(Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?)
        }
        None => Ok(Config::infer().await?),
    }
}
