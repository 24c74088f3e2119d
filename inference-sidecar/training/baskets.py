"""Invented accounts and what they bought, one product after another, from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

FAMILIES = {
    "GW": "Gateway",
    "RT": "Router",
    "SN": "Sensor",
    "CM": "Camera",
    "BT": "Battery",
    "PM": "Pump",
    "LC": "Licence",
    "SP": "Support plan",
}
MODELS = 12  # of each family
INDUSTRIES = ("Manufacturing", "Transportation", "Healthcare", "Retail", "Energy")
SIZES = ((20, 200), (200, 2_000), (2_000, 20_000))  # employees
ACCOUNTS = 24_000
BOUGHT = (3, 9)  # products of an account, the last of which is to be foretold
COMPLEMENTS = 3  # that go with each product
USES = 6  # dimensions in which they fit
BECAUSE_OF_OWNED, BECAUSE_OF_SEGMENT = 0.55, 0.35  # the rest follows popularity alone
FIELD_ABSENT = 0.06


@dataclass(frozen=True)
class Product:
    key: str
    label: str


@dataclass(frozen=True)
class Basket:
    """An Account record before its last purchase, and that purchase."""

    split: str
    record: dict[str, Any]
    owned: tuple[int, ...]
    bought: int


def catalogue() -> list[Product]:
    return [
        Product(f"{code}{100 + 10 * number}", f"{family} {100 + 10 * number}")
        for code, family in FAMILIES.items()
        for number in range(MODELS)
    ]


class World:
    """Who likes what, and what goes with what."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        count = len(FAMILIES) * MODELS
        self.popularity = normal(
            1.0 / (1.0 + self.rng.permuted(np.tile(np.arange(MODELS), (len(FAMILIES), 1)), axis=1))
        )
        segments = len(INDUSTRIES) * len(SIZES)
        taste = self.rng.dirichlet(np.full(len(FAMILIES), 0.5), segments)
        models = self.rng.dirichlet(np.full(MODELS, 0.7), (segments, len(FAMILIES)))
        self.taste = (taste[:, :, None] * models).reshape(segments, count)
        # What a product asks for lies in one direction of a small space, what it is in another.
        offers, needs = self.rng.normal(size=(2, count, USES))
        fit = needs @ offers.T - 1e9 * np.eye(count)
        self.complements = np.argsort(-fit, axis=1, kind="stable")[:, :COMPLEMENTS]

    def accounts(self) -> list[Basket]:
        return [self.account(at) for at in range(ACCOUNTS)]

    def account(self, at: int) -> Basket:
        rng, keys = self.rng, [product.key for product in catalogue()]
        industry, size = int(rng.integers(len(INDUSTRIES))), int(rng.integers(len(SIZES)))
        owned: list[int] = []
        for _ in range(int(rng.integers(BOUGHT[0], BOUGHT[1] + 1))):
            owned.append(self.purchase(industry * len(SIZES) + size, owned))
        before, last = owned[:-1], owned[-1]
        record = {
            "Industry": INDUSTRIES[industry],
            "NumberOfEmployees": int(np.exp(rng.uniform(*np.log(SIZES[size])))),
            "Products__c": ";".join(sorted(keys[product] for product in before)),
            "Last_Product__c": keys[before[-1]],
        }
        kept = {name: value for name, value in record.items() if name == "Products__c" or rng.random() >= FIELD_ABSENT}
        return Basket("test" if at % 5 == 4 else "train", kept, tuple(before), last)

    def purchase(self, segment: int, owned: list[int]) -> int:
        """Something that is not owned yet."""
        while True:
            cause = self.rng.random()
            if owned and cause < BECAUSE_OF_OWNED:
                # The newer a product, the more it asks for what goes with it.
                reason = owned[-1 - min(int(self.rng.geometric(0.5)) - 1, len(owned) - 1)]
                chosen = int(self.rng.choice(self.complements[reason]))
            elif cause < BECAUSE_OF_OWNED + BECAUSE_OF_SEGMENT:
                chosen = int(self.rng.choice(len(self.popularity), p=self.taste[segment]))
            else:
                chosen = int(self.rng.choice(len(self.popularity), p=self.popularity))
            if chosen not in owned:
                return chosen


def normal(weights: np.ndarray) -> np.ndarray:
    flat = weights.reshape(-1)
    return flat / flat.sum()
