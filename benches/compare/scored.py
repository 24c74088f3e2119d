#!/usr/bin/env python3
"""Tells what a scored lead of 1 KiB with one feature looked up by key costs the gateway: processor time a request.

    benches/compare/scored.py FOREGATE FOREGATE_BENCHES     for example: target/dist/foregate target/dist/foregate-benches

Needs h2load (nghttp2), nothing else. One worker on one processor; load and origin have the other. The variants
take turns: the same lead passed on unread, scored by each model, and scored with one of its features looked up in a store
of ACCOUNTS accounts. Score into header and body. The median of ROUNDS counts, and what is beyond the unread lead.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import policies
from rig import BUNDLES, LEAD, Load, each, free_port, gateway, running, told
from variants import VARIANTS

ROUNDS = int(os.environ.get("ROUNDS", "7"))
REQUESTS = os.environ.get("REQUESTS", "40000")
ACCOUNTS = 200_000
ACCOUNT = f"0015e00000{ACCOUNTS // 2:08}"
MODELS = {"trees": "lead-score", "linear": "lead-score-logistic"}
POINTER = "pointer: /Pricing_Page_Views__c, type: number,"
STORED = "pointer: /AccountId, type: number, store: {column: pricing_views},"


def lead(path):
    """The lead of the other benches, with an account and without the last letters of its description."""
    record = json.loads(LEAD.read_text())
    record["AccountId"] = ACCOUNT
    for wide in (True, False):
        size = len(json.dumps(record, separators=(",", ":")))
        if wide:
            record["Description"] = record["Description"][: len(record["Description"]) - (size - 1024)]
    path.write_text(json.dumps(record, separators=(",", ":")))
    assert path.stat().st_size == 1024, path.stat().st_size
    return path


def digest(data):
    return hashlib.sha256(data).hexdigest()


def stored(model, folder):
    """A copy of a bundle that looks up the views of the price page, with the golden vectors that have none."""
    bundle = folder / f"bundle-{model}"
    shutil.copytree(BUNDLES / model, bundle)
    old = (bundle / "golden.json").read_bytes()
    kept = [it for it in json.loads(old)["vectors"] if it["record"].get("Pricing_Page_Views__c") is None]
    new = json.dumps({"vectors": kept}).encode()
    (bundle / "golden.json").write_bytes(new)
    text = (bundle / "model.yaml").read_text().replace(digest(old), digest(new))
    assert POINTER in text
    (bundle / "model.yaml").write_text(text.replace(POINTER, STORED))
    return bundle


def written(folder, name, origin, bundle=None, store=None):
    """The policies of variant `lead`, or of `plain` where nothing is scored, before this origin."""
    if not bundle:
        return policies.write(folder / name, VARIANTS["plain"], origin)
    model = f"featureStore: {{ path: {store}, key: {{ file: {store}.key }} }}" if store else ""
    # A busy machine fails no request.
    return policies.write(folder / name, VARIANTS["lead"], origin, bundle=bundle, model=model, deadline="1s")


def made(foregate, folder):
    """A store of many accounts."""
    store = folder / "features.redb"
    rows = (f"0015e00000{number:08},,{number % 9}\n" for number in range(ACCOUNTS))
    (folder / "rows.csv").write_text("key,at,pricing_views\n" + "".join(rows))
    run = lambda *words: subprocess.run([foregate, "features", *map(str, words)], check=True, capture_output=True)  # noqa: E731
    run("key", f"{store}.key")
    run("import", "--store", store, "--key", f"file:{store}.key", folder / "rows.csv")
    return store


def main():
    foregate, benches = sys.argv[1:]
    origin = free_port()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        body, store = lead(folder / "lead.json"), made(foregate, folder)
        stack.enter_context(running(benches, "origin", f"127.0.0.1:{origin}", port=origin, cpu=1))
        variants = {"unread": written(folder, "unread", origin)}
        for name, model in MODELS.items():
            variants[name] = written(folder, name, origin, BUNDLES / model)
            variants[f"{name}, one looked up"] = written(folder, f"{name}-stored", origin, stored(model, folder), store)
        rounds = {name: [] for name in variants}
        served = {}
        for name, path in variants.items():
            context, port = gateway(foregate, path, cpu=0)
            served[name] = (stack.enter_context(context), port)
        for number in range(ROUNDS + 1):
            for name, (process, port) in served.items():
                words = ["--h1", "-c32", f"-n{REQUESTS}", f"--data={body}", "-Hcontent-type: application/json"]
                took, _ = each(process, Load(f"http://127.0.0.1:{port}/", *words, cpu=1))
                if number:  # the first one warms
                    rounds[name].append(took)
    unread = told("unread", rounds["unread"])
    for name in list(rounds)[1:]:
        all_of_it = told(name, rounds[name])
        beyond = sorted(a - b for a, b in zip(rounds[name], rounds["unread"], strict=True))[ROUNDS // 2]
        print(f"    beyond the unread one {all_of_it - unread:.2f} us; median of the pairs {beyond:.2f}")


if __name__ == "__main__":
    main()
