"""Who is refused and why, and how certificates, keys, tokens and the decision log stand."""

from panels import PROCESS, ROUTE, always, lines, rate, share, stat, table, total

REFUSALS, REQUESTS = "foregate_refusals_total", "http_server_request_duration_seconds_count"
REQUEST = PROCESS + ',http_route=~"$route"'
NOBODY = ROUTE + ',reason=~"TokenMissing|TokenInvalid|KeyMissing|KeyInvalid|CredentialsMissing"'
DENIED = ROUTE + ',reason=~"AccessDenied|RuleError|AddressDenied|OriginDenied"'
EXPIRES = f"foregate_certificate_expires_timestamp_seconds{{{PROCESS}}}"
IDENTITY = f"foregate_identity_expires_timestamp_seconds{{{PROCESS}}}"

ROWS = [
    (
        "Is it well?",
        [
            stat("Refused", "Share of requests that the gateway refused.", "percentunit", share(rate(REFUSALS, ROUTE), rate(REQUESTS, REQUEST)), (0.2, 0.5)),
            stat("Nobody", "Requests in a second without a token or key, or with one that is worth nothing.", "reqps", always(rate(REFUSALS, NOBODY))),
            stat("Denied", "Requests in a second that access rules or address lists refused.", "reqps", always(rate(REFUSALS, DENIED))),
            stat("Certificates: time left", "Until the first certificate of a listener expires.", "s", f"min({EXPIRES}) - time()", (86400 * 3, 86400 * 14), "ForegateCertificateExpires", falling=True),
            stat("Keys of issuers: age", "Time since the keys of the issuer that was heard of longest ago were had from it.", "s", f"max(foregate_jwks_age_seconds{{{PROCESS}}})", (3600, 86400), "ForegateKeysStale"),
            stat("Decision log", "Whether every decision reaches the disk.", "none", f"max(foregate_decision_log_failing{{{PROCESS}}})", (1,), "ForegateDecisionLogFailing", words={"0": "written", "1": "failing"}),
        ],
    ),
    (
        "Where?",
        [
            lines("Refused by reason", "Requests that were refused, by the reason that callers are told.", "reqps", (rate(REFUSALS, ROUTE, "reason"), "{{reason}}"), stacked=True),
            lines("Refused by route", "Requests that were refused.", "reqps", (rate(REFUSALS, ROUTE, "route"), "{{route}}"), stacked=True),
            table(
                "Rules that refuse", "Step, reason and rule of refusals. `foregate explain ID` tells of one of them: file, line, and what the rule read.", ["route", "step", "reason", "rule"],
                [("refused", f"topk(25, {rate(REFUSALS, ROUTE, 'route, step, reason, rule')})", "reqps")],
            ),
        ],
    ),
    (
        "Why: rules",
        [
            lines("Would be refused: rules in audit mode", "What rules with `mode: audit` would have refused, were they in force.", "reqps", (rate("foregate_audits_total", ROUTE, "route, rule"), "{{route}}: {{rule}}")),
            lines("Policies on trial", "What policies with `mode: shadow` say, beside what was done. Look for `refuse` beside `allow` before they come in force.", "reqps", (rate("foregate_policy_shadow_total", by="policy, verdict, real"), "{{policy}}: {{verdict}}, was {{real}}")),
            lines("Ended, no longer allowed", "Open responses and tunnels that were ended because what is in force no longer allows them.", "reqps", (rate("foregate_revocations_total", ROUTE, "route, reason"), "{{route}}: {{reason}}")),
            lines("Clients that cost too much", "Connections and streams ended for floods of frames and for taking nothing; connections beyond what an address may have; wrong PROXY protocol.", "none",
                (rate("foregate_http2_floods_total"), "floods"), (rate("foregate_http2_streams_stalled_total"), "stalled"), (rate("foregate_connections_refused_total"), "too many of an address"), (rate("foregate_proxy_protocol_refused_total"), "PROXY protocol")),
        ],
    ),
    (
        "Why: certificates",
        [
            lines("Handshakes", "TLS handshakes by listener, version, and whether they were full, resumed, or failed.", "none", (rate("foregate_tls_handshakes_total", by="listener, version, outcome"), "{{listener}} {{version}}: {{outcome}}"), stacked=True),
            lines("Client certificates refused", "Handshakes refused for the certificate of the client, and connections told to end because nothing vouches for it any more.", "none", (rate("foregate_client_certificates_refused_total", by="reason"), "{{reason}}"), (rate("foregate_connections_no_longer_vouched_total"), "no longer vouched for")),
            table("Certificates of listeners", "Time until each expires.", ["listener", "certificate"], [("time left", f"min by (listener, certificate) ({EXPIRES} - time())", "s")], width=12, runbook="ForegateCertificateExpires"),
            lines("Identity of the workload: time left", "Until the certificate that this process shows other workloads expires; it is renewed long before.", "s", (f"min by (instance) ({IDENTITY} - time())", "{{instance}}"), thresholds=(3600,), falling=True, runbook="ForegateIdentityExpires", bounds=(None, None)),
            lines("Identity of the workload: renewals", "Looks at the identity, by how they went.", "none", (rate("foregate_identity_updates_succeeded_total"), "succeeded"), (rate("foregate_identity_updates_failed_total"), "failed"), runbook="ForegateIdentityExpires"),
            lines("Identity of the workload: left of its proof", "Share of `identity.reattest` that is left, for which the control plane renews each certificate without another token.", "percentunit", (f"min by (instance) ((foregate_identity_attested_until_timestamp_seconds{{{PROCESS}}} - time()) / (foregate_identity_attested_until_timestamp_seconds{{{PROCESS}}} - foregate_identity_attested_timestamp_seconds{{{PROCESS}}}))", "{{instance}}"), thresholds=(0.3,), falling=True, runbook="ForegateIdentityUnproved", bounds=(None, None)),
            lines("Plain connections to mesh listeners", "Who still comes without TLS where `insecure` lets them, for a migration.", "none", (rate("foregate_plain_connections_total", by="client"), "{{client}}")),
        ],
    ),
    (
        "Why: tokens and keys",
        [
            lines("Age of keys by issuer", "Time since they were last had from their source.", "s", (f"max by (issuer) (foregate_jwks_age_seconds{{{PROCESS}}})", "{{issuer}}"), thresholds=(86400,), runbook="ForegateKeysStale"),
            lines("Keys of issuers: fetches", "Fetches that gave keys, fetches that failed, and keys that are usable.", "none", (rate("foregate_jwks_fetches_succeeded_total", by="issuer"), "{{issuer}}: fetched"), (rate("foregate_jwks_fetches_failed_total", by="issuer"), "{{issuer}}: failed"), (f"min by (issuer) (foregate_jwks_keys{{{PROCESS}}})", "{{issuer}}: keys"), runbook="ForegateKeysStale"),
            lines("Tokens known", "Share of tokens that were found verified already.", "percentunit", (f"{rate('foregate_token_cache_hits_total', by='issuer')} / ({rate('foregate_token_cache_hits_total', by='issuer')} + {rate('foregate_token_cache_misses_total', by='issuer')})", "{{issuer}}"), bounds=(0, 1)),
            lines("Introspection", "Questions to authorization servers, answered or not, and tokens whose answer was known.", "none", (rate("foregate_introspections_answered_total", by="endpoint"), "{{endpoint}}: answered"), (rate("foregate_introspections_failed_total", by="endpoint"), "{{endpoint}}: failed"), (rate("foregate_introspection_cache_hits_total", by="issuer"), "{{issuer}}: known"), (rate("foregate_introspection_cache_misses_total", by="issuer"), "{{issuer}}: asked"), (total("foregate_introspection_cache_tokens", by="issuer"), "{{issuer}}: remembered")),
        ],
    ),
    (
        "Why: the decision log",
        [
            lines("Decisions written", "Decisions in the log, and those missing in it.", "none", (rate("foregate_decision_log_written_total"), "written"), (rate("foregate_decision_log_dropped_total"), "dropped"), (rate("foregate_decision_log_errors_total"), "errors"), runbook="ForegateDecisionLogFailing", width=8),
            lines("Bytes", "Bytes written in a second.", "Bps", (rate("foregate_decision_log_bytes_total", by="instance"), "{{instance}}"), width=8),
            lines("Age of the last signature", "Time since the log was last signed and brought to disk: what a crash can lose.", "s", (f"time() - min by (instance) (foregate_decision_log_last_checkpoint_timestamp_seconds{{{PROCESS}}})", "{{instance}}"), runbook="ForegateDecisionLogFailing", width=8),
        ],
    ),
]
