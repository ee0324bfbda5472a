"""Slow oracles of what is measured on planes, layer by layer, and of several networks at once.

As in `reference.py`, nothing here is fast, and nothing here calls what it is compared with.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from tests import reference

# planes -------------------------------------------------------------------------------------


def parameters(model: nn.Module) -> np.ndarray:
    """All parameters as one vector, float64; one that is used twice is there once."""
    return np.array(reference.entries(dict(model.named_parameters())))


def coordinates(a: nn.Module, b: nn.Module, c: nn.Module, p: nn.Module) -> tuple[float, ...]:
    """`(x, y, distance off the plane)` of P, by Gram and Schmidt on whole vectors."""
    origin = parameters(a)
    first = parameters(b) - origin
    first = first / math.sqrt(first @ first)
    second = parameters(c) - origin
    second = second - (second @ first) * first
    second = second / math.sqrt(second @ second)
    apart = parameters(p) - origin
    x, y = apart @ first, apart @ second
    rest = apart - x * first - y * second
    return float(x), float(y), math.sqrt(rest @ rest)


def in_plane(
    a: nn.Module, b: nn.Module, c: nn.Module, x: float, y: float, reset_on: Tensor | None = None
) -> nn.Module:
    """The network at `(x, y)`: a new module, all floating-point tensors mixed in float64."""
    at_b, at_c = coordinates(a, b, c, b), coordinates(a, b, c, c)
    # x e_1 + y e_2 = beta (B - A) + gamma (C - A), two equations in two unknowns
    beta, gamma = np.linalg.solve(np.array([at_b[:2], at_c[:2]]).T, np.array([x, y]))
    model = copy.deepcopy(a).double()
    mixed: Mapping[str, Tensor] = {
        name: z + beta * (b.state_dict()[name] - z) + gamma * (c.state_dict()[name] - z)
        if z.is_floating_point()
        else z
        for name, z in model.state_dict().items()
    }
    model.load_state_dict(mixed)
    return model if reset_on is None else reference.batch_norm_statistics(model, reset_on)


# correlations -------------------------------------------------------------------------------


def signature(a: nn.Module, b: nn.Module, x: Tensor, layers: Sequence[str]) -> list[float]:
    """The mean correlation of what each of `layers` reads in A and in B, channel by channel."""
    stored = [
        {
            name: z.movedim(1, -1).flatten(0, -2).numpy()
            for name, z, _ in reference.calls(m, x, layers)
        }
        for m in (a, b)
    ]
    means = []
    for name in layers:
        found = []
        for u, v in zip(stored[0][name].T, stored[1][name].T, strict=True):
            varies = np.ptp(u) > 1e-9 and np.ptp(v) > 1e-9
            found.append(float(np.corrcoef(u, v)[0, 1]) if varies else 0.0)
        means.append(math.fsum(found) / len(found))
    return means


# the bound of a barrier ---------------------------------------------------------------------


def pre_activations(model: nn.Module, x: Tensor) -> list[np.ndarray]:
    """What every linear layer puts out for one image, float64."""
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return [z[0].numpy() for _, _, z in reference.calls(model, x[None], names)]


def errors_of_mixing(a: nn.Module, b: nn.Module, x: Tensor, t: float) -> tuple[list, list, list]:
    """Mean `d_l`, mean `e_l(t)` and the mean of its bound for slopes of 1, image by image."""
    middle = copy.deepcopy(a).double()
    middle.load_state_dict(reference.mixture(a.state_dict(), b.state_dict(), t))
    norms = [
        [np.linalg.svd(m.weight.detach().double().numpy())[1][0] for m in net.modules()
         if isinstance(m, nn.Linear)]
        for net in (a, b)
    ]  # fmt: skip
    apart, errors, bounds = [], [], []
    for image in x:
        of_a, of_b, between = (pre_activations(m, image) for m in (a, b, middle))
        d = [float(np.linalg.norm(p - q)) for p, q in zip(of_a, of_b, strict=True)]
        e = [
            float(np.linalg.norm(z - ((1 - t) * p + t * q)))
            for z, p, q in zip(between, of_a, of_b, strict=True)
        ]
        bound = [0.0]
        for i in range(1, len(d)):
            na, nb = norms[0][i], norms[1][i]
            grown = ((1 - t) * na + t * nb) * bound[-1]
            bound.append(grown + t * (1 - t) * (na + nb) * d[i - 1])
        apart.append(d)
        errors.append(e)
        bounds.append(bound)
    return tuple(np.mean(values, axis=0).tolist() for values in (apart, errors, bounds))


# ensembles ----------------------------------------------------------------------------------


def ensemble(models: Sequence[nn.Module], x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy of the mean probabilities, image by image."""
    doubles = [copy.deepcopy(m).double().eval() for m in models]
    losses, hits = [], 0
    for image, label in zip(x.double(), y.tolist(), strict=True):
        probabilities = []
        for model in doubles:
            powers = [math.exp(z) for z in model(image[None])[0].tolist()]
            probabilities.append([power / math.fsum(powers) for power in powers])
        mean = [math.fsum(column) / len(doubles) for column in zip(*probabilities, strict=True)]
        losses.append(-math.log(mean[label]))
        hits += mean.index(max(mean)) == label
    return math.fsum(losses) / len(losses), hits / len(losses)
