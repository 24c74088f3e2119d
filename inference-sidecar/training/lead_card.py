"""The model card of a lead bundle, written from the measured facts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import leads
from bundle import Bundle
from measures import auc_error, base_rate_row, calibration

TOP = 6


@dataclass(frozen=True)
class Facts:
    """`complete` are metrics on the test leads without gaps, `other` those of the sister bundle."""

    bundle: Bundle
    kind: str
    rows: dict[str, int]
    won: np.ndarray
    scores: np.ndarray
    complete: dict[str, float]
    other: dict[str, float]
    examples: dict[str, float]
    columns: list[str]
    weights: np.ndarray


def render(facts: Facts) -> str:
    made, metrics = facts.bundle, facts.bundle.metrics
    error, table = calibration(facts.won, facts.scores)
    sister = "lead-score-logistic" if made.name == "lead-score" else "lead-score"
    measure = "share of split gain" if made.name == "lead-score" else "share of absolute weight"
    constraint = (
        "The trees are constrained: more activity, revenue or seniority never lowers the score, a longer silence never raises it.\n"
        if made.name == "lead-score"
        else ""
    )
    return f"""# {made.name} {made.version}

The probability that a sales lead is won within {leads.OUTCOME_DAYS} days, from one Salesforce Lead record: {facts.kind}.

## Intended use

Demonstration, tests and benchmarks of Foregate, and a pattern for your own model. The data is simulated: **do not rank real
people or companies with it.** Train on your own CRM (below), then replace the bundle.

## Data

PyPI `leadforge` 1.0.0 (MIT), recipe `{leads.RECIPE}`, profile `{leads.DIFFICULTY}`, seed {made.trained_on["seed"]}: {leads.LEADS:,} leads of
{leads.ACCOUNTS:,} invented accounts. No real person or company is in it. Each lead is seen once, on a random day in its first
{leads.LAST_SNAPSHOT_DAY + 1} days, with the events up to that day; leads already won by then are left out, leads that went silent stay in.
leadforge's documented leakage column `total_touches_all`, its other ready-made aggregates and everything about opportunities
are not used: a Salesforce Lead has no opportunity yet.

Mapped to Lead fields with these liberties: revenue and headcount are drawn log-uniformly within leadforge's bands; the title is drawn
for the contact's seniority; `Email_Opens_30d__c` counts e-mail touches, as leadforge records no opens. Gaps and unlisted words are added at
random, independently of the outcome: a fifth of the records lack each group of fields, each field is absent in another {leads.FIELD_ABSENT:.0%}, {leads.UNLISTED:.0%} of the
words are ones the model does not know.

Split by account, so no account is in two parts: {facts.rows["train"]:,} leads train, {facts.rows["valid"]:,} validate (number of trees), {facts.rows["test"]:,} test.

## Quality on the test accounts

| | AUC | log loss | Brier | calibration error |
|---|---|---|---|---|
| this model | {metrics["auc"]:.4f} | {metrics["logLoss"]:.4f} | {metrics["brier"]:.4f} | {error:.4f} |
| this model, records without gaps | {facts.complete["auc"]:.4f} | {facts.complete["logLoss"]:.4f} | {facts.complete["brier"]:.4f} | |
| `{sister}` | {facts.other["auc"]:.4f} | {facts.other["logLoss"]:.4f} | {facts.other["brier"]:.4f} | |
{base_rate_row(facts.won)}

{metrics["testRows"]:,} leads. One standard error of the AUC is about {auc_error(facts.won, metrics["auc"]):.3f}: the two models are {verdict(facts)}.
The signal is weak by design of the data. Scores lie between {facts.scores.min():.2f} and {facts.scores.max():.2f} (5 % to 95 %: {np.quantile(facts.scores, 0.05):.2f} to {np.quantile(facts.scores, 0.95):.2f}).

Calibration, test leads in tenths by score:

| mean score | won |
|---|---|
{table}

Columns that weigh most ({measure}): {top(facts)}. Industry, country, source and headcount have no effect in
this world; the little weight they get is noise.
{constraint}
## Scores of the examples in golden.json

{", ".join(f"{name} {score:.3f}" for name, score in facts.examples.items())}.

## Limits

- Titles and words match exactly as listed in `model.yaml`; any other counts as unknown.
- Activity is counted over at most {leads.LAST_SNAPSHOT_DAY} days. Beyond the range seen (about 7 visits, 30 days of age) the score is extrapolated.
- A record with few fields gets a score near the base rate. That is not a statement about the lead.

## Retrain

See `inference-sidecar/training/README.md`.
"""


def verdict(facts: Facts) -> str:
    gap = facts.bundle.metrics["auc"] - facts.other["auc"]
    if abs(gap) < auc_error(facts.won, facts.bundle.metrics["auc"]):
        return "level"
    return "apart, this one ahead" if gap > 0 else "apart, the other ahead"


def top(facts: Facts) -> str:
    order = np.argsort(-facts.weights, kind="stable")[:TOP]
    total = facts.weights.sum()
    return ", ".join(f"`{facts.columns[column]}` {facts.weights[column] / total:.0%}" for column in order)
