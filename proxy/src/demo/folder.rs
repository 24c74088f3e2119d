//! The embedded policies and model, written to a private folder that goes away again.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::telemetry::random;

const GATEWAY: &str = include_str!("../../../policies/demo/gateway.yaml");
const BUNDLE: [(&str, &[u8]); 5] = [
    ("model.yaml", include_bytes!("../../../inference-sidecar/bundles/lead-score/model.yaml")),
    ("model.onnx", include_bytes!("../../../inference-sidecar/bundles/lead-score/model.onnx")),
    ("golden.json", include_bytes!("../../../inference-sidecar/bundles/lead-score/golden.json")),
    ("reference.json", include_bytes!("../../../inference-sidecar/bundles/lead-score/reference.json")),
    ("CARD.md", include_bytes!("../../../inference-sidecar/bundles/lead-score/CARD.md")),
];

/// Addresses as the embedded policies have them.
const CRM: &str = "127.0.0.1:8181";
const ISSUER: &str = "http://127.0.0.1:8182";

/// A folder of the demo alone; removed when dropped.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Writes policies that lead to this CRM and trust this issuer, and the model they name.
    pub fn new(crm: SocketAddr, issuer: &str) -> io::Result<Self> {
        let name = format!("foregate-demo-{:016x}", random::next());
        let root = std::env::temp_dir().join(name);
        // Fails where somebody was here before.
        DirBuilder::new().mode(0o700).create(&root)?;
        let folder = Self { root };
        let policies = folder.policies();
        let bundle = folder.root.join("inference-sidecar/bundles/lead-score");
        for path in [&policies, &bundle] {
            DirBuilder::new().mode(0o700).recursive(true).create(path)?;
        }
        let text = GATEWAY.replace(CRM, &crm.to_string()).replace(ISSUER, issuer);
        write(&policies.join("gateway.yaml"), text.as_bytes())?;
        for (name, bytes) in BUNDLE {
            write(&bundle.join(name), bytes)?;
        }
        Ok(folder)
    }

    /// Where the policies are.
    pub fn policies(&self) -> PathBuf {
        self.root.join("policies/demo")
    }

    /// Where the access log is written.
    pub fn access_log(&self) -> PathBuf {
        self.root.join("access.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which empties its folder for temporary files.
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::{CRM, Folder, ISSUER};

    #[test]
    fn the_folder_holds_true_addresses_and_goes_away() {
        let folder = Folder::new("127.0.0.1:1".parse().unwrap(), "http://127.0.0.1:2").unwrap();
        let text = std::fs::read_to_string(folder.policies().join("gateway.yaml")).unwrap();
        assert!(text.contains("\"127.0.0.1:1\"") && text.contains("issuer: http://127.0.0.1:2\n"));
        assert!(!text.contains(CRM) && !text.contains(ISSUER));
        let root = folder.root.clone();
        assert!(root.exists());
        drop(folder);
        assert!(!root.exists());
    }
}
