"""Doubly stochastic matrices in the place of permutations: how they act on weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..symmetry.permutations import Permutation
from ..symmetry.spec import PermutationSpec

__all__ = ["SoftAction"]


@dataclass(frozen=True)
class _Cell:
    """Units of a class that can take each other's places while their blocks stay."""

    k: int
    units: np.ndarray


@dataclass(frozen=True)
class _Part:
    """Some axes of a tensor, and the classes that stand there.

    Attributes:
        axes: increasing.
        classes: pairs (number of a class, `[n, r]`: the flat positions of each of its units).
    """

    axes: tuple[int, ...]
    classes: tuple[tuple[int, Tensor], ...]


class SoftAction:
    r"""The action of one matrix for each space on the weights of a network.

    Where the permutation of a space acts on an axis, so does its matrix `P`:

    .. math::

        W' = P_{out} W P_{in}^\top, \qquad b' = P_{out} b,

    on the weights of a convolution at every kernel position, on the columns that were a feature
    map before it was flattened at every pixel alike, and for a residual stream on every tensor of
    it.  A permutation matrix does what the permutation does; any other is no symmetry.

    A space whose units lie in blocks (the rows of a head) has one matrix for each block, and the
    order of blocks in which units of a space lie (the heads) is fixed: an average of heads would
    need to say which unit of one stands for which of the other.

    The matrices of all spaces are kept stacked by their size: `{n: [m, n, n]}`.

    Args:
        spec: of the network.
        names: the tensors that are acted on.
        device: of the weights.

    Attributes:
        spaces: the spaces that have matrices.
        fixed: those that have none.
        counts: how many matrices there are of each size.
    """

    def __init__(self, spec: PermutationSpec, names: Sequence[str], device: torch.device):
        self._spec = spec
        above: list[set[int]] = []  # of every class all that it lies in
        for c in spec.classes:
            above.append({x for p, _ in c.parents for x in (p, *above[p])})
        holders = {x for k, c in enumerate(spec.classes) if c.is_space for x in above[k]}
        self._cells: dict[int, list[_Cell]] = {}
        self._places: dict[int, list[tuple[int, int]]] = {}
        for k, c in enumerate(spec.classes):
            if not c.is_space or k in holders:
                continue
            for units in _cells(c.parents, c.size):
                if len(units) > 1:
                    same = self._cells.setdefault(len(units), [])
                    self._places.setdefault(k, []).append((len(units), len(same)))
                    same.append(_Cell(k, units))
        self._cells = dict(sorted(self._cells.items()))
        self.counts = {n: len(cells) for n, cells in self._cells.items()}
        own = {spec.classes[k].name for k in self._places}
        self.spaces = [name for name in spec.spaces if name in own]
        self.fixed = [name for name in spec.spaces if name not in own]
        self._moving = set(self._places)
        for k, c in enumerate(spec.classes):  # what follows its blocks
            if not c.is_space and any(p in self._moving for p, _ in c.parents):
                self._moving.add(k)
        self._parts = {name: self._parts_of(name, device) for name in names}

    def identity(self, dtype: torch.dtype, device: torch.device) -> dict[int, Tensor]:
        """The matrices that change nothing."""
        return {
            n: torch.eye(n, dtype=dtype, device=device).repeat(m, 1, 1)
            for n, m in self.counts.items()
        }

    def permutation(self, vectors: Mapping[int, Sequence[np.ndarray]]) -> Permutation:
        """A permutation of the whole network from one for each matrix.

        Args:
            vectors: for every size, for every matrix, slot `i` takes unit `p[i]`.
        """
        whole: dict[str, np.ndarray] = {}
        for n, cells in self._cells.items():
            for cell, p in zip(cells, vectors[n], strict=True):
                c = self._spec.classes[cell.k]
                whole.setdefault(c.name, np.arange(c.size))[cell.units] = cell.units[p]
        return self._spec.complete(whole)

    def matrices_of(self, p: Permutation, dtype: torch.dtype) -> dict[int, Tensor]:
        """The matrices of a permutation that leaves the blocks in their places, on the CPU."""
        element = self._spec.element(p)
        found = {}
        for n, cells in self._cells.items():
            rows = []
            for cell in cells:
                own = element[self._spec.starts[cell.k] :][cell.units] - self._spec.starts[cell.k]
                rows.append(torch.from_numpy(own[:, None] == cell.units[None]))
            found[n] = torch.stack(rows).to(dtype)
        return found

    def act(self, tensors: Mapping[str, Tensor], stacks: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """The weights after the matrices: new tensors; gradients pass to the matrices.

        Args:
            tensors: those named before, by name.
            stacks: the matrices.
        """
        matrices = self._matrices(stacks)
        return {name: self._acted(name, x, matrices) for name, x in tensors.items()}

    def of_spaces(self, stacks: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """For every space that has matrices one `[n, n]`; in blocks where its units lie in some."""
        matrices = self._matrices(stacks)
        return {name: matrices[self._spec.space(name)] for name in self.spaces}

    def _matrices(self, stacks: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """For every class that moves its matrix `[n, n]`."""
        found: dict[int, Tensor] = {}
        like = next(iter(stacks.values()))
        for k, c in enumerate(self._spec.classes):
            if k not in self._moving:
                continue
            if k not in self._places:
                found[k] = self._following(k, found, like)
                continue
            places = self._places[k]
            if places == [(c.size, places[0][1])]:
                found[k] = stacks[c.size][places[0][1]]
                continue
            whole = torch.eye(c.size, dtype=like.dtype, device=like.device)
            for n, i in places:
                units = torch.from_numpy(self._cells[n][i].units).to(like.device)
                whole = whole.index_put((units[:, None], units[None]), stacks[n][i])
            found[k] = whole
        return found

    def _following(self, k: int, above: Mapping[int, Tensor], like: Tensor) -> Tensor:
        """The matrix of units that follow their blocks: `Π_blocks P[block(i), block(j)]`."""
        c = self._spec.classes[k]
        place = np.empty(c.size, np.int64)  # in its cell: units of one cell keep their order
        for units in _cells(c.parents, c.size):
            place[units] = np.arange(len(units))
        stay = place[:, None] == place[None]
        for p, block in c.parents:
            if p not in above:
                stay &= block[:, None] == block[None]
        matrix = torch.from_numpy(stay).to(like)
        for p, block in c.parents:
            if p in above:
                index = torch.from_numpy(np.asarray(block)).to(like.device)
                matrix = matrix * above[p][index[:, None], index[None]]
        return matrix

    def _acted(self, name: str, tensor: Tensor, matrices: Mapping[int, Tensor]) -> Tensor:
        for part in self._parts[name]:
            front = list(range(len(part.axes)))
            lined = tensor.movedim(part.axes, front)
            shape = lined.shape
            lined = lined.reshape(-1, *shape[len(front) :])
            for k, order in part.classes:
                n = len(order)
                index = order.reshape(-1)
                slab = lined.index_select(0, index)
                mixed = matrices[k].to(slab.dtype) @ slab.reshape(n, -1)
                lined = lined.index_copy(0, index, mixed.reshape(slab.shape))
            tensor = lined.reshape(shape).movedim(front, part.axes)
        return tensor.clone() if not self._parts[name] else tensor

    def _parts_of(self, name: str, device: torch.device) -> list[_Part]:
        """Where the classes that move stand on a tensor."""
        found = []
        parts = self._spec.slots.get(name, ())
        for part in parts:
            if any(set(part.axes) < set(other.axes) for other in parts):
                continue  # the larger set of axes moves this one along
            units, rank = part.units.reshape(-1), part.rank.reshape(-1)
            of = np.searchsorted(self._spec.starts, units, side="right") - 1
            classes = []
            for k in sorted(self._moving):
                at = np.flatnonzero((of == k) & (units >= 0))
                if len(at):
                    at = at[np.lexsort((rank[at], units[at]))]
                    order = at.reshape(self._spec.classes[k].size, -1)
                    classes.append((k, torch.from_numpy(order).to(device)))
            if classes:
                found.append(_Part(part.axes, tuple(classes)))
        return found


def _cells(parents: Sequence[tuple[int, np.ndarray]], size: int) -> list[np.ndarray]:
    """The units of a class by their blocks: those that share all of them."""
    if not parents:
        return [np.arange(size)]
    blocks = np.stack([block for _, block in parents])
    _, cell = np.unique(blocks, axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    return [np.flatnonzero(cell == i) for i in range(int(cell.max()) + 1)]
