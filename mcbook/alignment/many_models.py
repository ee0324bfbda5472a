"""Matching many: several networks aligned with each other, none of them the anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..progress import Bar
from ..symmetry.spec import PermutationSpec
from ..threads import one_thread
from .alignment import Alignment, aligned, check_networks
from .gains import Pair, compared
from .weight_matching import Descent, permutation_of

__all__ = ["match_many"]

# each step raises the objective, so that there is an end; this one is for rounding
_ROUNDS = 100


def match_many(
    models: Sequence[nn.Module],
    spec: PermutationSpec | None = None,
    example: Any = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Alignment]:
    r"""Reorder the hidden units of several networks so that all come near each other.

    What is maximised is the sum over pairs,

    .. math::

        \sum_{i < j} \langle \pi_i(\theta_i), \pi_j(\theta_j) \rangle ,

    the same as the least sum of squared distances from the mean of all.  In turn, in random order,
    each network is matched by its weights with the mean of the *others*, until none can gain
    (Ainsworth et al. 2023, algorithm 3).  To begin with, each is matched with the mean of those
    before it.

    Aligning with one chosen anchor would make only the distances from that one small.  A
    permutation common to all changes nothing; it is chosen such that the first network stays as it
    is.

    Args:
        models: at least two networks of one architecture; they are not changed.
        spec: of that architecture; traced from the first network when None.
        example: an input for the trace, where the networks carry none.
        seed: of the random orders.
        progress: whether to show a bar over the rounds.

    Returns:
        One alignment a network.  `objective`, the same list in all, is the sum over pairs, first
        after the start and then after each network that was matched again; it never falls.

    Raises:
        TypeError: for something that is no module or no spec.
        IncompatibleError: for networks of different architectures, or a spec of another one.
        ValueError: for fewer than two networks, or weights that are not finite.
    """
    models = list(models)
    spec = check_networks(models, spec, example)
    first = compared(models[0], spec)
    start = [
        {name: x.to(first[name]) for name, x in compared(model, spec).items()} for model in models
    ]
    generator = np.random.default_rng(seed)
    with one_thread(), Bar(len(models), "matching many", progress) as bar:
        moved = [start[0]]
        elements = [np.arange(int(spec.starts[-1]))]
        for own in start[1:]:
            descent = Descent(Pair(spec, _mean(moved), own), int(generator.integers(2**31)))
            descent.settle()
            descent.run()
            elements.append(descent.pair.element)
            moved.append(descent.pair.permuted)
            bar.advance()
        history = [_over_pairs(moved)]
        for _ in range(_ROUNDS):
            still = True
            for i in generator.permutation(len(models)).tolist():
                others = _mean(moved[:i] + moved[i + 1 :])
                pair = Pair(spec, others, start[i])
                pair.put(elements[i])
                steps = Descent(pair, int(generator.integers(2**31))).run()
                if len(steps) > 1:
                    still = False
                    elements[i], moved[i] = pair.element, pair.permuted
                    history.append(_over_pairs(moved))
            if still:
                break
    permutations = [permutation_of(spec, element) for element in elements]
    common = permutations[0].inverse()
    return [
        aligned(model, common @ p, spec, history, "matching many")
        for model, p in zip(models, permutations, strict=True)
    ]


def _mean(several: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([w[name] for w in several]).mean(0) for name in several[0]}


def _over_pairs(several: Sequence[dict[str, Tensor]]) -> float:
    """`Σ_{i<j} ⟨θ_i, θ_j⟩`, in float64."""
    total = 0.0
    for name in several[0]:
        x = torch.stack([w[name].reshape(-1) for w in several]).double()
        total += float(x.sum(0).square().sum() - x.square().sum()) / 2
    return total
