"""Control points that go down a gradient: what every finder of smooth paths has in common.

A finder says what a step is; here are the order of the images, the draws, the schedule, the
history, checkpoints, and the bar.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path as File
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from ..augmentation import flip_and_crop
from ..checkpoints import (
    Chance,
    check_identity,
    digest_of,
    epoch_seed,
    optimizer_tensors,
    restore_optimizer_,
)
from ..errors import IncompatibleError, UnknownNameError, expect
from ..optimization import learning_rate, make_optimizer
from ..progress import Bar
from ..runs import Recipe
from ..saving import read_tensors, write_tensors
from .base import Path
from .bezier import BezierPath
from .moving import Moving
from .polychain import PolychainPath

__all__ = ["Descent", "Watch", "begin"]

Watch = Callable[[Path], Mapping[str, float]]

_KINDS: dict[str, type[BezierPath] | type[PolychainPath]] = {
    "bezier": BezierPath,
    "polychain": PolychainPath,
}


def begin(kind: str, a: Any, b: Any, bends: int, start: Path | None) -> Path:
    """The path to begin with: on the chord, or `start` if it is of that kind and between A and B.

    Raises:
        UnknownNameError: for an unknown kind.
        IncompatibleError: for networks of different architectures, or a start between others.
        ValueError: for fewer than one bend, or a start of another kind or number of bends.
    """
    if kind not in _KINDS:
        raise UnknownNameError("kind of curve", kind, _KINDS)
    path = _KINDS[kind](a, b, bends)
    if start is None:
        return path
    expect(start, Path, "a path to start from")
    found, expected = (len(next(iter(p.control_points.values()))) - 2 for p in (start, path))
    if (start.kind, found) != (path.kind, expected):
        raise ValueError(
            f"expected a start of kind {path.kind} with bends = {expected}, found kind "
            f"{start.kind} with {max(found, 0)}"
        )
    for name, p in path.control_points.items():
        own = start.control_points.get(name)
        if own is None or any(not torch.equal(own[i].to(p), p[i]) for i in (0, -1)):
            raise IncompatibleError(f"expected a start from A to B, found other ends in {name}")
    return start


class Descent(ABC):
    """The bends of a path on their way down, at a step: everything their future depends on.

    Args:
        path: where they begin.
        images: of the steps, `[n, c, h, w]`, on the path's device.
        labels: of the images, `[n]`; None where none are used.
        fingerprint: of the images and labels.
        steps: minibatches in all.
        seed: of the draws, of the order of the images, of augmentation and dropout.
        recipe: see `Recipe`.
        every: after so many steps the history gets a row; an epoch when None.
        draws: how many uniform random numbers a step gets.

    Attributes:
        moving: the network and the control points.
        bends: those that move, `[k - 2, n]`.
    """

    what: ClassVar[str]  # is in training, in the words of its checkpoint
    seen: ClassVar[str]  # the history's name for the mean of what `_step` returns

    def __init__(
        self,
        path: Path,
        images: Tensor,
        labels: Tensor | None,
        fingerprint: str,
        steps: int,
        seed: int,
        recipe: Recipe,
        every: int | None,
        draws: int = 1,
    ):
        for name, number in {"steps": steps, "every": 1 if every is None else every}.items():
            if number < 1:
                raise ValueError(f"expected {name} of at least 1, found {number}")
        self.path, self.steps, self.seed, self.recipe = path, steps, seed, recipe
        self.images, self.labels, self.fingerprint = images, labels, fingerprint
        self.draws = draws
        self.moving = Moving(path)
        self.bends = self.moving.points[1:-1]
        self.steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
        self.every = every or self.steps_per_epoch
        self.start = digest_of(path.control_points)
        self.optimizer = make_optimizer(
            recipe.optimizer, [self.bends], recipe.lr, recipe.momentum, 0.0
        )
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self.total = torch.zeros((), dtype=torch.float64, device=self.bends.device)
        self.random = Chance(seed, self.bends.device)

    @abstractmethod
    def _step(self, batch: Tensor, labels: Tensor | None, draws: Tensor) -> Tensor:
        """Set `self.bends.grad` for one minibatch; return what is minimised, a detached scalar."""

    def _observe(self) -> dict[str, float]:
        """More numbers for the history, measured when a row is due."""
        return {}

    def _extra(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """More tensors and numbers for the checkpoint."""
        return {}, {}

    def _restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:  # noqa: B027
        """What `_extra` kept, from a checkpoint; nothing where it keeps nothing."""

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run."""
        return {
            "kind": self.path.kind,
            "knots": list(self.path.knots),
            "control points": self.start,
            **asdict(self.recipe),
            "steps": self.steps,
            "every": self.every,
            "seed": self.seed,
            "data": self.fingerprint,
        }

    def run(self, watch: Watch | None, progress: bool, file: str | os.PathLike[str] | None) -> None:
        """Take the steps that are left, after resuming from `file` if it is there."""
        if file is not None:
            self._resume(file)
        with Bar(self.steps - self.step, self.what.split()[0], progress) as bar:
            if not self.rows:
                self._note(math.nan, watch)
            with self.random.taken():
                while self.step < self.steps:
                    begun = self.step
                    self._advance(watch, file)
                    bar.advance(self.step - begun)

    def _advance(self, watch: Watch | None, file: str | os.PathLike[str] | None) -> None:
        """Go on to the next row of the history, or the end of the epoch."""
        epoch = self.step // self.steps_per_epoch
        self._steps(
            epoch,
            min(
                self.steps,
                (epoch + 1) * self.steps_per_epoch,
                (self.step // self.every + 1) * self.every,
            ),
        )
        if self.step % self.every and self.step != self.steps:
            return
        self.random.note()
        mean = float(self.total) / (self.step - int(self.rows[-1]["step"]))
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the {self.seen} along the curve became {mean} before step {self.step} with lr = "
                f"{self.recipe.lr}; a smaller learning rate may help"
            )
        self._note(mean, watch)
        if file is not None:
            self._keep(file)

    def _steps(self, epoch: int, until: int) -> None:
        """The steps of one epoch, from where the run is to `until`."""
        recipe, x, y = self.recipe, self.images, self.labels
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        order = torch.randperm(len(x), generator=generator).to(x.device)
        draws = torch.rand(
            self.steps_per_epoch, self.draws, generator=generator, dtype=torch.float64
        )
        while self.step < until:
            place = self.step - epoch * self.steps_per_epoch
            chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
            batch = x[chosen]
            if recipe.augment:
                batch = flip_and_crop(batch)
            if recipe.channels_last:
                batch = batch.contiguous(memory_format=torch.channels_last)
            found = self._step(batch, None if y is None else y[chosen], draws[place])
            rate = learning_rate(recipe.schedule, recipe.lr, self.step, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.total += found
            self.step += 1

    def _note(self, mean: float, watch: Watch | None) -> None:
        """A row of the history."""
        rate = self.optimizer.param_groups[0]["lr"] if self.step else math.nan
        row = {"step": float(self.step), "lr": rate, self.seen: mean, **self._observe()}
        if watch is not None:
            row |= {name: float(value) for name, value in watch(self.moving.current()).items()}
        self.rows.append(row)
        self.total.zero_()

    def result(self) -> Path:
        """The path as it is now, with its history."""
        path = self.moving.current()
        path.history = pd.DataFrame(self.rows).astype({"step": int})
        return path

    def _keep(self, file: str | os.PathLike[str]) -> None:
        more, numbers = self._extra()
        tensors = {"bends": self.bends, **{f"more.{name}": x for name, x in more.items()}}
        tensors |= {f"random.{name}": x for name, x in self.random.state.items()}
        kept = optimizer_tensors(self.optimizer)
        tensors |= {f"optimizer.{name}": x for name, x in kept.items()}
        rows = [{k: None if v != v else v for k, v in row.items()} for row in self.rows]
        header = {"identity": self.identity(), "step": self.step, "rows": rows, **numbers}
        write_tensors(file, self.what, tensors, header)

    def _resume(self, file: str | os.PathLike[str]) -> None:
        """Go to where the run was when it was last kept; nothing if it never was."""
        if not File(file).exists():
            return
        tensors, header = read_tensors(file, self.what)
        check_identity(file, header["identity"], self.identity())
        parts: dict[str, dict[str, Tensor]] = {
            "bends": {},
            "random": {},
            "optimizer": {},
            "more": {},
        }
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.bends.copy_(parts["bends"][""])
        self.random.state = parts["random"]
        restore_optimizer_(self.optimizer, parts["optimizer"])
        self.step = header["step"]
        self.rows = [
            {k: math.nan if v is None else v for k, v in row.items()} for row in header["rows"]
        ]
        self._restore(parts["more"], header)
