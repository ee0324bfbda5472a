"""Perceptrons on MNIST before and after alignment, by how they were trained.

Three hidden layers of 512 units, five epochs in batches of 500, with Adam (learning rate 0.001) or
SGD (momentum 0.9, learning rate 0.1 or 0.01); four pairs each.  The two networks of a pair differ
in their initial weights and in the order of the images.  Each row is a point of a profile, on the
test images, of the line from A to B as trained, or to B aligned: by its weights, by its
activations, or by the ten largest singular triples of its weight matrices alone (`top 10`).  `r0`,
`r3` and `r3_inputs` are Ito's R at the cuts 0 and 0.3, the last weighted by 10,000 training images;
`stable_rank` is `Σ s² / max s²` of A's second layer; `hidden_spectra` and `output_spectrum` are the
largest difference between the singular values of A and B, over the largest one, in the hidden
layers (the worst of them) and in the last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import mcbook as mc

RECIPES: dict[str, dict[str, Any]] = {
    "Adam 0.001": {"optimizer": "adam", "lr": 0.001},
    "SGD 0.1": {"optimizer": "sgd", "lr": 0.1},
    "SGD 0.01": {"optimizer": "sgd", "lr": 0.01},
}
PAIRS = 4
EPOCHS = 5
BATCH = 500
WIDTH = (512, 512, 512)
POINTS = 25
IMAGES = 10_000
TRIPLES = 10


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair."""
    return {
        f"{recipe.replace(' ', '-')},pair={pair}": {"recipe": recipe, "pair": pair}
        for recipe in RECIPES
        for pair in range(PAIRS)
    }


def pair_of(data: mc.Data, recipe: str, pair: int) -> tuple[nn.Module, nn.Module]:
    """Two networks with the seeds `2 pair` and `2 pair + 1`."""
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
    return a, b


def ends_of(a: nn.Module, b: nn.Module, data: mc.Data) -> dict[str, nn.Module]:
    """B as it is, and aligned in both ways."""
    spec = mc.trace_symmetry(a)
    most = [mc.low_rank(model, TRIPLES, biases=False) for model in (a, b)]
    return {
        "naive": b,
        "weight matching": mc.weight_matching(a, b, spec).model,
        "activation matching": mc.activation_matching(a, b, data, spec=spec, progress=False).model,
        f"top {TRIPLES}": mc.permute(b, mc.weight_matching(*most, spec).permutation, spec),
    }


def spectra_of(a: nn.Module, b: nn.Module) -> dict[str, float]:
    """How the singular values of A are spread, and how far B's are from them."""
    values, others = mc.singular_values(a), mc.singular_values(b)
    spectra = {
        layer: (rows["value"].to_numpy(), others[others["layer"] == layer]["value"].to_numpy())
        for layer, rows in values.groupby("layer", sort=False)
    }
    apart = [float(abs(s - r).max() / max(s.max(), r.max())) for s, r in spectra.values()]
    second = list(spectra.values())[1][0]
    return {
        "stable_rank": float((second**2).sum() / second.max() ** 2),
        "hidden_spectra": max(apart[:-1]),
        "output_spectrum": apart[-1],
    }


def run(recipe: str, pair: int) -> list[dict[str, Any]]:
    """Train the pair, align it, and walk from A to each B."""
    torch.set_num_threads(1)
    data = mc.load_data("mnist", device="cpu")
    a, b = pair_of(data, recipe, pair)
    images = data.subset(train=IMAGES).train.x
    rows, spectra = [], spectra_of(a, b)
    for method, end in ends_of(a, b, data).items():
        found = {
            "r0": float(mc.singular_alignment(a, end, gamma=0)),
            "r3": float(mc.singular_alignment(a, end, gamma=0.3)),
            "r3_inputs": float(mc.singular_alignment(a, end, gamma=0.3, inputs=images)),
        }
        line = mc.LinearPath(a, end)
        table = mc.profile(line, data, POINTS, splits=("test",), progress=False).table
        rows += [
            {"recipe": recipe, "pair": pair, "method": method, **row, **found, **spectra}
            for row in table.to_dict("records")
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
        "points": POINTS,
    }
