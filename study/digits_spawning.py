"""How long two networks must train together before a straight line joins them: noisy digits.

A perceptron with two hidden layers of 128 units on the embedded digits (1,280 training images, so
that batches of 16 are full), a fifth of the training labels wrong, SGD with momentum 0.9 and a
cosine schedule from learning rate 0.1, 30 epochs in all; two copies part after `shared` epochs.
Eight pairs; each row is one pair.  Three controls part at once (`shared` = 0): `small steps` with
learning rate 0.01, `no momentum` with momentum 0, `clean labels` without label noise.
"""

from __future__ import annotations

from typing import Any

import torch

import mcbook as mc

SHARED = (0, 0.1, 0.5, 1, 2, 3, 5, 7, 10, 15, 20)
PAIRS = 8
EPOCHS = 30
NOISE = 0.2
CONTROLS: dict[str, dict[str, float]] = {
    "small steps": {"lr": 0.01},
    "no momentum": {"momentum": 0.0},
    "clean labels": {"noise": 0.0},
}


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair, fork and variant."""
    forks = {
        f"shared={shared},pair={pair}": {"shared": shared, "pair": pair}
        for shared in SHARED
        for pair in range(PAIRS)
    }
    controls = {
        f"{variant.replace(' ', '-')},pair={pair}": {"shared": 0, "pair": pair, "variant": variant}
        for variant in CONTROLS
        for pair in range(PAIRS)
    }
    return forks | controls


def run(shared: float, pair: int, variant: str = "noisy labels") -> list[dict[str, Any]]:
    """Spawn a pair from the initial weights of seed `pair`, and measure the line between them."""
    torch.set_num_threads(1)
    recipe = {"lr": 0.1, "momentum": 0.9, "noise": NOISE, **CONTROLS.get(variant, {})}
    data = mc.load_data("digits", device="cpu").subset(train=1280)
    data = data.with_label_noise(recipe.pop("noise"))
    ends = mc.spawn(
        mc.build_model("mlp", data, width=(128, 128), seed=pair),
        data,
        shared_epochs=shared,
        epochs=EPOCHS,
        seeds=(2 * pair, 2 * pair + 1),
        batch_size=16,
        schedule="cosine",
        progress=False,
        **recipe,
    )
    found = mc.profile(mc.LinearPath(*ends), data, points=31, progress=False)
    row: dict[str, Any] = {"variant": variant, "shared": float(shared), "pair": pair}
    for split in ("train", "test"):
        for what in ("loss", "accuracy"):
            row[f"{split}_{what}_barrier"] = found.barrier(split, what)
    for end, network in zip("ab", ends, strict=True):
        row[f"test_accuracy_{end}"] = mc.evaluate(network, data.test)[1]
    row["distance"] = float(found.table["distance_b"].iloc[0])
    return [row]


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    data = mc.load_data("digits", device="cpu").subset(train=1280).with_label_noise(NOISE)
    return {
        "data": data.name,
        "fingerprint": data.fingerprint,
        "model": "mlp, two hidden layers of 128",
        "epochs": EPOCHS,
    }
