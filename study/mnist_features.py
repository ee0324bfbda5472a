"""Features between perceptrons on MNIST: trained together for a while, aligned, or independent.

Three hidden layers of 512 units, five epochs in batches of 500, with Adam (learning rate 0.001) or
SGD (momentum 0.9, learning rate 0.1 or 0.01); four pairs each.  A pair is two copies that part
after `spawned` epochs (`SHARED` says after which), or two networks of different initial weights,
as trained (`independent`) or the second aligned by its weights or by its activations.  Each row is
a layer of a pair, on the 10,000 test images: cosines and coefficients at `alpha` 0.25, 0.5 and 0.75
(`cos_25`, ...; `cos` and `coef` are at 0.5), the same with REPAIR (statistics of 10,000 training
images; not for spawned pairs); what `commutativity`, `weak_additivity`, `feature_defects` and
`stitch` find at 0.5; and, the same in all rows of a pair, the test-loss barrier, the largest error
between the ends, the errors of the ends, and the distance of the ends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import mcbook as mc
from mcbook.progress import Bar
from mcbook.runs import Recipe, Run

RECIPES: dict[str, dict[str, Any]] = {
    "SGD 0.1": {"optimizer": "sgd", "lr": 0.1},
    "Adam 0.001": {"optimizer": "adam", "lr": 0.001},
    "SGD 0.01": {"optimizer": "sgd", "lr": 0.01},
}
SHARED = {"SGD 0.1": (0, 0.1, 0.5, 1, 2), "Adam 0.001": (0, 1), "SGD 0.01": (1,)}
PAIRS = 4
EPOCHS = 5
BATCH = 500
WIDTH = (512, 512, 512)
POINTS = 25
ALPHAS = (0.25, 0.5, 0.75)


def jobs() -> dict[str, dict[str, Any]]:
    """One job a recipe and pair."""
    return {
        f"{recipe.replace(' ', '-')},pair={pair}": {"recipe": recipe, "pair": pair}
        for recipe in RECIPES
        for pair in range(PAIRS)
    }


def pairs_of(data: mc.Data, recipe: str, pair: int) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Two networks for every way, from the initial weights of the seeds `2 pair`, `2 pair + 1`."""
    seeds = 2 * pair, 2 * pair + 1
    first, second = (mc.build_model("mlp", data, width=WIDTH, seed=seed) for seed in seeds)
    options = Recipe(batch_size=BATCH, **RECIPES[recipe])
    with Bar(0, "training", False) as bar:
        # the first network is trained once, and each second one from where it leaves the first
        run = Run(first, data, EPOCHS, seeds[0], options)
        twins = {}
        for shared in SHARED[recipe]:
            run.advance(round(shared * run.steps_per_epoch), bar, None)
            twins[f"spawned {shared}"] = run.fork(seeds[1])
        for one in (run, *twins.values(), other := Run(second, data, EPOCHS, seeds[1], options)):
            one.advance(one.total, bar, None)
    a, b = run.result(), other.result()
    ways = {way: (a, twin.result()) for way, twin in twins.items()}
    spec = mc.trace_symmetry(a)
    acts = mc.activation_matching(a, b, data, spec=spec, progress=False)
    ways["weight matching"] = a, mc.weight_matching(a, b, spec).model
    ways["activation matching"] = a, acts.model
    ways["independent"] = a, b
    return ways


def features_of(a: nn.Module, b: nn.Module, data: mc.Data) -> dict[str, dict[str, Any]]:
    """By layer: cosines, coefficients and what explains them."""
    x = data.test.x
    found: dict[str, dict[str, Any]] = {}
    for row in mc.feature_connectivity(a, b, x, ALPHAS).to_dict("records"):
        layer = found.setdefault(row["layer"], {"kind": row["kind"], "cos_ends": row["cos_ends"]})
        name = f"{100 * row['alpha']:.0f}"
        layer |= {f"cos_{name}": row["cos"], f"coef_{name}": row["coef"]}
        if row["alpha"] == 0.5:
            layer |= {key: row[key] for key in ("cos", "cos_std", "cos_data", "coef", "zeros")}
    for row in mc.commutativity(a, b, x).to_dict("records"):
        names = ("dist", "dist_weights", "dist_features", "overlap")
        found[row["layer"]] |= {f"commutativity_{name}": row[name] for name in names}
    for row in mc.weak_additivity(a, b, x).to_dict("records"):
        found[row["layer"]] |= {"additivity_dist": row["dist"], "signs": row["signs"]}
    for row in mc.feature_defects(a, b, x).to_dict("records"):
        found[row["layer"]] |= {key: row[key] for key in ("total", "made", "inherited")}
    for row in mc.stitch(a, b, data.test).to_dict("records")[1:]:
        found[row["layer"]] |= {"stitched_error": 1 - row["accuracy"], "stitched_loss": row["loss"]}
    return found


def run(recipe: str, pair: int) -> list[dict[str, Any]]:
    """Train the networks of a pair, and look at the features between them."""
    torch.set_num_threads(1)
    data = mc.load_data("mnist", device="cpu")
    statistics = data.subset(train=10_000).train.x
    rows = []
    for way, (a, b) in pairs_of(data, recipe, pair).items():
        line = mc.LinearPath(a, b)
        found = mc.profile(line, data, POINTS, splits=("test",), progress=False)
        table = found.table
        facts = {
            "barrier": found.barrier(),
            "worst_error": 1 - float(table["test_accuracy"].min()),
            "error_a": 1 - float(table["test_accuracy"].iloc[0]),
            "error_b": 1 - float(table["test_accuracy"].iloc[-1]),
            "distance": float(table["distance_b"].iloc[0]),
        }
        layers = features_of(a, b, data)
        if not way.startswith("spawned"):
            repaired = mc.feature_connectivity(
                a, b, data.test.x, 0.5, normalization="repair", statistics=statistics
            )
            for row in repaired.to_dict("records"):
                layers[row["layer"]] |= {"cos_repair": row["cos"], "coef_repair": row["coef"]}
        rows += [
            {"recipe": recipe, "pair": pair, "way": way, "layer": layer, **values, **facts}
            for layer, values in layers.items()
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
