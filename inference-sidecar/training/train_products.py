"""Trains product recommendations on invented accounts and writes their bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

import baskets
import bundle
import card
import graphs
import learnt
import measures
import tables
import tracking
from foregate_features import FeatureSpec
from scorer import top

HERE = Path(__file__).resolve().parent
NAME, VERSION, SCRIPT = "product-next", "1.0.0", "train_products.py"
SPLIT = "by account (its number): 80 train, 20 test"
WIDTH, HISTORY = 32, 8  # of item embeddings, of what a last product says
K = 5
PENALTY = 3.0

NAMED: dict[str, dict[str, Any]] = {
    "a factory with a gateway": {
        "Name": "Harbor Mills",
        "Industry": "Manufacturing",
        "NumberOfEmployees": 3100,
        "Products__c": "GW100;GW110;SN130",
        "Last_Product__c": "GW110",
    },
    "a carrier with cameras": {
        "Name": "Northwind Freight",
        "Industry": "Transportation",
        "NumberOfEmployees": 240,
        "Products__c": "CM100;CM150;LC170;RT120",
        "Last_Product__c": "CM150",
    },
    "nothing bought yet": {"Industry": "Retail", "NumberOfEmployees": 35},
    "empty record": {},
}
EXTREMES: list[dict[str, Any]] = [
    {"Products__c": None, "Last_Product__c": None, "Industry": None, "NumberOfEmployees": None},
    {"Products__c": "gw100; SN130 ;;", "Last_Product__c": "gw100", "Industry": "retail", "NumberOfEmployees": -4},
    {"Products__c": "DISCONTINUED-7;🚚", "Last_Product__c": "XX999", "NumberOfEmployees": 2000},
    {"Products__c": "SP210;" * 700, "Last_Product__c": "SP210", "attributes": {"type": "Account"}},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of the invented world and of golden vectors")
    parser.add_argument("--out", type=Path, default=HERE.parent / "bundles", help="folder of the bundles")
    options = parser.parse_args()

    products = baskets.catalogue()
    accounts = baskets.World(options.seed).accounts()
    parts = {name: [one for one in accounts if one.split == name] for name in ("train", "test")}
    entries = learnt.read("products.yaml")
    history = graphs.rounded(together(parts["train"], len(products)))
    draft = {"products": table(products, {"history": history})}
    spec = FeatureSpec(entries, {name: tables.Table.parse(data) for name, data in draft.items()})
    rows = {name: spec.matrix([one.record for one in part]) for name, part in parts.items()}
    bought = {name: np.asarray([one.bought for one in part]) for name, part in parts.items()}

    fitted = LogisticRegression(C=PENALTY, max_iter=300).fit(
        csr_matrix(rows["train"].astype(np.float64)), bought["train"]
    )
    weights, bias, items = (graphs.rounded(part) for part in factors(fitted, rows["train"]))
    model = graphs.linear(weights, bias, "query", NAME)
    queries = measures.checked(model, {"name": "query"}, rows["test"], rows["test"].astype(np.float64) @ weights + bias)

    counts = np.bincount(bought["train"], minlength=len(products))
    popular = np.tile(np.argsort(-counts, kind="stable")[:K], (len(bought["test"]), 1))
    best = top(queries.astype(np.float32), items.astype(np.float32), K)
    full = np.argsort(-fitted.decision_function(rows["test"]), axis=1, kind="stable")[:, :K]
    owned = np.asarray([[item in one.owned for item in row] for one, row in zip(parts["test"], best, strict=True)])
    metrics = {
        f"recallAt{K}": recall(bought["test"], best),
        f"popularityRecallAt{K}": recall(bought["test"], popular),
        f"togetherRecallAt{K}": recall(bought["test"], neighbours(parts, len(products))),
        f"fullRecallAt{K}": recall(bought["test"], full),
        "ownedShare": round(float(owned.mean()), 4),
        "testRows": len(bought["test"]),
    }
    trained_on = {
        "dataset": "invented accounts (baskets.py)",
        "licence": "Apache-2.0",
        "seed": options.seed,
        "split": SPLIT,
    }
    made = bundle.Bundle(
        name=NAME,
        version=VERSION,
        model=model,
        output={"name": "query"},
        features=entries,
        metrics=metrics,
        trained_on=trained_on,
        script=SCRIPT,
        object="Account",
        task="ranking",
        items={"table": "products", "column": "embedding", "k": K},
        tables={"products": table(products, {"embedding": items, "history": history})},
        trained=rows["train"],
    )
    judge = bundle.write(options.out / NAME, made, [*NAMED.values(), *EXTREMES], options.seed)
    examples = [result["items"] for result in judge.results(spec.matrix(NAMED.values()))]
    (options.out / NAME / "CARD.md").write_text(rendered(made, len(parts["train"]), examples), encoding="utf-8")
    tracking.log(options.out / NAME, made, {"C": PENALTY, "width": WIDTH, "products": len(products)})
    print(NAME, metrics)


def table(products: Sequence[baskets.Product], columns: dict[str, np.ndarray]) -> bytes:
    rows = [
        {"key": product.key, "label": product.label}
        | {name: [float(str(np.float32(cell))) for cell in cells[at]] for name, cells in columns.items()}
        for at, product in enumerate(products)
    ]
    return tables.write({name: cells.shape[1] for name, cells in columns.items()}, rows)


def pairs(part: Sequence[baskets.Basket], count: int) -> np.ndarray:
    """How often a product (row) was owned when another (column) was bought."""
    found = np.zeros((count, count))
    for basket in part:
        found[list(basket.owned), basket.bought] += 1.0
    return found


def together(part: Sequence[baskets.Basket], count: int) -> np.ndarray:
    """Each product by what is bought after it: the first HISTORY singular vectors of positive mutual information."""
    found = pairs(part, count)
    expected = found.sum(axis=1, keepdims=True) * found.sum(axis=0, keepdims=True) / found.sum()
    positive = np.log(np.maximum(found / np.maximum(expected, 1e-9), 1.0))
    left, sizes, _ = np.linalg.svd(positive)
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(count)])
    return (left * signs)[:, :HISTORY] * np.sqrt(sizes[:HISTORY])


def factors(fitted: LogisticRegression, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query weights [columns, WIDTH], query bias and item embeddings [items, WIDTH] whose products come near the logits.

    The directions are the first WIDTH - 1 principal ones of the logits over the training rows; the last column of the
    query is 1, and that of an item the part of its mean logit that the others do not give.
    """
    weights, bias = fitted.coef_.T, fitted.intercept_
    weights, bias = weights - weights.mean(axis=1, keepdims=True), bias - bias.mean()
    mean = features.astype(np.float64).mean(axis=0) @ weights + bias
    spread = features.astype(np.float64) @ weights + bias - mean
    _, axes = np.linalg.eigh(spread.T @ spread)
    axes = axes[:, ::-1][:, : WIDTH - 1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(WIDTH - 1)])
    query = np.hstack([weights @ axes, np.zeros((len(weights), 1))])
    shift = np.append((bias - mean) @ axes, 1.0)
    return query, shift, np.hstack([axes, mean[:, None]])


def recall(bought: np.ndarray, best: np.ndarray) -> float:
    return round(float((best == bought[:, None]).any(axis=1).mean()), 4)


def neighbours(parts: dict[str, list[baskets.Basket]], count: int) -> np.ndarray:
    """What was bought most often by those who own the same, without what is owned."""
    found = pairs(parts["train"], count)
    share = found / np.maximum(found.sum(axis=1, keepdims=True), 1.0)
    best = []
    for basket in parts["test"]:
        total = share[list(basket.owned)].sum(axis=0)
        total[list(basket.owned)] = -1.0
        best.append(np.argsort(-total, kind="stable")[:K])
    return np.asarray(best)


def rendered(made: bundle.Bundle, train_rows: int, examples: list[list[str]]) -> str:
    metrics, products = made.metrics, len(baskets.catalogue())
    return card.Card(
        bundle=made,
        purpose=f"""The {K} of {products} products that an account is likeliest to buy next, from one Salesforce Account record: a linear query, and the items with the largest dot
product, all of them compared.""",
        synthetic="**entirely.** Products, accounts and purchases are drawn from a seed; the numbers say that the path from record to ranking works.",
        data=f"""`baskets.py`: {baskets.ACCOUNTS:,} accounts of {len(baskets.INDUSTRIES)} industries and {len(baskets.SIZES)} sizes buy {baskets.BOUGHT[0]} to {baskets.BOUGHT[1]} products each, never one twice: in {baskets.BECAUSE_OF_OWNED:.0%} because of what they own (each product
calls for {baskets.COMPLEMENTS} others), in {baskets.BECAUSE_OF_SEGMENT:.0%} by the taste of their industry and size, else by popularity. The last purchase is to be foretold from those before.
Each field but the products is absent in {baskets.FIELD_ABSENT:.0%}. Split by account: {train_rows:,} train, {metrics["testRows"]:,} test.

A softmax regression over all products is reduced to {WIDTH} dimensions (principal directions of its logits); `products.json` holds the items.""",
        quality=f"""| | recall@{K} |
|---|---|
| this model | {metrics[f"recallAt{K}"]:.4f} |
| the regression before it is reduced | {metrics[f"fullRecallAt{K}"]:.4f} |
| what others bought who own the same, owned products left out | {metrics[f"togetherRecallAt{K}"]:.4f} |
| the {K} most popular products for everyone | {metrics[f"popularityRecallAt{K}"]:.4f} |

{metrics["testRows"]:,} accounts. Of what is recommended {metrics["ownedShare"]:.1%} is owned already: nothing filters it.""",
        examples={name: ", ".join(items) for name, items in zip(NAMED, examples, strict=True)},
        limits=[
            "Product codes match exactly, case included; an unknown one says nothing.",
            "What is owned already may come up: let the receiver leave it out.",
            "Codes are hashed into 1,021 columns; two of the products could share one.",
        ],
    ).render()


if __name__ == "__main__":
    main()
