"""The two lead models: how they are fitted."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm
import numpy as np
from sklearn.linear_model import LogisticRegression

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


def fit_trees(
    train: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray], columns: Sequence[str], seed: int
) -> lightgbm.LGBMClassifier:
    """The validation accounts choose the number of trees."""
    model = lightgbm.LGBMClassifier(
        n_estimators=MAX_TREES,
        num_leaves=8,
        learning_rate=0.06,
        min_child_samples=200,
        reg_lambda=5.0,
        colsample_bytree=0.5,
        subsample=0.8,
        subsample_freq=1,
        monotone_constraints=[int(name in RISING) - int(name in FALLING) for name in columns],
        monotone_constraints_method="intermediate",
        random_state=seed,
        deterministic=True,
        force_row_wise=True,
        n_jobs=1,
        verbose=-1,
    )
    stop = lightgbm.early_stopping(30, verbose=False)
    return model.fit(*train, eval_X=valid[0], eval_y=valid[1], eval_metric="binary_logloss", callbacks=[stop])


def fit_logistic(train: tuple[np.ndarray, np.ndarray]) -> LogisticRegression:
    features, won = train
    return LogisticRegression(C=0.3, max_iter=1_000, tol=1e-8).fit(features.astype(np.float64), won)
