"""Boosted trees that may not learn from noise what a seller would call a defect."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import lightgbm
import numpy as np

Part = tuple[np.ndarray, np.ndarray]


def fit(
    train: Part,
    valid: Part,
    columns: Sequence[str],
    monotone: tuple[Collection[str], Collection[str]],
    seed: int,
    **chosen: Any,
) -> lightgbm.LGBMClassifier:
    """`monotone` names the columns with which the score rises, and those with which it falls.

    The validation accounts choose the number of trees.
    """
    rising, falling = monotone
    model = lightgbm.LGBMClassifier(
        **chosen,
        num_leaves=8,
        reg_lambda=5.0,
        subsample=0.8,
        subsample_freq=1,
        monotone_constraints=[int(name in rising) - int(name in falling) for name in columns],
        monotone_constraints_method="intermediate",
        random_state=seed,
        deterministic=True,
        force_row_wise=True,
        n_jobs=1,
        verbose=-1,
    )
    stop = lightgbm.early_stopping(30, verbose=False)
    return model.fit(*train, eval_X=valid[0], eval_y=valid[1], eval_metric="binary_logloss", callbacks=[stop])
