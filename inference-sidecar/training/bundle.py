"""Writes a model bundle: model.onnx, tables, golden.json and model.yaml, byte for byte repeatable."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml

import populations
import random_records
from foregate_features import FeatureSpec
from oracle import NOW, Judge, lines
from tables import Table

RANDOM_VECTORS = 20
DENSE = 1 << 20  # golden vectors hold every column


@dataclass(frozen=True)
class Bundle:
    """`items` is the table, column and k of a ranking; `tables` are the bytes of each by name.

    `baseline` is the row that contributions of a linear model are held against. `trained` are the rows of the
    training records: what later records are held against to see whether they have moved.
    """

    name: str
    version: str
    model: onnx.ModelProto
    output: dict[str, Any]
    features: list[dict[str, Any]]
    metrics: dict[str, float]
    trained_on: dict[str, Any]
    script: str
    object: str = "Lead"
    task: str = "classification"
    items: dict[str, Any] | None = None
    baseline: list[float] | None = None
    tables: dict[str, bytes] = field(default_factory=dict)
    trained: np.ndarray | None = None

    def spec(self) -> FeatureSpec:
        return FeatureSpec(self.features, {name: Table.parse(data) for name, data in self.tables.items()})

    def judge(self) -> Judge:
        ranking = None
        if self.items:
            ranking = (Table.parse(self.tables[self.items["table"]]), self.items["column"], self.items["k"])
        return Judge(self.model.SerializeToString(deterministic=True), self.output, ranking)


def write(folder: Path, bundle: Bundle, samples: Sequence[Mapping[str, Any]], seed: int) -> Judge:
    """`samples` become golden vectors, with random ones behind them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model": ("model.onnx", bundle.model.SerializeToString(deterministic=True))}
    files["golden"] = ("golden.json", golden_vectors(bundle, samples, seed))
    if bundle.trained is not None:
        files["reference"] = ("reference.json", populations.reference(bundle.spec(), bundle.judge(), bundle.trained))
    tables = {name: (f"{name}.json", data) for name, data in bundle.tables.items()}
    for path, data in (*files.values(), *tables.values()):
        (folder / path).write_bytes(data)
    (folder / "model.yaml").write_text(model_yaml(bundle, files, tables), encoding="utf-8")
    return bundle.judge()


def golden_vectors(bundle: Bundle, samples: Sequence[Mapping[str, Any]], seed: int) -> bytes:
    draw, spec = random.Random(seed), bundle.spec()
    keys = {name: Table.parse(data).keys() for name, data in bundle.tables.items()}
    read = random_records.members(bundle.features, keys)
    records: list[Any] = list(samples)
    records += [random_records.record(records, read, draw, bundle.object) for _ in range(RANDOM_VECTORS)]
    vectors = lines(spec, bundle.judge(), records, NOW if spec.reads_now else None, DENSE)
    moment = f'"now": "{NOW}", ' if spec.reads_now else ""
    text = ",\n".join(vector_line(vector, spec.width) for vector in vectors)
    return f'{{{moment}"vectors": [\n{text}\n]}}\n'.encode()


def vector_line(vector: dict[str, Any], width: int) -> str:
    """Wide rows are mostly zeros: written short."""
    vector = {key: value for key, value in vector.items() if key != "now"}
    if width <= 100:
        return json.dumps(vector, ensure_ascii=False, allow_nan=False)
    cells = [int(cell) if cell is not None and cell == int(cell) else cell for cell in vector["features"]]
    return json.dumps(vector | {"features": cells}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def model_yaml(bundle: Bundle, files: Mapping[str, tuple[str, bytes]], tables: Mapping[str, tuple[str, bytes]]) -> str:
    named: dict[str, Any] = {key: reference(*file) for key, file in files.items()}
    if tables:
        named["tables"] = {name: reference(*file) for name, file in tables.items()}
    head: dict[str, Any] = {
        "apiVersion": "foregate.dev/v1alpha1",
        "kind": "ModelBundle",
        "name": bundle.name,
        "object": bundle.object,
        "task": bundle.task,
        "files": named,
        "input": {"name": "features", "width": bundle.spec().width},
        "output": bundle.output,
    }
    if bundle.items:
        head["items"] = bundle.items
    if bundle.baseline:
        head["explain"] = {"baseline": bundle.baseline}
    head |= {"metrics": bundle.metrics, "trainedOn": bundle.trained_on}
    text = [f"# Written by inference-sidecar/training/{bundle.script}."]
    for key, value in head.items():
        text.append(f"{key}: {flow(value)}")
        if key == "name":
            text.append(f'version: "{bundle.version}"')
    text.append("features:")
    text += [f"- {flow(entry)}" for entry in bundle.features]
    return "\n".join(text) + "\n"


def reference(path: str, data: bytes) -> dict[str, str]:
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest()}


def flow(value: Any) -> str:
    """YAML flow style on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
