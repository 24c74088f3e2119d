"""What limits, quotas and bounds of the gateway let through, and what they are made of."""

from panels import PROCESS, ROUTE, always, lines, quantile, rate, share, stat, total

DECISIONS = "foregate_limit_decisions_total"
REFUSED = PROCESS + ',admitted="false"'
LIMITED = ROUTE + ',reason=~"RateLimited|QuotaExceeded|ConcurrencyLimited|OrgQuotaReserved|OrgQuotaExhausted|LimitUnavailable"'

ROWS = [
    (
        "Is it well?",
        [
            stat("Limits that say no", "Share of what limits were asked that they refused.", "percentunit", share(rate(DECISIONS, REFUSED), rate(DECISIONS)), (0.1, 0.5)),
            stat("Limits that could not be asked", "Decisions in a second for which the store of a shared limit could not be asked.", "none", always(rate("foregate_limit_unavailable_total")), (0.01, 1), "ForegateLimitStoreDown"),
            stat("Servers of stores not asked", "Servers that failed so often that they are left alone for a moment.", "none", f"sum(foregate_store_circuits_open{{{PROCESS}}})", (1,), "ForegateLimitStoreDown"),
            stat("Store: time to answer, p99", "Of the store that gateways count in together.", "s", quantile(0.99, "foregate_store_request_duration_seconds"), (0.01, 0.05), "ForegateLimitStoreDown"),
            stat("Load shed", "Requests in a second refused because a worker or an upstream has enough.", "reqps", f"{always(rate('foregate_requests_shed_total'))} + {always(rate('foregate_upstream_requests_shed_total'))}", (0.1, 10), "ForegateLoadShed"),
            stat("Bodies held", "Memory of request bodies that are collected for filters; --max-body-memory bounds it.", "bytes", total("foregate_bodies_held_bytes"), (128 << 20, 230 << 20)),
        ],
    ),
    (
        "Where?",
        [
            lines("Refused by limits", "Answers of limits in a second: no.", "reqps", (rate(DECISIONS, REFUSED, "rule"), "{{rule}}"), stacked=True),
            lines("Let through by limits", "Answers of limits in a second: yes.", "reqps", (rate(DECISIONS, PROCESS + ',admitted="true"', "rule"), "{{rule}}"), stacked=True),
            lines("Callers told to wait", "Refusals for limits by reason and route.", "reqps", (rate("foregate_refusals_total", LIMITED, "reason, route"), "{{reason}}: {{route}}"), stacked=True),
            lines("Calls of orgs", "Share of the calls of 24 hours that an org has used.", "percentunit", (f"max by (upstream) (foregate_org_quota_used{{{PROCESS}}} / foregate_org_quota_limit{{{PROCESS}}})", "{{upstream}}"), thresholds=(0.8, 0.95), bounds=(0, 1)),
        ],
    ),
    (
        "Why: keys",
        [
            lines("Keys remembered", "Callers that a limit knows; a million at most.", "none", (total("foregate_limit_keys", by="rule"), "{{rule}}"), thresholds=(900_000,)),
            lines("Keys forgotten or turned away", "Keys forgotten because there are too many, and requests refused for that.", "none", (rate("foregate_limit_evictions_total", by="rule"), "{{rule}}: forgotten"), (rate("foregate_limit_keys_refused_total", by="rule"), "{{rule}}: turned away")),
            lines("Open under bounds of concurrency", "Requests that are open.", "none", (total("foregate_limit_open_requests", by="rule"), "{{rule}}")),
            lines("Quotas on disk", "Writes of what quotas have used, those that failed, and files that were set aside as unsound.", "none", (rate("foregate_quota_state_writes_succeeded_total"), "written"), (rate("foregate_quota_state_writes_failed_total"), "failed"), (total("foregate_quota_state_set_aside_total"), "set aside")),
        ],
    ),
    (
        "Why: stores",
        [
            lines("Store: requests", "Requests that a store answered, and those that failed, by kind.", "none", (rate("foregate_store_requests_total", by="store"), "{{store}}"), (rate("foregate_store_errors_total", by="store, kind"), "{{store}}: {{kind}}"), runbook="ForegateLimitStoreDown"),
            lines("Store: time to answer", "Of 50, and of 99 of 100 requests.", "s", (quantile(0.5, "foregate_store_request_duration_seconds", PROCESS, "store"), "{{store}} p50"), (quantile(0.99, "foregate_store_request_duration_seconds", PROCESS, "store"), "{{store}} p99"), runbook="ForegateLimitStoreDown"),
            lines("What was done without the store", "`reject`, `local` or `continue`, as the policy says; decisions that need no question for what was taken in advance.", "none", (rate("foregate_limit_unavailable_total", by="rule, outcome"), "{{rule}}: {{outcome}}"), (rate("foregate_store_decisions_here_total", by="store"), "{{store}}: not asked"), runbook="ForegateLimitStoreDown"),
            lines("Units taken in advance", "Taken, given back, lost in a second, and held now.", "none", (rate("foregate_store_leased_units_total", by="store"), "{{store}}: taken"), (rate("foregate_store_returned_units_total", by="store"), "{{store}}: given back"), (rate("foregate_store_lost_units_total", by="store"), "{{store}}: lost"), (total("foregate_store_held_units", by="store"), "{{store}}: held")),
        ],
    ),
    (
        "Why: orgs, once-only requests",
        [
            lines("Calls by class", "Calls of orgs in a second that were let through or refused.", "reqps", (rate("foregate_org_quota_admitted_total", by="upstream, class"), "{{upstream}}, {{class}}: let through"), (rate("foregate_org_quota_refused_total", by="upstream, class"), "{{upstream}}, {{class}}: refused")),
            lines("What orgs say of themselves", "Time since an org told of its calls, and what was not believed.", "s", (f"max by (upstream) (foregate_org_quota_age_seconds{{{PROCESS}}})", "{{upstream}}: age"), (rate("foregate_org_quota_ignored_total", by="upstream"), "{{upstream}}: not believed")),
            lines("Requests with idempotency keys", "By what they were, and what became of first answers.", "reqps", (rate("foregate_idempotency_requests_total", by="outcome"), "{{outcome}}"), (rate("foregate_idempotency_answers_total", by="end"), "answer: {{end}}")),
            lines("Idempotency keys in memory", "Keys, and those forgotten before their time.", "none", (total("foregate_idempotency_memory_keys"), "keys"), (rate("foregate_idempotency_memory_evictions_total"), "forgotten")),
            lines("Answers in memory", "Bytes of answers kept for repeats.", "bytes", (total("foregate_idempotency_memory_bytes", by="instance"), "{{instance}}")),
        ],
    ),
    (
        "Why: the gateway itself",
        [
            lines("Upstreams that have enough", "Requests that wait for an upstream, had to wait, or were refused for it.", "none", (total("foregate_upstream_requests_waiting", by="upstream"), "{{upstream}}: waiting"), (rate("foregate_upstream_requests_queued_total", by="upstream"), "{{upstream}}: had to wait"), (rate("foregate_upstream_requests_shed_total", by="upstream"), "{{upstream}}: refused"), runbook="ForegateLoadShed", width=8),
            lines("Workers that have enough", "Requests refused because a worker did not keep up.", "reqps", (rate("foregate_requests_shed_total", by="instance"), "{{instance}}"), runbook="ForegateLoadShed", width=8),
            lines("Bodies", "Memory that bodies hold; bodies refused for it.", "bytes", (total("foregate_bodies_held_bytes", by="instance"), "{{instance}}"), (rate("foregate_bodies_refused_total", by="instance"), "{{instance}}: refused"), width=8),
        ],
    ),
]
