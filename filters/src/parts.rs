//! The built filters of one policy, before they stand in run order.

use crate::addresses::Addresses;
use crate::api_key::ApiKey;
use crate::authorize::Access;
use crate::choose::Choose;
use crate::cors::{self, Cors};
use crate::enrich::Enrich;
use crate::expression::Environment;
use crate::fairness::Fairness;
use crate::fault::{Code, Fault, Path};
use crate::filter::Filter;
use crate::idempotency::Idempotency;
use crate::identified::Identified;
use crate::inject::Inject;
use crate::introspection::Introspection;
use crate::jwt::Jwt;
use crate::org_quota::OrgQuota;
use crate::preflight::Preflight;
use crate::rate_limit::Limits;
use crate::resources::Resources;
use crate::spec::{FilterSpec, OfRoute, Specs};
use crate::validate::{ValidateBody, ValidateHead};

/// The built filters of one policy, to be taken in run order.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    addresses: Option<Addresses>,
    cors: Option<Cors>,
    preflight: Option<Preflight>,
    jwt: Option<Jwt>,
    introspection: Option<Introspection>,
    api_key: Option<ApiKey>,
    pub(crate) identified: Option<Identified>,
    fairness: Option<Fairness>,
    validate_head: Option<ValidateHead>,
    validate_body: Option<ValidateBody>,
    org_quota: Option<OrgQuota>,
    enrich: Option<Enrich>,
    access: Access,
    pub(crate) limits: Limits,
    choose: Option<Choose>,
    inject: Option<Inject>,
    idempotency: Option<Idempotency>,
}

impl Parts {
    /// With `optional`, requests without credentials of one kind may bring those of another.
    pub(crate) fn build(
        specs: &Specs<'_>,
        index: usize,
        route: &OfRoute<'_>,
        environment: &Environment,
        optional: bool,
        resources: &dyn Resources,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = specs.names();
        if specs.shadow && !specs.enrich.is_empty() {
            let message = "a policy in shadow mode cannot enrich: requests would wait for it";
            faults.push(Fault::new(Code::CONFLICT, specs.at.key("enrich"), message));
            return Err(faults);
        }
        // What a shadow counts is not what the policy counts once it is in force.
        let limits_of = if specs.shadow { format!("{} (shadow)", specs.name) } else { specs.name.to_owned() };
        let bit = u32::try_from(index).ok().and_then(|index| 1_u32.checked_shl(index)).unwrap_or_default();
        let parts = Self {
            addresses: specs.addresses.map(Addresses::new),
            cors: None,
            preflight: None,
            jwt: (!specs.jwt.is_empty())
                .then(|| {
                    let others = !specs.introspection.is_empty();
                    Jwt::build(specs.jwt, specs.name, others, &specs.at.key("jwt"), resources)
                })
                .and_then(|jwt| kept(jwt, &mut faults))
                .map(|jwt| jwt.optional(optional)),
            introspection: (!specs.introspection.is_empty())
                .then(|| {
                    let at = specs.at.key("introspection");
                    Introspection::build(specs.introspection, specs.name, optional, &at, resources)
                })
                .and_then(|introspection| kept(introspection, &mut faults)),
            api_key: specs
                .api_key
                .map(|spec| {
                    let at = specs.at.key("apiKey");
                    ApiKey::build(spec, specs.name, optional, resources.consumers(specs.name), &at)
                })
                .and_then(|api_key| kept(api_key, &mut faults)),
            identified: None,
            fairness: specs
                .fairness
                .map(|spec| Fairness::build(spec, environment, &specs.at.key("fairness")))
                .and_then(|fairness| kept(fairness, &mut faults)),
            validate_head: specs.validate.map(|compiled| compiled.filters().0),
            validate_body: specs.validate.map(|compiled| compiled.filters().1),
            org_quota: specs
                .org_quota
                .map(|spec| OrgQuota::build(spec, environment, &specs.at.key("orgQuota")))
                .and_then(|org_quota| kept(org_quota, &mut faults)),
            enrich: (!specs.enrich.is_empty())
                .then(|| Enrich::build(specs.enrich, &specs.at.key("enrich"), resources))
                .and_then(|enrich| kept(enrich, &mut faults)),
            access: kept(
                Access::build(specs.authorize, bit, specs.anonymous, environment, &specs.at.key("authorize")),
                &mut faults,
            )
            .unwrap_or_default(),
            limits: kept(
                Limits::build(specs.limits(), &limits_of, environment, &specs.at, resources),
                &mut faults,
            )
            .unwrap_or_default(),
            choose: choose(specs, route, environment, &mut faults),
            inject: inject(specs, environment, &mut faults),
            idempotency: idempotency(specs, route, environment, resources, &mut faults),
        };
        if faults.is_empty() { Ok(parts) } else { Err(faults) }
    }

    /// What the rule of a route itself asks for.
    pub(crate) fn of_route(cors: &cors::Spec, at: &Path) -> Result<Self, Vec<Fault>> {
        Cors::build(cors, at).map(|cors| Self {
            preflight: Some(Preflight(cors.clone())),
            cors: Some(cors),
            ..Self::default()
        })
    }

    /// The filter of this kind, where the policy asks for it.
    pub(crate) fn take(&mut self, spec: FilterSpec) -> Option<Box<dyn Filter>> {
        match spec {
            FilterSpec::Addresses => boxed(self.addresses.take()),
            FilterSpec::Cors => boxed(self.cors.take()),
            FilterSpec::FloodLimit
            | FilterSpec::RateLimit
            | FilterSpec::BodyLimit
            | FilterSpec::ScoreLimit => boxed(self.limits.take(spec)),
            FilterSpec::Preflight => boxed(self.preflight.take()),
            FilterSpec::Jwt => boxed(self.jwt.take()),
            FilterSpec::Introspection => boxed(self.introspection.take()),
            FilterSpec::ApiKey => boxed(self.api_key.take()),
            FilterSpec::Identified => boxed(self.identified.take()),
            FilterSpec::Authorize => boxed(self.access.admit.take()),
            FilterSpec::Fairness => boxed(self.fairness.take()),
            FilterSpec::ValidateHead => boxed(self.validate_head.take()),
            FilterSpec::ValidateBody => boxed(self.validate_body.take()),
            FilterSpec::OrgQuota => boxed(self.org_quota.take()),
            FilterSpec::Enrich => boxed(self.enrich.take()),
            FilterSpec::Decide => boxed(self.access.decide.take()),
            FilterSpec::Choose => boxed(self.choose.take()),
            FilterSpec::Inject => boxed(self.inject.take()),
            FilterSpec::Idempotency => boxed(self.idempotency.take()),
        }
    }
}

fn boxed<F: Filter + 'static>(filter: Option<F>) -> Option<Box<dyn Filter>> {
    filter.map(|filter| Box::new(filter) as Box<dyn Filter>)
}

fn idempotency(
    specs: &Specs<'_>,
    route: &OfRoute<'_>,
    environment: &Environment,
    resources: &dyn Resources,
    faults: &mut Vec<Fault>,
) -> Option<Idempotency> {
    let (spec, at) = (specs.idempotency?, specs.at.key("idempotency"));
    if specs.shadow {
        let message = "a policy in shadow mode cannot claim keys: requests would be taken for repeats";
        faults.push(Fault::new(Code::CONFLICT, at, message));
        return None;
    }
    kept(Idempotency::build(spec, specs.name, route.request, environment, &at, resources), faults)
}

fn choose(
    specs: &Specs<'_>,
    route: &OfRoute<'_>,
    environment: &Environment,
    faults: &mut Vec<Fault>,
) -> Option<Choose> {
    let at = specs.at.key("choose");
    kept(Choose::build(specs.choose, route.backends, environment, &at), faults).flatten()
}

fn inject(specs: &Specs<'_>, environment: &Environment, faults: &mut Vec<Fault>) -> Option<Inject> {
    let built =
        (!specs.inject.is_empty()).then(|| Inject::build(specs.inject, environment, &specs.at.key("inject")));
    built.and_then(|inject| kept(inject, faults))
}

fn kept<T>(built: Result<T, Vec<Fault>>, faults: &mut Vec<Fault>) -> Option<T> {
    built.map_err(|mut wrong| faults.append(&mut wrong)).ok()
}
