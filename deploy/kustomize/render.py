"""Writes base/*/manifests.yaml from the chart, so that both deploy the same.

    python deploy/kustomize/render.py [--image REPOSITORY:TAG]

Needs the packages of deploy/tests/requirements.txt.
"""

import argparse
import pathlib
import sys

import yaml

BASE = pathlib.Path(__file__).resolve().parent / "base"
sys.path.insert(0, str(BASE.parent.parent / "tests"))

from support import render  # noqa: E402

NAMESPACE = "foregate"
# What is installed by other means: definitions by `kubectl apply`, policies by kustomize itself.
VALUES = {
    "gateway": {"mode": "gateway"},
    "mesh": {"mode": "mesh", "crds": {"install": False}, "control": {"authority": {"secret": "foregate-authority"}}},
}
HEAD = "# Made from the chart by deploy/kustomize/render.py: change it there.\n"


def manifests(part, image=None):
    """The documents of a part, as kustomize has them; `image` is repository and tag."""
    values = {**VALUES[part], **({"image": dict(zip(("repository", "tag"), image))} if image else {})}
    every = [one for one in render(values, namespace=NAMESPACE) if one["metadata"]["name"] != "foregate-gateway-policies"]
    for document in every:
        _relabel(document)
    return every


def _relabel(value):
    if isinstance(value, dict):
        value.pop("helm.sh/chart", None)
        if value.get("app.kubernetes.io/managed-by") == "Helm":
            value["app.kubernetes.io/managed-by"] = "kustomize"
        for inner in value.values():
            _relabel(inner)
    elif isinstance(value, list):
        for inner in value:
            _relabel(inner)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are."""


def _text(dumper, text):
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def text(part, image=None):
    return HEAD + yaml.dump_all(manifests(part, image), Dumper=_Dumper, sort_keys=False, width=120)


def _image(text):
    repository, _, tag = text.rpartition(":")
    if not repository or "/" in tag:
        raise argparse.ArgumentTypeError("expected REPOSITORY:TAG, such as registry.example.com/foregate:0.1.0")
    return repository, tag


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes base/*/manifests.yaml from the chart.")
    parser.add_argument("--image", type=_image, metavar="REPOSITORY:TAG", help="of all containers, and of sidecars")
    asked = parser.parse_args()
    for part in VALUES:
        (BASE / part / "manifests.yaml").write_text(text(part, asked.image))
