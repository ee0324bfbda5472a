"""Where the units of a network show themselves while it runs.

What a unit does is what the next layer reads of it.  So a *site* is a tensor that depends on the
input, at a place where the forward pass multiplies it with a weight: the input of a linear layer, a
convolution, a depthwise one, an `einsum`.  The trace's label says which unit stands at which of its
positions.  In a perceptron these are the outputs of the activation functions; in a residual network
the stream as every block reads it, and the maps inside each; in a transformer the normalised
stream, the hidden units after GELU, and the mixtures of values that the output projection reads.

Units that nothing reads in that way (queries and keys, which meet each other) are looked at where a
weight makes them: their sites are results of such operations.

`find_sites` traces one example; `replaying.replay` then runs batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .. import weights
from ..errors import IncompatibleError, expect
from .context import Call, Rule, Trace, storage_of
from .examples import TraceError, check_module, explained, make_example
from .flow import Flow
from .labels import Axes, Label
from .parts import Slots
from .spec import PermutationSpec
from .tracing import follow

__all__ = ["Site", "Sites", "Standing", "find_sites"]


@dataclass(frozen=True)
class Standing(Slots):
    """The units on some axes of an activation: see `Slots`.

    Attributes:
        others: further axes of the tensor on which something can move, so that which position is
            which depends on another permutation: only means over them say something of a unit.
        mixed: whether the same is true of the positions of one unit.
    """

    others: Axes = ()
    mixed: bool = False


@dataclass(frozen=True)
class Site:
    """A tensor of the forward pass on which units stand.

    Attributes:
        index: the number of the operation among those that are counted.
        place: which of the operation's arguments that depend on the input; -1: its first result.
        operation: its name.
        module: the path of the module that runs it.
        shape: of the tensor, on the example.
        slots: the units on it.
        member: sites of one number belong together: the same weights read the same units there (the
            steps of a recurrent layer).
    """

    index: int
    place: int
    operation: str
    module: str
    shape: tuple[int, ...]
    slots: tuple[Standing, ...]
    member: int

    @property
    def axes(self) -> Axes:
        """The axes that must be as long as on the example."""
        return tuple(sorted({axis for s in self.slots for axis in (*s.axes, *s.others)}))

    def __str__(self) -> str:
        what = "made by" if self.place < 0 else "read by"
        return f"{what} {self.operation} in {self.module or 'the network itself'}"


@dataclass(frozen=True)
class Sites:
    """All sites of a network, in the order in which they come up.

    Attributes:
        sites: see `Site`.
        operations: of every counted operation (see `flow`) its name and module.
        unseen: the spaces that have no site, and nothing that lies in them has.
    """

    sites: tuple[Site, ...]
    operations: tuple[tuple[str, str], ...]
    unseen: tuple[str, ...]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)


@dataclass(frozen=True)
class _Found:
    """A tensor that may be a site, as the trace found it.

    Attributes:
        index: see `Site`.
        place: see `Site`.
        module: see `Site`.
        shape: see `Site`.
        label: of the tensor.
        near: the axes that the weight shares with it; all when None.
        weights: numbers of the weights it met.
    """

    index: int
    place: int
    module: str
    shape: tuple[int, ...]
    label: Label
    near: frozenset[int] | None
    weights: tuple[int, ...]


class _Survey(Trace):
    """A trace that also notes where an activation meets a weight.

    Attributes:
        flow: what depends on the input.
        read: activations where they are multiplied by a weight.
        made: results of operations of activations and weights.
    """

    def __init__(self, model: nn.Module, example: Any):
        super().__init__(model)
        self.flow = Flow(example)
        self.read: list[_Found] = []
        self.made: list[_Found] = []
        self._noted: set[tuple[int, int, frozenset[int]]] = set()
        self._current: tuple[int, Call] | None = None
        for x in tree_leaves(example):
            if isinstance(x, Tensor):
                self.put(x, self.label(x))

    def contracted(
        self, terms: Sequence[Sequence[str]], tensors: Sequence[Tensor], labels: Sequence[Label]
    ) -> None:
        for x, own, label in zip(tensors, terms, labels, strict=True):
            for w, other in zip(tensors, terms, strict=True):
                if self.flow.depends(x) and not self.flow.depends(w) and not self.is_constant(w):
                    near = frozenset(a for a, letter in enumerate(own) if letter in other)
                    self._note(x, label, near, w)

    def _note(self, x: Tensor, label: Label, near: frozenset[int], w: Tensor) -> None:
        key = (self._one(x), x._version, near)
        if self._current is None or key in self._noted:
            return  # (several may read one tensor: queries, keys and values)
        self._noted.add(key)
        index, call = self._current
        place = [y is x for y in self.flow.among(call)].index(True)
        met = (storage_of(w),)
        self.read.append(_Found(index, place, self.module, tuple(x.shape), label, near, met))

    def record(self, rule: Rule, name: str, call: Call) -> None:
        self._begin(name, call)
        super().record(rule, name, call)
        self._finish(call)

    def record_in_place(self, rule: Rule, name: str, call: Call, old: Tensor | None) -> None:
        self._begin(name, call)
        super().record_in_place(rule, name, call, old)
        self._finish(call)

    def _begin(self, name: str, call: Call) -> None:
        index = self.flow.count(name, self.module, call)
        self._current = None if index is None else (index, call)

    def _finish(self, call: Call) -> None:
        if self._current is not None and call.outputs:
            x = call.outputs[0]
            met = tuple(storage_of(w) for w in call.inputs if not self.flow.depends(w))
            self.made.append(
                _Found(self._current[0], -1, self.module, tuple(x.shape), self.label(x), None, met)
            )
        self.flow.mark(call)


class _Mapping:
    """Which unit of a spec each unit of a trace is."""

    def __init__(self, trace: Trace, spec: PermutationSpec):
        self.spec = spec
        pairs = [(x, y) for x, y, _ in trace.units.ones]
        rows, columns = (
            np.concatenate([np.zeros(0, np.int64), *(pair[k] for pair in pairs)]) for k in (0, 1)
        )
        n = trace.units.count
        links = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
        size, self.component = connected_components(links, directed=False)
        self.unit = np.full(size, -1)
        # several positions of one unit on one axis may be one to the trace, too
        self.rank = np.full(n, -1)
        self.rank_of_component = np.full(size, np.iinfo(np.int64).max)
        self.known = np.zeros(size, bool)
        for name, parts in spec.slots.items():
            for part in parts if name in trace.weights else ():
                x = trace.weights[name][1].arrays.get(part.axes)
                if x is not None:
                    self.rank[x] = part.rank
                    self._learn(name, self.component[x.reshape(-1)], part)

    def _learn(self, name: str, component: np.ndarray, part: Slots) -> None:
        self.known[component] = True
        free = part.units.reshape(-1) >= 0
        component, units = component[free], part.units.reshape(-1)[free]
        before = self.unit[component]
        self.unit[component] = units
        if ((before >= 0) & (before != units)).any() or (self.unit[component] != units).any():
            raise IncompatibleError(
                f"expected a spec in which everything that the forward pass makes one is one unit, "
                f"found two units in one on axis {part.axes[-1]} of {name}; spec.verify says "
                f"whether it holds, and weight matching does not look at activations"
            )
        np.minimum.at(self.rank_of_component, component, part.rank.reshape(-1)[free])

    def of(self, units: np.ndarray) -> np.ndarray:
        """The class of every unit, -1 where there is none."""
        return np.searchsorted(self.spec.starts, units, side="right") - 1

    def standing(self, found: _Found, only: set[int] | None = None) -> list[Standing]:
        """The units of spaces on a tensor.

        Units that follow their blocks (the products of two spaces) are counted as each of these.

        Args:
            found: the tensor.
            only: the classes that count; all when None.
        """
        arrays = {axes: self.component[x] for axes, x in found.label.arrays.items()}
        units = {axes: self.unit[x] for axes, x in arrays.items()}
        moving = {a for axes, x in arrays.items() for a in axes
                  if (units[axes] >= 0).any() or not self.known[x].all()}  # fmt: skip
        slots: list[Standing] = []
        present: set[int] = set()
        made_of: list[tuple[Axes, int, np.ndarray]] = []
        for axes, u in units.items():
            if found.near is not None and not found.near & set(axes):
                continue
            for k in np.unique(self.of(u)[u >= 0]).tolist():
                mine = np.where((u >= 0) & (self.of(u) == k), u, -1)
                if not self.spec.classes[k].is_space:
                    made_of += [(axes, *above) for above in self._above(k, mine)]
                elif only is None or k in only:
                    present.add(k)
                    rest = tuple(sorted(moving - set(axes)))
                    ranks = self._ranks(mine, found.label.arrays[axes])
                    slots.append(Standing(axes, mine, ranks, rest))
        for axes, k, mine in made_of:
            if k not in present and (only is None or k in only):
                present.add(k)
                rest = tuple(sorted(moving - set(axes)))
                ranks = self._ranks(mine, found.label.arrays[axes])
                slots.append(Standing(axes, mine, ranks, rest, mixed=True))
        return slots

    def _above(self, k: int, units: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The spaces that units of a class without freedom of its own are made of."""
        inside = units - self.spec.starts[k]
        for above, block in self.spec.classes[k].parents:
            mine = np.where(units >= 0, self.spec.starts[above] + block[inside], -1)
            if self.spec.classes[above].is_space:
                yield above, mine
            else:
                yield from self._above(above, mine)

    def _ranks(self, units: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Which of its unit's positions each position is: as on the weights, then in order.

        Args:
            units: the units of the spec.
            x: those of the trace.
        """
        u, own = units.reshape(-1), self.rank[x].reshape(-1)
        shared = self.rank_of_component[self.component[x]].reshape(-1)
        order = np.lexsort((np.arange(len(u)), np.where(own < 0, shared, own), u))
        starts = np.r_[0, np.flatnonzero(np.diff(u[order])) + 1]
        first = np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        rank = np.empty(len(u), np.int64)
        rank[order] = np.arange(len(u)) - first
        return rank.reshape(units.shape)


def find_sites(model: nn.Module, spec: PermutationSpec, example: Any = None) -> Sites:
    """The places of a forward pass at which the units of a spec show themselves.

    Args:
        model: any module; it is afterwards as before.
        spec: of the network, however made (traced, loaded, by hand, with spaces left out).
        example: one input, as `trace_symmetry` takes it.

    Returns:
        Every space whose units are multiplied by weights has a site where they are read (a tensor
        that several operations read is one site); other spaces where they are made by weights.

    Raises:
        TraceError: when the forward pass cannot be followed.
        IncompatibleError: for a spec of another network, or one that takes apart what is one.
        ValueError: when an example is needed and missing.
    """
    check_module(model)
    expect(spec, PermutationSpec, "a PermutationSpec, as trace_symmetry gives it")
    spec.check(weights.of(model))
    example = make_example(model, example)
    survey = _Survey(model, example)
    try:
        follow(model, survey, example)
    except Exception as error:
        last = survey.operations[-1] if survey.operations else ""
        raise TraceError(
            f"activations cannot be looked at, since "
            f"{explained(error, survey.module, last, example)} (weight matching needs no more)"
        ) from error
    mapping = _Mapping(survey, spec)
    read = [(found, mapping.standing(found)) for found in survey.read]
    seen = _seen(mapping, [s for _, slots in read for s in slots if not s.mixed])
    missing = {k for k, c in enumerate(spec.classes) if c.is_space} - seen
    made = [(found, mapping.standing(found, missing)) for found in survey.made] if missing else []
    sites, members = [], dict[Any, int]()
    for found, slots in sorted([*read, *made], key=lambda pair: (pair[0].index, pair[0].place < 0)):
        if slots:
            operation = survey.flow.operations[found.index][0]
            key = (found.weights, *((s.axes, s.units.tobytes()) for s in slots))
            member = members.setdefault(key, len(members))
            sites.append(Site(found.index, found.place, operation, found.module, found.shape,
                              tuple(slots), member))  # fmt: skip
    seen = _seen(mapping, [s for _, slots in (*read, *made) for s in slots])
    unseen = [c.name for k, c in enumerate(spec.classes) if c.is_space and k not in seen]
    return Sites(tuple(sites), tuple(survey.flow.operations), tuple(unseen))


def _seen(mapping: _Mapping, slots: Sequence[Standing]) -> set[int]:
    """The classes of some units, and those in whose blocks they lie."""
    seen = {k for s in slots for k in np.unique(mapping.of(s.units)[s.units >= 0]).tolist()}
    for k in reversed(range(len(mapping.spec.classes))):  # blocks come before what lies in them
        if k in seen:
            seen |= {above for above, _ in mapping.spec.classes[k].parents}
    return seen
