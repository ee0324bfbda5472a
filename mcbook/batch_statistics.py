"""Batch norm that always uses the statistics of its own input, as a function of the weights."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["with_batch_statistics"]


def with_batch_statistics(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose batch norm keeps no statistics but takes those of its input.

    On images `x` it computes, in one batch, what `reset_batch_norm(model, x)` computes; and since
    nothing is stored, it can be differentiated: mean and variance move with the weights.

    Args:
        model: any module; it is not changed.

    Returns:
        A new module, in eval mode (dropout does nothing).
    """
    model = copy.deepcopy(model).eval()
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            # without stored statistics PyTorch's layer uses those of the batch in either mode
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    return model
