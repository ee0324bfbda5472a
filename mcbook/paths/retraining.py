"""The loss that retraining brings down: on minibatches, in training mode, augmented."""

from __future__ import annotations

import copy
import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import flip_and_crop
from ..data import Data
from ..runs import Recipe

__all__ = ["batch_loss", "checked_threshold", "own_loss"]


def batch_loss(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> Tensor:
    """The loss of one minibatch, as retraining sees it."""
    if recipe.augment:
        x = flip_and_crop(x)
    if recipe.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    if recipe.attack is not None:
        x = recipe.attack.perturb(model, x, y)
    low = recipe.precision == "bfloat16"
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
        logits = model(x)
    return F.cross_entropy(logits.float(), y)


def own_loss(model: nn.Module, data: Data, recipe: Recipe, images: int, seed: int) -> float:
    """The mean loss of a network as retraining would see it, on some of the training images."""
    model = copy.deepcopy(model).train()
    part = data.subset(train=min(images, len(data.train))).train
    size = min(recipe.batch_size, len(part))
    total, count = 0.0, 0
    cuda = [part.x.device] if part.x.is_cuda else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        torch.manual_seed(seed)
        for x, y in zip(part.x.split(size), part.y.split(size), strict=True):
            if len(x) == 1 and count:
                continue  # one image has no variance for batch norm
            with torch.enable_grad() if recipe.attack is not None else torch.no_grad():
                loss = batch_loss(model, x, y, recipe)
            total, count = total + float(loss.detach()) * len(x), count + len(x)
    return total / count


def checked_threshold(
    threshold: float | None, at_a: float, at_b: float | None, guessing: float = math.inf
) -> float:
    """The threshold of the loss.

    Args:
        threshold: what was asked for; None for twice the larger loss and 0.02, or of A's alone
            where B knows next to nothing: a threshold that follows from the loss of an untrained
            network would let anything pass.
        at_a: A's loss.
        at_b: B's loss, if there is a B.
        guessing: the loss of equal probabilities; B knows next to nothing above half of it, if it
            is also above what A asks for.

    Raises:
        ValueError: when it is below A's loss, or no number.

    Warns:
        UserWarning: when it is below B's.
    """
    if threshold is None:
        threshold = 2 * at_a + 0.02
        if at_b is not None and not at_b > max(threshold, guessing / 2):
            threshold = max(threshold, 2 * at_b + 0.02)
    if not threshold > 0 or not math.isfinite(threshold):
        raise ValueError(f"expected a threshold above 0, found {threshold}")
    if threshold < at_a:
        raise ValueError(
            f"expected a threshold of at least A's own loss, {at_a:.4g} as retraining sees it, "
            f"found {threshold:g}; every tick would take the most rounds"
        )
    if at_b is not None and threshold < at_b:
        warnings.warn(
            f"the threshold {threshold:g} is below B's own loss, {at_b:.4g} as retraining sees it: "
            f"the walk cannot converge",
            stacklevel=3,
        )
    return threshold
