"""Writes reference.json of shipped bundles anew: from the records they were trained on, without training them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import baskets
import bundle
import customers
import dates
import leads
import learnt
import opportunities
import populations
import sentences
import tickets
from foregate_features import FeatureSpec
from oracle import NOW, Judge

HERE = Path(__file__).resolve().parent
REFERENCE = "reference.json"
CHUNK = 1_000
Records = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="*", default=sorted(TRAINED_ON), help="names of bundles; all where absent")
    parser.add_argument("--out", type=Path, default=HERE.parent / "bundles", help="folder of the bundles")
    options = parser.parse_args()
    for name in options.bundle:
        rows = write(options.out / name, TRAINED_ON[name])
        print(name, f"{rows} records")


def of_leads(seed: int) -> Records:
    titles = next(entry["ordinal"] for entry in learnt.read("trees.yaml") if entry["name"] == "title_level")
    return [lead.record for lead in leads.simulate(seed, titles) if lead.split == "train"]


def of_opportunities(seed: int) -> Records:
    return [one.record for one in opportunities.simulate(seed) if one.split == "train"]


def of_customers(seed: int) -> Records:
    return [one.record for one in customers.load(seed) if one.split == "train"]


def of_tickets(seed: int) -> Records:
    return [ticket.record for ticket in tickets.generate(seed)["train"]]


def of_sentences(_: int) -> Records:
    return [{"Description": one.text} for one in sentences.load() if one.split == "train"]


def of_accounts(seed: int) -> Records:
    return [one.record for one in baskets.World(seed).accounts() if one.split == "train"]


# The training records of each bundle, by the seed it was trained with.
TRAINED_ON: dict[str, Callable[[int], Records]] = {
    "lead-score": of_leads,
    "lead-score-logistic": of_leads,
    "opportunity-win": of_opportunities,
    "churn-risk": of_customers,
    "case-priority": of_tickets,
    "case-queue": of_tickets,
    "case-escalation": of_tickets,
    "case-sentiment": of_sentences,
    "product-next": of_accounts,
}


def write(folder: Path, trained_on: Callable[[int], Records]) -> int:
    """Writes the file, and its digest into model.yaml; every other byte of the bundle stays."""
    path = folder / "model.yaml"
    text = path.read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    spec, judge = FeatureSpec.load(path), Judge.load(folder, document)
    records, now = trained_on(document["trainedOn"]["seed"]), dates.parse(NOW) if spec.reads_now else None
    chunks = [spec.matrix(records[at : at + CHUNK], now) for at in range(0, len(records), CHUNK)]
    data = populations.reference(spec, judge, np.concatenate(chunks))

    files = dict(document["files"])
    tables = {"tables": files.pop("tables")} if "tables" in files else {}
    named = files | {"reference": bundle.reference(REFERENCE, data)} | tables
    old = next(line for line in text.splitlines() if line.startswith("files: "))
    (folder / REFERENCE).write_bytes(data)
    path.write_text(text.replace(old, f"files: {bundle.flow(named)}"), encoding="utf-8")
    return len(records)


if __name__ == "__main__":
    main()
