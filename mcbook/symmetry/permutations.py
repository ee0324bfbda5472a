"""The algebra of permutations: composed, inverted, applied to axes, saved."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DamagedFileError, IncompatibleError, UnknownNameError, expect
from ..saving import read_tensors, write_tensors

__all__ = ["Permutation"]


class Permutation(Mapping[str, Tensor]):
    """Per space a bijection of its units; in slot `i` comes unit `p[i]`.

    An element of the product of the symmetric groups of all spaces.  In a space of `n` units it is
    a vector `p` or, the same thing, a matrix `P [n, n]`:

        x'[i] = x[p[i]],    x' = P x,    P[i, p[i]] = 1 and 0 elsewhere.

    It is a read-only mapping from the names of the spaces to int64 tensors `[n]` on the CPU; items
    are copies.  Two are equal when they have the same spaces and vectors, in whatever order; they
    cannot be hashed.  Methods refuse the name of an unknown space with UnknownNameError.

    Args:
        vectors: for every space the units that come into its slots, each of `0 ... n - 1` once;
            copied.  Whole numbers held as floats are taken.

    Raises:
        TypeError: when this is no mapping from names to vectors of numbers.
        ValueError: when a vector is empty, not one-dimensional, or no bijection; says which.

    Example:
        >>> p = Permutation({"hidden": [1, 2, 0]})
        >>> p.apply(torch.tensor([10, 20, 30]), 0, "hidden").tolist()
        [20, 30, 10]
        >>> (p @ p)["hidden"].tolist(), p.order, p @ p.inverse() == Permutation.identity(p.sizes)
        ([2, 0, 1], 3, True)
    """

    def __init__(self, vectors: Mapping[str, Tensor | Sequence[int] | np.ndarray]):
        expect(vectors, Mapping, "a mapping from the names of spaces to vectors")
        self._vectors = {name: _bijection(name, vector) for name, vector in vectors.items()}

    @classmethod
    def identity(cls, sizes: Mapping[str, int]) -> Permutation:
        """The permutation that moves nothing; `sizes` and their ValueError as in `random`."""
        return cls({name: torch.arange(_size(name, n)) for name, n in sizes.items()})

    @classmethod
    def random(cls, sizes: Mapping[str, int], seed: int) -> Permutation:
        """A permutation drawn uniformly, each of the `Π n!` with equal chance.

        What a space draws depends on the seed, its name and its size alone: other spaces may
        come, go and change.  The global random state is neither used nor changed.

        Args:
            sizes: the number of units of every space.
            seed: any whole number.

        Raises:
            ValueError: when a size is no whole number from 1.
            TypeError: when the seed is no whole number.
        """
        expect(seed, Integral, "a whole number as seed")
        drawn = {}
        for name, n in sizes.items():
            digest = hashlib.sha256(f"{int(seed)}:{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            drawn[name] = torch.randperm(_size(name, n), generator=generator)
        return cls(drawn)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of units of every space."""
        return {name: len(vector) for name, vector in self._vectors.items()}

    @property
    def moved(self) -> int:
        """How many slots, in all spaces together, take another unit than their own."""
        return sum(self.sizes.values()) - sum(map(len, self.fixed_points().values()))

    @property
    def order(self) -> int:
        """The least `k >= 1` for which `k` times in a row is the identity: `lcm` of the cycles."""
        return math.lcm(*(len(cycle) for name in self for cycle in self.cycles(name)))

    def is_identity(self) -> bool:
        """Whether nothing is moved."""
        return self.moved == 0

    def inverse(self) -> Permutation:
        """The permutation that undoes this one: `q[p[i]] = i`, the matrix `Pᵀ`."""
        return Permutation({name: torch.argsort(vector) for name, vector in self._vectors.items()})

    def __matmul__(self, other: Permutation) -> Permutation:
        """First `other`, then this: `(q @ p)[i] = p[q[i]]`, the matrix product `Q P`.

        Raises:
            IncompatibleError: when a space is in one of them only, or of different sizes.
        """
        if not isinstance(other, Permutation):
            return NotImplemented
        left, right = self.sizes, other.sizes
        for name in (*left, *right):
            there, here = (sizes.get(name, "no") for sizes in (left, right))
            if there != here:
                found = f"{name!r} with {there} units on the left and {here} on the right"
                raise IncompatibleError(f"expected permutations of the same spaces, found {found}")
        return Permutation({name: other._vectors[name][q] for name, q in self._vectors.items()})

    def fixed_points(self) -> dict[str, Tensor]:
        """Per space the slots `i` with `p[i] = i`, increasing: int64 `[k]`, `0 <= k <= n`."""
        return {
            name: torch.nonzero(vector == torch.arange(len(vector))).flatten()
            for name, vector in self._vectors.items()
        }

    def cycles(self, space: str) -> list[tuple[int, ...]]:
        """The cycles `(i, p[i], p[p[i]], ...)` of a space, by smallest slots; no fixed points."""
        after, found, seen = self._of(space).tolist(), [], set()
        for start in range(len(after)):
            cycle = []
            while start not in seen:
                seen.add(start)
                cycle.append(start)
                start = after[start]
            found.append(tuple(cycle))
        return [cycle for cycle in found if len(cycle) > 1]

    def matrix(self, space: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix `P [n, n]` of a space: `P[i, p[i]] = 1` and 0 elsewhere, on the CPU."""
        return self.apply(torch.eye(len(self._of(space)), dtype=dtype), 0, space)

    def apply(self, tensor: Tensor, axis: int, space: str) -> Tensor:
        """A new tensor with the units moved on one axis: its slice `i` is slice `p[i]` of the old.

        Args:
            tensor: of any dtype, on any device; not changed.
            axis: the axis whose positions are the slots of the space; from the end if negative.
            space: which one.

        Raises:
            ValueError: when the tensor has no such axis.
            IncompatibleError: when the axis has not as many positions as the space has units.
        """
        vector, n = self._of(space), len(self._of(space))
        expect(tensor, Tensor, "a tensor")
        shape = list(tensor.shape)
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"expected an axis of a tensor {shape}, found {axis}")
        if shape[axis] != n:
            raise IncompatibleError(f"expected {n} units of {space!r} on axis {axis} of {shape}")
        return tensor.index_select(axis, vector.to(tensor.device))

    def restricted(self, names: Iterable[str]) -> Permutation:
        """The same on these spaces, the identity on all others."""
        if isinstance(names, str):
            raise TypeError(f"expected several names of spaces, as [{names!r}], found one string")
        identity = Permutation.identity(self.sizes)
        return Permutation({**identity, **{name: self._of(name) for name in names}})

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write the permutation as a safetensors file, and return its path; see `load`."""
        # safetensors sorts what it holds, so the order of the spaces is written apart
        return write_tensors(file, "permutation", self._vectors, {"spaces": list(self)})

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Permutation:
        """Read a permutation that `save` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            DamagedFileError: when the file is not a whole saved permutation.
        """
        tensors, header = read_tensors(file, "permutation")
        try:
            return cls({name: tensors[name] for name in header["spaces"]})
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{file}: expected a permutation, found: {error}") from error

    def __getitem__(self, space: str) -> Tensor:
        """A copy of the vector of a space; KeyError where there is none."""
        if space not in self._vectors:  # a mapping's error is a KeyError
            raise KeyError(str(UnknownNameError("space", space, self._vectors)))
        return self._vectors[space].clone()

    def __contains__(self, space: object) -> bool:
        return space in self._vectors  # that of mappings asks for the item and its error

    def __iter__(self) -> Iterator[str]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Permutation):
            return NotImplemented
        return self.sizes == other.sizes and all(
            torch.equal(vector, other._vectors[name]) for name, vector in self._vectors.items()
        )

    def __repr__(self) -> str:
        units = sum(self.sizes.values())
        return f"Permutation(spaces={len(self)}, {units=}, moved={self.moved})"

    def _of(self, space: str) -> Tensor:
        if space not in self._vectors:
            raise UnknownNameError("space", space, self._vectors)
        return self._vectors[space]


def _size(name: str, n: int) -> int:
    if not isinstance(n, Integral) or n < 1:
        raise ValueError(f"expected a whole number from 1 of units in space {name!r}, found {n!r}")
    return int(n)


def _bijection(name: str, vector: Any) -> Tensor:
    """A new int64 tensor of the vector's numbers, after a look that each is there once."""
    expect(name, str, "the name of a space")
    if isinstance(vector, Tensor):
        vector = vector.detach().cpu()
        vector = (vector.double() if vector.is_floating_point() else vector).numpy()
    try:
        array = np.asarray(vector)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"expected one vector for space {name!r}: {error}") from error
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"expected a vector for space {name!r}, found {list(array.shape)} numbers")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"expected whole numbers for space {name!r}, found {array.dtype}")
    n = len(array)
    strange = ~((array >= 0) & (array < n) & (array == np.floor(array)))
    counts = np.bincount(array[~strange].astype(np.int64), minlength=n)
    if (counts != 1).any():
        missing, repeated = (np.flatnonzero(x)[:5].tolist() for x in (counts == 0, counts > 1))
        raise ValueError(
            f"expected each of 0 ... {n - 1} once for space {name!r}, found missing {missing}, "
            f"repeated {repeated}, out of place {array[strange][:5].tolist()}"
        )
    return torch.from_numpy(array.astype(np.int64))
