"""Batch-norm statistics, re-estimated for weights that no training run ever visited.

A batch-norm layer keeps the mean and variance its inputs had during training.  Between two
networks those numbers are nobody's: the mixed weights produce other inputs than the mixed
statistics describe.  So they are measured again, on training images, before anything is evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .evaluation import evaluating

__all__ = ["has_batch_norm", "reset_batch_norm"]

# activations of one forward pass over all statistics images that may be held at once
_MEMORY = 2 * 2**30


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the model has batch-norm layers that keep running statistics."""
    return bool(_batch_norms(model))


def reset_batch_norm(model: nn.Module, x: Tensor, batch_size: int | None = None) -> nn.Module:
    """A copy of a network with its batch-norm statistics measured on `x`, exactly.

    For every batch-norm layer in the order of the forward pass, with `z` its input for *all* the
    images of `x` (and all positions), computed with the statistics of the earlier layers already
    replaced,

        mean = E[z],    var = E[(z - mean)²].

    So on `x` every normalised channel has mean 0 and variance 1 up to rounding, and the result does
    not depend on the batch size.  Everything else (dropout, for instance) is in eval mode.

    Args:
        model: any module; it is not changed.
        x: the images, `[n, c, h, w]`, on the model's device.
        batch_size: how many images at once.  By default all of them in one pass if their
            activations fit into memory; else the layers are measured one after the other, a pass
            over the images for each.

    Returns:
        A new module in eval mode.  Without batch norm it is a plain copy.

    Raises:
        ValueError: when there are no images.
    """
    model = copy.deepcopy(model).eval()
    measure_statistics_(model, x, batch_size)
    return model


def measure_statistics_(model: nn.Module, x: Tensor, batch_size: int | None = None) -> None:
    """`reset_batch_norm` in place, for a model one owns."""
    layers = _batch_norms(model)
    if not layers:
        return
    if len(x) == 0:
        raise ValueError("expected at least one image to measure statistics on, found none")
    with evaluating(model):
        calls, floats = _probe(model, layers, x[:1])
        if batch_size is None:
            batch_size = max(1, min(len(x), _MEMORY // (4 * floats)))
        if batch_size >= len(x) and all(count == 1 for _, count in calls):
            _in_one_pass(model, layers, x)
        else:
            for layer, count in calls:
                _in_batches(model, layer, count, x.split(batch_size))


class _Stop(Exception):
    """Not an error: the rest of the forward pass is not needed."""


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _hooked(
    model: nn.Module,
    layers: list[_BatchNorm],
    hook: Callable[[_BatchNorm, Tensor], None],
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
    model: nn.Module, layers: list[_BatchNorm], x: Tensor
) -> tuple[list[tuple[_BatchNorm, int]], int]:
    """The layers in the order they are used with how often, and the floats a pass holds an image.

    The latter is a generous guess: four times the largest input of a layer.
    """
    order: dict[_BatchNorm, int] = {}
    largest = 1

    def see(layer: _BatchNorm, z: Tensor) -> None:
        nonlocal largest
        order[layer] = order.get(layer, 0) + 1
        largest = max(largest, z.numel())

    _hooked(model, layers, see, x)
    return list(order.items()), 4 * largest


def _in_one_pass(model: nn.Module, layers: list[_BatchNorm], x: Tensor) -> None:
    """All images at once: each layer takes its statistics from the input it is about to use."""

    def take(layer: _BatchNorm, z: Tensor) -> None:
        variance, mean = torch.var_mean(z, dim=_others(z), correction=0)
        _store(layer, mean, variance)

    _hooked(model, layers, take, x)


def _in_batches(
    model: nn.Module, layer: _BatchNorm, calls: int, batches: tuple[Tensor, ...]
) -> None:
    """One layer's statistics over batches: means and squared deviations merged in float64."""
    count = 0
    mean = torch.zeros(layer.num_features, dtype=torch.float64, device=batches[0].device)
    squares = torch.zeros_like(mean)
    seen = 0

    def merge(layer: _BatchNorm, z: Tensor) -> None:
        # Chan, Golub and LeVeque (1983): the pooled variance of two sets
        nonlocal count, mean, squares, seen
        n = z.numel() // layer.num_features
        v, m = torch.var_mean(z.double(), dim=_others(z), correction=0)
        delta = m - mean
        mean = mean + delta * (n / (count + n))
        squares = squares + v * n + delta.square() * (count * n / (count + n))
        count += n
        seen += 1
        if seen == calls:
            raise _Stop

    for batch in batches:
        seen = 0
        _hooked(model, [layer], merge, batch)
    _store(layer, mean, squares / count)


def _others(z: Tensor) -> list[int]:
    """Every axis but the channels'."""
    return [axis for axis in range(z.ndim) if axis != 1]


def _store(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
