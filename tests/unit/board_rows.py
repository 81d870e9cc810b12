"""Rows of a board, by what they must hold, and figures to make some of."""

from __future__ import annotations

import numpy as np
import pandas as pd
from record_factory import make_record

from dpbench.board.columns import WORST_CASE


def row(board: pd.DataFrame, **wanted: object) -> pd.Series:
    found = board
    for column, value in wanted.items():
        found = found[found[column] == value]
    assert len(found) == 1, found
    return found.iloc[0]


def worst(board: pd.DataFrame, **wanted: object) -> pd.Series:
    return row(board, attack=WORST_CASE, **wanted)


def spread(mean: float, count: int = 60, seed: int = 0, width: float = 0.1) -> list[float]:
    return np.random.default_rng(seed).normal(mean, width, count).tolist()


SCALE = [make_record(attack="mean-image", ssim=0.1), make_record(attack="decoder", ssim=0.9)]


def with_interval(column: str) -> list[str]:
    return [column, f"{column}_low", f"{column}_high"]


DOCUMENTED = [
    *"dataset backbone split_point defense defense_args attack threat_model auxiliary releases budget seed".split(),
    *"status images ensemble converged".split(),
    *(c for m in ("accuracy", "accuracy_drop", "ssim", "psnr_db", "lpips", "mse") for c in with_interval(m)),
    *(c for m in ("reid_top1", "reid_top5", "label_read") for c in with_interval(m)),
    *(
        c
        for m in ("leakage", "leakage_ssim", "leakage_psnr_db", "leakage_lpips", "mse_bound")
        for c in with_interval(m)
    ),
    *"accuracy_spread ssim_spread leakage_spread reid_chance judge_accuracy epsilon delta seconds".split(),
    *"release_bits trained_on tied origin error cell".split(),
]
