"""Which gateways run what, who refused which configuration, and whether what tells of them gets through."""

from panels import BAD, GOOD, PROCESS, always, lines, rate, stat, states, table, total

REVISION = f"count by (revision) (foregate_config_revision_info{{{PROCESS}}})"


def plane(metric, by):
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


ROWS = [
    (
        "Is it well?",
        [
            stat("Gateways", "Gateways that answer Prometheus.", "none", f"count(foregate_build_info{{{PROCESS}}})"),
            stat("Configuration refused", "Gateways whose newest configuration was refused; they go on with the last good one.", "none", f"sum(foregate_config_rejected{{{PROCESS}}})", (1,), "ForegateConfigurationRefused"),
            stat("Revisions in force", "Different revisions of the configuration. More than one for longer than a roll-out is a gateway that is left behind.", "none", f"count({REVISION})", (2, 3), "ForegateConfigurationRefused"),
            stat("Without a control plane", "Gateways whose stream of policies is closed.", "none", always(f"count(foregate_control_connected{{{PROCESS}}} == 0)"), (1,), "ForegateControlPlaneLost"),
            stat("Panics", "Requests that ended with a defect of the gateway itself, since it started.", "none", total("foregate_request_panics_total"), (1,), "ForegatePanics"),
            stat("Not told of", "Access log lines, events, log records and spans dropped in a second.", "none", f"{always(rate('foregate_access_log_dropped_total'))} + {always(rate('foregate_events_dropped_total'))} + {always(rate('foregate_logs_dropped_total'))} + {always(rate('foregate_spans_dropped_total'))}", (0.1, 10), "ForegateAccessLogDrops"),
        ],
    ),
    (
        "Where?",
        [
            table(
                "Every gateway", "All at a glance.", ["instance", "version", "revision"],
                [
                    ("build", f"max by (instance, version) (foregate_build_info{{{PROCESS}}})", "none"),
                    ("up for", f"max by (instance) (time() - process_start_time_seconds{{{PROCESS}}})", "s"),
                    ("configuration since", f"max by (instance) (time() - foregate_config_last_success_timestamp_seconds{{{PROCESS}}})", "s"),
                    ("refused", f"max by (instance) (foregate_config_rejected{{{PROCESS}}})", "none"),
                    ("memory", f"max by (instance) (process_resident_memory_bytes{{{PROCESS}}})", "bytes"),
                    ("files", f"max by (instance) (process_open_fds{{{PROCESS}}})", "none"),
                ],
                runbook="ForegateConfigurationRefused",
            ),
            lines("Gateways by revision", "How many gateways obey which revision: roll-outs are seen here.", "none", (REVISION, "{{revision}}"), stacked=True),
            states("Connected to the control plane", "Whether each gateway has its stream of policies.", f"foregate_control_connected{{{PROCESS}}}", "{{instance}}", {"0": ("lost", BAD), "1": ("connected", GOOD)}, runbook="ForegateControlPlaneLost"),
            states("Granted by the control plane", "Whether each gateway is granted policies; one that is not refuses everything.", f"foregate_control_withheld{{{PROCESS}}}", "{{instance}}", {"0": ("granted", GOOD), "1": ("nothing", BAD)}, runbook="ForegateGrantLost"),
        ],
    ),
    (
        "Why: configuration",
        [
            lines("Reloads", "Configurations taken and refused since the gateways started.", "none", (total("foregate_config_reloads_total", by="outcome"), "{{outcome}}"), runbook="ForegateConfigurationRefused"),
            lines("Changes of the control plane", "Changes that gateways took or refused, and streams that they opened, since they started.", "none", (total("foregate_control_changes_taken_total"), "taken"), (total("foregate_control_changes_refused_total"), "refused"), (total("foregate_control_connections_total"), "streams"), runbook="ForegateConfigurationRefused"),
            lines("Age of the fleet's revision", "Time since the revision of the control plane came in force in each gateway.", "s", (f"max by (instance) (time() - foregate_control_revision_timestamp_seconds{{{PROCESS}}})", "{{instance}}"), runbook="ForegateControlPlaneLost"),
        ],
    ),
    (
        "Why: the control plane",
        [
            lines("Proxies", "Proxies whose stream of policies is open, and their connections; 1 while secrets in use cannot be written down.", "none", ("sum by (instance) (foregate_control_proxies)", "{{instance}}: streams"), ("sum by (instance) (foregate_control_connections)", "{{instance}}: connections"), ("max by (instance) (foregate_control_secrets_unkept)", "{{instance}}: secrets not written down"), width=8, runbook="ForegateControlPlaneLost"),
            lines("Handshakes", "Connections of proxies by how their handshake ended.", "none", (plane("foregate_control_handshakes_total", "outcome"), "{{outcome}}"), width=8),
            lines("Certificates", "Certificates asked for, by outcome.", "none", (plane("foregate_control_certificates_total", "outcome"), "{{outcome}}"), width=8),
            lines("Kubernetes: objects", "Objects that are compiled, and those that are not in force for their faults.", "none", ("max by (instance) (foregate_control_kubernetes_objects)", "{{instance}}"), ("max by (instance) (foregate_control_kubernetes_objects_refused)", "{{instance}}: refused"), ("max by (instance) (foregate_control_kubernetes_stuck)", "{{instance}}: stuck"), width=8),
            lines("Kubernetes: watches", "Kinds whose watch is open, and lists and watches that failed.", "none", ("sum by (instance) (foregate_control_kubernetes_watch_up)", "{{instance}}: open"), (plane("foregate_control_kubernetes_watch_errors_total", "kind"), "{{kind}}: failed"), width=8),
            lines("Kubernetes: replicas", "Replicas that write statuses: one. Statuses written, files of endpoints written anew, and reviews of webhooks.", "none", ("sum(foregate_control_kubernetes_leading)", "leading"), (plane("foregate_control_kubernetes_status_writes_total", "outcome"), "statuses: {{outcome}}"), (plane("foregate_control_kubernetes_endpoint_changes_total", "instance"), "{{instance}}: endpoints"), (plane("foregate_control_webhook_reviews_total", "webhook, answer"), "{{webhook}}: {{answer}}"), width=8),
        ],
    ),
    (
        "Why: the process",
        [
            lines("Processor", "Processors in use.", "none", (rate("process_cpu_seconds_total", by="instance"), "{{instance}}"), width=8),
            lines("Memory", "Resident memory.", "bytes", (total("process_resident_memory_bytes", by="instance"), "{{instance}}"), width=8),
            lines("Open files", "Connections, above all.", "none", (total("process_open_fds", by="instance"), "{{instance}}"), width=8),
        ],
    ),
    (
        "Why: what tells of it",
        [
            lines("Access log", "Lines that wait, and lines a second that the queue had no room for; events on standard error that were not written.", "none", (total("foregate_access_log_waiting", by="instance"), "{{instance}}: waiting"), (rate("foregate_access_log_dropped_total", by="instance"), "{{instance}}: dropped"), (rate("foregate_events_dropped_total", by="instance"), "{{instance}}: events dropped"), width=12, runbook="ForegateAccessLogDrops"),
            lines("Logs by OTLP", "Log records that wait, and those exported and dropped and exports that failed in a second.", "none", (total("foregate_logs_waiting"), "waiting"), (rate("foregate_logs_exported_total"), "exported"), (rate("foregate_logs_dropped_total", by="reason"), "dropped: {{reason}}"), (rate("foregate_log_exports_failed_total"), "exports failed"), width=12, runbook="ForegateLogsDropped"),
            lines("Spans", "Records that wait, and spans exported and dropped and exports that failed in a second.", "none", (total("foregate_spans_waiting"), "waiting"), (rate("foregate_spans_exported_total"), "exported"), (rate("foregate_spans_dropped_total", by="reason"), "dropped: {{reason}}"), (rate("foregate_span_exports_failed_total"), "exports failed"), width=12, runbook="ForegateSpansDropped"),
            lines("Series refused", "Observations counted under another name because a metric has too many series.", "none", (rate("foregate_metric_series_refused_total", by="metric"), "{{metric}}"), width=12, runbook="ForegateSeriesOverflow"),
        ],
    ),
]
