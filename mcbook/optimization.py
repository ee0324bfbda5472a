"""Optimizers and learning-rate schedules by name, as training and every path finder use them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .errors import UnknownNameError

__all__ = ["OPTIMIZERS", "SCHEDULES", "learning_rate", "make_optimizer"]

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "onecycle")


def make_optimizer(
    name: str, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimizer of PyTorch by name.

    Args:
        name: `sgd` (with `momentum`), `adam` (weight decay as an L2 penalty in the gradient) or
            `adamw` (weight decay apart from the gradient); the Adams use their default betas.
        parameters: what to optimise.
        lr: the learning rate.
        momentum: of SGD; the Adams ignore it.
        weight_decay: the coefficient.

    Raises:
        UnknownNameError: for another name.
    """
    if name not in OPTIMIZERS:
        raise UnknownNameError("optimizer", name, OPTIMIZERS)
    # fused: one pass over the weights instead of one for each operation, on the CPU too
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True
        )
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=weight_decay, fused=True)


def learning_rate(schedule: str, lr: float, step: int, total: int) -> float:
    """The learning rate at a step: a pure function, so that an interrupted run goes on with it.

    With `s = step / total`:

    - `constant`: `lr`;
    - `cosine`: `lr (1 + cos(π s)) / 2`, from `lr` down to 0;
    - `onecycle`: cosine from `lr / 25` up to `lr` over the first 30 %, then cosine down to 0.

    Args:
        schedule: one of the above.
        lr: the highest rate.
        step: from 0 to `total - 1`.
        total: the number of steps in all.

    Raises:
        UnknownNameError: for another schedule.
    """
    if schedule not in SCHEDULES:
        raise UnknownNameError("schedule", schedule, SCHEDULES)
    if schedule == "constant":
        return lr
    s = step / total
    if schedule == "cosine":
        return lr * (1 + math.cos(math.pi * s)) / 2
    peak, start = 0.3, lr / 25
    if s < peak:
        return start + (lr - start) * (1 - math.cos(math.pi * s / peak)) / 2
    return lr * (1 + math.cos(math.pi * (s - peak) / (1 - peak))) / 2
