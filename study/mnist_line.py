"""The straight line between perceptrons trained on MNIST from different seeds, by width.

Two hidden layers of the same width, the default recipe (SGD, learning rate 0.05, momentum 0.9,
batches of 64), five epochs; five pairs a width.  The two networks of a pair differ in their initial
weights and in the order of the images.  Each row is a point of a profile.
"""

from __future__ import annotations

from typing import Any

import torch

import mcbook as mc

WIDTHS = (16, 32, 64, 128, 256, 512)
PAIRS = 5
EPOCHS = 5
POINTS = 25


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair."""
    return {
        f"width={width},pair={pair}": {"width": width, "pair": pair}
        for width in WIDTHS
        for pair in range(PAIRS)
    }


def run(width: int, pair: int) -> list[dict[str, Any]]:
    """Train the pair with the seeds `2 pair` and `2 pair + 1`, and walk from one to the other."""
    torch.set_num_threads(1)
    data = mc.load_data("mnist", device="cpu")
    a, b = (
        mc.train(
            mc.build_model("mlp", data, width=(width, width), seed=seed),
            data,
            epochs=EPOCHS,
            seed=seed,
            progress=False,
        )
        for seed in (2 * pair, 2 * pair + 1)
    )
    table = mc.profile(mc.LinearPath(a, b), data, points=POINTS, progress=False).table
    return [{"width": width, "pair": pair, **row} for row in table.to_dict("records")]


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    data = mc.load_data("mnist", device="cpu")
    return {
        "data": data.name,
        "fingerprint": data.fingerprint,
        "model": "mlp, two hidden layers",
        "epochs": EPOCHS,
        "points": POINTS,
    }
