"""Scores random records with onnxruntime, for tests that compare the gateway against it."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import dates
import random_records
from foregate_features import FeatureSpec
from scorer import Scorer, top
from tables import Table

NOW = "2026-01-15T12:00:00Z"
MODEL_YAML = "model.yaml"
WIDE = 256  # columns; wider rows are written sparse
BATCH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of a bundle, or a file with `features` alone")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="one JSON line a record: record, features, result")
    options = parser.parse_args()

    folder = options.bundle if options.bundle.is_dir() else None
    path = folder / MODEL_YAML if folder else options.bundle
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec, known, judge = FeatureSpec.load(path), [], None
    if folder:
        golden = json.loads((folder / document["files"]["golden"]["path"]).read_text(encoding="utf-8"))
        known = [vector["record"] for vector in golden["vectors"]]
        judge = Judge.load(folder, document)

    draw, kind = random.Random(options.seed), document.get("object", "Lead")
    read = random_records.members(document["features"], table_keys(path.parent, document))
    now = NOW if spec.reads_now else None
    with options.out.open("w", encoding="utf-8") as out:
        for start in range(0, options.rows, BATCH):
            count = min(BATCH, options.rows - start)
            records = [random_records.record(known, read, draw, kind) for _ in range(count)]
            for content in lines(spec, judge, records, now):
                out.write(random_records.line(content, draw) + "\n")


def lines(
    spec: FeatureSpec, judge: Judge | None, records: list[dict[str, Any]], now: str | None, wide: int = WIDE
) -> list[dict[str, Any]]:
    """Record, features and result of each, as they stand in oracle lines and golden vectors."""
    features = spec.matrix(records, dates.parse(now) if now else None)
    results = judge.results(features) if judge else [{} for _ in records]
    moment = {"now": now} if now else {}
    return [
        moment | {"record": record} | written(row, wide) | result
        for record, row, result in zip(records, features, results, strict=True)
    ]


class Judge:
    """A model with its output: features in, the result of each record out."""

    def __init__(self, model: bytes, output: Mapping[str, Any], ranking: tuple[Table, str, int] | None = None) -> None:
        self.scorer = Scorer(model, output)
        self.ranking = ranking

    @classmethod
    def load(cls, folder: Path, document: Mapping[str, Any]) -> Judge:
        model = (folder / document["files"]["model"]["path"]).read_bytes()
        items = document.get("items")
        if not items:
            return cls(model, document["output"])
        table = Table.parse((folder / document["files"]["tables"][items["table"]]["path"]).read_bytes())
        return cls(model, document["output"], (table, items["column"], items["k"]))

    def results(self, features: np.ndarray) -> list[dict[str, Any]]:
        columns = self.scorer.columns(features)
        if not np.isfinite(columns).all():
            raise SystemExit("a score is not finite")
        if "index" in self.scorer.output:
            return [{"score": shortest(row[0])} for row in columns]
        scored = [{"scores": [shortest(value) for value in row]} for row in columns]
        if not self.ranking:
            return scored
        table, column, count = self.ranking
        keys, best = table.keys(), top(columns, table.matrix(column), count)
        return [result | {"items": [keys[at] for at in row]} for result, row in zip(scored, best, strict=True)]

    def scores(self, features: np.ndarray) -> np.ndarray:
        """The one score of each record: of classes that of the likeliest, of items the best, of a vector its length."""
        columns = self.scorer.columns(features)
        if self.ranking:
            table, column, _ = self.ranking
            return (columns @ table.matrix(column).T).max(axis=1)
        if "index" in self.scorer.output or "labels" in self.scorer.output:
            return columns.max(axis=1)
        return np.linalg.norm(columns, axis=1)


def table_keys(folder: Path, document: Mapping[str, Any]) -> dict[str, list[str]]:
    files = document.get("files", {}).get("tables", {})
    return {name: Table.parse((folder / file["path"]).read_bytes()).keys() for name, file in files.items()}


def written(row: np.ndarray, wide: int) -> dict[str, Any]:
    if len(row) <= wide:
        return {"features": [shortest(value) for value in row]}
    return {"sparse": [[int(column), shortest(row[column])] for column in np.flatnonzero(row)]}


def shortest(value: np.float32) -> float | None:
    """The shortest decimal that reads back as the same float32; null for NaN."""
    return None if np.isnan(value) else float(str(value))


if __name__ == "__main__":
    main()
