#!/usr/bin/env python3
"""Times each shipped model on one row: our engine, and onnxruntime in the same run.

    benches/compare/engines.py FOREGATE_BENCHES      for example: target/dist/foregate-benches

Needs what inference-sidecar/training/requirements-test.txt names. The row is that of the first golden record. What a
call costs, by Python and by onnxruntime itself, is measured on a graph that only hands its input on, and told beside.
Two ratios are given: with the call, as somebody who scores from Python has it, and without, which charges us with
what onnxruntime does for each call and is too high by that.
"""
import json
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
SIDECAR = HERE / "../../inference-sidecar"
sys.path.insert(0, str(SIDECAR / "training"))

import dates  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import yaml  # noqa: E402
from foregate_features import FeatureSpec  # noqa: E402

ROUNDS = 5
ROUND = 0.1


def field(number, value):
    """One field of a protobuf message: a number, or bytes with their length."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def hands_on():
    """An ONNX graph that gives its input back: what is left is the cost of a call."""
    size = field(1, field(2, b"n")) + field(1, field(2, b"w"))
    value = lambda name: field(1, name) + field(2, field(1, field(1, 1) + field(2, size)))  # noqa: E731
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, value(b"x")) + field(12, value(b"y"))
    return field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, 17))


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def timed(run):
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        took = time.perf_counter() - start
        if took > ROUND:
            return took / calls * 1e9
        calls *= 2


def ours(benches, name):
    """Median, in nanoseconds."""
    out = subprocess.run([benches, "micro", f"model alone, {name}"], capture_output=True, text=True, check=True)
    # Names may begin alike: the row is the one that has the name and nothing after it.
    return float(re.search(rf"^model alone, {re.escape(name)} +([\d.]+)", out.stdout, re.M)[1])


def main():
    [benches] = sys.argv[1:]
    print(f"{'ns a row':<22} {'ours':>9} {'onnxruntime':>12} {'of it a call':>13} {'ratio':>7} {'without':>8}")
    for folder in sorted((SIDECAR / "bundles").iterdir()):
        manifest = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
        golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
        now = dates.parse(golden["now"]) if "now" in golden else None
        row = FeatureSpec.load(folder / "model.yaml").matrix([golden["vectors"][0]["record"]], now)
        model, empty = session((folder / manifest["files"]["model"]["path"]).read_bytes()), session(hands_on())
        wanted, given = [manifest["output"]["name"]], {model.get_inputs()[0].name: row}
        rounds = [
            (ours(benches, folder.name), timed(lambda: model.run(wanted, given)), timed(lambda: empty.run(["y"], {"x": row})))
            for _ in range(ROUNDS)
        ]
        mine, theirs, call = np.median(rounds, axis=0)
        # Of what is less than a tenth of the call nothing can be said.
        without = f"{mine / (theirs - call):.2f}" if theirs > 1.1 * call else "-"
        print(f"{folder.name:<22} {mine:>9.0f} {theirs:>12.0f} {call:>13.0f} {mine / theirs:>7.3f} {without:>8}")


if __name__ == "__main__":
    main()
