"""Scores random records with onnxruntime, for tests that compare the gateway against it."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import yaml

import random_records
from foregate_features import FeatureSpec
from scorer import Scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder with model.yaml, model.onnx, golden.json")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="one JSON line a record: record, features, score")
    options = parser.parse_args()

    document = yaml.safe_load((options.bundle / "model.yaml").read_text(encoding="utf-8"))
    golden = json.loads((options.bundle / document["files"]["golden"]["path"]).read_text(encoding="utf-8"))
    known = [vector["record"] for vector in golden["vectors"]]
    model = (options.bundle / document["files"]["model"]["path"]).read_bytes()

    draw = random.Random(options.seed)
    records = [random_records.record(document["features"], known, draw) for _ in range(options.rows)]
    features = FeatureSpec.load(options.bundle / "model.yaml").matrix(records)
    scores = Scorer(model, document["output"]).scores(features)
    if not np.isfinite(scores).all():
        raise SystemExit("a score is not finite")
    with options.out.open("w", encoding="utf-8") as out:
        for record, row, score in zip(records, features, scores, strict=True):
            content = {"record": record, "features": floats(row), "score": float(score)}
            out.write(random_records.line(content, draw) + "\n")


def floats(row: np.ndarray) -> list[float | None]:
    """Shortest decimal that reads back as the same float32; null for NaN."""
    return [None if np.isnan(value) else float(str(value)) for value in row]


if __name__ == "__main__":
    main()
