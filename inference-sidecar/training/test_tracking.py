"""Proves tracking.py against an MLflow server started here; needs `mlflow`, loopback and a temporary folder.

With the path of `foregate` as its argument, it proves `foregate model pull` too; that needs `openssl`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tracking

HERE = Path(__file__).resolve().parent
NAME = "churn-risk"
BUNDLE = HERE.parent / "bundles" / NAME
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


def stage(folder: Path) -> tuple[Path, Path]:
    """Two bundles that differ, the first of them signed; the key stands beside them as `key.pem`."""
    first, second = (Path(shutil.copytree(BUNDLE, folder / name)) for name in ("first", "second"))
    (second / "CARD.md").write_text("another card\n", encoding="utf-8")
    secret, manifest = folder / "secret.pem", first / "model.yaml"
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", secret)
    run("openssl", "pkey", "-in", secret, "-pubout", "-out", folder / "key.pem")
    run("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", secret, "-in", manifest, "-out", first / "bundle.sig")
    return first, second


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


def logged(client: Any, folder: Path, number: int, kept: Path) -> None:
    """Logs a bundle as training does, and holds against it what the server then knows of it."""
    import mlflow

    metrics = {"auc": 0.75 + number / 16, "testRows": 1475}
    bundle = SimpleNamespace(name=NAME, version=f"{number}.0.0", metrics=metrics, trained_on={"seed": 7})
    tracking.log(folder, bundle, {"layers": (32, 16)})
    version = client.get_model_version_by_alias(NAME, tracking.ALIAS)
    ran = client.get_run(version.run_id)
    artifact = mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(kept))
    assert str(version.version) == str(number), version
    assert version.tags == {"foregate.version": f"{number}.0.0"}, version.tags
    assert ran.data.metrics == {key: float(value) for key, value in metrics.items()}, ran.data.metrics
    assert ran.data.params == {"layers": "(32, 16)", "trainedOn.seed": "7"}, ran.data.params
    assert same(Path(artifact), folder), "the artifact is not the bundle"


def same(left: Path, right: Path) -> bool:
    """Both folders hold the same files with the same bytes."""
    held = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (left, right)]
    return held[0] == held[1]


def pull(foregate: str, address: str, alias: str, folder: Path, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Pulls what the alias means into `folder / "churn"`, by a policy that asks for this key."""
    folder.mkdir(exist_ok=True)
    registry = f"{{ uri: '{address}', model: {NAME}, alias: {alias} }}"
    signed = f", signedBy: [{{ file: '{key}' }}]" if key else ""
    head = "apiVersion: foregate.dev/v1alpha1\nkind: Model\nmetadata: { name: churn }\n"
    (folder / "model.yaml").write_text(f"{head}spec: {{ bundle: {{ path: churn, mlflow: {registry} }}{signed} }}\n")
    return subprocess.run([foregate, "model", "pull", str(folder)], check=False, capture_output=True, text=True)


def pulled(foregate: str, address: str, client: Any, folder: Path) -> None:
    """Aliases mean what the server says at the moment; where a key is asked for, only what it signed is taken."""
    first, second, key = folder / "first", folder / "second", folder / "key.pem"
    client.set_registered_model_alias(NAME, "production", "1")
    for alias, number, bundle, signer in (
        (tracking.ALIAS, 2, second, None),
        ("production", 1, first, None),
        ("production", 1, first, key),
    ):
        ended = pull(foregate, address, alias, folder / "policies", signer)
        assert ended.returncode == 0 and f"version {number} of {NAME}@{alias}" in ended.stdout, ended
        assert same(folder / "policies/churn", bundle), f"what was pulled for {alias} is not the bundle"
    for alias, reason in ((tracking.ALIAS, "bundle.sig"), ("nobody", "answers 400")):
        ended = pull(foregate, address, alias, folder / "policies", key)
        assert ended.returncode == 1 and reason in ended.stderr, ended
        assert same(folder / "policies/churn", first), "what was refused took the place of the last good one"
    client.set_registered_model_alias(NAME, tracking.ALIAS, "1")
    ended = pull(foregate, address, tracking.ALIAS, folder / "policies", key)
    assert ended.returncode == 0, ended
    print("an alias is pulled as the bundle that it means, and refused where nobody signed it")


def main() -> None:
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as address:
        os.environ["MLFLOW_TRACKING_URI"] = address
        import mlflow

        client, folder = mlflow.MlflowClient(), Path(name)
        for number, bundle in enumerate(stage(folder), start=1):
            logged(client, bundle, number, folder / f"kept-{number}")
        print("two bundles are logged: the alias names the second version, whose artifact is the bundle byte for byte")
        for foregate in sys.argv[1:]:
            pulled(foregate, address, client, folder)


if __name__ == "__main__":
    main()
