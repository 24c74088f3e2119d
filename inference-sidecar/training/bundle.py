"""Writes a model bundle: model.onnx, golden.json, model.yaml and CARD.md, byte for byte repeatable."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import yaml

import random_records
from foregate_features import FeatureSpec
from oracle import shortest
from scorer import Scorer

NORTHWIND = {
    "FirstName": "Maya",
    "LastName": "Okafor",
    "Company": "Northwind Freight",
    "Title": "VP Operations",
    "Email": "maya.okafor@northwind.example",
    "Industry": "Transportation",
    "LeadSource": "Web",
    "AnnualRevenue": 18500000,
    "NumberOfEmployees": 240,
    "Country": "US",
    "Website_Visits__c": 14,
    "Days_Since_Last_Activity__c": 2,
    "Email_Opens_30d__c": 5,
}
STRONG = {
    "LastName": "Strand",
    "Company": "Harbor Mills",
    "Title": "CFO",
    "Industry": "Manufacturing",
    "LeadSource": "Partner Referral",
    "AnnualRevenue": 640000000,
    "NumberOfEmployees": 3100,
    "Country": "US",
    "Website_Visits__c": 5,
    "Page_Views_30d__c": 31,
    "Pricing_Page_Views__c": 4,
    "Session_Minutes__c": 28.5,
    "Viewed_Demo__c": True,
    "Email_Opens_30d__c": 4,
    "Content_Downloads__c": 3,
    "Webinars_Attended__c": 2,
    "Touches_7d__c": 3,
    "Sales_Activities__c": 7,
    "Days_Since_Last_Activity__c": 0,
    "Lead_Age_Days__c": 28,
}
WEAK = {
    "LastName": "Quill",
    "Company": "Corner Print",
    "Title": "Coordinator",
    "Industry": "Retail",
    "LeadSource": "Outbound",
    "AnnualRevenue": 1200000,
    "NumberOfEmployees": 210,
    "Country": "GB",
    "Website_Visits__c": 0,
    "Email_Opens_30d__c": 0,
    "Sales_Activities__c": 0,
    "Days_Since_Last_Activity__c": 19,
    "Lead_Age_Days__c": 20,
}
EXTREMES: list[dict[str, Any]] = [
    {},
    {"AnnualRevenue": None, "Title": None, "Viewed_Demo__c": None, "Country": None},
    {"AnnualRevenue": -5, "NumberOfEmployees": 1e30, "Website_Visits__c": 1e15, "Days_Since_Last_Activity__c": -3},
    {"Title": "Größter Chef 🚚", "Industry": "", "LeadSource": "web", "Country": "us"},
    {**STRONG, "AnnualRevenue": 123456789012345678901, "Lead_Age_Days__c": 0.25},
    {"Tags__c": [{"Title": "CEO"}], "Nested__c": {"Industry": "Healthcare"}, "Title": "CEO"},
]
RANDOM_VECTORS = 20


@dataclass(frozen=True)
class Bundle:
    name: str
    version: str
    model: onnx.ModelProto
    output: dict[str, Any]
    features: list[dict[str, Any]]
    metrics: dict[str, float]
    trained_on: dict[str, Any]


def write(folder: Path, bundle: Bundle, samples: Sequence[Mapping[str, Any]], seed: int) -> Scorer:
    """`samples` are unseen leads, which become golden vectors beside the named and the random ones."""
    folder.mkdir(parents=True, exist_ok=True)
    model = bundle.model.SerializeToString(deterministic=True)
    scorer = Scorer(model, bundle.output)
    spec = FeatureSpec(bundle.features)
    golden = golden_vectors(spec, scorer, bundle.features, samples, seed)
    yaml_text = model_yaml(bundle, spec.width, {"model": ("model.onnx", model), "golden": ("golden.json", golden)})
    (folder / "model.onnx").write_bytes(model)
    (folder / "golden.json").write_bytes(golden)
    (folder / "model.yaml").write_text(yaml_text, encoding="utf-8")
    return scorer


def golden_vectors(
    spec: FeatureSpec, scorer: Scorer, entries: list[dict[str, Any]], samples: Sequence[Mapping[str, Any]], seed: int
) -> bytes:
    draw = random.Random(seed)
    records: list[Mapping[str, Any]] = [NORTHWIND, STRONG, WEAK, *EXTREMES, *samples]
    read = random_records.members(entries, {})
    records += [random_records.record(records, read, draw) for _ in range(RANDOM_VECTORS)]
    features = spec.matrix(records)
    rows = zip(records, features, scorer.scores(features), strict=True)
    vectors = [
        {"record": record, "features": [shortest(x) for x in row], "score": shortest(score)}
        for record, row, score in rows
    ]
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False, allow_nan=False) for vector in vectors)
    return f'{{"vectors": [\n{lines}\n]}}\n'.encode()


def model_yaml(bundle: Bundle, width: int, files: Mapping[str, tuple[str, bytes]]) -> str:
    head = {
        "apiVersion": "foregate.dev/v1alpha1",
        "kind": "ModelBundle",
        "name": bundle.name,
        "object": "Lead",
        "task": "classification",
        "files": {
            key: {"path": path, "sha256": hashlib.sha256(data).hexdigest()} for key, (path, data) in files.items()
        },
        "input": {"name": "features", "width": width},
        "output": bundle.output,
        "metrics": bundle.metrics,
        "trainedOn": bundle.trained_on,
    }
    lines = ["# Written by inference-sidecar/training/train_lead.py."]
    for key, value in head.items():
        lines.append(f"{key}: {flow(value)}")
        if key == "name":
            lines.append(f'version: "{bundle.version}"')
    lines.append("features:")
    lines += [f"- {flow(entry)}" for entry in bundle.features]
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """YAML flow style on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
