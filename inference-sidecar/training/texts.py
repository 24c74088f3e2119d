"""Text to counts of hashed n-grams, by tables that no update of Unicode changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

LIMIT = 4_096  # code points read of each field

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
MASK = 0xFFFFFFFFFFFFFFFF

# Above ASCII everything is part of a word but these: punctuation, symbols, emoji, private use.
SEPARATORS = (
    (0x80, 0xA9),
    (0xAB, 0xB4),
    (0xB6, 0xB9),
    (0xBB, 0xBF),
    (0xD7, 0xD7),
    (0xF7, 0xF7),
    (0x2000, 0x2BFF),
    (0x2E00, 0x2E7F),
    (0x3000, 0x303F),
    (0xD800, 0xF8FF),
    (0xFE00, 0xFE6F),
    (0xFEFF, 0xFF0F),
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF65),
    (0xFFE0, 0xFFFF),
    (0x1F000, 0x1FAFF),
    (0xE0000, 0x10FFFF),
)

# Lower-case letters of Latin-1 and Latin Extended-A, and two of Romanian.
BASES = {
    "a": "àáâãäåāăą",
    "ae": "æ",
    "c": "çćĉċč",
    "d": "ďđð",
    "e": "èéêëēĕėęě",
    "g": "ĝğġģ",
    "h": "ĥħ",
    "i": "ìíîïĩīĭįı",
    "j": "ĵ",
    "k": "ķ",
    "l": "ĺļľŀł",
    "n": "ñńņň",
    "o": "òóôõöøōŏő",
    "oe": "œ",
    "r": "ŕŗř",
    "s": "śŝşšș",
    "ss": "ß",
    "t": "ţťŧț",
    "th": "þ",
    "u": "ùúûüũūŭůűų",
    "w": "ŵ",
    "y": "ýÿŷ",
    "z": "źżž",
}
UNACCENTED = {letter: base for base, letters in BASES.items() for letter in letters}
UNACCENTED |= {chr(mark): "" for mark in range(0x300, 0x370)}


def fnv1a64(data: bytes) -> int:
    """FNV-1a, 64 bits (draft-eastlake-fnv, section 2)."""
    state = FNV_OFFSET
    for byte in data:
        state = ((state ^ byte) * FNV_PRIME) & MASK
    return state


@lru_cache(maxsize=1 << 20)
def hash_of(ngram: str) -> int:
    return fnv1a64(ngram.encode())


def normalized(text: str, rules: Mapping[str, Any]) -> str:
    """Cut to LIMIT, then lower, unaccent, digits, in this order, one code point at a time."""
    text = text[:LIMIT]
    if rules.get("lower", False):
        text = "".join(letter.lower() for letter in text)
    if rules.get("unaccent", False):
        text = "".join(UNACCENTED.get(letter, letter) for letter in text)
    if "digits" in rules:
        text = "".join(rules["digits"] if "0" <= letter <= "9" else letter for letter in text)
    return text


def words(text: str) -> list[str]:
    return "".join(letter if in_word(letter) else " " for letter in text).split(" ")


@lru_cache(maxsize=1 << 16)
def in_word(letter: str) -> bool:
    if letter < "\x80":
        return letter.isalnum()
    return not any(low <= ord(letter) <= high for low, high in SEPARATORS)


def ngrams(text: str, rules: Mapping[str, Any]) -> Iterator[str]:
    """All n-grams of one normalised field."""
    parts = [word for word in words(text) if word]
    if "words" in rules:
        low, high = rules["words"]
        for count in range(low, high + 1):
            yield from (" ".join(parts[at : at + count]) for at in range(len(parts) - count + 1))
    if "chars" in rules:
        low, high = rules["chars"]
        for word in parts:
            padded = f" {word} "
            for count in range(low, high + 1):
                yield from (padded[at : at + count] for at in range(len(padded) - count + 1))


def hashed(fields: Iterable[str], normalize: Mapping[str, Any], rules: Mapping[str, Any]) -> list[float]:
    """One column a bucket; no n-gram crosses from one field into the next."""
    buckets = rules["buckets"]
    counts: dict[int, float] = {}
    for field in fields:
        for ngram in ngrams(normalized(field, normalize), rules):
            bucket = hash_of(ngram) % buckets
            counts[bucket] = counts.get(bucket, 0.0) + 1.0
    # What is zero stays so; the others are summed in the order of their columns.
    found = dict(sorted(counts.items()))
    tf = rules.get("tf", "raw")
    if tf == "log":
        found = {bucket: 1.0 + math.log(count) for bucket, count in found.items()}
    elif tf == "binary":
        found = dict.fromkeys(found, 1.0)
    if rules.get("norm", "none") == "l2":
        length = 0.0
        for column in found.values():
            length += column * column
        length = math.sqrt(length)
        found = {bucket: column / length for bucket, column in found.items()}
    columns = [0.0] * buckets
    for bucket, column in found.items():
        columns[bucket] = column
    return columns
