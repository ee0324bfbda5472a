"""Random weights for a check, quickly."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .spec import PermutationSpec

__all__ = ["PERIOD", "randomise"]

#: how many numbers are drawn; a weight with more has them again and again
PERIOD = 1_000_003


def randomise(
    model: nn.Module, spec: PermutationSpec, tensors: Mapping[str, Tensor], seed: int
) -> None:
    """Random numbers in every parameter and statistic; constants (other buffers) stay."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {id(p) for p in model.parameters()}
    # one long vector again and again, from another place for each tensor: drawing anew for each
    # would take most of the time.  Its length is a prime, so that no two rows of a weight agree.
    noise = torch.randn(PERIOD, generator=generator, dtype=torch.float64)
    start = 0
    for name, x in tensors.items():
        if name not in spec.slots or not x.is_floating_point():
            continue
        scale = 1.4 / math.sqrt(max(1, x[0].numel())) if x.ndim > 1 else 0.2
        x.data = _filled((scale * noise).to(x.dtype), start, x)
        start += x.numel()
        if id(x) not in parameters:  # a statistic: any mean, a variance above 0
            x.data = x.data.square() + 0.5
        elif x.ndim < 2 and name.endswith("weight"):
            x.data += 1.0


def _filled(noise: Tensor, start: int, like: Tensor) -> Tensor:
    """A tensor of the shape and device of another, filled from a place of `noise` on."""
    noise = noise.roll(-(start % len(noise))).to(like.device)
    filled = torch.empty(like.numel(), dtype=noise.dtype, device=like.device)
    for part in filled.split(len(noise)):
        part.copy_(noise[: len(part)])
    return filled.reshape(like.shape)
