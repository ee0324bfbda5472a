"""A spec written by hand, for a network whose forward pass cannot be traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from .. import weights
from ..errors import UnknownNameError, expect
from .assembling import aliases_of
from .parts import Frozen, Slots, UnitClass
from .spec import PermutationSpec

__all__ = ["from_axes"]

# what an entry looks like, for the messages
_FORMS = "None, 'space', ('space', repeats), or a list of such parts and of numbers of fixed places"


def from_axes(model: nn.Module, axes: Mapping[str, Sequence[Any]]) -> PermutationSpec:
    """A spec from the space of every axis of every tensor.

    Args:
        model: the network; its tensors give the sizes.
        axes: for tensors by name, an entry for each axis:

            - `None`: cannot move;
            - `"space"`: the units of a space, in order;
            - `("space", r)`: `r` positions in a row for each unit (the pixels of a flattened
              channel, the rows of a head);
            - a list of such parts, one after the other (a concatenation), in which a number is so
              many positions that cannot move.

            Axes left out at the end (the taps of a kernel), and tensors left out, cannot move.

    Returns:
        The spec, not verified: `spec.verify(model, example)` checks it.

    Raises:
        UnknownNameError: for a tensor the network does not have.
        ValueError: for an entry of another form, or sizes that do not fit together; names tensor
            and axis.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> spec = from_axes(net, {"0.weight": ["h"], "0.bias": ["h"], "2.weight": [None, "h"]})
        >>> spec.spaces
        {'h': 8}
    """
    expect(model, nn.Module, "a torch.nn.Module")
    expect(axes, Mapping, "a dictionary from names of tensors to an entry for each axis")
    shapes = {name: tuple(x.shape) for name, x in weights.of(model).items()}
    sizes: dict[str, int] = {}
    parsed: dict[tuple[str, int], list[tuple[str | None, int]]] = {}
    for tensor, entries in axes.items():
        if tensor not in shapes:
            raise UnknownNameError("tensor", tensor, shapes)
        if not isinstance(entries, (list, tuple)) or len(entries) > len(shapes[tensor]):
            raise ValueError(
                f"expected at most {len(shapes[tensor])} entries for {tensor} "
                f"{list(shapes[tensor])}, found {entries!r}"
            )
        for axis, entry in enumerate(entries):
            parsed[tensor, axis] = _parts(tensor, axis, entry)
    waiting = dict(parsed)
    while waiting:  # an axis tells the size of a space when it is the only one not known in it
        before = len(waiting)
        for (tensor, axis), parts in list(waiting.items()):
            if _settle(tensor, axis, shapes[tensor][axis], parts, sizes):
                del waiting[tensor, axis]
        if len(waiting) == before:
            tensor, axis = next(iter(waiting))
            unknown = [name for name, _ in waiting[tensor, axis] if name and name not in sizes]
            raise ValueError(
                f"expected every space to have an axis that tells its size, found none for "
                f"{' and '.join(map(repr, dict.fromkeys(unknown)))} (axis {axis} of {tensor})"
            )
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True))
    slots: dict[str, list[Slots]] = {}
    frozen: list[Frozen] = []
    tied = aliases_of(model)
    for tensor, shape in shapes.items():
        if tensor in tied:
            continue
        for axis, size in enumerate(shape):
            parts = parsed.get((tensor, axis), [(None, size)])
            units = np.full(size, -1)
            rank = np.zeros(size, np.int64)
            at = 0
            seen: dict[str, int] = {}
            for name, r in parts:
                if name is None:
                    at += r
                    continue
                n = sizes[name]
                units[at : at + n * r] = starts[name] + np.repeat(np.arange(n), r)
                rank[at : at + n * r] = np.tile(np.arange(r), n) + seen.get(name, 0)
                seen[name] = seen.get(name, 0) + r
                at += n * r
            if (units >= 0).any():
                slots.setdefault(tensor, []).append(Slots((axis,), units, rank))
            if (units < 0).any() and axis < 2 and size > 1:
                fixed = int((units < 0).sum())
                frozen.append(Frozen(tensor, axis, fixed, size, "the spec says so"))
        slots.setdefault(tensor, [])
    return PermutationSpec(
        model=type(model).__name__,
        shapes=shapes,
        classes=[UnitClass(name, n, why=("written by hand",)) for name, n in sizes.items()],
        slots=slots,
        aliases=tied,
        frozen=frozen,
    )


def _parts(tensor: str, axis: int, entry: Any) -> list[tuple[str | None, int]]:
    """An entry as parts: (space, repeats), or (None, how many places); -1: the whole axis."""
    if entry is None:
        return [(None, -1)]
    if isinstance(entry, str):
        return [(entry, 1)]
    if isinstance(entry, tuple) and [type(part) for part in entry] == [str, int] and entry[1] >= 1:
        return [(entry[0], entry[1])]
    if isinstance(entry, list) and entry:
        parts: list[tuple[str | None, int]] = []
        for one in entry:
            parts += [(None, one)] if type(one) is int and one >= 0 else _parts(tensor, axis, one)
        if all(r >= 0 for _, r in parts):
            return parts
    raise ValueError(f"expected for axis {axis} of {tensor} {_FORMS}, found {entry!r}")


def _settle(
    tensor: str, axis: int, length: int, parts: list[tuple[str | None, int]], sizes: dict[str, int]
) -> bool:
    """Learn the size of a space from an axis, or check it; False if too little is known yet."""
    if parts == [(None, -1)]:
        parts[0] = (None, length)
        return True
    known = sum(r if name is None else sizes[name] * r for name, r in parts
                if name is None or name in sizes)  # fmt: skip
    unknown = {name: 0 for name, _ in parts if name is not None and name not in sizes}
    for name, r in parts:
        if name in unknown:
            unknown[name] += r
    if len(unknown) > 1:
        return False
    rest = length - known
    if unknown:
        (name, r), *_ = unknown.items()
        if rest < r or rest % r:
            raise ValueError(
                f"expected axis {axis} of {tensor}, of length {length}, to hold {r} positions for "
                f"each unit of {name!r}, found {rest} positions for it"
            )
        sizes[name] = rest // r
    elif rest:
        said = ", ".join(f"{name!r} has {sizes[name]} units" for name, _ in parts if name)
        raise ValueError(
            f"expected axis {axis} of {tensor} to have {known} positions ({said}), found {length}"
        )
    return True
