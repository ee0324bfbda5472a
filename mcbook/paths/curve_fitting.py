"""Training a curve: the bends are moved until the loss is low all along it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path as File
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import flip_and_crop
from ..checkpoints import (
    Chance,
    check_identity,
    digest_of,
    epoch_seed,
    optimizer_tensors,
    restore_optimizer_,
)
from ..data import Data
from ..errors import IncompatibleError, UnknownNameError, expect
from ..optimization import learning_rate, make_optimizer
from ..progress import Bar
from ..runs import Recipe, check_last_batch
from ..saving import read_tensors, write_tensors
from ..training import checked_recipe
from .base import Path
from .bezier import BezierPath
from .moving import Moving
from .polychain import PolychainPath

__all__ = ["fit_curve"]

_KINDS: dict[str, type[BezierPath] | type[PolychainPath]] = {
    "bezier": BezierPath,
    "polychain": PolychainPath,
}
_DEFAULTS = {"optimizer": "adam", "lr": 0.003, "schedule": "cosine"}

Watch = Callable[[Path], Mapping[str, float]]


def fit_curve(
    a: nn.Module,
    b: nn.Module,
    data: Data,
    kind: str = "bezier",
    bends: int = 1,
    steps: int = 1000,
    seed: int = 0,
    start: Path | None = None,
    watch: Watch | None = None,
    every: int | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **recipe: Any,
) -> Path:
    """Train the bends of a curve from A to B on the loss along it.

    Minimises, over the bends of the curve θ(t), whose ends stay where they are,

        E_{t ~ U[0, 1]} [ L(θ(t)) + (λ / 2) ‖θ(t)‖² ],

    with one `t` and one minibatch a step.  The network at `t` is an ordinary network: its gradient
    `g` is computed as always, and reaches bend `k` as `c_k(t) g`, by the chain rule.  (For one
    bend of a Bezier curve `c(t) = 2 t (1 - t)`.)  The weight decay λ acts on the point of the
    curve, not on the bends.  Uniform `t` is not uniform along the length of the curve; both papers
    accept that.  Batch norm uses the statistics of each minibatch, as in training; what it stores
    is not trained, and is on the chord: `profile` measures it anew at each point.

    Sources: Garipov et al. (2018), section 3; Tatro et al. (2020), who align B first.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, aligned or not.  Neither is changed.
        data: the training images are used.
        kind: `bezier` or `polychain`.
        bends: how many inner control points; they begin on the chord.
        steps: minibatches in all.
        seed: of the `t`, of the order of the images, of augmentation and dropout.
        start: a curve from A to B of this kind and number of bends, to begin from instead.
        watch: a function from the path so far to numbers, by name, that go into the history.
        every: after so many steps the history gets a row and the checkpoint is kept; an epoch when
            None.
        progress: whether to show a bar.
        checkpoint: a file that keeps the run.  If it is there, the run goes on from it; a finished
            run is returned as it is.
        **recipe: see `Recipe`; here by default `optimizer="adam"`, `lr=0.003`, `schedule="cosine"`.
            With `attack` every batch is perturbed for the network at its `t`.

    Returns:
        The path, with `.history`, a table: `step`, `lr`, `loss` (the mean over the points and
        minibatches since the row before, without weight decay), and what `watch` says; its first
        row is the start.

    Raises:
        UnknownNameError: for an unknown kind, or name in the recipe.
        IncompatibleError: for networks of different architectures, a start between others, or a
            checkpoint of another run.
        FloatingPointError: when the loss becomes NaN or infinite.
        ValueError: for fewer than one bend or step, no images, a start of another kind or degree,
            or numbers no run can use.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu").subset(train=64, test=10)
        >>> a, b = (mc.build_model("mlp", data, width=(4,), seed=s) for s in (0, 1))
        >>> mc.fit_curve(a, b, data, steps=2, progress=False)
        BezierPath(control points=3, weights=314)
    """
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    if kind not in _KINDS:
        raise UnknownNameError("kind of curve", kind, _KINDS)
    for name, number in {"steps": steps, "every": 1 if every is None else every}.items():
        if number < 1:
            raise ValueError(f"expected {name} of at least 1, found {number}")
    if len(data.train) == 0:
        raise ValueError("expected training images to fit a curve on, found none")
    path: Path = _KINDS[kind](a, b, bends)
    if start is not None:
        path = _checked_start(start, path)
    fit = _Fit(path, data, steps, seed, checked_recipe({**_DEFAULTS, **recipe}), every)
    if checkpoint is not None:
        fit.resume(checkpoint)
    with Bar(steps - fit.step, "curve", progress) as bar:
        fit.advance(bar, watch, checkpoint)
    return fit.result()


def _checked_start(start: Path, path: Path) -> Path:
    """The start, if it is a curve like `path`."""
    expect(start, Path, "a path to start from")
    bends, expected = (len(next(iter(p.control_points.values()))) - 2 for p in (start, path))
    if (start.kind, bends) != (path.kind, expected):
        raise ValueError(
            f"expected a start of kind {path.kind} with bends = {expected}, found kind "
            f"{start.kind} with {max(bends, 0)}"
        )
    for name, p in path.control_points.items():
        own = start.control_points.get(name)
        if own is None or any(not torch.equal(own[i].to(p), p[i]) for i in (0, -1)):
            raise IncompatibleError(f"expected a start from A to B, found other ends in {name}")
    return start


class _Fit:
    """A curve in training, at a step: everything its future depends on."""

    def __init__(
        self, path: Path, data: Data, steps: int, seed: int, recipe: Recipe, every: int | None
    ):
        self.path, self.steps, self.seed, self.recipe = path, steps, seed, recipe
        self.moving = Moving(path)
        self.bends = self.moving.points[1:-1]
        device = self.bends.device
        self.data = data.to(device)
        images = len(data.train)
        check_last_batch(self.moving.model, images, recipe.batch_size)
        self.steps_per_epoch = math.ceil(images / recipe.batch_size)
        self.every = every or self.steps_per_epoch
        self.start = digest_of(path.control_points)
        self.optimizer = make_optimizer(
            recipe.optimizer, [self.bends], recipe.lr, recipe.momentum, 0.0
        )
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self.loss = torch.zeros((), dtype=torch.float64, device=device)  # since the last row
        self.random = Chance(seed, device)

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
            "data": self.data.fingerprint,
        }

    def advance(self, bar: Bar, watch: Watch | None, file: str | os.PathLike[str] | None) -> None:
        """Take the steps that are left."""
        if not self.rows:
            self._note(math.nan, watch)
        with self.random.taken():
            while self.step < self.steps:
                epoch = self.step // self.steps_per_epoch
                begun = self.step
                until = min(
                    self.steps,
                    (epoch + 1) * self.steps_per_epoch,
                    (self.step // self.every + 1) * self.every,
                )
                self._advance(epoch, until)
                if self.step % self.every == 0 or self.step == self.steps:
                    self.random.note()
                    since = self.step - int(self.rows[-1]["step"])
                    loss = float(self.loss) / since
                    if not math.isfinite(loss):
                        raise FloatingPointError(
                            f"the loss along the curve became {loss} before step {self.step} with "
                            f"lr = {self.recipe.lr}; a smaller learning rate may help"
                        )
                    self._note(loss, watch)
                    if file is not None:
                        self._keep(file)
                bar.advance(self.step - begun)

    def _advance(self, epoch: int, until: int) -> None:
        """The steps of one epoch, from where the run is to `until`."""
        recipe, x, y = self.recipe, self.data.train.x, self.data.train.y
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        order = torch.randperm(len(y), generator=generator).to(x.device)
        times = torch.rand(self.steps_per_epoch, generator=generator, dtype=torch.float64).tolist()
        low = recipe.precision == "bfloat16"
        while self.step < until:
            place = self.step - epoch * self.steps_per_epoch
            t = times[place]
            chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
            batch, labels = x[chosen], y[chosen]
            coefficients = self.path.coefficients(t).to(self.bends)
            self.moving.to(coefficients)
            if recipe.augment:
                batch = flip_and_crop(batch)
            if recipe.channels_last:
                batch = batch.contiguous(memory_format=torch.channels_last)
            if recipe.attack is not None:
                batch = recipe.attack.perturb(self.moving.model, batch, labels)
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
                logits = self.moving.model(batch)
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()
            slope = self.moving.slope()
            if recipe.weight_decay:
                slope.add_(self.moving.point, alpha=recipe.weight_decay)
            self.bends.grad = coefficients[1:-1, None] * slope
            rate = learning_rate(recipe.schedule, recipe.lr, self.step, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.loss += loss.detach()
            self.step += 1

    def _note(self, loss: float, watch: Watch | None) -> None:
        """A row of the history."""
        rate = self.optimizer.param_groups[0]["lr"] if self.step else math.nan
        row = {"step": float(self.step), "lr": rate, "loss": loss}
        if watch is not None:
            row |= {name: float(value) for name, value in watch(self.moving.current()).items()}
        self.rows.append(row)
        self.loss.zero_()

    def result(self) -> Path:
        """The path with its history."""
        path = self.moving.current()
        path.history = pd.DataFrame(self.rows).astype({"step": int})
        return path

    def _keep(self, file: str | os.PathLike[str]) -> None:
        tensors = {"bends": self.bends}
        tensors |= {f"random.{name}": x for name, x in self.random.state.items()}
        kept = optimizer_tensors(self.optimizer)
        tensors |= {f"optimizer.{name}": x for name, x in kept.items()}
        rows = [{k: None if v != v else v for k, v in row.items()} for row in self.rows]
        header = {"identity": self.identity(), "step": self.step, "rows": rows}
        write_tensors(file, "curve in training", tensors, header)

    def resume(self, file: str | os.PathLike[str]) -> None:
        """Go to where the run was when it was last kept; nothing if it never was."""
        if not File(file).exists():
            return
        tensors, header = read_tensors(file, "curve in training")
        check_identity(file, header["identity"], self.identity())
        parts: dict[str, dict[str, Tensor]] = {"bends": {}, "random": {}, "optimizer": {}}
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
