"""Convolutional networks on CIFAR-10 before and after alignment, and what batch norm does to it.

VGG11 of base width 16, six epochs, and ResNet20 of base width 8 (option B shortcuts:
convolutions), four epochs; both with batch norm, standardised images, flips and crops, SGD with a
one-cycle schedule up to 0.1, weight decay 0.0005, batches of 128, in bfloat16; three pairs each.
Each row is a point of a profile on 4,000 test images: of the line from A to B as trained, or
aligned by its weights or by its activations; with batch-norm statistics interpolated (`none`),
re-estimated on 2,000 training images (`reset`), or with REPAIR on the same images (`repair`).
"""

from __future__ import annotations

from typing import Any

import torch

import mcbook as mc

NETWORKS: dict[str, dict[str, Any]] = {
    "vgg11": {"width": 16},
    "resnet20": {"width": 8, "shortcut": "projection"},
}
EPOCHS = {"vgg11": 6, "resnet20": 4}
PAIRS = 3
POINTS = 7
MEASURED = {
    "naive": ("none", "reset"),
    "weight matching": ("none", "reset", "repair"),
    "activation matching": ("reset", "repair"),
}


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair."""
    return {
        f"{network},pair={pair}": {"network": network, "pair": pair}
        for network in NETWORKS
        for pair in range(PAIRS)
    }


def run(network: str, pair: int) -> list[dict[str, Any]]:
    """Train the pair with the seeds `2 pair` and `2 pair + 1`, align it, walk from A to each B."""
    torch.set_num_threads(1)
    data = mc.load_data("cifar10", device="cpu")
    a, b = (
        mc.train(
            mc.build_model(network, data, seed=seed, standardize=True, **NETWORKS[network]),
            data,
            epochs=EPOCHS[network],
            seed=seed,
            lr=0.1,
            weight_decay=5e-4,
            batch_size=128,
            schedule="onecycle",
            augment=True,
            channels_last=True,
            precision="bfloat16",
            progress=False,
        )
        for seed in (2 * pair, 2 * pair + 1)
    )
    spec = mc.trace_symmetry(a)
    ends = {
        "naive": b,
        "weight matching": mc.weight_matching(a, b, spec, restarts=4).model,
        "activation matching": mc.activation_matching(a, b, data, spec=spec, progress=False).model,
    }
    images = data.subset(train=2_000, test=4_000)
    rows = []
    for method, end in ends.items():
        path = mc.LinearPath(a, end)
        for normalization in MEASURED[method]:
            found = mc.profile(
                path, images, POINTS, splits=("test",), normalization=normalization, progress=False
            )
            rows += [
                {
                    "network": network,
                    "pair": pair,
                    "method": method,
                    "normalization": normalization,
                    **row,
                }
                for row in found.table.to_dict("records")
            ]
    return rows


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    data = mc.load_data("cifar10", device="cpu")
    return {
        "data": "CIFAR-10, JPEG re-encoding (accuracies differ a little from the original's)",
        "fingerprint": data.fingerprint,
        "model": "VGG11 and ResNet20 with batch norm, standardised",
        "epochs": EPOCHS,
        "points": POINTS,
    }
