"""Logs a trained bundle to MLflow, where MLFLOW_TRACKING_URI names a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bundle import Bundle

ALIAS = "candidate"


def log(folder: Path, bundle: Bundle, params: Mapping[str, Any]) -> None:
    """One run: parameters, metrics and the files of the bundle; a version of the registered model, with an alias.

    Does nothing without MLFLOW_TRACKING_URI. Raises where the server cannot be had: a run that was asked for and is
    missing would be found out too late.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # in requirements-mlflow.txt only

    client = mlflow.MlflowClient()
    mlflow.set_experiment(f"foregate-{bundle.name}")
    with mlflow.start_run(run_name=f"{bundle.name} {bundle.version}") as run:
        mlflow.log_params({**params, **{f"trainedOn.{key}": value for key, value in bundle.trained_on.items()}})
        mlflow.log_metrics(bundle.metrics)
        mlflow.set_tags({"foregate.bundle": bundle.name, "foregate.version": bundle.version})
        mlflow.log_artifacts(str(folder), artifact_path="bundle")
    if not client.search_registered_models(f"name = '{bundle.name}'"):
        client.create_registered_model(bundle.name)
    source = f"{run.info.artifact_uri}/bundle"
    version = client.create_model_version(
        bundle.name, source, run.info.run_id, tags={"foregate.version": bundle.version}
    )
    client.set_registered_model_alias(bundle.name, ALIAS, version.version)
