"""Runs ONNX files on given rows with onnxruntime, for tests that compare the gateway against it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main() -> None:
    """`cases.json`: [{file, rows}]; writes `outputs.json`: one list of rows a case, or the error as a string."""
    folder = Path(sys.argv[1])
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    outputs = [run(folder / case["file"], case["rows"]) for case in cases]
    (folder / "outputs.json").write_text(json.dumps(outputs), encoding="utf-8")


def run(model: Path, rows: list[list[float | None]]) -> list[list[str]] | str:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    table = np.asarray([[np.nan if cell is None else cell for cell in row] for row in rows], dtype=np.float32)
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        scores = [session.run(["y"], {"x": row.reshape(1, -1)})[0].reshape(-1) for row in table]
    except Exception as error:  # what onnxruntime refuses is told, not raised
        return str(error)
    return [[str(float(cell)) for cell in row] for row in scores]


if __name__ == "__main__":
    main()
