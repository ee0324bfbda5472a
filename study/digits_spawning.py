"""How long two networks must train together before a straight line joins them: digits, label noise.

A perceptron with two hidden layers of 128 units on the embedded digits, a fifth of the training
labels wrong, SGD with learning rate 0.1 and momentum 0.9, batches of 16, 30 epochs in all; two
copies part after `shared` epochs.  Eight pairs; each row is one pair at one fork.
"""

from __future__ import annotations

from typing import Any

import torch

import mcbook as mc

SHARED = (0, 0.1, 0.5, 1, 2, 3, 5, 10, 15, 20, 25)
PAIRS = 8
EPOCHS = 30
NOISE = 0.2


def _data() -> mc.Data:
    return mc.load_data("digits", device="cpu").subset(train=1280).with_label_noise(NOISE)


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair and fork."""
    return {
        f"shared={shared},pair={pair}": {"shared": shared, "pair": pair}
        for shared in SHARED
        for pair in range(PAIRS)
    }


def run(shared: float, pair: int) -> list[dict[str, Any]]:
    """Spawn a pair from the initial weights of seed `pair`, and measure the line between them."""
    torch.set_num_threads(1)
    data = _data()
    start = mc.build_model("mlp", data, width=(128, 128), seed=pair)
    a, b = mc.spawn(
        start,
        data,
        shared_epochs=shared,
        epochs=EPOCHS,
        seeds=(2 * pair, 2 * pair + 1),
        lr=0.1,
        batch_size=16,
        progress=False,
    )
    found = mc.profile(mc.LinearPath(a, b), data, points=31, progress=False)
    row = {
        f"{split}_{what}_barrier": found.barrier(split, what)
        for split in ("train", "test")
        for what in ("loss", "accuracy")
    }
    for end, network in (("a", a), ("b", b)):
        row[f"test_accuracy_{end}"] = mc.evaluate(network, data.test)[1]
    distance = float(found.table["distance_b"].iloc[0])
    return [{"shared": float(shared), "pair": pair, "distance": distance, **row}]


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    data = _data()
    return {
        "data": data.name,
        "fingerprint": data.fingerprint,
        "model": "mlp, two hidden layers of 128",
        "epochs": EPOCHS,
        "label_noise": NOISE,
    }
