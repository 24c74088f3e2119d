"""Tables of a bundle: rows of numbers by a key, such as embeddings of products."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Table:
    """`columns` maps a name to its width; `rows` keep the order of the file."""

    columns: Mapping[str, int]
    rows: Mapping[str, Mapping[str, Any]]

    @classmethod
    def parse(cls, data: bytes) -> Table:
        """Raises ValueError where the table contradicts itself."""
        document = json.loads(data)
        columns, rows = document["columns"], {}
        for row in document["rows"]:
            key = row["key"]
            if not key or key in rows:
                raise ValueError(f"a key is empty or used twice: {key!r}")
            for name, width in columns.items():
                if len(row[name]) != width:
                    raise ValueError(f"{key}: {name} has {len(row[name])} numbers, not {width}")
            if unknown := set(row) - set(columns) - {"key", "label"}:
                raise ValueError(f"{key}: unknown {sorted(unknown)}")
            rows[key] = row
        return cls(columns, rows)

    def keys(self) -> list[str]:
        return list(self.rows)

    def matrix(self, column: str) -> np.ndarray:
        """float32, one row a key."""
        cells = [row[column] for row in self.rows.values()]
        return np.asarray(cells, dtype=np.float64).astype(np.float32)


def write(columns: Mapping[str, int], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """One row a line."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for row in rows)
    head = json.dumps(columns, separators=(",", ":"))
    return f'{{"columns":{head},"rows":[\n{lines}\n]}}\n'.encode()
