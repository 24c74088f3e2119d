#!/usr/bin/env python3
"""Compares what a call costs our inference server with what it costs an empty one of tonic: processor time.

    benches/compare/calls.py FOREGATE_INFERENCE FOREGATE_BENCHES     for example: target/dist/foregate-inference target/dist/foregate-benches

Needs h2load (nghttp2) and what inference-sidecar/training/requirements-test.txt names. Each server has one
thread and one processor, the load the other; they take turns, and the median of ROUNDS counts. The peer decodes the same
request and gives it back; what the model takes in process is added to it. One row of `lead-score`, raw contents.
"""
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from rig import BUNDLES, Load, each, free_port, running, told
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2

MODEL = os.environ.get("MODEL", "lead-score")
ROUNDS = int(os.environ.get("ROUNDS", "7"))
CALLS = os.environ.get("CALLS", "60000")
CALL = "/inference.GRPCInferenceService/ModelInfer"


def row():
    """Features of the first golden record, as the server takes them."""
    golden = json.loads((BUNDLES / MODEL / "golden.json").read_text(encoding="utf-8"))["vectors"][0]
    cells = np.asarray([[np.nan if cell is None else cell for cell in golden["features"]]], dtype=np.float32)
    given = InferInput("features", list(cells.shape), "FP32")
    given.set_data_from_numpy(cells)
    return given, golden["score"], cells


def main():
    inference, benches = sys.argv[1:]
    given, score, cells = row()
    message = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[cells.tobytes()])
    message.inputs.add(name="features", datatype="FP32", shape=list(cells.shape))
    message = message.SerializeToString()
    alone = subprocess.run([benches, "micro", f"model alone, {MODEL}"], capture_output=True, text=True, check=True).stdout
    alone = float(re.search(rf"^model alone, {re.escape(MODEL)} +([\d.]+)", alone, re.M)[1]) / 1e3
    ports = {"ours": free_port(), "tonic": free_port()}
    http = free_port()
    ours = [inference, "serve", "--models", BUNDLES, "--http", f"127.0.0.1:{http}"]
    ours += ["--grpc", f"127.0.0.1:{ports['ours']}", "--threads", 1]
    rounds = {"ours": [], "tonic": []}
    with tempfile.TemporaryDirectory() as folder:
        frame = pathlib.Path(folder, "frame")
        frame.write_bytes(b"\0" + len(message).to_bytes(4) + message)
        with running(*ours, port=ports["ours"], cpu=0) as mine, running(benches, "echo", f"127.0.0.1:{ports['tonic']}", port=ports["tonic"], cpu=0) as tonic:
            asked = InferenceServerClient(f"127.0.0.1:{ports['ours']}").infer(MODEL, [given])
            if abs(float(asked.as_numpy(asked.get_response().outputs[0].name).reshape(-1)[-1]) - score) > 1e-4:
                sys.exit(f"{asked.get_response()}, expected {score}")
            for number in range(ROUNDS + 1):
                for name, process in (("ours", mine), ("tonic", tonic)):
                    words = ["-c8", "-m8", f"-n{CALLS}", f"--data={frame}"]
                    words += ["-Hcontent-type: application/grpc", "-Hte: trailers"]
                    took, size = each(process, Load(f"http://127.0.0.1:{ports[name]}{CALL}", *words, cpu=1))
                    if size < 5:
                        sys.exit(f"{name} answers without a message: a status that is not OK")
                    if number:  # the first one warms
                        rounds[name].append(took)
    mine, tonic = told("ours, a call", rounds["ours"]), told("tonic, the same call given back", rounds["tonic"])
    told("the model in process", [alone])
    pairs = [a / (b + alone) for a, b in zip(rounds["ours"], rounds["tonic"], strict=True)]
    print(f"ratio of the medians {mine / (tonic + alone):.2f}, median of the pairs {statistics.median(pairs):.2f} (bound 1.3)")


if __name__ == "__main__":
    main()
