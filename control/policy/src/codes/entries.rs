//! What is told about codes of documents and of what they name, in order.

use foregate_filters::fault::Code;

use super::{
    BOUNDS, BUDGET, CASE_FILE, DUPLICATE_KEY, DUPLICATE_NAME, Entry, FILE_UNREADABLE, IDENTITY_MISSING,
    LISTENER_CONFLICT, LISTENER_OPTION, LISTENER_TLS, MISSING_FIELD, NO_BACKEND, NO_POLICY, NOT_ALLOWED,
    PATTERN, PORT_ZERO, ROUTE_FILTER, ROUTE_MATCH, SYNTAX, TYPE, UNKNOWN_FIELD, UNKNOWN_KIND, UNSUPPORTED,
    UNSUPPORTED_KIND, VALUE_UNKNOWN, YAML_FEATURE, entry,
};

/// Codes below 600, in order.
pub const OF_DOCUMENTS: &[Entry] = &[
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
        "protocol: UDP",
        "protocol: TCP",
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
