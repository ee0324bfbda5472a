"""Labels: which units stand at the positions of a tensor, and how operations combine them.

The label of a tensor maps sets of axes to arrays of units over these axes: `(1,)` to the `C`
channels of an activation `[n, C, h, w]`, `(1, 2)` to `heads × d` units of queries.  An axis in no
array is *fixed*: its positions cannot move (pixels, tokens, the batch).  Axes of length 1 carry
nothing.  Three invariants hold:

- all units of one array are different;
- the units of an array lie in those of every array on fewer of its axes;
- two arrays that share some but not all axes have an array on the shared ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from .units import Ids, Units, spread

__all__ = ["Axes", "Label", "Operand", "contract", "joint", "merge", "pin_axes", "reduce", "rename"]

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Label:
    """The units of a tensor.

    Attributes:
        arrays: increasing axes to units over them.
        uniform: axes along which the tensor is constant because of how it was made (`expand`).
    """

    arrays: dict[Axes, Ids] = field(default_factory=dict)
    uniform: frozenset[int] = frozenset()

    @property
    def axes(self) -> set[int]:
        """The axes that have units."""
        return {axis for axes in self.arrays for axis in axes}

    def __bool__(self) -> bool:
        return bool(self.arrays)


@dataclass(frozen=True)
class Operand:
    """A tensor that goes into an operation.

    Attributes:
        shape: its shape.
        label: its label.
        value: the tensor itself where it is a constant of the computation, else None.
    """

    shape: tuple[int, ...]
    label: Label
    value: Tensor | None = None

    def is_uniform(self, axis: int) -> bool:
        """Whether all positions along an axis hold the same."""
        if self.shape[axis] == 1 or axis in self.label.uniform:
            return True
        if self.value is None:
            return False
        value = self.value.detach()
        return bool((value == value.narrow(axis, 0, 1)).all())


def merge(units: Units, operands: Sequence[Operand], shape: Sequence[int]) -> Label:
    """The label of a pointwise operation of any arity, with broadcasting.

    Where two operands have units on the same axes, these are one.  Where one has units on fewer
    axes, they are the blocks of the other's.  Where one is fixed and varies, the other's units are
    pinned.
    """
    if not any(operand.label for operand in operands):
        return Label(uniform=_uniform(operands, shape))
    parts: list[dict[Axes, Ids]] = []
    for operand in operands:
        shift = len(shape) - len(operand.shape)
        parts.append(
            {tuple(a + shift for a in axes): x for axes, x in operand.label.arrays.items()}
        )
    labelled = {axis for part in parts for axes in part for axis in axes}
    arrays: dict[Axes, Ids] = {}
    for k, part in enumerate(parts):
        fixed = {
            axis
            for j, operand in enumerate(operands)
            if j != k
            for axis in labelled
            if _varies(operand, parts[j], axis - len(shape))
        }
        for axes, x in part.items():
            units.see(x, role=k % 8)
            if _pinned(units, x, axes, fixed):
                continue
            other = arrays.get(axes)
            if other is None:
                arrays[axes] = x
            else:
                units.one(other, x)
                if units.factors(other) is None and units.factors(x) is not None:
                    arrays[axes] = x  # what it is made of will be needed to unflatten it
    return Label(_closed(units, arrays), _uniform(operands, shape))


def _varies(operand: Operand, arrays: dict[Axes, Ids], from_end: int) -> bool:
    """Whether an operand is fixed along an axis (counted from the end) and not constant there."""
    axis = len(operand.shape) + from_end
    if axis < 0:
        return False
    return axis not in operand.label.axes and not operand.is_uniform(axis)


def _uniform(operands: Sequence[Operand], shape: Sequence[int]) -> frozenset[int]:
    """The axes along which no operand varies, where that is known without looking at values."""
    found = set()
    for axis, size in enumerate(shape):
        inner = [len(o.shape) - len(shape) + axis for o in operands]
        if size > 1 and all(
            i < 0 or o.shape[i] == 1 or i in o.label.uniform
            for i, o in zip(inner, operands, strict=True)
        ):
            found.add(axis)
    return frozenset(found)


def _pinned(units: Units, x: Ids, axes: Axes, fixed: set[int]) -> bool:
    """Pin units along those of their axes that turned out to be fixed; whether all of them are."""
    here = [i for i, axis in enumerate(axes) if axis in fixed]
    if here:
        sizes = [x.shape[i] for i in here]
        position = np.arange(int(np.prod(sizes))).reshape(sizes)
        units.pin(x, spread(position, here, x.shape))
    return len(here) == len(axes)


def _closed(units: Units, arrays: dict[Axes, Ids]) -> dict[Axes, Ids]:
    """The same arrays, with blocks on the axes that two of them share, and all blocks noted."""
    arrays = dict(arrays)
    waiting = list(itertools.combinations(list(arrays), 2))
    while waiting:
        first, second = waiting.pop()
        shared = tuple(sorted(set(first) & set(second)))
        if not shared or shared in (first, second):
            continue
        for axes in (first, second):
            blocks = units.blocks_of(arrays[axes], tuple(axes.index(a) for a in shared))
            if shared in arrays:
                units.one(arrays[shared], blocks)
            else:
                waiting += [(shared, other) for other in arrays]
                arrays[shared] = blocks
    for small, large in itertools.permutations(arrays, 2):
        if set(small) < set(large):
            places = [large.index(a) for a in small]
            units.block(arrays[large], spread(arrays[small], places, arrays[large].shape))
    return arrays


def reduce(units: Units, label: Label, over: Sequence[int]) -> Label:
    """The label after a sum (or mean, maximum, ...) over some axes, which stay with length 1."""
    gone = set(over)
    arrays: dict[Axes, Ids] = {}
    for axes, x in label.arrays.items():
        kept = tuple(a for a in axes if a not in gone)
        if kept == axes:
            arrays[axes] = x
            continue
        units.see(x, role=9)
        if kept and kept not in label.arrays:
            blocks = units.blocks_of(x, tuple(axes.index(a) for a in kept))
            if kept in arrays:
                units.one(arrays[kept], blocks)
            else:
                arrays[kept] = blocks
    return Label(_closed(units, arrays), label.uniform - gone)


def rename(label: Label, new: dict[int, int]) -> Label:
    """The label with other axes: `new[axis]` is where an axis goes; those it lacks are dropped."""
    arrays: dict[Axes, Ids] = {}
    for axes, x in label.arrays.items():
        if not all(a in new for a in axes):
            continue
        to = [new[a] for a in axes]
        order = sorted(range(len(to)), key=to.__getitem__)
        arrays[tuple(to[i] for i in order)] = x.transpose(order) if len(order) > 1 else x
    return Label(arrays, frozenset(new[a] for a in label.uniform if a in new))


def contract(
    units: Units,
    operands: Sequence[tuple[Operand, Sequence[str]]],
    out: Sequence[str],
) -> Label:
    """The label of a sum of products, written with a letter for each axis as `einsum` does.

    The product is pointwise over all letters; then the letters that are not in `out` are summed.
    """
    sizes: dict[str, int] = {}
    for operand, letters in operands:
        for letter, size in zip(letters, operand.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    every = list(sizes)
    lined_up = [_line_up(operand, letters, every) for operand, letters in operands]
    product = merge(units, lined_up, [sizes[letter] for letter in every])
    label = reduce(units, product, [i for i, letter in enumerate(every) if letter not in out])
    return rename(label, {i: list(out).index(x) for i, x in enumerate(every) if x in out})


def _line_up(operand: Operand, letters: Sequence[str], every: Sequence[str]) -> Operand:
    """An operand with an axis for every letter, of length 1 where it has none."""
    new = {axis: every.index(letter) for axis, letter in enumerate(letters)}
    shape = [1] * len(every)
    for axis, size in enumerate(operand.shape):
        shape[new[axis]] = size
    value = operand.value
    if value is not None:
        order = sorted(range(len(letters)), key=lambda axis: new[axis])
        value = value.detach().permute(order).reshape(shape)
    return Operand(tuple(shape), rename(operand.label, new), value)


def pin_axes(units: Units, label: Label, axes: Sequence[int]) -> Label:
    """The label after an operation to which the positions on `axes` matter (pixels to a kernel).

    What has units on other axes too keeps its blocks there.
    """
    fixed = set(axes)
    arrays: dict[Axes, Ids] = {}
    for own, x in label.arrays.items():
        if not fixed & set(own):
            arrays[own] = x
            continue
        _pinned(units, x, own, fixed)
        kept = tuple(a for a in own if a not in fixed)
        if kept and kept not in label.arrays:
            blocks = units.blocks_of(x, tuple(own.index(a) for a in kept))
            if kept in arrays:
                units.one(arrays[kept], blocks)
            else:
                arrays[kept] = blocks
    return Label(_closed(units, arrays), label.uniform)


def joint(units: Units, label: Label, axes: Sequence[int], shape: Sequence[int]) -> Ids:
    """Units for all positions on `axes` together, an array over `axes` (increasing).

    `axes` must hold every array of the label that touches them.
    """
    axes = tuple(sorted(axes))
    inside = [own for own in label.arrays if set(own) & set(axes)]
    if axes in inside:
        return label.arrays[axes]
    sizes = tuple(shape[a] for a in axes)
    largest = [own for own in inside if not any(set(own) < set(other) for other in inside)]
    factors = [spread(label.arrays[own], [axes.index(a) for a in own], sizes) for own in largest]
    rest = [i for i, a in enumerate(axes) if not any(a in own for own in inside) and shape[a] > 1]
    if rest:
        lengths = [sizes[i] for i in rest]
        position = np.arange(int(np.prod(lengths))).reshape(lengths)
        factors.append(spread(-1 - position, rest, sizes))
    return units.composite(sizes, factors)
