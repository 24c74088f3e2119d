"""Rated sentences: tweets, film reviews, product reviews and editorials, each rated by twenty people."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

import sources
import splits

OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "film reviews": "movieReviewSnippets_GroundTruth.txt",
    "product reviews": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
SCALE = 4.0  # raters chose from -4 to 4


@dataclass(frozen=True)
class Sentence:
    """`rating` is the mean of the raters, from -1 to 1."""

    source: str
    split: str
    text: str
    rating: float


def load() -> list[Sentence]:
    with tarfile.open(sources.archive("vaderSentiment-*.tar.gz")) as package:
        inner = package.extractfile(OUTER)
        if inner is None:
            raise SystemExit(f"{OUTER} is no file")
        data = inner.read()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [sentence for source, name in FILES.items() for sentence in read(archive, source, name)]


def read(archive: tarfile.TarFile, source: str, name: str) -> list[Sentence]:
    file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
    if file is None:
        raise SystemExit(f"{name} is no file")
    rows = [line.split("\t", 2) for line in file.read().decode("latin-1").splitlines() if line.strip()]
    # Snippets of one review or article are `review_snippet`: they stay in one part.
    return [
        Sentence(source, split(f"{source} {key.split('_')[0]}"), text, float(rating) / SCALE)
        for key, rating, text in rows
    ]


def split(identity: str) -> str:
    """80 % train, 20 % test."""
    return "train" if splits.percent(identity) < 80 else "test"
