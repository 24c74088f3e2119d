//! Which listeners look at what is spoken on their connections.

use std::time::Duration;

use foregate_filters::fault::{Code, closest};
use foregate_filters::units::TimeSpan;

use crate::codes;
use crate::compile::Compilation;
use crate::compile::gateways::Served;
use crate::compile::proxy_protocol::targets;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::policy::{Mode, TargetKind};
use crate::snapshot::Speaks;

/// Time for a client to speak first where a policy names none.
pub const WITHIN: Duration = Duration::from_secs(1);
/// What a policy may say instead.
const BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

impl Compilation<'_> {
    /// Marks the listeners of a gateway as the policies that target it say.
    pub fn detecting(&mut self, gateway: &Document, listeners: &mut [Served]) {
        let mut faults = Vec::new();
        let list = spec().key("detect").key("listeners");
        for typed in self.documents.policies.iter().filter(|typed| targets(typed, gateway)) {
            let Some(said) = &typed.spec.detect else { continue };
            for (index, name) in said.listeners.iter().enumerate() {
                let at = list.index(index);
                let Some(served) = listeners.iter_mut().find(|served| served.name == *name) else {
                    if !self.is_partial(gateway) {
                        let message = format!("the Gateway `{}` has no listener `{name}`", gateway.name);
                        let known = listeners.iter().map(|served| served.name.as_str());
                        let help = closest(name, known).map(|near| format!("did you mean `{near}`?"));
                        let fault = Diagnostic::at(typed.document, &at, Code::REFERENCE, message);
                        faults.push(Diagnostic { help, ..fault });
                    }
                    continue;
                };
                let within = said.within.map_or(WITHIN, |within| within.0);
                if let Some(capture) = &mut served.capture {
                    capture.within = within;
                    capture.opaque = said.opaque_ports.clone().into();
                    continue;
                }
                if !said.opaque_ports.is_empty() {
                    let message = format!("nothing is redirected to the listener `{name}`");
                    let help = "name listeners with protocol foregate.dev/Inbound or foregate.dev/Outbound";
                    faults.push(Diagnostic::at(typed.document, &at, codes::CAPTURE, message).help(help));
                }
                if !matches!(served.speaks, Speaks::Tcp | Speaks::Detected(_)) {
                    let message = format!("what is spoken to the listener `{name}` is known by its protocol");
                    let help = "name listeners with protocol TCP";
                    let fault = Diagnostic::at(typed.document, &at, codes::DETECT_LISTENER, message);
                    faults.push(fault.help(help));
                    continue;
                }
                served.speaks = Speaks::Detected(within);
            }
        }
        self.faults.append(&mut faults);
    }

    /// What is said of detection where nobody hears it, and times out of bounds.
    pub fn weak_detection(&mut self) {
        let mut faults = Vec::new();
        for typed in &self.documents.policies {
            let Some(said) = &typed.spec.detect else { continue };
            let at = spec().key("detect");
            let gateway = typed.spec.target_refs.iter().any(|target| target.kind == TargetKind::Gateway);
            if !gateway || typed.spec.mode == Mode::Shadow {
                let message =
                    "this is about listeners: only a policy in force that targets a Gateway may say it";
                let help = "target the Gateway, with a policy in force";
                faults.push(Diagnostic::at(typed.document, &at, Code::CONFLICT, message).help(help));
            }
            if said.within.is_some_and(|within| !(BOUNDS.0..=BOUNDS.1).contains(&within.0)) {
                let (min, max) = (TimeSpan(BOUNDS.0), TimeSpan(BOUNDS.1));
                let message = format!("the time must be between {min} and {max}");
                faults.push(Diagnostic::at(typed.document, &at.key("within"), Code::VALUE, message));
            }
        }
        self.faults.append(&mut faults);
    }
}
