"""Small networks for PAM, short runs, and the loss along a curve in plain code."""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any

import torch
from reference import batch_norm_statistics, evaluate, mixture
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook import weights
from mcbook.alignment import proximal_alternating


def trained(name: str, data: mc.Data, seed: int, **options: Any) -> nn.Module:
    return fitted(mc.build_model(name, data, seed=seed, **options), data, seed)


def fitted(model: nn.Module, data: mc.Data, seed: int) -> nn.Module:
    recipe = {"optimizer": "adam", "lr": 0.02, "batch_size": 20, "progress": False}
    return mc.train(model, data, 20, seed=seed, **recipe)


# a trace takes longer than a run
traced = lru_cache(mc.trace_symmetry)


def flat(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(),
        nn.Linear(6, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two blocks on a stream, each with a hidden layer and batch norm."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.out = nn.Linear(64, 6), nn.Linear(6, 10)
        self.up = nn.ModuleList(nn.Linear(6, 5) for _ in range(2))
        self.norm = nn.ModuleList(nn.BatchNorm1d(5) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(5, 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for up, norm, down in zip(self.up, self.norm, self.down, strict=True):
            x = x + down(F.relu(norm(up(x))))
        return self.out(x)


def grouped(seed: int) -> nn.Module:
    """Channels in two groups, and a layer that lies in none."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(),
        nn.Linear(5, 10),
    )  # fmt: skip


def pam(nets: list[nn.Module], data: mc.Data, **options: Any) -> mc.Alignment:
    options = {"steps": 20, "batch_size": 16, "draws": 6, "points": 3, "progress": False} | options
    if "example" not in options and hasattr(nets[0], "example_shape"):
        options.setdefault("spec", traced(nets[0]))
    return proximal_alternating(*nets, data, **options)


def along(
    a: nn.Module, b: nn.Module, split: mc.Split, points: int, bend: dict[str, Tensor] | None = None
) -> float:
    """The loss along the curve: image by image in double precision, statistics measured."""
    losses = []
    for i in range(points):
        t, model = (i + 0.5) / points, copy.deepcopy(a)
        theta = mixture(weights.of(a), weights.of(b), t)
        if bend is not None:
            for n, x in theta.items():
                if x.is_floating_point():
                    ends = weights.of(a)[n].double(), weights.of(b)[n].double()
                    theta[n] = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * bend[n] + t**2 * ends[1]
        model.load_state_dict(theta)
        losses.append(evaluate(batch_norm_statistics(model, split.x), split.x, split.y)[0])
    return math.fsum(losses) / points


def same(x: mc.Alignment, y: mc.Alignment) -> bool:
    """Bit for bit."""
    return (
        x.permutation == y.permutation
        and x.objective == y.objective
        and x.facts["losses"].equals(y.facts["losses"])
        and x.facts["history"].equals(y.facts["history"])
        and all(torch.equal(m, y.facts["matrices"][n]) for n, m in x.facts["matrices"].items())
        and [x.facts[n] for n in ("soft_loss", "rounded_loss", "fixed")]
        == [y.facts[n] for n in ("soft_loss", "rounded_loss", "fixed")]
    )
