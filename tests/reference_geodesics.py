"""Slow oracles of lengths, and models whose shortest paths are known in closed form.

Nothing here calls what it is compared with.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

# distances ----------------------------------------------------------------------------------


def categorical_distance(p: Sequence[float], q: Sequence[float]) -> float:
    """`2 arccos Σ √(p q)`: the angle between `√p` and `√q`, on a sphere of radius 2."""
    return 2 * math.acos(min(1.0, math.fsum(math.sqrt(x * y) for x, y in zip(p, q, strict=True))))


def bernoulli_distance(a: float, b: float) -> float:
    """`2 |arcsin √a - arcsin √b|`."""
    return 2 * abs(math.asin(math.sqrt(a)) - math.asin(math.sqrt(b)))


def gaussian_distance(m1: float, s1: float, m2: float, s2: float) -> float:
    """In the metric `(dμ² + 2 dσ²) / σ²`: a hyperbolic half plane of `μ / √2` and `σ`."""
    squares = (m1 - m2) ** 2 / 2 + (s1 - s2) ** 2
    return math.sqrt(2) * math.acosh(1 + squares / (2 * s1 * s2))


def table_distance(p: Sequence[Sequence[float]], q: Sequence[Sequence[float]]) -> float:
    """The root of the mean of the squared distances of the rows."""
    squares = [categorical_distance(x, y) ** 2 for x, y in zip(p, q, strict=True)]
    return math.sqrt(math.fsum(squares) / len(squares))


def great_circle(p: Sequence[float], q: Sequence[float], t: float) -> list[float]:
    """The distribution at `t` on the shortest way from `p` to `q`, at constant speed."""
    angle = categorical_distance(p, q) / 2
    u, v = (math.sin(s * angle) / math.sin(angle) for s in (1 - t, t))
    return [(u * math.sqrt(x) + v * math.sqrt(y)) ** 2 for x, y in zip(p, q, strict=True)]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    """`Σ p log(p / q)`, nats."""
    return math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def js(p: Sequence[float], q: Sequence[float]) -> float:
    """The Jensen-Shannon divergence, by its definition."""
    m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2


def js_series(p: Sequence[float], q: Sequence[float], terms: int = 200) -> float:
    """The same as `Σ_y m φ(u)`, `u = (q - p) / (p + q)`, `φ = Σ_k u^2k / (2k (2k - 1))`."""
    total = []
    for x, y in zip(p, q, strict=True):
        u = (y - x) / (x + y)
        phi = math.fsum(u ** (2 * k) / (2 * k * (2 * k - 1)) for k in range(1, terms + 1))
        total.append((x + y) / 2 * phi)
    return math.fsum(total)


# networks -----------------------------------------------------------------------------------


def said(model: nn.Module, weights: Mapping[str, Tensor] | None, x: Tensor) -> list[list[float]]:
    """`p(y | x)` of every image, one after the other, in float64 and eval mode."""
    model = copy.deepcopy(model).double().eval()
    if weights is not None:
        model.load_state_dict(dict(weights))
    rows = []
    with torch.no_grad():
        for image in x.double():
            z = model(image[None])[0].tolist()
            top = max(z)
            total = math.fsum(math.exp(v - top) for v in z)
            rows.append([math.exp(v - top) / total for v in z])
    return rows


def length(
    model: nn.Module, points: Sequence[Mapping[str, Tensor]], x: Tensor, step: Callable
) -> float:
    """`Σ_i √( E_x step(p_i, p_{i+1}) )` along weights, input by input."""
    total, before = [], said(model, points[0], x)
    for point in points[1:]:
        here = said(model, point, x)
        squares = [step(p, q) for p, q in zip(before, here, strict=True)]
        total.append(math.sqrt(math.fsum(squares) / len(squares)))
        before = here
    return math.fsum(total)


def fisher_matrix(model: nn.Module, x: Tensor) -> Tensor:
    """`G = E_x Σ_y p ∇ log p ∇ log pᵀ` of the parameters, from its definition; float64."""
    model = copy.deepcopy(model).double().eval()
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    total = torch.zeros(count, count, dtype=torch.float64)
    for image in x.double():
        lp = model(image[None])[0].log_softmax(0)
        for k in range(len(lp)):
            slopes = torch.autograd.grad(lp[k], parameters, retain_graph=True)
            g = torch.cat([s.flatten() for s in slopes])
            total += lp[k].detach().exp() * torch.outer(g, g)
    return total / len(x)


def speed(model: nn.Module, velocity: Mapping[str, Tensor], x: Tensor) -> float:
    """`√(vᵀ G v)`."""
    v = torch.cat([velocity[name].double().flatten() for name, _ in model.named_parameters()])
    return math.sqrt(float(v @ fisher_matrix(model, x) @ v))


# models with known shortest paths -----------------------------------------------------------


class Table(nn.Module):
    """Logits that are free for each input: a network that can do whatever it likes.

    With one row it is a softmax with biases alone.
    """

    def __init__(self, logits: Sequence[Sequence[float]] | Tensor):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float64).clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x.flatten().long()]


def rows(count: int) -> Tensor:
    """The inputs of a `Table`: which row, `[n, 1, 1, 1]`."""
    return torch.arange(count, dtype=torch.float64).reshape(-1, 1, 1, 1)


def coin(p: float) -> Table:
    """One distribution over two classes, the second of probability `p`."""
    return Table([[0.0, math.log(p / (1 - p))]])


class Gaussian(nn.Module):
    """A normal distribution, cut into many thin bins; its parameters are `μ` and `σ`."""

    def __init__(self, mu: float, sigma: float):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(mu, dtype=torch.float64))
        self.sigma = nn.Parameter(torch.tensor(sigma, dtype=torch.float64))
        bins = torch.linspace(-12, 12, 481, dtype=torch.float64)
        self.register_buffer("bins", bins, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        z = -(((self.bins - self.mu) / self.sigma) ** 2) / 2
        return z.expand(len(x), -1)
