"""What an operation does to permuted arguments, found by trying it with random numbers.

For an operation without a rule, and as the test of every rule: permute some axes of its arguments
together and see whether the result is unchanged, or permuted along one of its own axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from .context import Call, Trace
from .labels import Axes, Label, Operand, merge
from .units import Ids

__all__ = ["Symmetry", "probe", "symmetries"]

_MOST = 200  # sets of axes that are tried
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Symmetry:
    """Axes of arguments that may be permuted together.

    Attributes:
        axes: pairs (which tensor argument, which axis).
        carried: for every result, the axis that is then permuted in the same way; None where the
            result does not change.
    """

    axes: tuple[tuple[int, int], ...]
    carried: tuple[int | None, ...]


def symmetries(
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    tensors: Sequence[Tensor],
    candidates: Sequence[tuple[int, int]],
) -> list[Symmetry]:
    """Find sets of axes whose joint permutation a function respects, the smallest sets first.

    Every set is tested with a cycle of all positions and with one transposition, which together
    generate all permutations.

    Args:
        run: the function, from tensors to tensors.
        tensors: its arguments, random numbers.
        candidates: the axes to try, as (argument, axis); each is in one set at most.
    """
    base = run(tensors)
    found: list[Symmetry] = []
    free = list(candidates)
    tried = 0
    for count in range(1, len(tensors) + 1):
        for chosen in itertools.combinations(list(free), count):
            lengths = {tensors[k].shape[a] for k, a in chosen}
            distinct = len({k for k, _ in chosen}) == count
            if not distinct or len(lengths) != 1 or any(one not in free for one in chosen):
                continue
            tried += 1
            if tried > _MOST:
                return found
            carried = _carried(run, tensors, base, chosen, lengths.pop())
            if carried is not None:
                found.append(Symmetry(chosen, carried))
                free = [one for one in free if one not in chosen]
    return found


def _carried(
    run: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    tensors: Sequence[Tensor],
    base: Sequence[Tensor],
    chosen: Sequence[tuple[int, int]],
    n: int,
) -> tuple[int | None, ...] | None:
    """Where each result is permuted when the chosen axes are; None if that is no symmetry."""
    swap = torch.arange(n)
    swap[[0, 1]] = swap[[1, 0]]
    possible: list[set[int | None]] = [{None, *range(x.ndim)} for x in base]
    for p in (torch.arange(n).roll(1), swap):
        moved = list(tensors)
        for k, axis in chosen:
            moved[k] = moved[k].index_select(axis, p)
        for i, (x, y) in enumerate(zip(base, run(moved), strict=True)):
            possible[i] = {
                axis
                for axis in possible[i]
                if (axis is None or x.shape[axis] == n)
                and _same(x if axis is None else x.index_select(axis, p), y)
            }
    if not all(possible):
        return None
    # unchanged comes first: a result that does not vary along an axis is no evidence for the axis
    return tuple(None if None in axes else min(a for a in axes if a is not None)
                 for axes in possible)  # fmt: skip


def _same(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape:
        return False
    if not x.is_floating_point():
        return bool((x == y).all())
    scale = float(x.detach().abs().nan_to_num().max()) if x.numel() else 0.0
    return bool(torch.allclose(x, y, rtol=0, atol=_TOLERANCE * max(scale, 1e-30), equal_nan=True))


def probe(trace: Trace, call: Call) -> list[Label] | None:
    """The labels of an unknown operation's results, by trying it; None if that gives nothing.

    Only units on single axes are tried; all others are pinned.
    """
    leaves, tree = tree_flatten((call.args, call.kwargs))
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
    generator = torch.Generator().manual_seed(0)

    def random(x: Tensor) -> Tensor:
        constant = trace.operand(x).value
        if constant is not None and x.is_floating_point():
            return constant.detach().cpu().double()
        if not x.is_floating_point():
            return x.detach().cpu()
        return torch.randn(x.shape, dtype=torch.float64, generator=generator)

    tensors = [random(leaves[i]) for i in places]
    if not any(x.is_floating_point() for x in tensors):
        return None

    def run(given: Sequence[Tensor]) -> list[Tensor]:
        filled = list(leaves)
        for i, x in zip(places, given, strict=True):
            filled[i] = x.clone()
        args, kwargs = tree_unflatten(filled, tree)
        out: Any = call.func(*args, **kwargs)
        return [x for x in tree_leaves(out) if isinstance(x, Tensor)]

    candidates = [
        (k, axes[0])
        for k, i in enumerate(places)
        if tensors[k].is_floating_point()
        for axes in trace.label(leaves[i]).arrays
        if len(axes) == 1
    ]
    try:
        first, again = run(tensors), run(tensors)
        if not all(map(_same, first, again)):
            return None  # it draws random numbers
        found = symmetries(run, tensors, candidates)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None  # not to be had in float64 on the CPU
    return _noted(trace, [leaves[i] for i in places], found, call.outputs)


def _noted(
    trace: Trace, inputs: Sequence[Tensor], found: Sequence[Symmetry], outputs: Sequence[Tensor]
) -> list[Label]:
    """Write down what was found, and pin what is in no symmetry."""
    units = trace.units
    arrays: list[dict[Axes, Ids]] = [{} for _ in outputs]
    spoken: set[tuple[int, int]] = set()
    for symmetry in found:
        spoken |= set(symmetry.axes)
        ids = [trace.label(inputs[k]).arrays[(axis,)] for k, axis in symmetry.axes]
        operands = [Operand((len(x),), Label({(0,): x})) for x in ids]
        merged = merge(units, operands, (len(ids[0]),)).arrays.get((0,))
        for part, axis in zip(arrays, symmetry.carried, strict=True):
            if axis is not None and merged is not None and (axis,) not in part:
                part[(axis,)] = merged
    for k, x in enumerate(inputs):
        for axes, ids_of in trace.label(x).arrays.items():
            if len(axes) != 1 or (k, axes[0]) not in spoken:
                units.pin(ids_of)
    return [Label(part) for part in arrays]
