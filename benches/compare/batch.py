#!/usr/bin/env python3
"""Scores a file of a million leads, kills the command on its way, lets it go on, and holds the outputs against each other.

    benches/compare/batch.py FOREGATE_INFERENCE [MODEL]...     for example: target/dist/foregate-inference lead-score

Needs Python, nothing else, and 2 GB in the folder for temporary files. Told are rows a second, the most memory that was
resident, and whether the output of the run that was killed is that of the one that was not, byte for byte.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from rig import BUNDLES, LEAD

ROWS = int(os.environ.get("ROWS", "1000000"))


def leads(path):
    """Leads of the size that a CRM keeps, each another one."""
    lead = json.loads(LEAD.read_text()) | {"Description": "Asked for a quote."}
    with path.open("w") as out:
        for row in range(ROWS):
            lead["AnnualRevenue"], lead["NumberOfEmployees"] = 1_000 * (row % 9_973), row % 313
            lead["Website_Visits__c"], lead["Viewed_Demo__c"] = row % 17, row % 3 == 0
            out.write(json.dumps(lead) + "\n")


def command(inference, model, source, output):
    return [inference, "batch", "--model", BUNDLES / model, "--input", source, "--output", output]


def measured(words):
    """Runs to its end; gives seconds, and MiB at most."""
    start = time.monotonic()
    process = subprocess.Popen([*map(str, words)], stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(said.decode())
    return time.monotonic() - start, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, said.decode()


def killed(words, checkpoint, rows):
    """Runs until a checkpoint tells of so many rows, and gets SIGKILL."""
    process = subprocess.Popen([*map(str, words)], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            if json.loads(checkpoint.read_bytes())["rows"] >= rows:
                process.kill()
                break
        except (FileNotFoundError, json.JSONDecodeError):
            pass
        time.sleep(0.005)
    if process.wait() == 0:
        sys.exit("it ended before it was killed")
    return json.loads(checkpoint.read_bytes())["rows"]


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main():
    inference, *models = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        source = folder / "leads.ndjson"
        leads(source)
        print(f"{ROWS:,} rows, {source.stat().st_size / 2**20:.0f} MiB")
        for model in models or ["lead-score"]:
            whole, parts = folder / f"{model}.whole", folder / f"{model}.parts"
            took, most, cpu, _ = measured(command(inference, model, source, whole))
            print(f"{model}: {ROWS / took:,.0f} rows/s ({took:.1f} s, {cpu / ROWS * 1e6:.1f} us of processor a row), {most:.0f} MiB at most", flush=True)
            words, checkpoint = command(inference, model, source, parts), pathlib.Path(f"{parts}.checkpoint")
            first = killed(words, checkpoint, ROWS // 4)
            second = killed(words, checkpoint, ROWS // 2)
            _, most, _, said = measured(words)
            if digest(whole) != digest(parts):
                sys.exit(f"{model}: the outputs differ")
            print(f"    killed behind {first:,} and {second:,} rows and resumed, {most:.0f} MiB at most: the same {digest(whole)[:16]}.. ({said.strip().splitlines()[-1]})")


if __name__ == "__main__":
    main()
