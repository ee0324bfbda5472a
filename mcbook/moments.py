"""Mean and variance of channels, over all images, layer after layer in the forward pass's order.

Where a layer changes what comes after it once its own statistics are known (batch norm, REPAIR),
each must be measured with the earlier ones settled.  Here that is exact, whatever the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .evaluation import evaluating

__all__ = ["Gauge", "covariances", "measure_"]

# activations of one forward pass over all images that may be held at once
_MEMORY = 2 * 2**30


@dataclass(frozen=True, eq=False)
class Gauge:
    """A layer that is to know the statistics of its input.

    Attributes:
        layer: the layer.
        axis: the channels' axis of its input.
        store: called with mean and variance of every channel, `[c]` each, before the layer
            computes anything else.
    """

    layer: nn.Module
    axis: int
    store: Callable[[Tensor, Tensor], None]


def measure_(
    model: nn.Module, gauges: Sequence[Gauge], x: Tensor, batch_size: int | None = None
) -> None:
    """Give every gauge the mean and variance of its layer's input, in the forward pass's order.

    With `z` that input for *all* images of `x` and all positions, computed with the earlier gauges
    already settled,

        mean = E[z],    var = E[(z - mean)²].

    A layer used more than once has one mean and variance over all its inputs.  A layer that is not
    used keeps what it has.

    Args:
        model: runs in eval mode; what `store` changes is all that changes.
        gauges: the layers.
        x: the images, `[n, c, h, w]`, on the model's device.
        batch_size: how many images at once.  By default all of them in one pass if their
            activations fit into memory; else one layer is measured after the other, a pass over
            the images for each.

    Raises:
        ValueError: when there are no images.
    """
    if not gauges:
        return
    if len(x) == 0:
        raise ValueError("expected at least one image to measure statistics on, found none")
    with evaluating(model):
        calls, sizes = _probe(model, gauges, x[:1])
        if batch_size is None:
            # a generous guess: a pass holds four times the largest input of a layer
            batch_size = max(1, min(len(x), _MEMORY // (16 * max(sizes, default=1))))
        if batch_size >= len(x) and all(count == 1 for _, count in calls):
            _in_one_pass(model, gauges, x)
        else:
            for gauge, count in calls:
                _in_batches(model, gauge, count, x.split(batch_size))


def covariances(
    models: tuple[nn.Module, nn.Module],
    gauges: Sequence[tuple[Gauge, Gauge]],
    means: Sequence[tuple[Tensor, Tensor]],
    x: Tensor,
    batch_size: int | None = None,
) -> list[Tensor]:
    """The covariance of corresponding channels of two networks on the same images.

    Args:
        models: A and B; they run in eval mode.
        gauges: pairs of layers, of A and of B.
        means: the means of their inputs over all of `x`, `[c]` each.
        x: the images, `[n, c, h, w]`.
        batch_size: how many images at once; by default what fits into memory.

    Returns:
        For every pair `E[(z_A - E z_A)(z_B - E z_B)]`, float64 `[c]`.
    """
    if not gauges:
        return []
    sums = [torch.zeros_like(mean, dtype=torch.float64) for mean, _ in means]
    counts = [0] * len(gauges)
    held: list[list[Tensor]] = [[] for _ in gauges]

    def hold(i: int, z: Tensor) -> None:
        held[i].append(_centred(z, gauges[i][0].axis, means[i][0]))

    def add(i: int, z: Tensor) -> None:
        axis = gauges[i][1].axis
        products = _centred(z, axis, means[i][1]) * held[i].pop(0)
        sums[i] += products.sum(_others(z, axis))
        counts[i] += z.numel() // z.shape[axis]

    numbers = [{pair[side].layer: i for i, pair in enumerate(gauges)} for side in (0, 1)]
    with evaluating(models[0]), evaluating(models[1]):
        if batch_size is None:
            _, sizes = _probe(models[0], [gauge for gauge, _ in gauges], x[:1])
            batch_size = max(1, min(len(x), _MEMORY // (16 * max(1, sum(sizes)))))
        for batch in x.split(batch_size):
            for model, number, what in zip(models, numbers, (hold, add), strict=True):
                _hooked(model, list(number), _numbered(what, number), batch)
    return [total / count for total, count in zip(sums, counts, strict=True)]


def _numbered(
    what: Callable[[int, Tensor], None], number: dict[nn.Module, int]
) -> Callable[[nn.Module, Tensor], None]:
    return lambda layer, z: what(number[layer], z)


class _Stop(Exception):
    """Not an error: the rest of the forward pass is not needed."""


def _hooked(
    model: nn.Module,
    layers: Sequence[nn.Module],
    hook: Callable[[nn.Module, Tensor], None],
    x: Tensor,
) -> None:
    """One forward pass with `hook(layer, input)` before each of `layers`."""
    handles = [
        layer.register_forward_pre_hook(lambda layer, args: hook(layer, args[0]))
        for layer in layers
    ]
    try:
        model(x)
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _probe(
    model: nn.Module, gauges: Sequence[Gauge], x: Tensor
) -> tuple[list[tuple[Gauge, int]], list[int]]:
    """The gauges in the order they are used with how often; the sizes of all inputs."""
    by_layer = {gauge.layer: gauge for gauge in gauges}
    order: dict[nn.Module, int] = {}
    sizes: list[int] = []

    def see(layer: nn.Module, z: Tensor) -> None:
        order[layer] = order.get(layer, 0) + 1
        sizes.append(z.numel())

    _hooked(model, list(by_layer), see, x)
    return [(by_layer[layer], count) for layer, count in order.items()], sizes


def _in_one_pass(model: nn.Module, gauges: Sequence[Gauge], x: Tensor) -> None:
    """All images at once: each layer takes its statistics from the input it is about to use."""
    by_layer = {gauge.layer: gauge for gauge in gauges}

    def take(layer: nn.Module, z: Tensor) -> None:
        gauge = by_layer[layer]
        variance, mean = torch.var_mean(z, dim=_others(z, gauge.axis), correction=0)
        gauge.store(mean, variance)

    _hooked(model, list(by_layer), take, x)


def _in_batches(model: nn.Module, gauge: Gauge, calls: int, batches: tuple[Tensor, ...]) -> None:
    """One layer's statistics over batches: means and squared deviations merged in float64."""
    count = 0
    mean = squares = torch.zeros((), dtype=torch.float64, device=batches[0].device)
    seen = 0

    def merge(_: nn.Module, z: Tensor) -> None:
        # Chan, Golub and LeVeque (1983): the pooled variance of two sets
        nonlocal count, mean, squares, seen
        n = z.numel() // z.shape[gauge.axis]
        v, m = torch.var_mean(z.double(), dim=_others(z, gauge.axis), correction=0)
        delta = m - mean
        mean = mean + delta * (n / (count + n))
        squares = squares + v * n + delta.square() * (count * n / (count + n))
        count += n
        seen += 1
        if seen == calls:
            raise _Stop

    for batch in batches:
        seen = 0
        _hooked(model, [gauge.layer], merge, batch)
    gauge.store(mean, squares / count)


def _others(z: Tensor, axis: int) -> list[int]:
    """Every axis but the channels'."""
    return [i for i in range(z.ndim) if i != axis % z.ndim]


def _centred(z: Tensor, axis: int, mean: Tensor) -> Tensor:
    """`z - mean` along the channels' axis, float64."""
    shape = [1] * z.ndim
    shape[axis] = -1
    return z.double() - mean.double().view(shape)
