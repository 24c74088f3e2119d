//! Which call a method and path stand for.

use std::sync::Arc;

use foregate_filters::validate::text::percent_decode;
use http::Method;

use super::super::fault::{Fault, Kind};
use super::super::repository::Repository;
use super::super::served::Served;

/// A model as a path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    version: Option<String>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Live,
    Ready,
    Metrics,
    Server,
    ModelReady(Named),
    Model(Named),
    Infer(Named),
    /// Of all models where none is named.
    Statistics(Option<Named>),
    Index,
    Load(Named),
    Unload(Named),
    /// TensorFlow Serving's.
    Status(Named),
    Predict(Named),
}

impl Named {
    fn new(name: &str, version: Option<&str>) -> Self {
        Self { name: name.to_owned(), version: version.map(str::to_owned) }
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    pub(super) fn find(&self, repository: &Repository) -> Result<Arc<Served>, Fault> {
        repository.find(&self.name, self.version())
    }
}

impl Call {
    /// Reads a path, and tells the method that it is for.
    pub(super) fn find(path: &str) -> Option<(Method, Self)> {
        let segments = path.trim_start_matches('/').split('/');
        let path: Option<Vec<String>> = segments.map(|segment| percent_decode(segment, false)).collect();
        let path = path?;
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        Self::of(&path)
    }

    /// The call, where the method is that of its path.
    pub(super) fn under(found: Option<(Method, Self)>, method: &Method) -> Result<Self, Fault> {
        let unknown = || Fault::new(Kind::NotFound, "there is nothing under this path");
        let (wanted, call) = found.ok_or_else(unknown)?;
        if *method == wanted || (*method == Method::HEAD && wanted == Method::GET) {
            Ok(call)
        } else {
            Err(Fault::new(Kind::MethodNotAllowed, format!("this path is for {wanted}")))
        }
    }

    fn of(path: &[&str]) -> Option<(Method, Self)> {
        let (get, post) = (Method::GET, Method::POST);
        Some(match path {
            ["metrics"] => (get, Self::Metrics),
            ["v2"] => (get, Self::Server),
            ["v2", "health", "live"] => (get, Self::Live),
            ["v2", "health", "ready"] => (get, Self::Ready),
            ["v2", "models", "stats"] => (get, Self::Statistics(None)),
            ["v2", "models", name, rest @ ..] => return Self::of_model(name, rest),
            ["v2", "repository", "index"] => (post, Self::Index),
            ["v2", "repository", "models", name, "load"] => (post, Self::Load(Named::new(name, None))),
            ["v2", "repository", "models", name, "unload"] => (post, Self::Unload(Named::new(name, None))),
            ["v1", "models", last] => match last.split_once(':') {
                Some((name, "predict")) => (post, Self::Predict(Named::new(name, None))),
                Some(_) => return None,
                None => (get, Self::Status(Named::new(last, None))),
            },
            ["v1", "models", name, "versions", last] => match last.split_once(':') {
                Some((version, "predict")) => (post, Self::Predict(Named::new(name, Some(version)))),
                Some(_) => return None,
                None => (get, Self::Status(Named::new(name, Some(last)))),
            },
            _ => return None,
        })
    }

    fn of_model(name: &str, rest: &[&str]) -> Option<(Method, Self)> {
        let (version, rest) = match rest {
            ["versions", version, rest @ ..] => (Some(*version), rest),
            rest => (None, rest),
        };
        let named = Named::new(name, version);
        Some(match rest {
            [] => (Method::GET, Self::Model(named)),
            ["ready"] => (Method::GET, Self::ModelReady(named)),
            ["stats"] => (Method::GET, Self::Statistics(Some(named))),
            ["infer"] => (Method::POST, Self::Infer(named)),
            _ => return None,
        })
    }

    /// True for what reads a body or the folder; all else is told however much is under way.
    pub(super) fn takes_room(&self) -> bool {
        matches!(self, Self::Infer(_) | Self::Predict(_) | Self::Load(_) | Self::Index)
    }

    /// The call as metrics name it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Metrics => "metrics",
            Self::Server => "server_metadata",
            Self::ModelReady(_) => "model_ready",
            Self::Model(_) => "model_metadata",
            Self::Infer(_) => "infer",
            Self::Statistics(_) => "statistics",
            Self::Index => "index",
            Self::Load(_) => "load",
            Self::Unload(_) => "unload",
            Self::Status(_) => "status",
            Self::Predict(_) => "predict",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Named};
    use crate::server::fault::Kind;
    use http::Method;

    #[test]
    fn paths_are_calls() {
        let named = |version| Named::new("lead-score", version);
        for (method, path, call) in [
            (Method::GET, "/v2/health/live", Call::Live),
            (Method::HEAD, "/v2", Call::Server),
            (Method::GET, "/v2/models/lead-score", Call::Model(named(None))),
            (Method::GET, "/v2/models/lead-score/versions/1%2e0/ready", Call::ModelReady(named(Some("1.0")))),
            (Method::POST, "/v2/models/lead-score/versions/1.0/infer", Call::Infer(named(Some("1.0")))),
            (Method::GET, "/v2/models/stats", Call::Statistics(None)),
            (Method::GET, "/v2/models/lead-score/stats", Call::Statistics(Some(named(None)))),
            (Method::POST, "/v2/repository/models/lead-score/load", Call::Load(named(None))),
            (Method::POST, "/v1/models/lead-score:predict", Call::Predict(named(None))),
            (Method::POST, "/v1/models/lead-score%3Apredict", Call::Predict(named(None))),
            (Method::POST, "/v1/models/lead-score/versions/1.0:predict", Call::Predict(named(Some("1.0")))),
            (Method::GET, "/v1/models/lead-score/versions/1.0", Call::Status(named(Some("1.0")))),
        ] {
            assert_eq!(Call::under(Call::find(path), &method), Ok(call), "{path}");
        }
        for (method, path, kind) in [
            (Method::GET, "/", Kind::NotFound),
            (Method::GET, "/v2/models/a/versions/1/infer/x", Kind::NotFound),
            (Method::POST, "/v1/models/a:explain", Kind::NotFound),
            (Method::GET, "/v2/models/%zz", Kind::NotFound),
            (Method::GET, "/v2/models/%ff", Kind::NotFound),
            (Method::GET, "/v2/models/%4", Kind::NotFound),
            (Method::GET, "/v2/models/a/infer", Kind::MethodNotAllowed),
            (Method::POST, "/v2/health/live", Kind::MethodNotAllowed),
        ] {
            assert_eq!(
                Call::under(Call::find(path), &method).map_err(|fault| fault.kind),
                Err(kind),
                "{path}"
            );
        }
    }
}
