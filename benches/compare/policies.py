"""Policies of the gateway for a variant, written into a folder with what they name."""

from __future__ import annotations

import shutil

from rig import BUNDLES

BASE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge }}
spec:
  gatewayClassName: foregate
  listeners:
  - {{ name: http, protocol: {protocol}, port: 9100{certificate} }}
{frontend}---
apiVersion: gateway.networking.k8s.io/v1
kind: {route}
metadata: {{ name: all }}
spec:
  parentRefs: [{{ name: edge }}]
  rules:
  - backendRefs: [{{ group: foregate.dev, kind: Upstream, name: origin }}]
---
apiVersion: foregate.dev/v1alpha1
kind: Upstream
metadata: {{ name: origin }}
spec:
  endpoints: ["127.0.0.1:{origin}"]
{upstream}---
apiVersion: foregate.dev/v1alpha1
kind: Policy
metadata: {{ name: all }}
spec:
  targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }}]
{policy}"""
FRONTEND = """\
  tls:
    frontend:
      default: { validation: { caCertificateRefs: [{ group: "", kind: Secret, name: authority }] } }
"""
MUTUAL = """\
  tls:
    mode: Mutual
    serverName: svc.local
    caFile: secrets/authority/ca.crt
    clientCertificateRef: { name: client }
"""
JWT = """\
  jwt:
  - { issuer: https://idp.test, audiences: [crm], jwks: { file: jwks.json }, forward: true }
  authorize:
  - { name: readers, allow: '"crm.read" in jwt.scopes' }
"""
# Counts every request and refuses none: what is measured is the counting.
LIMIT = """\
  rateLimit:
  - {{ name: each, key: {key}, limit: 1000000, per: 1ms }}
"""
# A body that is not scored is an error, so that nothing else is measured by mistake.
ENRICH = """\
  enrich:
  - name: lead
    model: lead-score
    deadline: {deadline}
    onError: reject
    set: {{ header: x-lead-score, body: /Lead_Score__c }}
---
apiVersion: foregate.dev/v1alpha1
kind: Model
metadata: {{ name: lead-score }}
spec:
  bundle: {{ path: {bundle} }}
{model}"""


def text(variant, origin, bundle=None, model="", deadline="5ms"):
    """The documents; `bundle` stands in for the variant's, `model` is added to its spec, as `placement: Inline`."""
    policy = JWT if variant.jwt else "  insecure: { anonymous: true }\n"
    if variant.limit:
        policy += LIMIT.format(key="jwt.subject" if variant.jwt else "source.address")
    if variant.model:
        model = "".join(f"  {line}\n" for line in model.splitlines())
        policy += ENRICH.format(bundle=bundle or BUNDLES / variant.model, model=model, deadline=deadline)
    upstream = {"mutual": MUTUAL, "h2c": "  protocol: Http2\n", "grpc": "  protocol: Http2\n"}
    upstream = "  protocol: Tcp\n" if variant.stream else "  maxIdlePerThread: 512\n" + upstream.get(variant.upstream, "")
    plain = "TCP" if variant.stream else "HTTP"
    return BASE.format(
        protocol=plain if variant.tls == "none" else "HTTPS",
        route="TCPRoute" if variant.stream else "HTTPRoute",
        certificate="" if variant.tls == "none" else ", tls: { certificateRefs: [{ name: bench }] }",
        frontend=FRONTEND if variant.tls == "mutual" else "",
        upstream=upstream,
        origin=origin,
        policy=policy,
    )


def write(folder, variant, origin, materials=None, **more):
    """Writes the policies, with the certificates and keys of `materials` beside them."""
    secrets = {
        "secrets/bench/tls.crt": "server.crt",
        "secrets/bench/tls.key": "server.key",
        "secrets/authority/ca.crt": "ca.crt",
        "secrets/client/tls.crt": "client.crt",
        "secrets/client/tls.key": "client.key",
        "jwks.json": "jwks.json",
    }
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "policy.yaml").write_text(text(variant, origin, **more))
    for name, source in secrets.items() if materials else ():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(materials / source, folder / name)
    return folder
