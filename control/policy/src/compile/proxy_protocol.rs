//! Which listeners expect the PROXY protocol, and from whom.

use std::sync::Arc;

use foregate_filters::fault::{Code, closest};
use ipnet::IpNet;

use crate::codes;
use crate::compile::Compilation;
use crate::compile::gateways::Served;
use crate::compile::typed::{Typed, spec};
use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::documents::policy::{Mode, Spec, TargetKind, TargetRef};

/// True where a policy targets this gateway.
pub fn targets(policy: &Typed<'_, Spec>, gateway: &Document) -> bool {
    let names = |target: &TargetRef| {
        target.kind == TargetKind::Gateway && target.name.as_str() == &*gateway.name.name
    };
    policy.document.name.namespace == gateway.name.namespace && policy.spec.target_refs.iter().any(names)
}

impl Compilation<'_> {
    /// Marks the listeners of a gateway as the policies that target it say.
    pub fn expect_proxies(&mut self, gateway: &Document, listeners: &mut [Served]) {
        let mut faults = Vec::new();
        let mut by: Vec<Option<String>> = vec![None; listeners.len()];
        for typed in self.documents.policies.iter().filter(|typed| targets(typed, gateway)) {
            let Some(said) = &typed.spec.proxy_protocol else { continue };
            let at = spec().key("proxyProtocol");
            for (index, name) in said.listeners.iter().enumerate() {
                if listeners.iter().any(|served| served.name == *name) || self.is_partial(gateway) {
                    continue;
                }
                let message = format!("the Gateway `{}` has no listener `{name}`", gateway.name);
                let known = listeners.iter().map(|served| served.name.as_str());
                let help = closest(name, known).map(|near| format!("did you mean `{near}`?"));
                let at = at.key("listeners").index(index);
                let fault = Diagnostic::at(typed.document, &at, Code::REFERENCE, message);
                faults.push(Diagnostic { help, ..fault });
            }
            let from: Arc<[IpNet]> = said.from.clone().into();
            let policy = typed.document.name.to_string();
            for (served, by) in listeners.iter_mut().zip(&mut by) {
                if !said.listeners.is_empty() && !said.listeners.contains(&served.name) {
                    continue;
                }
                if let Some(other) = by.replace(policy.clone()) {
                    let message = format!(
                        "the policy `{other}` says already what the listener `{}` expects",
                        served.name
                    );
                    let help = "say it in one policy";
                    faults.push(Diagnostic::at(typed.document, &at, Code::CONFLICT, message).help(help));
                }
                served.proxies = Some(Arc::clone(&from));
            }
        }
        self.faults.append(&mut faults);
    }

    /// A port is spoken to before its listener is known: all on it must expect the same.
    pub fn proxies_agree(&mut self, gateway: &Document, index: usize, served: &Served, other: &Served) {
        if served.proxies == other.proxies {
            return;
        }
        let message = format!(
            "the listener `{}` has the same port, and expects something else of the PROXY protocol",
            other.name
        );
        let help = "name both listeners in the proxyProtocol of the policy, or neither";
        let at = spec().key("listeners").index(index).key("port");
        self.fault(Diagnostic::at(gateway, &at, codes::PROXY_LISTENERS, message).help(help));
    }

    /// What is said of the PROXY protocol where nobody hears it, and of whom it is believed.
    pub fn weak_proxies(&mut self) {
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        for typed in &self.documents.policies {
            let Some(said) = &typed.spec.proxy_protocol else { continue };
            let at = spec().key("proxyProtocol");
            let gateway = typed.spec.target_refs.iter().any(|target| target.kind == TargetKind::Gateway);
            let why = match (gateway, typed.spec.mode) {
                (false, _) => Some("this is about listeners, and the policy targets no Gateway"),
                (true, Mode::Shadow) => Some("a policy in shadow mode changes no listener"),
                (true, Mode::Enforce) => None,
            };
            if let Some(message) = why {
                let help = "target the Gateway, with a policy in force";
                faults.push(Diagnostic::at(typed.document, &at, Code::CONFLICT, message).help(help));
            }
            for (index, network) in said.from.iter().enumerate() {
                if network.prefix_len() == 0 {
                    let message = format!("whoever connects is believed to be whom it says ({network})");
                    let at = at.key("from").index(index);
                    let lint = Diagnostic::at(typed.document, &at, codes::PROXY_ANYONE, message);
                    warnings
                        .push(lint.help("list the load balancers that stand before the gateway").warning());
                }
            }
        }
        self.faults.append(&mut faults);
        self.warnings.append(&mut warnings);
    }
}
