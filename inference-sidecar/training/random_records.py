"""Random records for a feature spec: plausible ones, and edges a parser may trip over."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import random_values

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
    ("attributes", {}),
    ("Description", 'Called twice.\nAsked for "pricing" & a demo \u2014 see notes {[ ]} \\'),
    ("Tags__c", ["a", ["b", {"Industry": "Healthcare"}], None, True, 1e3]),
    ("Nested__c", {"Title": "CEO", "AnnualRevenue": "none", "deep": {"deeper": [{}, []]}}),
    ("annualrevenue", 1),
    ("Id", "00Q5e00001AbCdEEAV"),
    ("Amount__c", 1.10),
)
ABSENT, NULL, STRANGER = 0.12, 0.04, 0.25


@dataclass
class Member:
    """A member of the record that features read, and what they take."""

    pointer: str
    kind: str
    listed: list[str]
    lenient: bool


def members(entries: Sequence[Mapping[str, Any]], keys: Mapping[str, Sequence[str]]) -> list[Member]:
    """`keys` are those of the tables of the bundle. Lenient is what all that read it are."""
    found: dict[str, Member] = {}
    for entry in entries:
        listed = entry.get("oneHot", {}).get("values") or list(entry.get("ordinal", ()))
        if "lookup" in entry:
            listed = keys[entry["lookup"]["table"]]
        ends = [entry[key] for key in ("since", "until") if entry.get(key, "now") != "now"]
        for pointer in (entry["pointer"], *entry.get("also", ()), *ends):
            known = found.setdefault(pointer, Member(pointer, entry["type"], list(listed), True))
            known.lenient &= entry.get("lenient", False)
    return list(found.values())


def record(
    known: Sequence[Mapping[str, Any]], read: Sequence[Member], draw: random.Random, kind: str = "Lead"
) -> dict[str, Any]:
    """Half are one of the `known` records with some fields changed; half are drawn from the spec alone.

    A record that says of which object it is says `kind`: the gateway scores no record of another object.
    """
    made: dict[str, Any] = dict(draw.choice(known)) if known and draw.random() < 0.5 else {}
    change = 0.15 if made else 1.0
    for member in read:
        if draw.random() >= change:
            continue
        fate = draw.random()
        if fate < ABSENT:
            remove(made, member.pointer)
        else:
            place(made, member.pointer, None if fate < ABSENT + NULL else value(member, draw))
    for name, stranger in STRANGERS:
        if draw.random() < STRANGER:
            made[name] = attributes(kind) if name == "attributes" else stranger
    fields = list(made.items())
    draw.shuffle(fields)
    return dict(fields)


def attributes(kind: str) -> dict[str, str]:
    return {"type": kind, "url": f"/services/data/v62.0/sobjects/{kind}/00Q000000000001"}


def value(member: Member, draw: random.Random) -> Any:
    if member.lenient and draw.random() < 0.3:
        return random_values.wrong(draw)
    if member.kind == "boolean":
        return draw.random() < 0.5
    if member.kind == "number":
        return number(draw)
    if member.kind == "date":
        return random_values.date(draw)
    if member.kind == "text":
        return random_values.text(draw)
    return draw.choice(member.listed) if member.listed and draw.random() < 0.8 else draw.choice(WORDS)


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
