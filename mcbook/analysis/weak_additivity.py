"""Weak additivity: does a nonlinearity treat the mixture of two inputs as two?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from ..paths.linear import LinearPath
from ..progress import Bar
from .layer_matrices import check_pair
from .observing import batches_of, checked_alphas, checked_inputs, find_calls, passed
from .running import Ratio, Spread, dots

__all__ = ["weak_additivity"]


def weak_additivity(
    a: nn.Module,
    b: nn.Module,
    x: Tensor,
    alphas: float | Sequence[float] = 0.5,
    layers: str | Iterable[str] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    r"""How far the activations of two networks are from additive where the networks need it.

    With :math:`Z_A, Z_B` what an activation :math:`\phi` reads in A and in B,

    .. math::

        \phi\bigl((1 - \alpha) Z_A + \alpha Z_B\bigr) =
        (1 - \alpha)\,\phi(Z_A) + \alpha\,\phi(Z_B)

    is *weak additivity* (definition 3 of Zhou et al. 2023; for ReLU at :math:`\alpha = 1/2` the
    factors cancel, :math:`\phi(Z_A + Z_B) = \phi(Z_A) + \phi(Z_B)`).  For ReLU it holds at a
    unit exactly where both inputs have one sign, or one is zero.  Measured is the distance of the
    sides,

    .. math::

        \operatorname{dist}(L, R) = \frac{\lVert L - R \rVert^2}{\lVert L \rVert \lVert R \rVert},

    and their cosine.  Samples are streamed, as in `feature_connectivity`.

    Args:
        a: the network A.
        b: the network B, of the same architecture.
        x: the inputs, `[n, ...]`.
        alphas: the weights of B, in [0, 1].
        layers: names of modules, or of single calls of them; by default every activation that is
            a module.  Any module may be named: a norm, say.
        batch_size: how many samples at once; the results do not depend on it, up to rounding.
        progress: whether to show a bar.

    Returns:
        A row for each layer and alpha: `layer`, `kind`, `alpha`; `dist` of the whole `[n, d]`
        matrices; `dist_mean` and `dist_std` over samples; `cos` (mean over samples) and
        `cos_data`; `signs`, the share of inputs with one sign in both networks; `samples`, and
        `zeros`, how many of them were left out of the means because a side is zero.

    Raises:
        TypeError: see `feature_connectivity`; also for a layer that reads anything but one tensor.
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for a layer that is not there; offers the close ones.
        ValueError: see `feature_connectivity`.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a = mc.build_model("mlp", data, seed=0)
        >>> float(mc.weak_additivity(a, a, data.test.x)["dist"].max())
        0.0
    """
    check_pair(a, b)
    numbers = checked_alphas(alphas)
    path = LinearPath(a, b)
    start, end = path.model_at(0.0), path.model_at(1.0)
    between = [path.model_at(alpha) for alpha in numbers]
    x = checked_inputs(start, x)
    calls = find_calls(start, x, layers, ("activation",))
    found = [[_Additivity(alpha) for alpha in numbers] for _ in calls]
    for model in between:
        passed(model, calls, x[:2])  # weights that hooks compute are computed in a pass
    batches = batches_of(x, calls, batch_size, inputs=True)
    with Bar(len(batches), "weak additivity", progress) as bar:
        for batch in batches:
            one, other = (passed(model, calls, batch) for model in (start, end))
            for i, call in enumerate(calls):
                for column, model in enumerate(between):
                    module = model.get_submodule(call.module)
                    found[i][column].add(module, one[i], other[i])
                del one[i], other[i]
            bar.advance()
    return pd.DataFrame(
        {"layer": call.name, "kind": call.kind, **additivity.row(call.name)}
        for call, several in zip(calls, found, strict=True)
        for additivity in several
    )


class _Additivity:
    """What is known of one activation at one alpha."""

    def __init__(self, alpha: float):
        self.alpha = alpha
        self.dist, self.cos, self.signs = Spread(), Spread(), Spread()
        self.whole = Ratio()

    def add(self, module: nn.Module, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
        """See a batch: what the activation reads and puts out in A and in B."""
        (z_a, out_a), (z_b, out_b) = a, b
        with torch.no_grad():
            # forward, since hooks are for real passes; what it may overwrite is a tensor of its own
            mixed = module.forward(torch.lerp(z_a, z_b, self.alpha))
        left = torch.lerp(out_a, out_b, self.alpha).flatten(1).double()
        right = mixed.flatten(1).double()
        ll, rr, lr = dots(left, left), dots(right, right), dots(left, right)
        apart = left - right
        dd = dots(apart, apart)
        norms = (ll * rr).sqrt()
        self.dist.add(dd / norms, norms > 0)
        self.cos.add(lr / norms, norms > 0)
        self.signs.add((z_a.sign() == z_b.sign()).flatten(1).double().mean(1))
        self.whole.add(dd=dd, ll=ll, rr=rr, lr=lr)

    def row(self, layer: str) -> dict[str, float]:
        """The columns of the table."""
        self.whole.check_finite(layer)
        return {
            "alpha": self.alpha,
            "dist": self.whole.over_norms("dd", "ll", "rr"),
            "dist_mean": self.dist.mean,
            "dist_std": self.dist.std,
            "cos": self.cos.mean,
            "cos_data": self.whole.over_norms("lr", "ll", "rr"),
            "signs": self.signs.mean,
            "samples": self.dist.count + self.dist.left_out,
            "zeros": self.dist.left_out,
        }
