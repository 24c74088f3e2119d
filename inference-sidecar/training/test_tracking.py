"""Proves tracking.py against an MLflow server started here; needs `mlflow`, loopback and a temporary folder.

With the path of `foregate` as its argument, it proves `foregate model pull` too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import tracking

HERE = Path(__file__).resolve().parent
BUNDLE = HERE.parent / "bundles" / "churn-risk"
START_SECONDS = 120


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a server that keeps everything in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/store.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        wait(process, address, folder / "server.log")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Until the server says that it is well."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server ended: {log.read_text()}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return
        time.sleep(0.2)
    raise SystemExit(f"the server did not start: {log.read_text()}")


def pulled(foregate: str, address: str, folder: Path) -> None:
    """The bundle that the alias means lies in the folder of the policy, byte for byte, and loads."""
    folder.mkdir()
    registry = f"{{ uri: '{address}', model: churn-risk, alias: {tracking.ALIAS} }}"
    head = "apiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: churn }\n"
    (folder / "model.yaml").write_text(f"{head}spec: {{ bundle: {{ path: churn, mlflow: {registry} }} }}\n")
    ran = subprocess.run([foregate, "model", "pull", str(folder)], check=True, capture_output=True, text=True)
    same = all((folder / "churn" / file.name).read_bytes() == file.read_bytes() for file in BUNDLE.iterdir())
    assert same, "what was pulled is not the bundle"
    print(ran.stdout, end="")


def main() -> None:
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as address:
        os.environ["MLFLOW_TRACKING_URI"] = address
        import mlflow

        client = mlflow.MlflowClient()
        for expected, auc in (("1", 0.8125), ("2", 0.875)):
            bundle = SimpleNamespace(
                name="churn-risk",
                version=f"{expected}.0.0",
                metrics={"auc": auc, "testRows": 1475},
                trained_on={"seed": 7},
            )
            tracking.log(BUNDLE, bundle, {"layers": (32, 16)})
            version = client.get_model_version_by_alias("churn-risk", tracking.ALIAS)
            run = client.get_run(version.run_id)
            kept = mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=f"{name}/{expected}")
            same = all((Path(kept) / file.name).read_bytes() == file.read_bytes() for file in BUNDLE.iterdir())
            assert str(version.version) == expected, version
            assert version.tags == {"foregate.version": f"{expected}.0.0"}, version.tags
            assert run.data.metrics == {"auc": auc, "testRows": 1475.0}, run.data.metrics
            assert run.data.params == {"layers": "(32, 16)", "trainedOn.seed": "7"}, run.data.params
            assert same, "the artifact is not the bundle"
        for foregate in sys.argv[1:]:
            pulled(foregate, address, Path(name) / "policies")
    print("a bundle is logged twice: the alias names the second version, whose artifact is the bundle byte for byte")


if __name__ == "__main__":
    main()
