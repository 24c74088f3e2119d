"""Feature spec of a model bundle, applied to JSON records as the gateway does.

Training, golden vectors and the oracle all compute features here, from the `features` list of
`model.yaml`; the Rust loader reads the same list. All arithmetic is float64, cast to float32 at the end.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Json = Any
Encode = Callable[[Any], list[float]]

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
FLOAT32_MAX = float(np.finfo(np.float32).max)
ARRAY_INDEX = re.compile(r"0|[1-9][0-9]*", re.ASCII)

COMMON_KEYS = {"name", "pointer", "type", "lenient", "default"}
KEYS_BY_TYPE = {
    "number": COMMON_KEYS | {"impute", "missing", "log", "scale", "bucket"},
    "string": COMMON_KEYS | {"oneHot", "ordinal", "otherwise", "hash"},
    "boolean": COMMON_KEYS,
}


class SpecError(ValueError):
    """The feature spec itself is not valid."""


class FeatureFault(ValueError):
    """A record from which the features cannot be computed; it has no score."""


@dataclass(frozen=True)
class Feature:
    """One entry of the spec: where the value lies, and how it becomes `width` columns."""

    name: str
    tokens: tuple[str, ...]
    kind: str
    lenient: bool
    absent: Any
    required: bool
    width: int
    encode: Encode
    entry: Mapping[str, Any]

    def columns(self, record: Json) -> list[float]:
        value = self.typed(resolve(record, self.tokens))
        if value is None:
            if self.required:
                raise FeatureFault(f"{self.name}: required, but absent")
            value = self.absent
        return self.encode(value)

    def typed(self, value: Json) -> Any:
        """The value in the type of the feature; None where it counts as absent."""
        if value is None:
            return None
        if self.kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                return finite(self.name, float(value))
            except OverflowError as error:
                raise FeatureFault(f"{self.name}: number beyond float64") from error
        if self.kind == "string" and isinstance(value, str):
            return value
        if self.kind == "boolean" and isinstance(value, bool):
            return value
        if self.lenient:
            return None
        raise FeatureFault(f"{self.name}: expected {self.kind}, found {type(value).__name__}")


class FeatureSpec:
    """The compiled `features` list: records in, rows of float32 out."""

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        self.features = [compile_feature(entry) for entry in entries]
        self.width = sum(feature.width for feature in self.features)

    @classmethod
    def load(cls, path: Path) -> FeatureSpec:
        """Reads `model.yaml`, or a file that holds only `features`."""
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        spec = cls(document["features"])
        declared = document.get("input", {}).get("width", spec.width)
        if declared != spec.width:
            raise SpecError(f"{path}: input.width is {declared}, the features give {spec.width} columns")
        return spec

    def row(self, record: Json) -> list[float]:
        """Raises FeatureFault where the record cannot be scored."""
        columns = [column for feature in self.features for column in feature.columns(record)]
        for column in columns:
            if abs(column) > FLOAT32_MAX:
                raise FeatureFault("a feature is beyond float32")
        return [float(value) for value in np.asarray(columns, dtype=np.float64).astype(np.float32)]

    def matrix(self, records: Iterable[Json]) -> np.ndarray:
        rows = [self.row(record) for record in records]
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), self.width)

    def column_names(self) -> list[str]:
        """One readable name per tensor column."""
        return [name for feature in self.features for name in feature_columns(feature)]


def compile_feature(entry: Mapping[str, Any]) -> Feature:
    name, kind = entry["name"], entry["type"]
    if kind not in KEYS_BY_TYPE:
        raise SpecError(f"{name}: unknown type {kind}")
    unknown = set(entry) - KEYS_BY_TYPE[kind]
    if unknown:
        raise SpecError(f"{name}: {sorted(unknown)} not allowed for a {kind}")
    sources = [key for key in ("default", "impute", "missing") if key in entry]
    if len(sources) > 1:
        raise SpecError(f"{name}: only one of {sources}")
    width, encode = {"number": number, "string": string, "boolean": boolean}[kind](entry)
    return Feature(
        name=name,
        tokens=pointer_tokens(entry["pointer"]),
        kind=kind,
        lenient=entry.get("lenient", False),
        absent=absent_value(entry),
        required=not sources,
        width=width,
        encode=encode,
        entry=entry,
    )


def absent_value(entry: Mapping[str, Any]) -> Any:
    if "missing" in entry:
        if entry["missing"] not in ("nan",) or "bucket" in entry:
            raise SpecError(f"{entry['name']}: `missing` is only `nan`, and not with a bucket")
        return math.nan
    if entry["type"] == "number" and ("default" in entry or "impute" in entry):
        return float(entry.get("default", entry.get("impute")))
    return entry.get("default")


def number(entry: Mapping[str, Any]) -> tuple[int, Encode]:
    name, log = entry["name"], entry.get("log", False)
    if "bucket" in entry:
        if "scale" in entry:
            raise SpecError(f"{name}: scale or bucket, not both")
        edges = [float(edge) for edge in entry["bucket"]["edges"]]
        if sorted(set(edges)) != edges:
            raise SpecError(f"{name}: bucket edges must rise")
        width = len(edges) + 1
        return width, lambda x: one_of(width, bisect_right(edges, log1p(x) if log else x))
    scale = entry.get("scale", {"mean": 0.0, "std": 1.0})
    mean, std = float(scale["mean"]), float(scale["std"])
    if not std > 0.0:
        raise SpecError(f"{name}: scale.std must be above zero")
    if "scale" not in entry:
        return 1, lambda x: [log1p(x) if log else x]
    return 1, lambda x: [((log1p(x) if log else x) - mean) / std]


def string(entry: Mapping[str, Any]) -> tuple[int, Encode]:
    name = entry["name"]
    endings = [key for key in ("oneHot", "ordinal", "hash") if key in entry]
    if len(endings) != 1:
        raise SpecError(f"{name}: a string ends in exactly one of oneHot, ordinal, hash")
    if "oneHot" in entry:
        values, other = entry["oneHot"]["values"], entry["oneHot"].get("other", False)
        index = {value: position for position, value in enumerate(values)}
        width = len(values) + int(other)
        fallback = len(values) if other else None
        return width, lambda s: one_of(width, index.get(s, fallback))
    if "ordinal" in entry:
        order = {key: float(value) for key, value in entry["ordinal"].items()}
        otherwise = float(entry["otherwise"])
        return 1, lambda s: [order.get(s, otherwise)]
    buckets = int(entry["hash"]["buckets"])
    return buckets, lambda s: one_of(buckets, fnv1a64(s.encode()) % buckets if s else None)


def boolean(_entry: Mapping[str, Any]) -> tuple[int, Encode]:
    return 1, lambda flag: [1.0 if flag else 0.0]


def feature_columns(feature: Feature) -> list[str]:
    entry = feature.entry
    if "oneHot" in entry:
        other = ["other"] if entry["oneHot"].get("other", False) else []
        return [f"{feature.name}={value}" for value in [*entry["oneHot"]["values"], *other]]
    if feature.width > 1:
        return [f"{feature.name}[{position}]" for position in range(feature.width)]
    return [feature.name]


def one_of(width: int, position: int | None) -> list[float]:
    return [1.0 if column == position else 0.0 for column in range(width)]


def log1p(x: float) -> float:
    """ln(1+x) with x clamped at 0 from below; NaN stays NaN."""
    return math.log1p(x) if not x < 0.0 else 0.0


def finite(name: str, x: float) -> float:
    if not math.isfinite(x):
        raise FeatureFault(f"{name}: number beyond float64")
    return x


def fnv1a64(data: bytes) -> int:
    state = FNV_OFFSET
    for byte in data:
        state = ((state ^ byte) * FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return state


def pointer_tokens(pointer: str) -> tuple[str, ...]:
    """RFC 6901."""
    if not pointer.startswith("/"):
        raise SpecError(f"{pointer!r} is not a JSON pointer to a member")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/"))


def resolve(record: Json, tokens: tuple[str, ...]) -> Json:
    """The value at the pointer; None where a step is missing."""
    value = record
    for token in tokens:
        if isinstance(value, Mapping):
            value = value.get(token)
        elif isinstance(value, list) and ARRAY_INDEX.fullmatch(token):
            value = value[int(token)] if int(token) < len(value) else None
        else:
            return None
    return value
