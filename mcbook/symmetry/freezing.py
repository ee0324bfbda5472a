"""A spec in which some spaces are held fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .group import cells
from .parts import Frozen, UnitClass
from .spec import PermutationSpec

__all__ = ["without"]


def without(spec: PermutationSpec, gone: Mapping[int, str]) -> PermutationSpec:
    """The spec with some classes frozen, and everything that has to stay with them.

    What lies in a frozen block stays in it and may still move there, so only the blocks freeze;
    where a unit is frozen, so are the blocks it lies in.
    """
    reasons = dict(gone)
    waiting = list(gone)
    while waiting:  # frozen units hold their blocks
        place = waiting.pop()
        for above, _ in spec.classes[place].parents:
            if above not in reasons:
                reasons[above] = f"holds {spec.classes[place].name}, which is frozen"
                waiting.append(above)
    return _rebuilt(spec, reasons)


def _rebuilt(spec: PermutationSpec, reasons: Mapping[int, str]) -> PermutationSpec:
    """Without the classes that are frozen; blocks that are frozen become separate classes."""
    starts = spec.starts
    number = np.full(int(starts[-1]), -1)  # old unit -> new unit, -1 where it cannot move
    part_of = np.full(int(starts[-1]), -1)  # old unit -> its new class
    place_in = np.zeros(int(starts[-1]), np.int64)  # old unit -> its place there
    classes: list[UnitClass] = []
    total = 0
    for place, c in enumerate(spec.classes):
        if place in reasons:
            continue
        # together stay units whose blocks can change places: both in one new class, or both held
        keys = [np.zeros(c.size, np.int64)]
        for above, block in c.parents:
            new = part_of[starts[above] + block]
            keys.append(np.where(new >= 0, new, -1 - block))
        cell = np.unique(np.stack(keys, 1), axis=0, return_inverse=True)[1].reshape(-1)
        for k in range(int(cell.max()) + 1):
            inside = np.flatnonzero(cell == k)
            if len(inside) < 2:
                continue
            parents = []
            for above, block in c.parents:
                old = starts[above] + block[inside]
                if part_of[old[0]] >= 0:
                    parents.append((int(part_of[old[0]]), place_in[old]))
            part_of[starts[place] + inside] = len(classes)
            place_in[starts[place] + inside] = np.arange(len(inside))
            number[starts[place] + inside] = total + np.arange(len(inside))
            free = bool((cells(parents, len(inside)) > 1).any())
            name = f"{c.name}:{k}" if cell.max() else c.name
            classes.append(replace(c, name=name, size=len(inside), parents=tuple(parents),
                                   is_space=free))  # fmt: skip
            total += len(inside)
    slots = {
        name: [
            replace(part, units=np.where(part.units >= 0, number[part.units], -1)) for part in parts
        ]
        for name, parts in spec.slots.items()
    }
    frozen = list(spec.frozen)
    for name, parts in spec.slots.items():
        for old, now in zip(parts, slots[name], strict=True):
            lost = (old.units >= 0) & (now.units < 0)
            if lost.any():
                which = int(np.searchsorted(starts, old.units[lost][0], side="right")) - 1
                reason = reasons.get(which, "alone in its frozen block")
                frozen.append(Frozen.where(name, old.axes, lost, reason))
    return replace(spec, classes=classes, slots=slots, frozen=frozen, verification=None)
