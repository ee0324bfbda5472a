"""Activation matching: the order of B's hidden units in which they do most nearly what A's do."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from ..data import Data, Split
from ..errors import UnknownNameError, expect
from ..symmetry.activations import find_sites
from ..symmetry.permutations import Permutation
from ..symmetry.spec import PermutationSpec
from .alignment import Alignment, aligned, check_networks
from .assignment import best_element
from .moments import COSTS
from .seen import Seen, balanced, balanced_images, like, on_one_device

__all__ = ["activation_matching", "balanced"]

# own slots are preferred by this share of the largest gain
_TIE = 1e-9


def activation_matching(
    a: nn.Module,
    b: nn.Module,
    data: Data | Split,
    cost: str = "correlation",
    images: int = 5_000,
    spec: PermutationSpec | None = None,
    example: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> Alignment:
    """Permute the hidden units of B so that their activations resemble those of A's.

    Both networks see the same images.  Where a layer reads the units of a space (see
    `symmetry.activations`), `x_i` is the activation of A's unit `i` and `y_j` that of B's unit
    `j`, over all images and all positions in them (pixels, tokens, steps).  For every space

        p = argmax_p Σ_i gain[i, p(i)],

    a linear assignment, independent of all other spaces, exact in one step:

    | `cost` | `gain[i, j]` |
    |---|---|
    | `correlation` | Pearson's correlation of `x_i` and `y_j` (Li et al., Jordan et al.) |
    | `dot` | `E[x_i y_j]`, not centred (Ainsworth et al., section 3.1) |
    | `distance` | `-E[(x_i - y_j)²] = 2 E[x_i y_j] - E[x_i²] - E[y_j²]` |

    The sum of `E[x_i²] + E[y_j²]` over a permutation does not depend on it, so `dot` and `distance`
    find the same one; `distance` says how near B comes to A.

    A residual stream is read in many places, its *members*.  Their gains are averaged: correlations
    of every member with equal weight, whatever its scale, rather than one correlation of all
    numbers together, which the members of largest variance would decide.  (Jordan et al. look at
    the end of a stage only.)  Units in blocks are matched inside them, and the blocks by what is
    inside (`best_element`).  Where another space stands on further axes of the same activation, the
    mean over these is taken, since their order is not known yet.

    A unit that never varies (a dead one) correlates with none: its gains are 0, as those of a unit
    that is always 0 are under `dot`.  Such units take the places that are left.  Where assignments
    tie, units stay in their own slots as far as possible.

    Sources: Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent learning" (2016); Ainsworth,
    Hayase, Srinivasa, "Git Re-Basin" (2023); Jordan, Sedghi, Saukh, Entezari, Neyshabur, "REPAIR"
    (2023).

    Args:
        a: the network that stays; any module whose forward pass can be traced.
        b: the network whose units move.  Neither is changed; both run in eval mode.  If one of them
            is on a GPU, both run there, in copies.
        data: the training images are looked at; or a split.
        cost: see above.
        images: how many of them: a random part with equally many of every class (as far as there
            are so many), since the first images of a sorted file would show a few classes only.
        spec: of both networks; traced from A when None.
        example: one input for the traces; the first of the images when None.
        seed: which images.
        batch_size: how many at once: the result does not depend on it, but for rounding in the
            forward pass.  By default 512, or fewer where activations are large.
        progress: whether to show a bar.

    Returns:
        The alignment.  Its objective is the sum of the gains over all units, where they were and
        where they are.  Facts: `images`, how many were looked at, and `unseen`, the spaces none of
        whose units are multiplied by a weight, which keep their order.

    Raises:
        TypeError: for arguments of another kind.
        UnknownNameError: for an unknown cost.
        IncompatibleError: for networks that are not of one architecture, or do not run the same
            operations, or a spec of another one.
        ValueError: for weights or activations that are not finite, no images, or fewer images than
            classes.
    """
    if cost not in COSTS:
        raise UnknownNameError("cost", cost, COSTS)
    x = balanced_images(data, images, seed)
    for model in (a, b):
        expect(model, nn.Module, "a torch.nn.Module")
    if example is None:
        example = like(x[:1], a)
    spec = check_networks([a, b], spec, example)
    sites = find_sites(a, spec, example)
    models = on_one_device(a, b)
    seen = Seen(spec, sites, models[0])
    seen.watch(models, x, batch_size, progress)
    # the same permutation as for `dot`, and the assignment is found far sooner
    p = best_element(spec, _own_slots_first(seen.gains("distance" if cost == "dot" else cost)))
    gains = seen.gains(cost)
    values = [_value(spec, gains, q) for q in (spec.identity(), p)]
    facts = {"images": len(x), "unseen": sites.unseen}
    return aligned(b, p, spec, values, "activation matching", **facts)


def _own_slots_first(gains: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The gains, so little larger for a unit's own slot that only ties are decided by it."""
    return {k: g + _TIE * np.abs(g).max() * np.eye(len(g)) for k, g in gains.items()}


def _value(spec: PermutationSpec, gains: dict[int, np.ndarray], p: Permutation) -> float:
    """`Σ_k Σ_i gain_k[i, p_k(i)]`."""
    element, total = spec.element(p), 0.0
    for k, gain in gains.items():
        own = element[spec.starts[k] : spec.starts[k + 1]] - spec.starts[k]
        total += float(gain[np.arange(len(own)), own].sum())
    return total
