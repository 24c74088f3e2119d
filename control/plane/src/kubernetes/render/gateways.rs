//! Gateways: their listeners, certificates and conflicts, and the documents they become.

use serde_json::{Map, Value, json};

use crate::kubernetes::certificates::{authorities, fits};
use crate::kubernetes::kinds::Resource;
use crate::kubernetes::objects::Object;
use crate::kubernetes::references::{Holder, Reference};
use crate::kubernetes::render::grants::not_granted;
use crate::kubernetes::render::listeners::Listener;
use crate::kubernetes::render::{Rendering, list, text};
use crate::kubernetes::report::{GatewayReport, ListenerReport, Report, Verdict};

/// A Gateway of this controller.
#[derive(Debug)]
pub struct Plan<'a> {
    pub object: &'a Object,
    pub listeners: Vec<Listener>,
    pub accepted: Verdict,
}

impl Plan<'_> {
    /// True where at least one listener is served.
    pub fn is_served(&self) -> bool {
        self.accepted.ok && self.listeners.iter().any(|listener| listener.written.is_some())
    }
}

impl<'a> Rendering<'a> {
    /// Reads every Gateway of our classes, the oldest first: in conflicts it comes before others.
    pub fn plan_gateways(&mut self) {
        let classes: Vec<&str> = self.ours().into_iter().map(|class| &*class.key.name).collect();
        let mut gateways: Vec<&'a Object> = self
            .world
            .of(Resource::Gateway)
            .map(AsRef::as_ref)
            .filter(|gateway| {
                text(&gateway.spec, "gatewayClassName").is_some_and(|name| classes.contains(&name))
            })
            .collect();
        gateways.sort_by(|one, other| one.seniority().cmp(&other.seniority()));
        for gateway in gateways {
            let plan = self.plan_gateway(gateway);
            self.plans.push(plan);
        }
    }

    fn plan_gateway(&mut self, gateway: &'a Object) -> Plan<'a> {
        let accepted = if let Some(why) = self.excluded(&gateway.key) {
            why
        } else if list(&gateway.spec, "addresses").is_empty() {
            Verdict::good("Accepted")
        } else {
            Verdict::bad(
                "UnsupportedAddress",
                "spec.addresses: addresses are those of the Service before the proxies",
            )
        };
        let detects = self.detecting(gateway);
        let mut listeners: Vec<Listener> = Vec::new();
        for (index, said) in list(&gateway.spec, "listeners").iter().enumerate() {
            let detects = text(said, "name").is_some_and(|name| detects.contains(&name));
            let mut listener = Listener::read(index, said, detects);
            self.certificates(gateway, said, &mut listener);
            if accepted.ok
                && let Some(why) = self.excluded.listeners.get(&(gateway.key.clone(), index))
            {
                listener.accepted = why.clone();
            }
            let others = self.plans.iter().filter(|plan| plan.accepted.ok).flat_map(|plan| &plan.listeners);
            let clash = others.chain(&listeners).find_map(|other| Some((other, listener.clashes(other)?)));
            if let Some((other, reason)) = clash {
                let message = format!("listener `{}` has port {} already", other.name, other.port);
                listener.conflicted = Verdict { ok: true, reason, message };
            }
            let served = accepted.ok
                && listener.accepted.ok
                && !listener.conflicted.ok
                && (listener.resolved.ok || listener.resolved.reason == "InvalidRouteKinds")
                && !listener.kinds.is_empty();
            listener.written = served.then(|| self.written(gateway, said));
            listeners.push(listener);
        }
        Plan { object: gateway, listeners, accepted }
    }

    /// Names of listeners that look at what is spoken to them, as policies have it.
    fn detecting(&self, gateway: &Object) -> Vec<&'a str> {
        let policies =
            self.world.of(Resource::Policy).filter(|policy| policy.key.namespace == gateway.key.namespace);
        let about = policies.filter(|policy| {
            let mut targets = list(&policy.spec, "targetRefs").iter();
            targets.any(|target| {
                text(target, "kind") == Some("Gateway") && text(target, "name") == Some(&gateway.key.name)
            })
        });
        let detects = about.filter_map(|policy| policy.spec.get("detect"));
        detects.flat_map(|detect| list(detect, "listeners")).filter_map(Value::as_str).collect()
    }

    /// Finds the certificates and authorities that a listener names.
    fn certificates(&mut self, gateway: &Object, said: &Value, listener: &mut Listener) {
        let tls = said.get("tls").unwrap_or(&Value::Null);
        for reference in list(tls, "certificateRefs") {
            let found = self.certificate(gateway, reference);
            if let Err(why) = found {
                listener.resolved = why;
            }
        }
        if listener.protocol != "HTTPS" {
            return;
        }
        let frontend = gateway.spec.pointer("/tls/frontend").unwrap_or(&Value::Null);
        let of_port = list(frontend, "perPort").iter().find(|entry| entry.get("port") == said.get("port"));
        let chosen = of_port.and_then(|entry| entry.get("tls")).or_else(|| frontend.get("default"));
        let validation = chosen.and_then(|tls| tls.get("validation")).unwrap_or(&Value::Null);
        for reference in list(validation, "caCertificateRefs") {
            if let Err(why) = self.authority(gateway, reference) {
                listener.resolved = why;
            }
        }
    }

    /// The Secret of a certificate, once both of its parts are there and fit.
    fn certificate(&mut self, gateway: &Object, said: &Value) -> Result<Reference, Verdict> {
        let reference = self.reference(gateway, said, &[Holder::Secret], "InvalidCertificateRef")?;
        for key in ["tls.crt", "tls.key"] {
            if let Some(why) = self.need(&reference, key) {
                return Err(Verdict::bad("InvalidCertificateRef", why));
            }
        }
        if let Some(content) = self.references.get(&reference)
            && let (Some(chain), Some(key)) = (content.key("tls.crt"), content.key("tls.key"))
        {
            fits(chain, key).map_err(|why| {
                Verdict::bad("InvalidCertificateRef", format!("the Secret `{}`: {why}", reference.name))
            })?;
        }
        Ok(reference)
    }

    fn authority(&mut self, gateway: &Object, said: &Value) -> Result<Reference, Verdict> {
        let holders = [Holder::ConfigMap, Holder::Secret];
        let reference = self.reference(gateway, said, &holders, "InvalidCACertificateRef")?;
        match self.need_authority(&reference) {
            Some(why) => Err(Verdict::bad("InvalidCACertificateRef", why)),
            None => Ok(reference),
        }
    }

    /// Notes that the authorities of a Secret or `ConfigMap` are needed; says why they cannot be had or used.
    pub fn need_authority(&mut self, reference: &Reference) -> Option<String> {
        let lacks = self.need(reference, "ca.crt");
        let pem = self.references.get(reference).and_then(|content| content.key("ca.crt"));
        let unfit = || {
            let why = pem.and_then(|pem| authorities(pem).err())?;
            Some(format!("ca.crt of the {} `{}`: {why}", reference.holder.word(), reference.name))
        };
        lacks.or_else(unfit)
    }

    /// What a Gateway refers to, where it may.
    fn reference(
        &self,
        gateway: &Object,
        said: &Value,
        holders: &[Holder],
        reason: &'static str,
    ) -> Result<Reference, Verdict> {
        let (group, name) = (text(said, "group").unwrap_or_default(), text(said, "name").unwrap_or_default());
        let word = text(said, "kind").unwrap_or("Secret");
        let holder = Holder::find(word).filter(|holder| group.is_empty() && holders.contains(holder));
        let Some(holder) = holder else {
            let reason = if holders.len() > 1 { "InvalidCACertificateKind" } else { reason };
            return Err(Verdict::bad(reason, format!("`{group}/{word}` holds no certificates")));
        };
        let namespace = text(said, "namespace").unwrap_or(&gateway.key.namespace);
        if namespace != &*gateway.key.namespace && !self.grants(&gateway.key, namespace, ("", word, name)) {
            return Err(not_granted(&gateway.key, namespace, word, name));
        }
        Ok(Reference::new(holder, namespace, name))
    }

    /// A listener as it is written: its routes were chosen already.
    fn written(&self, gateway: &Object, said: &Value) -> Value {
        let mut said = said.clone();
        if let Some(fields) = said.as_object_mut() {
            fields.insert("allowedRoutes".to_owned(), json!({ "namespaces": { "from": "All" } }));
        }
        if let Some(references) = said.pointer_mut("/tls/certificateRefs").and_then(Value::as_array_mut) {
            for reference in references {
                if let Ok(found) = self.reference(gateway, reference, &[Holder::Secret], "") {
                    *reference = json!({ "name": found.folder() });
                }
            }
        }
        said
    }

    /// Writes the Gateways that something is left of, and notes what became of all.
    pub fn write_gateways(&mut self) {
        for plan in std::mem::take(&mut self.plans) {
            if plan.is_served() {
                let spec = self.gateway_spec(&plan);
                let served = plan.listeners.iter().filter(|listener| listener.written.is_some());
                self.out
                    .places
                    .insert(plan.object.key.clone(), served.map(|listener| listener.index).collect());
                self.write(plan.object, &spec);
            }
            self.out.reports.insert(plan.object.key.clone(), Report::Gateway(report(&plan)));
        }
    }

    fn gateway_spec(&mut self, plan: &Plan<'_>) -> Value {
        let mut spec = Map::new();
        spec.insert("gatewayClassName".to_owned(), "foregate".into());
        let listeners: Vec<Value> =
            plan.listeners.iter().filter_map(|listener| listener.written.clone()).collect();
        spec.insert("listeners".to_owned(), listeners.into());
        for (field, value) in plan.object.spec.as_object().into_iter().flatten() {
            // Which machines serve it is for whoever installs the proxies.
            let known = ["gatewayClassName", "listeners", "addresses", "infrastructure", "allowedListeners"];
            if !known.contains(&field.as_str()) {
                spec.insert(field.clone(), value.clone());
            }
        }
        let mut spec = Value::Object(spec);
        self.anchor_frontend(plan.object, &mut spec);
        spec
    }

    /// Has the authorities of clients be found in the tree. Where one cannot be, no listener that asks for it is served.
    fn anchor_frontend(&mut self, gateway: &Object, spec: &mut Value) {
        let Some(frontend) = spec.pointer_mut("/tls/frontend") else { return };
        let mut all: Vec<&mut Value> = Vec::new();
        if let Some(fields) = frontend.as_object_mut() {
            for (field, value) in fields {
                match field.as_str() {
                    "default" => all.push(value),
                    _ => all.extend(
                        value.as_array_mut().into_iter().flatten().filter_map(|entry| entry.get_mut("tls")),
                    ),
                }
            }
        }
        for tls in all {
            let mut whole = true;
            let references = tls.pointer_mut("/validation/caCertificateRefs").and_then(Value::as_array_mut);
            for reference in references.into_iter().flatten() {
                match self.authority(gateway, reference) {
                    Ok(found) => {
                        *reference =
                            json!({ "group": "", "kind": found.holder.word(), "name": found.folder() });
                    }
                    Err(_) => whole = false,
                }
            }
            if !whole && let Some(fields) = tls.as_object_mut() {
                fields.remove("validation");
            }
        }
    }
}

fn report(plan: &Plan<'_>) -> GatewayReport {
    let listeners: Vec<ListenerReport> = plan.listeners.iter().map(listener_report).collect();
    let bad: Vec<&str> =
        listeners.iter().filter(|listener| !listener.programmed.ok).map(|listener| &*listener.name).collect();
    let not_served = || format!("not served: {}", bad.join(", "));
    let accepted = if plan.accepted.ok && !bad.is_empty() {
        let invalid = bad.len() == listeners.len();
        Verdict { ok: !invalid, reason: "ListenersNotValid", message: not_served() }
    } else {
        plan.accepted.clone()
    };
    let programmed = if plan.is_served() {
        Verdict {
            ok: true,
            reason: "Programmed",
            message: if bad.is_empty() { String::new() } else { not_served() },
        }
    } else {
        Verdict::bad("Invalid", if plan.accepted.ok { not_served() } else { plan.accepted.message.clone() })
    };
    GatewayReport { accepted, programmed, listeners }
}

fn listener_report(listener: &Listener) -> ListenerReport {
    let programmed = if listener.written.is_some() {
        Verdict::good("Programmed")
    } else {
        Verdict::bad("Invalid", "the listener is not served")
    };
    ListenerReport {
        name: listener.name.clone(),
        kinds: listener.kinds.clone(),
        attached: listener.attached,
        accepted: listener.accepted.clone(),
        programmed,
        resolved: listener.resolved.clone(),
        conflicted: listener.conflicted.clone(),
    }
}
