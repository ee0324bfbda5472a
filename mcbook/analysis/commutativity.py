"""Commutativity: may the features of two networks be exchanged between their layers?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..paths.linear import LinearPath
from ..progress import Bar
from .layer_matrices import CONVOLUTIONS, TRANSPOSED, check_pair
from .observing import batches_of, checked_inputs, find_calls, has_plain_forward, passed
from .running import Ratio, Spread, dots

__all__ = ["commutativity"]


def commutativity(
    a: nn.Module,
    b: nn.Module,
    x: Tensor,
    layers: str | Iterable[str] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    r"""How far the linear layers of two networks are from commuting with their features.

    With :math:`W_A, W_B` the weights of a layer and :math:`H_A, H_B` what it reads in A and in B,
    *commutativity* (definition 4 of Zhou et al. 2023) is

    .. math::

        L = W_A H_A + W_B H_B = W_A H_B + W_B H_A = R,
        \qquad\text{that is}\qquad
        L - R = (W_A - W_B)(H_A - H_B) = 0 .

    Biases play no part.  The product is what is computed: it does not cancel.  Distances are

    .. math::

        \operatorname{dist}(L, R) = \frac{\lVert L - R \rVert^2}{\lVert L \rVert \lVert R \rVert},

    over all samples, and over each.  :math:`L - R` is small when a factor is small, and when the
    two avoid each other.  `overlap` tells these apart: it is
    :math:`\lVert (W_A - W_B)(H_A - H_B) \rVert^2` over what it would be on average if the entries
    of :math:`W_A - W_B` were independent, of mean zero and of the same mean square.  (Ours.)  So
    an overlap of 1 says that only the sizes of the factors count, one of 0 that no direction in
    which the features differ is one that the weights treat differently.

    For A and :math:`\pi(B)` this is equation 9 of Zhou et al.: pass the aligned network as `b`.
    Samples are streamed, as in `feature_connectivity`.

    Args:
        a: the network A.
        b: the network B, of the same architecture.
        x: the inputs, `[n, ...]`.
        layers: names of linear layers or convolutions, or of single calls of them; by default all.
        batch_size: how many samples at once; the results do not depend on it, up to rounding.
        progress: whether to show a bar.

    Returns:
        A row for each layer in the order of the forward pass: `layer`; `dist`, of :math:`L` and
        :math:`R` over all samples; `dist_mean` and `dist_std` over samples; `dist_weights`, of
        :math:`W_A` and :math:`W_B`; `dist_features`, of :math:`H_A` and :math:`H_B`; `ratio`,
        `dist / (dist_weights · dist_features)`; `overlap`; `samples`, and `zeros`, how many of
        them were left out of the means because a side is zero.  Where something is nothing by
        nothing it is NaN: the ratio of a layer whose weights or inputs are equal, for instance.

    Raises:
        TypeError: see `feature_connectivity`; also for a layer that is neither linear nor a
            convolution, has a forward of its own, or is given more than its input.
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for a layer that is not there; offers the close ones.
        ValueError: see `feature_connectivity`.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> float(mc.commutativity(a, b, data.test.x)["dist"][0])  # both read the same images
        0.0
    """
    check_pair(a, b)
    path = LinearPath(a, b)
    start, end = path.model_at(0.0), path.model_at(1.0)
    x = checked_inputs(start, x)
    calls = find_calls(start, x, layers, ("linear",))
    for call in calls:
        module = start.get_submodule(call.module)
        if call.kind != "linear" or not has_plain_forward(module):
            own = " with a forward of its own" if call.kind == "linear" else ""
            raise TypeError(
                f"expected linear layers or convolutions as PyTorch has them, found that "
                f"{call.name!r} is a {type(module).__name__}{own}"
            )
    for model in (start, end):
        passed(model, calls, x[:2])  # weights that hooks compute are computed in a pass
    pairs = [tuple(m.get_submodule(call.module) for m in (start, end)) for call in calls]
    found = [_Commutativity(*pair) for pair in pairs]
    batches = batches_of(x, calls, batch_size, inputs=True)
    with Bar(len(batches), "commutativity", progress) as bar:
        for batch in batches:
            one, other = (passed(model, calls, batch) for model in (start, end))
            for i, layer in enumerate(found):
                layer.add(one.pop(i), other.pop(i))
            bar.advance()
    return pd.DataFrame(
        {"layer": call.name, **layer.row(call.name)}
        for call, layer in zip(calls, found, strict=True)
    )


class _Commutativity:
    """What is known of one layer."""

    def __init__(self, a: Any, b: Any):
        self.a, self.b = a, b
        self.change = a.weight.detach() - b.weight.detach()
        self.dist, self.whole = Spread(), Ratio()
        w_a, w_b = (layer.weight.detach().double() for layer in (a, b))
        self.weights = Ratio()
        self.weights.add(aa=w_a**2, bb=w_b**2, dd=(w_a - w_b) ** 2)

    def add(self, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
        """See a batch: what the layer reads and puts out in A and in B."""
        (h_a, out_a), (h_b, out_b) = one, other
        left = (_without_bias(self.a, out_a) + _without_bias(self.b, out_b)).flatten(1).double()
        apart = h_a - h_b
        change = _apply(self.a, self.change, apart).flatten(1).double()
        right = left - change
        ll, rr, dd = dots(left, left), dots(right, right), dots(change, change)
        norms = (ll * rr).sqrt()
        self.dist.add(dd / norms, norms > 0)
        self.whole.add(ll=ll, rr=rr, dd=dd)
        flat = [h.flatten(1).double() for h in (h_a, h_b, apart)]
        self.whole.add(aa=flat[0] ** 2, bb=flat[1] ** 2, hh=flat[2] ** 2)
        self.whole.add(reached=_reached(self.a, apart.double().square()))

    def row(self, layer: str) -> dict[str, float]:
        """The columns of the table."""
        self.whole.check_finite(layer)
        dist = self.whole.over_norms("dd", "ll", "rr")
        dist_weights = self.weights.over_norms("dd", "aa", "bb")
        dist_features = self.whole.over_norms("hh", "aa", "bb")
        product = dist_weights * dist_features
        chance = self.whole.sums["reached"] * self.weights.sums["dd"] / self.change.numel()
        return {
            "dist": dist,
            "dist_mean": self.dist.mean,
            "dist_std": self.dist.std,
            "dist_weights": dist_weights,
            "dist_features": dist_features,
            "ratio": dist / product if product > 0 else float("nan"),
            "overlap": self.whole.sums["dd"] / chance if chance > 0 else float("nan"),
            "samples": self.dist.count + self.dist.left_out,
            "zeros": self.dist.left_out,
        }


def _without_bias(layer: Any, out: Tensor) -> Tensor:
    if layer.bias is None:
        return out
    # behind the channels of a convolution come its positions
    return out - layer.bias.detach().view(-1, *[1] * len(getattr(layer, "kernel_size", ())))


def _apply(layer: Any, weight: Tensor, h: Tensor) -> Tensor:
    """The linear map of a layer with another weight, and no bias."""
    if isinstance(layer, CONVOLUTIONS):
        # a convolution with weight and bias of its own, padding of any mode included
        return layer._conv_forward(h, weight, None)
    if isinstance(layer, TRANSPOSED):
        transposed: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[
            len(layer.kernel_size) - 1
        ]
        return transposed(
            h,
            weight,
            None,
            layer.stride,
            layer.padding,
            layer.output_padding,
            layer.groups,
            layer.dilation,
        )
    return F.linear(h, weight)


def _reached(layer: Any, squares: Tensor) -> Tensor:
    """The sum, over outputs, of the squares of the inputs that an output reads."""
    groups = getattr(layer, "groups", 1)
    with torch.no_grad():
        if isinstance(layer, TRANSPOSED):
            inputs, outputs, *kernel = layer.weight.shape
            ones = squares.new_ones(inputs, 1, *kernel)
            return _apply(layer, ones, squares).sum() * outputs
        outputs, inputs, *kernel = layer.weight.shape
        ones = squares.new_ones(groups, inputs, *kernel)
        return _apply(layer, ones, squares).sum() * (outputs // groups)
