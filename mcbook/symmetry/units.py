"""What a trace learns about units, written down as it is learned.

A *unit* is a number that stands for one position along an axis (or a few axes together) of some
tensor.  While the network runs once, every operation adds facts of four kinds, and nothing is
concluded before the end (`solving.solve`):

- *one*: these two units are one and the same (a bias and the row of the matrix it is added to);
- *block*: this unit lies in that one (a row of a head lies in the head);
- *seen*: this operation touched these units in this way, so units it did not touch are different;
- *pinned*: the position itself matters here, so no other unit may take this one's place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Composite", "Ids", "Reason", "Units", "mix", "spread"]

Ids = np.ndarray
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def mix(values: np.ndarray | int, salt: int = 0) -> np.ndarray:
    """Numbers as well-mixed 64-bit colours (the finaliser of splitmix64).

    Sums of such colours tell multisets apart, so the order of events does not matter.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is meant
        x = np.asarray(values).astype(np.uint64) + np.uint64(salt % 2**64) * _MULTIPLIER
        x = (x + _MULTIPLIER) * _MULTIPLIER
        x = (x ^ (x >> _SHIFTS[0])) * _FACTORS[0]
        x = (x ^ (x >> _SHIFTS[1])) * _FACTORS[1]
        return x ^ (x >> _SHIFTS[2])


@dataclass(frozen=True)
class Reason:
    """Where a fact comes from.

    Attributes:
        what: the fact in a few words, such as "batch norm" or "residual add".
        module: the path of the module that ran the operation; empty for the network itself.
    """

    what: str
    module: str

    def __str__(self) -> str:
        return f"{self.what} in {self.module}" if self.module else self.what


@dataclass
class Composite:
    """Units made for positions on several axes at once: what they were made of.

    Attributes:
        first: the number of the first of them; the others follow.
        factors: arrays as long as there are such units.  An entry of at least 0 is a unit, one
            below 0 a position `-1 - entry` on an axis that has no units.
    """

    first: int
    factors: list[np.ndarray]


@dataclass
class Units:
    """The facts.  Arrays of facts are kept as they came, one entry an operation.

    Attributes:
        count: how many units there are; they are numbered from 0.
        ones: pairs of arrays of units that are one, with the number of the reason.
        blocks: pairs (units, the blocks they lie in), with the number of the reason.
        seen: arrays of units with the colour of the event.
        pinned: arrays of units that cannot move, with colours (unique within the array) and the
            number of the reason.
        reasons: what the numbers of reasons mean.
        composites: see `Composite`, in the order of their units.
    """

    count: int = 0
    ones: list[tuple[Ids, Ids, int]] = field(default_factory=list)
    blocks: list[tuple[Ids, Ids, int]] = field(default_factory=list)
    seen: list[tuple[Ids, int]] = field(default_factory=list)
    pinned: list[tuple[Ids, np.ndarray, int]] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=lambda: [Reason("", "")])
    composites: list[Composite] = field(default_factory=list)
    _known: dict[tuple, int | Ids] = field(default_factory=dict)
    _events: int = 0
    _pins: int = 0

    def fresh(self, shape: Sequence[int]) -> Ids:
        """New units, one for each position of an array of this shape."""
        n = math.prod(shape)
        self.count += n
        return np.arange(self.count - n, self.count, dtype=np.int64).reshape(tuple(shape))

    def next_event(self) -> None:
        """What is seen from here on is another event."""
        self._events += 1

    def because(self, what: str, module: str) -> None:
        """The facts that follow are for this reason."""
        self.next_event()
        if self.reasons[-1] != Reason(what, module):
            self.reasons.append(Reason(what, module))

    @property
    def _reason(self) -> int:
        return len(self.reasons) - 1

    def one(self, x: Ids, y: Ids) -> None:
        """Unit by unit, `x` and `y` are one."""
        if x is not y and not np.array_equal(x, y):
            self.ones.append((x.reshape(-1), y.reshape(-1), self._reason))

    def block(self, x: Ids, y: Ids) -> None:
        """Unit by unit, `x` lies in `y`; `y` has the shape of `x`."""
        key = ("block", _key(x), _key(y))
        if key not in self._known:
            self._known[key] = 1
            x, y = (np.ascontiguousarray(part).reshape(-1) for part in (x, y))
            self.blocks.append((x, y, self._reason))

    def see(self, x: Ids, role: int = 0) -> None:
        """This operation touched `x`, in this role."""
        self.seen.append((x.reshape(-1), self._events * 64 + role))

    def pin(self, x: Ids, position: np.ndarray | None = None) -> None:
        """The units `x` cannot leave their positions.

        Args:
            x: the units.
            position: of the shape of `x`: only units of the same position may change places;
                None: none may.
        """
        if position is None:
            position = np.arange(x.size).reshape(x.shape)
        position = np.broadcast_to(position, x.shape).reshape(-1)
        self._pins += 1
        colours = mix(position, salt=2**32 + self._pins)
        self.pinned.append((x.reshape(-1), colours, self._reason))

    def blocks_of(self, x: Ids, kept: tuple[int, ...]) -> Ids:
        """The block that each slice of `x` forms: an array over the axes `kept` of `x`.

        Made once for the same units, so that two operations speak of the same blocks.
        """
        key = ("blocks", _key(x), kept)
        found = self._known.get(key)
        if found is None:
            found = self.fresh([x.shape[axis] for axis in kept])
            self._known[key] = found
        assert isinstance(found, np.ndarray)
        self.block(x, spread(found, kept, x.shape))
        return found

    def composite(
        self,
        shape: tuple[int, ...],
        factors: Sequence[np.ndarray],
        copies: np.ndarray | None = None,
    ) -> Ids:
        """Units for the positions of `shape`, each determined by its factors.

        Args:
            shape: of the array of units.
            factors: arrays of that shape, as in `Composite.factors`.
            copies: numbers that tell positions with equal factors apart, where there are some:
                these hold the same entries, so that they may change places.
        """
        key = ("composite", *map(_key, factors))
        found = self._known.get(key)
        if isinstance(found, np.ndarray):
            return found
        made = self.fresh(shape)
        kept = [*factors] if copies is None else [*factors, -1 - copies]
        flat = [np.ascontiguousarray(f).reshape(-1) for f in kept]
        self.composites.append(Composite(int(made.reshape(-1)[0]), flat))
        for factor in factors:
            if (factor >= 0).all():
                self.block(made, factor)
            else:
                self.pin(made, -1 - factor)
        self._known[key] = made
        return made

    def factors(self, x: Ids) -> list[np.ndarray] | None:
        """What the units of `x` are made of, each of the shape of `x`; None if of nothing."""
        first = int(x.reshape(-1)[0])
        for one in reversed(self.composites):
            if one.first <= first:
                inside = x - one.first
                if inside.min() < 0 or inside.max() >= len(one.factors[0]):
                    return None
                return [factor[inside] for factor in one.factors]
        return None


def spread(x: np.ndarray, axes: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """An array over some axes, as a view over all axes of `shape`.

    Args:
        x: the array, over the increasing `axes`.
        axes: which axes of `shape` they are.
        shape: the shape of the result.
    """
    full = [1] * len(shape)
    for size, axis in zip(x.shape, axes, strict=True):
        full[axis] = size
    return np.broadcast_to(x.reshape(full), tuple(shape))


def _key(x: np.ndarray) -> tuple:
    return (x.shape, hash(np.ascontiguousarray(x).tobytes()))
