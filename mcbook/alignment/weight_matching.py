"""Weight matching: the order of B's hidden units in which its weights come nearest to A's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from torch import nn

from ..errors import UnknownNameError
from ..progress import Bar
from ..symmetry.permutations import Permutation
from ..symmetry.spec import PermutationSpec
from ..threads import one_thread
from .alignment import Alignment, aligned, check_networks
from .assignment import TOLERANCE, Families
from .gains import Pair, compared

__all__ = ["Descent", "weight_matching"]

ORDERS = ("random", "forward", "backward")
STARTS = ("frontier", "identity")
# each step raises the objective, so that there is an end; this one is for rounding
_SWEEPS = 1000
# a restart disturbs the best result so far; with more noise little of it is left, and a descent
# from there ends no better than one from the start
_NOISE = 0.25


def weight_matching(
    a: nn.Module,
    b: nn.Module,
    spec: PermutationSpec | None = None,
    example: Any = None,
    seed: int = 0,
    restarts: int = 1,
    order: str = "random",
    start: str | Alignment | Permutation = "frontier",
    progress: bool = False,
) -> Alignment:
    r"""Reorder B's hidden units so that its weights come nearest to A's; no data are needed.

    A permutation leaves `‖π(B)‖` as it is, so

    .. math::

        \arg\min_\pi \|A - \pi(B)\|^2 = \arg\max_\pi \langle A, \pi(B) \rangle .

    With all spaces but one held fixed this is a linear assignment problem, which is solved exactly
    (Hungarian method); one space after the other is visited until none can gain.  For a perceptron
    the visit of layer `l` maximises, with `P_0` and `P_L` the identity (Ainsworth et al. 2023,
    section 3.2),

    .. math::

        \langle P_l,\; W_l^A P_{l-1} (W_l^B)^\top
        + (W_{l+1}^A)^\top P_{l+1} W_{l+1}^B + b_l^A (b_l^B)^\top \rangle .

    Blocks (heads, groups) are matched by an outer assignment over inner ones.  The sum runs over
    parameters; running statistics of batch norm move along and do not count.  A step is taken only
    if it gains more than `1e-9 n max|gain|`: what is tied (dead units) stays.  The result is a
    local optimum: finding the best is NP-hard.

    Args:
        a: stays as it is.
        b: a network of the same architecture; it is not changed.
        spec: of that architecture; traced from `a` when None.
        example: an input for the trace, where the networks carry none.
        seed: of the random orders and of the restarts; the result depends on nothing else, not on
            the number of threads either.
        restarts: how many runs; the best is returned.  Every run after the first disturbs the best
            result so far (a sweep with noise in the gains) and descends again.
        order: in which spaces are visited: `random` (a new order for each sweep), `forward` or
            `backward` along the network.
        start: `frontier` settles one space at a time, always the one that can be told apart best
            by tensors whose other axes are settled, and looks at nothing else (this package's own
            start; it recovers planted permutations of networks with depthwise convolutions, where
            the identity fails); `identity`; or an alignment or permutation to go on from.
        progress: whether to show a bar over the runs.

    Returns:
        π(B) and its permutation.  `objective` is `⟨A, π(B)⟩` of the best run, first at its start,
        then after each step; it never falls.  `facts` has `before` (the same with B as it is),
        `runs` (what every run reached) and `visits` (how many assignments).

    Raises:
        TypeError: for something that is no module, no spec, or no start.
        IncompatibleError: for networks of different architectures, or a spec of another one.
        ValueError: for weights that are not finite, or fewer than one run.
        UnknownNameError: for an unknown order or start.
    """
    if restarts < 1:
        raise ValueError(f"expected at least one run, found restarts = {restarts}")
    if order not in ORDERS:
        raise UnknownNameError("order", order, ORDERS)
    if isinstance(start, str) and start not in STARTS:
        raise UnknownNameError("start", start, STARTS)
    if not isinstance(start, (str, Alignment, Permutation)):
        raise TypeError(
            f"expected a start out of {', '.join(STARTS)}, an Alignment or a Permutation, found "
            f"{type(start).__name__}"
        )
    spec = check_networks([a, b], spec, example)
    with one_thread(), Bar(restarts, "weight matching", progress) as bar:
        descent = Descent(Pair(spec, compared(a, spec), compared(b, spec)), seed, order)
        before = descent.pair.objective
        if start == "frontier":
            descent.settle()
            if descent.pair.objective < before:
                descent.pair.put(spec.element(spec.identity()))
        elif not isinstance(start, str):
            p = start.permutation if isinstance(start, Alignment) else start
            descent.pair.put(spec.element(p))
        best = descent.run()
        element, runs = descent.pair.element, [best[-1]]
        bar.advance(objective=best[-1])
        for _ in range(restarts - 1):
            descent.pair.put(element)
            descent.disturb()
            found = descent.run()
            runs.append(found[-1])
            if found[-1] > best[-1]:
                best, element = found, descent.pair.element
            bar.advance(objective=best[-1])
    p = permutation_of(spec, element)
    facts = {"before": before, "runs": runs, "visits": descent.visits}
    return aligned(b, p, spec, best, "weight matching", **facts)


def permutation_of(spec: PermutationSpec, element: np.ndarray) -> Permutation:
    """The permutation from a vector over all units of all classes."""
    return Permutation(
        {
            c.name: element[start : start + c.size] - start
            for c, start in zip(spec.classes, spec.starts[:-1], strict=True)
            if c.is_space
        }
    )


class Descent:
    """Coordinate descent on the group: one family of spaces after the other takes its best place.

    Args:
        pair: the weights of both, and where B's units stand.
        seed: of the random orders and disturbances.
        order: of the visits.

    Attributes:
        visits: how many so far.
    """

    def __init__(self, pair: Pair, seed: int, order: str = "random"):
        self.pair, self.order = pair, order
        self.families = Families(pair.spec)
        self.visits = 0
        self._generator = np.random.default_rng(seed)
        self._movable = [
            f
            for f, members in enumerate(self.families.members)
            if any(pair.spec.classes[k].is_space for k in members)
        ]
        self._next = {f: self._next_to(f) for f in self._movable}

    def _next_to(self, family: int) -> set[int]:
        """The families that may gain once this one has moved."""
        members = self.families.members[family]
        after = {self.families.of[k] for k in self.pair.depends_on(members)}
        # its own best place is known, unless it depends on itself
        twice = any(k in self.pair.depends_on([k]) for k in members)
        return after if twice or not self.families.is_simple(family) else after - {family}

    def run(self) -> list[float]:
        """Visit until no family can gain; those whose neighbours have not moved are left out.

        Returns:
            The objective at the beginning and after every step.
        """
        history = [self.pair.objective]
        stale = set(self._movable)
        for _ in range(_SWEEPS):
            for family in self._ordered(stale):
                if family in stale:
                    stale.discard(family)
                    if self._visit(family):
                        history.append(self.pair.objective)
                        stale |= self._next[family]
            if not stale:
                break
        return history

    def settle(self) -> None:
        """The frontier start: one family at a time, judged only by what is settled already."""
        settled = set(range(len(self.pair.spec.classes)))
        waiting = list(self._movable)
        for family in waiting:
            settled -= set(self.families.members[family])
        while waiting:
            found = {f: self._evidence(f, settled) for f in waiting}
            family = max(waiting, key=lambda f: found[f])
            waiting.remove(family)
            settled |= set(self.families.members[family])
            gains = self._gains(family, settled)
            self._take(family, gains, anyway=True)

    def disturb(self) -> None:
        """Visit every family once with noise in its gains, a quarter of their spread."""
        for family in self._generator.permutation(self._movable).tolist():
            gains = self._gains(family, None)
            for k, gain in gains.items():
                noise = self._generator.standard_normal(gain.shape)
                gains[k] = gain + _NOISE * float(gain.std()) * noise
            self._take(family, gains, anyway=True)

    def _ordered(self, stale: Collection[int]) -> list[int]:
        visited = sorted(stale, reverse=self.order == "backward")
        return self._generator.permutation(visited).tolist() if self.order == "random" else visited

    def _evidence(self, family: int, settled: set[int]) -> float:
        members = self.families.members[family]
        return sum(self.pair.evidence(k, settled | set(members)) for k in self._spaces(family))

    def _spaces(self, family: int) -> list[int]:
        """The spaces of a family; what follows them has nothing to choose."""
        return [k for k in self.families.members[family] if self.pair.spec.classes[k].is_space]

    def _gains(self, family: int, settled: set[int] | None) -> dict[int, np.ndarray]:
        self.visits += 1
        found = {
            k: self.pair.gain(k, settled, self.families.inner(k)) for k in self._spaces(family)
        }
        return {k: gain for k, gain in found.items() if gain is not None}

    def _visit(self, family: int) -> bool:
        """Put a family in its best place; whether the objective rose."""
        gains = self._gains(family, None)
        if self._take(family, gains):
            return True
        # where the sum over inner assignments promised too much, the blocks stay
        return not self.families.is_simple(family) and self._take(family, gains, outer=False)

    def _take(
        self,
        family: int,
        gains: Mapping[int, np.ndarray],
        anyway: bool = False,
        outer: bool = True,
    ) -> bool:
        """Make the best move of a family; whether that raised the objective."""
        found = self.families.best(family, gains, outer)
        if not found:
            return False
        spec = self.pair.spec
        named = {spec.classes[k].name: move for k, move in found.items()}
        q = spec.element(spec.complete(named))
        least = TOLERANCE * max(len(gain) * float(np.abs(gain).max()) for gain in gains.values())
        return self.pair.try_move(self.families.members[family], q, -np.inf if anyway else least)
