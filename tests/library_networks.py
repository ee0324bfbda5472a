"""Networks beside the library's that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mcbook.models import build_from

__all__ = ["build", "compare", "parameters"]


def build(
    name: str, shape: tuple[int, int, int] = (3, 32, 32), seed: int = 0, **options: Any
) -> nn.Module:
    """An architecture for ten classes."""
    return build_from(
        {"name": name, "shape": shape, "classes": 10, "standardize": False, "options": options},
        seed,
    )


def parameters(name: str, **options: Any) -> int:
    """The number of parameters, counted without memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, **options).parameters())


def compare(
    ours: nn.Module,
    make: Callable[[], nn.Module],
    adapt: Callable[[nn.Module], None],
    new: tuple[str, ...] = (),
) -> None:
    """Check that `ours` has the library's initial weights and computes what it does.

    Args:
        ours: the network, of seed 0; without dropout.
        make: makes the library's.
        adapt: changes the library's for small images; new layers may have any weights.
        new: the tensors whose initial weights are others.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = make()
        mine, original = ours.state_dict(), theirs.state_dict()
        different = tuple(
            key
            for (key, x), y in zip(mine.items(), original.values(), strict=True)
            if not torch.equal(x, y)
        )
        assert different == new
        adapt(theirs)
        theirs.load_state_dict(
            {
                key: x.reshape(y.shape)
                for (key, y), x in zip(theirs.state_dict().items(), mine.values(), strict=True)
            }
        )
        x = torch.rand(3, 3, 32, 32)
    # by the statistics of the batch: with the initial ones, deep networks lose the images
    with torch.no_grad():
        y, z = ours.train()(x), theirs.train()(x)
    spread = float(y.std(0).max())
    assert spread > 0
    assert torch.allclose(y, z, rtol=0, atol=1e-3 * spread)
