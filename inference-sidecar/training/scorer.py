"""A bundle's model run by onnxruntime: rows of features in, the columns of its output out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime


class Scorer:
    def __init__(self, model: bytes, output: Mapping[str, Any]) -> None:
        """`output` is the `output` entry of model.yaml."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.output = output

    def columns(self, features: np.ndarray) -> np.ndarray:
        """float32, in the order of the rows: [N, 1] where `output` names one column, else [N, all]."""
        [found] = self.session.run([self.output["name"]], {self.input: features})
        columns = found.reshape(len(features), -1)
        index = self.output.get("index")
        return columns if index is None else columns[:, index : index + 1]

    def scores(self, features: np.ndarray) -> np.ndarray:
        """The one column that `output` names."""
        return self.columns(features)[:, 0]


def top(query: np.ndarray, items: np.ndarray, count: int) -> np.ndarray:
    """Rows of `items` by falling dot product with each query, the earlier row first among equals: [N, count]."""
    order = np.argsort(-(query @ items.T), axis=1, kind="stable")
    return order[:, :count]
