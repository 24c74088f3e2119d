"""Feature specs as written, and what is learnt from training records filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foregate_features import FeatureSpec

FOLDER = Path(__file__).resolve().parent / "specs"


def read(name: str) -> list[dict[str, Any]]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["features"]


def fill(spec: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fills every `learn` from the training records: the median for impute, then mean and deviation."""
    return [learnt_entry(entry, records) if "learn" in entry.values() else entry for entry in spec]


def learnt_entry(entry: dict[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    bare = {key: entry[key] for key in ("name", "pointer", "type", "lenient") if key in entry} | {"missing": "nan"}
    present = FeatureSpec([bare]).matrix(records)
    filled = entry | {"impute": six_digits(np.nanmedian(present))}
    if entry.get("scale") == "learn":
        unscaled = {key: value for key, value in filled.items() if key != "scale"}
        values = FeatureSpec([unscaled]).matrix(records).astype(np.float64)
        filled["scale"] = {"mean": six_digits(values.mean()), "std": six_digits(values.std())}
    return filled


def six_digits(x: float) -> float:
    return float(f"{x:.6g}")
