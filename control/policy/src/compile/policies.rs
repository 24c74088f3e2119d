//! Policies: what they target, and the filters they ask for.

use std::sync::Arc;

use foregate_filters::chain::Chain;
use foregate_filters::fault::Code;
use foregate_filters::resources::Resources;
use foregate_filters::spec::{OfRoute, PolicyFault, Specs, build_for};
use foregate_filters::units::ByteSize;
use foregate_filters::validate::Compiled;

use crate::codes;
use crate::compile::Compilation;
use crate::compile::filters::TOLD;
use crate::compile::lints::doubts;
use crate::compile::partial::{lacks_name, lacks_policy};
use crate::compile::typed::spec;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind, ObjectName};
use crate::documents::policy::{self, TargetKind};

/// Largest body collected for filters where no policy says anything.
pub const BODY_LIMIT: u64 = 1 << 20;
/// What a policy may raise it to.
const MAX_BODY_LIMIT: u64 = 64 << 20;

/// A policy with its paths made absolute.
#[derive(Debug)]
pub struct Prepared<'a> {
    pub document: &'a Document,
    pub name: String,
    pub spec: policy::Spec,
    /// What `validate` asks for; once for all routes.
    pub validate: Option<Arc<Compiled>>,
}

#[derive(Debug, Default)]
pub struct Policies<'a>(pub Vec<Prepared<'a>>);

/// The policies of one route, the gateway's first.
#[derive(Debug, Default)]
pub struct Applied<'p, 'a> {
    pub policies: Vec<&'p Prepared<'a>>,
    /// How many of them target the gateway.
    of_gateway: usize,
}

impl<'a> Compilation<'a> {
    pub fn policies(&mut self) -> Policies<'a> {
        // A policy that cannot be read may be the one that protects a route.
        self.policies_missing = self.sources.incomplete
            || self.named(Kind::Policy).count() > self.documents.policies.len()
            || self.named(Kind::Policy).any(|document| self.is_partial(document));
        let mut policies = Vec::new();
        for typed in std::mem::take(&mut self.documents.policies) {
            self.warnings.extend(doubts(&typed));
            let document = typed.document;
            self.targets(document, &typed.spec);
            self.choices(document, &typed.spec);
            self.injected(document, &typed.spec);
            self.uncounted(document, &typed.spec);
            self.body(document, &typed.spec);
            let mut said = typed.spec;
            for file in said.jwt.iter_mut().filter_map(|issuer| issuer.jwks.file.as_mut()) {
                *file = document.file.folder().join(&*file).display().to_string();
            }
            let secrets = self.sources.root.join("secrets");
            for endpoint in &mut said.introspection {
                endpoint.client_auth.anchor(document.file.folder(), &secrets);
            }
            let validate = self.validate(document, &said);
            policies.push(Prepared { document, name: document.name.to_string(), spec: said, validate });
        }
        Policies(policies)
    }

    fn targets(&mut self, document: &Document, said: &policy::Spec) {
        if said.target_refs.is_empty() {
            let message = format!("the policy `{}` has no target and does nothing", document.name);
            let at = Document::name_path();
            let fault = Diagnostic::at(document, &at, codes::POLICY_WITHOUT_TARGET, message);
            self.warnings.push(fault.help("add targetRefs").warning());
        }
        for (index, target) in said.target_refs.iter().enumerate() {
            let kind = match target.kind {
                TargetKind::Gateway => Kind::Gateway,
                TargetKind::HTTPRoute => Kind::HttpRoute,
                TargetKind::TCPRoute => Kind::TcpRoute,
                TargetKind::TLSRoute => Kind::TlsRoute,
                TargetKind::GRPCRoute => Kind::GrpcRoute,
            };
            let name = ObjectName::new(Some(&document.name.namespace), &target.name);
            self.missing(document, kind, &name, &spec().key("targetRefs").index(index).key("name"));
        }
    }

    fn body(&mut self, document: &Document, said: &policy::Spec) {
        let size = said.body.as_ref().and_then(|body| body.max_size);
        if size.is_some_and(|size| !(1..=MAX_BODY_LIMIT).contains(&size.0)) {
            let message = format!("the size must be between 1B and {}", ByteSize(MAX_BODY_LIMIT));
            let at = spec().key("body").key("maxSize");
            self.fault(Diagnostic::at(document, &at, Code::VALUE, message));
        }
    }

    /// The filters of a route; tells every fault and gives `None` otherwise.
    pub fn chain(
        &mut self,
        policies: &[&Prepared<'_>],
        route: Option<&Document>,
        of_route: &OfRoute<'_>,
        resources: &dyn Resources,
    ) -> Option<Chain> {
        let specs: Vec<Specs<'_>> = policies.iter().map(|policy| policy.specs(route.is_none())).collect();
        let wrong = match build_for(&specs, of_route, resources) {
            Ok(chain) => return Some(chain),
            Err(wrong) => wrong,
        };
        for PolicyFault { policy, fault } in wrong {
            if fault.code == TOLD {
                continue;
            }
            let document = policy.and_then(|index| policies.get(index)).map(|policy| policy.document);
            let unsure = self.policies_missing || route.is_some_and(|route| self.is_partial(route));
            if unsure && lacks_policy(&fault) {
                continue;
            }
            if self.policies_missing && document.is_some_and(|document| lacks_name(document, &fault)) {
                continue;
            }
            let diagnostic = match (document, route) {
                (Some(document), _) => Diagnostic::from_fault(document, fault),
                (None, Some(route)) => {
                    let at = Document::name_path();
                    let message = format!("no policy targets the route `{}`: {}", route.name, fault.message);
                    let help = "target it with a Policy that has authorize rules, or insecure: { anonymous: true } if anybody may call";
                    Diagnostic::at(route, &at, fault.code, message).help(help)
                }
                (None, None) => continue,
            };
            self.fault(diagnostic);
        }
        None
    }
}

impl<'a> Policies<'a> {
    /// The policies of a route of this kind as seen from one gateway.
    pub fn of(&self, gateway: &ObjectName, kind: TargetKind, route: &ObjectName) -> Applied<'_, 'a> {
        let (mut applied, mut own) = (Applied::default(), Vec::new());
        for policy in &self.0 {
            if policy.targets(TargetKind::Gateway, gateway) {
                applied.policies.push(policy);
            } else if policy.targets(kind, route) {
                own.push(policy);
            }
        }
        applied.of_gateway = applied.policies.len();
        applied.policies.append(&mut own);
        applied
    }
}

impl Applied<'_, '_> {
    /// The bound of collected bodies: what the route's policies say, else the gateway's; the smallest of several.
    pub fn body_limit(&self) -> usize {
        let (gateway, route) = self.policies.split_at(self.of_gateway.min(self.policies.len()));
        let said = |policies: &[&Prepared<'_>]| {
            let enforced = policies.iter().filter(|policy| policy.spec.mode == policy::Mode::Enforce);
            let sizes = enforced.flat_map(|policy| {
                let body = policy.spec.body.as_ref().and_then(|body| body.max_size).map(|size| size.0);
                let validated = policy.validate.as_ref().and_then(|it| it.bound()).map(|size| size as u64);
                [body, validated]
            });
            sizes.flatten().min()
        };
        let limit = said(route).or_else(|| said(gateway)).unwrap_or(BODY_LIMIT);
        usize::try_from(limit).unwrap_or(usize::MAX)
    }
}

impl Prepared<'_> {
    pub fn targets(&self, kind: TargetKind, name: &ObjectName) -> bool {
        self.document.name.namespace == name.namespace
            && self.spec.target_refs.iter().any(|target| target.kind == kind && *target.name == *name.name)
    }

    /// `alone`: nothing is refused for want of an access rule, so that a policy without route can be checked.
    fn specs(&self, alone: bool) -> Specs<'_> {
        let anonymous = self.spec.insecure.as_ref().is_some_and(|insecure| insecure.anonymous);
        Specs {
            name: &self.name,
            at: spec(),
            addresses: self.spec.addresses.as_ref(),
            jwt: &self.spec.jwt,
            introspection: &self.spec.introspection,
            api_key: self.spec.api_key.as_ref(),
            rate_limit: &self.spec.rate_limit,
            quota: &self.spec.quota,
            concurrency: &self.spec.concurrency,
            fairness: self.spec.fairness.as_ref(),
            validate: self.validate.as_ref(),
            org_quota: self.spec.org_quota.as_ref(),
            enrich: &self.spec.enrich,
            authorize: &self.spec.authorize,
            choose: &self.spec.choose,
            inject: &self.spec.inject,
            idempotency: self.spec.idempotency.as_ref(),
            anonymous: anonymous || (alone && self.spec.authorize.is_empty()),
            shadow: self.spec.mode == policy::Mode::Shadow && !alone,
        }
    }
}
