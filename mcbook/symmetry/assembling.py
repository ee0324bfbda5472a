"""A spec from the classes of alike units: with names, reasons, and what is frozen."""

from __future__ import annotations

from collections import Counter

import numpy as np
from torch import Tensor, nn

from .. import weights
from .context import Trace
from .group import cells
from .parts import Frozen, Slots, UnitClass
from .solving import Classes, classify
from .spec import PermutationSpec
from .units import Reason

__all__ = ["aliases_of", "solve"]


#: bookkeeping of the trace, not something a network does
_INNER = ("blocks of the same units", "flattening", "reshaping")


def solve(model: nn.Module, trace: Trace) -> PermutationSpec:
    """The spec of a network from what its trace noted."""
    solved = classify(trace, model)
    kept = _kept(solved, trace)
    starts = np.zeros(len(solved.members), np.int64)
    number = np.full(len(solved.of), -1)
    total = 0
    for k in kept:
        own = solved.members[k]
        starts[k] = total
        number[own] = total + np.arange(len(own))
        total += len(own)
    slots = {
        name: [
            Slots(axes, units := number[solved.component[x]], _ranks(units, solved.role[x]))
            for axes, x in sorted(label.arrays.items())
        ]
        for name, (_, label) in trace.weights.items()
    }
    for name in trace.vectors:  # constants after all
        if all((part.units < 0).all() for part in slots[name]):
            del slots[name], trace.weights[name]
    new = {k: i for i, k in enumerate(kept)}
    names, whys = _names(trace, solved, kept), _whys(trace, solved)
    classes = []
    for k in kept:
        parents = tuple((new[p], block) for p, block in solved.parents[k] if p in new)
        size = len(solved.members[k])
        free = bool((cells(parents, size) > 1).any())
        classes.append(UnitClass(names[k], size, parents, free, whys.get(k, ())))
    state = weights.of(model)
    return PermutationSpec(
        model=type(model).__name__,
        shapes={name: tuple(x.shape) for name, x in state.items()},
        classes=classes,
        slots={name: parts for name, parts in slots.items() if name in state},
        aliases=aliases_of(model),
        frozen=_frozen(trace, solved, slots),
        notes=trace.notes,
    )


def _kept(solved: Classes, trace: Trace) -> list[int]:
    """The classes that some weight stands on, themselves or through what lies in them."""
    needed = set()
    for _, label in trace.weights.values():
        for x in label.arrays.values():
            needed |= set(np.unique(solved.of[solved.component[x]]).tolist())
    needed.discard(-1)
    for k in reversed(range(len(solved.members))):
        if k in needed:
            needed |= {p for p, _ in solved.parents[k]}
    return sorted(needed)


def _ranks(units: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Which of its unit's positions each position is: by what happened to it, then in order."""
    flat = units.reshape(-1)
    order = np.lexsort((np.arange(len(flat)), colour.reshape(-1), flat))
    starts = np.r_[0, np.flatnonzero(np.diff(flat[order])) + 1]
    first = np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    rank = np.empty(len(flat), np.int64)
    rank[order] = np.arange(len(flat)) - first
    return rank.reshape(units.shape)


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Tied tensors: every further name, and the first."""
    first: dict[int, str] = {}
    aliases = {}
    for name, x in model.state_dict(keep_vars=True).items():
        if not isinstance(x, Tensor):
            continue
        if id(x) in first:
            aliases[name] = first[id(x)]
        first.setdefault(id(x), name)
    return aliases


def _names(trace: Trace, solved: Classes, kept: list[int]) -> dict[int, str]:
    """A name for every class: the tensor that makes its units, with the part of the axis it is."""
    best: dict[int, tuple[int, str]] = {}
    for name, (tensor, label) in trace.weights.items():
        for axes, x in label.arrays.items():
            if len(axes) > 1:
                continue
            of = solved.of[solved.component[x]]
            for k in np.unique(of[of >= 0]).tolist():
                places = np.flatnonzero(of == k)
                rank = 0 if axes == (0,) and tensor.ndim > 1 else 1
                if k not in best or rank < best[k][0]:
                    best[k] = (rank, _slot_name(name, axes[0], places, len(x)))
    found: dict[int, str] = {}
    for k in reversed(kept):  # what has no tensor of its own is named after what lies in it
        if k in best:
            found[k] = best[k][1]
        elif k not in found:
            found[k] = "units"
        for p, _ in solved.parents[k]:
            if p not in best:
                found[p] = f"{found[k].removesuffix(' blocks')} blocks"
    seen: Counter[str] = Counter()
    for k in kept:
        seen[found[k]] += 1
        if seen[found[k]] > 1:
            found[k] = f"{found[k]} #{seen[found[k]]}"
    return found


def _slot_name(name: str, axis: int, places: np.ndarray, size: int) -> str:
    """Where units stand, in short: the module, or the tensor where it has a name of its own."""
    path, _, last = name.rpartition(".")
    base = path if last in ("weight", "bias") and path else name
    if axis:
        base += f"({axis})"
    if len(places) < size:
        base += f"[{places[0]}:{places[-1] + 1}]"
    return base


def _whys(trace: Trace, solved: Classes) -> dict[int, tuple[str, ...]]:
    """For every class what ties it: the kinds of operations, the most frequent first."""
    units = trace.units
    found: dict[int, dict[str, set[int]]] = {}
    for x, _, reason in units.ones:
        if units.reasons[reason].what == _INNER[0]:
            continue
        for k in np.unique(solved.of[solved.component[x]]).tolist():
            found.setdefault(k, {}).setdefault(units.reasons[reason].what, set()).add(reason)
    for x, y, reason in units.blocks:
        what = units.reasons[reason].what
        if what in _INNER:
            continue
        for part, role in ((x, "in the blocks of"), (y, "blocks of")):
            for k in np.unique(solved.of[solved.component[part]]).tolist():
                found.setdefault(k, {}).setdefault(f"{role} {what}", set()).add(reason)
    return {
        k: tuple(
            f"{what} ×{len(which)}" if len(which) > 1 and what not in _INNER else what
            for what, which in sorted(whys.items(), key=lambda item: -len(item[1]))
        )
        for k, whys in found.items()
        if k >= 0
    }


def _because(reason: Reason) -> str:
    """Why units are pinned, as a sentence says it."""
    if not reason.what:
        return "no other unit is like it"
    if reason.what == "output":
        return "an output of the network"
    if reason.what.startswith(("not read", "unknown", "its blocks", "lies in")):
        return str(reason)
    if reason.what == "embedding":
        return f"the input picks rows by number ({reason.module})"
    where = f" in {reason.module}" if reason.module else ""
    return f"meets the input or fixed positions{where} ({reason.what})"


def _frozen(trace: Trace, solved: Classes, slots: dict[str, list[Slots]]) -> list[Frozen]:
    """Every position of a weight that cannot move, by tensor and axis, with the reason."""
    found = []
    for name, (_, label) in trace.weights.items():
        covered = {a for axes in label.arrays if len(axes) > 1 for a in axes}
        for part in slots[name]:
            if len(part.axes) == 1 and part.axes[0] >= 2:
                continue  # kernel axes: said once, for all
            stuck = part.units < 0
            if not stuck.any() or (len(part.axes) == 1 and set(part.axes) <= covered):
                continue
            pinned = solved.pinned[solved.component[label.arrays[part.axes][stuck]]]
            for reason in np.unique(pinned).tolist():
                here = stuck.copy()
                here[stuck] = pinned == reason
                why = _because(trace.units.reasons[reason])
                found.append(Frozen.where(name, part.axes, here, why))
    return found
