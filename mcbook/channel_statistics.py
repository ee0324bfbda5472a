"""Mean and variance of the channels of one tensor, and of several together.

What PyTorch has is either slow (`torch.var_mean`: three times the time, or more, of
`torch.batch_norm_update_stats`) or, where a channel's values do not lie side by side, adds them all
up in single precision.  Here the fast one sums runs of at most `_RUN` values; those are merged in
double precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Moments", "mean_and_variance", "pooled"]

#: how many values, their mean and their variance, `[c]` each
Moments = tuple[int, Tensor, Tensor]

# values of a channel that are summed in single precision
_RUN = 128
# a mean so many deviations from 0 costs single precision digits
_FAR = 10.0


def mean_and_variance(z: Tensor, axis: int) -> Moments:
    """Mean and variance of every channel over all other axes.

    Args:
        z: any floating-point tensor with at least one value a channel.
        axis: the channels'.

    Returns:
        How many values a channel has, `mean = E[z]` and `var = E[(z - mean)²]`; on the CPU in
        float64, elsewhere in the precision of `z`, but float32 for less.  From float32 the errors
        are some 1e-6 of the deviation and of the variance.
    """
    axis %= z.ndim
    count = z.numel() // z.shape[axis]
    if z.device.type != "cpu" or z.dtype == torch.float64:
        return count, *_two_passes(z if z.dtype == torch.float64 else z.float(), axis)
    rows = z.movedim(axis, -1)
    if rows.is_contiguous():
        _, mean, variance = _of_rows(rows.reshape(count, -1))
    elif axis == 1 and z.is_contiguous():  # the kernel then sums in double precision
        mean, variance = _summed(z.float())
    else:
        return count, *_two_passes(z.double(), axis)
    far = mean.square() > _FAR**2 * variance
    if bool(far.any()):
        mean[far], variance[far] = _two_passes(z.movedim(axis, 0)[far].double(), 0)
    return count, mean, variance


def pooled(parts: list[Moments]) -> Moments:
    """The moments of all values together (Chan, Golub and LeVeque 1983).

    With `n_i, m_i, v_i` those of the parts and `n = Σ_i n_i`,

        mean = Σ_i n_i m_i / n,    var = Σ_i n_i (v_i + (m_i - mean)²) / n.

    Args:
        parts: at least one.

    Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance: analysis and
    recommendations".
    """
    if len(parts) == 1:
        return parts[0]
    count = sum(n for n, _, _ in parts)
    means = torch.stack([mean for _, mean, _ in parts]).double()
    variances = torch.stack([variance for _, _, variance in parts]).double()
    shares = [n / count for n, _, _ in parts]
    share = torch.tensor(shares, dtype=torch.float64, device=means.device).unsqueeze(1)
    mean = (share * means).sum(0)
    return count, mean, (share * (variances + (means - mean).square())).sum(0)


def _two_passes(z: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and variance as PyTorch computes them."""
    if z.ndim == 1:
        return z, torch.zeros_like(z)
    others = [i for i in range(z.ndim) if i != axis]
    variance, mean = torch.var_mean(z, dim=others, correction=0)
    return mean, variance


def _of_rows(rows: Tensor) -> Moments:
    """The moments of the columns of `[n, c]`, contiguous, float32 or less."""
    n, c = rows.shape
    runs = n // _RUN
    parts: list[Moments] = []
    if runs:
        # as [_RUN, runs * c], every channel of every run is a channel by itself
        mean, variance = (x.view(runs, c) for x in _summed(rows[: _RUN * runs].view(_RUN, -1)))
        together = mean.mean(0)
        parts.append((_RUN * runs, together, (variance + (mean - together).square()).mean(0)))
    if n > _RUN * runs:
        parts.append((n - _RUN * runs, *_summed(rows[_RUN * runs :])))
    return pooled(parts)


def _summed(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance along axis 1 by the kernel of batch norm, summed in float32 or better."""
    running: tuple[Tensor | None, Tensor | None] = (None, None)
    if z.dtype != torch.float32:
        # it gives back what these have; they are not used, and it changes them
        running = (torch.zeros(z.shape[1]), torch.ones(z.shape[1]))
    mean, variance = torch.batch_norm_update_stats(z, *running, 0.0)
    return mean.double(), variance.double()
