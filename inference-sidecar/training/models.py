"""The two lead models: how they are fitted, and how they become ONNX graphs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

OPSET = 15
ML_OPSET = 3
IR_VERSION = 8
INPUT = "features"
MAX_TREES = 200

# What a seller would call a defect if the score fell: the trees may not learn it from noise.
RISING = {
    "annual_revenue",
    "title_level",
    "website_visits",
    "page_views",
    "pricing_views",
    "session_minutes",
    "viewed_demo",
    "email_opens",
    "content_downloads",
    "webinars",
    "touches_7d",
    "sales_activities",
}
FALLING = {"days_since_activity"}


def fit_trees(
    train: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray], columns: Sequence[str], seed: int
) -> lightgbm.LGBMClassifier:
    """The validation accounts choose the number of trees."""
    model = lightgbm.LGBMClassifier(
        n_estimators=MAX_TREES,
        num_leaves=8,
        learning_rate=0.06,
        min_child_samples=200,
        reg_lambda=5.0,
        colsample_bytree=0.5,
        subsample=0.8,
        subsample_freq=1,
        monotone_constraints=[int(name in RISING) - int(name in FALLING) for name in columns],
        monotone_constraints_method="intermediate",
        random_state=seed,
        deterministic=True,
        force_row_wise=True,
        n_jobs=1,
        verbose=-1,
    )
    stop = lightgbm.early_stopping(30, verbose=False)
    return model.fit(*train, eval_X=valid[0], eval_y=valid[1], eval_metric="binary_logloss", callbacks=[stop])


def fit_logistic(train: tuple[np.ndarray, np.ndarray]) -> LogisticRegression:
    features, won = train
    return LogisticRegression(C=0.3, max_iter=1_000, tol=1e-8).fit(features.astype(np.float64), won)


def trees_to_onnx(model: lightgbm.LGBMClassifier, width: int) -> onnx.ModelProto:
    """One TreeEnsembleClassifier; outputs `label` [N] and `probabilities` [N,2].

    Written from the booster itself: exporters round a threshold to the nearest float32, which can move a
    row to the other side. Rounded down, `x <= threshold` is the same for every float32 x.
    """
    attributes = Forest(model.booster_.dump_model()).attributes()
    forest = helper.make_node(
        "TreeEnsembleClassifier", [INPUT], ["label", "probabilities"], "forest", domain="ai.onnx.ml", **attributes
    )
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2]),
    ]
    return graph([forest], "lead-score", width, outputs, [])


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
        return float(nearest if nearest <= threshold else np.nextafter(nearest, np.float32(-np.inf)))


def logistic_to_onnx(model: LogisticRegression, width: int) -> onnx.ModelProto:
    """MatMul, Add, Sigmoid; output `probability` [N,1]."""
    weights = [
        numpy_helper.from_array(model.coef_.astype(np.float32).reshape(width, 1), "weights"),
        numpy_helper.from_array(model.intercept_.astype(np.float32).reshape(1), "bias"),
    ]
    nodes = [
        helper.make_node("MatMul", [INPUT, "weights"], ["product"], "product"),
        helper.make_node("Add", ["product", "bias"], ["logit"], "logit"),
        helper.make_node("Sigmoid", ["logit"], ["probability"], "probability"),
    ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 1])]
    return graph(nodes, "lead-score-logistic", width, outputs, weights)


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
