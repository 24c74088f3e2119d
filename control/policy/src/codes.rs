//! Every code of a diagnostic, with its title, explanation and example.

use foregate_filters::fault::Code;

/// What `foregate explain` tells about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub code: Code,
    pub title: &'static str,
    pub explanation: &'static str,
    /// An example that gives this code.
    pub wrong: &'static str,
    /// The same, mended.
    pub right: &'static str,
}

pub const SYNTAX: Code = Code(101);
pub const UNKNOWN_FIELD: Code = Code(102);
pub const UNSUPPORTED: Code = Code(103);
pub const TYPE: Code = Code(104);
pub const MISSING_FIELD: Code = Code(105);
pub const VALUE_UNKNOWN: Code = Code(106);
pub const BOUNDS: Code = Code(107);
pub const DUPLICATE_KEY: Code = Code(108);
pub const BUDGET: Code = Code(109);
pub const UNKNOWN_KIND: Code = Code(110);
pub const UNSUPPORTED_KIND: Code = Code(111);
pub const FILE_UNREADABLE: Code = Code(112);
pub const NO_POLICY: Code = Code(113);
pub const YAML_FEATURE: Code = Code(114);
pub const CASE_FILE: Code = Code(115);
pub const PATTERN: Code = Code(116);
pub const DUPLICATE_NAME: Code = Code(201);
pub const LISTENER_CONFLICT: Code = Code(202);
pub const LISTENER_TLS: Code = Code(203);
pub const ROUTE_FILTER: Code = Code(204);
pub const ROUTE_MATCH: Code = Code(205);
pub const NO_BACKEND: Code = Code(206);
pub const PORT_ZERO: Code = Code(207);
pub const NOT_ALLOWED: Code = Code(208);
pub const LISTENER_OPTION: Code = Code(220);
pub const IDENTITY_MISSING: Code = Code(221);
pub const POLICY_WITHOUT_TARGET: Code = Code(601);
pub const UPSTREAM_UNUSED: Code = Code(602);
pub const MODEL_UNUSED: Code = Code(603);
pub const MATCH_SHADOWED: Code = Code(604);
pub const ROUTE_DETACHED: Code = Code(605);
pub const GATEWAY_EMPTY: Code = Code(606);
pub const PLAIN_UNTIL: Code = Code(620);
pub const CERTIFICATE_OPTIONAL: Code = Code(621);
pub const CREDENTIALS_IN_CLEAR: Code = Code(622);
pub const AUDIENCE_MISSING: Code = Code(623);
pub const STALE_ANSWERS: Code = Code(624);
pub const KEY_EXPIRED: Code = Code(625);
pub const GROUP_UNKNOWN: Code = Code(626);
pub const CONSUMER_IDLE: Code = Code(627);
pub const CASE_VALUE: Code = Code(701);

/// The entry of a code written as `FG0102`, `fg102` or `102`.
pub fn find(text: &str) -> Option<&'static Entry> {
    let digits = text.trim_start_matches(['F', 'G', 'f', 'g']);
    let code = Code(digits.parse().ok()?);
    ALL.iter().find(|entry| entry.code == code)
}

const fn entry(
    code: Code,
    title: &'static str,
    explanation: &'static str,
    wrong: &'static str,
    right: &'static str,
) -> Entry {
    Entry { code, title, explanation, wrong, right }
}

/// Every code, in order.
pub const ALL: &[Entry] = &[
    entry(
        SYNTAX,
        "The text is not YAML",
        "The file cannot be read as YAML. The place named is where reading stopped; the slip is there or shortly before it. Tabs cannot indent.",
        "spec:\n\tendpoints: [\"crm:80\"]",
        "spec:\n  endpoints: [\"crm:80\"]",
    ),
    entry(
        UNKNOWN_FIELD,
        "Unknown field",
        "No field of this name exists here. Unknown fields are refused, because a misspelt rule that is silently ignored protects nothing.",
        "authorise:\n- { name: all, allow: 'true' }",
        "authorize:\n- { name: all, allow: 'true' }",
    ),
    entry(
        UNSUPPORTED,
        "Not supported by this version",
        "Gateway API has this field or value, but this version does not act on it. It is refused instead of ignored.",
        "protocol: TLS",
        "protocol: HTTPS",
    ),
    entry(
        TYPE,
        "Wrong type",
        "The value is of another type than its field: a number where a string is wanted, a mapping where a list is wanted.",
        "headers: [{ name: x-version, value: 2 }]",
        "headers: [{ name: x-version, value: \"2\" }]",
    ),
    entry(
        MISSING_FIELD,
        "Missing field",
        "A field that must be there is not.",
        "- { name: all }\n  # of a jwt issuer: audiences is missing",
        "- { issuer: https://idp.example.com/, audiences: [crm], jwks: { discover: true } }",
    ),
    entry(
        VALUE_UNKNOWN,
        "Unknown value",
        "The field takes one of a few words, and this is not one of them. Case matters.",
        "path: { type: Prefix, value: / }",
        "path: { type: PathPrefix, value: / }",
    ),
    entry(
        BOUNDS,
        "Out of bounds",
        "A number is too small or too large, a text too long, or a list too short or too long.",
        "port: 70000",
        "port: 8443",
    ),
    entry(
        DUPLICATE_KEY,
        "Duplicate key",
        "The same key stands twice in one mapping. YAML forbids it, and readers disagree about which one counts.",
        "spec:\n  jwt: []\n  jwt: [{ issuer: https://idp.example.com/ }]",
        "spec:\n  jwt: [{ issuer: https://idp.example.com/ }]",
    ),
    entry(
        BUDGET,
        "The document is too large",
        "The document holds too many values or is nested too deep. Aliases count as often as they are used, so that a few lines cannot grow to millions of values.",
        "a: &a [x, x]\nb: &b [*a, *a]  # and so on",
        "a: [x, x]",
    ),
    entry(
        UNKNOWN_KIND,
        "Unknown kind",
        "The document is of a kind this gateway does not know, or its apiVersion does not go with its kind.",
        "apiVersion: v1\nkind: HTTPRoute",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute",
    ),
    entry(
        UNSUPPORTED_KIND,
        "Kind not supported by this version",
        "The kind exists, but this version does not act on it.",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute",
    ),
    entry(
        FILE_UNREADABLE,
        "The file cannot be read",
        "The file or folder does not exist, may not be read, is larger than 1 MiB, or is not UTF-8.",
        "foregate check no-such-folder",
        "foregate check policies",
    ),
    entry(
        NO_POLICY,
        "No policy file",
        "The folder holds no file that ends in .yaml or .yml. A gateway without policies would refuse everything.",
        "foregate run empty-folder",
        "foregate run policies",
    ),
    entry(
        YAML_FEATURE,
        "YAML feature not accepted",
        "Tags, merge keys and keys that are not text are not accepted: they make a document mean something other than what it seems to say.",
        "value: !!str 2",
        "value: \"2\"",
    ),
    entry(
        CASE_FILE,
        "Document in the wrong file",
        "Cases stand in files named *.cases.yaml, and nothing else stands there.",
        "# gateway.yaml\nkind: Case",
        "# gateway.cases.yaml\nkind: Case",
    ),
    entry(
        PATTERN,
        "The text has the wrong form",
        "The text does not have the form its field wants: a name, a host name, an address, a network, a time span, a size.",
        "deadline: 3 ms",
        "deadline: 3ms",
    ),
    entry(
        DUPLICATE_NAME,
        "Name used twice",
        "Two documents of one kind and namespace have the same name, or two listeners or rules of one document.",
        "metadata: { name: leads }\n---\nmetadata: { name: leads }",
        "metadata: { name: leads }\n---\nmetadata: { name: contacts }",
    ),
    entry(
        LISTENER_CONFLICT,
        "Listeners in conflict",
        "Two listeners on one port have the same host name, speak different protocols, or have different addresses.",
        "- { name: a, port: 80, protocol: HTTP }\n- { name: b, port: 80, protocol: HTTP }",
        "- { name: a, port: 80, protocol: HTTP, hostname: a.example.com }\n- { name: b, port: 80, protocol: HTTP, hostname: b.example.com }",
    ),
    entry(
        LISTENER_TLS,
        "TLS and protocol disagree",
        "An HTTPS listener needs a certificate: from files, or that of this workload. An HTTP listener has none.",
        "- { name: web, port: 8443, protocol: HTTPS }",
        "- { name: web, port: 8443, protocol: HTTPS, tls: { certificateRefs: [{ name: web }] } }",
    ),
    entry(
        ROUTE_FILTER,
        "Filter of a route is wrong",
        "A filter lacks the field of its type, has the field of another, stands twice, edits a header of the connection, or replaces a prefix where there is none.",
        "- { type: URLRewrite, requestRedirect: { port: 80 } }",
        "- { type: RequestRedirect, requestRedirect: { port: 80 } }",
    ),
    entry(
        ROUTE_MATCH,
        "Match of a route is wrong",
        "A path is not one that a request can have, or a regular expression cannot be compiled. Paths are compared in canonical form, so `//`, `..` and escaped slashes never match.",
        "path: { type: Exact, value: leads }",
        "path: { type: Exact, value: /leads }",
    ),
    entry(
        NO_BACKEND,
        "A rule leads nowhere",
        "A rule forwards to at least one backend with a weight above 0, or it redirects; it does not do both.",
        "- matches: [{ path: { value: / } }]",
        "- backendRefs: [{ group: foregate.dev, kind: Upstream, name: crm }]",
    ),
    entry(PORT_ZERO, "Port 0", "The system would choose a port nobody knows.", "port: 0", "port: 8080"),
    entry(
        NOT_ALLOWED,
        "The gateway does not let the route attach",
        "Routes attach to gateways of their own namespace, unless the listener allows all.",
        "parentRefs: [{ name: edge, namespace: infra }]",
        "allowedRoutes: { namespaces: { from: All } }",
    ),
    entry(
        LISTENER_OPTION,
        "Unknown TLS option",
        "The one option of a listener's TLS is `foregate.dev/identity: workload`: the listener shows the certificate of this workload, and every client must show that of a workload of a trusted domain.",
        "tls: { options: { foregate.dev/identity: mesh } }",
        "tls: { options: { foregate.dev/identity: workload } }",
    ),
    entry(
        IDENTITY_MISSING,
        "This workload has no identity",
        "A listener or upstream uses the identity of this workload, but the process was not told where it is: certificate, key and trust bundle in a folder, or the socket of the SPIFFE Workload API.",
        "foregate run policies",
        "foregate run policies --identity dir:/run/spiffe",
    ),
    entry(
        Code::VALUE,
        "The value has the wrong form",
        "A value is not of the form its field wants, or outside its range.",
        "endpoints: [\"crm\"]",
        "endpoints: [\"crm:8080\"]",
    ),
    entry(
        Code::CONFLICT,
        "Values contradict each other",
        "A value is missing that another one needs, or two values cannot stand together.",
        "- { name: writers, allow: 'true', deny: 'true' }",
        "- { name: writers, allow: 'true' }",
    ),
    entry(
        Code::INSECURE,
        "A safe default is weakened without saying so",
        "The policy is weaker than the default, and does not name the weakening under `insecure`. A route that no access rule protects is the common case: nothing says who may call.",
        "kind: Policy\nspec: { targetRefs: [..] }",
        "kind: Policy\nspec:\n  targetRefs: [..]\n  authorize: [{ name: readers, allow: '\"crm.read\" in jwt.scopes' }]",
    ),
    entry(
        Code::REFERENCE,
        "A name refers to nothing",
        "No document, listener or model of this name exists. References look in the namespace of their document.",
        "backendRefs: [{ group: foregate.dev, kind: Upstream, name: lead }]",
        "backendRefs: [{ group: foregate.dev, kind: Upstream, name: leads }]",
    ),
    entry(
        Code::FILE,
        "A file named by a policy cannot be used",
        "A certificate, key, key set or authority cannot be read, or does not hold what it should.",
        "jwks: { file: keys.txt }",
        "jwks: { file: keys.json }",
    ),
    entry(
        Code::SECRET,
        "A secret cannot be had",
        "A secret is referred to by env, file or secretRef. The variable is not set, the file cannot be read, is empty or over 64 KiB, or it does not hold what its use needs: a private key in PEM, or text that a header can carry. The secret itself is never shown. `foregate check --without-secrets` does not look for secrets.",
        "clientAuth: { method: basic, clientId: gateway, secret: { file: gone } }",
        "clientAuth: { method: basic, clientId: gateway, secret: { secretRef: { name: idp, key: client-secret } } }",
    ),
    entry(
        Code::EXPRESSION_SYNTAX,
        "The expression is not well-formed",
        "The text cannot be read as a CEL expression.",
        "allow: 'jwt.subject == '",
        "allow: 'jwt.subject == \"ada\"'",
    ),
    entry(
        Code::EXPRESSION_NAME,
        "The expression uses an unknown name",
        "No variable, field or function of this name exists. Names are checked when the file loads, so that a slip is not found by a request.",
        "allow: 'jwt.scope == \"crm\" && reqest.method == \"GET\"'",
        "allow: 'request.method == \"GET\"'",
    ),
    entry(
        Code::EXPRESSION_TYPE,
        "The expression has the wrong type",
        "An operator or function does not take values of these types, or the whole is not of the type its field wants.",
        "allow: 'request.path'",
        "allow: 'request.path.startsWith(\"/public\")'",
    ),
    entry(
        Code::EXPRESSION_UNSUPPORTED,
        "Part of CEL that is not supported",
        "The expression is CEL, but uses a part that is left out so that its cost stays bounded.",
        "allow: '[1, 2].map(x, x * 2).size() > 0'",
        "allow: '\"crm.read\" in jwt.scopes'",
    ),
    entry(
        Code::MODEL,
        "The model bundle is refused",
        "The bundle cannot be loaded: a file is missing or differs from its checksum, the graph does not run, or the golden vectors come out differently.",
        "bundle: { path: models/none }",
        "bundle: { path: models/lead-score }",
    ),
    entry(
        POLICY_WITHOUT_TARGET,
        "Policy without target",
        "The policy names no route or gateway, so it does nothing.",
        "kind: Policy\nspec: { authorize: [..] }",
        "kind: Policy\nspec:\n  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: leads }]",
    ),
    entry(
        UPSTREAM_UNUSED,
        "Unused upstream",
        "No route leads to this upstream.",
        "kind: Upstream\nmetadata: { name: old }",
        "backendRefs: [{ group: foregate.dev, kind: Upstream, name: old }]",
    ),
    entry(
        MODEL_UNUSED,
        "Unused model",
        "No policy asks this model, but it is loaded and takes memory.",
        "kind: Model\nmetadata: { name: old }",
        "enrich: [{ name: lead, model: old, deadline: 3ms }]",
    ),
    entry(
        MATCH_SHADOWED,
        "Unreachable match",
        "Another match takes every request that this one could take: it is the same, and stands earlier.",
        "rules:\n- { matches: [{ path: { value: /a } }] }\n- { matches: [{ path: { value: /a } }] }",
        "rules:\n- { matches: [{ path: { value: /a } }] }\n- { matches: [{ path: { value: /b } }] }",
    ),
    entry(
        ROUTE_DETACHED,
        "Route that serves nothing",
        "No listener of its gateways has a host name in common with the route.",
        "# listener: hostname: a.example.com\nhostnames: [b.example.com]",
        "# listener: hostname: '*.example.com'\nhostnames: [b.example.com]",
    ),
    entry(
        GATEWAY_EMPTY,
        "Gateway without routes",
        "No route attaches to this gateway: it answers 404 to everything.",
        "kind: Gateway\nmetadata: { name: edge }",
        "kind: HTTPRoute\nspec: { parentRefs: [{ name: edge }] }",
    ),
    entry(
        Code::CLAIM_LIKENESS,
        "Claim with nearly a name of ours",
        "Any claim can be read by its name, so that a slip in `jwt.scopes` or `jwt.subject` reads a claim that no token has: the rule then refuses everybody. Write `jwt.claims[\"name\"]` where the claim is meant.",
        "allow: '\"crm.read\" in jwt.scopez'",
        "allow: '\"crm.read\" in jwt.scopes'",
    ),
    entry(
        PLAIN_UNTIL,
        "Plain connections on a mesh listener",
        "Until the time named, whoever reaches the listener may speak without TLS and proves nothing; rules on `peer.id` refuse such requests. The metric foregate_plain_connections_total tells who still does. Meant for the days of a migration; after the time the listener is strict by itself.",
        "insecure: { plainUntil: \"2027-01-31T00:00:00Z\" }",
        "# no insecure: every client proves who it is",
    ),
    entry(
        CERTIFICATE_OPTIONAL,
        "Client certificates are optional",
        "With mode AllowInsecureFallback a client without a valid certificate is served as nobody. Access rules must not take its connection for proof of anything.",
        "insecure: { clientCertificateOptional: true }",
        "validation: { caCertificateRefs: [{ kind: Secret, name: partners }] }",
    ),
    entry(
        CREDENTIALS_IN_CLEAR,
        "Credentials go over a plain connection",
        "An upstream with credentials is spoken to without TLS: whoever sees the connection can use them. Endpoints on this machine are not meant.",
        "endpoints: [\"crm.example.com:80\"]\ncredentials: { static: { header: x-api-key, value: { env: KEY } } }",
        "endpoints: [\"crm.example.com:443\"]\ntls: { mode: Simple }\ncredentials: { static: { header: x-api-key, value: { env: KEY } } }",
    ),
    entry(
        AUDIENCE_MISSING,
        "Introspection accepts tokens for any audience",
        "Without audiences, a token that was made for any other service of the same authorization server passes, as long as the server calls it active.",
        "introspection: [{ endpoint: https://idp.example.com/introspect, clientAuth: { .. } }]",
        "introspection: [{ endpoint: https://idp.example.com/introspect, audiences: [crm], clientAuth: { .. } }]",
    ),
    entry(
        STALE_ANSWERS,
        "Tokens pass while the authorization server is down",
        "With onUnavailable: stale, a token that was active when the server answered last passes for up to ten minutes more. A token revoked in the meantime passes too.",
        "onUnavailable: stale",
        "onUnavailable: reject",
    ),
    entry(
        KEY_EXPIRED,
        "Expired key of a consumer",
        "The key or secret is refused since its `expires`. It does no harm where it stands, and no good either: whoever still sends it is refused.",
        "keys: [{ prefix: 4xKd81Qw0Zb, hash: \"sha256:..\", expires: 2020-01-01T00:00:00Z }]",
        "keys: [{ prefix: 7Pq2LmV9sTc, hash: \"sha256:..\" }]",
    ),
    entry(
        GROUP_UNKNOWN,
        "Group without consumers",
        "An `apiKey` section lets in a group that no consumer of the namespace belongs to. The name may be misspelt; nobody gets in by it.",
        "apiKey: { groups: [partner] }",
        "apiKey: { groups: [partners] }",
    ),
    entry(
        CONSUMER_IDLE,
        "Consumer without key",
        "The consumer has neither a key nor a client id, so no request can be its own.",
        "kind: Consumer\nspec: { groups: [partners] }",
        "kind: Consumer\nspec:\n  groups: [partners]\n  keys: [{ prefix: 7Pq2LmV9sTc, hash: \"sha256:..\" }]",
    ),
    entry(
        CASE_VALUE,
        "A case cannot be run",
        "A case names a reason, step, method or consumer that does not exist, or a body file that cannot be read.",
        "expect: { reply: 401, reason: TokenWrong }",
        "expect: { reply: 401, reason: TokenInvalid }",
    ),
];

impl Entry {
    /// The page that `foregate explain` prints.
    pub fn page(&self) -> String {
        let indent = |text: &str| format!("    {}\n", text.replace('\n', "\n    "));
        format!(
            "{}: {}\n\n{}\n\nWrong:\n\n{}\nRight:\n\n{}",
            self.code,
            self.title,
            self.explanation,
            indent(self.wrong),
            indent(self.right)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{ALL, find};
    use foregate_filters::fault::Code;

    /// Every constant of type `Code` in this text.
    fn constants(source: &str) -> Vec<u16> {
        source
            .lines()
            .filter(|line| line.trim_start().starts_with("pub const"))
            .filter_map(|line| line.split_once("Code(").or_else(|| line.split_once("Self(")))
            .filter_map(|(_, rest)| rest.split(')').next()?.parse().ok())
            .collect()
    }

    #[test]
    fn every_code_is_explained_once_and_in_order() {
        let mut known = constants(include_str!("codes.rs"));
        known.extend(constants(include_str!("../../../filters/src/fault.rs")));
        known.sort_unstable();
        assert!(known.len() > 40, "{known:?}");
        let explained: Vec<u16> = ALL.iter().map(|entry| entry.code.0).collect();
        assert_eq!(explained, known);
    }

    #[test]
    fn pages_are_found_however_the_code_is_written() {
        for text in ["FG0102", "fg102", "102", "0102"] {
            assert_eq!(find(text).map(|entry| entry.code), Some(Code(102)), "{text}");
        }
        assert_eq!(find("FG9999"), None);
        let page = find("FG0102").unwrap().page();
        assert!(page.starts_with("FG0102: Unknown field\n\n"), "{page}");
        assert!(page.contains("    authorise:\n"), "{page}");
    }
}
