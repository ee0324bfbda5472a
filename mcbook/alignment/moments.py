"""Second moments of two networks' units on the same inputs, in one pass, centred all the way.

A co-moment computed as `E[x y] - E[x] E[y]` loses as many digits as the means are larger than the
deviations.  So each batch is centred by its own means, and batches are merged (Chan, Golub and
LeVeque, "Algorithms for computing the sample variance", 1983, formula 2.1; the same for
covariances): with `δ` the difference of the means of `n` old and `m` new rows,

    C ← C + C_new + δ_x δ_yᵀ n m / (n + m).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UnknownNameError

__all__ = ["COSTS", "Moments"]

COSTS = ("correlation", "dot", "distance")

# numbers that are brought to float64 at once: what a processor's cache holds; much on a GPU
_CHUNK = {"cpu": 2**18}
_LARGE_CHUNK = 2**24
# a standard deviation below this share of the root mean square is rounding in float32
_ROUNDING = 1e-6


class Moments:
    """The moments of the units of A and B over rows (images, and positions in them) seen so far.

    Attributes:
        count: how many rows.
        mean_a: `[n_a]`, float64.
        mean_b: `[n_b]`.
        squares_a: `Σ (x - mean)²`, `[n_a]`.
        squares_b: the same of B, `[n_b]`.
        products: `Σ (x - mean)(y - mean)ᵀ`, `[n_a, n_b]`.
    """

    def __init__(self) -> None:
        self.count = 0
        zero = torch.zeros(0, dtype=torch.float64)
        self.mean_a = self.mean_b = self.squares_a = self.squares_b = self.products = zero

    def add(self, x: Tensor, y: Tensor) -> None:
        """See more rows.

        Args:
            x: A's units, `[m, n_a]`, any floating-point type.
            y: B's units on the same rows, `[m, n_b]`, on any device.
        """
        chunk = _CHUNK.get(x.device.type, _LARGE_CHUNK)
        rows = max(1, chunk // max(x.shape[1], y.shape[1], 1))
        for one, other in zip(x.split(rows), y.split(rows), strict=True):
            self._add(one.double(), other.to(one.device).double())

    def _add(self, x: Tensor, y: Tensor) -> None:
        n, m = self.count, len(x)
        if m == 0:
            return
        mean_a, mean_b = x.mean(0), y.mean(0)
        x, y = x - mean_a, y - mean_b
        squares_a, squares_b, products = x.square().sum(0), y.square().sum(0), x.T @ y
        if n:
            to_a, to_b, weight = mean_a - self.mean_a, mean_b - self.mean_b, n * m / (n + m)
            squares_a += self.squares_a + to_a.square() * weight
            squares_b += self.squares_b + to_b.square() * weight
            products += self.products
            products.addr_(to_a, to_b, alpha=weight)
            mean_a = self.mean_a + to_a * (m / (n + m))
            mean_b = self.mean_b + to_b * (m / (n + m))
        self.count = n + m
        self.mean_a, self.mean_b, self.products = mean_a, mean_b, products
        self.squares_a, self.squares_b = squares_a, squares_b

    def similarity(self, cost: str) -> Tensor:
        """How alike every unit of A is to every unit of B, `[n_a, n_b]`, float64.

        | `cost` | entry |
        |---|---|
        | `correlation` | Pearson's, 0 where a unit has no variance (but for rounding) |
        | `dot` | `E[x y]`, not centred |
        | `distance` | `-E[(x - y)²] = 2 E[x y] - E[x²] - E[y²]` |

        Raises:
            UnknownNameError: for another cost.
        """
        if cost not in COSTS:
            raise UnknownNameError("cost", cost, COSTS)
        n = max(self.count, 1)
        if cost == "correlation":
            squares = (
                x.where(alive, torch.inf)
                for x, alive in zip((self.squares_a, self.squares_b), self.alive(), strict=True)
            )
            return self.products / torch.outer(*(x.sqrt() for x in squares))
        dot = torch.addr(self.products / n, self.mean_a, self.mean_b)
        if cost == "dot":
            return dot
        second_a, second_b = self._second_moments()
        return 2 * dot - second_a[:, None] - second_b

    def alive(self) -> tuple[Tensor, Tensor]:
        """Which units of A, and which of B, vary more than rounding makes them vary."""
        squares = (self.squares_a, self.squares_b)
        a, b = (
            x > _ROUNDING**2 * second * self.count
            for x, second in zip(squares, self._second_moments(), strict=True)
        )
        return a, b

    def _second_moments(self) -> tuple[Tensor, Tensor]:
        """`E[x²]` of A's and B's units."""
        n = max(self.count, 1)
        return self.squares_a / n + self.mean_a**2, self.squares_b / n + self.mean_b**2
