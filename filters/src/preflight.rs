//! Answers preflights of browsers, once limits against floods have let them pass (Fetch).

use http::request;

use crate::context::RequestContext;
use crate::cors::{Cors, RULE, is_preflight};
use crate::filter::Filter;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

/// Ends every preflight: with what its origin may do, or with a refusal.
#[derive(Debug)]
pub struct Preflight(pub Cors);

impl Filter for Preflight {
    fn on_request(&self, head: &request::Parts, _: &mut RequestContext) -> Verdict {
        if !is_preflight(head) {
            return Verdict::Continue;
        }
        if self.0.allows(head) {
            return self.0.preflight(head).into();
        }
        Reply::new(Reason::OriginDenied).rule(RULE).into()
    }

    /// A preflight has no answer that stays open.
    fn recheck(&self, _: &request::Parts, _: &mut RequestContext) -> Verdict {
        Verdict::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::fault::Path;
    use crate::spec::{OfRoute, build_for};
    use crate::testing::{Call, Policy, TestResources, get, verdict};

    #[test]
    fn a_flood_of_preflights_is_refused_as_any_other() {
        let cors = serde_saphyr::from_str("{ allowOrigins: ['https://app.test'] }").unwrap();
        let policy: Policy = serde_saphyr::from_str(
            "{ rateLimit: [{ name: few, key: source.address, limit: 2, per: 1h }], insecure: { anonymous: true } }",
        )
        .unwrap();
        let specs = policy.specs("flood", Path::default(), None);
        let of_route = OfRoute { cors: Some(&cors), at: Path::default().key("cors"), ..OfRoute::default() };
        let chain = build_for(&[specs], &of_route, &TestResources::default()).unwrap();
        let asks = |origin: &str| -> Call {
            let call = get("/").method("OPTIONS").header("origin", origin);
            call.header("access-control-request-method", "PUT")
        };
        assert_eq!(verdict(&chain, &asks("https://app.test")), "guard: Preflight by cors");
        assert_eq!(verdict(&chain, &asks("https://evil.test")), "guard: OriginDenied by cors");
        assert_eq!(verdict(&chain, &asks("https://app.test")), "guard: RateLimited by few");
    }
}
