//! The thirteen steps of a request, in order; each name is used everywhere.

use std::fmt;

/// Where in its life a request is. The order of the variants is the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Accept,
    Handshake,
    Pin,
    Route,
    Guard,
    Identify,
    Admit,
    Enrich,
    Decide,
    Shape,
    Dispatch,
    Respond,
    Record,
}

impl Step {
    /// Every step, first to last.
    pub const ALL: [Self; 13] = [
        Self::Accept,
        Self::Handshake,
        Self::Pin,
        Self::Route,
        Self::Guard,
        Self::Identify,
        Self::Admit,
        Self::Enrich,
        Self::Decide,
        Self::Shape,
        Self::Dispatch,
        Self::Respond,
        Self::Record,
    ];

    /// The one word used for this step in logs, labels, cases and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Handshake => "handshake",
            Self::Pin => "pin",
            Self::Route => "route",
            Self::Guard => "guard",
            Self::Identify => "identify",
            Self::Admit => "admit",
            Self::Enrich => "enrich",
            Self::Decide => "decide",
            Self::Shape => "shape",
            Self::Dispatch => "dispatch",
            Self::Respond => "respond",
            Self::Record => "record",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
