"""What is left of the wall on MNIST if commutativity, or weak additivity, is made to hold.

Perceptrons with three hidden layers of 512 units, five epochs in batches of 500, with Adam
(learning rate 0.001) or SGD (momentum 0.9, learning rate 0.1); four pairs each of networks with
different initial weights, as trained (`independent`) or the second aligned by its weights.
Half-way between the two, A, B and the mixed network run side by side on the 10,000 test images.
What a linear layer lacks of commutativity, `(W_A - W_B)(h_A - h_B) / 4`, is added to its output in
the mixed network where `mended` says so; likewise what an activation lacks of weak additivity.
Each row is the test loss and error of the mixed network, so mended; `ends` is the mean of both
ends, `blend` the blend of their logits.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc

RECIPES: dict[str, dict[str, Any]] = {
    "SGD 0.1": {"optimizer": "sgd", "lr": 0.1},
    "Adam 0.001": {"optimizer": "adam", "lr": 0.001},
}
PAIRS = 4
EPOCHS = 5
BATCH = 500
WIDTH = (512, 512, 512)
CURES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "weak additivity": {"relu": True},
    "commutativity": {"linear": (1, 2, 3, 4)},
    "only before the output": {"linear": (1, 2, 3)},
    "only at the output": {"linear": (4,)},
    "both": {"linear": (1, 2, 3, 4), "relu": True},
}


def jobs() -> dict[str, dict[str, Any]]:
    """One job a recipe and pair."""
    return {
        f"{recipe.replace(' ', '-')},pair={pair}": {"recipe": recipe, "pair": pair}
        for recipe in RECIPES
        for pair in range(PAIRS)
    }


def layers_of(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every linear layer, float64."""
    parts = [part for part in model.modules() if isinstance(part, nn.Linear)]
    return [(part.weight.detach().double(), part.bias.detach().double()) for part in parts]


def mended(
    a: nn.Module, b: nn.Module, x: Tensor, linear: Collection[int] = (), relu: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of A, of B, and of the network half-way with the failures mended."""
    h_a = h_b = h = x.flatten(1).double()
    stack = list(zip(layers_of(a), layers_of(b), strict=True))
    for number, ((w_a, bias_a), (w_b, bias_b)) in enumerate(stack, 1):
        z_a, z_b = h_a @ w_a.T + bias_a, h_b @ w_b.T + bias_b
        z = h @ (w_a + w_b).T / 2 + (bias_a + bias_b) / 2
        if number in linear:
            z = z + (h_a - h_b) @ (w_a - w_b).T / 4
        if number < len(stack):
            h_a, h_b, h = z_a.relu(), z_b.relu(), z.relu()
            if relu:
                h = h + (h_a + h_b) / 2 - ((z_a + z_b) / 2).relu()
    return z_a, z_b, z


def run(recipe: str, pair: int) -> list[dict[str, Any]]:
    """Train the pair with the seeds `2 pair` and `2 pair + 1`, and mend what is between."""
    torch.set_num_threads(1)
    data = mc.load_data("mnist", device="cpu")
    a, b = (
        mc.train(
            mc.build_model("mlp", data, width=WIDTH, seed=seed),
            data,
            epochs=EPOCHS,
            seed=seed,
            batch_size=BATCH,
            progress=False,
            **RECIPES[recipe],
        )
        for seed in (2 * pair, 2 * pair + 1)
    )
    y = data.test.y

    def measured(z: Tensor) -> dict[str, float]:
        return {
            "loss": float(F.cross_entropy(z, y)),
            "error": float((z.argmax(1) != y).double().mean()),
        }

    rows = []
    for way, end in {"independent": b, "weight matching": mc.weight_matching(a, b).model}.items():
        found: dict[str, dict[str, float]] = {}
        for name, cure in CURES.items():
            z_a, z_b, z = mended(a, end, data.test.x, **cure)
            found[name] = measured(z)
        both = [measured(z_a), measured(z_b)]
        found["ends"] = {key: (both[0][key] + both[1][key]) / 2 for key in both[0]}
        found["blend"] = measured((z_a + z_b) / 2)
        rows += [
            {"recipe": recipe, "pair": pair, "way": way, "mended": name, **values}
            for name, values in found.items()
        ]
    return rows


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    data = mc.load_data("mnist", device="cpu")
    return {
        "data": data.name,
        "fingerprint": data.fingerprint,
        "model": "mlp 784-512-512-512-10",
        "epochs": EPOCHS,
        "batch_size": BATCH,
    }
