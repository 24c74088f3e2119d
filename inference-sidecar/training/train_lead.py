"""Trains the lead score on leadforge data and writes both model bundles."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

import bundle
import card
import leads
import models
from foregate_features import FeatureSpec
from scorer import Scorer

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
DATASET = "leadforge 1.0.0"
SPLIT = "by account (sha256 of its id): 65 train, 15 valid, 20 test"
SAMPLES = 40
PARITY = 1e-6  # ONNX against the library it came from


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

    trees_entries = entries(HERE / "specs" / "trees.yaml")
    titles = next(entry["ordinal"] for entry in trees_entries if entry["name"] == "title_level")
    seen = leads.simulate(options.seed, titles)
    train, valid, test = (Split.of(seen, name) for name in ("train", "valid", "test"))
    rows = {"train": len(train.won), "valid": len(valid.won), "test": len(test.won)}
    trained_on = {"dataset": DATASET, "licence": "MIT", "seed": options.seed, "split": SPLIT}

    logistic_entries = learnt(entries(HERE / "specs" / "logistic.yaml"), train.records)
    logistic = train_logistic(logistic_entries, train, test, trained_on)
    trees = train_trees(trees_entries, (train, valid, test), logistic.bundle.metrics["auc"], trained_on)

    for model, other in ((trees, logistic), (logistic, trees)):
        folder = options.out / model.bundle.name
        scorer = bundle.write(folder, model.bundle, test.records[:SAMPLES], options.seed)
        spec = FeatureSpec.load(folder / "model.yaml")
        facts = card.Facts(
            bundle=model.bundle,
            kind=model.kind,
            rows=rows,
            won=test.won,
            scores=model.scores,
            complete=measured(test.won, scorer.scores(spec.matrix(test.complete))),
            other=other.bundle.metrics,
            examples=examples(spec, scorer),
            columns=spec.column_names(),
            weights=model.weights,
        )
        (folder / "CARD.md").write_text(card.render(facts), encoding="utf-8")
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
    fitted = models.fit_trees(fit_rows, valid_rows, spec.column_names(), trained_on["seed"])
    model, output = models.trees_to_onnx(fitted, spec.width), {"name": "probabilities", "index": 1}
    scores = checked(model, output, spec.matrix(test.records), fitted)
    metrics = measured(test.won, scores) | {"baselineAuc": baseline_auc}
    made = bundle.Bundle("lead-score", VERSION, model, output, features, metrics, trained_on)
    kind = f"gradient boosted trees (LightGBM, {fitted.booster_.num_trees()} trees of at most 8 leaves)"
    return Trained(made, kind, scores, fitted.booster_.feature_importance("gain"))


def train_logistic(features: list[dict[str, Any]], train: Split, test: Split, trained_on: dict[str, Any]) -> Trained:
    spec = FeatureSpec(features)
    fitted = models.fit_logistic((spec.matrix(train.records), train.won))
    model, output = models.logistic_to_onnx(fitted, spec.width), {"name": "probability", "index": 0}
    scores = checked(model, output, spec.matrix(test.records), fitted)
    metrics = measured(test.won, scores)
    made = bundle.Bundle("lead-score-logistic", VERSION, model, output, features, metrics, trained_on)
    kind = "logistic regression, the baseline of `lead-score`"
    return Trained(made, kind, scores, np.abs(fitted.coef_[0]))


def entries(path: Path) -> list[dict[str, Any]]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["features"]


def learnt(spec: list[dict[str, Any]], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fills every `learn` from the training records: the median for impute, then mean and deviation."""
    return [learnt_entry(entry, records) if "learn" in entry.values() else entry for entry in spec]


def learnt_entry(entry: dict[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    bare = {"name": entry["name"], "pointer": entry["pointer"], "type": "number", "missing": "nan"}
    present = FeatureSpec([bare]).matrix(records)
    filled = entry | {"impute": six_digits(np.nanmedian(present))}
    if entry.get("scale") == "learn":
        unscaled = {key: value for key, value in filled.items() if key != "scale"}
        values = FeatureSpec([unscaled]).matrix(records).astype(np.float64)
        filled["scale"] = {"mean": six_digits(values.mean()), "std": six_digits(values.std())}
    return filled


def six_digits(x: float) -> float:
    return float(f"{x:.6g}")


def checked(model: Any, output: Mapping[str, Any], features: np.ndarray, source: Any) -> np.ndarray:
    """Scores of the exported graph, after proof that they are the scores of the trained model."""
    scores = Scorer(model.SerializeToString(deterministic=True), output).scores(features)
    expected = source.predict_proba(features)[:, 1]
    difference = float(np.abs(scores - expected).max())
    if not difference < PARITY:
        raise SystemExit(f"the exported graph differs from the trained model by {difference}")
    return scores.astype(np.float64)


def measured(won: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {
        "auc": round(float(roc_auc_score(won, scores)), 4),
        "logLoss": round(float(log_loss(won, np.asarray(scores, dtype=np.float64))), 4),
        "brier": round(float(brier_score_loss(won, scores)), 4),
        "testRows": len(won),
    }


def examples(spec: FeatureSpec, scorer: Scorer) -> dict[str, float]:
    named = {"Northwind Freight": bundle.NORTHWIND, "strong": bundle.STRONG, "weak": bundle.WEAK, "empty record": {}}
    scores = scorer.scores(spec.matrix(named.values()))
    return {name: round(float(score), 3) for name, score in zip(named, scores, strict=True)}


if __name__ == "__main__":
    main()
