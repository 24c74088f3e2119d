"""The two lead models: how they are fitted."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm
import numpy as np
from sklearn.linear_model import LogisticRegression

import trees

MAX_TREES = 200

# What a seller would call a defect if the score fell: the trees may not learn it from noise.
RISING = {
    "annual_revenue",
    "title_level",
    "website_visits",
    "page_views",
    "pricing_views",
    "session_minutes",
    "viewed_demo",
    "email_opens",
    "content_downloads",
    "webinars",
    "touches_7d",
    "sales_activities",
}
FALLING = {"days_since_activity"}


def fit_trees(train: trees.Part, valid: trees.Part, columns: Sequence[str], seed: int) -> lightgbm.LGBMClassifier:
    chosen = {"n_estimators": MAX_TREES, "learning_rate": 0.06, "min_child_samples": 200, "colsample_bytree": 0.5}
    return trees.fit(train, valid, columns, (RISING, FALLING), seed, **chosen)


def fit_logistic(train: tuple[np.ndarray, np.ndarray]) -> LogisticRegression:
    features, won = train
    return LogisticRegression(C=0.3, max_iter=1_000, tol=1e-8).fit(features.astype(np.float64), won)
