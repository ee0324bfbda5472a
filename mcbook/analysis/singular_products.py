"""Pairs of singular triples of two networks: what carries the inner product of their weights.

W = Σ_i s_i u_i v_iᵀ,    s_1 >= s_2 >= ... >= 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..progress import Bar
from .input_moments import input_moments, root
from .layer_matrices import LayerMatrix, check_pair, find_layers

__all__ = ["SingularProducts", "Triples", "singular_products"]


@dataclass(frozen=True, eq=False)
class Triples:
    """The singular triples of one layer, those of all its blocks together.

    Attributes:
        values: `[r]`, from the largest on.
        u: the left vectors, a block each, `[g, m, r / g]`.
        v: the right vectors, `[g, n, r / g]`.
        order: where among the blocks' triples, one block after the other, each of `values` is.
        rank: how many values are not zero up to the rounding of the weights; the vectors of the
            others are arbitrary.
    """

    values: Tensor
    u: Tensor
    v: Tensor
    order: Tensor
    rank: int

    @classmethod
    def of(cls, blocks: Tensor, dtype: torch.dtype) -> Triples:
        """Of a matrix `[g, m, n]` whose entries had the precision of `dtype`."""
        u, values, vt = torch.linalg.svd(blocks, full_matrices=False)
        values, order = values.reshape(-1).sort(descending=True, stable=True)
        # rounding every entry by a relative eps / 2 moves no singular value by more than this
        least = torch.finfo(dtype).eps * torch.linalg.vector_norm(blocks)
        return cls(values, u, vt.mT, order, int((values > least).sum()))


@dataclass(frozen=True, repr=False, eq=False)
class SingularProducts:
    """How the singular triples of one layer in two networks meet.

    The inner product of the two weights is a sum over pairs of triples (Ito et al. 2025, Theorem
    4.1):

        <W_a, W_b> = Σ_ij s_i^a s_j^b (u_i^a · u_j^b) (v_i^a · v_j^b).

    Attributes:
        layer: its name.
        values_a: the singular values in A, `[r]`, from the largest on.
        values_b: those in B, `[r]`.
        overlaps: `(u_i^a · u_j^b) (v_i^a · v_j^b)`, `[r, r]`, float64; signs of vectors cancel.
        ranks: how many values of A and of B are not zero up to rounding.
    """

    layer: str
    values_a: np.ndarray
    values_b: np.ndarray
    overlaps: np.ndarray
    ranks: tuple[int, int]

    @property
    def terms(self) -> np.ndarray:
        """The terms of the sum, `[r, r]`."""
        return self.values_a[:, None] * self.overlaps * self.values_b

    @property
    def inner(self) -> float:
        """The inner product of the two weights, their sum."""
        return float(self.terms.sum())

    def counts(self, gamma: float) -> tuple[int, int]:
        """How many values of A and of B are at least `gamma` times the largest, and not zero."""
        pairs = zip((self.values_a, self.values_b), self.ranks, strict=True)
        count_a, count_b = (min(int((s >= gamma * s[0]).sum()), rank) for s, rank in pairs)
        return count_a, count_b

    def cumulated(self) -> pd.DataFrame:
        """What the largest triples carry of the inner product.

        Returns:
            A row for each `k` from 1: `k`; `inner`, the sum over the first `k × k` terms; `cosine`,
            that over `|W_a| |W_b|` (NaN for a weight that is zero); `share`, that over the whole
            inner product, which says little where the whole is near zero.
        """
        inner = self.terms.cumsum(0).cumsum(1).diagonal()
        norms = np.linalg.norm(self.values_a) * np.linalg.norm(self.values_b)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine, share = inner / norms, inner / inner[-1]
        k = np.arange(1, len(inner) + 1)
        return pd.DataFrame({"k": k, "inner": inner, "cosine": cosine, "share": share})

    def __repr__(self) -> str:
        """The layer, its triples, the inner product."""
        return f"SingularProducts({self.layer}, {len(self.values_a)} triples, {self.inner:.4g})"


def singular_products(
    a: nn.Module,
    b: nn.Module,
    inputs: Tensor | None = None,
    layers: Iterable[str] | None = None,
    batch_size: int = 512,
    progress: bool = True,
) -> dict[str, SingularProducts]:
    """The inner products of two networks' weights as sums over pairs of singular triples.

    Over all layers the sums add up to the inner product of all matrices, biases and norms left out.

    Args:
        a: a network.
        b: another of the same architecture, as it is: permuted or not.
        inputs: images; then of `W C^(1/2)` instead of `W`, see `singular_alignment`.
        layers: the names of the layers wanted; all when None.
        batch_size: how many images at once; the result does not depend on it.
        progress: whether to show a bar.

    Returns:
        For each layer by name, in the order of the modules, its `SingularProducts`.

    Raises:
        TypeError: when a network is no module, or `inputs` no tensor.
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for an unknown layer.
        ValueError: when there are no layers with a matrix, weights or inputs are not finite, or a
            layer is not called.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> whole = mc.weights.dot(*map(mc.weights.of, (a, b)), ["output.weight"])
        >>> abs(singular_products(a, b)["output"].inner - whole) < 1e-5
        True
    """
    found, other = find_layers(a, layers), find_layers(b, layers)
    check_pair(a, b)
    matrices = (
        _matrices(model, its, inputs, batch_size) for model, its in ((a, found), (b, other))
    )
    products = {}
    with Bar(len(found), "singular vectors", progress) as bar:
        for layer, x, y in zip(found, *matrices, strict=True):
            products[layer.name] = _products(layer, x, y)
            bar.advance()
    return products


def _matrices(
    model: nn.Module, layers: Sequence[LayerMatrix], inputs: Tensor | None, batch_size: int
) -> Iterator[Tensor]:
    """Each layer's matrix, weighted by its inputs if there are any."""
    if inputs is None:
        yield from (layer.matrix() for layer in layers)
        return
    moments = input_moments(model, layers, inputs, batch_size)
    for layer, c in zip(layers, moments, strict=True):
        yield layer.matrix() @ root(c)


def _products(layer: LayerMatrix, x: Tensor, y: Tensor) -> SingularProducts:
    a, b = (Triples.of(matrix, layer.weight.dtype) for matrix in (x, y))
    blocks = (a.u.mT @ b.u) * (a.v.mT @ b.v)  # triples of different blocks do not meet
    g, r, _ = blocks.shape
    overlaps = torch.zeros(g, r, g, r, dtype=blocks.dtype)
    index = torch.arange(g)
    overlaps[index, :, index, :] = blocks
    overlaps = overlaps.reshape(g * r, g * r)[a.order][:, b.order]
    return SingularProducts(
        layer.name, a.values.numpy(), b.values.numpy(), overlaps.numpy(), (a.rank, b.rank)
    )
