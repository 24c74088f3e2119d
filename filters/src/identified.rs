//! Refuses requests that took none of several ways to identify.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, request};

use crate::context::RequestContext;
use crate::filter::Filter;
use crate::reason::Reason;
use crate::verdict::{Reply, Verdict};

/// Stands behind identity filters of which each lets requests without its own credentials go on.
#[derive(Debug)]
pub struct Identified {
    policy: Box<str>,
    /// One for each way (RFC 9110, section 11.6.1).
    challenges: Vec<HeaderValue>,
}

impl Identified {
    /// `policy` is named in refusals.
    pub fn new(policy: &str, challenges: Vec<HeaderValue>) -> Self {
        Self { policy: policy.into(), challenges }
    }
}

impl Filter for Identified {
    fn on_request(&self, _: &request::Parts, ctx: &mut RequestContext) -> Verdict {
        if ctx.principal.is_some() || ctx.consumer.is_some() {
            return Verdict::Continue;
        }
        let reply = Reply::new(Reason::CredentialsMissing).rule(&self.policy);
        let challenge = |reply: Reply, value: &HeaderValue| reply.header(WWW_AUTHENTICATE, value.clone());
        self.challenges.iter().fold(reply, challenge).into()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{TestResources, build, build_all, get, run, verdict};

    const BOTH: &str = "
jwt: [{ issuer: 'https://a/', audiences: [x], jwks: { discover: true } }]
apiKey: {}
authorize: [{ name: all, allow: 'has(jwt.subject) || has(consumer.name)' }]
";

    #[test]
    fn whoever_sends_nothing_is_told_every_way() {
        let chain = build(BOTH, &TestResources::with_keys("https://a/")).unwrap();
        let refusal = run(&chain, &get("/")).1.unwrap_err();
        assert_eq!((refusal.reply.reason.name(), &*refusal.reply.rule), ("CredentialsMissing", "policy-0"));
        let challenges: Vec<_> =
            refusal.reply.headers.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(challenges, [r#"Bearer realm="foregate""#, r#"ApiKey realm="foregate""#]);
    }

    #[test]
    fn what_is_sent_must_be_good_whatever_else_is_there() {
        let resources = TestResources::with_keys("https://a/").consumer("sales", &["crm"]);
        let key = resources.key("sales");
        let chain = build(BOTH, &resources).unwrap();
        assert_eq!(verdict(&chain, &get("/").header("x-api-key", &key)), "continue");
        let both = get("/").header("x-api-key", &key).header("authorization", "Bearer nonsense");
        assert_eq!(verdict(&chain, &both), "identify: TokenInvalid by policy-0");
        // Not a token, but not nothing either.
        let basic = get("/").header("x-api-key", &key).header("authorization", "Basic YTpi");
        assert_eq!(verdict(&chain, &basic), "identify: TokenMissing by policy-0");
        let bad = get("/").header("x-api-key", "fg_x_y");
        assert_eq!(verdict(&chain, &bad), "identify: KeyInvalid by policy-0");
    }

    #[test]
    fn ways_of_different_policies_count_together() {
        let token = "jwt: [{ issuer: 'https://a/', audiences: [x], jwks: { discover: true } }]";
        let key = "apiKey: {}\nauthorize: [{ name: all, allow: 'consumer.name == \"sales\"' }]";
        let resources = TestResources::with_keys("https://a/").consumer("sales", &[]);
        let call = get("/").header("x-api-key", resources.key("sales"));
        let chain = build_all(&[token, key], &resources).unwrap();
        assert_eq!(verdict(&chain, &call), "continue");
        assert_eq!(verdict(&chain, &get("/")), "identify: CredentialsMissing by policy-0");
    }
}
