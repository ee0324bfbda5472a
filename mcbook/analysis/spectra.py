"""Singular values and vectors of a network's layers, and how far those of two networks agree.

    W = Σ_i s_i u_i v_iᵀ,    s_1 >= s_2 >= ... >= 0.

A permutation of hidden units changes the vectors and never the values.  So if the values of two
networks are alike, matching their weights is matching their singular vectors, the large ones first
(Ito, Yamada and Kumagai, 2025, "Analysis of Linear Mode Connectivity via Permutation-Based Weight
Matching").  Which layers have a matrix, and how convolutions are one, is said in `layer_matrices`;
a layer with groups has a block for each, and its triples are those of all blocks together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .. import weights
from ..symmetry.examples import copied
from .input_moments import input_moments
from .layer_matrices import find_layers
from .singular_products import SingularProducts, Triples, singular_products

__all__ = [
    "SingularAlignment",
    "low_rank",
    "singular_alignment",
    "singular_values",
    "stable_rank",
]


@dataclass(frozen=True, repr=False, eq=False)
class SingularAlignment:
    """How far the singular vectors of two networks agree: R, overall and per layer.

    Attributes:
        overall: R over all layers.
        layers: a row for each: `layer`; its `r` (NaN where one of the weights is zero); `overlap`,
            the sum that is R's numerator; `count_a` and `count_b`, how many vectors took part.
        gamma: how large a singular value has to be, as a share of the layer's largest.
        products: for each layer by name, all pairs of singular triples.
    """

    overall: float
    layers: pd.DataFrame
    gamma: float
    products: dict[str, SingularProducts]

    def at(self, gamma: float) -> SingularAlignment:
        """The same networks with another `gamma`; costs next to nothing.

        Raises:
            ValueError: for a `gamma` outside [0, 1].
        """
        return _alignment(self.products, gamma)

    def __float__(self) -> float:
        """R over all layers."""
        return self.overall

    def __repr__(self) -> str:
        """R, gamma, and the layers from the least to the most aligned."""
        r = self.layers.dropna(subset="r").sort_values("r", kind="stable")
        ends = [f"{row.r:.3f} in {row.layer}" for row in r.iloc[[0, -1]].itertuples()]
        among = f"{len(self.layers)} layers: {ends[0]} to {ends[1]}" if len(r) > 1 else "one layer"
        return f"SingularAlignment(R = {self.overall:.3f} at gamma = {self.gamma:g}; {among})"


def singular_alignment(
    a: nn.Module,
    b: nn.Module,
    gamma: float = 0.3,
    inputs: Tensor | None = None,
    layers: Iterable[str] | None = None,
    batch_size: int = 512,
    progress: bool = True,
) -> SingularAlignment:
    """How far the singular vectors of two networks agree (Ito et al. 2025, the measure R).

    Over the singular vectors whose value is at least `gamma` times the layer's largest, `n_l` of
    them,

        R = Σ_l Σ_ij (u_li^a · u_lj^b) (v_li^a · v_lj^b) / Σ_l n_l.

    The inner sum is `<U_a V_aᵀ, U_b V_bᵀ>`, an inner product of polar factors: R is in [-1, 1], it
    is 1 for a network and itself, and the vectors' signs do not matter.  Where the counts of A and
    B differ, `n_l` is `sqrt(n_l^a n_l^b)`, which keeps that bound.  Values that are zero up to the
    rounding of the weights never count: their vectors are arbitrary (dead units, layers of zeros).
    A cut between equal values depends on the basis that was found for them; 0 and any gamma between
    two values do not.

    With `inputs` the matrices are `W_l C_l^(1/2)`, where `C_l` is the second moment of what layer
    `l` reads on these images, in A for A and in B for B.  Then it counts how the layers agree on
    the inputs there are, and not on those that never come.

    Args:
        a: a network.
        b: another of the same architecture, as it is: permuted by an alignment or not.
        gamma: in [0, 1].
        inputs: images `[count, ...]`, a few hundred or thousand; None for the weights alone.  Their
            root takes time of order `n³` for a layer with `n` inputs.
        layers: the names of the layers wanted; all when None.
        batch_size: how many images at once; the result does not depend on it.
        progress: whether to show a bar.

    Raises:
        TypeError: when a network is no module, or `inputs` no tensor.
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for an unknown layer.
        ValueError: for a `gamma` outside [0, 1], a network without layers that have a matrix,
            weights that are not finite or all zero, inputs that are empty or not finite, or a layer
            that is not called.

    Example:
        >>> import mcbook as mc
        >>> a = mc.build_model("mlp", mc.load_data("digits", device="cpu"), seed=0)
        >>> round(float(singular_alignment(a, a)), 6)
        1.0
    """
    _check_gamma(gamma)
    return _alignment(singular_products(a, b, inputs, layers, batch_size, progress), gamma)


def singular_values(model: nn.Module, inputs: Tensor | None = None) -> pd.DataFrame:
    """The singular values of every layer.

    Args:
        model: any module.
        inputs: images; then also how much of what a layer reads lies along each right vector.

    Returns:
        A row for each value: `layer`; `index`, from 0 for the largest; `value`; `relative`, the
        value over the layer's largest (NaN where that is zero); and with `inputs` `energy`,
        `E[(v_i · z)²] / E[|z|²]` (for a layer with groups, of the inputs of all groups).

    Raises:
        TypeError: for something that is no module, or inputs that are no tensor.
        ValueError: when there are no layers with a matrix, weights or inputs are not finite, or a
            layer is not called.
    """
    layers = find_layers(model)
    weights.check_finite(weights.of(model), "this network")
    moments = iter([]) if inputs is None else input_moments(model, layers, inputs)
    tables = []
    for layer in layers:
        triples = Triples.of(layer.matrix(), layer.weight.dtype)
        s = triples.values.numpy()
        table = pd.DataFrame({"layer": layer.name, "index": np.arange(len(s)), "value": s})
        table["relative"] = s / s[0] if s[0] > 0 else math.nan
        if inputs is not None:
            c = next(moments)
            along = ((c @ triples.v) * triples.v).sum(1).reshape(-1)[triples.order]
            table["energy"] = (along / c.diagonal(dim1=1, dim2=2).sum()).numpy()
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def stable_rank(model: nn.Module) -> pd.Series:
    """The stable rank of every layer, `Σ_i s_i² / s_1²`: how many directions its weight has.

    Args:
        model: any module.

    Returns:
        By the layers' names, between 1 and the rank; NaN for a weight of zeros.

    Raises:
        TypeError: for something that is no module.
        ValueError: when there are no layers with a matrix, or weights are not finite.
    """
    values = singular_values(model)
    ranks = values["relative"].pow(2).groupby(values["layer"], sort=False).sum(min_count=1)
    return ranks.rename("stable_rank")


def low_rank(model: nn.Module, keep: int | slice | Sequence[int], biases: bool = True) -> nn.Module:
    """A network with only some singular triples of every layer, `W' = Σ_{i in keep} s_i u_i v_iᵀ`.

    Aligning such copies of two networks shows which triples an alignment needs.  A layer with
    fewer triples keeps those of `keep` that it has, perhaps none: without the ten largest, a layer
    of ten units is zero.

    Args:
        model: any module; it is not changed.
        keep: a number `k` for the `k` largest, or indices from 0 for the largest: a range, a
            sequence, or a slice such as `slice(10, None)`, everything but the ten largest.
        biases: whether the biases of these layers stay; else they are zero.  Norms stay as they
            are.

    Returns:
        A new module, in the same mode.

    Raises:
        TypeError: for something that is no module, or a `keep` of another kind.
        ValueError: when `keep` is a number below 1 or has a negative index, there are no layers
            with a matrix, or weights are not finite.
        IncompatibleError: when a weight is computed from other parameters.
    """
    chosen = _chosen(keep)
    find_layers(model)
    weights.check_finite(weights.of(model), "this network")
    model = copied(model)
    vars(model).pop("history", None)  # of other weights
    for layer in find_layers(model):
        triples = Triples.of(layer.matrix(), layer.weight.dtype)
        kept = np.zeros(len(triples.values), dtype=bool)
        kept[chosen if isinstance(chosen, slice) else [i for i in chosen if i < len(kept)]] = True
        if not kept.all():  # else the weight stays as it is, to the last bit
            left = torch.zeros_like(triples.values)
            left[triples.order] = triples.values * torch.from_numpy(kept)
            scaled = triples.u * left.reshape(len(triples.u), 1, -1)
            layer.replace_(scaled @ triples.v.mT)
        if not biases:
            for module in layer.modules:
                for name in ("bias", "in_proj_bias"):
                    if isinstance(bias := module._parameters.get(name), nn.Parameter):
                        nn.init.zeros_(bias)
    return model


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise ValueError(f"expected gamma in [0, 1], found {gamma}")


def _chosen(keep: int | slice | Sequence[int]) -> slice | list[int]:
    if isinstance(keep, slice):
        return keep
    if isinstance(keep, int | np.integer) and not isinstance(keep, bool):
        if keep < 1:
            raise ValueError(f"expected to keep at least 1 singular triple, found {keep}")
        return slice(0, int(keep))
    try:
        indices = [int(i) for i in keep]  # type: ignore[union-attr]
    except TypeError:
        raise TypeError(
            f"expected which singular triples to keep: a number, a slice, a range or a sequence of "
            f"indices, found {type(keep).__name__}"
        ) from None
    if any(i < 0 for i in indices):
        raise ValueError(f"expected indices from 0, found {min(indices)}")
    return indices


def _alignment(products: dict[str, SingularProducts], gamma: float) -> SingularAlignment:
    _check_gamma(gamma)
    rows = []
    for name, one in products.items():
        count_a, count_b = one.counts(gamma)
        overlap = float(one.overlaps[:count_a, :count_b].sum())
        n = math.sqrt(count_a * count_b)
        r = overlap / n if n else math.nan
        rows.append((name, r, overlap, count_a, count_b, n))
    table = pd.DataFrame(rows, columns=["layer", "r", "overlap", "count_a", "count_b", "n"])
    if table["n"].sum() == 0:
        raise ValueError(
            "expected two networks with a layer whose weights are not zero in either, found none"
        )
    overall = float(table["overlap"].sum() / table["n"].sum())
    return SingularAlignment(overall, table.drop(columns="n"), float(gamma), products)
