"""Curves between adversarially trained networks on MNIST, aligned and not, clean and under attack.

Four pairs of MLPs 784-128-128-10, trained for five epochs on batches that PGD perturbs (5 steps of
0.025 in a box of 0.1 around each image), or as usual (`training` is `robust` or `ordinary`).  B is
taken as it was trained (`unaligned`) and after activation matching by correlation on 5,000 clean
training images (`aligned`).  Between robust networks a Bezier curve with one bend is fitted on
batches perturbed for the network at each `t`, for as many steps as each of them was trained.  A row
is one `t` of the straight `line` or of the `curve`: loss and accuracy on 2,000 test images, clean
(`test_…`) and attacked there by 10 such steps (`robust_…`), and how far along it (`arc`).
"""

from __future__ import annotations

from typing import Any

import torch

import mcbook as mc

PAIRS = 4
EPOCHS = 5
WIDTH = (128, 128)
POINTS = 21
RECIPE: dict[str, Any] = {"optimizer": "adam", "lr": 0.001, "batch_size": 128}
CURVE: dict[str, Any] = {"optimizer": "adam", "lr": 0.003, "schedule": "cosine", "batch_size": 128}
ATTACK = mc.PGD(epsilon=0.1, step=0.025, steps=5)
STRONGER = mc.PGD(epsilon=0.1, step=0.025, steps=10)


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair."""
    return {f"pair={pair}": {"pair": pair} for pair in range(PAIRS)}


def run(pair: int) -> list[dict[str, Any]]:
    """Train a pair both ways, fit curves between the robust ones, and attack all of them."""
    torch.set_num_threads(1)
    data = mc.load_data("mnist", device="cpu")
    measured = data.subset(test=2_000)
    rows = []
    for training, attack in {"ordinary": None, "robust": ATTACK}.items():
        a, b = (
            mc.train(
                mc.build_model("mlp", data, width=WIDTH, seed=seed),
                data,
                epochs=EPOCHS,
                seed=seed,
                progress=False,
                attack=attack,
                **RECIPE,
            )
            for seed in (2 * pair, 2 * pair + 1)
        )
        ends = {
            "unaligned": b,
            "aligned": mc.activation_matching(a, b, data, progress=False).model,
        }
        for way, end in ends.items():
            paths: dict[str, Any] = {"line": mc.LinearPath(a, end)}
            if attack is not None:
                steps = EPOCHS * -(-len(data.train) // RECIPE["batch_size"])
                paths["curve"] = mc.fit_curve(
                    a, end, data, steps=steps, seed=pair, progress=False, attack=attack, **CURVE
                )
            for name, path in paths.items():
                clean = mc.profile(path, measured, POINTS, splits=("test",), progress=False)
                found = mc.robust_profile(path, measured, STRONGER, POINTS, progress=False)
                table = clean.table[["t", "test_loss", "test_accuracy"]].assign(
                    robust_loss=found.table["test_loss"],
                    robust_accuracy=found.table["test_accuracy"],
                    arc=clean.arc,
                )
                about = {"pair": pair, "training": training, "way": way, "path": name}
                rows += [{**about, **row} for row in table.to_dict("records")]
    return rows


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    data = mc.load_data("mnist", device="cpu")
    return {
        "data": data.name,
        "fingerprint": data.fingerprint,
        "model": "mlp 784-128-128-10",
        "epochs": EPOCHS,
        "epsilon": ATTACK.epsilon,
        "points": POINTS,
    }
