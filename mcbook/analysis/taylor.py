r"""Second-order estimates of the loss on the line between two networks, from its ends.

If a line were short enough for the loss to be quadratic along it, three numbers at an end would
tell all of it.  With :math:`\mu = \theta_B - \theta_A`, the gradient :math:`g` and the Hessian
:math:`H` at A,

.. math::

    L(\theta_A + t \mu) \approx
    L(\theta_A) + t\, g^\top \mu + \tfrac{t^2}{2}\, \mu^\top H \mu,

and in the same way from B, with :math:`-\mu` and :math:`1 - t`.  Ito, Yamada and Kumagai (2025)
compare this with the loss itself: matched networks are not near in that sense.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .. import weights
from ..data import Data, Split
from ..errors import UnknownNameError, expect
from ..progress import Bar
from ..symmetry.examples import copied
from .layer_matrices import check_pair

__all__ = ["Expansion", "TaylorProfile", "taylor_profile"]

_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Expansion:
    """The loss along a direction, up to second order.

    Attributes:
        loss: the loss where it starts, `L`.
        slope: its first derivative along the direction, `gᵀ μ`.
        curvature: its second, `μᵀ H μ`.
    """

    loss: float
    slope: float
    curvature: float

    def at(self, s: float | np.ndarray) -> np.ndarray:
        """The estimate `L + s gᵀμ + s²/2 μᵀHμ` a share `s` of the direction away."""
        s = np.asarray(s, dtype=np.float64)
        return self.loss + s * self.slope + s**2 / 2 * self.curvature


@dataclass(frozen=True, repr=False, eq=False)
class TaylorProfile:
    """What the ends of a line say of the loss between them.

    Attributes:
        table: a row for each `t`: `t`; the estimates `from_a` and `from_b`; and `mean`, the two
            weighted by nearness, `(1 - t) from_a + t from_b`: exact at both ends, the plain mean in
            the middle.
        a: the expansion at A, towards B.
        b: that at B, towards A.
        split: the images: `train` or `test`.
        data_name: the data set.
    """

    table: pd.DataFrame
    a: Expansion
    b: Expansion
    split: str
    data_name: str

    def barrier(self) -> float:
        """The estimated barrier at the midpoint.

        The mean of both estimates at `t = 1/2` minus the mean of the losses at both ends,

            (gᵀ_A μ - gᵀ_B μ) / 4 + (μᵀ H_A μ + μᵀ H_B μ) / 16,

        in nats.  Compare it with the same of the loss, `L(1/2) - (L(0) + L(1)) / 2`, which like
        this may be negative; a profile's barrier is the highest excess on the whole line.
        """
        estimate = (self.a.at(0.5) + self.b.at(0.5)) / 2
        return float(estimate - (self.a.loss + self.b.loss) / 2)

    def __repr__(self) -> str:
        """Where, how many points, and the estimated barrier."""
        return (
            f"TaylorProfile({self.split} loss on {self.data_name}, {len(self.table)} points, "
            f"barrier at the midpoint {self.barrier():.3g})"
        )


def taylor_profile(
    a: nn.Module,
    b: nn.Module,
    data: Data,
    split: str = "test",
    points: int = 25,
    precision: str = "float64",
    batch_size: int = 100,
    progress: bool = True,
) -> TaylorProfile:
    """Estimate the loss on the straight line between two networks, up to second order at its ends.

    The derivatives are exact, by differentiating twice through all images of the split: no Hessian
    is formed, and nothing is sampled.  The networks are in eval mode.  As on a `LinearPath`,
    everything that is floating-point moves, batch-norm statistics with the weights: what is
    estimated is the loss that `profile(path, data, normalization="none")` measures.  (Without batch
    norm only parameters move.)  At the kinks of ReLU and max pooling there is no second derivative;
    almost no weights are at one, and the derivatives are those of the smooth piece around an end,
    so that kinks on the way are part of what the estimate misses.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, as it is: permuted by an alignment or not.
        data: what to measure on; brought to A's device if it is elsewhere.
        split: `train` or `test`.
        points: of the uniform grid on [0, 1].
        precision: what the networks compute in, `float64` or `float32`; sums are float64.
        batch_size: how many images at once; the result does not depend on it.  Two derivatives keep
            several times the memory of a training step.
        progress: whether to show a bar.

    Raises:
        TypeError: when a network is no module or `data` not a Data.
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for an unknown split or precision.
        ValueError: for fewer than 2 points, no images, weights that are not finite, or outputs that
            are no logits.
    """
    check_pair(a, b)
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    if points < 2:
        raise ValueError(f"expected at least 2 points, found {points}")
    if precision not in _PRECISIONS:
        raise UnknownNameError("precision", precision, _PRECISIONS)
    chosen = data.split(split)
    if len(chosen) == 0:
        raise ValueError(f"expected at least one {split} image, found none")
    dtype = _PRECISIONS[precision]
    with Bar(2 * math.ceil(len(chosen) / batch_size), "second derivatives", progress) as bar:
        forth, back = (
            _expand(start, end, chosen, dtype, batch_size, bar) for start, end in ((a, b), (b, a))
        )
    t = np.linspace(0, 1, points)
    from_a, from_b = forth.at(t), back.at(1 - t)
    table = pd.DataFrame(
        {"t": t, "from_a": from_a, "from_b": from_b, "mean": (1 - t) * from_a + t * from_b}
    )
    return TaylorProfile(table, forth, back, split, data.name)


def _expand(
    start: nn.Module, end: nn.Module, split: Split, dtype: torch.dtype, batch_size: int, bar: Bar
) -> Expansion:
    """The loss at `start` and its derivatives towards `end`."""
    model = copied(start).to(dtype).eval()
    model.requires_grad_(False)
    target, kept = weights.of(end), model.state_dict()
    here = {
        name: x
        for name, x in (*model.named_parameters(), *model.named_buffers())  # a tied weight once
        if name in kept and x.is_floating_point()
    }
    step = {name: target[name].to(x) - x for name, x in here.items()}
    first = next(iter(here.values()))
    totals = [0.0, 0.0, 0.0]
    # of the attention kernels only the plain one can be differentiated twice
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True):
            # L(θ + sμ) as a function of the number s: two derivatives at s = 0 are all it takes
            s = torch.zeros((), dtype=dtype, device=first.device, requires_grad=True)
            moved = {name: value + s * step[name] for name, value in here.items()}
            with _ByFormula():
                images = x.to(first) if x.is_floating_point() else x.to(first.device)
                logits = functional_call(model, moved, (images,))
            loss = _loss(logits, y.to(first.device))
            (slope,) = torch.autograd.grad(loss, s, create_graph=True)
            (curvature,) = torch.autograd.grad(slope, s)
            for i, value in enumerate((loss, slope, curvature)):
                totals[i] += float(value.detach())
            bar.advance()
    return Expansion(*(total / len(split) for total in totals))


class _ByFormula(TorchFunctionMode):
    """What PyTorch cannot differentiate twice, by its formula.

    Norms have no derivative in their running statistics, and weight norm's second derivative is
    wrong (in version 2.13 still): it takes the norm of the weight as a constant.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.batch_norm, F.instance_norm):
            return _normalized(func, *args, **kwargs)
        if func is torch._weight_norm:
            return _weight_normed(*args, **kwargs)
        return func(*args, **kwargs)


def _normalized(
    func: Callable,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    use_input_stats: bool = True,
) -> Tensor:
    """Batch or instance norm with the statistics that are stored, if that is what is asked for."""
    flag = "use_input_stats" if func is F.instance_norm else "training"
    # by position, instance norm's flag comes where batch norm's does
    measured = (func is F.instance_norm and use_input_stats) if training is None else training
    if measured or running_mean is None or running_var is None:
        return func(input, None, None, weight, bias, **{flag: True}, eps=eps)
    scale = torch.rsqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -scale * running_mean
    if bias is not None:
        shift = shift + bias
    shape = (1, -1, *[1] * (input.ndim - 2))
    return input * scale.reshape(shape) + shift.reshape(shape)


def _weight_normed(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`g v / |v|`, the norm over all axes but one."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    """The sum of the cross-entropies."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] <= int(y.max()):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"expected logits [{len(y)}, more than {int(y.max())} classes] from the network, "
            f"found {found}"
        )
    return F.cross_entropy(logits, y, reduction="sum")
