"""Random Lead records for a feature spec: plausible ones, and edges a parser may trip over."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

# Beyond float32's range a record has no score, so the numbers stay below it.
EDGES = (0, -0.0, -1, 1, 0.5, -1e9, 1e-30, 1e15, 123456789012345678901, 2**53 + 1, 2**63, -(2**63), 3.4e30, 1e30)
WORDS = (
    "",
    " ",
    "?",
    "n/a",
    "web",
    "WEB",
    "Größe",
    "東京",
    "🚚",
    'quote " back \\ slash / tab \t',
    "Web\u0000",
    "e\u0301",
)
STRANGERS: tuple[tuple[str, Any], ...] = (
    ("attributes", {"type": "Lead", "url": "/services/data/v62.0/sobjects/Lead/00Q000000000001"}),
    ("Description", 'Called twice.\nAsked for "pricing" & a demo \u2014 see notes {[ ]} \\'),
    ("Tags__c", ["a", ["b", {"Industry": "Healthcare"}], None, True, 1e3]),
    ("Nested__c", {"Title": "CEO", "AnnualRevenue": "none", "deep": {"deeper": [{}, []]}}),
    ("annualrevenue", 1),
    ("Id", "00Q5e00001AbCdEEAV"),
    ("Amount__c", 1.10),
)
ABSENT, NULL, STRANGER = 0.12, 0.04, 0.25


def record(
    entries: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]], draw: random.Random
) -> dict[str, Any]:
    """Half are one of the `known` leads with some fields changed; half are drawn from the spec alone."""
    made: dict[str, Any] = dict(draw.choice(known)) if draw.random() < 0.5 else {}
    change = 0.15 if made else 1.0
    for entry in entries:
        if draw.random() >= change:
            continue
        fate = draw.random()
        if fate < ABSENT:
            remove(made, entry["pointer"])
        else:
            place(made, entry["pointer"], None if fate < ABSENT + NULL else value(entry, draw))
    for name, stranger in STRANGERS:
        if draw.random() < STRANGER:
            made[name] = stranger
    members = list(made.items())
    draw.shuffle(members)
    return dict(members)


def value(entry: Mapping[str, Any], draw: random.Random) -> Any:
    if entry["type"] == "boolean":
        return draw.random() < 0.5
    if entry["type"] == "number":
        return number(draw)
    listed = entry.get("oneHot", {}).get("values") or list(entry.get("ordinal", ()))
    return draw.choice(listed) if listed and draw.random() < 0.8 else draw.choice(WORDS)


def number(draw: random.Random) -> float:
    kind = draw.random()
    if kind < 0.5:
        return draw.randint(0, 40)
    if kind < 0.75:
        return round(10 ** draw.uniform(0, 10))
    if kind < 0.9:
        return round(draw.uniform(-5, 100), draw.randint(0, 6))
    return draw.choice(EDGES)


def place(made: dict[str, Any], pointer: str, new: Any) -> None:
    """Writes through objects only; the specs drawn from here point into no array."""
    *parents, last = pointer[1:].split("/")
    target = made
    for token in parents:
        child = target.get(token)
        target[token] = dict(child) if isinstance(child, dict) else {}
        target = target[token]
    target[last] = new


def remove(made: dict[str, Any], pointer: str) -> None:
    if pointer.count("/") == 1:
        made.pop(pointer[1:], None)
    else:
        place(made, pointer, None)


def line(content: Mapping[str, Any], draw: random.Random) -> str:
    """One JSON line; half of them with \\u escapes, half in UTF-8."""
    return json.dumps(content, ensure_ascii=draw.random() < 0.5, separators=(",", ":"), allow_nan=False)
