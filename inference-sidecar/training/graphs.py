"""Fitted models as ONNX graphs, written node by node so that bytes depend on nothing but the numbers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 15
ML_OPSET = 3
IR_VERSION = 8
INPUT = "features"
ACTIVATIONS = {"probability": "Sigmoid", "probabilities": "Softmax", "score": "Tanh"}

Output = Literal["probability", "probabilities", "score", "query"]


def linear(weights: np.ndarray, bias: np.ndarray, output: Output, name: str) -> onnx.ModelProto:
    """MatMul, Add and what the output asks for; `weights` are [columns, outputs], one output a column of [N, outputs].

    `query` is the sum itself.
    """
    width, outputs = weights.shape
    tensors = [
        numpy_helper.from_array(weights.astype(np.float32), "weights"),
        numpy_helper.from_array(bias.astype(np.float32).reshape(outputs), "bias"),
    ]
    total = "logit" if output in ACTIVATIONS else output
    nodes = [
        helper.make_node("MatMul", [INPUT, "weights"], ["product"], "product"),
        helper.make_node("Add", ["product", "bias"], [total], total),
    ]
    if output in ACTIVATIONS:
        axis = {"axis": 1} if output == "probabilities" else {}
        nodes.append(helper.make_node(ACTIVATIONS[output], [total], [output], output, **axis))
    outputs_made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", outputs])]
    return graph(nodes, name, width, outputs_made, tensors)


def graph(nodes: list[Any], name: str, width: int, outputs: list[Any], weights: list[Any]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", width])]
    domains = sorted({node.domain for node in nodes} | {""})
    opsets = [helper.make_opsetid(domain, ML_OPSET if domain else OPSET) for domain in domains]
    model = helper.make_model(
        helper.make_graph(nodes, name, inputs, outputs, weights),
        opset_imports=opsets,
        producer_name="foregate-training",
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def rounded(weights: np.ndarray) -> np.ndarray:
    """Six significant digits: what the last bits of a solver differ in between machines is gone."""
    return np.asarray([float(f"{value:.6g}") for value in np.ravel(weights)]).reshape(np.shape(weights))
