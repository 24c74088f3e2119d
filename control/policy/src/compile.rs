//! The only road from documents to a snapshot.

use std::path::Path as FilePath;

use foregate_filters::fault::{Fault, Path};
use foregate_filters::resources::Resources;

use crate::snapshot::CertificateFiles;

/// What the process lends to a compilation: long-lived parts, and checks of files that it alone can read.
pub trait Materials: Resources {
    /// Loads the model bundle in this folder, so that [`Resources::scorer`] knows it by `name`.
    fn model(&self, name: &str, bundle: &FilePath, at: &Path) -> Result<(), Fault>;

    /// Says why a listener cannot serve with this certificate and key.
    fn certificate(&self, files: &CertificateFiles) -> Result<(), String>;

    /// Says why no trusted authorities can be read from this PEM file.
    fn authorities(&self, file: &FilePath) -> Result<(), String>;
}

/// What a compilation allows besides the policy language itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Port 0 in listeners: the system chooses one. For tests and the demo.
    pub port_zero: bool,
}
