//! What documents refer to, opened and checked while they compile.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::fault::{Fault, Path};
use foregate_policy::compile::Materials;
use foregate_policy::documents::credentials::Credentials;
use foregate_policy::model::Model;
use foregate_policy::redis_store::RedisStore;
use foregate_policy::snapshot::CertificateFiles;

use crate::clock;
use crate::discovery;
use crate::dispatch;
use crate::identity::trust;
use crate::oauth::credential::Credential;
use crate::oauth::proof::secret_fault;
use crate::shared::Shared;
use crate::store::{self, Store};
use crate::tls;

impl Materials for Shared {
    fn unix(&self) -> Duration {
        clock::now().unix
    }

    fn model(&self, model: &Model, spec: &Path) -> Result<(), Vec<Fault>> {
        self.load_model(model, spec)
    }

    fn store(&self, spec: &Arc<RedisStore>, at: &Path) -> Result<(), Fault> {
        let password = spec.password.as_ref().map(|password| self.secret(password)).transpose();
        let password = password.map_err(|error| secret_fault(&at.key("password"), &error))?;
        let made = self.stores.note(spec, || {
            let fetcher = self.fetcher.as_ref()?;
            Some(Store::new(spec, password, self.identity.clone(), &fetcher.runtime))
        });
        if let (Some(telemetry), Some(store)) = (&self.telemetry, &made) {
            store::metrics::register(telemetry, store);
        }
        Ok(())
    }

    fn certificate(&self, files: &CertificateFiles) -> Result<(), String> {
        tls::certificate(files).map(drop).map_err(|error| error.to_string())
    }

    fn authorities(&self, file: &FilePath) -> Result<(), String> {
        dispatch::tls::authorities(file).map(drop).map_err(|error| error.to_string())
    }

    fn endpoints(&self, file: &FilePath) -> Result<(), String> {
        discovery::file::read(file).map(drop)
    }

    fn revocations(&self, file: &FilePath) -> Result<(), String> {
        // A file that is there and cannot be looked at must not pass for one that is not.
        if file.try_exists().is_ok_and(|there| !there) {
            return Ok(());
        }
        trust::check_revocations(file).map_err(|error| error.to_string())
    }

    fn workload(&self) -> Result<(), String> {
        if self.elsewhere || self.identity.is_some() {
            return Ok(());
        }
        Err("this process was given no identity of its workload".to_owned())
    }

    fn credentials(&self, said: &Credentials, at: &Path) -> Result<(), Fault> {
        Credential::open(said, at, &|secret| self.secret(secret), None).map(drop)
    }
}
