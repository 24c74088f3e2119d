//! Choices of backends: each must be one that its route leads to.

use foregate_filters::fault::Code;

use crate::codes;
use crate::compile::Compilation;
use crate::compile::attach::suggest;
use crate::compile::backends::Backend;
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::policy::{self, TargetKind};

impl Compilation<'_> {
    /// Tells choices of backends that some targeted route does not lead to. Must precede `routes`.
    pub fn choices(&mut self, document: &Document, said: &policy::Spec) {
        if said.choose.is_empty() {
            return;
        }
        let list = spec().key("choose");
        let always = said.choose.iter().position(|choice| choice.when.trim() == "true");
        let first = always.map_or(said.choose.len(), |always| always + 1);
        for index in first..said.choose.len() {
            let at = list.index(index);
            let message = "this choice is never made: an earlier one is always true";
            self.warnings.push(Diagnostic::at(document, &at, codes::CHOICE_UNREACHED, message).warning());
        }
        if let Some(index) = said.target_refs.iter().position(|target| target.kind == TargetKind::Gateway) {
            let message = "a policy that chooses backends cannot target a Gateway";
            let help = "target the routes that lead to these backends";
            let at = spec().key("targetRefs").index(index);
            self.fault(Diagnostic::at(document, &at, Code::CONFLICT, message).help(help));
            return;
        }
        let mut wrong = Vec::new();
        for target in &said.target_refs {
            let Some(backends) = self.backends(document, target) else { continue };
            for (index, choice) in said.choose.iter().enumerate() {
                let at = list.index(index).key("backend");
                match backends.iter().filter(|name| **name == choice.backend).count() {
                    0 => {}
                    1 => continue,
                    _ => {
                        let message = format!(
                            "`{}` names several backends of the route `{}`",
                            choice.backend, target.name
                        );
                        let help = "give the `Upstream`s names of their own";
                        let diagnostic = Diagnostic::at(document, &at, codes::CHOICE_UNKNOWN, message);
                        wrong.push(diagnostic.help(help));
                        continue;
                    }
                }
                let message = format!(
                    "no rule of the route `{}` leads to the backend `{}`",
                    target.name, choice.backend
                );
                let names: Vec<&str> = backends.iter().map(String::as_str).collect();
                let help = suggest(&choice.backend, &names, "its backends");
                wrong.push(Diagnostic::at(document, &at, codes::CHOICE_UNKNOWN, message).help(help));
            }
        }
        self.faults.append(&mut wrong);
    }

    /// Names of all backends of a route; `None` where it does not exist or was not read whole.
    fn backends(&self, policy: &Document, target: &policy::TargetRef) -> Option<Vec<String>> {
        let is = |document: &Document| {
            document.name.namespace == policy.name.namespace && *document.name.name == *target.name
        };
        let said = |backend: &Backend| (backend.name.clone(), backend.place());
        let mut names: Vec<(String, String)> = match target.kind {
            // What only requests have is refused of connections elsewhere.
            TargetKind::Gateway | TargetKind::TCPRoute | TargetKind::TLSRoute => return None,
            TargetKind::HTTPRoute => {
                let route = self.documents.routes.iter().find(|route| is(route.document))?;
                if self.is_partial(route.document) {
                    return None;
                }
                let backends = route.spec.rules.iter().flat_map(|rule| &rule.backend_refs);
                backends.map(|backend| said(&Backend::from(backend))).collect()
            }
            TargetKind::GRPCRoute => {
                let route = self.documents.grpc_routes.iter().find(|route| is(route.document))?;
                if self.is_partial(route.document) {
                    return None;
                }
                let backends = route.spec.rules.iter().flat_map(|rule| &rule.backend_refs);
                backends.map(|backend| said(&Backend::from(backend))).collect()
            }
        };
        names.sort_unstable();
        names.dedup();
        Some(names.into_iter().map(|(name, _)| name).collect())
    }
}
