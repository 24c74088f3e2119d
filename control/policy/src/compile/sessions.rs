//! Sessions of routes: names, times, contradictions.

use std::time::Duration;

use foregate_filters::fault::Path;
use foregate_filters::units::TimeSpan;
use http::HeaderName;

use crate::balancing::{Carried, Session};
use crate::codes;
use crate::compile::Compilation;
use crate::compile::balancing::SESSION;
use crate::compile::upstreams::bounded;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::balancing::SessionType;
use crate::documents::session::{LifetimeType, SessionPersistence};

/// What a session may last.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(8760));

impl Compilation<'_> {
    /// What a rule says of sessions, compiled.
    pub fn session(
        &mut self,
        document: &Document,
        said: Option<&SessionPersistence>,
        at: &Path,
    ) -> Option<Session> {
        let said = said?;
        let at = at.key("sessionPersistence");
        let faults = &mut self.faults;
        let mut span = |said: Option<TimeSpan>, field: &str| {
            said.map(|span| bounded(document, Some(span), BOUNDS.0, BOUNDS, &at.key(field), faults))
        };
        let absolute = span(said.absolute_timeout, "absoluteTimeout");
        let idle = span(said.idle_timeout, "idleTimeout");
        let lifetime = said.cookie_config.map(|cookie| cookie.lifetime_type);
        let permanent = lifetime == Some(LifetimeType::Permanent);
        let (message, field, help) = if said.kind == SessionType::Header && lifetime.is_some() {
            ("a header has no life of its own", "cookieConfig", "remove it, or write type: Cookie")
        } else if permanent && absolute.is_none() {
            ("nothing says how long the cookie lasts", "cookieConfig", "add absoluteTimeout: 24h")
        } else if idle.zip(absolute).is_some_and(|(idle, absolute)| idle > absolute) {
            (
                "the session is over before it can be idle for so long",
                "idleTimeout",
                "make it shorter than absoluteTimeout",
            )
        } else {
            ("", "", "")
        };
        if !message.is_empty() {
            let fault = Diagnostic::at(document, &at.key(field), codes::SESSION, message).help(help);
            self.fault(fault);
        }
        let name = said.session_name.as_deref().unwrap_or(SESSION);
        let carried = match said.kind {
            SessionType::Cookie => Carried::Cookie(name.into()),
            SessionType::Header => Carried::Header(HeaderName::try_from(name).ok()?),
        };
        Some(Session { carried, max_age: absolute.filter(|_| permanent), absolute, idle })
    }
}
