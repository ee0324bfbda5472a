"""Operations that only move numbers: reshape, slice, roll, repeat, concatenate, pad.

They need no rule of their own.  The operation is run on the numbers 0, 1, 2, ... in place of the
tensor, and the result says where every entry came from.  Only where axes are flattened together,
or entries are copied, do new units appear; each knows what it was made of, so that the way back
(unflattening) finds the old units again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .labels import Axes, Label, Operand, _closed, joint, merge
from .units import Ids, Units

__all__ = ["concatenate", "moved", "padded", "same_order"]


def same_order(old: Sequence[int], new: Sequence[int]) -> dict[int, int] | None:
    """How axes are renamed when a view only adds or drops axes of length 1; None if it does more.

    Args:
        old: the shape before.
        new: the shape after.
    """
    before = [axis for axis, size in enumerate(old) if size != 1]
    after = [axis for axis, size in enumerate(new) if size != 1]
    if [old[a] for a in before] != [new[a] for a in after]:
        return None
    return dict(zip(before, after, strict=True))


def moved(units: Units, label: Label, shape: Sequence[int], source: np.ndarray) -> Label:
    """The label of a tensor whose entries were taken from one that is labelled.

    Args:
        units: the facts.
        label: of the tensor the entries come from.
        shape: of that tensor.
        source: of the result's shape: the flat index of where each entry came from.
    """
    if not label and not label.uniform:
        return Label()
    if source.size == 0:  # nothing of it is left to follow
        for x in label.arrays.values():
            units.pin(x)
        return Label()
    places = dict(enumerate(np.unravel_index(source, tuple(shape))))
    to = {axis: _varying(place) for axis, place in places.items() if shape[axis] > 1}
    arrays: dict[Axes, Ids] = {}
    used: set[int] = set()
    for old, new in _groups(label, to):
        if not set(old) & label.axes:
            if not set(old) <= label.uniform:
                used |= set(new)
            continue
        used |= set(new)
        at = {axis: _at(places[axis], new) for axis in old}
        arrays |= _carried(units, label, old, new, at, shape)
    uniform = {o for o, size in enumerate(source.shape) if size > 1 and o not in used}
    return Label(_closed(units, arrays), frozenset(uniform))


def _varying(place: np.ndarray) -> Axes:
    """The axes along which an array is not constant."""
    return tuple(
        axis
        for axis, size in enumerate(place.shape)
        if size > 1 and bool((place != place.take([0], axis)).any())
    )


def _at(place: np.ndarray, axes: Axes) -> np.ndarray:
    """An array that varies along `axes` at most, as an array over `axes`."""
    return place[tuple(slice(None) if a in axes else 0 for a in range(place.ndim))]


def _groups(label: Label, to: dict[int, Axes]) -> list[tuple[Axes, Axes]]:
    """Old axes that have to be looked at together, each group with its new axes.

    Old axes belong together when they go to the same new axis or when units lie on both.
    """
    groups: list[tuple[set[int], set[int]]] = []
    for axis, new in to.items():
        own, reached = {axis}, set(new)
        for axes in label.arrays:
            if axis in axes:
                own |= set(axes)
        rest = []
        for old, there in groups:
            if old & own or there & reached:
                own, reached = own | old, reached | there
            else:
                rest.append((old, there))
        groups = [*rest, (own, reached)]
    return [(tuple(sorted(old)), tuple(sorted(new))) for old, new in groups]


def _carried(
    units: Units,
    label: Label,
    old: Axes,
    new: Axes,
    at: dict[int, np.ndarray],
    shape: Sequence[int],
) -> dict[Axes, Ids]:
    """The arrays on one group of axes, after the move."""
    inside = {axes: x for axes, x in label.arrays.items() if set(axes) <= set(old)}
    taken = {axes: x[tuple(at[a] for a in axes)] for axes, x in inside.items()}
    for axes, x in taken.items():
        if x.size < inside[axes].size or not new:
            units.see(x, role=10)  # a part was singled out
    if not new:
        return {}
    if old in taken and _all_different(taken[old]):
        arrays = _taken_apart(units, new, taken[old])
        for axes, x in taken.items():
            own = tuple(sorted({new[i] for i in _varying(x)}))
            if axes != old and own and own != new and own not in arrays:
                block = _at(x, tuple(new.index(a) for a in own))
                if _all_different(block):
                    arrays[own] = block
        return arrays
    largest = [a for a in taken if not any(set(a) < set(other) for other in taken)]
    factors = [taken[a] for a in largest]
    fixed = [
        a
        for a in old
        if shape[a] > 1 and a not in label.uniform and not any(a in axes for axes in inside)
    ]
    if fixed:
        sizes = [shape[a] for a in fixed]
        factors.append(-1 - np.ravel_multi_index(tuple(at[a] for a in fixed), tuple(sizes)))
    copies = _copies(factors)
    made = units.composite(factors[0].shape, factors, copies if copies.any() else None)
    return _taken_apart(units, new, made)


def _all_different(x: np.ndarray) -> bool:
    return len(np.unique(x)) == x.size


def _copies(factors: Sequence[np.ndarray]) -> np.ndarray:
    """For every position, how many before it have the same factors."""
    rows = np.stack([f.reshape(-1) for f in factors], axis=1)
    _, kind = np.unique(rows, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    order = np.argsort(kind, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(kind[order])) + 1]
    first = np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    copy = np.empty(len(order), dtype=np.int64)
    copy[order] = np.arange(len(order)) - first
    return copy.reshape(factors[0].shape)


def _taken_apart(units: Units, axes: Axes, x: Ids) -> dict[Axes, Ids]:
    """Units made for several axes together, as the units they were made of where axes part."""
    factors = units.factors(x)
    if factors is None:
        return {axes: x}
    own = [_varying(factor) for factor in factors]
    spoken = [i for where in own for i in where]
    if len(spoken) != len(set(spoken)):
        return {axes: x}  # two of the factors are still on one axis
    parts: dict[Axes, Ids] = {}
    for factor, where in zip(factors, own, strict=True):
        if factor.reshape(-1)[0] < 0:
            continue
        part = _at(factor, where)
        if not where:
            units.see(part, role=11)
        elif not _all_different(part):
            return {axes: x}
        else:
            parts |= _taken_apart(units, tuple(axes[i] for i in where), part)
    return parts


def concatenate(
    units: Units, operands: Sequence[Operand], axis: int, shape: Sequence[int]
) -> Label:
    """The label of tensors put one after the other along an axis.

    On the other axes their units are one.  Along the axis each brings its own; a stretch that is
    constant (padding) gets units that are free, one that is fixed gets pinned ones.
    """
    together = {axis}
    if all(operand.shape[axis] == 1 for operand in operands):  # a stack: they stay apart
        every = {axes for operand in operands for axes in operand.label.arrays}
        for axes in every:
            found = [o.label.arrays[axes] for o in operands if axes in o.label.arrays]
            alike = all(np.array_equal(x, found[0]) for x in found)
            if not alike or len(found) < len(operands):
                together |= set(axes)
    grown = True
    while grown:
        reached = {
            a
            for operand in operands
            for axes in operand.label.arrays
            if together & set(axes)
            for a in axes
        }
        grown = not reached <= together
        together |= reached
    axes = tuple(sorted(together))
    labelled = any(set(o.label.arrays) and o.label.axes & together for o in operands)
    rest = [_without(operand, together) for operand in operands]
    label = merge(units, rest, [1 if a in together else size for a, size in enumerate(shape)])
    if not labelled:
        return Label(label.arrays, label.uniform - together)
    pieces = []
    for k, operand in enumerate(operands):
        if operand.shape[axis] == 0:
            continue
        sizes = tuple(operand.shape[a] for a in axes)
        if not operand.label.axes & together and all(operand.is_uniform(a) for a in axes):
            piece = units.fresh(sizes)
        else:
            piece = joint(units, operand.label, axes, operand.shape)
            units.see(piece, role=k % 8)
        pieces.append(piece)
    joined = np.concatenate(pieces, axis=axes.index(axis))
    if not _all_different(joined):  # the same units in several pieces, which differ in the rest
        joined = units.composite(joined.shape, [joined, -1 - _copies([joined])])
    return Label(_closed(units, {**label.arrays, axes: joined}), label.uniform - together)


def _without(operand: Operand, gone: set[int]) -> Operand:
    """An operand as it is on the other axes: of length 1 on those that are gone."""
    shape = tuple(1 if a in gone else size for a, size in enumerate(operand.shape))
    arrays = {axes: x for axes, x in operand.label.arrays.items() if not set(axes) & gone}
    return Operand(shape, Label(arrays, operand.label.uniform - gone), operand.value)


def padded(units: Units, label: Label, shape: Sequence[int], pads: Sequence[int]) -> Label:
    """The label after padding with one constant.

    Args:
        units: the facts.
        label: of the tensor before.
        shape: of the tensor before.
        pads: as in `torch.nn.functional.pad`: before and after, from the last axis backwards.
    """
    label = Label(label.arrays)
    shape = list(shape)
    for i in range(0, len(pads), 2):
        axis = len(shape) - 1 - i // 2
        before, after = pads[i], pads[i + 1]
        if before < 0 or after < 0:
            index = np.arange(int(np.prod(shape))).reshape(shape)
            cut = [slice(None)] * len(shape)
            cut[axis] = slice(max(0, -before), shape[axis] - max(0, -after))
            label = moved(units, label, shape, index[tuple(cut)])
            shape[axis] = len(range(*cut[axis].indices(shape[axis])))
        sizes = [max(0, before), shape[axis], max(0, after)]
        if sizes[0] + sizes[2] == 0:
            continue
        pieces = [
            Operand(
                tuple(size if a == axis else n for a, n in enumerate(shape)),
                label if k == 1 else Label(uniform=frozenset(range(len(shape)))),
            )
            for k, size in enumerate(sizes)
            if size
        ]
        shape[axis] = sum(sizes)
        label = concatenate(units, pieces, axis, shape)
    return label
