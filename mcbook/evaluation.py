"""The loss and accuracy of a network on a split."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Split
from .errors import expect

__all__ = ["checked_logits", "evaluate", "evaluating", "score"]


def score(logits: Tensor, y: Tensor) -> tuple[float, int]:
    """The sum of the cross-entropies and the number of correct predictions.

    Args:
        logits: `[n, classes]`, any precision; the loss is computed in float32, summed in float64.
        y: labels `[n]`.

    Raises:
        ValueError: when the logits are not of that form, or have no column for some label.
    """
    checked_logits(logits, y)
    losses = F.cross_entropy(logits.float(), y, reduction="none")
    return float(losses.double().sum()), int((logits.argmax(1) == y).sum())


def checked_logits(logits: Tensor, y: Tensor) -> Tensor:
    """The logits, if they are some.

    Raises:
        ValueError: when they are not `[n, classes]`, or have no column for some label.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] <= int(y.max()):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"expected logits [{len(y)}, more than {int(y.max())} classes] from the network, "
            f"found {found}"
        )
    return logits


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, without gradients; every module's own flag is restored after."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, flag in flags.items():
            module.training = flag


def evaluate(model: nn.Module, split: Split, batch_size: int = 2048) -> tuple[float, float]:
    """The mean cross-entropy in nats, and the accuracy in [0, 1], of a network in eval mode.

    Args:
        model: any classifier of images; its flags are restored.
        split: images and labels.
        batch_size: how many images at once; the result does not depend on it.

    Raises:
        TypeError: when `split` is not a Split.
        ValueError: when the network's outputs are not `[n, classes]`.
    """
    expect(split, Split, "a split, such as data.test")
    loss, correct = 0.0, 0
    with evaluating(model):
        for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True):
            batch_loss, batch_correct = score(model(x), y)
            loss += batch_loss
            correct += batch_correct
    return loss / len(split), correct / len(split)
