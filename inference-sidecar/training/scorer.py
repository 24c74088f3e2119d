"""A bundle's model run by onnxruntime: rows of features in, one score a row out."""

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

    def scores(self, features: np.ndarray) -> np.ndarray:
        """float32, in the order of the rows."""
        [column] = self.session.run([self.output["name"]], {self.input: features})
        return column.reshape(len(features), -1)[:, self.output["index"]]
