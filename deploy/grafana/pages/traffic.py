"""How much is asked of the gateway, how it is answered, and what time the gateway itself takes."""

from panels import PROCESS, REQUEST, ROUTE, always, either, heatmap, lines, quantile, rate, share, shares, stat, table, total

COUNT, SECONDS = "http_server_request_duration_seconds_count", "http_server_request_duration_seconds"
ADDED = "foregate_added_duration_seconds"
CALLS, UNTOLD = REQUEST + ',rpc_response_status_code!=""', REQUEST + ',error_type!=""'
# The status tells it, or `error_type` does.
FAILED = (REQUEST + ',http_response_status_code=~"5.."', UNTOLD)
PERCENTILES = ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))


def percentiles(histogram, selector):
    return [(quantile(share, histogram, selector), name) for share, name in PERCENTILES]


ROWS = [
    (
        "Is it well?",
        [
            stat("Requests", "Requests that ended, in a second.", "reqps", rate(COUNT, REQUEST)),
            stat(
                "Failed", "Share of requests that failed, by the gateway or a service: with 5xx, a gRPC code that says so, or an answer that broke off. The objective is 0.1 %.", "percentunit",
                share(either(COUNT, FAILED), rate(COUNT, REQUEST)), (0.001, 0.01), "ForegateAvailabilityBudgetBurns",
            ),
            stat(
                "Error budget: burn rate", "How many times faster than the objective allows requests failed within the last hour; at 1, a budget lasts exactly its 30 days.", "none",
                'max(job:foregate_failed:ratio_rate1h{job=~"$job"}) / 0.001', (1, 6), "ForegateAvailabilityBudgetBurns",
            ),
            stat(
                "Added latency, p99", "What the gateway adds to 99 of 100 requests: the time until they are sent on or refused, and that between the upstream's response and the gateway's; waiting for clients and upstreams is left out. The objective is that 99 % stay under 5 ms.", "s",
                quantile(0.99, ADDED, ROUTE), (0.0025, 0.005), "ForegateLatencyBudgetBurns",
            ),
            stat("In flight", "Requests between their head and the end of their response.", "none", total("http_server_active_requests")),
            stat("Alerts", "Alerts of Foregate that are firing.", "none", always('count(ALERTS{alertname=~"Foregate.*",alertstate="firing"})'), (1,)),
        ],
    ),
    (
        "Where?",
        [
            lines("Requests by route", "Requests in a second.", "reqps", (rate(COUNT, REQUEST, "http_route"), "{{http_route}}"), stacked=True),
            lines(
                "Failed by route", "Share of requests that failed: with 5xx, a gRPC code that says so, or an answer that broke off.", "percentunit",
                (shares(either(COUNT, FAILED, "http_route"), rate(COUNT, REQUEST, "http_route")), "{{http_route}}"), thresholds=(0.001,),
                runbook="ForegateAvailabilityBudgetBurns",
            ),
            lines("Requests by status", "Requests in a second, by the status that clients got.", "reqps", (rate(COUNT, REQUEST, "http_response_status_code"), "{{http_response_status_code}}"), stacked=True),
            lines(
                "Added latency by route, p99", "What the gateway adds to 99 of 100 requests.", "s", (quantile(0.99, ADDED, ROUTE, "route"), "{{route}}"), thresholds=(0.005,),
                runbook="ForegateLatencyBudgetBurns",
            ),
            table(
                "Routes", "All routes at a glance. Rules that the gateway keeps for these numbers are evaluated over five minutes.", ["http_route"],
                [
                    ("requests", 'sum by (http_route) (job_http_route:http_server_requests:rate5m{job=~"$job",http_route=~"$route"})', "reqps"),
                    ("failed", 'max by (http_route) (job_http_route:foregate_failed:ratio_rate5m{job=~"$job",http_route=~"$route"})', "percentunit"),
                    ("latency p99", 'max by (http_route) (job_http_route:http_server_request_duration_seconds:p99_rate5m{job=~"$job",http_route=~"$route"})', "s"),
                    ("added p50", 'max by (http_route) (label_replace(job_route:foregate_added_duration_seconds:p50_rate5m{job=~"$job",route=~"$route"}, "http_route", "$1", "route", "(.*)"))', "s"),
                    ("added p99", 'max by (http_route) (label_replace(job_route:foregate_added_duration_seconds:p99_rate5m{job=~"$job",route=~"$route"}, "http_route", "$1", "route", "(.*)"))', "s"),
                ],
            ),
        ],
    ),
    (
        "Why?",
        [
            lines("Latency", "From the head of the request to the last byte of the response. Dots are requests: they lead to the decision, where it was kept.", "s", *percentiles(SECONDS, REQUEST), exemplars=True),
            lines("Added latency", "What the gateway adds.", "s", *percentiles(ADDED, ROUTE), thresholds=(0.005,), runbook="ForegateLatencyBudgetBurns"),
            heatmap("Latency: distribution", "Requests by their time. Two bands are two kinds of requests; look for the route.", "s", SECONDS, REQUEST, exemplars=True),
            heatmap("Added latency: distribution", "Requests by what the gateway added.", "s", ADDED, ROUTE),
            lines("Services: time to the response head, p99", "What services take; where this rises with the latency above, it is not the gateway.", "s", (quantile(0.99, "http_client_request_duration_seconds", REQUEST, "foregate_upstream"), "{{foregate_upstream}}")),
            lines("Steps, p99", "Time in each step of a request, of those that are timed (--decision-sample, sampled traces).", "s", (quantile(0.99, "foregate_step_duration_seconds", PROCESS, "step"), "{{step}}")),
            lines("gRPC calls by code", "Calls in a second, by how they ended; their HTTP status is 200 whatever became of them.", "reqps", (rate(COUNT, CALLS, "rpc_response_status_code"), "{{rpc_response_status_code}}"), stacked=True),
            lines("Failed without 5xx", "Calls of gRPC that failed and answers that broke off, in a second, by what was wrong.", "reqps", (rate(COUNT, UNTOLD, "error_type"), "{{error_type}}"), stacked=True, runbook="ForegateAvailabilityBudgetBurns"),
            lines("Refused by step", "Requests that the gateway refused, by the step that did.", "reqps", (rate("foregate_refusals_total", ROUTE, "step"), "{{step}}"), stacked=True),
            lines(
                "Event loops: delay", "How late the worst worker comes to what is ready. Above 100 ms, requests are shed.", "s",
                (f"max by (instance) (foregate_event_loop_delay_seconds{{{PROCESS}}})", "{{instance}}"), thresholds=(0.01,), runbook="ForegateEventLoopDelayed",
            ),
            lines("Connections", "Open connections, and those among them that wait for a request without buffers.", "none", (total("foregate_connections_open", by="listener"), "{{listener}}"), (total("foregate_connections_resting"), "resting")),
            lines("Faults on purpose, copies for mirrors", "What policies with `inject` did to requests, and what became of copies.", "reqps", (rate("foregate_injected_faults_total", by="rule, kind"), "{{kind}} by {{rule}}"), (rate("foregate_mirrored_requests_total", by="upstream, outcome"), "copy for {{upstream}}: {{outcome}}")),
            lines("Connections passed on unread", "Connections of TCP and TLS routes that ended, in a second.", "none", (rate("foregate_stream_connections_total", ROUTE, "route, end"), "{{route}}: {{end}}")),
            lines("Bytes passed on unread", "Bytes of such connections, in a second.", "Bps", (rate("foregate_stream_bytes_total", ROUTE, "route, direction"), "{{route}}: {{direction}}")),
        ],
    ),
]
