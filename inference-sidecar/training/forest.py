"""Boosted trees of LightGBM as an ONNX tree ensemble."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import lightgbm
import numpy as np
import onnx
from onnx import TensorProto, helper

from graphs import INPUT, graph


def trees_to_onnx(model: lightgbm.LGBMClassifier, width: int, name: str) -> onnx.ModelProto:
    """One TreeEnsembleClassifier; outputs `label` [N] and `probabilities` [N,2].

    Written from the booster itself: exporters round a threshold to the nearest float32, which can move a
    row to the other side. Rounded down, `x <= threshold` is the same for every float32 x.
    `nodes_hitrates` are the training rows that reached a node: explanations weigh branches by them.
    """
    attributes = Forest(model.booster_.dump_model()).attributes()
    forest = helper.make_node(
        "TreeEnsembleClassifier", [INPUT], ["label", "probabilities"], "forest", domain="ai.onnx.ml", **attributes
    )
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2]),
    ]
    return graph([forest], name, width, outputs, [])


class Forest:
    """LightGBM's trees as the parallel lists of TreeEnsembleClassifier, nodes in pre-order."""

    def __init__(self, dump: Mapping[str, Any]) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.leaves: list[dict[str, Any]] = []
        for tree, root in enumerate(dump["tree_info"]):
            self.add(tree, itertools.count(), root["tree_structure"])

    def add(self, tree: int, ids: Iterator[int], source: Mapping[str, Any]) -> int:
        """Adds the node and everything below it; returns its id."""
        node_id = next(ids)
        node = {
            "treeids": tree,
            "nodeids": node_id,
            "modes": "LEAF",
            "featureids": 0,
            "values": 0.0,
            "truenodeids": 0,
            "falsenodeids": 0,
            "missing_value_tracks_true": 0,
            "hitrates": float(source.get("leaf_count", source.get("internal_count"))),
        }
        self.nodes.append(node)
        if "leaf_value" in source:
            # Two classes and one class id: the sum is the logit of class 1.
            leaf = {"treeids": tree, "nodeids": node_id, "ids": 0, "weights": float(source["leaf_value"])}
            self.leaves.append(leaf)
            return node_id
        if source["decision_type"] != "<=" or source["missing_type"] == "Zero":
            raise ValueError(f"split not expressible: {source['decision_type']} {source['missing_type']}")
        nan_goes_left = source["default_left"] if source["missing_type"] == "NaN" else source["threshold"] >= 0.0
        node["modes"] = "BRANCH_LEQ"
        node["featureids"] = source["split_feature"]
        node["values"] = round_down(source["threshold"])
        node["missing_value_tracks_true"] = int(nan_goes_left)
        node["truenodeids"] = self.add(tree, ids, source["left_child"])
        node["falsenodeids"] = self.add(tree, ids, source["right_child"])
        return node_id

    def attributes(self) -> dict[str, Any]:
        nodes = {f"nodes_{key}": [node[key] for node in self.nodes] for key in self.nodes[0]}
        leaves = {f"class_{key}": [leaf[key] for leaf in self.leaves] for key in self.leaves[0]}
        return nodes | leaves | {"classlabels_int64s": [0, 1], "post_transform": "LOGISTIC"}


def round_down(threshold: float) -> float:
    """The largest float32 not above `threshold`."""
    with np.errstate(over="ignore"):  # LightGBM writes f64::MAX where only NaN goes right
        nearest = np.float32(threshold)
        # As floats: NumPy would compare a float32 and a number in float32, where they are always equal.
        return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))
