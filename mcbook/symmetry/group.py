"""The group of a spec: classes of units, some inside the blocks of others.

A class without blocks of `n` units is permuted by the symmetric group `S_n`.  A class in blocks is
permuted inside them, after the blocks have been: a wreath product.  Where a cell (the units with
the same blocks) has one unit, that unit follows its blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = [
    "Irregular",
    "cells",
    "complete",
    "log10_order",
    "random_element",
    "random_swaps",
]

Parents = Sequence[Sequence[tuple[int, np.ndarray]]]


class Irregular(ValueError):
    """Blocks that cannot take each other's places.

    Attributes:
        place: the number of the class.
    """

    def __init__(self, place: int):
        super().__init__(f"the cells of class {place} are not alike")
        self.place = place


def _codes(
    above: Sequence[tuple[int, np.ndarray]],
    sizes: Sequence[int],
    size: int,
    element: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """For every unit of a class one number for all its blocks together.

    Args:
        above: the classes of its blocks, and the block of each unit.
        sizes: of all classes.
        size: of this class.
        element: where given, the blocks are those whose units come into the slots.
    """
    code = np.zeros(size, np.int64)
    reach = 1
    for k, block in above:
        if reach * sizes[k] > 2**62:
            code = np.unique(code, return_inverse=True)[1].reshape(-1)
            reach = size
        code = code * sizes[k] + (block if element is None else element[k][block])
        reach *= sizes[k]
    return code


def cells(above: Sequence[tuple[int, np.ndarray]], size: int) -> np.ndarray:
    """The number of units in each cell: those that share all their blocks."""
    tops = [(k, int(block.max()) + 1) for k, block in above]
    sizes = [dict(tops).get(k, 1) for k in range(max([k for k, _ in tops], default=-1) + 1)]
    return np.unique(_codes(above, sizes, size), return_counts=True)[1]


def complete(
    sizes: Sequence[int], parents: Parents, given: Mapping[int, np.ndarray]
) -> list[np.ndarray]:
    """An element of the group from what is given of it.

    Args:
        sizes: of the classes, parents before children.
        parents: per class, the classes of its blocks and the block of each unit.
        given: for some classes a vector: slot `i` takes unit `p[i]`.  A class that is not given
            keeps its order inside each cell.

    Returns:
        A vector for every class.

    Raises:
        Irregular: when cells that ought to change places are of different sizes, or a vector does
            not go along with those of its blocks.
    """
    element: list[np.ndarray] = []
    for place, (size, above) in enumerate(zip(sizes, parents, strict=True)):
        if place in given:
            p = np.asarray(given[place])
            have = _codes(above, sizes, size)
            if not np.array_equal(have[p], _codes(above, sizes, size, element)):
                raise Irregular(place)
            element.append(p)
        else:
            element.append(_in_order(place, sizes, above, element))
    return element


def _in_order(
    place: int,
    sizes: Sequence[int],
    above: Sequence[tuple[int, np.ndarray]],
    element: Sequence[np.ndarray],
) -> np.ndarray:
    """The vector of a class that goes along with its blocks and keeps the order inside them."""
    size = sizes[place]
    if all(np.array_equal(element[k], np.arange(sizes[k])) for k, _ in above):
        return np.arange(size)
    # the units of each cell in order, and the slots of the cell whose place they take
    units, slots = _codes(above, sizes, size), _codes(above, sizes, size, element)
    p = np.empty(size, np.int64)
    p[np.argsort(slots, kind="stable")] = np.argsort(units, kind="stable")
    if not np.array_equal(units[p], slots):
        raise Irregular(place)
    return p


def random_element(
    sizes: Sequence[int],
    parents: Parents,
    seed: int,
    names: Sequence[str] | None = None,
    drawn: Sequence[int] | None = None,
    restless: bool = False,
) -> list[np.ndarray]:
    """A uniformly random element of the group.

    Args:
        sizes: of the classes.
        parents: as in `complete`.
        seed: with the name of a class decides what is drawn for it.
        names: of the classes; their numbers when None.
        drawn: the classes that are drawn; all when None.  The others keep their order.
        restless: draw again until something moves in every class that is drawn.

    Raises:
        Irregular: see `complete`.
    """
    element: list[np.ndarray] = []
    for place, (size, above) in enumerate(zip(sizes, parents, strict=True)):
        p = _in_order(place, sizes, above, element)
        if drawn is None or place in drawn:
            name = str(place) if names is None else names[place]
            generator = np.random.default_rng([seed, *name.encode()])
            cell = _codes(above, sizes, size)
            slots = np.argsort(cell, kind="stable")
            for _ in range(100):
                shuffled = generator.permutation(size)
                drawn_p = np.empty(size, np.int64)
                drawn_p[slots] = p[shuffled[np.argsort(cell[shuffled], kind="stable")]]
                if not restless or (drawn_p != np.arange(size)).any():
                    break
            p = drawn_p
        element.append(p)
    return element


def random_swaps(sizes: Sequence[int], parents: Parents, seed: int) -> list[np.ndarray]:
    """An element in which two random units of one cell of every class change places.

    Blocks that are swapped take along what lies in them.

    Args:
        sizes: of the classes.
        parents: as in `complete`.
        seed: decides which.
    """
    generator = np.random.default_rng(seed)
    element: list[np.ndarray] = []
    for place, (size, above) in enumerate(zip(sizes, parents, strict=True)):
        p = _in_order(place, sizes, above, element)
        cell = _codes(above, sizes, size)
        mates = np.flatnonzero(cell == cell[generator.integers(size)])
        if len(mates) > 1:
            pair = generator.choice(mates, 2, replace=False)
            p[pair] = p[pair[::-1]]
        element.append(p)
    return element


def log10_order(sizes: Sequence[int], parents: Parents) -> float:
    """The logarithm to base 10 of the number of elements: the product of `n!` over all cells."""
    total = sum(
        math.lgamma(n + 1)
        for size, above in zip(sizes, parents, strict=True)
        for n in cells(above, size).tolist()
    )
    return total / math.log(10)
