"""Trains the lead score on leadforge data and writes both model bundles."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bundle
import forest
import graphs
import lead_card
import lead_examples
import lead_models
import leads
import learnt
import measures
import tracking
from foregate_features import FeatureSpec
from oracle import Judge

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
DATASET = "leadforge 1.0.0"
SPLIT = "by account (sha256 of its id): 65 train, 15 valid, 20 test"
SCRIPT = "train_lead.py"
SAMPLES = 40


@dataclass(frozen=True)
class Split:
    records: list[dict[str, Any]]
    complete: list[dict[str, Any]]
    won: np.ndarray

    @classmethod
    def of(cls, seen: Sequence[leads.Lead], name: str) -> Split:
        part = [lead for lead in seen if lead.split == name]
        won = np.asarray([lead.won for lead in part], dtype=np.int64)
        return cls([lead.record for lead in part], [lead.complete for lead in part], won)


@dataclass(frozen=True)
class Trained:
    """A fitted model as a bundle, with its scores of the test leads and the weight of each column."""

    bundle: bundle.Bundle
    kind: str
    scores: np.ndarray
    weights: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of the simulated world and of everything else")
    parser.add_argument("--out", type=Path, default=HERE.parent / "bundles", help="folder of the bundles")
    options = parser.parse_args()

    trees_entries = learnt.read("trees.yaml")
    titles = next(entry["ordinal"] for entry in trees_entries if entry["name"] == "title_level")
    seen = leads.simulate(options.seed, titles)
    train, valid, test = (Split.of(seen, name) for name in ("train", "valid", "test"))
    rows = {"train": len(train.won), "valid": len(valid.won), "test": len(test.won)}
    trained_on = {"dataset": DATASET, "licence": "MIT", "seed": options.seed, "split": SPLIT}

    logistic_entries = learnt.fill(learnt.read("logistic.yaml"), train.records)
    logistic = train_logistic(logistic_entries, train, test, trained_on)
    trees = train_trees(trees_entries, (train, valid, test), logistic.bundle.metrics["auc"], trained_on)

    for model, other in ((trees, logistic), (logistic, trees)):
        folder = options.out / model.bundle.name
        golden = [*lead_examples.NAMED.values(), *lead_examples.EXTREMES, *test.records[:SAMPLES]]
        judge = bundle.write(folder, model.bundle, golden, options.seed)
        spec = FeatureSpec.load(folder / "model.yaml")
        facts = lead_card.Facts(
            bundle=model.bundle,
            kind=model.kind,
            rows=rows,
            won=test.won,
            scores=model.scores,
            complete=measures.binary(test.won, judge.scorer.scores(spec.matrix(test.complete))),
            other=other.bundle.metrics,
            examples=examples(spec, judge),
            columns=spec.column_names(),
            weights=model.weights,
        )
        (folder / "CARD.md").write_text(lead_card.render(facts), encoding="utf-8")
        tracking.log(folder, model.bundle, {"kind": model.kind} | {f"rows.{part}": n for part, n in rows.items()})
        print(model.bundle.name, model.bundle.metrics, facts.examples)


def train_trees(
    features: list[dict[str, Any]],
    splits: tuple[Split, Split, Split],
    baseline_auc: float,
    trained_on: dict[str, Any],
) -> Trained:
    spec = FeatureSpec(features)
    train, valid, test = splits
    fit_rows = (spec.matrix(train.records), train.won)
    valid_rows = (spec.matrix(valid.records), valid.won)
    fitted = lead_models.fit_trees(fit_rows, valid_rows, spec.column_names(), trained_on["seed"])
    model, output = forest.trees_to_onnx(fitted, spec.width, "lead-score"), {"name": "probabilities", "index": 1}
    unseen = spec.matrix(test.records)
    scores = measures.checked(model, output, unseen, fitted.predict_proba(unseen)[:, 1])[:, 0]
    metrics = measures.binary(test.won, scores) | {"baselineAuc": baseline_auc}
    made = bundle.Bundle(
        "lead-score", VERSION, model, output, features, metrics, trained_on, SCRIPT, trained=fit_rows[0]
    )
    kind = f"gradient boosted trees (LightGBM, {fitted.booster_.num_trees()} trees of at most 8 leaves)"
    return Trained(made, kind, scores, fitted.booster_.feature_importance("gain"))


def train_logistic(features: list[dict[str, Any]], train: Split, test: Split, trained_on: dict[str, Any]) -> Trained:
    spec = FeatureSpec(features)
    rows = spec.matrix(train.records)
    fitted = lead_models.fit_logistic((rows, train.won))
    fitted.coef_, fitted.intercept_ = graphs.rounded(fitted.coef_), graphs.rounded(fitted.intercept_)
    model, output = (
        graphs.linear(fitted.coef_.T, fitted.intercept_, "probability", "lead-score-logistic"),
        {"name": "probability", "index": 0},
    )
    unseen = spec.matrix(test.records)
    scores = measures.checked(model, output, unseen, fitted.predict_proba(unseen)[:, 1])[:, 0]
    metrics = measures.binary(test.won, scores)
    made = bundle.Bundle(
        name="lead-score-logistic",
        version=VERSION,
        model=model,
        output=output,
        features=features,
        metrics=metrics,
        trained_on=trained_on,
        script=SCRIPT,
        # Reasons are told against the average lead of the training accounts.
        baseline=[learnt.six_digits(mean) for mean in rows.mean(axis=0, dtype=np.float64)],
        trained=rows,
    )
    kind = "logistic regression, the baseline of `lead-score`"
    return Trained(made, kind, scores, np.abs(fitted.coef_[0]))


def examples(spec: FeatureSpec, judge: Judge) -> dict[str, float]:
    named = lead_examples.NAMED | {"empty record": {}}
    scores = judge.scorer.scores(spec.matrix(named.values()))
    return {name: round(float(score), 3) for name, score in zip(named, scores, strict=True)}


if __name__ == "__main__":
    main()
