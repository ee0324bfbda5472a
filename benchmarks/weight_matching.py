"""Weight matching of perceptrons: `mc.weight_matching` against the PyTorch port of Git Re-Basin.

Pairs of networks 784-512-512-512-10, each trained for an epoch with seeds of its own, are aligned
by the port, in one visiting order after another, and by `mc.weight_matching`: from the identity,
as the port starts; from the frontier; and as the best of several runs, which is compared with the
best of eight of the port's orders.
"""

from __future__ import annotations

from torch import nn

import mcbook as mc

from .harness import Result
from .images import images
from .matching import compare_matching

NAME = "weight_matching"
FASTER = 1.5
PAIRS, ORDERS, RESTARTS = 5, 8, 3


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time the alignment each way, and compare the objectives reached.

    Args:
        rounds: how often all pairs are aligned each way.
        smoke: on networks so small that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result; without the port there is no target.
    """
    count, width = (100, (16, 16, 16)) if smoke else (60_000, (512, 512, 512))
    data, said = images("mnist", count, 100 if smoke else 10_000)

    def network(seed: int) -> nn.Module:
        model = mc.build_model("mlp", data, width=width, seed=seed)
        return mc.train(model, data, epochs=1, seed=seed, progress=False, batch_size=128)

    pairs = [(network(2 * k), network(2 * k + 1)) for k in range(2 if smoke else PAIRS)]
    sizes = "-".join(map(str, (784, *width, 10)))
    return compare_matching(
        NAME,
        f"MLPs {sizes} after one epoch",
        said,
        pairs,
        rounds,
        clock,
        at_once=len(pairs),
        orders=2 if smoke else ORDERS,
        restarts=RESTARTS,
        faster=None if smoke else FASTER,
    )
