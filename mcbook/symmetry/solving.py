"""From what a trace noted to spaces: which units are alike, and inside which blocks.

1. Units that were said to be one are one: connected components.
2. Every unit gets a colour: the multiset of everything that happened to it, and the tensor axes it
   stands on.  Colours are refined along the links between units and their blocks, both ways, until
   no class splits any more (Weisfeiler and Lehman's colour refinement; exact where the links form
   a forest).  Units of one colour are alike: a *class*.
3. Kinds of blocks over the same units are compared: two that cut in the same way are one, a finer
   one lies in a coarser one, and two that cross without mixing lie in the parts they form.
4. A class whose units are determined by their blocks follows them (the columns of a flattened
   channel); every other class of at least two units is a *space*.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import nn

from .context import Trace
from .units import Ids, Units, mix

__all__ = ["Classes", "classify"]

_ROUNDS = 100


@dataclass
class Classes:
    """The classes of alike units, parents before children.

    Attributes:
        component: for every unit of the trace, the one it is one with.
        members: per class, its components in their order along the network.
        parents: per class, pairs (class, for every member the place of its block in that class).
        pinned: per component, the number of the reason why it cannot move; 0 for none.
        role: for every unit of the trace, its colour among those it is one with: what tells the
            positions of one unit on one axis apart.
        of: for every component, its class, -1 where it is alone.
    """

    component: np.ndarray
    members: list[np.ndarray]
    parents: list[list[tuple[int, np.ndarray]]]
    pinned: np.ndarray
    role: np.ndarray
    of: np.ndarray


def _pairs(x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """The different pairs of two arrays of numbers below `size`, as sorted rows."""
    code = np.unique(x.astype(np.int64) * size + y)
    return np.stack(np.divmod(code, size), axis=1)


class _Graph:
    """Components of units, their colours and the links to blocks, at one stage of the solution."""

    def __init__(
        self, units: Units, slots: list[tuple[Ids, int]], told_apart: Ids | tuple[()] = ()
    ):
        n = units.count
        pairs = [(x, y) for x, y, _ in units.ones]
        rows, columns = (
            np.concatenate([pair[k] for pair in pairs]) if pairs else np.zeros(0, np.int64)
            for k in (0, 1)
        )
        links = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
        self.size, self.component = connected_components(links, directed=False)
        self.raw = np.zeros(n, np.uint64)
        self.raw[: len(told_apart)] = mix(np.asarray(told_apart, np.int64), 21)
        for x, colour in units.seen:
            np.add.at(self.raw, x, mix(colour, 1))
        for x, slot in slots:
            np.add.at(self.raw, x.reshape(-1), mix(slot, 2))
        self.pinned = np.zeros(self.size, np.int64)
        for x, colours, reason in reversed(units.pinned):
            np.add.at(self.raw, x, colours)
            self.pinned[self.component[x]] = reason
        self.colour = np.zeros(self.size, np.uint64)
        np.add.at(self.colour, self.component, mix(self.raw, 3))
        self._find_edges(units)
        for _ in range(3):  # what holds a unit in place holds its block too
            free = (self.pinned[self.parent] == 0) & (self.pinned[self.child] > 0)
            self.pinned[self.parent[free]] = self.pinned[self.child[free]]

    def _find_edges(self, units: Units) -> None:
        """Links between components, each kind once; `kind` numbers the kinds."""
        kinds: dict[bytes, np.ndarray] = {}
        for x, y, _ in units.blocks:
            pairs = _pairs(self.component[x], self.component[y], self.size)
            pairs = pairs[pairs[:, 0] != pairs[:, 1]]
            if len(pairs):
                kinds.setdefault(pairs.tobytes(), pairs)
        self.kinds = list(kinds.values())
        every = np.concatenate(self.kinds) if self.kinds else np.zeros((0, 2), np.int64)
        self.child, self.parent = every[:, 0], every[:, 1]
        self.kind = np.repeat(np.arange(len(self.kinds)), [len(k) for k in self.kinds])

    def in_two_blocks(self, classes: np.ndarray) -> np.ndarray:
        """Components that lie in two blocks of one kind, both of which could move."""
        several = np.bincount(classes)[classes] > 1
        found = [np.zeros(0, np.int64)]
        for pairs in self.kinds:
            pairs = pairs[several[pairs[:, 1]]]
            child, count = np.unique(pairs[:, 0], return_counts=True)
            found.append(child[count > 1])
        return np.concatenate(found)

    def refine(self) -> np.ndarray:
        """The class of every component, once no class splits any more."""
        colour, count = mix(self.colour, 4), 0
        kind = mix(self.kind, 5)
        while True:
            values, classes = np.unique(colour, return_inverse=True)
            if len(values) == count:
                return classes.reshape(-1)
            count = len(values)
            up, down = np.zeros(self.size, np.uint64), np.zeros(self.size, np.uint64)
            np.add.at(up, self.child, mix(colour[self.parent] ^ kind, 6))
            np.add.at(down, self.parent, mix(colour[self.child] ^ kind, 7))
            colour = mix(colour + mix(up, 8) + mix(down, 9), 10)

    def functions(self, classes: np.ndarray) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
        """Per class of several, the ways in which its members lie in blocks.

        Each is a pair (members, blocks), and leads to a class of several.
        """
        several = np.bincount(classes)[classes] > 1
        found: dict[int, dict[bytes, tuple[np.ndarray, np.ndarray]]] = {}
        for pairs in self.kinds:
            pairs = pairs[several[pairs[:, 0]] & several[pairs[:, 1]]]
            if not len(pairs):
                continue
            for one in np.unique(classes[pairs[:, 0]]):
                part = pairs[classes[pairs[:, 0]] == one]
                ways = found.setdefault(int(one), {})
                ways.setdefault(part.tobytes(), (part[:, 0], part[:, 1]))
        return {one: list(ways.values()) for one, ways in found.items()}


def classify(trace: Trace, model: nn.Module) -> Classes:
    """Solve what a trace noted.

    Args:
        trace: the facts.
        model: the network, for messages.
    """
    units = trace.units
    slots = [
        (x, hash_slot(name, axes))
        for name, (_, label) in trace.weights.items()
        for axes, x in label.arrays.items()
    ]
    graph = _Graph(units, slots)
    traced = len(graph.component)
    # before anything is added that the trace did not say of every unit alike
    # (those that are alike in all of it: in the order in which they came)
    role = np.unique([_roles(units, graph.raw), graph.component.astype(np.uint64)], axis=1,
                     return_inverse=True)[1].reshape(-1)  # fmt: skip
    alike = _made_alike(units, graph)
    if len(alike):
        units.because("two of the units it is made of are one", "")
        units.pin(alike)
    # what was told apart once stays so, even after it has been united with something else
    told_apart: Ids | tuple[()] = ()
    for _ in range(_ROUNDS):
        graph = _Graph(units, slots, told_apart)
        classes = graph.refine()
        torn = graph.in_two_blocks(classes)
        if len(torn):
            # neither it nor the blocks can move; then its links say no more
            units.because("lies in two blocks of one kind", "")
            held = np.union1d(torn, graph.parent[np.isin(graph.child, torn)])
            units.pin(_representatives(graph)[held])
            units.blocks = _without(units.blocks, graph.component, torn)
            continue
        told_apart = classes[graph.component]
        if _tidied(units, graph, classes):
            continue
        solved = replace(_arranged(graph, classes, slots), role=role[:traced])
        broken = _irregular(solved)
        if broken is None:
            return solved
        units.because("its blocks cannot change places", "")
        units.pin(_representatives(graph)[solved.members[broken]])
    raise RuntimeError(
        f"expected the blocks of {type(model).__name__} to settle within {_ROUNDS} rounds, found "
        f"that they do not; give a spec by hand (PermutationSpec.from_axes)"
    )


def hash_slot(name: str, axes: tuple[int, ...]) -> int:
    """A number for the axes of a tensor, the same in every run."""
    value = 0
    for byte in f"{name}{axes}".encode():
        value = (value * 1099511628211 + byte) % 2**63
    return value


def _representatives(graph: _Graph) -> np.ndarray:
    """A unit of every component."""
    first = np.empty(graph.size, np.int64)
    first[graph.component[::-1]] = np.arange(len(graph.component))[::-1]
    return first


def _made_alike(units: Units, graph: _Graph) -> np.ndarray:
    """Composites that are made of different units which turned out to be one: no copies."""
    found = [np.zeros(0, np.int64)]
    for composite in units.composites:
        made = np.stack(composite.factors)
        parts = np.where(made >= 0, graph.component[np.maximum(made, 0)], made)
        _, first, place = np.unique(parts, axis=1, return_index=True, return_inverse=True)
        place = place.reshape(-1)
        other = (made != made[:, first[place]]).any(0)
        found.append(composite.first + np.flatnonzero(np.isin(place, place[other])))
    return np.concatenate(found)


def _without(
    blocks: list[tuple[Ids, Ids, int]], component: np.ndarray, torn: np.ndarray
) -> list[tuple[Ids, Ids, int]]:
    """The links but those of pinned components, which need none."""
    kept = []
    for x, y, reason in blocks:
        inside = ~np.isin(component[x], torn)
        if inside.any():
            kept.append((x[inside], y[inside], reason))
    return kept


def _tidied(units: Units, graph: _Graph, classes: np.ndarray) -> bool:
    """Compare the kinds of blocks over the same units; whether that taught anything."""
    first = _representatives(graph)
    ways = graph.functions(classes)
    learned = False
    units.because("flattening", "")
    for member, f in itertools.chain.from_iterable(ways.values()):
        if len(np.unique(f)) == len(f) == (classes == classes[f[0]]).sum():
            units.one(first[member], first[f])  # one unit a block: it is the block
            learned = True
    if learned:
        return True
    units.because("blocks of the same units", "")
    for functions in ways.values():
        for (member, f), (other, g) in itertools.combinations(functions, 2):
            if len(member) != len(other) or classes[f[0]] == classes[g[0]]:
                continue
            pairs = _pairs(f, g, graph.size)
            n_f, n_g = len(np.unique(f)), len(np.unique(g))
            if len(pairs) == n_f == n_g:
                units.one(first[pairs[:, 0]], first[pairs[:, 1]])
                learned = True
            elif len(pairs) in (n_f, n_g):
                ordered = (
                    pairs if len(pairs) == n_f else _pairs(pairs[:, 1], pairs[:, 0], graph.size)
                )
                if not _contained(ordered, graph):
                    units.block(first[ordered[:, 0]], first[ordered[:, 1]])
                    learned = True
            else:
                learned |= _parted(units, graph, ways, classes, first, pairs)
        if learned:
            return True
    return False


def _contained(pairs: np.ndarray, graph: _Graph) -> bool:
    """Whether these links are there already."""
    first, code = pairs[0], pairs @ (graph.size, 1)
    return any(
        len(kind) >= len(pairs)
        and bool((kind == first).all(1).any())
        and bool(np.isin(code, kind @ (graph.size, 1)).all())
        for kind in graph.kinds
    )


def _parted(
    units: Units,
    graph: _Graph,
    ways: dict[int, list[tuple[np.ndarray, np.ndarray]]],
    classes: np.ndarray,
    first: np.ndarray,
    pairs: np.ndarray,
) -> bool:
    """Two kinds of blocks that cross: if they fall into parts that do not mix, these are blocks."""
    names, places = np.unique(pairs, return_inverse=True)
    rows, columns = places.reshape(pairs.shape).T
    links = coo_matrix((np.ones(len(pairs), bool), (rows, columns)), shape=(len(names),) * 2)
    count, inside = connected_components(links, directed=False)
    if count == 1:
        return False
    part = dict(zip(names.tolist(), inside.tolist(), strict=True))
    ends = [np.unique(pairs[:, k]) for k in (0, 1)]
    for f_way, g_way in itertools.product(*(ways.get(int(classes[end[0]]), []) for end in ends)):
        up = {int(p): int(q) for way in (f_way, g_way) for p, q in zip(*way, strict=True)}
        tops = {(part[p], up[p]) for end in ends for p in end.tolist() if p in up}
        if len(tops) == count == len({top for _, top in tops}):
            return False  # they are there already
    made = units.fresh([count])
    for end in ends:
        units.block(first[end], made[[part[p] for p in end.tolist()]])
    return True


def _arranged(graph: _Graph, classes: np.ndarray, slots: list[tuple[Ids, int]]) -> Classes:
    """The classes in the order in which the network's tensors mention them, parents first."""
    never = np.iinfo(np.int64).max
    first = np.full(graph.size, never)
    position = 0
    for x, _ in slots:
        flat = graph.component[x.reshape(-1)]
        np.minimum.at(first, flat, position + np.arange(len(flat)))
        position += len(flat)
    for _ in range(len(graph.kinds) + 1):
        before = first.copy()
        np.minimum.at(first, graph.parent, first[graph.child])
        if np.array_equal(before, first):
            break
    ways = graph.functions(classes)
    sizes = np.bincount(classes)
    order = np.argsort(first, kind="stable")
    order = order[(first[order] < never) & (sizes[classes[order]] > 1)]
    waiting: dict[int, np.ndarray] = {}
    names, place = np.unique(classes[order], return_inverse=True)
    for k, name in enumerate(names):
        waiting[int(name)] = order[place.reshape(-1) == k]
    done: dict[int, int] = {}
    members: list[np.ndarray] = []
    parents: list[list[tuple[int, np.ndarray]]] = []
    at = np.zeros(graph.size, np.int64)

    def visit(name: int, above: tuple[int, ...] = ()) -> None:
        if name in done or name in above:
            return
        needed = []
        for child, parent in ways.get(name, []):
            top = int(classes[parent[0]])
            visit(top, (*above, name))
            if top in done:
                needed.append((top, child, parent))
        done[name] = len(members)
        own = waiting[name]
        at[own] = np.arange(len(own))
        where = []
        for top, child, parent in needed:
            block = np.zeros(len(own), np.int64)
            block[at[child]] = at[parent]
            where.append((done[top], block))
        members.append(own)
        parents.append(where)

    for name in sorted(waiting, key=lambda name: int(first[waiting[name][0]])):
        visit(name)
    of = np.full(graph.size, -1)
    for k, own in enumerate(members):
        of[own] = k
    return Classes(graph.component, members, parents, graph.pinned, graph.raw, of)


def _roles(units: Units, raw: np.ndarray) -> np.ndarray:
    """Colours of single units, refined along everything the trace itself said of them.

    What ties several positions of an axis into one unit may tie them in another order in each unit
    (`x[[0, 3]] + x[[2, 1]]`); which of them corresponds to which is told by what they are tied to.
    """
    links = [(*pair, k) for k, pair in enumerate([*units.ones, *units.blocks])]
    if not links:
        return raw
    x, y = (np.concatenate([link[k] for link in links]) for k in (0, 1))
    kind = mix(np.repeat([link[3] for link in links], [len(link[0]) for link in links]), 11)
    colour, count = mix(raw, 12), 0
    for _ in range(_ROUNDS):
        distinct = len(np.unique(colour))
        if distinct == count:
            break
        count = distinct
        said = np.zeros(len(colour), np.uint64)
        np.add.at(said, x, mix(colour[y] ^ kind, 14))
        np.add.at(said, y, mix(colour[x] ^ kind, 15))
        colour = mix(colour + said, 16)
    return colour


def _irregular(solved: Classes) -> int | None:
    """The first class whose cells are not all alike, so that its blocks cannot be permuted."""
    from .group import Irregular, random_element

    for seed in (0, 1):
        try:
            random_element([len(m) for m in solved.members], solved.parents, seed)
        except Irregular as error:
            return error.place
    return None
