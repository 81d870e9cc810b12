"""A board of two rows for the gate, and what it says where one of them has changed."""

from __future__ import annotations

import pandas as pd

from dpbench.board.columns import KEY
from dpbench.gate.compare import compare
from dpbench.gate.findings import Tolerance

ROW = ("leaves", "resnet10t", "layer1", "gaussian", "noise_std=1.0", "decoder", "weights", "same", "1", "standard", "0")


def two_rows() -> pd.DataFrame:
    figures = {
        "status": "ok",
        "images": 50,
        **{"ssim": 0.50, "ssim_low": 0.47, "ssim_high": 0.53},
        **{"psnr_db": 20.0, "psnr_db_low": 19.2, "psnr_db_high": 20.8},
        **{"lpips": 0.40, "lpips_low": 0.37, "lpips_high": 0.43},
        **{"leakage": 0.50, "leakage_low": 0.44, "leakage_high": 0.56},
        **{"reid_top1": 0.30, "reid_top1_low": 0.20, "reid_top1_high": 0.40},
        **{"accuracy": 0.70, "accuracy_low": 0.68, "accuracy_high": 0.72},
    }
    key = dict(zip(KEY, ROW, strict=True)) | {"releases": 1}
    return pd.DataFrame([key | figures, key | figures | {"attack": "worst-case"}])


def changed(board: pd.DataFrame, **values: object) -> pd.DataFrame:
    other = board.copy()
    for column, value in values.items():
        other[column] = other[column].astype(object)
        other.loc[0, column] = value
    return other


def kinds(candidate: pd.DataFrame, baseline: pd.DataFrame, **tolerance: float) -> list[str]:
    return [f.kind for f in compare(candidate, baseline, tolerance=Tolerance(**tolerance)).findings]
