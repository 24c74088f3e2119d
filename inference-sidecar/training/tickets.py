"""Invented support cases: Salesforce Case records with queue, priority and escalation, from a grammar and a seed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

GRAMMAR = Path(__file__).resolve().parent / "grammar" / "cases.yaml"
QUEUES = ("Billing", "Technical", "Logistics", "Account access", "Sales")
PRIORITIES = ("Low", "Medium", "High")
MOODS = ("calm", "annoyed", "furious")
ROWS = {"train": 9_000, "test": 2_000, "test, other wordings": 2_000}

SEVERITY = {  # weights of Low, Medium, High
    "Billing": (5, 4, 1),
    "Technical": (2, 4, 4),
    "Logistics": (3, 5, 2),
    "Account access": (2, 5, 3),
    "Sales": (7, 3, 0),
}
TYPES = {
    "Billing": "Question",
    "Technical": "Problem",
    "Logistics": "Problem",
    "Account access": "Problem",
    "Sales": "Question",
}
SECOND_TOPIC = 0.12  # cases that mention something for another queue
MISLABELLED = 0.05  # as people do
TYPO = 0.02  # of the words
ABSENT = 0.08  # of each field but the subject


@dataclass(frozen=True)
class Ticket:
    """A record as the CRM would send it, and what came of it."""

    record: dict[str, Any]
    queue: str
    priority: str
    escalated: bool
    mood: str


def generate(seed: int) -> dict[str, list[Ticket]]:
    grammar = yaml.safe_load(GRAMMAR.read_text(encoding="utf-8"))
    return {
        part: [Author(grammar, random.Random(f"{seed} {part} {at}"), part).ticket() for at in range(count)]
        for part, count in ROWS.items()
    }


class Author:
    def __init__(self, grammar: Mapping[str, Any], draw: random.Random, part: str) -> None:
        self.grammar, self.draw, self.other = grammar, draw, part == "test, other wordings"

    def ticket(self) -> Ticket:
        draw = self.draw
        queue = draw.choices(QUEUES, (20, 30, 20, 18, 12))[0]
        severity = draw.choices(range(3), SEVERITY[queue])[0]
        mood = draw.choices(range(3), (6 - severity, 2 + severity, severity))[0]
        reopened = draw.choices(range(5), (70, 16, 8, 4, 2))[0]
        origin = draw.choices(("Email", "Web", "Phone"), (5, 4, 2 + mood))[0]
        priority = min(2, severity + int(reopened >= 2 and draw.random() < 0.7))
        risk = -4.0 + 1.2 * mood + 0.7 * reopened + 0.9 * (priority == 2) + 0.3 * (origin == "Phone")
        record = {"Subject": self.subject(queue), "Description": self.description(queue, severity, mood, reopened)}
        record |= {
            "Origin": origin,
            "Priority": PRIORITIES[priority] if draw.random() < 0.45 else "Medium",
            "Type": TYPES[queue] if draw.random() < 0.7 else draw.choice(("Problem", "Question", "Feature Request")),
            "Reopen_Count__c": reopened,
        }
        kept = {name: value for name, value in record.items() if name == "Subject" or draw.random() >= ABSENT}
        return Ticket(
            record=kept,
            queue=draw.choice(QUEUES) if draw.random() < MISLABELLED else queue,
            priority=draw.choice(PRIORITIES) if draw.random() < MISLABELLED else PRIORITIES[priority],
            escalated=draw.random() < 1 / (1 + np.exp(-risk)),
            mood=MOODS[mood],
        )

    def subject(self, queue: str) -> str:
        return self.phrase(self.grammar["queues"][queue]["subjects"])

    def description(self, queue: str, severity: int, mood: int, reopened: int) -> str:
        grammar, draw = self.grammar, self.draw
        manner = grammar["moods"][MOODS[mood]]
        parts = [self.phrase(manner["openings"]), self.phrase(grammar["queues"][queue]["issues"])]
        if reopened and draw.random() < 0.8:
            parts.append(self.phrase(grammar["again"]))
        if draw.random() < SECOND_TOPIC:
            parts.append("By the way: " + self.phrase(grammar["queues"][draw.choice(QUEUES)]["issues"]))
        parts += [self.phrase(grammar["fillers"]) for _ in range(draw.randint(0, 2))]
        if draw.random() < 0.85:
            parts.append(self.phrase(grammar["impacts"][PRIORITIES[severity]]))
        if draw.random() < 0.8:
            parts.append(self.phrase(manner["closings"]))
        return " ".join(parts)

    def phrase(self, phrases: Sequence[str]) -> str:
        """Every fourth phrase is for the other wordings only, and these are nothing else."""
        chosen = self.draw.choice([text for at, text in enumerate(phrases) if (at % 4 == 3) == self.other])
        filled = re.sub(r"\{(\w+)\}", lambda slot: self.draw.choice(self.grammar["slots"][slot[1]]), chosen)
        return " ".join(self.typed(word) for word in filled.split(" "))

    def typed(self, word: str) -> str:
        """Two neighbouring letters change places, or one is lost."""
        if len(word) < 4 or self.draw.random() >= TYPO:
            return word
        at = self.draw.randrange(len(word) - 1)
        swapped = word[at + 1] + word[at] if self.draw.random() < 0.5 else word[at + 1]
        return word[:at] + swapped + word[at + 2 :]
