"""Weight matching of VGG16: `mc.weight_matching` against the PyTorch port of Git Re-Basin.

The networks have thirteen convolutions with batch norm for images of 32 × 32 pixels, 14.7 million
parameters, and have been trained for a few steps only: enough to leave the initial weights, far
from enough to be good.  Networks are made once and serve in two pairs each.
"""

from __future__ import annotations

from torch import nn

import mcbook as mc

from .harness import Result
from .images import images
from .matching import compare_matching

NAME = "weight_matching_vgg16"
FASTER = 1.5
PAIRS = 5
_BATCH, _STEPS, _LR = 64, 20, 1e-3


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time the alignment each way, a pair a round, and compare the objectives reached.

    Args:
        rounds: how often; from five on, all five pairs are there.
        smoke: on networks so small that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result; without the port there is no target.
    """
    steps = 1 if smoke else _STEPS
    data, said = images("cifar10", steps * _BATCH, 16)

    def network(seed: int) -> nn.Module:
        model = mc.build_model("vgg16", data, seed=seed, **({"width": 4} if smoke else {}))
        recipe = {"optimizer": "adam", "lr": _LR, "batch_size": _BATCH, "progress": False}
        return mc.train(model, data, epochs=1, seed=seed, **recipe)

    networks = [network(seed) for seed in range(min(PAIRS, max(rounds, 2)))]
    # each with the next, the last with the first; of two there is one pair
    many = len(networks) if len(networks) > 2 else 1
    pairs = [(networks[k], networks[(k + 1) % len(networks)]) for k in range(many)]
    return compare_matching(
        NAME,
        f"VGG16 with batch norm after {steps} step{'s' * (steps > 1)} of Adam",
        said,
        pairs,
        rounds,
        clock,
        at_once=1,
        faster=None if smoke else FASTER,
    )
