"""A network that walks: tick by tick some layers move, and all are retrained.

A walk is a list of *legs*.  In a leg the same layers move, on the same course.  A tick of it:

1. move the active tensors, 2. bring all to their spheres, 3. retrain until the loss is low again,
4. bring all to their spheres.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path as File
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .. import weights
from ..checkpoints import (
    Chance,
    check_identity,
    digest_of,
    epoch_seed,
    optimizer_tensors,
    restore_optimizer_,
)
from ..data import Data
from ..optimization import make_optimizer
from ..progress import Bar
from ..runs import Recipe, check_last_batch
from ..saving import read_tensors, write_tensors
from .courses import Course, ToOrigin
from .legs import Leg, Step, schedule
from .moving import Moving
from .retraining import batch_loss
from .spheres import arc, variance

__all__ = ["Walk"]

# seconds between two checkpoints: one holds every point so far
_PATIENCE = 20.0


class Walk:
    """A network at a tick of its walk: everything its future depends on.

    Args:
        moving: the network, on a path whose first control point is where it starts.
        legs: what to do; they number the trained parameters in the order of `moving.names`.
        goals: what the log's distances are from, one a tensor; None leaves a tensor out.
        step: how far in a tick.
        data: to retrain on.
        rounds: the least and the most minibatches of a tick.
        threshold: of the mean loss of the last minibatches (as many as the least number of rounds).
        recipe: of retraining.
        seed: of the order of the images, of augmentation and dropout.
        points: how many points are recorded, at most.
    """

    def __init__(
        self,
        moving: Moving,
        legs: Sequence[Leg],
        goals: Sequence[Tensor | None],
        step: Step,
        data: Data,
        rounds: tuple[int, int],
        threshold: float,
        recipe: Recipe,
        seed: int,
        points: int,
    ):
        self.moving, self.names, self.legs, self.way = moving, moving.names, list(legs), step
        self.goals = list(goals)
        self.data, self.rounds, self.threshold = data, rounds, threshold
        self.recipe, self.seed = recipe, seed
        self.model, self.point = moving.model, moving.point
        check_last_batch(self.model, len(data.train), recipe.batch_size)
        start = moving.points[0].clone()
        self.point.copy_(start)
        self.point.grad = torch.zeros_like(self.point)
        self.tensors, self.slopes = moving.views(self.point), moving.views(self.point.grad)
        for p, slope in zip(moving.parameters, self.slopes, strict=True):
            p.grad = slope
        self.start = digest_of(moving.path.control_points)
        self.optimizer = make_optimizer(
            recipe.optimizer, [self.point], recipe.lr, recipe.momentum, recipe.weight_decay
        )
        self.total = sum(leg.ticks for leg in legs)
        self.kept = {math.ceil(self.total * k / points) for k in range(1, points + 1)}
        self.tick, self.batches = 0, 0
        self.arcs: list[float] = []
        self.rows: list[dict[str, Any]] = []
        self.recorded: list[dict[str, Tensor]] = []
        self.random = Chance(seed, self.point.device)
        self._ordered = -1  # the epoch whose order of images is at hand
        self._done = schedule(legs, step, len(self.tensors))

    # the walk ---------------------------------------------------------------------------------

    def run(self, loss: float, progress: bool, file: str | os.PathLike[str] | None) -> None:
        """Take the ticks that are left, after resuming from `file` if it is there.

        Args:
            loss: where the walk begins, for the log.
            progress: whether to show a bar.
            file: keeps the walk, every so many seconds and at the end.
        """
        if file is not None:
            self._resume(file)
        if not self.rows:
            self._note(0, 0, 0, math.nan, loss, False)
        last = time.monotonic()
        with Bar(self.total - self.tick, "layer by layer", progress) as bar, self.random.taken():
            while self.tick < self.total:
                leg, first = self._leg()
                if first:
                    self._begin(leg)
                self._take(leg)
                self.random.note()
                bar.advance(loss=self.rows[-1]["loss"], distance=self.rows[-1]["distance"])
                if file is not None and (
                    self.tick == self.total or time.monotonic() - last > _PATIENCE
                ):
                    self._keep(file)
                    last = time.monotonic()

    def _leg(self) -> tuple[Leg, bool]:
        """The leg of the next tick, and whether it is the first of it."""
        behind = self.tick
        for leg in self.legs:
            if behind < leg.ticks:
                return leg, behind == 0
            behind -= leg.ticks
        raise AssertionError("no tick is left")

    def _begin(self, leg: Leg) -> None:
        """Measure the arcs that are left: not anew in every tick, or steps would shrink."""
        self.arcs = [0.0] * len(self.tensors)
        if self.way.arc:
            for i in leg.active:
                now = self.tensors[i]
                self.arcs[i] = arc(now, leg.course.destination(i, now))

    def _take(self, leg: Leg) -> None:
        """One tick."""
        self.tick += 1
        done = self._done[self.tick]
        with torch.no_grad():
            self._move(leg)
            self.moving.others_to(self.tick / self.total)
            leg.course.correct_(self.tensors, done)
        before, loss, rounds, short = self._retrain(leg.course)
        with torch.no_grad():
            leg.course.correct_(self.tensors, done)
        self._note(self.legs.index(leg) + 1, len(leg.active), rounds, before, loss, short)

    def _move(self, leg: Leg) -> None:
        """Move the active tensors; each arrives exactly if its step is as long as its way."""
        for i in leg.active:
            now = self.tensors[i]
            goal = leg.course.destination(i, now)
            delta = goal - now
            way = float(delta.norm())
            length = self.way.length(way, self.arcs[i])
            if length >= way:
                now.copy_(goal)
            else:
                now.add_(delta, alpha=length / way)

    def _retrain(self, course: Course) -> tuple[float, float, int, bool]:
        """Minibatch steps on all parameters.

        Returns:
            The loss of the first minibatch, the mean of the last ones, how many there were, and
            whether the threshold was not reached.
        """
        least, most = self.rounds
        if most == 0:
            return math.nan, math.nan, 0, False
        rates: list[float] | None = None
        if isinstance(course, ToOrigin) and course.conformal is not None:
            rates = course.rates(self.tensors)
        window: deque[float] = deque(maxlen=max(1, least))
        before = math.nan
        self.model.train()
        for done in range(1, most + 1):
            loss = self._slope()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss became {loss} in tick {self.tick} with lr = {self.recipe.lr}; a "
                    f"smaller learning rate or step may help"
                )
            if rates is not None:
                for slope, rate in zip(self.slopes, rates, strict=True):
                    slope.mul_(rate)
            self.optimizer.step()
            window.append(loss)
            before = loss if done == 1 else before
            if done >= least and sum(window) / len(window) <= self.threshold:
                return before, sum(window) / len(window), done, False
        return before, sum(window) / len(window), most, True

    def _slope(self) -> float:
        """The loss on the next minibatch; its gradient is in `self.point.grad`."""
        recipe, split = self.recipe, self.data.train
        per_epoch = math.ceil(len(split) / recipe.batch_size)
        epoch, place = divmod(self.batches, per_epoch)
        if self._ordered != epoch:
            generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
            self._order = torch.randperm(len(split), generator=generator).to(split.x.device)
            self._ordered = epoch
        chosen = self._order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
        self.batches += 1
        assert self.point.grad is not None
        self.point.grad.zero_()
        loss = batch_loss(self.model, split.x[chosen], split.y[chosen], recipe)
        loss.backward()
        return float(loss.detach())

    # the log ----------------------------------------------------------------------------------

    def _note(
        self, stage: int, moved: int, rounds: int, before: float, loss: float, short: bool
    ) -> None:
        """A row of the log, and a point of the path if one is due."""
        apart = [
            0.0 if goal is None else float((x - goal).norm())
            for x, goal in zip(self.tensors, self.goals, strict=True)
        ]
        if not all(math.isfinite(d) for d in apart):
            raise FloatingPointError(
                f"the weights became NaN or infinite in tick {self.tick} with lr = "
                f"{self.recipe.lr}; a smaller learning rate or step may help"
            )
        whole = math.sqrt(sum(d * d for d in apart))
        leg = self.legs[max(0, stage - 1)]
        targets = leg.course.targets(self._done[self.tick])
        found = [variance(x) for x in self.tensors]
        if not self.rows:
            self.first = whole
        self.rows.append(
            {
                "tick": self.tick,
                "stage": stage,
                "moved": moved,
                "rounds": rounds,
                "batches": self.batches,
                "at_most": short,
                "loss_before": before,
                "loss": loss,
                "distance": whole / self.first if self.first else 0.0,
                "distances": apart,
                "variances": found,
                # with target 0, tensors are left free
                "targets": [v or math.nan for v in targets or [0.0] * len(found)],
            }
        )
        if self.tick in self.kept:
            point = {name: x.clone() for name, x in weights.of(self.model).items()}
            self.recorded.append(point)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The log: `log` with a row a tick; `distances`, `variances`, `targets`, tick × tensor."""
        wide = ("distances", "variances", "targets")
        plain = [{k: v for k, v in row.items() if k not in wide} for row in self.rows]
        log = pd.DataFrame(plain)
        log["at_most"] = log["at_most"].astype(bool)
        ticks = pd.Index([row["tick"] for row in self.rows], name="tick")
        return {
            "log": log,
            **{
                key: pd.DataFrame([row[key] for row in self.rows], ticks, self.names)
                for key in wide
            },
        }

    # checkpoints ------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run."""
        return {
            "control points": self.start,
            **asdict(self.recipe),
            **asdict(self.way),
            "legs": [
                [type(leg.course).__name__, list(leg.active), leg.ticks, leg.phase]
                for leg in self.legs
            ],
            "spheres": [
                leg.course.targets([0.5] * len(self.tensors)) or leg.course.conformal
                for leg in self.legs
            ],
            "rounds": list(self.rounds),
            "threshold": self.threshold,
            "points": sorted(self.kept),
            "seed": self.seed,
            "data": self.data.fingerprint,
        }

    def _keep(self, file: str | os.PathLike[str]) -> None:
        """Write the walk as it stands."""
        tensors = {f"model.{name}": x for name, x in weights.of(self.model).items()}
        tensors |= {f"random.{name}": x for name, x in self.random.state.items()}
        kept = optimizer_tensors(self.optimizer)
        tensors |= {f"optimizer.{name}": x for name, x in kept.items()}
        for name in self.recorded[0] if self.recorded else ():
            tensors[f"recorded.{name}"] = torch.stack([point[name] for point in self.recorded])
        rows = [{k: v for k, v in row.items() if k not in _WIDE} for row in self.rows]
        for key in _WIDE:
            tensors[f"log.{key}"] = torch.tensor([r[key] for r in self.rows], dtype=torch.float64)
        header = {
            "identity": self.identity(),
            "tick": self.tick,
            "batches": self.batches,
            "arcs": self.arcs,
            "first": self.first,
            "rows": [{k: _or_none(v) for k, v in row.items()} for row in rows],
        }
        write_tensors(file, "layer-wise walk", tensors, header)

    def _resume(self, file: str | os.PathLike[str]) -> None:
        """Go to where the walk was when it was last kept; nothing if it never was."""
        if not File(file).exists():
            return
        tensors, header = read_tensors(file, "layer-wise walk")
        check_identity(file, header["identity"], self.identity())
        parts: dict[str, dict[str, Tensor]] = {
            k: {} for k in ("model", "random", "optimizer", "recorded", "log")
        }
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.random.state = parts["random"]
        restore_optimizer_(self.optimizer, parts["optimizer"])
        self.tick, self.batches = header["tick"], header["batches"]
        self.arcs, self.first = header["arcs"], header["first"]
        own = weights.of(self.model)
        recorded = {name: x.to(own[name].device) for name, x in parts["recorded"].items()}
        count = len(next(iter(recorded.values()))) if recorded else 0
        self.recorded = [{n: x[k].clone() for n, x in recorded.items()} for k in range(count)]
        self.rows = [
            {
                **{k: math.nan if v is None else v for k, v in row.items()},
                **{key: parts["log"][key][k].tolist() for key in _WIDE},
            }
            for k, row in enumerate(header["rows"])
        ]


_WIDE = ("distances", "variances", "targets")


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
