"""Features between convolutional networks with batch norm on CIFAR-10.

VGG11 of base width 16 with batch norm, six epochs on standardised images with flips and crops, SGD
with a one-cycle schedule up to 0.1, weight decay 0.0005, batches of 128, in bfloat16; three pairs.
A pair is two copies that part after 0, 1 or 2 epochs (`spawned`), or two networks of different
initial weights, as trained (`independent`) or the second aligned by its weights or its activations.
Each row is a layer of a pair, at the middle, on 2,000 test images: cosine and coefficient; what
`commutativity`, `weak_additivity`, `feature_defects` and `stitch` find (stitching on 4,000); with
batch-norm statistics interpolated (`normalization` is `none`), re-estimated on 2,000 training
images (`reset`), or with REPAIR (`repair`; not for spawned pairs, and no defects).  The same in all
rows of a pair and normalization: the barriers of test loss and accuracy over seven points and the
errors of the ends, on 4,000 test images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import mcbook as mc
from mcbook.progress import Bar
from mcbook.runs import Recipe, Run

RECIPE = Recipe(
    lr=0.1,
    weight_decay=5e-4,
    batch_size=128,
    schedule="onecycle",
    augment=True,
    channels_last=True,
    precision="bfloat16",
)
SHARED = (0, 1, 2)
PAIRS = 3
EPOCHS = 6
WIDTH = 16
POINTS = 7


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair."""
    return {f"pair={pair}": {"pair": pair} for pair in range(PAIRS)}


def pairs_of(data: mc.Data, pair: int) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Two networks for every way, from the initial weights of the seeds `2 pair`, `2 pair + 1`."""
    seeds = 2 * pair, 2 * pair + 1
    first, second = (
        mc.build_model("vgg11", data, width=WIDTH, seed=seed, standardize=True) for seed in seeds
    )
    with Bar(0, "training", False) as bar:
        # the first network is trained once, and each second one from where it leaves the first
        run = Run(first, data, EPOCHS, seeds[0], RECIPE)
        twins = {}
        for shared in SHARED:
            run.advance(shared * run.steps_per_epoch, bar, None)
            twins[f"spawned {shared}"] = run.fork(seeds[1])
        for one in (run, *twins.values(), other := Run(second, data, EPOCHS, seeds[1], RECIPE)):
            one.advance(one.total, bar, None)
    a, b = run.result(), other.result()
    ways = {way: (a, twin.result()) for way, twin in twins.items()}
    spec = mc.trace_symmetry(a)
    acts = mc.activation_matching(a, b, data, spec=spec, progress=False)
    ways["weight matching"] = a, mc.weight_matching(a, b, spec, restarts=4).model
    ways["activation matching"] = a, acts.model
    ways["independent"] = a, b
    return ways


def run(pair: int) -> list[dict[str, Any]]:
    """Train the networks of a pair, and look at the features between them."""
    torch.set_num_threads(1)
    data = mc.load_data("cifar10", device="cpu")
    images = data.subset(train=2_000, test=4_000)
    x, statistics = images.test.x[:2_000], images.train.x
    rows = []
    for way, (a, b) in pairs_of(data, pair).items():
        spawned = way.startswith("spawned")
        between = mc.commutativity(a, b, x).set_index("layer")
        additive = mc.weak_additivity(a, b, x).set_index("layer")
        stitched = mc.stitch(a, b, images.test).set_index("layer")
        for normalization in ("none", "reset") if spawned else ("none", "reset", "repair"):
            choice = {"normalization": normalization, "statistics": statistics}
            found = mc.profile(
                mc.LinearPath(a, b),
                images,
                POINTS,
                splits=("test",),
                normalization=normalization,
                progress=False,
            )
            facts = {
                "barrier": found.barrier(),
                "accuracy_barrier": found.barrier("test", "accuracy"),
                "error_a": 1 - float(found.table["test_accuracy"].iloc[0]),
                "error_b": 1 - float(found.table["test_accuracy"].iloc[-1]),
            }
            defects = None
            if normalization != "repair":
                defects = mc.feature_defects(a, b, x, 0.5, **choice).set_index("layer")
            for row in mc.feature_connectivity(a, b, x, 0.5, **choice).to_dict("records"):
                layer = row["layer"]
                values = {
                    key: row[key]
                    for key in ("kind", "cos", "cos_std", "cos_data", "cos_ends", "coef", "zeros")
                }
                if defects is not None:
                    values |= {
                        key: float(defects.loc[layer, key])
                        for key in ("total", "made", "inherited")
                    }
                if layer in between.index:
                    values |= {
                        f"commutativity_{key}": float(between.loc[layer, key])
                        for key in ("dist", "dist_weights", "dist_features", "overlap")
                    }
                if layer in additive.index:
                    values["additivity_dist"] = float(additive.loc[layer, "dist"])
                values["stitched_error"] = 1 - float(stitched.loc[layer, "accuracy"])
                rows.append(
                    {
                        "pair": pair,
                        "way": way,
                        "normalization": normalization,
                        "layer": layer,
                        **values,
                        **facts,
                    }
                )
    return rows


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    data = mc.load_data("cifar10", device="cpu")
    return {
        "data": "CIFAR-10, JPEG re-encoding (accuracies differ a little from the original's)",
        "fingerprint": data.fingerprint,
        "model": f"VGG11 with batch norm, base width {WIDTH}, standardised",
        "epochs": EPOCHS,
        "points": POINTS,
    }
