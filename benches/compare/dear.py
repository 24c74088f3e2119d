"""Makes a bundle whose model takes about as long as is asked for: square products that share their weights."""

from __future__ import annotations

import hashlib
import json
import subprocess

import numpy as np
import onnxruntime

WIDTH = 512


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    """One field of a protobuf message: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def node(kind, given, name):
    return field(1, b"".join(field(1, it.encode()) for it in given) + field(2, name.encode()) + field(4, kind))


def tensor(name, cells):
    sizes = b"".join(field(1, size) for size in cells.shape)
    return field(5, sizes + field(2, 1) + field(8, name) + field(9, cells.tobytes()))


def shape(name):
    """A column of float32."""
    sizes = field(1, field(2, b"N")) + field(1, field(1, 1))
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, sizes)))


def graph(layers):
    """One column in, `layers` products with a ReLU behind each, one column out."""
    draw = np.random.default_rng(7)
    first = (0.01 * draw.choice([-1, 1], (1, WIDTH))).astype(np.float32)
    square = (draw.standard_normal((WIDTH, WIDTH)) * np.sqrt(2 / WIDTH)).astype(np.float32)
    last = (draw.standard_normal((WIDTH, 1)) / WIDTH).astype(np.float32)
    nodes = node(b"MatMul", ["x", "first"], "v0")
    for at in range(layers):
        nodes += node(b"MatMul", [f"v{at}", "square"], f"m{at}") + node(b"Relu", [f"m{at}"], f"v{at + 1}")
    nodes += node(b"MatMul", [f"v{layers}", "last"], "z") + node(b"Sigmoid", ["z"], "y")
    inner = nodes + field(2, b"dear") + tensor(b"first", first) + tensor(b"square", square) + tensor(b"last", last)
    inner += field(11, shape(b"x")) + field(12, shape(b"y"))
    return field(1, 8) + field(7, inner) + field(8, field(1, b"") + field(2, 17))


def write(folder, layers):
    """The bundle, with what onnxruntime says of twenty records."""
    model = graph(layers)
    rows = np.arange(20, dtype=np.float32).reshape(-1, 1)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores = session.run(["y"], {"x": rows})[0].reshape(-1)
    known = [(float(row[0]), float(str(score))) for row, score in zip(rows, scores, strict=True)]
    vectors = [{"record": {"Visits": row}, "features": [row], "score": score} for row, score in known]
    files = {"model": ("model.onnx", model), "golden": ("golden.json", json.dumps({"vectors": vectors}).encode())}
    named = {key: {"path": path, "sha256": hashlib.sha256(data).hexdigest()} for key, (path, data) in files.items()}
    manifest = {
        "apiVersion": "foregate.dev/v1alpha1",
        "kind": "ModelBundle",
        "name": "dear",
        "version": "1",
        "object": "Lead",
        "task": "classification",
        "files": named,
        "input": {"name": "x", "width": 1},
        "output": {"name": "y", "index": 0},
        "trainedOn": {"dataset": "none", "licence": "none", "seed": 7, "split": "none"},
        "features": [{"name": "visits", "pointer": "/Visits", "type": "number", "default": 0}],
    }
    folder.mkdir(exist_ok=True)
    for path, data in files.values():
        (folder / path).write_bytes(data)
    (folder / "model.yaml").write_text(json.dumps(manifest))


def timed(foregate, folder):
    """Milliseconds of one row in the middle, as the command that measures bundles says."""
    command = [foregate, "model", "bench", str(folder), "--calls", "100", "--format", "json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["p50_us"] / 1e3


def made(foregate, folder, milliseconds):
    """A bundle whose model takes so long on this machine; gives what it took."""
    layers = 20
    write(folder, layers)
    layers = max(1, round(layers * milliseconds / timed(foregate, folder)))
    write(folder, layers)
    return timed(foregate, folder)
