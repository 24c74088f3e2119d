//! Policies that are run beside those in force, and only compared with them.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request;

use crate::chain::Link;
use crate::context::{RequestContext, ShadowFact, ShadowVerdict};
use crate::filter::BodyNeed;
use crate::step::Step;
use crate::verdict::Verdict;

/// The filters of one policy in shadow mode.
///
/// They see the facts that the policies in force have left, and a context of their own: they refuse nobody, edit
/// nothing, use up no limit but their own, and identify nobody to the others.
#[derive(Debug)]
pub struct Shadow {
    policy: Arc<str>,
    links: Vec<Link>,
    /// The policy says itself who may be taken for whom.
    identifies: bool,
}

impl Shadow {
    /// Takes the filters of the policy of this name, in run order.
    pub fn new(policy: &str, links: Vec<Link>) -> Self {
        let identifies = links.iter().any(|link| link.step == Step::Identify);
        Self { policy: policy.into(), links, identifies }
    }

    /// What the policy would have said, beside what was said: `allowed`. Without `whole`, the request ended before
    /// scores were known.
    pub fn judge(
        &self,
        head: &request::Parts,
        ctx: &mut RequestContext,
        allowed: bool,
        whole: bool,
    ) -> ShadowFact {
        let mut own = ctx.shadow();
        let verdict = self.verdict(head, &mut own, whole);
        ctx.counted.hold(own.counted);
        ShadowFact { policy: Arc::clone(&self.policy), verdict, allowed }
    }

    fn verdict(&self, head: &request::Parts, ctx: &mut RequestContext, whole: bool) -> ShadowVerdict {
        if self.identifies {
            (ctx.principal, ctx.consumer) = (None, None);
        }
        for link in &self.links {
            // Bodies are not collected for a shadow: it sees one where the policies in force do.
            let unseen = link.filter.body() == BodyNeed::Whole && ctx.body.is_none() && carries_body(head);
            if unseen || (!whole && link.step > Step::Admit) {
                return ShadowVerdict::Undecided;
            }
            match link.filter.on_request(head, ctx) {
                Verdict::Continue => {}
                Verdict::Wait => return ShadowVerdict::Undecided,
                Verdict::Reply(reply) => {
                    return ShadowVerdict::Refuse { step: link.step, reason: reply.reason, rule: reply.rule };
                }
            }
        }
        ShadowVerdict::Allow
    }
}

/// True unless the head rules a body out.
fn carries_body(head: &request::Parts) -> bool {
    let length = head.headers.get(CONTENT_LENGTH).map(|value| value.as_bytes() != b"0");
    length.unwrap_or_else(|| {
        head.headers.contains_key(TRANSFER_ENCODING) || head.headers.contains_key(CONTENT_TYPE)
    })
}

#[cfg(test)]
mod tests {
    use crate::context::RequestContext;
    use crate::testing::{Call, TestResources, build_all, get, run};

    const REAL: &str = "authorize: [{ name: reads, allow: 'request.method == \"GET\"' }]";

    fn facts(ctx: &RequestContext) -> Vec<String> {
        let fact = |fact: &crate::context::ShadowFact| {
            let rule = match &fact.verdict {
                crate::context::ShadowVerdict::Refuse { rule, .. } => format!(" by {rule}"),
                _ => String::new(),
            };
            format!("{}: {}{rule}, really {}", fact.policy, fact.verdict.name(), fact.allowed)
        };
        ctx.shadows.iter().map(fact).collect()
    }

    fn compared(shadow: &str, call: &Call) -> (Vec<String>, bool, RequestContext) {
        let shadow = format!("mode: shadow\n{shadow}");
        let chain = build_all(&[REAL, &shadow], &TestResources::default()).unwrap();
        let (ctx, outcome) = run(&chain, call);
        (facts(&ctx), outcome.is_ok(), ctx)
    }

    #[test]
    fn a_shadow_tells_what_it_would_have_said_and_changes_nothing() {
        let shadow = "authorize: [{ name: only-x, allow: 'request.path == \"/x\"' }]\naddresses: { deny: [10.0.0.0/8] }";
        for (call, expected, passes) in [
            (get("/x"), "policy-1: allow, really true", true),
            (get("/y"), "policy-1: refuse by default, really true", true),
            (get("/x").method("PUT"), "policy-1: allow, really false", false),
            (get("/y").method("PUT"), "policy-1: refuse by default, really false", false),
            (get("/x").peer("10.1.1.1"), "policy-1: refuse by addresses, really true", true),
        ] {
            let (facts, passed, ctx) = compared(shadow, &call);
            assert_eq!((facts, passed), (vec![expected.to_owned()], passes), "{call:?}");
            assert!(ctx.edits.request.is_empty() && ctx.edits.response.is_empty() && ctx.audits.is_empty());
        }
    }

    #[test]
    fn a_shadow_uses_up_its_own_limits_only_and_identifies_nobody() {
        let limited = "rateLimit: [{ name: one, key: source.address, limit: 1, per: 1h }]\nauthorize: [{ name: all, allow: 'true' }]";
        let shadow = format!("mode: shadow\n{limited}\napiKey: {{}}");
        let resources = TestResources::default().consumer("sales", &[]);
        let chain = build_all(&[REAL, &shadow], &resources).unwrap();
        let call = get("/").header("x-api-key", resources.key("sales"));
        let first = run(&chain, &call).0;
        assert_eq!(facts(&first), ["policy-1: allow, really true"]);
        assert!(first.consumer.is_none() && first.limits.is_empty());
        let second = run(&chain, &call);
        assert_eq!(facts(&second.0), ["policy-1: refuse by one, really true"]);
        assert_eq!(second.1, Ok(()));
        assert_eq!(facts(&run(&chain, &get("/")).0), ["policy-1: refuse by one, really true"]);
    }

    #[test]
    fn a_shadow_that_identifies_is_not_told_who_it_is() {
        let real = "apiKey: {}\nauthorize: [{ name: all, allow: 'true' }]";
        let shadow =
            "mode: shadow\napiKey: { groups: [partners] }\nauthorize: [{ name: all, allow: 'true' }]";
        let resources = TestResources::default().consumer("sales", &[]).consumer("ann", &["partners"]);
        let chain = build_all(&[real, shadow], &resources).unwrap();
        for (name, expected) in [("sales", "policy-1: refuse"), ("ann", "policy-1: allow")] {
            let (ctx, outcome) = run(&chain, &get("/").header("x-api-key", resources.key(name)));
            assert_eq!(outcome, Ok(()));
            assert!(facts(&ctx)[0].starts_with(expected), "{:?}", facts(&ctx));
        }
    }

    #[test]
    fn shadows_neither_protect_a_route_nor_hold_bodies_back() {
        let resources = TestResources::default();
        let shadow = "mode: shadow\nauthorize: [{ name: all, allow: 'true' }]";
        let faults = build_all(&[shadow], &resources).unwrap_err();
        assert!(faults[0].fault.message.contains("nothing says who may call"), "{faults:?}");
        let enrich = "mode: shadow\nenrich: [{ name: lead, model: m, deadline: 1ms }]";
        let faults = build_all(&[REAL, enrich], &resources).unwrap_err();
        assert_eq!(
            faults[0].fault.message,
            "a policy in shadow mode cannot enrich: requests would wait for it"
        );
    }
}
