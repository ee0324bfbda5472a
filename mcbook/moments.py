"""Mean and variance of channels, over all images, layer after layer in the forward pass's order.

Where a layer changes what comes after it once its own statistics are known (batch norm, REPAIR),
each must be measured with the earlier ones settled.  Here that is exact, whatever the batch size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .channel_statistics import Moments, mean_and_variance, pooled
from .evaluation import evaluating
from .layouts import arranged, image_layout
from .lockstep import Lockstep, can_interleave

__all__ = ["Gauge", "covariances", "measure_"]

# activations that may be held at once
_MEMORY = 2 * 2**30
# numbers that a layer of a forward pass on the CPU is to write at once: with more, an image takes
# longer, because the next layer has to fetch them from memory
_CACHE = 2 * 2**20
# of a layer's largest input: what a forward pass holds, and what one that waits there holds (its
# input and what goes round it, such as a residual connection); both guesses are generous
_RUNNING, _WAITING = 4, 3


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
    model: nn.Module,
    gauges: Sequence[Gauge],
    x: Tensor,
    batch_size: int | None = None,
    precision: str = "float32",
) -> None:
    """Give every gauge the mean and variance of its layer's input, in the forward pass's order.

    With `z` that input for *all* images of `x` and all positions, computed with the earlier gauges
    already settled,

        mean = E[z],    var = E[(z - mean)²].

    A layer used more than once has one mean and variance over all its inputs.  A layer that is not
    used keeps what it has.

    On the CPU, several batches pass the network together: at each gauge they wait until it is
    settled, and go on from there (see `mcbook.lockstep`).  So every batch is computed once, however
    many gauges there are.  What a waiting batch holds is memory.  Batches that there is no room for
    begin anew for every gauge and end there, until further on, where inputs are smaller, there is
    room.  So do all batches at a gauge that is used more than once, in a network that cannot
    compute several batches at a time, and on other devices.

    Args:
        model: runs in eval mode; what `store` changes is all that changes.
        gauges: the layers.
        x: the images, `[n, c, h, w]`, on the model's device.
        batch_size: how many images at once; by default what suits the processor's cache, elsewhere
            what fits into memory.  The result does not depend on it, up to rounding.
        precision: `float32` computes as the network does, `bfloat16` with autocast; statistics are
            those of what is computed so, and are summed in float32 or better.

    Raises:
        ValueError: when there are no images.
    """
    if not gauges:
        return
    if len(x) == 0:
        raise ValueError("expected at least one image to measure statistics on, found none")
    low: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if precision == "bfloat16":
        low = torch.autocast(x.device.type, dtype=torch.bfloat16)
    with evaluating(model), low:
        calls, sizes, width = _probe(model, gauges, x[:1])
        if batch_size is None:
            largest = max([1, *sizes])
            batch_size = max(1, min(len(x), _MEMORY // (_RUNNING * width * largest)))
            if x.device.type == "cpu":
                batch_size = min(batch_size, max(1, _CACHE // largest))
                # the last batch is to be no remainder
                batch_size = -(-len(x) // -(-len(x) // batch_size))
        if batch_size >= len(x) and all(count == 1 for _, count in calls):
            _in_one_pass(model, gauges, x)
        elif calls:
            layout = image_layout(model, x)
            room = 0
            if x.device.type == "cpu":
                room = _MEMORY // (_WAITING * width * batch_size)
            _in_batches(
                lambda batch: model(arranged(batch, layout)),
                calls,
                # what waits at a gauge will wait at all later ones, too
                [room // max([1, *sizes[i:]]) for i in range(len(calls))],
                x.split(batch_size),
            )


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
            _, sizes, width = _probe(models[0], [gauge for gauge, _ in gauges], x[:1])
            batch_size = max(1, min(len(x), _MEMORY // (_RUNNING * width * max(1, sum(sizes)))))
        for batch in x.split(batch_size):
            for model, number, what in zip(models, numbers, (hold, add), strict=True):
                _hooked(model, list(number), _numbered(what, number), batch)
    return [total / count for total, count in zip(sums, counts, strict=True)]


def _numbered(
    what: Callable[[int, Tensor], None], number: dict[nn.Module, int]
) -> Callable[[nn.Module, Tensor], None]:
    return lambda layer, z: what(number[layer], z)


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
    finally:
        for handle in handles:
            handle.remove()


def _probe(
    model: nn.Module, gauges: Sequence[Gauge], x: Tensor
) -> tuple[list[tuple[Gauge, int]], list[int], int]:
    """How the gauges are used.

    Returns:
        The gauges in the order they are used with how often; the sizes of all inputs, in order; how
        many bytes a number takes.
    """
    by_layer = {gauge.layer: gauge for gauge in gauges}
    order: dict[nn.Module, int] = {}
    sizes: list[int] = []
    widths: list[int] = [1]

    def see(layer: nn.Module, z: Tensor) -> None:
        order[layer] = order.get(layer, 0) + 1
        sizes.append(z.numel())
        widths.append(z.element_size())

    _hooked(model, list(by_layer), see, x)
    return [(by_layer[layer], count) for layer, count in order.items()], sizes, max(widths)


def _in_one_pass(model: nn.Module, gauges: Sequence[Gauge], x: Tensor) -> None:
    """All images at once: each layer takes its statistics from the input it is about to use."""
    by_layer = {gauge.layer: gauge for gauge in gauges}

    def take(layer: nn.Module, z: Tensor) -> None:
        gauge = by_layer[layer]
        _, mean, variance = mean_and_variance(z, gauge.axis)
        gauge.store(mean, variance)

    _hooked(model, list(by_layer), take, x)


def _in_batches(
    forward: Callable[[Tensor], object],
    calls: Sequence[tuple[Gauge, int]],
    rooms: Sequence[int],
    batches: Sequence[Tensor],
) -> None:
    """Layer after layer, over batches.

    Args:
        forward: the network, in eval mode.
        calls: the gauges in the order they are used in, each with how often.
        rooms: how many batches may wait at each, never fewer than at an earlier one.
        batches: the images.
    """
    layers = [(gauge.layer, count) for gauge, count in calls]
    images = [batches[0][:1], batches[-1][-1:]]
    possible = max(rooms) > 0 and can_interleave(forward, layers, images)
    with Lockstep(forward, [layer for layer, _ in layers], batches) as passes:
        for i, (gauge, count) in enumerate(calls):
            parts: list[Moments] = []

            def see(z: Tensor, axis: int = gauge.axis, parts: list[Moments] = parts) -> None:
                parts.append(mean_and_variance(z, axis))

            # after the last gauge nothing is left to do
            room = rooms[i] if possible and i + 1 < len(calls) else 0
            passes.advance(gauge.layer, count, room, see)
            if parts:
                _, mean, variance = pooled(parts)
                gauge.store(mean, variance)


def _others(z: Tensor, axis: int) -> list[int]:
    """Every axis but the channels'."""
    return [i for i in range(z.ndim) if i != axis % z.ndim]


def _centred(z: Tensor, axis: int, mean: Tensor) -> Tensor:
    """`z - mean` along the channels' axis, float64."""
    shape = [1] * z.ndim
    shape[axis] = -1
    return z.double() - mean.double().view(shape)
