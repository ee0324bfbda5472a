"""Slow oracles: every quantity once more, written so that one sees it is right.

Nothing here is fast, and nothing here calls what it is compared with.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

Arrays = dict[str, np.ndarray]


# weights ------------------------------------------------------------------------------------


def entries(weights: Mapping[str, Tensor]) -> list[float]:
    """Every floating-point entry, one after the other."""
    return [
        float(value)
        for tensor in weights.values()
        if tensor.is_floating_point()
        for value in tensor.flatten().tolist()
    ]


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The sum of products, entry by entry."""
    return math.fsum(x * y for x, y in zip(entries(a), entries(b), strict=True))


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The root of the sum of squared differences, entry by entry."""
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(entries(a), entries(b), strict=True)))


def mixture(a: Mapping[str, Tensor], b: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    """`(1 - t) a + t b` in float64; integer tensors from A."""
    return {
        name: (1 - t) * x.double() + t * b[name].double() if x.is_floating_point() else x
        for name, x in a.items()
    }


# loss and accuracy --------------------------------------------------------------------------


def cross_entropy(logits: Sequence[float], label: int) -> float:
    """`-log softmax(logits)[label]` of one image."""
    top = max(logits)
    return math.log(math.fsum(math.exp(z - top) for z in logits)) + top - logits[label]


def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy: a double-precision copy in eval mode, image by image."""
    model = copy.deepcopy(model).double().eval()
    losses, hits = [], 0
    for image, label in zip(x.double(), y.tolist(), strict=True):
        with torch.no_grad():
            logits = model(image[None])[0].tolist()
        losses.append(cross_entropy(logits, label))
        hits += logits.index(max(logits)) == label
    return math.fsum(losses) / len(losses), hits / len(losses)


# batch norm ---------------------------------------------------------------------------------


def batch_norm_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """A double-precision copy whose batch-norm layers hold the statistics of their inputs.

    Layer after layer, in the order of `model.modules()` (which must be the order of the forward
    pass), each from a whole pass over all images.
    """
    model = copy.deepcopy(model).double().eval()
    for layer in model.modules():
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        inputs: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, args, kept=inputs: kept.append(args[0]))
        with torch.no_grad():
            model(x.double())
        handle.remove()
        (z,) = inputs
        for channel in range(z.shape[1]):
            values = z[:, channel].flatten().tolist()
            mean = math.fsum(values) / len(values)
            variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
            layer.running_mean[channel], layer.running_var[channel] = mean, variance
    return model


# profiles -----------------------------------------------------------------------------------


def profile(
    a: nn.Module, b: nn.Module, ts: Sequence[float], x: Tensor, y: Tensor, reset_on: Tensor | None
) -> list[tuple[float, float]]:
    """Loss and accuracy on the line, a new model for each `t`, image by image."""
    values = []
    for t in ts:
        model = copy.deepcopy(a).double()
        model.load_state_dict(mixture(a.state_dict(), b.state_dict(), t))
        if reset_on is not None:
            model = batch_norm_statistics(model, reset_on)
        values.append(evaluate(model, x, y))
    return values


def barrier(ts: Sequence[float], losses: Sequence[float]) -> float:
    """`max_t [L(t) - ((1 - t) L(0) + t L(1))]`, by its definition."""
    first, last = losses[0], losses[-1]
    worst = -math.inf
    for t, loss in zip(ts, losses, strict=True):
        worst = max(worst, loss - ((1 - t) * first + t * last))
    return worst


# augmentation -------------------------------------------------------------------------------


def crop(image: Tensor, dy: int, dx: int, flip: bool, padding: int) -> Tensor:
    """The window at `(dy, dx)` of the zero-padded image `[c, h, w]`, mirrored if `flip`."""
    c, h, w = image.shape
    window = torch.zeros(c, h, w)
    for channel in range(c):
        for row in range(h):
            for column in range(w):
                i, j = row + dy - padding, column + dx - padding
                if 0 <= i < h and 0 <= j < w:
                    target = w - 1 - column if flip else column
                    window[channel, row, target] = image[channel, i, j]
    return window


# training -----------------------------------------------------------------------------------


def learning_rate(schedule: str, lr: float, step: int, total: int) -> float:
    """The formulas of the three schedules."""
    s = step / total
    if schedule == "constant":
        return lr
    if schedule == "cosine":
        return 0.5 * lr * (1 + math.cos(math.pi * s))
    if s < 0.3:  # a half wave from lr / 25 up to lr ...
        low, share = lr / 25, s / 0.3
        return low + (lr - low) * math.sin(math.pi * share / 2) ** 2
    return lr * math.cos(math.pi * (s - 0.3) / 0.7 / 2) ** 2  # ... and one down to 0


def sgd(lr: float, momentum: float, decay: float) -> Callable[[Arrays, Arrays, dict], None]:
    """`v ← μ v + (g + λ w)`, `w ← w - lr v`."""

    def step(w: Arrays, g: Arrays, state: dict) -> None:
        for name in w:
            gradient = g[name] + decay * w[name]
            state[name] = momentum * state.get(name, 0.0) + gradient
            w[name] = w[name] - lr * state[name]

    return step


def adam(lr: float, decay: float, apart: bool) -> Callable[[Arrays, Arrays, dict], None]:
    """Adam with its usual constants; `apart` keeps the decay out of the gradient (AdamW)."""

    def step(w: Arrays, g: Arrays, state: dict) -> None:
        state["k"] = state.get("k", 0) + 1
        k = state["k"]
        for name in w:
            gradient = g[name] if apart else g[name] + decay * w[name]
            m, v = state.get(name, (0.0, 0.0))
            m = 0.9 * m + 0.1 * gradient
            v = 0.999 * v + 0.001 * gradient**2
            state[name] = m, v
            if apart:
                w[name] = w[name] - lr * decay * w[name]
            w[name] = w[name] - lr * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)

    return step


def train_mlp(
    weights: Mapping[str, Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    step: Callable[[Arrays, Arrays, dict], None],
) -> Arrays:
    """Train `linear1, relu, linear2, relu, ..., output` on batches, the gradient by hand."""
    w = {name: tensor.double().numpy().copy() for name, tensor in weights.items()}
    layers = [name.removesuffix(".weight") for name in w if name.endswith(".weight")]
    state: dict = {}
    for x, y in batches:
        inputs = [x.double().flatten(1).numpy()]
        for layer in layers[:-1]:
            z = inputs[-1] @ w[f"{layer}.weight"].T + w[f"{layer}.bias"]
            inputs.append(np.maximum(z, 0))
        logits = inputs[-1] @ w[f"{layers[-1]}.weight"].T + w[f"{layers[-1]}.bias"]
        e = np.exp(logits - logits.max(1, keepdims=True))
        slope = e / e.sum(1, keepdims=True)
        for i, label in enumerate(y.tolist()):
            slope[i, label] -= 1
        slope /= len(y)
        gradient: Arrays = {}
        for layer, h in zip(reversed(layers), reversed(inputs), strict=True):
            gradient[f"{layer}.weight"] = slope.T @ h
            gradient[f"{layer}.bias"] = slope.sum(0)
            slope = (slope @ w[f"{layer}.weight"]) * (h > 0)
        step(w, gradient, state)
    return w


# singular vectors ---------------------------------------------------------------------------


def singular_triples(blocks: Sequence[np.ndarray]) -> list[tuple[float, int, list, list]]:
    """Value, block, left and right vector of every triple, the largest value first."""
    found = []
    for number, block in enumerate(blocks):
        u, s, vt = np.linalg.svd(block, full_matrices=False)
        found += [(s[i], number, u[:, i].tolist(), vt[i].tolist()) for i in range(len(s))]
    return sorted(found, key=lambda triple: -triple[0])


def singular_sums(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], gamma: float
) -> tuple[float, float, int, int]:
    """Over pairs of triples of one layer's blocks, with values from `gamma` times the largest on.

    The sum of `(u·u)(v·v)`, that of `s s (u·u)(v·v)`, and how many triples of A and of B took part.
    """
    large = []
    for blocks in (a, b):
        every = singular_triples(blocks)
        large.append([triple for triple in every if triple[0] / every[0][0] >= gamma])
    plain, weighted = [], []
    for s, block, u, v in large[0]:
        for s_other, other, u_other, v_other in large[1]:
            if block == other:
                uu = math.fsum(x * y for x, y in zip(u, u_other, strict=True))
                vv = math.fsum(x * y for x, y in zip(v, v_other, strict=True))
                plain.append(uu * vv)
                weighted.append(s * s_other * uu * vv)
    return math.fsum(plain), math.fsum(weighted), len(large[0]), len(large[1])


def patches(
    image: np.ndarray, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[list[float]]:
    """What a convolution's kernel sees of a padded image `[c, h, w]`, position by position."""
    c, h, w = image.shape
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    seen = []
    for top in range(0, h - dh * (kh - 1), sh):
        for left in range(0, w - dw * (kw - 1), sw):
            patch = []
            for channel in range(c):
                for i in range(kh):
                    for j in range(kw):
                        patch.append(float(image[channel, top + i * dh, left + j * dw]))
            seen.append(patch)
    return seen


def second_moment(vectors: Sequence[Sequence[float]]) -> np.ndarray:
    """The mean of `z zᵀ`."""
    total = np.zeros((len(vectors[0]), len(vectors[0])))
    for z in vectors:
        total += np.outer(z, z)
    return total / len(vectors)


# Taylor -------------------------------------------------------------------------------------


def derivatives(
    a: nn.Module, b: nn.Module, x: Tensor, y: Tensor, h: float = 1e-4
) -> tuple[float, float, float]:
    """The loss at A and its first two derivatives towards B, by central differences."""

    def loss(t: float) -> float:
        model = copy.deepcopy(a).double()
        model.load_state_dict(mixture(a.state_dict(), b.state_dict(), t))
        return evaluate(model, x, y)[0]

    before, here, after = loss(-h), loss(0.0), loss(h)
    return here, (after - before) / (2 * h), (after - 2 * here + before) / h**2


# assignments and groups ---------------------------------------------------------------------


def gained(gain: np.ndarray, p: Sequence[int]) -> float:
    """`Σ_i gain[i, p[i]]`."""
    return math.fsum(float(gain[i, j]) for i, j in enumerate(p))


def best_assignment(gain: np.ndarray) -> float:
    """The largest `Σ_i gain[i, p[i]]` of all permutations, one after the other."""
    return max(gained(gain, p) for p in itertools.permutations(range(len(gain))))


def group_elements(
    sizes: Sequence[int], parents: Sequence[Sequence[tuple[int, np.ndarray]]]
) -> list[list[list[int]]]:
    """All elements of a group of classes in blocks: per class, slot `i` takes unit `p[i]`.

    Class after class, slot after slot, every unit is tried that is not taken and whose blocks are
    those that came to the slot's.
    """
    found: list[list[list[int]]] = []

    def choose(element: list[list[int]], p: list[int]) -> None:
        k = len(element)
        if k == len(sizes):
            found.append(element)
        elif len(p) == sizes[k]:
            choose([*element, p], [])
        else:
            for unit in range(sizes[k]):
                fits = all(block[unit] == element[a][block[len(p)]] for a, block in parents[k])
                if fits and unit not in p:
                    choose(element, [*p, unit])

    choose([], [])
    return found


# activations --------------------------------------------------------------------------------


def similarity(x: np.ndarray, y: np.ndarray, cost: str) -> np.ndarray:
    """How alike the columns of two matrices are, each entry from its definition."""
    found = np.zeros((x.shape[1], y.shape[1]))
    for i in range(x.shape[1]):
        for j in range(y.shape[1]):
            u, v = x[:, i], y[:, j]
            if cost == "correlation":
                varies = (u != u[0]).any() and (v != v[0]).any()
                found[i, j] = np.corrcoef(u, v)[0, 1] if varies else 0.0
            elif cost == "dot":
                found[i, j] = np.mean(u * v)
            else:
                found[i, j] = -np.mean((u - v) ** 2)
    return found


# features -----------------------------------------------------------------------------------


def calls(model: nn.Module, x: Tensor, names: Sequence[str]) -> list[tuple[str, Tensor, Tensor]]:
    """Name, input and output of every call of the named modules, float64; all are kept."""
    model = copy.deepcopy(model).double().eval()
    read: dict[str, Tensor] = {}
    kept: list[tuple[str, Tensor, Tensor]] = []
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(
            lambda _, args, name=name: read.update({name: args[0].detach().clone()})
        )
        module.register_forward_hook(
            lambda _, __, z, name=name: kept.append((name, read[name], z.detach().clone()))
        )
    model(x.double())  # with gradients: PyTorch takes no short cuts then
    return kept


def spread(values: Sequence[float | None]) -> tuple[float, float, int]:
    """Mean and standard deviation of those that are there, and how many are not."""
    there = [v for v in values if v is not None]
    mean = math.fsum(there) / len(there) if there else math.nan
    if len(there) < 2:
        return mean, math.nan, len(values) - len(there)
    square = math.fsum((v - mean) ** 2 for v in there) / (len(there) - 1)
    return mean, math.sqrt(square), len(values) - len(there)


def inner(x: Sequence[float], y: Sequence[float]) -> float:
    """`Σ x_i y_i`."""
    return math.fsum(p * q for p, q in zip(x, y, strict=True))


def apart(x: Sequence[float], y: Sequence[float]) -> float | None:
    """`|x - y|² / (|x| |y|)`; None where a vector is zero."""
    norms = math.sqrt(inner(x, x) * inner(y, y))
    return math.fsum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / norms if norms else None


def cosine(x: Sequence[float], y: Sequence[float]) -> float | None:
    """`<x, y> / (|x| |y|)`; None where a vector is zero."""
    norms = math.sqrt(inner(x, x) * inner(y, y))
    return inner(x, y) / norms if norms else None
