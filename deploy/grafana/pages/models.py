"""Whether requests get their scores, in time, and whether models still see what they were trained on."""

from panels import BAD, GOOD, PROCESS, always, heatmap, lines, quantile, rate, share, stat, states, total

SCORES = "foregate_scores_total"
LOST = PROCESS + ',outcome!="scored"'
ENRICH = "foregate_enrich_duration_seconds"
VERSION = "model, version, role"

ROWS = [
    (
        "Is it well?",
        [
            stat("Without a score", "Share of bodies that should have been scored, and were not.", "percentunit", share(rate(SCORES, LOST), rate(SCORES)), (0.01, 0.1), "ForegateScoresMissing"),
            stat("Time for scores, p99", "Time on features and scores within a request.", "s", quantile(0.99, ENRICH), (0.002, 0.005), "ForegateScoresMissing"),
            stat("Drift", "The feature that moved most against the training records, as population stability index; from 0.25 on it is another population.", "none", f"max(foregate_model_drift{{{PROCESS}}})", (0.1, 0.25), "ForegateModelDrifts"),
            stat("Canaries taken off", "Times that guardrails took a version off, since the gateways started.", "none", always(total("foregate_model_rollbacks_total")), (1,), "ForegateCanaryTakenOff"),
            stat("Disagreement", "Share of compared records to which a canary or shadow gave another score than production.", "percentunit", share(rate("foregate_model_disagreements_total"), rate("foregate_model_comparisons_total")), (0.05, 0.2), "ForegateCanaryTakenOff"),
            stat("Inference sidecar", "Whether models with `placement: Sidecar` can be asked.", "none", f"min(foregate_inference_sidecar_connected{{{PROCESS}}})", (1,), "ForegateInferenceSidecarLost", falling=True, words={"0": "lost", "1": "connected"}),
        ],
    ),
    (
        "Where?",
        [
            lines("Bodies by outcome", "`scored`, or what was in the way: the `body`, a `feature`, `late`, `busy`, or the `model`.", "none", (rate(SCORES, by="model, outcome"), "{{model}}: {{outcome}}"), stacked=True, runbook="ForegateScoresMissing"),
            lines("Drift by feature", "Population stability index of the last full window against the training records.", "none", (f"max by (model, role, feature) (foregate_model_drift{{{PROCESS}}})", "{{model}} ({{role}}): {{feature}}"), thresholds=(0.1, 0.25), runbook="ForegateModelDrifts"),
            lines("Scores: quantiles", "Where half, and nine tenths of the scores of a model lie.", "none", (quantile(0.5, "foregate_score_value", PROCESS, "model"), "{{model}} p50"), (quantile(0.9, "foregate_score_value", PROCESS, "model"), "{{model}} p90"), bounds=(0, 1)),
            heatmap("Scores: distribution", "Records by score. A band that moves is another population, or another model.", "none", "foregate_score_value", PROCESS),
        ],
    ),
    (
        "Why: time",
        [
            lines("Time for scores", "Time on features and scores within a request.", "s", (quantile(0.5, ENRICH), "p50"), (quantile(0.99, ENRICH), "p99"), (quantile(0.999, ENRICH), "p99.9"), thresholds=(0.005,), width=8),
            lines("Time of a run", "One row in the last runs of a version, without features and waiting.", "s", (f"max by (model, version, quantile) (foregate_model_run_duration_seconds{{{PROCESS}}})", "{{model}} {{version}} quantile {{quantile}}"), width=8),
            heatmap("Time for scores: distribution", "Requests by their time on features and scores.", "s", ENRICH, PROCESS, width=8),
        ],
    ),
    (
        "Why: versions",
        [
            lines("Canary: share of bodies", "The part of the bodies that the canary decides about; 0 once it was taken off.", "percent", (f"max by (model) (foregate_model_canary_percent{{{PROCESS}}})", "{{model}}"), runbook="ForegateCanaryTakenOff", bounds=(0, 100)),
            lines("On trial: records", "Records that canaries and shadows were given, and those that they failed on where production did not.", "none", (rate("foregate_model_trial_records_total", by=VERSION), "{{model}} {{version}} ({{role}})"), (rate("foregate_model_trial_errors_total", by=VERSION), "{{model}} {{version}} ({{role}}): failed"), runbook="ForegateCanaryTakenOff"),
            lines("On trial: disagreement", "Share of compared records with another score than production's; bodies that were not compared because too many waited.", "percentunit", (f"{rate('foregate_model_disagreements_total', by=VERSION)} / {rate('foregate_model_comparisons_total', by=VERSION)}", "{{model}} {{version}} ({{role}})"), (rate("foregate_model_comparisons_dropped_total", by="model"), "{{model}}: not compared")),
            lines("Taken off by guardrails", "Which guardrail a version broke, since the gateways started.", "none", (total("foregate_model_rollbacks_total", by="model, version, guardrail"), "{{model}} {{version}}: {{guardrail}}"), runbook="ForegateCanaryTakenOff"),
        ],
    ),
    (
        "Why: features by key",
        [
            lines("Lookups", "Keys found, absent, or too old.", "none", *((rate(f"foregate_feature_lookups_{kind}_total", by="store"), f"{{{{store}}}}: {kind}") for kind in ("found", "absent", "stale")), runbook="ForegateFeaturesStale", width=8),
            lines("Age of features", "Time since the newest row was known, and since all of the stream was taken up.", "s", (f"max by (store) (foregate_feature_store_age_seconds{{{PROCESS}}})", "{{store}}"), (f"max by (store) (foregate_feature_stream_age_seconds{{{PROCESS}}})", "{{store}}: stream"), runbook="ForegateFeaturesStale", width=8),
            lines("Updates", "Rows taken up, entries of streams, and what was refused or lost.", "none", (rate("foregate_feature_rows_applied_total", by="store"), "{{store}}: rows"), (rate("foregate_feature_stream_entries_total", by="store"), "{{store}}: entries"), (rate("foregate_feature_stream_refused_total", by="store"), "{{store}}: refused"), (rate("foregate_feature_stream_lost_total", by="store"), "{{store}}: lost"), (rate("foregate_feature_files_rejected_total", by="store"), "{{store}}: files refused"), runbook="ForegateFeaturesStale", width=8),
            lines("Rows", "Rows of feature stores.", "none", (total("foregate_feature_store_rows", by="store"), "{{store}}"), width=8),
        ],
    ),
    (
        "Why: the inference server",
        [
            lines("Sidecar: calls", "Calls of gateways that it was to answer, and those without scores, by kind.", "none", (rate("foregate_inference_sidecar_calls_total"), "calls"), (rate("foregate_inference_sidecar_faults_total", by="kind"), "{{kind}}"), (total("foregate_inference_sidecar_calls_in_flight"), "under way"), runbook="ForegateInferenceSidecarLost"),
            states("Sidecar: connection", "Whether each gateway has a connection to its inference server.", f"foregate_inference_sidecar_connected{{{PROCESS}}}", "{{instance}}", {"0": ("lost", BAD), "1": ("connected", GOOD)}, runbook="ForegateInferenceSidecarLost"),
            lines("Server: requests", "Requests to inference servers by what became of them.", "reqps", ("sum by (protocol, call, outcome) (rate(foregate_inference_requests_total[$__rate_interval]))", "{{protocol}} {{call}}: {{outcome}}"), stacked=True),
            lines("Server: time, p99", "Time from the head of a request to its answer.", "s", ("histogram_quantile(0.99, sum by (le, protocol, call) (rate(foregate_inference_request_duration_seconds_bucket[$__rate_interval])))", "{{protocol}} {{call}}")),
            lines("Server: rows", "Rows scored in a second.", "none", ("sum by (model) (rate(foregate_inference_rows_total[$__rate_interval]))", "{{model}}")),
            lines("Server: models", "Versions of models that are loaded.", "none", ("max by (instance) (foregate_inference_models)", "{{instance}}")),
        ],
    ),
]
