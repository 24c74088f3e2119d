"""What the training records looked like, as counts: the gateway holds later ones against them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from foregate_features import FeatureSpec
from oracle import Judge

BINS = 10
WIDEST = 64  # columns of one feature; what is wider, as hashed text is, has no population of its own


def reference(spec: FeatureSpec, judge: Judge, rows: np.ndarray) -> bytes:
    """`reference.json`: of a single column counts between quantiles, of several the largest column; and of scores."""
    features, first = {}, 0
    for feature in spec.features:
        cells = rows[:, first : first + feature.width]
        if feature.width == 1:
            features[feature.name] = single(cells[:, 0])
        elif feature.width <= WIDEST:
            features[feature.name] = several(cells)
        first += feature.width
    lines = [f"{json.dumps(name)}: {json.dumps(bins)}" for name, bins in features.items()]
    text = ",\n".join(lines)
    return f'{{"features": {{\n{text}\n}},\n"score": {json.dumps(single(judge.scores(rows)))}}}\n'.encode()


def single(cells: np.ndarray) -> dict[str, Any]:
    """A bin for each of up to ten values, else ten of about equal counts; and one for NaN.

    An edge belongs to the bin above it.
    """
    known = cells[~np.isnan(cells)].astype(np.float32)
    edges = np.unique(known)[1:]
    if len(edges) >= BINS:
        edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="higher").astype(np.float32))
        edges = edges[edges > known.min()]
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
    return {"edges": [float(str(edge)) for edge in edges], "counts": [*counts.tolist(), int(np.isnan(cells).sum())]}


def several(cells: np.ndarray) -> dict[str, Any]:
    """One bin a column, for the largest that is not 0, the first of equal ones; and one for none of them."""
    masked = np.where((cells == 0) | np.isnan(cells), -np.inf, cells)
    largest = np.where(np.isneginf(masked).all(axis=1), cells.shape[1], masked.argmax(axis=1))
    return {"counts": np.bincount(largest, minlength=cells.shape[1] + 1).tolist()}
