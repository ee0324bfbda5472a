"""How sure a mean over a few pairs of networks is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Interval", "interval"]


class Interval(NamedTuple):
    """A mean and the interval around it.

    Attributes:
        mean: the mean of the values.
        low: the lower end of the interval.
        high: the upper end of the interval.
    """

    mean: float
    low: float
    high: float


def interval(values: Iterable[float], level: float = 0.95) -> Interval:
    r"""The mean of independent values and Student's t-interval for it.

    With :math:`n` values of mean :math:`\bar x` and sample standard deviation
    :math:`s = \sqrt{\sum_i (x_i - \bar x)^2 / (n - 1)}` the interval is

    .. math::

        \bar x \pm t_{n-1}\!\left(\tfrac{1 + \text{level}}{2}\right)
        \frac{s}{\sqrt n},

    where :math:`t_{n-1}(q)` is the :math:`q`-quantile of Student's
    distribution with :math:`n - 1` degrees of freedom.  If the values are
    independent and normal, an interval so made covers the true mean in a
    share `level` of all repetitions.  It speaks of the mean, not of where the
    next value will lie.

    Args:
        values: at least two finite numbers.
        level: how often the interval should cover the mean, between 0 and 1.

    Returns:
        The mean and both ends.

    Raises:
        ValueError: if there are fewer than two values, one is not finite, or
            `level` is not between 0 and 1.

    Example:
        >>> [round(value, 3) for value in interval([1.0, 2.0, 3.0])]
        [2.0, -0.484, 4.484]
    """
    from scipy.stats import t

    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        raise ValueError(f"expected at least two values for an interval, found {len(numbers)}")
    if not all(map(math.isfinite, numbers)):
        bad = [value for value in numbers if not math.isfinite(value)]
        raise ValueError(f"expected finite values, found {bad[0]}")
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, found {level}")
    count = len(numbers)
    mean = math.fsum(numbers) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (count - 1))
    half = float(t.ppf((1 + level) / 2, count - 1)) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)
