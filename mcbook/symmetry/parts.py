"""What a spec is made of: classes of units, where they stand on tensors, and what is frozen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Frozen", "Slots", "UnitClass"]


@dataclass(frozen=True)
class UnitClass:
    """Units that are alike.

    Attributes:
        name: after the first tensor that makes them.
        size: how many there are.
        parents: pairs (number of a class, for every unit its block in that class).
        is_space: whether its units can be permuted by themselves; else they follow their blocks.
        why: what ties the axes, in words.
    """

    name: str
    size: int
    parents: tuple[tuple[int, np.ndarray], ...] = ()
    is_space: bool = True
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slots:
    """The units on some axes of a tensor.

    Attributes:
        axes: increasing.
        units: over these axes, the number of the unit at each position; -1 where it cannot move.
        rank: over these axes, which of the unit's several positions this is.
    """

    axes: tuple[int, ...]
    units: np.ndarray
    rank: np.ndarray

    def source(self, element: np.ndarray) -> np.ndarray:
        """For each position the flat position it takes its entries from.

        Args:
            element: for every unit the unit that takes its place.
        """
        flat, rank = self.units.reshape(-1), self.rank.reshape(-1)
        source = np.arange(len(flat))
        free = np.flatnonzero(flat >= 0)
        if not len(free):
            return source
        order = free[np.lexsort((rank[free], flat[free]))]
        first = np.full(int(max(flat.max(), element.max())) + 1, -1)
        values, start = np.unique(flat[order], return_index=True)
        first[values] = start
        source[free] = order[first[element[flat[free]]] + rank[free]]
        return source


@dataclass(frozen=True)
class Frozen:
    """Positions of a tensor that cannot move.

    Attributes:
        tensor: its name.
        axis: which axis.
        count: how many of its positions.
        size: the length of the axis.
        reason: why.
    """

    tensor: str
    axis: int
    count: int
    size: int
    reason: str

    @classmethod
    def where(cls, tensor: str, axes: tuple[int, ...], stuck: np.ndarray, reason: str) -> Frozen:
        """What a mask over some axes says of the last of them."""
        along = np.atleast_1d(stuck.any(axis=tuple(range(stuck.ndim - 1))))
        return cls(tensor, axes[-1], int(along.sum()), len(along), reason)
