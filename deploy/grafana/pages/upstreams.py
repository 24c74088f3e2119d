"""How the services behind the gateway do: which answer, how fast, and which are left out."""

from panels import BAD, GOOD, PROCESS, REQUEST, either, heatmap, lines, quantile, rate, share, stat, states, table, total

SECONDS, COUNT = "http_client_request_duration_seconds", "http_client_request_duration_seconds_count"
FAILURES, ENDPOINTS = "foregate_upstream_failures_total", "foregate_upstream_endpoints"
FAILED = (REQUEST + ',http_response_status_code=~"5.."', REQUEST + ',error_type!=""')
FIT = PROCESS + ',state="fit"'

ROWS = [
    (
        "Is it well?",
        [
            stat("Endpoints in use", "Share of the known endpoints to which requests go.", "percentunit", f'{total(ENDPOINTS, FIT)} / {total(ENDPOINTS)}', (0.5, 1), "ForegateUpstreamGone", falling=True),
            stat("Upstreams without any", "Upstreams of a gateway that have no endpoint in use.", "none", f'count(sum by (instance, upstream) ({ENDPOINTS}{{{PROCESS},state="fit"}}) == 0) or vector(0)', (1,), "ForegateUpstreamGone"),
            stat("No answer", "Exchanges with services in a second that ended without one.", "reqps", f"{rate(FAILURES)} or vector(0)", (0.1, 1), "ForegateUpstreamFails"),
            stat("Failed", "Share of exchanges with services that failed: with 5xx, a gRPC code that says so, or an answer that broke off.", "percentunit", share(either(COUNT, FAILED), rate(COUNT, REQUEST)), (0.001, 0.01), "ForegateUpstreamFails"),
            stat("Time to the head, p99", "From dispatch to the response head of a service.", "s", quantile(0.99, SECONDS, REQUEST), (0.5, 2)),
            stat("Tried again", "Attempts in a second beyond the first.", "reqps", rate("foregate_upstream_retries_total"), (1, 10)),
        ],
    ),
    (
        "Where?",
        [
            table(
                "Upstreams", "All at a glance. `/upstreams` on the admin port of a gateway tells of each endpoint.", ["upstream"],
                [
                    ("answers", f'label_replace({rate(COUNT, REQUEST, "foregate_upstream")}, "upstream", "$1", "foregate_upstream", "(.*)")', "reqps"),
                    ("no answer", rate(FAILURES, PROCESS, "upstream"), "reqps"),
                    ("in use", f'sum by (upstream) ({ENDPOINTS}{{{PROCESS},state="fit"}})', "none"),
                    ("unfit", f'sum by (upstream) ({ENDPOINTS}{{{PROCESS},state="unfit"}})', "none"),
                    ("ejected", f'sum by (upstream) ({ENDPOINTS}{{{PROCESS},state="ejected"}})', "none"),
                    ("in flight", total("foregate_upstream_requests_in_flight", by="upstream"), "none"),
                    ("limit", total("foregate_upstream_concurrency_limit", by="upstream"), "none"),
                    ("time left of the token", f"min by (upstream) (foregate_credential_expires_in_seconds{{{PROCESS}}})", "s"),
                ],
                runbook="ForegateUpstreamFails",
            ),
            lines("Answers", "Answers of services in a second.", "reqps", (rate(COUNT, REQUEST, "foregate_upstream"), "{{foregate_upstream}}"), stacked=True),
            lines("No answer, by reason", "Exchanges that ended without an answer.", "reqps", (rate(FAILURES, PROCESS, "upstream, reason"), "{{upstream}}: {{reason}}"), stacked=True, runbook="ForegateUpstreamFails"),
            lines("Time to the head, p50 and p99", "From dispatch to the response head.", "s", (quantile(0.5, SECONDS, REQUEST, "foregate_upstream"), "{{foregate_upstream}} p50"), (quantile(0.99, SECONDS, REQUEST, "foregate_upstream"), "{{foregate_upstream}} p99")),
            states("Endpoints", "When requests went to each endpoint.", f"min by (upstream, endpoint) (foregate_endpoint_fit{{{PROCESS}}})", "{{upstream}} {{endpoint}}", {"0": ("left out", BAD), "1": ("in use", GOOD)}, runbook="ForegateUpstreamGone"),
        ],
    ),
    (
        "Why?",
        [
            lines("Answers by status", "What services say.", "reqps", (rate(COUNT, REQUEST, "foregate_upstream, http_response_status_code"), "{{foregate_upstream}}: {{http_response_status_code}}"), stacked=True),
            heatmap("Time to the head: distribution", "Answers by their time.", "s", SECONDS, REQUEST),
            lines("Endpoints by state", "In use, found unfit by checks, ejected for what they answered.", "none", (total(ENDPOINTS, PROCESS, "upstream, state"), "{{upstream}}: {{state}}"), runbook="ForegateUpstreamGone"),
            lines("Ejections", "Times in a second that an endpoint was taken out.", "none", (rate("foregate_upstream_ejections_total", by="upstream"), "{{upstream}}"), runbook="ForegateUpstreamGone"),
            lines("Retries", "Attempts beyond the first, and those left out because the budget was used up.", "reqps", (rate("foregate_upstream_retries_total", by="upstream"), "{{upstream}}"), (rate("foregate_upstream_retries_refused_total", by="upstream"), "{{upstream}}: left out")),
            lines("At once", "Requests at an upstream without a response head, and how many it is given; the limit follows the time it takes.", "none", (total("foregate_upstream_requests_in_flight", by="upstream"), "{{upstream}}"), (total("foregate_upstream_concurrency_limit", by="upstream"), "{{upstream}}: limit"), runbook="ForegateLoadShed"),
            lines("Waiting and shed", "Requests that wait, and requests refused because an upstream has enough.", "none", (total("foregate_upstream_requests_waiting", by="upstream"), "{{upstream}}: waiting"), (rate("foregate_upstream_requests_shed_total", by="upstream"), "{{upstream}}: shed"), runbook="ForegateLoadShed"),
            lines("Refused for the service", "Requests that the gateway refused because of a service, by reason.", "reqps", (rate("foregate_refusals_total", PROCESS + ',route=~"$route",step="dispatch"', "reason"), "{{reason}}"), stacked=True, runbook="ForegateUpstreamFails"),
            lines("Connections", "Open connections to services, and those that lie idle for the next request.", "none", (total("foregate_upstream_connections", by="upstream, state"), "{{upstream}}: {{state}}")),
            lines("Connections: opened, used again, not had", "Used again is what should be; opened as often as there are requests is a service that closes its connections.", "none", (rate("foregate_upstream_connections_opened_total", by="upstream"), "{{upstream}}: opened"), (rate("foregate_upstream_connections_reused_total", by="upstream"), "{{upstream}}: used again"), (rate("foregate_upstream_connection_failures_total", by="upstream, reason"), "{{upstream}}: {{reason}}"), runbook="ForegateUpstreamFails"),
            lines("Tokens of the gateway's own", "Tokens granted for upstreams, and those that were not.", "none", (rate("foregate_credential_fetches_succeeded_total", by="upstream"), "{{upstream}}: granted"), (rate("foregate_credential_fetches_failed_total", by="upstream"), "{{upstream}}: not granted"), runbook="ForegateCredentialExpires"),
            lines("Tokens of the gateway's own: age", "Time since a token was granted.", "s", (f"max by (upstream) (foregate_credential_age_seconds{{{PROCESS}}})", "{{upstream}}"), runbook="ForegateCredentialExpires"),
        ],
    ),
]
