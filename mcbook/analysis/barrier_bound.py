r"""An upper bound of the barrier between two perceptrons, from how far apart their layers are.

Take two multi-layer perceptrons A and B with pre-activations :math:`Z_{l+1} = W_{l+1} s(Z_l) +
b_{l+1}`, an activation :math:`s` of Lipschitz constant :math:`L_s` (1 for ReLU), and the network at
:math:`t` on the straight line between them.  For an image :math:`x` let

.. math::

    \bar Z_l^t = (1 - t) Z_l^A + t Z_l^B, \qquad
    e_l(t) = \lVert Z_l^t - \bar Z_l^t \rVert, \qquad
    d_l = \lVert Z_l^A - Z_l^B \rVert .

The first layer is linear in its weights, so that :math:`e_1 = 0`.  From one layer to the next,

.. math::

    Z_{l+1}^t - \bar Z_{l+1}^t = (1 - t)\, W_{l+1}^A [s(Z_l^t) - s(Z_l^A)]
    + t\, W_{l+1}^B [s(Z_l^t) - s(Z_l^B)] ,

where the biases have dropped out.  By the triangle inequality
:math:`\lVert Z_l^t - Z_l^A \rVert \le e_l + t\, d_l` and
:math:`\lVert Z_l^t - Z_l^B \rVert \le e_l + (1 - t)\, d_l`; with spectral norms
:math:`a = \lVert W_{l+1}^A \rVert` and :math:`b = \lVert W_{l+1}^B \rVert` therefore

.. math::

    e_{l+1} \le L_s \big\{ [(1 - t)\, a + t\, b]\, e_l + t (1 - t) (a + b)\, d_l \big\} .

At the output :math:`\bar Z` is the mixture of the two networks' logits.  The cross-entropy is
convex in the logits, so that its mean at :math:`\bar Z^t` is not above the chord; and
:math:`\sqrt 2`-Lipschitz, since its gradient is the softmax minus a unit vector.  So on any images
with any labels

.. math::

    L(t) - [(1 - t) L(0) + t L(1)] \;\le\; \sqrt 2\, \operatorname{E}_x e_{out}(t) ,

and the barrier is at most :math:`\sqrt 2 \max_t \operatorname{E}_x e_{out}(t)`, whether
:math:`e_{out}` is measured (`sharp`) or bounded by the recursion (`bound`).  With one hidden layer
the latter is :math:`\tfrac{\sqrt 2}{4} L_s (\lVert W^A \rVert + \lVert W^B \rVert)
\operatorname{E} d_1`.

Permuting hidden units of B changes no spectral norm: an alignment enters through the :math:`d_l`
alone, and each layer's permutation through its own.  That is the idea of theorem 3.1 of Tatro,
Chen, Das, Melnyk, Sattigeri and Lai (2020), "Optimizing mode connectivity via neuron alignment".
This is a self-contained version, not theirs.  It says nothing of curves, of accuracy, of networks
with normalisation, convolutions or shortcuts, and nothing of how near the barrier comes to it: of
two alignments the one with the lower bound may have the higher barrier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.polynomial import Polynomial
from torch import Tensor, nn

from .. import weights
from ..errors import IncompatibleError
from ..evaluation import evaluating
from ..models.layers import Standardize
from ..paths.linear import LinearPath
from ..symmetry.examples import copied
from .layer_matrices import check_pair
from .observing import checked_inputs

__all__ = ["BarrierBound", "barrier_bound"]

_EXPECTED = (
    "expected a multi-layer perceptron: an nn.Sequential of at most a Standardize and a Flatten, "
    "then Linear layers with activations of a known Lipschitz constant between them"
)
_BEFORE = (Standardize, nn.Flatten)
_WITHOUT_EFFECT = (nn.Identity, nn.Dropout)
# the largest absolute slope, or a little more (SiLU); GELU's is at the square root of 2
_SLOPES: dict[type[nn.Module], float] = {
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.Hardtanh: 1.0,
    nn.Tanh: 1.0,
    nn.Tanhshrink: 1.0,
    nn.Softplus: 1.0,
    nn.Softsign: 1.0,
    nn.LogSigmoid: 1.0,
    nn.CELU: 1.0,
    nn.Sigmoid: 0.25,
    nn.SiLU: 1.1,
    nn.GELU: 0.5 * (1 + math.erf(1.0)) + math.exp(-1.0) / math.sqrt(math.pi),
}


@dataclass(frozen=True, eq=False)
class BarrierBound:
    """What bounds the barrier of the cross-entropy between two perceptrons, in nats.

    Attributes:
        bound: by the recursion, for every `t` in [0, 1].
        at: the `t` where it is largest.
        sharp: with the errors of the logits as they are, for the `t` that were measured.
        sharp_at: the `t` where that is largest.
        table: a row for each linear layer, in forward order: `layer`; `norm_a` and `norm_b`, the
            spectral norms of its weights; `mismatch`, the mean of `d_l` over images; and at the `t`
            of `at` `error`, the mean of `e_l`, and `error_bound`, what the recursion allows: where
            they part is where the bound is loose.
        along: a row for each `t`: `t`, `bound` and `sharp` there.
    """

    bound: float
    at: float
    sharp: float
    sharp_at: float
    table: pd.DataFrame
    along: pd.DataFrame

    def __repr__(self) -> str:
        """Both bounds."""
        return (
            f"BarrierBound(barrier at most {self.bound:.4g} nats by the recursion, "
            f"{self.sharp:.4g} by the measured errors of the logits)"
        )


def barrier_bound(
    a: nn.Module, b: nn.Module, x: Tensor, points: int = 21, batch_size: int = 2048
) -> BarrierBound:
    """Bound the barrier of the cross-entropy on the straight line between two perceptrons.

    See the module's text for the theorem and its proof.  No labels are needed: it holds for any.
    All is computed in float64.

    Args:
        a: an `nn.Sequential` of at most a Standardize and a Flatten, then Linear layers with
            activations between them: ReLU, tanh and others whose slope is bounded.
        b: another of the same architecture, aligned beforehand or not.
        x: the images, `[n, ...]`; the barrier that is bounded is the one on these.
        points: of the uniform grid on [0, 1] on which `sharp` and `along` are measured.
        batch_size: how many images at once; the result does not depend on it, up to rounding.

    Returns:
        The bounds.

    Raises:
        TypeError: when a network is no module or `x` no tensor.
        IncompatibleError: for another kind of network, naming the module that does not fit; or for
            networks that are not of one architecture or do not standardise alike.
        ValueError: for fewer than 3 points, no images, or numbers that are not finite.

    Example:
        >>> import mcbook as mc
        >>> from mcbook.analysis.barrier_bound import barrier_bound
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, width=(8, 8), seed=s) for s in (0, 1))
        >>> found = barrier_bound(a, b, data.test.x)
        >>> found.bound >= found.sharp
        True
    """
    check_pair(a, b)
    if points < 3:
        raise ValueError(f"expected at least 3 points, found {points}")
    a, b = (copied(model).double() for model in (a, b))
    layers, slopes = _read(a)
    _check_alike(a, b)
    x = checked_inputs(a, x)
    path = LinearPath(a, b)
    of_a, of_b = (_pre_activations(m, x, batch_size) for m in (a, b))
    norms = [
        [float(torch.linalg.matrix_norm(weights.of(m)[f"{name}.weight"], 2)) for name in layers]
        for m in (a, b)
    ]
    mismatch = [_mean_norm(p - q.to(p)) for p, q in zip(of_a, of_b, strict=True)]

    bounds = _recursion(mismatch, norms, slopes)
    grid = np.linspace(0, 1, points)
    at = _highest(bounds[-1], grid)

    def errors(t: float) -> list[float]:
        found = _pre_activations(path.model_at(t), x, batch_size)
        every = zip(found, of_a, of_b, strict=True)
        return [_mean_norm(z - torch.lerp(p, q.to(p), t)) for z, p, q in every]

    rows = [
        {"t": t, "bound": math.sqrt(2) * bounds[-1](t), "sharp": math.sqrt(2) * errors(t)[-1]}
        for t in grid.tolist()
    ]
    along = pd.DataFrame(rows)
    table = pd.DataFrame(
        {
            "layer": layers,
            "norm_a": norms[0],
            "norm_b": norms[1],
            "mismatch": mismatch,
            "error": errors(at),
            "error_bound": [float(e(at)) for e in bounds],
        }
    )
    worst = along.loc[along["sharp"].idxmax()]
    return BarrierBound(
        math.sqrt(2) * float(bounds[-1](at)),
        at,
        float(worst["sharp"]),
        float(worst["t"]),
        table,
        along,
    )


def _recursion(
    mismatch: Sequence[float], norms: Sequence[Sequence[float]], slopes: Sequence[float]
) -> list[Polynomial]:
    """The bounds of the mean errors of all layers, as polynomials in `t`.

    The recursion is linear in the `e_l` and `d_l`, so that it holds for means over images.
    """
    t = Polynomial([0.0, 1.0])
    bounds = [Polynomial([0.0])]
    for d, slope, a, b in zip(mismatch, slopes, norms[0][1:], norms[1][1:], strict=False):
        bounds.append(slope * (((1 - t) * a + t * b) * bounds[-1] + t * (1 - t) * ((a + b) * d)))
    return bounds


def _highest(bound: Polynomial, grid: np.ndarray) -> float:
    """Where on [0, 1] a polynomial is highest: where its slope is 0, or at an end."""
    roots = bound.deriv().roots()
    flat = roots.real[np.abs(roots.imag) < 1e-6]
    # the grid, too, should the roots be inexact; the middle, should it be 0 everywhere
    candidates = np.concatenate([[0.5], flat[(flat > 0) & (flat < 1)], grid])
    return float(candidates[np.argmax(bound(candidates))])


def _mean_norm(z: Tensor) -> float:
    return float(torch.linalg.vector_norm(z, dim=1).mean())


def _pre_activations(model: nn.Module, x: Tensor, batch_size: int) -> list[Tensor]:
    """The outputs of all linear layers, `[n, units]`."""
    parts: list[list[Tensor]] = []
    with evaluating(model):
        for batch in x.split(batch_size):
            z, found = batch, []
            for name, module in _steps(model):
                z = module(z)
                if isinstance(module, nn.Linear):
                    found.append(z.clone())  # an activation may work in place
                    if z.ndim != 2:
                        raise IncompatibleError(
                            f"expected vectors [n, units] after {name}, found shape "
                            f"{list(z.shape)}: flatten images first"
                        )
            parts.append(found)
    result = [torch.cat(own) for own in zip(*parts, strict=True)]
    if not all(bool(torch.isfinite(z).all()) for z in result):
        raise ValueError("expected finite pre-activations, found NaN or infinite ones")
    return result


def _read(model: nn.Module) -> tuple[list[str], list[float]]:
    """The names of the linear layers, and for each the Lipschitz constant of what follows it.

    Raises:
        IncompatibleError: naming the module that does not fit.
    """
    if not _is_stack(model):
        raise IncompatibleError(f"{_EXPECTED}; found a {type(model).__name__}")
    names: list[str] = []
    slopes: list[float] = []
    last = ""
    for name, module in _steps(model):
        if type(module) is nn.Linear:
            names.append(name)
            slopes.append(1.0)
        elif type(module) in _WITHOUT_EFFECT:
            continue
        elif (slope := _slope(module)) is not None and names:
            slopes[-1] *= slope
        elif not (type(module) in _BEFORE and not names):
            raise IncompatibleError(f"{_EXPECTED}; found {type(module).__name__} at {name!r}")
        last = name
    if not names or last != names[-1]:
        raise IncompatibleError(f"{_EXPECTED}, the last of them Linear; found {last!r} at the end")
    return names, slopes


def _slope(module: nn.Module) -> float | None:
    """The Lipschitz constant of an activation; None of something else."""
    if type(module) is nn.LeakyReLU:
        return max(1.0, abs(module.negative_slope))
    if type(module) is nn.ELU:
        return max(1.0, abs(module.alpha))
    if type(module) is nn.GELU and module.approximate != "none":
        return None
    return _SLOPES.get(type(module))


def _steps(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The modules in the order in which they run; Sequentials inside are opened."""
    steps: list[tuple[str, nn.Module]] = []
    for name, module in model._modules.items():  # one activation may stand in several places
        if module is not None:
            inside = _is_stack(module)
            steps += _steps(module, f"{prefix}{name}.") if inside else [(prefix + name, module)]
    return steps


def _is_stack(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _check_alike(a: nn.Module, b: nn.Module) -> None:
    """Refuse two perceptrons that do more than their linear layers differently."""
    if repr(a) != repr(b):
        raise IncompatibleError(f"expected two networks of one architecture, found {a!r} and {b!r}")
    buffers = dict(b.named_buffers())
    for name, tensor in a.named_buffers():
        if not torch.equal(tensor, buffers[name].to(tensor.device)):
            raise IncompatibleError(
                f"expected two networks that standardise alike, found another {name} in B: the "
                f"first layer of the line would not be linear"
            )
