"""Trains the win probability of open opportunities on leadforge data and writes its bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bundle
import card
import dates
import forest
import learnt
import measures
import opportunities
import tracking
import trees
from foregate_features import FeatureSpec
from oracle import NOW

HERE = Path(__file__).resolve().parent
NAME, VERSION, SCRIPT = "opportunity-win", "1.0.0", "train_opportunity.py"
SPLIT = "by account (sha256 of its id): 65 train, 15 valid, 20 test"
SAMPLES = 20

# As for leads: what a seller would call a defect is not learnt from noise.
RISING = {"revenue", "website_visits", "pricing_views", "email_opens", "webinars", "touches_7d", "sales_activities"}
FALLING = {"silence"}

WARM: dict[str, Any] = {
    "Name": "Harbor Mills, 40 seats",
    "Amount": 64000,
    "LeadSource": "Partner Referral",
    "CreatedDate": "2026-01-13T09:20:00.000+0000",
    "LastActivityDate": "2026-01-15",
    "Lead_Created__c": "2026-01-05",
    "Account": {"Industry": "Manufacturing", "AnnualRevenue": 640000000, "NumberOfEmployees": 3100},
    "Website_Visits__c": 4,
    "Pricing_Page_Views__c": 3,
    "Email_Opens_30d__c": 3,
    "Webinars_Attended__c": 1,
    "Touches_7d__c": 3,
    "Sales_Activities__c": 7,
}
STALE: dict[str, Any] = {
    "Name": "Corner Print",
    "Amount": 180000,
    "LeadSource": "Outbound",
    "CreatedDate": "2025-12-19T16:00:00.000+0000",
    "LastActivityDate": "2025-12-22",
    "Lead_Created__c": "2025-12-18",
    "Account": {"Industry": "Retail", "AnnualRevenue": 1200000, "NumberOfEmployees": 210},
    "Website_Visits__c": 0,
    "Touches_7d__c": 0,
    "Sales_Activities__c": 1,
}
NAMED = {"two days old, active": WARM, "four weeks old, silent": STALE, "empty record": {}}
EXTREMES: list[dict[str, Any]] = [
    {"Amount": None, "CreatedDate": None, "Account": None},
    {"Amount": -1, "CreatedDate": "soon", "LastActivityDate": "2026-02-30", "Account": {"AnnualRevenue": 1e30}},
    {"Amount": 0.5, "CreatedDate": "2036-01-15T12:00:00Z", "LastActivityDate": "1970-01-01"},
    {**WARM, "CreatedDate": "2026-01-13T23:20:00.123456789+14:00", "attributes": {"type": "Opportunity"}},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of the simulated world and of everything else")
    parser.add_argument("--out", type=Path, default=HERE.parent / "bundles", help="folder of the bundles")
    options = parser.parse_args()

    seen, now = opportunities.simulate(options.seed), dates.parse(NOW)
    parts = {name: [one for one in seen if one.split == name] for name in ("train", "valid", "test")}
    entries = learnt.read("opportunity.yaml")
    spec = FeatureSpec(entries)
    rows = {name: spec.matrix([one.record for one in part], now) for name, part in parts.items()}
    won = {name: np.asarray([one.won for one in part], dtype=np.int64) for name, part in parts.items()}

    fitted = fit(rows, won, spec.column_names(), options.seed)
    model, output = forest.trees_to_onnx(fitted, spec.width, NAME), {"name": "probabilities", "index": 1}
    scores = measures.checked(model, output, rows["test"], fitted.predict_proba(rows["test"])[:, 1])[:, 0]
    other = baseline(rows, won)
    metrics = measures.binary(won["test"], scores) | {"baselineAuc": other["auc"]}
    trained_on = {"dataset": "leadforge 1.0.0", "licence": "MIT", "seed": options.seed, "split": SPLIT}
    made = bundle.Bundle(
        NAME, VERSION, model, output, entries, metrics, trained_on, SCRIPT, object="Opportunity", trained=rows["train"]
    )
    samples = [*NAMED.values(), *EXTREMES, *(one.record for one in parts["test"][:SAMPLES])]
    judge = bundle.write(options.out / NAME, made, samples, options.seed)

    complete = judge.scorer.scores(spec.matrix([one.complete for one in parts["test"]], now))
    examples = judge.scorer.scores(spec.matrix(NAMED.values(), now))
    text = rendered(
        made,
        {name: len(part) for name, part in parts.items()},
        won["test"],
        scores,
        {"complete": measures.binary(won["test"], complete), "logistic": other},
        {name: f"{score:.3f}" for name, score in zip(NAMED, examples, strict=True)},
        importance(spec, fitted),
    )
    (options.out / NAME / "CARD.md").write_text(text, encoding="utf-8")
    tracking.log(options.out / NAME, made, {"trees": fitted.booster_.num_trees()})
    print(NAME, metrics)


def fit(
    rows: dict[str, np.ndarray], won: dict[str, np.ndarray], columns: list[str], seed: int
) -> lightgbm.LGBMClassifier:
    chosen = {"n_estimators": 300, "learning_rate": 0.05, "min_child_samples": 100, "colsample_bytree": 0.6}
    train, valid = ((rows[part], won[part]) for part in ("train", "valid"))
    return trees.fit(train, valid, columns, (RISING, FALLING), seed, **chosen)


def baseline(rows: dict[str, np.ndarray], won: dict[str, np.ndarray]) -> dict[str, float]:
    """A logistic regression on the same columns, gaps filled with the medians."""
    median = np.nanmedian(rows["train"], axis=0)
    filled = {name: np.where(np.isnan(part), median, part) for name, part in rows.items()}
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)).fit(filled["train"], won["train"])
    return measures.binary(won["test"], model.predict_proba(filled["test"])[:, 1])


def importance(spec: FeatureSpec, fitted: lightgbm.LGBMClassifier) -> str:
    gain = fitted.booster_.feature_importance("gain")
    order = np.argsort(-gain, kind="stable")[:6]
    return ", ".join(f"`{spec.column_names()[column]}` {gain[column] / gain.sum():.0%}" for column in order)


def rendered(
    made: bundle.Bundle,
    counts: dict[str, int],
    won: np.ndarray,
    scores: np.ndarray,
    others: dict[str, dict[str, float]],
    examples: dict[str, str],
    weights: str,
) -> str:
    error, table = measures.calibration(won, scores)
    line = "| {} | {auc:.4f} | {logLoss:.4f} | {brier:.4f} | {} |"
    quality = [
        "| | AUC | log loss | Brier | calibration error |",
        "|---|---|---|---|---|",
        line.format("this model", f"{error:.4f}", **made.metrics),
        line.format("this model, records without gaps", "", **others["complete"]),
        line.format("logistic regression on the same columns", "", **others["logistic"]),
        measures.base_rate_row(won),
        "",
        f"{len(won):,} opportunities; one standard error of the AUC is about {measures.auc_error(won, made.metrics['auc']):.3f}. The signal is weak by design of the data.",
        f"Columns that weigh most (share of split gain): {weights}.",
        "",
        "Age weighs most, and upwards: in this world nothing is won in the first weeks, and what is still open then is nearer to its end.",
        "More activity never lowers the score, a longer silence never raises it: the trees are constrained.",
        "",
        "Calibration, test opportunities in tenths by score:",
        "",
        "| mean score | won |",
        "|---|---|",
        table,
    ]
    return card.Card(
        bundle=made,
        purpose=f"""The probability that an open opportunity is won within {opportunities.OUTCOME_DAYS} days, from one Salesforce Opportunity record: gradient
boosted trees (LightGBM). The moment of the request counts: ages are read from dates.""",
        synthetic="**entirely.** No real person or company is in it.",
        data=f"""PyPI `leadforge` 1.0.0 (MIT), the simulated world of `lead-score`: each opportunity is seen once, on a random day of its first {opportunities.LAST_SNAPSHOT_DAY + 1}, while it is open, with
the events up to that day. Only days that leave {opportunities.OUTCOME_DAYS} days of simulation count. The stage is not used: leadforge knows only the last one, which is the outcome.
Dates are moved so that all are seen at {NOW}. Each field is absent in {opportunities.FIELD_ABSENT:.0%} of the records; revenue and headcount are drawn within leadforge's bands.

Split by account: {counts["train"]:,} train, {counts["valid"]:,} validate (number of trees), {counts["test"]:,} test.""",
        quality="\n".join(quality),
        examples={f"{name}, seen at {NOW}": score for name, score in examples.items()},
        limits=[
            "The same record scores differently tomorrow: opportunities that stay open age.",
            f"Ages beyond {opportunities.LAST_SNAPSHOT_DAY} days were never seen; the trees treat them like the oldest they know.",
            "A real pipeline has stages, a close date and a history: train on them.",
        ],
    ).render()


if __name__ == "__main__":
    main()
