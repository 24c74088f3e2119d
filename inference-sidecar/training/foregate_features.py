"""Feature spec of a model bundle, applied to JSON records as the gateway does.

Training, golden vectors and the oracle all compute features here, from the `features` list of
`model.yaml`; the Rust loader reads the same list. All arithmetic is float64, cast to float32 at the end.
FEATURES.md says in words what each entry does.
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

import dates
import texts
from tables import Table

Json = Any
Encode = Callable[[Any], list[float]]
Read = Callable[[Json, dates.Moment | None], Any]
# Rows of a feature store by key, as they were known at the moment of the record: columns that are absent are left out.
Store = Mapping[str, Mapping[str, float]]

FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_WIDTH = 4_096
ARRAY_INDEX = re.compile(r"0|[1-9][0-9]*", re.ASCII)
JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)

COMMON_KEYS = {"name", "label", "pointer", "type", "lenient", "default", "pii"}
NUMBER_KEYS = COMMON_KEYS | {"impute", "missing", "log", "scale", "bucket"}
KEYS_BY_TYPE = {
    "number": NUMBER_KEYS | {"store"},
    "date": NUMBER_KEYS | {"since", "until", "unit"},
    "string": COMMON_KEYS | {"oneHot", "ordinal", "otherwise", "hash", "lookup"},
    "text": COMMON_KEYS | {"also", "normalize", "ngrams"},
    "boolean": COMMON_KEYS,
}


class SpecError(ValueError):
    """The feature spec itself is not valid."""


class FeatureFault(ValueError):
    """A record from which the features cannot be computed; it has no score."""


@dataclass(frozen=True)
class Feature:
    """One entry of the spec: how its value is read, and how it becomes `width` columns."""

    name: str
    read: Read
    absent: Any
    required: bool
    width: int
    encode: Encode
    entry: Mapping[str, Any]

    def columns(self, record: Json, now: dates.Moment | None) -> list[float]:
        value = self.read(record, now)
        if value is None:
            if self.required:
                raise FeatureFault(f"{self.name}: required, but absent")
            value = self.absent
        return self.encode(value)


class FeatureSpec:
    """The compiled `features` list: records in, rows of float32 out."""

    def __init__(
        self,
        entries: Iterable[Mapping[str, Any]],
        tables: Mapping[str, Table] | None = None,
        store: Store | None = None,
    ) -> None:
        self.features = [compile_feature(entry, tables or {}, store or {}) for entry in entries]
        self.width = sum(feature.width for feature in self.features)
        if self.width > MAX_WIDTH:
            raise SpecError(f"{self.width} columns, {MAX_WIDTH} at most")

    @classmethod
    def load(cls, path: Path) -> FeatureSpec:
        """Reads `model.yaml`, or a file that holds only `features`."""
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        files = document.get("files", {}).get("tables", {})
        tables = {name: Table.parse((path.parent / file["path"]).read_bytes()) for name, file in files.items()}
        spec = cls(document["features"], tables)
        declared = document.get("input", {}).get("width", spec.width)
        if declared != spec.width:
            raise SpecError(f"{path}: input.width is {declared}, the features give {spec.width} columns")
        return spec

    @property
    def reads_now(self) -> bool:
        return any("now" in (feature.entry.get("since"), feature.entry.get("until")) for feature in self.features)

    def row(self, record: Json, now: dates.Moment | None = None) -> list[float]:
        """`now` is the moment of the request. Raises FeatureFault where the record cannot be scored."""
        return [float(value) for value in self.cells(record, now)]

    def cells(self, record: Json, now: dates.Moment | None) -> np.ndarray:
        """The row as float32."""
        columns = [column for feature in self.features for column in feature.columns(record, now)]
        cells = np.asarray(columns, dtype=np.float64)
        if (np.abs(cells) > FLOAT32_MAX).any():
            raise FeatureFault("a feature is beyond float32")
        return cells.astype(np.float32)

    def matrix(self, records: Iterable[Json], now: dates.Moment | None = None) -> np.ndarray:
        rows = [self.cells(record, now) for record in records]
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), self.width)

    def column_names(self) -> list[str]:
        """One readable name per tensor column."""
        return [name for feature in self.features for name in feature_columns(feature)]


def compile_feature(entry: Mapping[str, Any], tables: Mapping[str, Table], store: Store) -> Feature:
    name, kind = entry["name"], entry["type"]
    if kind not in KEYS_BY_TYPE:
        raise SpecError(f"{name}: unknown type {kind}")
    unknown = set(entry) - KEYS_BY_TYPE[kind]
    if unknown:
        raise SpecError(f"{name}: {sorted(unknown)} not allowed for a {kind}")
    sources = [key for key in ("default", "impute", "missing") if key in entry]
    if len(sources) > 1:
        raise SpecError(f"{name}: only one of {sources}")
    if "store" in entry:
        if not sources or entry.get("lenient"):
            raise SpecError(f"{name}: what is looked up needs a default, impute or missing, and is never lenient")
        read = store_reader(entry, store)
    else:
        read = {"date": date_reader, "text": text_reader}.get(kind, scalar_reader)(entry)
    if kind == "string":
        width, encode = string(entry, tables)
    else:
        width, encode = {"number": number, "date": number, "text": text, "boolean": boolean}[kind](entry)
    return Feature(
        name=name,
        read=read,
        absent=absent_value(entry),
        required=not sources,
        width=width,
        encode=encode,
        entry=entry,
    )


def scalar_reader(entry: Mapping[str, Any]) -> Read:
    tokens = pointer_tokens(entry["pointer"])
    return lambda record, _now: typed(entry, entry["type"], resolve(record, tokens))


def store_reader(entry: Mapping[str, Any], store: Store) -> Read:
    """The column of the row whose key the record names; None where there is no such row or cell."""
    tokens, column = pointer_tokens(entry["pointer"]), entry["store"]["column"]

    def read(record: Json, _now: dates.Moment | None) -> float | None:
        key = resolve(record, tokens)
        if isinstance(key, bool) or not isinstance(key, str | int):
            return None
        return store.get(str(key), {}).get(column)

    return read


def date_reader(entry: Mapping[str, Any]) -> Read:
    """The time between two moments, in units; None where one of them is absent."""
    ends = [key for key in ("since", "until") if key in entry]
    if len(ends) != 1:
        raise SpecError(f"{entry['name']}: exactly one of since, until")
    unit, other = dates.UNITS[entry.get("unit", "days")], entry[ends[0]]
    tokens = pointer_tokens(entry["pointer"])
    others = None if other == "now" else pointer_tokens(other)

    def read(record: Json, now: dates.Moment | None) -> float | None:
        value = typed(entry, "date", resolve(record, tokens))
        end = now if others is None else typed(entry, "date", resolve(record, others))
        if others is None and now is None:
            raise ValueError(f"{entry['name']}: reads the moment of the request, none was given")
        if value is None or end is None:
            return None
        return value.since(end, unit) if "since" in entry else end.since(value, unit)

    return read


def text_reader(entry: Mapping[str, Any]) -> Read:
    """The fields that are present; None where none is."""
    pointers = [pointer_tokens(pointer) for pointer in (entry["pointer"], *entry.get("also", ()))]

    def read(record: Json, _now: dates.Moment | None) -> list[str] | None:
        values = [typed(entry, "string", resolve(record, tokens)) for tokens in pointers]
        return [value for value in values if value is not None] or None

    return read


def typed(entry: Mapping[str, Any], kind: str, value: Json) -> Any:
    """The value in the type asked for; None where it counts as absent."""
    name, lenient = entry["name"], entry.get("lenient", False)
    if value is None:
        return None
    if kind == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return as_float(name, value)
    if kind == "number" and lenient and isinstance(value, str):
        value = value.strip(" \t\r\n")
        return as_float(name, value) if JSON_NUMBER.fullmatch(value) else None
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "date" and isinstance(value, str) and (moment := dates.parse(value)) is not None:
        return moment
    if lenient:
        return None
    raise FeatureFault(f"{name}: expected {kind}, found {type(value).__name__}")


def as_float(name: str, value: float | str) -> float:
    try:
        return finite(name, float(value))
    except OverflowError as error:
        raise FeatureFault(f"{name}: number beyond float64") from error


def absent_value(entry: Mapping[str, Any]) -> Any:
    if "missing" in entry:
        if entry["missing"] not in ("nan",) or "bucket" in entry:
            raise SpecError(f"{entry['name']}: `missing` is only `nan`, and not with a bucket")
        return math.nan
    if entry["type"] in ("number", "date") and ("default" in entry or "impute" in entry):
        return float(entry.get("default", entry.get("impute")))
    return [entry["default"]] if entry["type"] == "text" and "default" in entry else entry.get("default")


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


def string(entry: Mapping[str, Any], tables: Mapping[str, Table]) -> tuple[int, Encode]:
    name = entry["name"]
    endings = [key for key in ("oneHot", "ordinal", "hash", "lookup") if key in entry]
    if len(endings) != 1:
        raise SpecError(f"{name}: a string ends in exactly one of oneHot, ordinal, hash, lookup")
    if "lookup" in entry:
        return lookup(name, entry["lookup"], tables)
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
    return buckets, lambda s: one_of(buckets, texts.fnv1a64(s.encode()) % buckets if s else None)


def lookup(name: str, entry: Mapping[str, Any], tables: Mapping[str, Table]) -> tuple[int, Encode]:
    """The cells of one row of a table; `default` in every column where the key is unknown."""
    table, column, width = tables.get(entry["table"]), entry["column"], int(entry["width"])
    if table is None:
        raise SpecError(f"{name}: the bundle has no table {entry['table']}")
    if table.columns.get(column) != width:
        raise SpecError(f"{name}: the table has no column {column} of width {width}")
    default = [float(entry.get("default", 0.0))] * width
    rows = {key: [float(cell) for cell in row[column]] for key, row in table.rows.items()}
    return width, lambda s: rows.get(s, default)


def text(entry: Mapping[str, Any]) -> tuple[int, Encode]:
    name, rules, normalize = entry["name"], entry["ngrams"], entry.get("normalize", {})
    if unknown := (set(rules) - {"words", "chars", "buckets", "tf", "norm"}) | (
        set(normalize) - {"lower", "unaccent", "digits"}
    ):
        raise SpecError(f"{name}: unknown {sorted(unknown)}")
    ranges = [rules[key] for key in ("words", "chars") if key in rules]
    if not ranges or not all(1 <= low <= high <= 8 for low, high in ranges):
        raise SpecError(f"{name}: words or chars, from 1 to 8")
    if normalize.get("unaccent", False) and not normalize.get("lower", False):
        raise SpecError(f"{name}: unaccent needs lower")
    digit = normalize.get("digits", "0")
    if len(digit) != 1 or not digit.isascii() or not digit.isalnum():
        raise SpecError(f"{name}: digits is one ASCII letter or digit")
    if rules.get("tf", "raw") not in ("raw", "log", "binary") or rules.get("norm", "none") not in ("none", "l2"):
        raise SpecError(f"{name}: tf is raw, log or binary; norm is none or l2")
    return int(rules["buckets"]), lambda fields: texts.hashed(fields, normalize, rules)


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
