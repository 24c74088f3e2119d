"""The model card of a bundle, in the order that all of them keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bundle import Bundle

SIMULATED = (
    "Demonstration, tests and benchmarks of Foregate, and a pattern for your own model. **Do not decide about real people or "
    "companies with it**: train on your own CRM, then replace the bundle."
)


@dataclass(frozen=True)
class Card:
    """`synthetic` says in one word or sentence what of the data is invented."""

    bundle: Bundle
    purpose: str
    synthetic: str
    data: str
    quality: str
    examples: Mapping[str, str]
    limits: Sequence[str]
    use: str = SIMULATED

    def render(self) -> str:
        examples = "\n".join(f"| {name} | {result} |" for name, result in self.examples.items())
        limits = "\n".join(f"- {limit}" for limit in self.limits)
        return f"""# {self.bundle.name} {self.bundle.version}

{self.purpose}

## Intended use

{self.use}

## Data

Synthetic: {self.synthetic}

{self.data}

## Quality on unseen records

{self.quality}

## Examples in golden.json

| record | result |
|---|---|
{examples}

## Limits

{limits}

## Retrain

`{self.bundle.script}`; see `inference-sidecar/training/README.md`.
"""
