"""What moving the units of one class would gain, for the weights of two networks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .. import weights
from ..symmetry.spec import PermutationSpec

__all__ = ["Pair", "Place", "compared", "places_of"]


def compared(model: nn.Module, spec: PermutationSpec) -> dict[str, Tensor]:
    """The weights that count when two networks are compared: parameters, each once.

    Running statistics of batch norm and other buffers move with their units, but they are no
    weights: they are left out.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: x
        for name, x in weights.of(model).items()
        if name in parameters and name not in spec.aliases and x.is_floating_point()
    }


@dataclass(frozen=True)
class Place:
    """Where the units of a class stand on a tensor, themselves or through what lies in them.

    Attributes:
        tensor: its name.
        axes: increasing.
        order: `[n, r]`: the flat positions over these axes that belong to each unit; what stands in
            one column corresponds.
        whole: whether these are all positions, in order.
        others: the classes besides on which the entries depend; the class itself where it stands
            on the tensor twice.
        inside: the spaces that lie in the class and stand here.
    """

    tensor: str
    axes: tuple[int, ...]
    order: np.ndarray
    whole: bool
    others: frozenset[int]
    inside: frozenset[int] = frozenset()

    def slab(self, tensor: Tensor) -> Tensor:
        """The entries that belong to each unit: `[n, m]`."""
        front = list(range(len(self.axes)))
        lined = tensor.movedim(self.axes, front)
        lined = lined.reshape(-1, *lined.shape[len(self.axes) :])
        if not self.whole:
            index = torch.from_numpy(self.order.reshape(-1)).to(tensor.device)
            lined = lined.index_select(0, index)
        return lined.reshape(len(self.order), -1)


def places_of(spec: PermutationSpec, names: Collection[str]) -> list[list[Place]]:
    """For every class of a spec its places on the named tensors."""
    own = [slice(int(x), int(y)) for x, y in zip(spec.starts[:-1], spec.starts[1:], strict=True)]
    of = np.repeat(np.arange(len(spec.classes)), [c.size for c in spec.classes])
    above: list[set[int]] = []  # every class with all it lies in
    for k, c in enumerate(spec.classes):
        above.append({k}.union(*(above[p] for p, _ in c.parents)))
    on = {
        name: [
            set().union(*(above[k] for k in set(of[part.units[part.units >= 0]].tolist())))
            for part in spec.slots[name]
        ]
        for name in names
    }
    found: list[list[Place]] = []
    for k, c in enumerate(spec.classes):
        unit_of = np.full(int(spec.starts[-1]) + 1, -1)  # its last entry is that of no unit
        unit_of[own[k]] = np.arange(c.size)
        for lower in range(k + 1, len(spec.classes)):
            for p, block in spec.classes[lower].parents:
                unit_of[own[lower]] = np.maximum(unit_of[own[lower]], unit_of[own[p]][block])
        places = []
        for name in names:
            parts = spec.slots[name]
            for i, part in enumerate(parts):
                if k not in on[name][i] or any(set(part.axes) < set(p.axes) for p in parts):
                    continue  # a larger set of axes moves this one along
                units = part.units.reshape(-1)
                unit = unit_of[units]
                at = np.flatnonzero(unit >= 0)
                at = at[np.lexsort((part.rank.reshape(-1)[at], units[at], unit[at]))]
                here = {x for x in on[name][i] if k not in above[x]}
                inner = {x for x in on[name][i] if k in above[x] - {x}}
                rest = [
                    on[name][j] for j, p in enumerate(parts) if not set(p.axes) & set(part.axes)
                ]
                places.append(
                    Place(
                        tensor=name,
                        axes=part.axes,
                        order=at.reshape(c.size, -1),
                        whole=len(at) == len(units) and bool((np.diff(at) == 1).all()),
                        others=frozenset(here.union(*rest)),
                        inside=frozenset(x for x in inner if spec.classes[x].is_space),
                    )
                )
        found.append(places)
    return found


class Pair:
    """The weights of A and of B as its units stand now, and what moves would gain.

    For a class `k`, with the entries of A and B that belong to its units as rows `[n, m]` of one
    matrix for every place where they stand (weights into a unit, out of it, its bias, its norm's),

        gain = Σ_places A_place B_placeᵀ   [n, n],

    so that `Σ_i gain[i, q[i]]` is what those places contribute to `⟨A, π(B)⟩` after the move `q`,
    as long as no tensor has the class on two axes.  Products are made in the weights' precision
    and kept until something else on their tensor moves; the objective is summed in float64.

    Args:
        spec: of both.
        a: weights of A, those that count.
        b: weights of B, of the same names.

    Attributes:
        element: for every unit, numbered through all classes, which unit of B is in its place.
    """

    def __init__(self, spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]):
        self.spec = spec
        free = [name for name in a if any((p.units >= 0).any() for p in spec.slots.get(name, ()))]
        self._start = {name: b[name].to(_exact(x)).contiguous() for name, x in a.items()}
        self._b = dict(self._start)
        self._places = places_of(spec, free)
        self._moves = [0] * len(spec.classes)
        self.element = np.arange(int(spec.starts[-1]))
        self.compare_with(a)

    def compare_with(self, a: Mapping[str, Tensor]) -> None:
        """Put other weights in the place of A; B's units stay where they are."""
        self._a = {name: _exact(x).contiguous() for name, x in a.items()}
        self._dots = {name: _dot(x, self._b[name]) for name, x in self._a.items()}
        self._slabs: dict[tuple[int, int], Tensor] = {}
        self._spreads: dict[tuple[int, int], float] = {}
        self._products: dict[tuple[int, int], tuple[tuple[int, ...], Tensor]] = {}

    def put(self, element: np.ndarray) -> None:
        """Go to an element of the group."""
        self.element = element.copy()
        self._b = {name: self.spec.moved(name, x, element) for name, x in self._start.items()}
        self._dots = {name: _dot(x, self._b[name]) for name, x in self._a.items()}
        self._moves = [m + 1 for m in self._moves]

    @property
    def permuted(self) -> dict[str, Tensor]:
        """The weights of π(B) that count."""
        return dict(self._b)

    @property
    def objective(self) -> float:
        """`⟨A, π(B)⟩` over all tensors."""
        return math.fsum(self._dots.values())

    def depends_on(self, classes: Collection[int]) -> set[int]:
        """The classes on which the gains of some classes depend, and the other way round."""
        return {x for k in classes for place in self._places[k] for x in place.others}

    def gain(
        self,
        k: int,
        settled: Collection[int] | None = None,
        without: Collection[int] = (),
    ) -> np.ndarray | None:
        """What slot `i` of a class gains from the unit in slot `j`, `[n, n]`.

        Args:
            k: the class.
            settled: only tensors count whose other classes are all among these.
            without: spaces inside the class; where these stand does not count.

        Returns:
            None where nothing counts.
        """
        counting = self._counting(k, settled)
        counting = [i for i in counting if not self._places[k][i].inside & set(without)]
        parts = [self._product(k, i) for i in counting]
        if not parts:
            return None
        total = sum(parts[1:], parts[0])
        start, end = self.spec.starts[k : k + 2]
        gain: np.ndarray = total.cpu().numpy()[:, self.element[start:end] - start]
        return gain

    def evidence(self, k: int, settled: Collection[int]) -> float:
        """How much there is to tell the units of a class apart by.

        The sum over the places that count (see `gain`) of `sqrt(S_A S_B)`, where `S` is the squared
        distance of the units' entries from their mean, summed over the units.
        """
        return math.fsum(self._spread(k, i) for i in self._counting(k, settled))

    def try_move(self, classes: Sequence[int], q: np.ndarray, least: float) -> bool:
        """Move the units of some classes if the objective rises by more than `least`.

        Args:
            classes: those that move.
            q: for every unit, numbered through all classes, the one that takes its place.
            least: in the objective's units; minus infinity moves anyway.
        """
        names = {place.tensor for k in classes for place in self._places[k]}
        moved = {name: self.spec.moved(name, self._b[name], q) for name in names}
        dots = {name: _dot(self._a[name], x) for name, x in moved.items()}
        before = math.fsum(self._dots[name] for name in names)
        if not math.fsum(dots.values()) - before > least:
            return False
        self._b.update(moved)
        self._dots.update(dots)
        self.element = self.element[q]
        for k in classes:
            self._moves[k] += 1
        return True

    def _counting(self, k: int, settled: Collection[int] | None) -> list[int]:
        return [
            i
            for i, place in enumerate(self._places[k])
            if settled is None or place.others <= set(settled)
        ]

    def _spread(self, k: int, i: int) -> float:
        """`sqrt(S_A S_B)` at a place, computed once: the order of the units does not matter."""
        if (k, i) not in self._spreads:
            place = self._places[k][i]
            slabs = (self._slab(k, i), place.slab(self._start[place.tensor]))
            s = [float((x - x.mean(0)).square().sum()) for x in slabs]
            self._spreads[k, i] = math.sqrt(s[0] * s[1])
        return self._spreads[k, i]

    def _slab(self, k: int, i: int) -> Tensor:
        """A's entries at a place, made once."""
        if (k, i) not in self._slabs:
            place = self._places[k][i]
            self._slabs[k, i] = place.slab(self._a[place.tensor])
        return self._slabs[k, i]

    def _product(self, k: int, i: int) -> Tensor:
        """`A_place B_placeᵀ` with B's units in their first order."""
        place = self._places[k][i]
        seen = tuple(self._moves[x] for x in sorted(place.others | place.inside))
        kept = self._products.get((k, i))
        if kept is None or kept[0] != seen:
            start, end = self.spec.starts[k : k + 2]
            first = torch.from_numpy(np.argsort(self.element[start:end]))
            b = place.slab(self._b[place.tensor])
            b = b.index_select(0, first.to(b.device))
            kept = self._products[k, i] = (seen, self._slab(k, i) @ b.T)
        return kept[1]


def _exact(x: Tensor) -> Tensor:
    """Half precision is too coarse to sum in, and NumPy does not know all of it."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _dot(x: Tensor, y: Tensor) -> float:
    """`⟨x, y⟩`, summed in float64."""
    return float(torch.dot(x.reshape(-1).double(), y.reshape(-1).double()))
