"""Layerwise linear feature connectivity: do the features mix as the weights do?

Zhou, Yang, Yang, Yan and Hu (2023), "Going Beyond Linear Mode Connectivity: The Layerwise Linear
Feature Connectivity", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from ..errors import expect
from ..normalized import Normalized, check_normalization
from ..paths.base import Path
from ..paths.linear import LinearPath
from ..progress import Bar
from .layer_matrices import check_pair
from .observing import batches_of, checked_alphas, checked_inputs, features_of, find_calls, observe
from .running import Ratio, Spread, dots

__all__ = ["feature_connectivity"]


def feature_connectivity(
    a: nn.Module | Path,
    b: nn.Module | None = None,
    x: Tensor | None = None,
    alphas: float | Sequence[float] = (0.25, 0.5, 0.75),
    layers: str | Iterable[str] | None = None,
    normalization: str | None = "none",
    statistics: Tensor | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Compare the features of a network between A and B with the mixture of A's and B's features.

    For a layer, a sample :math:`x_i` and :math:`\alpha` (the weight of B), with :math:`f(\theta)`
    the layer's output flattened to a vector and :math:`\theta_\alpha = (1 - \alpha)\,\theta_A +
    \alpha\,\theta_B`,

    .. math::

        f_\alpha = f(\theta_\alpha; x_i), \qquad
        \bar f = (1 - \alpha)\, f(\theta_A; x_i) + \alpha\, f(\theta_B; x_i),

    .. math::

        \cos = \frac{\langle f_\alpha, \bar f \rangle}
        {\lVert f_\alpha \rVert \lVert \bar f \rVert}, \qquad
        \text{coef} = \frac{\langle f_\alpha, \bar f \rangle}{\lVert \bar f \rVert^2} .

    The two networks are *layerwise linearly feature connected* if :math:`c\, f_\alpha = \bar f`
    with some :math:`c > 0` in every layer for every :math:`\alpha` (definition 2 of Zhou et al.): a
    cosine of 1.  The coefficient is :math:`1 / c`.  The baseline is the cosine of the ends' own
    features, :math:`f(\theta_A; x_i)` with :math:`f(\theta_B; x_i)`.

    Samples are streamed: batch after batch goes through A, B and all networks between, and only
    sums are kept, so that the memory does not grow with the number of samples.  Networks run in
    their own precision; products are summed in float64.

    A vector that is zero has no direction.  Where the network's features, or the mixture (up to
    rounding), are zero, the sample is left out of cosine and coefficient and counted.

    Args:
        a: the network A, any module; or a Path, whose ends are then A and B and whose network at
            :math:`t = \alpha` takes the place of :math:`\theta_\alpha`.
        b: the network B, of the same architecture; None beside a Path.
        x: the inputs, `[n, ...]`, samples along the first axis.
        alphas: the weights of B, in [0, 1].
        layers: names of modules, as in `named_modules`.  By default every linear layer,
            convolution and activation that is a module.  A module that is called several times in
            a forward pass appears call by call, `relu:1`, `relu:2`; by its bare name it is refused.
        normalization: `none` takes the networks as they are (as the paper does), batch-norm
            statistics interpolated like weights; `reset` measures them anew in all networks, the
            ends too; `repair` also corrects every unit (see `mcbook.repair`).  None is `reset`
            where there is batch norm and `none` elsewhere.
        statistics: the images that `reset` and `repair` measure on, usually training images; `x`
            by default.
        batch_size: how many samples at once; by default what fits into some hundred megabytes.
            The results do not depend on it, up to rounding.
        progress: whether to show a bar.

    Returns:
        A row for each layer, in the order of the forward pass, and each alpha: `layer`; `kind`
        (`linear`, `activation` or `other`); `alpha`; `cos`, its mean over samples, and `cos_std`,
        the standard deviation; `cos_abs`, the mean of its absolute value (what the paper's code
        takes); `cos_data`, the cosine of the whole `[n, d]` matrices; `cos_ends`, `cos_ends_std`,
        `cos_ends_data`, the same of the ends; `coef`, `coef_std`, `coef_data`; `samples`, how many
        were measured; `zeros` and `zeros_ends`, how many of them were left out of the means.

    Raises:
        TypeError: for arguments that are no modules, path or tensor, and for a layer whose output
            is not one tensor (name one inside or after it).
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for a layer or normalization that is not there; offers the close ones.
        ValueError: for no or non-finite inputs or weights, an alpha outside [0, 1], a layer that
            is not called or called several times, features without a sample axis, or features that
            are not finite.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> table = mc.feature_connectivity(a, b, data.test.x, alphas=(0, 1))
        >>> bool((abs(table["cos"] - 1) < 1e-12).all())
        True
    """
    path, x = _path_and_inputs(a, b, x)
    alphas = checked_alphas(alphas)
    template = path.model_at(0.0)
    x = checked_inputs(template, x)
    normalization = check_normalization(normalization, template)
    images = x if statistics is None else checked_inputs(template, statistics)
    calls = find_calls(template, x, layers, ("linear", "activation"))
    along = Normalized(path, normalization, images)
    start, end = along.at(0.0)[0], along.at(1.0)[0]
    between = [along.at(alpha)[0] for alpha in alphas]

    found = [[_Connection(alpha) for alpha in alphas] for _ in calls]
    batches = batches_of(x, calls, batch_size)
    with Bar(len(batches), "features", progress) as bar:
        for batch in batches:
            ends = [Ends(features) for features in features_of(start, calls, batch)]
            for i, features in enumerate(features_of(end, calls, batch)):
                ends[i].meet(features, calls[i].name)
            for column, model in enumerate(between):

                def see(i: int, _: Tensor, z: Tensor, column: int = column) -> None:
                    found[i][column].add(z.flatten(1).double(), ends[i])  # noqa: B023

                observe(model, calls, batch, see)
            bar.advance()
    return pd.DataFrame(
        {"layer": call.name, "kind": call.kind, **connection.row(call.name)}
        for call, connections in zip(calls, found, strict=True)
        for connection in connections
    )


class Ends:
    """One layer's features of A and B on a batch, float64 `[n, d]`, and their products, `[n]`."""

    def __init__(self, a: Tensor):
        self.eps = torch.finfo(a.dtype).eps
        self.a = a.double()

    def meet(self, b: Tensor, layer: str) -> None:
        """Add the features of B.

        Raises:
            ValueError: when a feature is not finite.
        """
        self.b = b.double()
        self.aa, self.bb = dots(self.a, self.a), dots(self.b, self.b)
        self.ab = dots(self.a, self.b)
        if not torch.isfinite(self.aa + self.bb).all():
            raise ValueError(f"expected finite features of {layer}, found NaN or infinite ones")

    def mixture(self, alpha: float) -> Tensor:
        """`(1 - alpha) f(A) + alpha f(B)`, float64 `[n, d]`."""
        return torch.lerp(self.a, self.b, alpha)

    def vanishes(self, squares: Tensor, alpha: float) -> Tensor:
        """Where a mixture with these squared lengths is zero up to rounding of the features."""
        lengths = (1 - alpha) * self.aa.sqrt() + alpha * self.bb.sqrt()
        return squares <= (8 * self.eps * lengths).square()


class _Connection:
    """What is known of one layer at one alpha."""

    def __init__(self, alpha: float):
        self.alpha = alpha
        self.cos, self.cos_abs, self.coef, self.ends = Spread(), Spread(), Spread(), Spread()
        self.whole = Ratio()

    def add(self, m: Tensor, ends: Ends) -> None:
        """See the network's features of a batch, float64 `[n, d]`."""
        t = ends.mixture(self.alpha)
        mm, tt, mt = dots(m, m), dots(t, t), dots(m, t)
        valid = (mm > 0) & ~ends.vanishes(tt, self.alpha)
        cos = mt / (mm * tt).sqrt()
        self.cos.add(cos, valid)
        self.cos_abs.add(cos.abs(), valid)
        self.coef.add(mt / tt, valid)
        self.ends.add(ends.ab / (ends.aa * ends.bb).sqrt(), (ends.aa > 0) & (ends.bb > 0))
        self.whole.add(mm=mm, tt=tt, mt=mt, aa=ends.aa, bb=ends.bb, ab=ends.ab)

    def row(self, layer: str) -> dict[str, float]:
        """The columns of the table."""
        self.whole.check_finite(layer)
        return {
            "alpha": self.alpha,
            "cos": self.cos.mean,
            "cos_std": self.cos.std,
            "cos_abs": self.cos_abs.mean,
            "cos_data": self.whole.over_norms("mt", "mm", "tt"),
            "cos_ends": self.ends.mean,
            "cos_ends_std": self.ends.std,
            "cos_ends_data": self.whole.over_norms("ab", "aa", "bb"),
            "coef": self.coef.mean,
            "coef_std": self.coef.std,
            "coef_data": self.whole.over("mt", "tt"),
            "samples": self.cos.count + self.cos.left_out,
            "zeros": self.cos.left_out,
            "zeros_ends": self.ends.left_out,
        }


def _path_and_inputs(
    a: nn.Module | Path, b: nn.Module | None, x: Tensor | None
) -> tuple[Path, Tensor]:
    if isinstance(a, Path):
        if isinstance(b, Tensor) and x is None:
            b, x = None, b  # feature_connectivity(path, x)
        if b is not None:
            raise TypeError(
                f"expected no second network beside a path, which has both ends, found "
                f"{type(b).__name__} (inputs and alphas go by name: x=, alphas=)"
            )
        path = a
    else:
        expect(a, nn.Module, "a torch.nn.Module or a Path as A")
        expect(b, nn.Module, "a torch.nn.Module as B")
        assert isinstance(b, nn.Module)
        check_pair(a, b)
        path = LinearPath(a, b)
    if x is None:
        raise TypeError("expected inputs as x, such as data.test.x, found none")
    return path, x
