//! Warnings of what compiles but is dead, or probably not meant.

use foregate_filters::enrich;
use foregate_filters::expression::{Enriched, Environment, KeyExpression, Reads, hints};
use foregate_filters::fault::Path;
use foregate_filters::idempotency::spec::OnError as IdempotencyOnError;
use foregate_filters::rate_limit::{OnError, SharedSpec};

use crate::codes;
use crate::compile::Compilation;
use crate::compile::credentials;
use crate::compile::modifiers::Modifiers;
use crate::compile::rules::Routes;
use crate::compile::typed::{Typed, spec};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind};
use crate::documents::policy;
use crate::node::Node;
use crate::routes::paths::{Order, Shadow};

/// Warnings of what the expressions of a policy probably do not mean.
pub fn doubts(policy: &Typed<'_, policy::Spec>) -> impl Iterator<Item = Diagnostic> {
    let policy::Spec { authorize, enrich, fairness, choose, inject, org_quota, .. } = &policy.spec;
    let rule = |rule: &enrich::Spec| Enriched { name: rule.name.clone(), class: true, band: true };
    let rules = enrich.iter().map(rule).collect();
    let environment = Environment { rules, principal: true, consumer: true, body: true };
    let rules = authorize.iter().enumerate().flat_map(|(index, rule)| {
        let at = spec().key("authorize").index(index);
        [(at.key("allow"), rule.allow.as_ref()), (at.key("deny"), rule.deny.as_ref())]
    });
    let limits = limits(&policy.spec);
    let tenant = fairness.iter().map(|it| (spec().key("fairness").key("key"), Some(&it.key)));
    let caller = org_quota.iter().map(|it| (spec().key("orgQuota").key("key"), Some(&it.key)));
    let once = policy.spec.idempotency.iter().flat_map(|it| {
        let at = spec().key("idempotency");
        let key = (at.key("key").key("expression"), it.key.expression.as_ref());
        [key, (at.key("scope"), it.scope.as_ref())]
    });
    let alone = tenancy(policy, &environment).into_iter().chain(weak_keys(policy, &environment));
    let choices = choose
        .iter()
        .enumerate()
        .map(|(index, choice)| (spec().key("choose").index(index).key("when"), Some(&choice.when)));
    let injected = inject
        .iter()
        .enumerate()
        .map(|(index, fault)| (spec().key("inject").index(index).key("when"), Some(&fault.when)));
    let texts = rules.chain(limits).chain(tenant).chain(caller).chain(choices).chain(injected).chain(once);
    let texts = texts.filter_map(|(at, text)| Some((at, text?)));
    let hints = texts.flat_map(move |(at, text)| hints(text, &environment, &at));
    hints.map(|hint| Diagnostic::from_fault(policy.document, hint).warning()).chain(alone)
}

/// Every expression of the limits of a policy, with its place.
fn limits(said: &policy::Spec) -> impl Iterator<Item = (Path, Option<&String>)> {
    let at = |list: &str, index: usize| spec().key(list).index(index);
    let rates = said.rate_limit.iter().enumerate().map(move |(index, it)| {
        (at("rateLimit", index), [Some(&it.key), it.when.as_ref(), it.cost.as_ref()])
    });
    let quotas =
        said.quota.iter().enumerate().map(move |(index, it)| {
            (at("quota", index), [Some(&it.key), it.when.as_ref(), it.cost.as_ref()])
        });
    let open = said
        .concurrency
        .iter()
        .enumerate()
        .map(move |(index, it)| (at("concurrency", index), [Some(&it.key), it.when.as_ref(), None]));
    rates
        .chain(quotas)
        .chain(open)
        .flat_map(|(at, texts)| ["key", "when", "cost"].map(|part| at.key(part)).into_iter().zip(texts))
}

/// Warns of a key of `fairness` that is the same for everybody.
fn tenancy(policy: &Typed<'_, policy::Spec>, environment: &Environment) -> Option<Diagnostic> {
    let fairness = policy.spec.fairness.as_ref()?;
    let at = spec().key("fairness").key("key");
    let key = KeyExpression::new(&fairness.key, environment, &at).ok()?;
    let (code, message) = match key.reads() {
        Reads::NOTHING => {
            (codes::FAIRNESS_CONSTANT, "the key is the same for all requests: they are of one tenant")
        }
        Reads::REQUEST => (
            codes::FAIRNESS_FORGED,
            "the key is whatever a client writes: with ever new ones it takes all turns",
        ),
        _ => return None,
    };
    Some(Diagnostic::at(policy.document, &at, code, message).warning())
}

/// Warns of idempotency that somebody else's key can get at, or that is given up.
fn weak_keys(policy: &Typed<'_, policy::Spec>, environment: &Environment) -> Vec<Diagnostic> {
    let Some(said) = &policy.spec.idempotency else { return Vec::new() };
    let at = spec().key("idempotency");
    let warn = |at: &Path, code, message: &str| Diagnostic::at(policy.document, at, code, message).warning();
    let mut told = Vec::new();
    if said.on_error == IdempotencyOnError::Continue {
        let message = "requests may be carried out twice while the store cannot be asked";
        told.push(warn(&at.key("onError"), codes::IDEMPOTENCY_OPEN, message));
    }
    let scope = said.scope.as_ref().filter(|_| said.key.salesforce.is_none());
    let scope = scope.and_then(|scope| KeyExpression::new(scope, environment, &at.key("scope")).ok());
    if scope.is_some_and(|scope| matches!(scope.reads(), Reads::NOTHING | Reads::REQUEST)) {
        let message = "whoever guesses a key is given the answer of somebody else";
        told.push(warn(&at.key("scope"), codes::IDEMPOTENCY_SCOPE, message));
    }
    told
}

impl Compilation<'_> {
    /// Lints of names are told only where everything else is sound: a fault may hide a use.
    pub fn lint(&mut self, routes: &Routes) {
        if !self.faults.is_empty() {
            return;
        }
        let mut warnings = Vec::new();
        for document in self.named(Kind::Upstream) {
            if !routes.used_upstreams.contains(&document.name) {
                let message = format!("no route leads to the upstream `{}`", document.name);
                warnings.push((document, codes::UPSTREAM_UNUSED, message));
            }
        }
        for document in self.named(Kind::Gateway) {
            if !routes.used_gateways.contains(&document.name) {
                let message = format!("no route attaches to the gateway `{}`", document.name);
                warnings.push((document, codes::GATEWAY_EMPTY, message));
            }
        }
        for document in self.named(Kind::Model) {
            if !self.asks(&document.name.to_string()) {
                let message = format!("no policy asks the model `{}`", document.name);
                warnings.push((document, codes::MODEL_UNUSED, message));
            }
        }
        let mut told: Vec<Diagnostic> = warnings
            .into_iter()
            .map(|(document, code, message)| {
                Diagnostic::at(document, &Document::name_path(), code, message).warning()
            })
            .collect();
        told.extend(self.weak_introspection());
        told.extend(self.credentials_in_clear());
        told.extend(self.idle_balancing());
        told.extend(self.unused_stores());
        told.extend(routes.shadows.iter().filter_map(|(order, by)| self.shadowed(order, by)));
        self.warnings.append(&mut told);
    }

    fn asks(&self, model: &str) -> bool {
        self.named(Kind::Policy).any(|policy| {
            let rules = policy.root.key("spec").and_then(|spec| spec.key("enrich"));
            rules.is_some_and(|rules| {
                rules.items().iter().any(|rule| rule.key("model").and_then(|name| name.text()) == Some(model))
            })
        })
    }

    /// Introspection that accepts any audience, or passes tokens while nobody answers.
    fn weak_introspection(&self) -> Vec<Diagnostic> {
        let mut told = Vec::new();
        for policy in self.named(Kind::Policy) {
            let list = policy.root.key("spec").and_then(|spec| spec.key("introspection"));
            for (index, entry) in list.into_iter().flat_map(Node::items).enumerate() {
                let at = spec().key("introspection").index(index);
                if entry.key("audiences").is_none_or(|audiences| audiences.items().is_empty()) {
                    let message = "tokens for any audience pass";
                    let warning = Diagnostic::at(policy, &at, codes::AUDIENCE_MISSING, message);
                    told.push(warning.help("list the audiences of this service in `audiences`").warning());
                }
                if entry.key("onUnavailable").and_then(Node::text) == Some("stale") {
                    let message = "revoked tokens pass while the endpoint cannot be asked";
                    let at = at.key("onUnavailable");
                    told.push(Diagnostic::at(policy, &at, codes::STALE_ANSWERS, message).warning());
                }
            }
        }
        told
    }

    fn credentials_in_clear(&self) -> Vec<Diagnostic> {
        let plain = self.documents.upstreams.iter().filter(|upstream| credentials::in_clear(&upstream.spec));
        plain
            .map(|upstream| {
                let message = "the credentials are sent over a plain connection";
                let at = spec().key("credentials");
                let lint = Diagnostic::at(upstream.document, &at, codes::CREDENTIALS_IN_CLEAR, message);
                lint.help("add tls: { mode: Simple }").warning()
            })
            .collect()
    }

    /// Warns where every page may call with the credentials of its visitor.
    pub fn any_origin(&mut self, document: &Document, modifiers: &Modifiers) {
        let Some((cors, at)) = &modifiers.cors else { return };
        if cors.allow_credentials && cors.allow_origins.iter().any(|origin| origin == "*") {
            let message = "scripts of every origin may call with the credentials of their visitor";
            let at = at.key("allowCredentials");
            let lint = Diagnostic::at(document, &at, codes::ANY_ORIGIN, message);
            self.warnings.push(lint.help("list the origins in `allowOrigins`").warning());
        }
    }

    /// Warns of faults that are injected: they are there to be taken out again.
    pub fn injected(&mut self, document: &Document, said: &policy::Spec) {
        for (index, fault) in said.inject.iter().enumerate() {
            let message = format!("`{}` lets requests fail or wait on purpose", fault.name);
            let at = spec().key("inject").index(index);
            self.warnings.push(Diagnostic::at(document, &at, codes::FAULTS_INJECTED, message).warning());
        }
    }

    /// Warns of limits that let requests pass uncounted while their store cannot be asked.
    pub fn uncounted(&mut self, document: &Document, said: &policy::Spec) {
        let rates = said.rate_limit.iter().map(|it| it.shared.as_ref()).enumerate();
        let quotas = said.quota.iter().map(|it| it.shared.as_ref()).enumerate();
        let rates = rates.map(|(index, shared)| ("rateLimit", index, shared));
        let quotas = quotas.map(|(index, shared)| ("quota", index, shared));
        for (list, index, shared) in rates.chain(quotas) {
            if shared.is_some_and(|shared: &SharedSpec| shared.on_error == OnError::Continue) {
                let message = "requests pass uncounted while the store cannot be asked";
                let at = spec().key(list).index(index).key("shared").key("onError");
                let lint = Diagnostic::at(document, &at, codes::LIMIT_FAILS_OPEN, message).warning();
                self.warnings.push(lint.help("`local` counts in each process meanwhile"));
            }
        }
    }

    fn shadowed(&self, order: &Order, shadow: &Shadow) -> Option<Diagnostic> {
        let by = &shadow.by;
        let document = self
            .named(if order.grpc { Kind::GrpcRoute } else { Kind::HttpRoute })
            .find(|document| format!("{}/{}", document.name.namespace, document.name.name) == *order.route)?;
        let whose =
            if order.route == by.route { "this route".to_owned() } else { format!("route `{}`", by.route) };
        let message = format!("no request reaches this match: rule {} of {whose} takes them all", by.rule);
        let at = spec().key("rules").index(order.rule).key("matches").index(order.index);
        let code = if shadow.everything { codes::ROUTE_SHADOWED } else { codes::MATCH_SHADOWED };
        Some(Diagnostic::at(document, &at, code, message).warning())
    }
}
