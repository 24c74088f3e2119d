#!/usr/bin/env bash
# Puts certificates and keys of the load driver beside the policies that need them.
#
#   benches/compare/prepare.sh CERTS     CERTS holds ca.crt, server.crt, server.key, client.crt, client.key and jwks.json
#
# Then, for a variant and a port:
#   foregate run benches/compare/a --bind edge/http=127.0.0.1:PORT --threads 1 --access-log off --admin 127.0.0.1:0
# The origin listens on 127.0.0.1:8081.
set -euo pipefail
certs=${1:?usage: prepare.sh CERTS}
home=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for variant in b1 b2 c; do
    mkdir -p "$home/$variant/secrets/bench"
    cp "$certs/server.crt" "$home/$variant/secrets/bench/tls.crt"
    cp "$certs/server.key" "$home/$variant/secrets/bench/tls.key"
done
for variant in c uclose; do
    mkdir -p "$home/$variant/secrets/authority" "$home/$variant/secrets/client"
    cp "$certs/ca.crt" "$home/$variant/secrets/authority/ca.crt"
    cp "$certs/client.crt" "$home/$variant/secrets/client/tls.crt"
    cp "$certs/client.key" "$home/$variant/secrets/client/tls.key"
done
for variant in d_es_c whole; do
    cp "$certs/jwks.json" "$home/$variant/jwks.json"
done
