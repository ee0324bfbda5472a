"""Mean and spread over samples that come in batches and are not kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Ratio", "Spread", "dots"]


def dots(x: Tensor, y: Tensor) -> Tensor:
    """The inner product of every row of `x` with that of `y`, `[n]`; both `[n, d]`."""
    return torch.linalg.vecdot(x, y)


class Spread:
    """Mean and standard deviation of the numbers seen so far, in float64.

    Batches are merged by the formula of Chan, Golub and LeVeque (1983), which does not cancel as
    the difference of two sums would.

    Attributes:
        count: how many numbers were seen.
        left_out: how many were left out.
    """

    def __init__(self) -> None:
        self.count = self.left_out = 0
        self._mean = self._squares = 0.0

    def add(self, values: Tensor, valid: Tensor | None = None) -> None:
        """See a batch of numbers, `[n]`; only those that are `valid` count."""
        if valid is not None:
            kept = values[valid]
            self.left_out += len(values) - len(kept)
            values = kept
        n = len(values)
        if n == 0:
            return
        values = values.double()
        mean = float(values.mean())
        squares = float((values - mean).square().sum())
        apart, total = mean - self._mean, self.count + n
        self._mean += apart * n / total
        self._squares += squares + apart**2 * self.count * n / total
        self.count = total

    @property
    def mean(self) -> float:
        """The mean, NaN if nothing was seen."""
        return self._mean if self.count else math.nan

    @property
    def std(self) -> float:
        """The standard deviation, `sqrt(Σ (x - mean)² / (n - 1))`; NaN below two numbers."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else math.nan


class Ratio:
    """Sums over all samples, and the quotients that are made of them.

    Attributes:
        sums: by name, float64.
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}

    def add(self, **values: Tensor) -> None:
        """Add the sum of each tensor to the sum of that name."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.double().sum())

    def check_finite(self, layer: str) -> None:
        """Refuse sums that are not finite.

        Raises:
            ValueError: naming the layer.
        """
        if not all(map(math.isfinite, self.sums.values())):
            raise ValueError(f"expected finite features of {layer}, found NaN or infinite ones")

    def over_norms(self, top: str, one: str, other: str) -> float:
        """`top / sqrt(one · other)`, NaN where that is nothing by nothing."""
        below = math.sqrt(self.sums[one] * self.sums[other])
        return self.sums[top] / below if below > 0 else math.nan

    def over(self, top: str, below: str) -> float:
        """`top / below`, NaN where `below` is zero."""
        return self.sums[top] / self.sums[below] if self.sums[below] > 0 else math.nan
