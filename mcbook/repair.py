"""REPAIR (Jordan, Sedghi, Saukh, Entezari and Neyshabur 2023): give back the lost variance.

A unit of two networks responds to the images with some mean and standard deviation in each.  The
same unit of their average responds with less: where the two do not respond alike, the average of
their weights partly cancels, in every layer again, until almost nothing is left of the differences
between images (*variance collapse*).  REPAIR rescales and shifts every unit so that its mean and
standard deviation become the mixture of those at the ends.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from .corrections import Correction, correctable, fold_, unfoldable, unwrap_, wrap_
from .errors import expect
from .moments import Gauge, covariances, measure_
from .normalization import batch_norm_gauges
from .paths.base import Path

__all__ = ["Repair", "repair"]

Moments = tuple[Tensor, Tensor]
# below this share, a difference of two variances in float32 is rounding
_CANCELLED = 1e-5


def repair(
    path: Path,
    t: float,
    x: Tensor,
    closed_form: bool = False,
    fuse: bool = True,
    layers: Collection[str] | None = None,
    output: bool = True,
    batch_size: int | None = None,
) -> nn.Module:
    r"""The network at `t`, every unit given the mean and deviation that the ends' mixture has.

    For every output channel of every corrected layer, with :math:`\mu_A, \sigma_A, \mu_B,
    \sigma_B` its mean and standard deviation in A and in B over all images of `x` (and all
    positions), and :math:`m, v` its mean and variance in the network at `t`,

    .. math::

        \mu = (1 - t)\,\mu_A + t\,\mu_B, \qquad \sigma = (1 - t)\,\sigma_A + t\,\sigma_B, \qquad
        z' = \frac{\sigma}{\sqrt{v}}\,(z - m) + \mu .

    That is folded into the layer: :math:`W' = W \sigma / \sqrt{v}` and
    :math:`b' = \mu + (b - m)\,\sigma / \sqrt{v}`.  Labels play no part.

    *Measured*, :math:`m` and :math:`v` are those of the network at `t` itself with all earlier
    layers already corrected, over all images at once: afterwards mean and deviation on `x` *are*
    the targets, up to rounding, and the result does not depend on the batch size.  In *closed form*
    the network at `t` is not run at all.  Where a layer's inputs are the same in both networks,
    as in the first layer, its outputs are :math:`(1 - t) z_A + t z_B`, so that :math:`m = \mu` and

    .. math::

        v = (1 - t)^2 \sigma_A^2 + t^2 \sigma_B^2 + 2 t (1 - t)\,\rho\,\sigma_A \sigma_B

    with :math:`\rho` the correlation of the channel in A and in B; at the midpoint the factor
    :math:`\sigma / \sqrt{v}` is :math:`(\sigma_A + \sigma_B) / \sqrt{\sigma_A^2 + \sigma_B^2 + 2
    \rho \sigma_A \sigma_B}`.  Of later layers this is an approximation, the better the more
    alike the aligned networks' features are; in deep networks it can do harm.

    At `t = 0` and `t = 1` nothing is corrected: scales are 1 and shifts 0.

    Batch norm: a layer whose output goes straight into it is left as it is.  Re-estimating the
    statistics, as `reset_batch_norm` does, *is* its repair, because the interpolated weight and
    bias of the batch norm are the targets; it is done in the same pass, at both ends as well.
    Layer and group norm restore the scale of a whole layer only, not of each unit, so layers
    before them are corrected.  A unit that does not vary over `x` is shifted and keeps its scale.

    Where one might decide otherwise: the read-out is corrected too, as in the paper's perceptrons
    and unlike in its convolutional networks.  Without, logits keep a mean and a scale
    that neither end had; with it, a network that is still wrong between the ends is wrong with
    more confidence, so that a loss can rise where accuracy does too (`output=False`).  For residual
    networks the paper also corrects the outputs of blocks, which have no weights to fold into:
    name them in `layers`, with `fuse=False`.  Only what the forward pass calls as a module can be
    corrected; PyTorch's attention computes its projections itself.

    Source: Jordan et al. (2023), "REPAIR: REnormalizing Permuted Activations for Interpolation
    Repair".  They divide by :math:`\sqrt{v + \epsilon}`, which changes the ends as well, a little.

    Args:
        path: usually a straight line from A to an aligned B.
        t: where, in [0, 1].
        x: training images `[n, c, h, w]`, on the path's device; some thousands are enough.
        closed_form: whether to take `m` and `v` from the ends alone.
        fuse: fold every correction into the weights, so that the network has the layers it had
            (one without a bias gets one).  False keeps them as layers of their own, `Corrected`,
            whatever they follow; the names of tensors then differ.
        layers: names of the modules to correct (as in `named_modules`).  By default all linear
            and convolutional layers, but for those before batch or instance norm.
        output: whether the default includes the layer whose output is the network's.
        batch_size: how many images at once; by default what fits into memory.

    Returns:
        A new module in eval mode.

    Raises:
        TypeError: when `path` is not a Path, `x` not a tensor or `layers` a single name.
        UnknownNameError: for a layer that is not there.
        ValueError: for a `t` outside [0, 1], no images, or images or outputs that are not finite;
            for a layer that is called more than once in a forward pass, or (with `fuse`) has no
            plain weights of its own; for the closed form on a path that is not a straight line.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> middle = mc.repair(mc.LinearPath(a, b), 0.5, data.train.x)
    """
    expect(path, Path, "a path, such as LinearPath(a, b)")
    model, _ = Repair(path, x, closed_form, fuse, layers, output, batch_size).at(t)
    return model


class Repair:
    """`repair` for many points of one path: the ends are measured once.

    Args:
        path: see `repair`.
        x: see `repair`.
        closed_form: see `repair`.
        fuse: see `repair`; None folds what can be folded.
        layers: see `repair`.
        output: see `repair`.
        batch_size: see `repair`.
    """

    def __init__(
        self,
        path: Path,
        x: Tensor,
        closed_form: bool = False,
        fuse: bool | None = None,
        layers: Collection[str] | None = None,
        output: bool = True,
        batch_size: int | None = None,
    ):
        _check_images(x)
        self._path, self._x, self._batch_size = path, x, batch_size
        if closed_form and len(next(iter(path.control_points.values()))) != 2:
            raise ValueError(
                f"expected a straight line for the closed form, which mixes what both ends "
                f"compute, found a {path.kind} path; closed_form=False measures"
            )
        a, b = (path.model_at(t) for t in (0.0, 1.0))
        self._axes = correctable(a, x[:1], layers, output, bool(fuse))
        self._folded = [
            name for name in self._axes if fuse or (fuse is None and not unfoldable(a, name))
        ]
        gauges, self._ends = zip(*(self._measured_end(model) for model in (a, b)), strict=True)
        self._covariances: dict[int, Tensor] | None = None
        if closed_form:
            used = [i for i in range(len(gauges[0])) if i in self._ends[0]]
            pairs = [(gauges[0][i], gauges[1][i]) for i in used]
            means = [(self._ends[0][i][0], self._ends[1][i][0]) for i in used]
            found = covariances((a, b), pairs, means, x, batch_size)
            self._covariances = dict(zip(used, found, strict=True))

    def at(self, t: float) -> tuple[nn.Module, dict[str, Correction]]:
        """The corrected network at `t`, a new module in eval mode, and its corrections by layer."""
        model = self._path.model_at(t)
        names = list(model.state_dict())
        corrections, gauges = self._wrapped(model)
        start, end = self._ends
        first = len(gauges) - len(corrections)
        for i, correction in enumerate(corrections.values(), start=first):
            (mean_a, variance_a), (mean_b, variance_b) = start[i], end[i]
            correction.target = (
                torch.lerp(mean_a, mean_b, t),
                torch.lerp(variance_a.sqrt(), variance_b.sqrt(), t),
            )
        if self._covariances is None:
            measure_(model, gauges, self._x, self._batch_size)
        else:
            u, v = self._path.coefficients(t).tolist()
            for i, covariance in self._covariances.items():
                (mean_a, variance_a), (mean_b, variance_b) = start[i], end[i]
                apart = u * u * variance_a + v * v * variance_b
                variance = apart + 2 * u * v * covariance
                # where the ends cancel, only rounding is left
                variance = torch.where(variance > _CANCELLED * apart, variance, 0)
                gauges[i].store(torch.lerp(mean_a, mean_b, v), variance)
        for name in self._folded:
            fold_(unwrap_(model, name), corrections[name])
        if list(model.state_dict()) != names:
            vars(model).pop("architecture", None)  # it describes another network
        return model, corrections

    def _wrapped(self, model: nn.Module) -> tuple[dict[str, Correction], list[Gauge]]:
        """Put corrections into a network; all that is to be measured, batch norm first."""
        corrections = {name: Correction(name, axis) for name, axis in self._axes.items()}
        for name, correction in corrections.items():
            wrap_(model, name, correction)
        return corrections, [
            *batch_norm_gauges(model),
            *(correction.gauge for correction in corrections.values()),
        ]

    def _measured_end(self, model: nn.Module) -> tuple[list[Gauge], dict[int, Moments]]:
        """What is to be measured, and by number the mean and variance of what is used."""
        _, gauges = self._wrapped(model)
        kept: dict[int, Moments] = {}

        def keeping(i: int, gauge: Gauge) -> Gauge:
            def store(mean: Tensor, variance: Tensor) -> None:
                gauge.store(mean, variance)
                kept[i] = mean.double(), variance.double()

            return Gauge(gauge.layer, gauge.axis, store)

        measure_(model, [keeping(*pair) for pair in enumerate(gauges)], self._x, self._batch_size)
        return gauges, kept


def _check_images(x: Tensor) -> None:
    expect(x, Tensor, "training images [n, c, h, w], such as data.train.x")
    if len(x) == 0:
        raise ValueError("expected at least one image to measure statistics on, found none")
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(f"expected finite images, found {bad} NaN or infinite entries")
