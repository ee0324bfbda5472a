"""Batch norm on the line between two convolutional networks trained on CIFAR-10.

The package's `convnet` (three blocks, 16, 32 and 64 feature maps, batch norm), standardised images,
SGD with a cosine schedule from 0.1, weight decay 0.0005, five epochs in bfloat16; three pairs.
Each row is a point of a profile on the test images (float32), with the statistics re-estimated on
10,000 training images (`reset`) or interpolated like weights (`none`).
"""

from __future__ import annotations

from typing import Any

import torch

import mcbook as mc

PAIRS = 3
EPOCHS = 5
POINTS = 21


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair."""
    return {f"pair={pair}": {"pair": pair} for pair in range(PAIRS)}


def run(pair: int) -> list[dict[str, Any]]:
    """Train the pair with the seeds `2 pair` and `2 pair + 1`, and walk from one to the other."""
    torch.set_num_threads(1)
    data = mc.load_data("cifar10", device="cpu")
    a, b = (
        mc.train(
            mc.build_model("convnet", data, seed=seed, standardize=True),
            data,
            epochs=EPOCHS,
            seed=seed,
            lr=0.1,
            weight_decay=5e-4,
            batch_size=128,
            schedule="cosine",
            channels_last=True,
            precision="bfloat16",
            progress=False,
        )
        for seed in (2 * pair, 2 * pair + 1)
    )
    path = mc.LinearPath(a, b)
    rows = []
    for normalization in ("none", "reset"):
        found = mc.profile(
            path, data, POINTS, splits=("test",), normalization=normalization, progress=False
        )
        rows += [
            {"pair": pair, "normalization": normalization, **row}
            for row in found.table.to_dict("records")
        ]
    return rows


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    data = mc.load_data("cifar10", device="cpu")
    return {
        "data": "CIFAR-10, JPEG re-encoding (accuracies differ a little from the original's)",
        "fingerprint": data.fingerprint,
        "model": "convnet, width 16, batch norm, standardised",
        "epochs": EPOCHS,
        "points": POINTS,
    }
