"""Trains the sentiment of a case on rated sentences and writes its bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

import bundle
import card
import case_examples
import graphs
import learnt
import measures
import sentences
import tickets
import tracking
from foregate_features import FeatureSpec

HERE = Path(__file__).resolve().parent
NAME, VERSION, SCRIPT = "case-sentiment", "1.0.0", "train_sentiment.py"
DATASET = "vaderSentiment 3.3.2 (rated sentences of Hutto and Gilbert, ICWSM 2014)"
SPLIT = "by review, article or tweet (sha256): 80 train, 20 test"
PENALTY = 1.0
CHUNK = 1_000
CLEAR = 0.125  # of a rating: half a point of the raters' scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of golden vectors and of the invented cases in the card")
    parser.add_argument("--out", type=Path, default=HERE.parent / "bundles", help="folder of the bundles")
    options = parser.parse_args()

    entries = learnt.read("sentiment.yaml")
    spec = FeatureSpec(entries)
    everything = sentences.load()
    rated = {name: [one for one in everything if one.split == name] for name in ("train", "test")}
    ratings = {name: np.asarray([one.rating for one in part]) for name, part in rated.items()}
    rows = {name: sparse(spec, part) for name, part in rated.items()}

    # The rating is foretold through tanh, which keeps it within -1 and 1.
    fitted = Ridge(alpha=PENALTY, solver="cholesky").fit(rows["train"].toarray(), np.arctanh(ratings["train"]))
    weights, bias = graphs.rounded(fitted.coef_.reshape(-1, 1)), graphs.rounded(np.asarray([fitted.intercept_]))
    model, output = graphs.linear(weights, bias, "score", NAME), {"name": "score", "index": 0}
    unseen = rows["test"].toarray().astype(np.float32)
    scores = measures.checked(model, output, unseen, np.tanh(unseen.astype(np.float64) @ weights + bias))[:, 0]

    truth = ratings["test"]
    metrics = measured(truth, scores)
    trained_on = {"dataset": DATASET, "licence": "MIT", "seed": options.seed, "split": SPLIT}
    made = bundle.Bundle(
        name=NAME,
        version=VERSION,
        model=model,
        output=output,
        features=entries,
        metrics=metrics,
        trained_on=trained_on,
        script=SCRIPT,
        object="Case",
        task="regression",
        trained=rows["train"].toarray().astype(np.float32),
    )
    judge = bundle.write(options.out / NAME, made, case_examples.SAMPLES, options.seed)
    sources = np.asarray([one.source for one in rated["test"]])
    text = rendered(made, len(everything), truth, scores, sources, judge, options.seed)
    (options.out / NAME / "CARD.md").write_text(text, encoding="utf-8")
    tracking.log(
        options.out / NAME, made, {"alpha": PENALTY} | {f"rows.{name}": len(part) for name, part in rated.items()}
    )
    print(NAME, metrics)


def sparse(spec: FeatureSpec, part: list[sentences.Sentence]) -> csr_matrix:
    records = [{"Description": one.text} for one in part]
    chunks = [records[at : at + CHUNK] for at in range(0, len(records), CHUNK)]
    return vstack([csr_matrix(spec.matrix(chunk)) for chunk in chunks], format="csr")


def measured(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    clear = np.abs(truth) > CLEAR
    return {
        "rmse": round(float(np.sqrt(np.mean((scores - truth) ** 2))), 4),
        "baselineRmse": round(float(truth.std()), 4),
        "correlation": round(float(np.corrcoef(truth, scores)[0, 1]), 4),
        "auc": round(float(roc_auc_score(truth > 0, scores)), 4),
        "clearAuc": round(float(roc_auc_score(truth[clear] > 0, scores[clear])), 4),
        "testRows": len(truth),
    }


def rendered(
    made: bundle.Bundle,
    count: int,
    truth: np.ndarray,
    scores: np.ndarray,
    sources: np.ndarray,
    judge: bundle.Judge,
    seed: int,
) -> str:
    spec, metrics = made.spec(), made.metrics
    results = judge.scorer.scores(spec.matrix(case_examples.NAMED.values()))
    quality = [
        "| | correlation | RMSE | AUC of the sign |",
        "|---|---|---|---|",
        f"| this model | {metrics['correlation']:.3f} | {metrics['rmse']:.3f} | {metrics['auc']:.3f} |",
        f"| this model, ratings beyond {CLEAR} | | | {metrics['clearAuc']:.3f} |",
        f"| always the mean | 0 | {metrics['baselineRmse']:.3f} | 0.500 |",
    ]
    for source in sentences.FILES:
        of = measured(truth[sources == source], scores[sources == source])
        quality.append(f"| {source} | {of['correlation']:.3f} | {of['rmse']:.3f} | {of['auc']:.3f} |")
    cases = tickets.generate(seed)["test"]
    by_mood = {mood: [case.record for case in cases if case.mood == mood] for mood in tickets.MOODS}
    moods = ", ".join(f"{mood} {judge.scorer.scores(spec.matrix(of)).mean():+.2f}" for mood, of in by_mood.items())
    quality += [
        "",
        f"{len(truth):,} sentences. Mean score of the invented cases of `case-priority` by the mood they were written in: {moods}.",
    ]
    return card.Card(
        bundle=made,
        purpose="""How a case sounds, from -1 (bitter) to 1 (delighted), from subject and description of one Salesforce Case record: hashed words and parts of words,
ridge regression, tanh.""",
        synthetic="""no, but borrowed: the sentences are of tweets, films, products and editorials, none of a support case. The records of `golden.json` are
invented here: no sentence of the set is in this repository.""",
        data=f"""The sdist of PyPI `vaderSentiment` 3.3.2 (MIT), fetched when training, not committed: {count:,} sentences, each rated by about twenty people from -4 to 4;
the mean is divided by four. Split by review, article or tweet. From C. J. Hutto and E. Gilbert, VADER, ICWSM 2014.""",
        quality="\n".join(quality),
        examples={name: f"{score:+.2f}" for name, score in zip(case_examples.NAMED, results, strict=True)},
        limits=[
            "English of 2013. Irony, negation and emoji are beyond it: words count one by one, emoji not at all.",
            "Bad news told politely sounds bad: the score is about words, not about the customer.",
            "Words are hashed into 4,093 columns: some share one. 4,096 code points of each field are read.",
        ],
    ).render()


if __name__ == "__main__":
    main()
