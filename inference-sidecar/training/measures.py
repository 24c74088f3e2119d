"""How well scores fit outcomes, and how a card shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from scorer import Scorer

PARITY = 1e-6  # ONNX against the library it came from
BINS = 10


def binary(won: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {
        "auc": round(float(roc_auc_score(won, scores)), 4),
        "logLoss": round(float(log_loss(won, np.asarray(scores, dtype=np.float64))), 4),
        "brier": round(float(brier_score_loss(won, scores)), 4),
        "testRows": len(won),
    }


def checked(
    model: onnx.ModelProto, output: Mapping[str, Any], features: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Columns of the exported graph, after proof that they are those of the trained model."""
    columns = Scorer(model.SerializeToString(deterministic=True), output).columns(features)
    difference = float(np.abs(columns - np.reshape(expected, columns.shape)).max())
    if not difference < PARITY:
        raise SystemExit(f"the exported graph differs from the trained model by {difference}")
    return columns.astype(np.float64)


def calibration(won: np.ndarray, scores: np.ndarray) -> tuple[float, str]:
    """Expected calibration error and the table, over equally filled bins."""
    bins = np.array_split(np.argsort(scores, kind="stable"), BINS)
    pairs = [(scores[rows].mean(), won[rows].mean(), len(rows)) for rows in bins]
    error = sum(abs(score - rate) * count for score, rate, count in pairs) / len(won)
    return error, "\n".join(f"| {score:.3f} | {rate:.3f} |" for score, rate, _ in pairs)


def auc_error(won: np.ndarray, auc: float) -> float:
    """Hanley and McNeil, 1982."""
    positive, negative = int(won.sum()), int(len(won) - won.sum())
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positive - 1) * (q1 - auc**2) + (negative - 1) * (q2 - auc**2)
    return float(np.sqrt(spread / (positive * negative)))


def entropy(rate: float) -> float:
    return float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


def variance(rate: float) -> float:
    return float(rate * (1 - rate))


def base_rate_row(won: np.ndarray, columns: int = 4) -> str:
    """The row of a card that a constant score gets: AUC, log loss, Brier, and empty cells up to `columns`."""
    rate = won.mean()
    cells = [f"everyone gets the base rate ({rate:.3f})", "0.5000", f"{entropy(rate):.4f}", f"{variance(rate):.4f}"]
    return "| " + " | ".join(cells) + " |" * (columns - 2)
