"""A small network in Keras, and its way to ONNX."""

from __future__ import annotations

import os

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from graphs import INPUT, IR_VERSION, OPSET

LAYERS = (32, 16)
EPOCHS, PATIENCE, BATCH = 80, 8, 64


def fit(train: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray], seed: int) -> tf.keras.Model:
    """A multilayer perceptron; the validation rows choose the epoch. Repeatable on one machine."""
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    decay = tf.keras.regularizers.L2(1e-2)
    hidden = [tf.keras.layers.Dense(units, activation="relu", kernel_regularizer=decay) for units in LAYERS]
    model = tf.keras.Sequential(
        [tf.keras.Input((train[0].shape[1],)), *hidden, tf.keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
    stop = tf.keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
    model.fit(*train, validation_data=valid, epochs=EPOCHS, batch_size=BATCH, callbacks=[stop], verbose=0)
    return model


def to_onnx(model: tf.keras.Model, width: int, name: str) -> onnx.ModelProto:
    """Output `probability` [N,1]."""

    @tf.function(input_signature=[tf.TensorSpec((None, width), tf.float32, name=INPUT)])
    def probability(features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probability": model(features, training=False)}

    graph, _ = tf2onnx.convert.from_function(probability, input_signature=probability.input_signature, opset=OPSET)
    graph.ir_version = IR_VERSION
    graph.graph.name = name
    graph.doc_string = graph.graph.doc_string = ""
    # The converter lists every operator set it knows; only those used are asked for.
    used = {node.domain for node in graph.graph.node} | {""}
    kept = [opset for opset in graph.opset_import if opset.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    graph.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.checker.check_model(graph, full_check=True)
    return graph
