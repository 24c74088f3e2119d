"""What is measured: the work of each variant, in the order of the tables."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is spoken on both sides, what the proxy checks and does, and what is sent."""

    title: str
    tls: str = "none"  # in front: none, server, mutual
    http2: bool = False
    upstream: str = "plain"  # plain, mutual, h2c, grpc
    jwt: str = ""  # rs256, es256, eddsa; then limit and access rule, too
    cached: bool = False  # tokens come again, and may be known again
    limit: bool = False
    model: str = ""  # the bundle that scores
    path: str = "/"
    body: str = ""
    stream: bool = False  # the bytes of connections are passed on unread
    connections: int = 64

    @property
    def closes(self):
        """True where each request needs a new upstream connection."""
        return self.path == "/close"

    @property
    def once(self):
        """True where each token is sent once."""
        return bool(self.jwt) and not self.cached


def of_tokens():
    for alg, name in (("rs256", "RS256"), ("es256", "ES256"), ("eddsa", "EdDSA")):
        yield f"jwt_{alg}", Variant(f"{name} token verified each time, limit, access rule", jwt=alg, limit=True)
        yield f"jwt_{alg}_cached", Variant(f"{name} token known again, limit, access rule", jwt=alg, cached=True, limit=True)


VARIANTS = {
    "plain": Variant("plain HTTP/1.1"),
    "tls": Variant("TLS, HTTP/1.1", tls="server"),
    "tls_h2": Variant("TLS, HTTP/2", tls="server", http2=True, connections=8),
    "h2c": Variant("plain HTTP/1.1, HTTP/2 upstream", upstream="h2c"),
    "mtls": Variant("mutual TLS on both sides, HTTP/1.1", tls="mutual", upstream="mutual"),
    "mtls_h2": Variant("mutual TLS on both sides, HTTP/2", tls="mutual", http2=True, upstream="mutual", connections=8),
    "limit": Variant("a limit for each client", limit=True),
    **dict(of_tokens()),
    "mtls_jwt_es256_cached": Variant("mutual TLS on both sides, ES256 token known again, limit, access rule", tls="mutual", upstream="mutual",
                                     jwt="es256", cached=True, limit=True),
    "close": Variant("a new upstream connection each request", path="/close"),
    "close_mtls": Variant("a new upstream connection of mutual TLS each request", upstream="mutual", path="/close"),
    "body_64k": Variant("64 KiB bodies", path="/size/65536", connections=16),
    "body_1m": Variant("1 MiB bodies", path="/size/1048576", connections=8),
    "stream_1k": Variant("1 KiB responses on connections passed on unread", stream=True),
    "stream_1m": Variant("1 MiB bodies on connections passed on unread", stream=True, path="/size/1048576", connections=8),
    "post": Variant("POST of 1 KiB", body="kib.bin"),
    "lead": Variant("1 KiB lead scored by 144 trees into header and body", model="lead-score", body="lead.json"),
    "grpc": Variant("gRPC, unary calls", http2=True, upstream="grpc", body="call.bin", connections=8,
                    path="/inference.GRPCInferenceService/ModelInfer"),
}
# Steps together, and other models: measured where they are asked for.
MORE = {
    "lead_linear": Variant("the same scored by a linear model", model="lead-score-logistic", body="lead.json"),
    "whole": Variant("ES256 token known again, limit, access rule, scored lead", jwt="es256", cached=True, limit=True,
                     model="lead-score", body="lead.json"),
}
HANDSHAKES = ("tls", "mtls")
IDLE = ("plain", "tls")


def words(variant, materials):
    """What `foregate-benches load` is told to send."""
    words = ["--connections", variant.connections, "--path", variant.path]
    if variant.tls != "none":
        words += ["--tls", materials]
    if variant.tls == "mutual":
        words += ["--mutual"]
    if variant.http2:
        words += ["--http2"]
    if variant.body:
        words += ["--body", materials / variant.body]
    if variant.body.endswith(".json"):
        words += ["--header", "content-type: application/json"]
    if variant.upstream == "grpc":
        words += ["--grpc", "--header", "content-type: application/grpc", "--header", "te: trailers"]
    if variant.jwt:
        words += ["--tokens", materials / f"{variant.jwt}.{'once' if variant.once else 'tokens'}"]
    if variant.once:
        words += ["--once"]
    return words
