"""A run of proximal alternating minimisation: its rounds, and what is kept of them."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path as File
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .. import weights
from ..checkpoints import check_identity, digest_of, epoch_seed
from ..data import Data
from ..errors import UnknownNameError
from ..evaluation import evaluate
from ..normalization import has_batch_norm, measure_statistics_
from ..optimization import OPTIMIZERS, learning_rate
from ..paths.base import Path
from ..paths.bezier import BezierPath
from ..paths.curve_fitting import fit_curve
from ..paths.linear import LinearPath
from ..progress import Bar
from ..saving import read_tensors, write_tensors
from ..symmetry.permutations import Permutation
from ..symmetry.permuting import permute
from ..symmetry.spec import PermutationSpec
from .alignment import Alignment, aligned
from .relaxation import Relaxation

__all__ = ["Options", "Run"]

# the loss along the curve is measured on so many training images
_IMAGES = 10_000


@dataclass(frozen=True)
class Options:
    """What `proximal_alternating` was told, but for the networks, the data and the start."""

    steps: int
    lr: float
    optimizer: str
    schedule: str
    batch_size: int
    draws: int
    terms: int
    nu: float
    points: int
    rounds: int
    curve_steps: int
    curve_recipe: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def check(self) -> None:
        """Refuse numbers no run can use."""
        for name in ("steps", "batch_size", "terms", "points", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, found {getattr(self, name)}")
        for name in ("draws", "curve_steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} of at least 0, found {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"expected a learning rate above 0, found {self.lr}")
        if not self.nu > 0:
            raise ValueError(f"expected nu above 0, found {self.nu}")
        if self.optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", self.optimizer, OPTIMIZERS)
        learning_rate(self.schedule, self.lr, 0, 1)  # refuses an unknown one
        if self.curve_recipe and not self.curve_steps:
            raise ValueError(
                f"expected no curve_recipe where curve_steps is 0, found {self.curve_recipe}"
            )


class Run:
    """Everything the future of a run depends on."""

    loss: float  # along the curve, of the permutation and the bend so far
    objective: list[float]

    def __init__(
        self,
        a: nn.Module,
        b: nn.Module,
        data: Data,
        spec: PermutationSpec,
        p: Permutation,
        options: Options,
    ):
        self.a, self.b, self.data, self.spec, self.options = a, b, data, spec, options
        self.permutation = p
        self.relaxation = Relaxation(a, spec)
        images = data if len(data.train) <= _IMAGES else data.subset(train=_IMAGES)
        self.images = images.train
        self.steps_per_epoch = math.ceil(len(data.train) / options.batch_size)
        self.offset: dict[str, Tensor] = {}  # of the bend from the midpoint; empty for the line
        self.round = 0
        self.facts = {"soft_loss": math.nan, "rounded_loss": math.nan}
        self.history: list[tuple[int, int, float, float]] = []
        self.losses: list[tuple[int, str, float]] = []
        self.identity = {
            **{name: x for name, x in asdict(options).items() if name != "curve_recipe"},
            "curve_recipe": {name: repr(x) for name, x in options.curve_recipe.items()},
            "spaces": list(spec.spaces),
            "A": digest_of(weights.of(a)),
            "B": digest_of(weights.of(b)),
            "start": digest_of(p),
            "data": data.fingerprint,
        }
        self._open()

    def begin(self) -> None:
        """Measure the start."""
        self.loss = self._loss(self._moved(self.permutation))
        if not math.isfinite(self.loss):
            raise FloatingPointError(f"expected a finite loss at the start, found {self.loss}")
        self.objective = [-self.loss]

    def left(self) -> int:
        """How many steps and candidates are still to come."""
        o = self.options
        return (o.rounds - self.round) * (o.steps + o.draws + 1) - self.step

    def _open(self) -> None:
        """Begin a round, with B as it stands."""
        self.opened, self.step = self.permutation, 0
        o = self.options
        self.relaxation.begin(self._moved(self.opened), o.optimizer, o.lr)

    def climb(self, bar: Bar, file: str | os.PathLike[str] | None) -> None:
        """The steps of a round that are left: P is trained."""
        o, split = self.options, self.data.train
        # no two rounds see the same batches
        before = self.round * math.ceil(o.steps / self.steps_per_epoch)
        while self.step < o.steps:
            epoch, first = divmod(self.step, self.steps_per_epoch)
            generator = torch.Generator().manual_seed(epoch_seed(o.seed, before + epoch))
            order = torch.randperm(len(split), generator=generator).to(split.x.device)
            times = torch.rand(self.steps_per_epoch, generator=generator).tolist()
            batches = list(zip(times, order.split(o.batch_size), strict=True))
            for t, chosen in batches[first : first + o.steps - self.step]:
                rate = learning_rate(o.schedule, o.lr, self.step, o.steps)
                batch = split.x[chosen], split.y[chosen]
                loss = self.relaxation.lower(t, *batch, rate, o.nu, self.offset)
                self.step += 1
                self.history.append((self.round + 1, self.step, t, loss))
                bar.advance(loss=loss)
            if file is not None:
                self.keep(file)

    def choose(self, bar: Bar) -> None:
        """Round P, and take the best candidate if it is better than the permutation so far."""
        o = self.options
        softened = self._moved(self.opened)
        self.relaxation.put_into(softened)
        self.facts["soft_loss"] = self._loss(softened)
        self.losses.append((self.round + 1, "old", self.loss))
        known = {digest_of(self.opened): self.loss}
        for name, found in self.relaxation.candidates(o.draws, o.terms, [o.seed, self.round]):
            p = found @ self.opened
            loss = known.get(digest_of(p))
            if loss is None:
                loss = known[digest_of(p)] = self._loss(self._moved(p))
            self.losses.append((self.round + 1, name, loss))
            if name == "hungarian":
                self.facts["rounded_loss"] = loss
            if loss < self.loss:  # the old one where none is lower; never NaN
                self.permutation, self.loss = p, loss
            bar.advance(loss=self.loss)

    def bend(self, progress: bool, file: str | os.PathLike[str] | None) -> None:
        """Fit the bend, and keep it if the loss along the curve is lower."""
        o = self.options
        beside = None
        if file is not None:
            whole = File(file)
            beside = whole.with_name(f"{whole.stem}-curve{self.round + 1}{whole.suffix}")
        moved, before = self._moved(self.permutation), self.offset
        path = fit_curve(
            self.a,
            moved,
            self.data,
            kind="bezier",
            bends=1,
            steps=o.curve_steps,
            seed=o.seed + self.round,
            start=self._curve(moved),
            progress=progress,
            checkpoint=beside,
            **{"batch_size": o.batch_size, **o.curve_recipe},
        )
        middle = LinearPath(self.a, moved).at(0.5)
        points = path.control_points
        self.offset = {name: points[name][1] - middle[name] for name in self.relaxation.fixed}
        loss = self._loss(moved)
        self.losses.append((self.round + 1, "curve", loss))
        if loss < self.loss:
            self.loss = loss
        else:
            self.offset = before

    def finish_round(self) -> None:
        """Note whether it was worth it, and go on to the next."""
        if -self.loss > self.objective[-1]:
            self.objective.append(-self.loss)
        self.round += 1
        if self.round < self.options.rounds:
            self._open()

    def _moved(self, p: Permutation) -> nn.Module:
        return permute(self.b, p, self.spec)

    def _curve(self, moved: nn.Module) -> BezierPath:
        """The curve from A to B as it was moved."""
        bend = LinearPath(self.a, moved).at(0.5)
        for name, first in self.spec.aliases.items():  # tied weights are bent under each name
            if first in self.offset:
                bend[name] = bend[name] + self.offset[first]
        bend.update({name: bend[name] + x for name, x in self.offset.items()})
        return BezierPath(self.a, moved, [bend])

    def _loss(self, moved: nn.Module) -> float:
        """The mean training loss along the curve."""
        path: Path = self._curve(moved) if self.offset else LinearPath(self.a, moved)
        losses = []
        for i in range(self.options.points):
            model = path.model_at((i + 0.5) / self.options.points)
            if has_batch_norm(model):
                measure_statistics_(model, self.images.x)
            losses.append(evaluate(model, self.images)[0])
        return math.fsum(losses) / len(losses)

    def result(self) -> Alignment:
        """The alignment, with all that was measured."""
        matrices = self.relaxation.of_spaces()
        facts: dict[str, Any] = {
            **self.facts,
            "matrices": {n: p @ self.opened.matrix(n, p.dtype) for n, p in matrices.items()},
            "losses": pd.DataFrame(self.losses, columns=["round", "candidate", "loss"]),
            "history": pd.DataFrame(self.history, columns=["round", "step", "t", "loss"]),
            "fixed": list(self.relaxation.soft.fixed),
        }
        if self.options.curve_steps:
            facts["path"] = self._curve(self._moved(self.permutation))
        return aligned(
            self.b, self.permutation, self.spec, self.objective, "proximal alternating", **facts
        )

    def keep(self, file: str | os.PathLike[str]) -> None:
        """Write the run as it stands."""
        tensors = self.relaxation.tensors()
        tensors |= {f"offset.{name}": x for name, x in self.offset.items()}
        for kind, p in (("now", self.permutation), ("opened", self.opened)):
            tensors |= {f"{kind}.{name}": vector for name, vector in p.items()}
        names = ("identity", "round", "step", "loss", "objective", "facts", "history", "losses")
        header = {name: getattr(self, name) for name in names}
        write_tensors(file, "proximal run", tensors, header)

    def resume(self, file: str | os.PathLike[str]) -> bool:
        """Go to where a run was when it was last kept; whether there is one."""
        if not File(file).exists():
            return False
        tensors, header = read_tensors(file, "proximal run")
        check_identity(file, header["identity"], self.identity)
        opened, self.permutation = (
            Permutation({name: tensors[f"{kind}.{name}"] for name in self.permutation})
            for kind in ("opened", "now")
        )
        self.opened = opened
        o = self.options
        self.relaxation.begin(self._moved(opened), o.optimizer, o.lr)
        self.relaxation.restore(tensors)
        for name, x in self.relaxation.fixed.items():
            if f"offset.{name}" in tensors:
                self.offset[name] = tensors[f"offset.{name}"].to(x)
        self.round, self.step, self.loss = header["round"], header["step"], header["loss"]
        self.objective, self.facts = header["objective"], header["facts"]
        self.history = [(int(r), int(s), t, x) for r, s, t, x in header["history"]]
        self.losses = [(int(r), name, x) for r, name, x in header["losses"]]
        return True
