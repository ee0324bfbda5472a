"""The layer-wise walk of Tian et al. (2026), written plainly, as a baseline.

Nothing of mcbook's finder is used: the tensors of a network are moved one by one, it is retrained
by plain gradient descent, and it is tested after every tick.  Tian, Al-Ars, Kitsak, Hofstee,
"Connecting Independently Trained Modes via Layer-Wise Connectivity" (2026), algorithm 1, with the
ε and the tests of the published code.
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc

__all__ = ["PaperWalk", "layers_of", "paper_walk"]

_EPSILON = 1e-4  # added to both variances


@dataclass
class PaperWalk:
    """What the paper's procedure found.

    Attributes:
        points: networks at evenly spread ticks, the last one included.
        gradients: minibatches, one after the other.
        at_most: the ticks that took the most rounds.
        tests: the loss on the test images after every tick.
        testing: seconds that these tests took.
        left: the distance to B at the end, as a part of that at the beginning.
    """

    points: list[nn.Module] = field(default_factory=list)
    gradients: int = 0
    at_most: int = 0
    tests: list[float] = field(default_factory=list)
    testing: float = 0.0
    left: float = math.nan


def layers_of(model: nn.Module) -> list[list[str]]:
    """The names of the parameters of every layer, in the order in which they were made."""
    found = []
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)]
        found += [own] if own else []
    return found


def paper_walk(
    a: nn.Module,
    b: nn.Module,
    data: mc.Data,
    ticks: Sequence[int],
    step: float = 0.02,
    threshold: float = 0.02,
    rounds: tuple[int, int] = (5, 1_000),
    lr: float = 0.01,
    batch_size: int = 128,
    points: int = 100,
    seed: int = 0,
    now: Callable[[], float] = time.perf_counter,
) -> PaperWalk:
    """The paper's procedure: in a stage one more layer moves; all are retrained in every tick.

    Every active tensor goes a part of its way to B, all tensors are brought to the variances of A,
    gradient descent without momentum follows until the loss is low, and the variances again:
    `W ← mean(W) + sqrt((v_A + ε) / (Var(W) + ε)) (W - mean(W))`, `ε = 1e-4`.

    Args:
        a: the first network; neither is changed.
        b: where to go.
        data: all training images are drawn from, all test images tested after every tick.
        ticks: of each stage, one for each layer.
        step: the part of the way left that a tick goes.
        threshold: of the mean loss of the last minibatches, in nats.
        rounds: the least (over which that mean is) and the most minibatches of a tick.
        lr: the rate.
        batch_size: images a minibatch, shuffled anew in each epoch; the last of one is short.
        points: how many networks are kept.
        seed: of the order of the images.
        now: the clock that tells how long the tests took.

    Returns:
        What it found.
    """
    model = copy.deepcopy(a)
    goals = {name: p.detach() for name, p in b.named_parameters()}
    spheres = {name: float(p.detach().var(unbiased=False)) for name, p in a.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    batches = _minibatches(data.train, batch_size, seed)
    total, found, tick = sum(ticks), PaperWalk(), 0
    kept = {math.ceil(total * k / points) for k in range(1, points + 1)}
    first, active = _distance(model, goals), set()
    for names, count in zip(layers_of(model), ticks, strict=True):
        active |= set(names)
        for _ in range(count):
            tick += 1
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if name in active:
                        way = goals[name] - p
                        length = way.norm()
                        if length > 0:
                            p.add_(step * length * way / length)
            _correct(model, spheres)
            _retrain(model, optimizer, batches, threshold, rounds, found)
            _correct(model, spheres)
            begun = now()
            found.tests.append(_test(model, data.test))
            found.testing += now() - begun
            if tick in kept:
                found.points.append(copy.deepcopy(model).train(a.training))
    found.left = _distance(model, goals) / first if first else math.nan
    return found


def _correct(model: nn.Module, spheres: Mapping[str, float]) -> None:
    """Bring every tensor to its variance; one of a single entry has none."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.numel() > 1:
                mean, variance = p.mean(), p.var(unbiased=False)
                factor = ((spheres[name] + _EPSILON) / (variance + _EPSILON)).sqrt()
                p.copy_(mean + factor * (p - mean))


def _retrain(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    threshold: float,
    rounds: tuple[int, int],
    found: PaperWalk,
) -> None:
    least, most = rounds
    losses: deque[float] = deque(maxlen=least)
    model.train()
    for done in range(1, most + 1):
        x, y = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        found.gradients += 1
        if done >= least and sum(losses) / len(losses) <= threshold:
            return
    found.at_most += 1


def _test(model: nn.Module, split: mc.Split) -> float:
    model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(split.x), split.y).item()


def _distance(model: nn.Module, goals: Mapping[str, Tensor]) -> float:
    return math.hypot(*(float((p - goals[n]).detach().norm()) for n, p in model.named_parameters()))


def _minibatches(split: mc.Split, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(len(split), generator=generator).split(size):
            yield split.x[chosen], split.y[chosen]
