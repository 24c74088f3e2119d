"""Trains case triage on invented cases and writes the bundles of queue, priority and escalation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss

import bundle
import card
import case_examples
import graphs
import learnt
import measures
import tickets
import tracking
from foregate_features import FeatureSpec

HERE = Path(__file__).resolve().parent
VERSION, SCRIPT = "1.0.0", "train_cases.py"
DATASET = "invented cases (grammar/cases.yaml)"
SPLIT = "9000 train, 2000 test, 2000 test with phrases never trained on"
KNOWN, OTHER = "test", "test, other wordings"
PENALTY = 0.3
LINES = {
    "case-priority": "The priority that a case deserves (Low, Medium, High), from one Salesforce Case record",
    "case-queue": f"The queue that a case belongs to ({', '.join(tickets.QUEUES)}), from one Salesforce Case record",
    "case-escalation": "The probability that a case is escalated, from one Salesforce Case record",
}


@dataclass(frozen=True)
class Part:
    """The rows of one part, and what is to be foretold about each."""

    features: np.ndarray
    truth: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of the invented cases and of golden vectors")
    parser.add_argument("--out", type=Path, default=HERE.parent / "bundles", help="folder of the bundles")
    options = parser.parse_args()

    written = tickets.generate(options.seed)
    entries = learnt.read("cases.yaml")
    spec = FeatureSpec(entries)
    rows = {name: spec.matrix([ticket.record for ticket in part]) for name, part in written.items()}
    wanted: dict[str, tuple[list[str] | None, dict[str, np.ndarray]]] = {
        "case-priority": (list(tickets.PRIORITIES), truths(written, lambda t: tickets.PRIORITIES.index(t.priority))),
        "case-queue": (list(tickets.QUEUES), truths(written, lambda t: tickets.QUEUES.index(t.queue))),
        "case-escalation": (None, truths(written, lambda t: int(t.escalated))),
    }
    for name, (labels, truth) in wanted.items():
        parts = {part: Part(rows[part], truth[part]) for part in rows}
        train(name, labels, entries, parts, options.seed, options.out / name)


def truths(written: dict[str, list[tickets.Ticket]], of: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray([of(ticket) for ticket in part]) for name, part in written.items()}


def train(
    name: str,
    labels: list[str] | None,
    entries: list[dict[str, Any]],
    parts: dict[str, Part],
    seed: int,
    folder: Path,
) -> None:
    fitted = LogisticRegression(C=PENALTY, max_iter=2_000, tol=1e-6)
    fitted.fit(csr_matrix(parts["train"].features.astype(np.float64)), parts["train"].truth)
    weights, bias = graphs.rounded(fitted.coef_.T), graphs.rounded(fitted.intercept_)
    fitted.coef_, fitted.intercept_ = weights.T, bias
    if labels:
        model, output = graphs.linear(weights, bias, "probabilities", name), {"name": "probabilities", "labels": labels}
    else:
        model, output = graphs.linear(weights, bias, "probability", name), {"name": "probability", "index": 0}
    columns = {}
    for part in (KNOWN, OTHER):
        expected = fitted.predict_proba(parts[part].features)
        columns[part] = measures.checked(model, output, parts[part].features, expected if labels else expected[:, 1])

    trained_on = {"dataset": DATASET, "licence": "Apache-2.0", "seed": seed, "split": SPLIT}
    scored = {part: measured(labels, parts[part].truth, columns[part]) for part in columns}
    metrics = scored[KNOWN] | {
        f"other{key[0].upper()}{key[1:]}": value for key, value in scored[OTHER].items() if key != "testRows"
    }
    made = bundle.Bundle(
        name=name,
        version=VERSION,
        model=model,
        output=output,
        features=entries,
        metrics=metrics,
        trained_on=trained_on,
        script=SCRIPT,
        object="Case",
        trained=parts["train"].features,
    )
    judge = bundle.write(folder, made, case_examples.SAMPLES, seed)
    (folder / "CARD.md").write_text(rendered(made, labels, parts, columns, scored, judge), encoding="utf-8")
    tracking.log(folder, made, {"C": PENALTY, "rows": sum(tickets.ROWS.values())})
    print(name, metrics)


def measured(labels: Sequence[str] | None, truth: np.ndarray, columns: np.ndarray) -> dict[str, float]:
    if not labels:
        return measures.binary(truth, columns[:, 0])
    shares = columns / columns.sum(axis=1, keepdims=True)
    return {
        "accuracy": round(float(accuracy_score(truth, columns.argmax(axis=1))), 4),
        "macroF1": round(float(f1_score(truth, columns.argmax(axis=1), average="macro")), 4),
        "logLoss": round(float(log_loss(truth, shares, labels=range(len(labels)))), 4),
        "testRows": len(truth),
    }


def rendered(
    made: bundle.Bundle,
    labels: list[str] | None,
    parts: dict[str, Part],
    columns: dict[str, np.ndarray],
    scored: dict[str, dict[str, float]],
    judge: bundle.Judge,
) -> str:
    results = judge.scorer.columns(made.spec().matrix(case_examples.NAMED.values()))
    return card.Card(
        bundle=made,
        purpose=f"{LINES[made.name]}: hashed words and a {'softmax' if labels else 'logistic'} regression.",
        synthetic="""**entirely.** Every case, its words and what came of it are put together from a grammar by a seed. The numbers below say that the
whole path from text to score works; they say nothing about real cases.""",
        data=f"""`grammar/cases.yaml` holds the phrases, `tickets.py` the odds: queue, severity and mood are drawn, and with them the phrases, origin and
times reopened. The reported priority follows the truth in under half of the cases, {tickets.MISLABELLED:.0%} of queues and priorities are labelled at random as people do,
{tickets.TYPO:.0%} of the words have a typing error, {tickets.ABSENT:.0%} of each field but the subject are missing, {tickets.SECOND_TOPIC:.0%} of the cases mention something for another queue.

Of each list of phrases every fourth is kept from training: {tickets.ROWS["train"]:,} cases train, {tickets.ROWS[KNOWN]:,} test in the same wordings, {tickets.ROWS[OTHER]:,} in the others alone.""",
        quality=quality(labels, parts, columns, scored),
        examples={name: result(labels, row) for name, row in zip(case_examples.NAMED, results, strict=True)},
        limits=[
            "English, and the vocabulary of one invented seller of devices. Text in other languages scores as if it said little.",
            "How much is lost on wordings that were never seen, the table says: train on your own cases.",
            "Words are hashed into 1,021 columns: some share one. 4,096 code points of each field are read.",
            "Whoever knows the phrases can write a case that is ranked higher: let no single score decide.",
        ],
    ).render()


def quality(
    labels: list[str] | None,
    parts: dict[str, Part],
    columns: dict[str, np.ndarray],
    scored: dict[str, dict[str, float]],
) -> str:
    named = {KNOWN: "known wordings", OTHER: "other wordings"}
    if not labels:
        lines = ["| | AUC | log loss | Brier |", "|---|---|---|---|"]
        lines += [
            f"| {named[part]} | {of['auc']:.4f} | {of['logLoss']:.4f} | {of['brier']:.4f} |"
            for part, of in scored.items()
        ]
        error, table = measures.calibration(parts[KNOWN].truth, columns[KNOWN][:, 0])
        lines += [
            measures.base_rate_row(parts[KNOWN].truth, 3),
            "",
            f"Calibration in tenths by score (error {error:.4f}), known wordings:",
        ]
        return "\n".join([*lines, "", "| mean score | escalated |", "|---|---|", table])
    lines = ["| | accuracy | macro F1 | log loss |", "|---|---|---|---|"]
    lines += [
        f"| {named[part]} | {of['accuracy']:.4f} | {of['macroF1']:.4f} | {of['logLoss']:.4f} |"
        for part, of in scored.items()
    ]
    share = np.bincount(parts[KNOWN].truth).max() / len(parts[KNOWN].truth)
    lines += [
        f"| always the most frequent | {share:.4f} | | |",
        "",
        "Known wordings, truth by row and answer by column:",
        "",
    ]
    lines += ["| | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    answers = columns[KNOWN].argmax(axis=1)
    for at, label in enumerate(labels):
        counts = np.bincount(answers[parts[KNOWN].truth == at], minlength=len(labels))
        lines.append(f"| {label} | " + " | ".join(str(count) for count in counts) + " |")
    return "\n".join(lines)


def result(labels: list[str] | None, row: np.ndarray) -> str:
    if not labels:
        return f"{row[0]:.3f}"
    return f"{labels[int(row.argmax())]} ({row.max():.2f})"


if __name__ == "__main__":
    main()
