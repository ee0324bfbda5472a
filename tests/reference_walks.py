"""Slow oracles of layer-wise walks: the algorithm in plain loops, and the cuts of a network.

Nothing here calls what it is compared with.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

# numbers --------------------------------------------------------------------------------------


def entries(x: Tensor) -> list[float]:
    """Every entry, one after the other."""
    return [float(v) for v in x.detach().flatten().tolist()]


def length(x: Tensor) -> float:
    """The root of the sum of the squares."""
    return math.sqrt(math.fsum(v * v for v in entries(x)))


def mean_and_variance(x: Tensor) -> tuple[float, float]:
    """Of the entries; the variance divides by their number."""
    values = entries(x)
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((v - mean) ** 2 for v in values) / len(values)


def on_sphere(x: Tensor, target: float) -> Tensor:
    """The tensor with another variance, the same mean, and the same deviations up to a factor."""
    mean, spread = mean_and_variance(x)
    if target <= 0 or spread <= 1e-20 or x.numel() == 1:
        return x.detach().clone()
    factor = math.sqrt(target / spread)
    moved = [mean + factor * (v - mean) for v in entries(x)]
    return torch.tensor(moved, dtype=x.dtype).view(x.shape)


def arc_length(a: Tensor, b: Tensor) -> float:
    """`½ (‖a‖ + ‖b‖)` times the angle, by the cosine."""
    if not length(a) * length(b):
        return 0.0
    cosine = math.fsum(u * v for u, v in zip(entries(a), entries(b), strict=True))
    cosine /= length(a) * length(b)
    return (length(a) + length(b)) / 2 * math.acos(max(-1.0, min(1.0, cosine)))


# the walk -------------------------------------------------------------------------------------


@dataclass
class Walked:
    """What a walk left: for every tick, 0 excluded, what is told by the names."""

    points: list[dict[str, Tensor]] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


@dataclass
class Walker:
    """Algorithm 1 of Tian et al. (2026), with a bound on the step and spheres in between.

    Attributes:
        a: where to start, on the CPU, with parameters that all are trained and used.
        b: where to go.
        x: the training images.
        y: their labels.
        batches: the numbers of the images of each minibatch, one after the other.
        stages: the names of the parameters that begin to move.
        ticks: of each stage.
        alpha: of the step, as the next two.
        beta: of the arc.
        gamma: a length.
        largest: the greater of the two parts is taken, not the sum.
        sphere: `interpolated`, `start`, `shrink` or `free`.
        rounds: the least and the most minibatches.
        threshold: of the loss.
        lr: of SGD.
        momentum: of SGD.
    """

    a: nn.Module
    b: nn.Module
    x: Tensor
    y: Tensor
    batches: Iterator[list[int]]
    stages: Sequence[Sequence[str]]
    ticks: Sequence[int]
    alpha: float
    beta: float = 0.0
    gamma: float = 0.0
    largest: bool = False
    sphere: str = "interpolated"
    rounds: tuple[int, int] = (1, 1)
    threshold: float = 0.0
    lr: float = 0.01
    momentum: float = 0.0

    def walk(self) -> Walked:
        """From A, through all ticks."""
        self.model = copy.deepcopy(self.a).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), self.lr, self.momentum)
        self.found = Walked()
        if self.sphere == "shrink":
            self._stage(list(dict(self.model.named_parameters())), self.ticks[-1], shrinking=True)
        active: list[str] = []
        self.behind = dict.fromkeys(dict(self.model.named_parameters()), 0)
        for names, ticks in zip(self.stages, self.ticks, strict=True):
            active = [*active, *names]
            self._stage(active, ticks, shrinking=False)
        return self.found

    def _stage(self, active: Sequence[str], ticks: int, shrinking: bool) -> None:
        named = dict(self.model.named_parameters())
        arcs = {n: arc_length(named[n], self._goal(n, named[n], shrinking)) for n in active}
        for _ in range(ticks):
            with torch.no_grad():
                for name in active:
                    self._move(name, named[name], arcs[name], shrinking)
                    if not shrinking:
                        self.behind[name] += 1
                self._correct(named, shrinking)
            self._retrain()
            with torch.no_grad():
                self._correct(named, shrinking)
            self.found.points.append(
                {n: v.detach().clone() for n, v in self.model.state_dict().items()}
            )

    def _goal(self, name: str, now: Tensor, shrinking: bool) -> Tensor:
        goal = dict(self.b.named_parameters())[name].detach()
        if not shrinking:
            return goal
        return now.detach() * (length(goal) / length(now)) if length(now) else now.detach()

    def _move(self, name: str, now: Tensor, arc: float, shrinking: bool) -> None:
        goal = self._goal(name, now, shrinking)
        way = length(goal - now)
        if way == 0:
            return
        one, other = self.alpha * way, self.beta * arc + self.gamma
        step = min(max(one, other) if self.largest else one + other, way)
        now.copy_(now + step * (goal - now) / way)

    def _correct(self, named: dict[str, nn.Parameter], shrinking: bool) -> None:
        if shrinking or self.sphere == "free":
            return
        for name, now in named.items():
            at_a, at_b = (
                math.sqrt(mean_and_variance(dict(m.named_parameters())[name])[1])
                for m in (self.a, self.b)
            )
            # the ticks in which this tensor moves: those of its stage and of all later ones
            first = next(k for k, stage in enumerate(self.stages) if name in stage)
            total = sum(self.ticks[first:])
            done = self.behind[name] / total
            if self.alpha > 0:
                left = (1 - self.alpha) ** self.behind[name]
                done = (1 - left) / (1 - (1 - self.alpha) ** total)
            deviation = {
                "interpolated": (1 - done) * at_a + done * at_b,
                "start": at_a,
                "shrink": at_b,
            }[self.sphere]
            now.copy_(on_sphere(now, deviation**2))

    def _retrain(self) -> None:
        least, most = self.rounds
        losses: list[float] = []
        while len(losses) < most:
            chosen = next(self.batches)
            self.optimizer.zero_grad()
            logits = self.model(self.x[chosen])
            picked = logits.double().log_softmax(1)[range(len(chosen)), self.y[chosen]]
            loss = -picked.mean()
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
            window = losses[-max(1, least) :]
            if len(losses) >= least and math.fsum(window) / len(window) <= self.threshold:
                break
        window = losses[-max(1, least) :]
        self.found.rounds.append(len(losses))
        self.found.before.append(losses[0] if losses else math.nan)
        self.found.loss.append(math.fsum(window) / len(window) if losses else math.nan)


# the cuts of a network ------------------------------------------------------------------------


def segments(model: nn.Module) -> list[list[str]]:
    """The parameters between the cuts, by taking every node out of the graph once.

    The graph is that of `torch.fx`, whose nodes are layers.  A node is a cut when without it no
    way leads from the input to the output.  A parameter is in the segment of its first use.
    """
    graph = fx.symbolic_trace(model).graph
    nodes = list(graph.nodes)
    sources = [node for node in nodes if node.op == "placeholder"]
    (sink,) = (node for node in nodes if node.op == "output")

    def reached(without: fx.Node | None) -> set[fx.Node]:
        seen: set[fx.Node] = set()
        waiting = [node for node in sources if node is not without]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += [user for user in node.users if user is not without]
        return seen

    everything = reached(None)
    cuts = [n for n in nodes if n not in (*sources, sink) and n in everything]
    cuts = [n for n in cuts if sink not in reached(n)]
    names = {id(p): name for name, p in model.named_parameters()}
    found: list[list[str]] = [[] for _ in range(len(cuts) + 1)]
    known: set[str] = set()
    for k, node in enumerate(nodes):
        if node.op == "call_module":
            module = model.get_submodule(node.target)
            used = [names[id(p)] for p in module.parameters()]
        elif node.op == "get_attr":
            used = [names[id(p)] for p in [_attribute(model, node.target)] if id(p) in names]
        else:
            continue
        place = sum(nodes.index(cut) < k for cut in cuts)
        found[place] += [name for name in used if name not in known]
        known |= set(used)
    return [segment for segment in found if segment]


def without_small(model: nn.Module, parts: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Parts of vectors alone go with the one before them, at the beginning with the next."""
    axes = {name: p.ndim for name, p in model.named_parameters()}
    whole: list[list[str]] = []
    for part in parts:
        alone = all(axes[name] < 2 for name in part)
        if whole and (alone or all(axes[name] < 2 for name in whole[-1])):
            whole[-1] += part
        else:
            whole.append(list(part))
    return [tuple(part) for part in whole]


def _attribute(model: nn.Module, target: str) -> Tensor:
    *modules, last = target.split(".")
    return getattr(model.get_submodule(".".join(modules)), last)
