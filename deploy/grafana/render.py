"""Writes dashboards/*.json from pages/*.py.

    python deploy/grafana/render.py [--runbooks https://wiki.example.com/foregate/runbooks]

Needs Python alone.
"""

import argparse
import importlib
import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

import panels  # noqa: E402


def dashboards(runbooks=panels.RUNBOOKS):
    """Each dashboard as text, by the name of its file."""
    texts = {}
    for name in panels.TITLES:
        page = importlib.import_module(f"pages.{name}")
        model = panels.dashboard(name, page.__doc__.strip(), page.ROWS, runbooks)
        texts[f"{name}.json"] = json.dumps(model, indent=1) + "\n"
    return texts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes dashboards/*.json from pages/*.py.")
    parser.add_argument("--runbooks", default=panels.RUNBOOKS, metavar="URL", help="the folder that links to runbooks lead to")
    asked = parser.parse_args()
    for file, text in dashboards(asked.runbooks).items():
        (FOLDER / "dashboards" / file).write_text(text)
