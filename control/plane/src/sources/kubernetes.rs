//! The objects of a cluster as a source.

use std::sync::Arc;

use foregate_policy::codes;
use tokio::sync::watch;

use crate::kubernetes::tree;
use crate::sources::{Source, SourceFault, Tree};

/// Its name among the sources.
pub const NAME: &str = "kubernetes";

/// What the controller makes of objects.
#[derive(Debug)]
pub struct KubernetesSource {
    trees: watch::Receiver<Arc<tree::Tree>>,
    /// The one that was given last; 0 before the first.
    given: u64,
}

impl KubernetesSource {
    pub fn new(trees: watch::Receiver<Arc<tree::Tree>>) -> Self {
        Self { trees, given: 0 }
    }
}

#[tonic::async_trait]
impl Source for KubernetesSource {
    async fn next(&mut self) -> Result<Tree, SourceFault> {
        let given = self.given;
        let found = self.trees.wait_for(|tree| tree.revision > given).await;
        let ended =
            |_| SourceFault::new(NAME, codes::SOURCE_UNREADABLE, "nobody watches the cluster any more");
        let tree = Arc::clone(&*found.map_err(ended)?);
        self.given = tree.revision;
        Ok(Tree { revision: tree.revision.to_string(), files: tree.files.clone(), ..Tree::default() })
    }
}
