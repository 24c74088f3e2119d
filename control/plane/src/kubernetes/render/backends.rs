//! What routes lead to: Services that become upstreams, and what leads nowhere.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use foregate_policy::compile::backends::{Speech, upstream_name};
use serde_json::{Value, json};

use crate::kubernetes::kinds::{FOREGATE_GROUP, Resource};
use crate::kubernetes::objects::{Key, Object};
use crate::kubernetes::render::grants::not_granted;
use crate::kubernetes::render::transport::Target;
use crate::kubernetes::render::{EndpointsFile, File, Rendering, port, text};
use crate::kubernetes::report::Verdict;
use crate::kubernetes::services::{Place, Port, place};
use crate::kubernetes::yaml;

/// The Service that nobody can have, as its port is none.
const NOWHERE: (&str, u16) = ("unresolved", 0);

impl Rendering<'_> {
    /// A reference of a route as it is written out: what cannot be reached is replaced by an upstream without
    /// endpoints, so that requests for it are refused, and nothing else takes them.
    pub fn backend(&mut self, route: &Object, said: &Value, gateways: &[Key]) -> (Value, Option<Verdict>) {
        let speech = route.key.resource.document().map_or(Speech::Http, Speech::of);
        let resolved = self.resolve(route, said, speech, gateways);
        let (mut written, wrong) = match resolved {
            Ok(written) => (written, None),
            Err(why) => {
                self.nowhere.insert((route.key.namespace.clone(), speech));
                let name = upstream_name(NOWHERE.0, NOWHERE.1, speech);
                (json!({ "group": FOREGATE_GROUP, "kind": "Upstream", "name": name }), Some(why))
            }
        };
        for field in ["weight", "filters"] {
            if let (Some(value), Some(written)) = (said.get(field), written.as_object_mut()) {
                written.insert(field.to_owned(), value.clone());
            }
        }
        (written, wrong)
    }

    fn resolve(
        &mut self,
        route: &Object,
        said: &Value,
        speech: Speech,
        gateways: &[Key],
    ) -> Result<Value, Verdict> {
        let (group, kind) =
            (text(said, "group").unwrap_or_default(), text(said, "kind").unwrap_or("Service"));
        let name = text(said, "name").unwrap_or_default();
        let namespace = text(said, "namespace").unwrap_or(&route.key.namespace);
        if !matches!((group, kind), ("", "Service") | (FOREGATE_GROUP, "Upstream")) {
            return Err(Verdict::bad("InvalidKind", format!("`{group}/{kind}` is no backend")));
        }
        if namespace != &*route.key.namespace && !self.grants(&route.key, namespace, (group, kind, name)) {
            return Err(not_granted(&route.key, namespace, kind, name));
        }
        let missing = |what: String| Err(Verdict::bad("BackendNotFound", what));
        if kind == "Upstream" {
            let key = Key::new(Resource::Upstream, namespace, name);
            let there = self.world.objects.contains_key(&key);
            if !there || self.excluded(&key).is_some() {
                let why = if there { "is refused" } else { "does not exist" };
                return missing(format!("the Upstream `{namespace}/{name}` {why}"));
            }
            self.reach(Target::upstream(namespace, name), gateways)?;
            // A port beside it is for the compiler to tell of.
            let mut written = json!({ "group": group, "kind": kind, "name": name, "namespace": namespace });
            if let (Some(port), Some(fields)) = (said.get("port"), written.as_object_mut()) {
                fields.insert("port".to_owned(), port.clone());
            }
            return Ok(written);
        }
        let Some(number) = port(said, "port") else {
            return missing(format!("the reference to the Service `{namespace}/{name}` has no port"));
        };
        let Some(ports) = self.world.services.find(namespace, name) else {
            return missing(format!("the Service `{namespace}/{name}` does not exist"));
        };
        if ports.is_external {
            return missing(format!(
                "the Service `{namespace}/{name}` is a name of DNS, which could lead anywhere: write an Upstream"
            ));
        }
        let Some(port) = ports.find(number) else {
            return missing(format!("the Service `{namespace}/{name}` has no TCP port {number}"));
        };
        self.reach(Target::service(namespace, name, Some(&port.name)), gateways)?;
        self.services.entry((place(namespace, name), number)).or_default().insert(speech);
        Ok(json!({ "group": "", "kind": "Service", "name": name, "namespace": namespace, "port": number }))
    }

    /// Notes who reaches a target; refuses what is to be reached by TLS alone that nobody can check.
    fn reach(&mut self, target: Target, gateways: &[Key]) -> Result<(), Verdict> {
        let whole = Target { section: None, ..target.clone() };
        let refused = self.unsafe_targets.get(&target).or_else(|| self.unsafe_targets.get(&whole));
        if let Some(why) = refused {
            return Err(Verdict::bad(
                "BackendNotFound",
                format!("a BackendTLSPolicy of it is refused: {}", why.message),
            ));
        }
        for target in [target, whole] {
            self.reached.entry(target).or_default().extend(gateways.iter().cloned());
        }
        Ok(())
    }

    /// Writes the upstreams of all Services that something leads to.
    pub fn write_services(&mut self) {
        for ((at, number), speeches) in std::mem::take(&mut self.services) {
            let Some(ports) = self.world.services.0.get(&at) else { continue };
            let Some(port) = ports.find(number) else { continue };
            let meant = ports.addresses.iter().map(|address| SocketAddr::new(*address, number).to_string());
            self.write_service(
                &at,
                number,
                &speeches,
                Some((port, ports.unready)),
                &meant.collect::<Vec<_>>(),
            );
        }
        let mut nowhere: std::collections::BTreeMap<Box<str>, BTreeSet<Speech>> =
            std::collections::BTreeMap::new();
        for (namespace, speech) in std::mem::take(&mut self.nowhere) {
            nowhere.entry(namespace).or_default().insert(speech);
        }
        for (namespace, speeches) in nowhere {
            self.write_service(&(namespace, NOWHERE.0.into()), NOWHERE.1, &speeches, None, &[]);
        }
    }

    fn write_service(
        &mut self,
        (namespace, name): &Place,
        number: u16,
        speeches: &BTreeSet<Speech>,
        port: Option<(&Port, bool)>,
        meant: &[String],
    ) {
        let folder = format!("kubernetes/{namespace}/Service");
        let file = format!("{name}.{number}.endpoints");
        let mut text = String::new();
        for speech in speeches {
            let protocol = match speech {
                Speech::Tcp => "Tcp",
                Speech::Grpc => "Http2",
                Speech::Http if port.is_some_and(|(port, _)| port.is_h2c) => "Http2",
                Speech::Http => "Http1",
            };
            let mut document = json!({
                "apiVersion": Resource::Upstream.api_version(),
                "kind": "Upstream",
                "metadata": { "name": upstream_name(name, number, *speech), "namespace": namespace },
                "spec": { "endpointsFile": file, "protocol": protocol }
            });
            // An address stands for one upstream: where a port is spoken to in several ways, for the plainest.
            if let Some(spec) =
                document.get_mut("spec").filter(|_| !meant.is_empty() && Some(speech) == speeches.first())
            {
                spec["virtualAddresses"] = json!(meant);
            }
            text.push_str("---\n");
            text.push_str(&yaml::write(&document));
        }
        let path: Arc<str> = format!("{folder}/{name}.{number}.yaml").into();
        self.out.files.insert(path, File { text: text.into(), origin: None });
        let file = EndpointsFile {
            path: format!("{folder}/{file}").into(),
            port: port.map(|(port, unready)| (port.clone(), unready)),
        };
        self.out.endpoints.entry((namespace.clone(), name.clone())).or_default().push(file);
    }
}
