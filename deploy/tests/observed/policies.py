"""Policies under which every refusal and error happens that can be provoked, one route for each part of the gateway."""

HEAD = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge }}
spec:
  gatewayClassName: foregate
  listeners:
  - {{ name: http, protocol: HTTP, port: 18080 }}
  - {{ name: https, protocol: HTTPS, port: 18443, hostname: edge.test, tls: {{ certificateRefs: [{{ name: edge }}] }} }}
  - {{ name: mesh, protocol: HTTPS, port: 18444, tls: {{ options: {{ foregate.dev/identity: workload }} }} }}
  - {{ name: tcp, protocol: TCP, port: 18445 }}
  - {{ name: balanced, protocol: HTTP, port: 18446 }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{ name: bytes }}
spec:
  parentRefs: [{{ name: edge, sectionName: tcp }}]
  rules: [{{ backendRefs: [{{ group: foregate.dev, kind: Upstream, name: bytes }}] }}]
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: bytes }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: TCPRoute, name: bytes }}]
  authorize: [{{ name: all, allow: 'true' }}]
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: edge }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }}]
  proxyProtocol: {{ from: [10.0.0.0/8], listeners: [balanced] }}
  insecure: {{ plainUntil: "2099-01-01T00:00:00Z" }}
---
apiVersion: foregate.dev/v1alpha1
kind: Store
metadata: {{ name: redis }}
spec: {{ redis: {{ addresses: ["127.0.0.1:{redis}"], timeout: 1s }} }}
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: lead }}
spec:
  versions:
  - {{ name: trees-{edition}, bundle: {{ path: {bundles}/lead-score }} }}
  - {{ name: logistic-{edition}, bundle: {{ path: {bundles}/lead-score-logistic }} }}
  rollout:
    production: trees-{edition}
    canary: {{ version: logistic-{edition}, percent: 50 }}
    guardrails: {{ disagreement: 0.05, tolerance: 0.001, drift: 10, minRecords: 100, holdOff: 1h }}
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: placed }}
spec: {{ bundle: {{ path: {bundles}/lead-score-logistic }}, placement: Sidecar }}
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: stored }}
spec:
  bundle: {{ path: {stored} }}
  featureStore: {{ path: {features}, key: {{ file: {features_key} }}, inbox: {inbox}, stream: {{ store: redis, name: features }} }}
---
{consumer}---
"""


def upstream(name, spec):
    return f"apiVersion: foregate.dev/v1alpha1\nkind: Upstream\nmetadata: {{ name: {name} }}\nspec: {{ {spec} }}\n---\n"


def route(name, policy, backend="crm", rule="", filters=""):
    """A route at `/NAME`, and the policy on it."""
    text = f"""\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name} }}
spec:
  parentRefs: [{{ name: edge }}]
  rules:
  - name: all
    matches: [{{ path: {{ type: PathPrefix, value: /{name} }} }}]
    backendRefs: [{{ group: foregate.dev, kind: Upstream, name: {backend} }}]
"""
    text += f"    filters: [{filters}]\n" if filters else ""
    text += f"    {rule}\n" if rule else ""
    return text + policy_of(name, policy) + "---\n"


def policy_of(route, spec, name=None):
    """A policy on a route, behind the document before it."""
    lines = "".join(f"  {line}\n" for line in spec.strip("\n").splitlines())
    return f"""\
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: {name or route} }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route} }}]
{lines}"""


def vast(count):
    """A service with more endpoints than a metric has series for."""
    endpoints = ", ".join(f'"127.0.{number // 250}.{1 + number % 250}:9"' for number in range(count))
    return upstream("vast", f"endpoints: [{endpoints}]") + route("vast", OPEN, backend="vast")


OPEN = "authorize: [{ name: all, allow: 'true' }]"
JWT = "jwt: [{{ issuer: '{idp}', audiences: [crm], jwks: {{ discover: true }} }}]"
CLIENT = "clientAuth: {{ method: post, clientId: gateway, secret: {{ file: {secret} }} }}"


def documents(places):
    """All of it, with these places in it."""
    said = lambda text: text.format(**places)
    crm = f'endpoints: ["127.0.0.1:{places["crm"]}"]'
    parts = [said(HEAD)]
    # Services, each with something that the others have not.
    parts += [
        upstream("crm", crm),
        upstream("bytes", crm + ", protocol: Tcp"),
        upstream("org", crm + ", orgQuota: { limit: 100, classes: [{ name: interactive, until: 100 }, { name: bulk, until: 50 }], consumers: { desk: { class: interactive } } }"),
        upstream("dead", f'endpoints: ["127.0.0.1:{places["closed"]}"]'),
        upstream("checked", f'endpoints: ["127.0.0.1:{places["closed"]}"], healthCheck: {{ type: TCP, interval: 1s, timeout: 500ms }}'),
        upstream("several", f'endpoints: ["127.0.0.1:{places["closed"]}", "127.0.0.1:{places["crm"]}"], loadBalancing: {{ policy: RoundRobin }}'),
        upstream("narrow", crm + ", concurrency: { adaptive: false, max: 1, queue: { size: 1, wait: 50ms } }"),
        upstream("untrusted", f'endpoints: ["127.0.0.1:{places["crm_tls"]}"], tls: {{ mode: Simple }}'),
        upstream("granted", crm + ", credentials: { clientCredentials: { tokenEndpoint: '" + said("{idp}/token', ") + said(CLIENT) + " } }"),
        upstream("not-granted", crm + f", credentials: {{ clientCredentials: {{ tokenEndpoint: 'http://127.0.0.1:{places['closed']}/token', " + said(CLIENT) + " } }"),
    ]
    mirror = "{ type: RequestMirror, requestMirror: { backendRef: { group: foregate.dev, kind: Upstream, name: crm }, percent: 100 } }"
    cors = "{ type: CORS, cors: { allowOrigins: ['https://app.test'], allowMethods: [GET], maxAge: 60 } }"
    # Of the request itself.
    parts += [
        route("open", OPEN + "\nbody: { maxSize: 64KiB }\nvalidate: {}", filters=mirror),
        policy_of("open", "mode: shadow\nauthorize: [{ name: reads, allow: 'request.method == \"GET\"' }]", "open-trial"),
        "---\n",
        route("memory", OPEN + "\nbody: { maxSize: 8MiB }\nvalidate: { body: { maxSize: 8MiB } }"),
        route("pages", OPEN, filters=cors),
        route("inside", "addresses: { allow: [10.0.0.0/8] }\n" + OPEN),
        route("watched", "authorize:\n- { name: all, allow: 'true' }\n- { name: on-trial, deny: 'true', mode: audit }"),
        route("faulty", OPEN + "\ninject: [{ name: outage, when: '\"x-outage\" in request.headers', abort: true }, { name: late, when: 'true', delay: 1ms }]"),
        route("events", OPEN),
    ]
    # Who asks.
    parts += [
        route("tokens", said(JWT) + "\nauthorize:\n- { name: readers, allow: '\"crm.read\" in jwt.scopes' }\n- { name: elders, deny: 'jwt.age > 90' }"),
        route("keyless", f"jwt: [{{ issuer: 'http://127.0.0.1:{places['closed']}', audiences: [crm], jwks: {{ discover: true }} }}]\n" + OPEN),
        route("keys", "apiKey: {}\n" + OPEN),
        route("either", "apiKey: {}\n" + said(JWT) + "\n" + OPEN),
        route("asked", said("introspection: [{{ endpoint: '{idp}/introspect', audiences: [crm], " + CLIENT + ", cache: {{ max: 1m, negative: 1s }} }}]\n") + OPEN),
        route("unasked", said("introspection: [{{ endpoint: 'http://127.0.0.1:{closed}/introspect', audiences: [crm], " + CLIENT + " }}]\n") + OPEN),
    ]
    # How much.
    parts += [
        route("limited", "rateLimit: [{ name: few, key: source.address, limit: 2, per: 1m }]\n" + OPEN),
        route("daily", "quota: [{ name: daily, key: source.address, limit: 2, per: Day, timeZone: UTC }]\n" + OPEN),
        route("at-once", "concurrency: [{ name: at-once, key: source.address, limit: 1 }]\n" + OPEN),
        route("shared", "rateLimit: [{ name: together, key: source.address, limit: 100000, per: 1s, shared: { store: redis, lease: 20 } }]\n" + OPEN),
        route("once", "idempotency: { scope: '\"all\"', required: true, concurrent: Conflict }\n" + OPEN),
        route("once-shared", "idempotency: { scope: '\"all\"', required: true, store: redis }\n" + OPEN),
        route("org", "orgQuota: { key: 'request.headers[\"x-client\"]' }\n" + OPEN, backend="org"),
    ]
    # What models say.
    score = "enrich: [{{ name: it, model: {}, deadline: {}, set: {{ header: x-lead-score }}{} }}]\n"
    parts += [
        route("leads", score.format("lead", "900ms", "") + OPEN),
        route("placed", score.format("placed", "300ms", ", onError: reject") + OPEN),
        route("stored", score.format("stored", "900ms", "") + OPEN),
        route("reserved", "enrich: [{ name: it, model: lead, deadline: 900ms, onReserved: reject, onError: reject, set: { body: /Lead_Score__c } }]\n" + OPEN),
    ]
    # What messages must be like.
    parts += [route("contract", said("validate: {{ openapi: {{ file: contract.yaml, basePath: /contract, responses: enforce }} }}\n") + OPEN)]
    # What services do.
    late = "timeouts: { request: 300ms }"
    parts += [
        route("crm", OPEN, rule=late),
        route("dead", OPEN, backend="dead"),
        route("checked", OPEN, backend="checked"),
        route("several", OPEN, backend="several", rule="retry: { attempts: 1, codes: [503] }"),
        route("narrow", OPEN, backend="narrow"),
        route("untrusted", OPEN, backend="untrusted"),
        route("granted", OPEN, backend="granted"),
        route("not-granted", OPEN, backend="not-granted"),
    ]
    return "".join(parts)


# What `/contract` is held to.
CONTRACT = """\
openapi: 3.1.0
info: { title: Leads, version: "1" }
paths:
  /ok:
    get:
      parameters: [{ name: limit, in: query, schema: { type: integer } }]
      responses: { "200": { description: well, content: { application/json: { schema: { type: object, required: [Id] } } } } }
    post:
      requestBody: { required: true, content: { application/json: { schema: { type: object, required: [LastName] } } } }
      responses: { "200": { description: well } }
"""

# What the gateway behind the control plane obeys.
FLEET = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: inner }}
spec:
  gatewayClassName: foregate
  listeners: [{{ name: http, protocol: HTTP, port: 18081 }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: fleet }}
spec:
  parentRefs: [{{ name: inner }}]
  rules: [{{ backendRefs: [{{ group: foregate.dev, kind: Upstream, name: crm }}] }}]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: {{ name: crm }}
spec: {{ endpoints: ["127.0.0.1:{crm}"] }}
---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: fleet }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: fleet }}]
  authorize: [{{ name: all, allow: 'true' }}]
"""
