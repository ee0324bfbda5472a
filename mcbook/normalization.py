"""Batch-norm statistics, re-estimated for weights that no training run ever visited.

A batch-norm layer keeps the mean and variance its inputs had during training.  Between two
networks those numbers are nobody's: the mixed weights produce other inputs than the mixed
statistics describe.  So they are measured again, on training images, before anything is evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .moments import Gauge, measure_

__all__ = ["batch_norm_gauges", "has_batch_norm", "reset_batch_norm"]


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
        batch_size: how many images at once; by default what suits the processor's cache, elsewhere
            what fits into memory.  On the CPU the batches pass the network together and wait for
            each other at every layer that is measured, as far as there is memory for that (see
            `mcbook.moments.measure_`).

    Returns:
        A new module in eval mode.  Without batch norm it is a plain copy.

    Raises:
        ValueError: when there are no images.
    """
    model = copy.deepcopy(model).eval()
    measure_statistics_(model, x, batch_size)
    return model


def measure_statistics_(
    model: nn.Module, x: Tensor, batch_size: int | None = None, precision: str = "float32"
) -> None:
    """`reset_batch_norm` in place, for a model one owns; `bfloat16` computes with autocast."""
    measure_(model, batch_norm_gauges(model), x, batch_size, precision)


def batch_norm_gauges(model: nn.Module) -> list[Gauge]:
    """The batch-norm layers, each storing what is measured as its running statistics."""
    return [Gauge(layer, 1, _store_in(layer)) for layer in _batch_norms(model)]


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _store_in(layer: _BatchNorm) -> Callable[[Tensor, Tensor], None]:
    def store(mean: Tensor, variance: Tensor) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)

    return store
