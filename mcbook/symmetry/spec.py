"""Which axes of which tensors belong to which space: what a permutation of units acts on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..errors import IncompatibleError, UnknownNameError, expect
from . import group
from .parts import Frozen, Slots, UnitClass
from .permutations import Permutation

if TYPE_CHECKING:
    from .verification import Verification

__all__ = ["PermutationSpec"]


@dataclass(frozen=True, repr=False, eq=False)
class PermutationSpec:
    """The permutation symmetry of one architecture: spaces of units, and the axes they act on.

    The group is the product of the symmetric groups of the spaces; a space inside blocks (the rows
    of a head) is permuted inside them, and the blocks are a space of their own.  `str(spec)` is a
    table that explains it.  Made by `trace_symmetry`, or by hand with `from_axes`.

    Attributes:
        model: the name of the network's class.
        shapes: the shape of every tensor of the network, by name.
        classes: the classes of units, blocks before what lies in them.
        slots: per tensor, where units stand on it.
        aliases: names under which a tensor appears again (tied weights), and its first name.
        frozen: what cannot move, and why.
        notes: what a reader should know besides: operations that no rule knew.
        verification: what a check of this spec found, None before one.
    """

    model: str
    shapes: Mapping[str, tuple[int, ...]]
    classes: Sequence[UnitClass]
    slots: Mapping[str, Sequence[Slots]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    frozen: Sequence[Frozen] = ()
    notes: Sequence[str] = ()
    verification: Verification | None = None

    @cached_property
    def spaces(self) -> dict[str, int]:
        """The number of units of every space, by name."""
        return {c.name: c.size for c in self.classes if c.is_space}

    @property
    def nested(self) -> list[str]:
        """The spaces whose units lie in blocks."""
        return [c.name for c in self.classes if c.is_space and c.parents]

    @property
    def units(self) -> int:
        """How many units can be permuted, over all spaces."""
        return sum(self.spaces.values())

    @property
    def log10_order(self) -> float:
        """The logarithm to base 10 of the number of elements of the group."""
        return group.log10_order(self._sizes, self._parents)

    @property
    def axes_free(self) -> float:
        """The share of the axes of all tensors (kernel axes left out) on which units can move."""
        free, every = self.axis_counts()
        return free / every if every else 0.0

    def axis_counts(self) -> tuple[int, int]:
        """How many axes have units that can move, and how many there are, kernel axes left out."""
        every = {(name, a) for name, shape in self.shapes.items() if name in self.slots
                 for a in range(min(2, len(shape))) if shape[a] > 1}  # fmt: skip
        free = {
            (name, a)
            for name, parts in self.slots.items()
            for part in parts
            if (part.units >= 0).any()
            for a in part.axes
        }
        return len(free & every), len(every)

    @property
    def _sizes(self) -> list[int]:
        return [c.size for c in self.classes]

    @property
    def _parents(self) -> list[Sequence[tuple[int, np.ndarray]]]:
        return [c.parents for c in self.classes]

    @property
    def _names(self) -> list[str]:
        return [c.name for c in self.classes]

    def space(self, name: str) -> int:
        """The number of the class with this name.

        Raises:
            UnknownNameError: for a name that is no space; offers the close ones.
        """
        if name not in self.spaces:
            raise UnknownNameError("space", name, self.spaces)
        return self._names.index(name)

    def tensors_of(self, name: str) -> list[str]:
        """The tensors a space acts on, itself or through what lies in it.

        Raises:
            UnknownNameError: for a name that is no space.
        """
        inside = {self.space(name)}
        for k, c in enumerate(self.classes):
            if any(above in inside for above, _ in c.parents):
                inside.add(k)
        return [tensor for tensor, found in self._classes_on.items() if inside & found]

    @cached_property
    def _classes_on(self) -> dict[str, set[int]]:
        """The numbers of the classes whose units stand on each tensor."""
        found: dict[str, set[int]] = {}
        for tensor, parts in self.slots.items():
            flat = [np.zeros(0, np.int64), *(part.units.reshape(-1) for part in parts)]
            units = np.unique(np.concatenate(flat))
            of = np.searchsorted(self.starts, units[units >= 0], side="right") - 1
            found[tensor] = set(of.tolist())
        return found

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of the first unit of every class, and behind the last how many there are."""
        return np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)

    def identity(self) -> Permutation:
        """The permutation that moves nothing."""
        return Permutation.identity(self.spaces)

    def random(
        self, seed: int = 0, spaces: Sequence[str] | None = None, restless: bool = False
    ) -> Permutation:
        """A permutation drawn uniformly from the group.

        Args:
            seed: decides it, together with the names of the spaces.
            spaces: only these are shuffled; what lies in their blocks goes along in its order.
            restless: leave out permutations that move nothing in one of these spaces.

        Raises:
            UnknownNameError: for a name that is no space.
        """
        expect(seed, Integral, "a whole number as seed")
        seed = int(seed) % 2**63
        spaces = [spaces] if isinstance(spaces, str) else spaces
        drawn = [self.space(name) for name in (self.spaces if spaces is None else spaces)]
        element = group.random_element(
            self._sizes, self._parents, seed, self._names, drawn, restless
        )
        return self._named(element)

    def swaps(self, seed: int = 0) -> Permutation:
        """A permutation in which two units of every space change places, within one block.

        Args:
            seed: decides which.
        """
        return self._named(group.random_swaps(self._sizes, self._parents, seed))

    def complete(self, vectors: Mapping[str, Tensor | Sequence[int] | np.ndarray]) -> Permutation:
        """The permutation with these vectors; spaces that are left out keep their order.

        Args:
            vectors: for some spaces, slot `i` takes unit `p[i]`.

        Raises:
            UnknownNameError: for a name that is no space.
            ValueError: for a vector that is no bijection of the units of its space, or tears
                blocks apart.
        """
        given = Permutation(vectors)
        return self._named(self._element(given, partial=True))

    def _named(self, element: Sequence[np.ndarray]) -> Permutation:
        return Permutation(
            {c.name: p for c, p in zip(self.classes, element, strict=True) if c.is_space}
        )

    def _element(self, p: Permutation, partial: bool = False) -> list[np.ndarray]:
        """A vector for every class from one for every space."""
        expect(p, Permutation, "a Permutation, such as spec.random(seed=0)")
        for name, size in p.sizes.items():
            if size != self.classes[self.space(name)].size:
                raise IncompatibleError(
                    f"expected a permutation of {self.spaces[name]} units in space {name!r}, "
                    f"found one of {size}"
                )
        missing = [name for name in self.spaces if name not in p]
        if missing and not partial:
            raise IncompatibleError(
                f"expected a permutation of every space, found none of {missing[0]!r}"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
                + " (spec.complete fills in the identity)"
            )
        given = {self.space(name): v.numpy() for name, v in p.items()}
        try:
            return group.complete(self._sizes, self._parents, given)
        except group.Irregular as error:
            torn = self.classes[error.place]
            blocks = " and ".join(self.classes[k].name for k, _ in torn.parents)
            raise IncompatibleError(
                f"expected a permutation that keeps the units of {torn.name!r} together in the "
                f"blocks of {blocks}, found one that tears them apart; spec.random and "
                f"spec.complete give such permutations"
            ) from error

    def apply(self, tensors: Mapping[str, Tensor], p: Permutation) -> dict[str, Tensor]:
        """The weights with their units permuted: new tensors.

        Args:
            tensors: the weights of a network, by name (as `weights.of` gives them).
            p: slot `i` of a space takes unit `p[i]`.

        Raises:
            IncompatibleError: when the weights are not of this spec's network, or the permutation
                is not of its spaces.
        """
        self.check(tensors)
        element = self.element(p)
        return {
            name: self.moved(self.aliases.get(name, name), tensor, element)
            for name, tensor in tensors.items()
        }

    def element(self, p: Permutation) -> np.ndarray:
        """For every unit, numbered through all classes, the unit that takes its place."""
        parts = [start + v for start, v in zip(self.starts[:-1], self._element(p), strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def moved(self, name: str, tensor: Tensor, element: np.ndarray) -> Tensor:
        """One tensor with its units permuted: a new one."""
        given = tensor
        parts = self.slots.get(name, ())
        for part in parts:
            if any(set(part.axes) < set(other.axes) for other in parts):
                continue  # the larger set of axes moves this one along
            source = part.source(element)
            if not np.array_equal(source, np.arange(len(source))):
                tensor = _taken(tensor, part.axes, source)
        return tensor.clone() if tensor is given else tensor

    def check(self, tensors: Mapping[str, Any]) -> None:
        """Refuse weights of another network.

        Raises:
            IncompatibleError: naming the first tensor that differs.
        """
        for name, shape in self.shapes.items():
            if name not in tensors:
                raise IncompatibleError(
                    f"expected a network with the tensors of this spec ({self.model}), but "
                    f"{name} {list(shape)} is not there"
                )
            if tuple(tensors[name].shape) != shape:
                raise IncompatibleError(
                    f"expected a network with the tensors of this spec ({self.model}), but "
                    f"{name} is {list(tensors[name].shape)} instead of {list(shape)}"
                )
        extra = [name for name in tensors if name not in self.shapes]
        if extra:
            raise IncompatibleError(
                f"expected a network with the tensors of this spec ({self.model}), but it also "
                f"has {extra[0]} {list(tensors[extra[0]].shape)}"
            )

    def without(self, *names: str) -> PermutationSpec:
        """The spec with some spaces frozen, together with what depends on them.

        Args:
            *names: spaces.

        Raises:
            UnknownNameError: for a name that is no space.
        """
        from .freezing import without

        return without(self, {self.space(name): "frozen by hand" for name in names})

    def verify(self, model: nn.Module, example: Any = None, seed: int = 0) -> Verification:
        """Check every space in float64 on randomised weights; see `verification.verify`."""
        from .verification import verify

        return verify(self, model, example, seed)

    @classmethod
    def from_axes(cls, model: nn.Module, axes: Mapping[str, Sequence[Any]]) -> PermutationSpec:
        """A spec written by hand; see `handmade.from_axes`."""
        from .handmade import from_axes

        return from_axes(model, axes)

    def table(self) -> pd.DataFrame:
        """A row for each space: `space`, `units`, `structure`, `acts on`, `tied by`."""
        from .report import table

        return table(self)

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Save the spec (without its verification); `PermutationSpec.load` reads it."""
        from .storage import save_spec

        return save_spec(self, file)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> PermutationSpec:
        """Read what `save` wrote; see `storage.load_spec`."""
        from .storage import load_spec

        return load_spec(file)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from .report import html_report

        return {"text/html": html_report(self), "text/plain": str(self)}

    def __repr__(self) -> str:
        return (
            f"PermutationSpec({self.model}: {len(self.spaces)} spaces, {self.units} units, "
            f"order 10^{self.log10_order:.1f})"
        )

    def __str__(self) -> str:
        from .report import report

        return report(self)


def _taken(tensor: Tensor, axes: tuple[int, ...], source: np.ndarray) -> Tensor:
    """Entries gathered along some axes together."""
    index = torch.as_tensor(source, device=tensor.device)
    if len(axes) == 1:
        moved = (index != torch.arange(len(index), device=index.device)).nonzero()[:, 0]
        if 8 * len(moved) > len(index):
            return tensor.index_select(axes[0], index)
        part = tensor.index_select(axes[0], index[moved])  # far quicker where little moves
        return tensor.index_copy(axes[0], moved, part)
    front = list(range(len(axes)))
    lined = tensor.movedim(axes, front)
    flat = lined.reshape(-1, *lined.shape[len(axes) :]).index_select(0, index)
    return flat.reshape(lined.shape).movedim(front, axes).contiguous()
