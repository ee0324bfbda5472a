"""The best permutation for given gains: linear assignment, in blocks where units lie in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..symmetry.permutations import Permutation
from ..symmetry.spec import PermutationSpec

__all__ = ["Families", "assign", "best_element"]

#: an assignment counts as better only from this on, relative to `n max |gain|`
TOLERANCE = 1e-9
# from which share of slots with the best unit on; so many rounds pay on perceptrons of 512 units
_SETTLED = 0.15
_ROUNDS = 5


def assign(gain: np.ndarray) -> np.ndarray:
    """The permutation `p` with the largest `Σ_i gain[i, p[i]]`; ties leave all in place.

    Args:
        gain: `[n, n]`; what slot `i` gains from unit `j`.

    Returns:
        `[n]`, int64; the identity unless another is better by more than `1e-9 n max |gain|`, and
        of several that are equally good one that leaves what is tied in place.

    Raises:
        ValueError: when an entry is NaN or infinite.
    """
    n = len(gain)
    if not np.isfinite(gain).all():
        raise ValueError(f"expected finite gains, found NaN or infinite ones among {n} × {n}")
    still = np.arange(n)
    if n == 1:
        return still
    _, p = linear_sum_assignment(_reduced(gain))
    better = float(gain[still, p].sum(dtype=np.float64) - gain.trace(dtype=np.float64))
    return p if better > TOLERANCE * n * float(np.abs(gain).max()) else still


def _reduced(gain: np.ndarray) -> np.ndarray:
    """Costs `[n, n]` with the same best assignments, for which the search is shorter.

    Numbers `u_i` and `v_j` are taken away from the rows and columns of `-gain` such that nothing
    becomes negative: then zeros that form an assignment are the best one (linear programming
    duality).  They are chosen to make the diagonal small, where many slots hold the best unit
    already: there the best assignment is not far from what is.
    """
    cost = -gain.astype(np.float64)
    np.fill_diagonal(cost, cost.diagonal() - TOLERANCE / 2 * np.abs(cost).max())  # ties stay
    own = cost.diagonal().copy()
    u = cost.min(1)
    if (u == own).mean() > _SETTLED:
        for _ in range(_ROUNDS):
            u = np.minimum(u, (cost - (own - u)).min(1))
    cost -= u[:, None]
    cost -= cost.min(0)
    return cost


class Families:
    """The classes of a spec, and the best move of those that depend on each other.

    A *family* is a class without blocks and everything that lies in it.  What is maximised is

        Σ_k Σ_i gain_k[i, q_k[i]]

    over the group: a class in blocks can be permuted only inside them, after they have been.  For a
    class of blocks the gain of putting block `j` where block `i` was is its own plus what the best
    assignment of the units in `j` to the slots in `i` gains: an outer assignment over inner ones.

    Args:
        spec: whose classes.

    Attributes:
        members: for every family its classes, blocks before what lies in them.
        of: for every class its family.
    """

    def __init__(self, spec: PermutationSpec):
        self.classes = spec.classes
        self.children: list[list[int]] = [[] for _ in self.classes]
        family = list(range(len(self.classes)))
        for k, c in enumerate(self.classes):
            for above, _ in c.parents:
                old, new = family[k], family[above]
                family = [new if f == old else f for f in family]
            if len(c.parents) == 1:
                self.children[c.parents[0][0]].append(k)
        roots = sorted(set(family))
        self.members = [[k for k, f in enumerate(family) if f == root] for root in roots]
        self.of = [roots.index(f) for f in family]

    def is_simple(self, family: int) -> bool:
        """Whether a family is one class on which the whole symmetric group acts."""
        return not any(self.classes[k].is_space for k in self.members[family][1:])

    def best(
        self, family: int, gains: Mapping[int, np.ndarray], outer: bool = True
    ) -> dict[int, np.ndarray]:
        """The move of a family that gains most.

        Args:
            family: its number.
            gains: per class `[n, n]`, what slot `i` gains from unit `j`.
            outer: whether blocks may change places, too.

        Returns:
            Per space of the family that moves its vector: slot `i` takes unit `q[i]`.
        """
        found: dict[int, np.ndarray] = {}
        for k in self.members[family]:
            c = self.classes[k]
            if not c.is_space:
                found[k] = self._following(k, found)
            elif not c.parents:
                if self._inner(k):
                    found[k] = self._outer(k, gains) if outer else np.arange(c.size)
                else:
                    found[k] = assign(gains[k]) if k in gains else np.arange(c.size)
            else:
                found[k] = self._inside(k, found, self._whole(k, gains))
        return {
            k: q for k, q in found.items()
            if self.classes[k].is_space and not np.array_equal(q, np.arange(len(q)))
        }  # fmt: skip

    def inner(self, k: int) -> set[int]:
        """All spaces whose best order is part of what moving the units of a class gains."""
        found = set(self._inner(k))
        return found.union(*(self.inner(child) for child in found))

    def _inner(self, k: int) -> list[int]:
        """The spaces that lie in the units of a class and in nothing else."""
        return [child for child in self.children[k] if self.classes[child].is_space]

    def _parts(self, k: int, gains: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """What counts when blocks are put in each other's places, `[blocks, m, blocks, m]` each.

        The class's own gains have one unit a block (`m = 1`); then come those of its inner classes.
        """
        size = self.classes[k].size
        parts = [gains[k].reshape(size, 1, size, 1)] if k in gains else []
        for child in self._inner(k):
            inner = self._whole(child, gains)
            if inner is not None:
                by_block = np.argsort(self.classes[child].parents[0][1], kind="stable")
                inner = inner[np.ix_(by_block, by_block)]
                parts.append(inner.reshape(size, len(inner) // size, size, len(inner) // size))
        return parts

    def _whole(self, k: int, gains: Mapping[int, np.ndarray]) -> np.ndarray | None:
        """What slot `i` of a class gains from unit `j`, with all that lies in it."""
        if not self._inner(k):
            return gains.get(k)
        parts = self._parts(k, gains)
        if not parts:
            return None
        size = range(self.classes[k].size)
        return np.array([[_exchange(parts, i, j) for j in size] for i in size])

    def _outer(self, k: int, gains: Mapping[int, np.ndarray]) -> np.ndarray:
        """The best move of a class of blocks.

        An inner assignment gains at most the sum of its rows' (or columns') largest entries.  With
        these bounds in the place of what was not computed yet, the outer assignment is solved; the
        pairs of blocks it takes are computed; and again, until it takes none that was not.
        """
        parts = self._parts(k, gains)
        size = self.classes[k].size
        if not parts:
            return np.arange(size)
        gain = sum(np.minimum(x.max(3).sum(1), x.max(1).sum(2)) for x in parts).astype(np.float64)
        known = np.zeros((size, size), bool)
        for i in range(size):  # to compare with
            gain[i, i], known[i, i] = _exchange(parts, i, i), True
        while True:
            p = assign(gain)
            unknown = [(i, j) for i, j in enumerate(p.tolist()) if not known[i, j]]
            if not unknown:
                return p
            for i, j in unknown:
                gain[i, j], known[i, j] = _exchange(parts, i, j), True

    def _following(self, k: int, found: Mapping[int, np.ndarray]) -> np.ndarray:
        """The move of a class that keeps its order inside its blocks."""
        units, slots = self._cells(k, found)
        q = np.empty(len(units), np.int64)
        q[np.argsort(slots, kind="stable")] = np.argsort(units, kind="stable")
        return q

    def _inside(
        self, k: int, found: Mapping[int, np.ndarray], gain: np.ndarray | None
    ) -> np.ndarray:
        """The best move of a class inside its blocks, wherever these have gone."""
        q = self._following(k, found)
        if gain is None:
            return q
        slots = self._cells(k, found)[1]
        for cell in np.unique(slots):
            at = np.flatnonzero(slots == cell)
            q[at] = q[at][assign(gain[np.ix_(at, q[at])])]
        return q

    def _cells(self, k: int, found: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """For every unit of a class one number for its blocks, and for those of its slot."""
        c = self.classes[k]
        blocks = [np.stack([b, found[above][b]]) for above, b in c.parents]
        both = np.concatenate([np.stack(blocks)[:, 0].T, np.stack(blocks)[:, 1].T])
        number = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
        return number[: c.size], number[c.size :]


def _exchange(parts: Sequence[np.ndarray], i: int, j: int) -> float:
    """What is gained when block `j` is put where block `i` was, its units in their best order."""
    total = 0.0
    for x in parts:
        inner = x[i, :, j]
        total += float(inner[linear_sum_assignment(inner, maximize=True)].sum(dtype=np.float64))
    return total


def best_element(spec: PermutationSpec, gains: Mapping[int, np.ndarray]) -> Permutation:
    """The permutation of the group with the largest `Σ_k Σ_i gain_k[i, p_k[i]]`.

    Exact where no units lie in blocks, or blocks hold one kind of units each; see `Families`.

    Args:
        spec: whose group.
        gains: per class, by its number in `spec.classes`, `[n, n]`: what slot `i` gains from unit
            `j`.  Classes that are not there keep their order.

    Raises:
        ValueError: for gains that are not square, not of the class's size, or not finite.
    """
    for k, gain in gains.items():
        n = spec.classes[k].size
        if gain.shape != (n, n):
            raise ValueError(
                f"expected gains [{n}, {n}] for {spec.classes[k].name!r}, found {gain.shape}"
            )
        if not np.isfinite(gain).all():
            raise ValueError(f"expected finite gains for {spec.classes[k].name!r}, found others")
    families = Families(spec)
    found: dict[str, np.ndarray] = {}
    for family in range(len(families.members)):
        for k, q in families.best(family, gains).items():
            found[spec.classes[k].name] = q
    return spec.complete(found)
