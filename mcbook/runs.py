"""One training run, step by step: its state, keeping it, going on from it, forking it.

Every random choice follows from the seed: the order of epoch `e` is a function of `(seed, e)`, the
learning rate of the step, and augmentation and dropout draw from a generator whose state is kept
with the weights.  So a run that is interrupted goes on to the same weights, bit for bit, as one
that is not, and a run can be forked at any step.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from . import weights
from .augmentation import flip_and_crop
from .checkpoints import (
    Chance,
    check_identity,
    digest_of,
    epoch_seed,
    optimizer_tensors,
    restore_optimizer_,
)
from .data import Data
from .errors import UnknownNameError, expect
from .evaluation import evaluate
from .modules import annotate
from .optimization import OPTIMIZERS, SCHEDULES, learning_rate, make_optimizer
from .progress import Bar
from .robustness import PGD
from .saving import read_tensors, write_tensors

__all__ = ["Recipe", "Run"]

_PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        optimizer: `sgd`, `adam` or `adamw`.
        lr: the (highest) learning rate.
        momentum: of SGD.
        weight_decay: on all parameters.
        batch_size: the last, shorter batch of an epoch is kept.
        schedule: `constant`, `cosine` or `onecycle`, over all steps of the run.
        augment: mirror and shift the images (`augmentation.flip_and_crop`).
        precision: `float32`, or `bfloat16` for autocast where the machine has it in hardware.
        channels_last: the memory layout convolutions are often faster in.
        attack: train on batches that it perturbs (adversarial training; see `robustness.PGD`).
    """

    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    schedule: str = "constant"
    augment: bool = False
    precision: str = "float32"
    channels_last: bool = False
    attack: PGD | None = None

    def __post_init__(self) -> None:
        """Refuse what no run could use."""
        for kind, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, _PRECISIONS),
        ):
            if value not in known:
                raise UnknownNameError(kind, value, known)
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise ValueError(f"expected a learning rate above 0, found {self.lr}")
        if self.batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, found {self.batch_size}")
        if self.attack is not None:
            expect(self.attack, PGD, "an attack, such as PGD(epsilon=8 / 255, step=2 / 255)")


class Run:
    """A training run at a step: everything its future depends on."""

    def __init__(self, model: nn.Module, data: Data, epochs: float, seed: int, recipe: Recipe):
        self.data, self.recipe, self.seed, self.epochs = data, recipe, seed, epochs
        weights.check_finite(weights.of(model), "the network to train")
        self.model = copy.deepcopy(model).to(data.train.x.device)
        self.start = digest_of(weights.of(self.model))
        if recipe.channels_last:
            _arrange(self.model, torch.channels_last)
        self.optimizer = self._optimizer(self.model)
        self.steps_per_epoch = math.ceil(len(data.train) / recipe.batch_size)
        if not 0 <= epochs < math.inf:
            raise ValueError(f"expected a number of epochs of at least 0, found {epochs}")
        check_last_batch(self.model, len(data.train), recipe.batch_size)
        self.total = round(epochs * self.steps_per_epoch)
        self.step = 0
        self.shared: int | None = None  # steps before a fork; part of what the run is
        self.rows: list[dict[str, float]] = []
        self.seen: list[float] = [0.0, 0.0, 0.0]  # loss, correct, images of this epoch so far
        self.random = Chance(seed, data.train.x.device)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run."""
        return {
            **asdict(self.recipe),
            "epochs": self.epochs,
            "seed": self.seed,
            "shared steps": self.shared,
            "data": self.data.fingerprint,
            "initial weights": self.start,
        }

    def fork(self, seed: int) -> Run:
        """This run from here on with another seed; with its own seed, simply a copy."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizer = self._optimizer(other.model)
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        other.rows, other.seen = list(self.rows), list(self.seen)
        other.random = copy.copy(self.random)
        if seed != self.seed:
            other.seed, other.random = seed, Chance(seed, self.data.train.x.device)
            other.start = f"{self.start} forked from seed {self.seed} at step {self.step}"
        self._check_twin(other)
        return other

    def _check_twin(self, other: Run) -> None:
        """Assert that a fork has this run's weights and optimizer state, in tensors of its own."""
        for one, copied in (
            (self.model.state_dict(), other.model.state_dict()),
            (self.optimizer.state_dict(), other.optimizer.state_dict()),
        ):
            for x, y in zip(tree_leaves(one), tree_leaves(copied), strict=True):
                if isinstance(x, Tensor):
                    assert torch.equal(x, y), "a fork began with other weights than the run had"
                    assert x.data_ptr() != y.data_ptr() or x.numel() == 0, "a fork shares tensors"

    def advance(self, until: int, bar: Bar, checkpoint: str | os.PathLike[str] | None) -> None:
        """Take steps until there are `until` of them; keep the run after every epoch."""
        with self.random.taken():
            while self.step < until:
                epoch = self.step // self.steps_per_epoch
                end = min(until, (epoch + 1) * self.steps_per_epoch)
                self._steps(epoch, end, bar)
                if self.step % self.steps_per_epoch == 0 or self.step == self.total:
                    self._finish_epoch()
                self.random.note()
                if checkpoint is not None:
                    self._keep(checkpoint)

    def result(self) -> nn.Module:
        """The trained module."""
        self.model.zero_grad(set_to_none=True)
        model = copy.deepcopy(self.model)
        _arrange(model, torch.contiguous_format)
        columns = ["epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
        annotate(model, history=pd.DataFrame(self.rows, columns=columns))
        if not hasattr(model, "example_shape"):
            annotate(model, example_shape=self.data.shape)
        return model.eval()

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        r = self.recipe
        trained = [p for p in model.parameters() if p.requires_grad]
        return make_optimizer(r.optimizer, trained, r.lr, r.momentum, r.weight_decay)

    def _steps(self, epoch: int, end: int, bar: Bar) -> None:
        """The steps of one epoch, from where the run is to `end`."""
        recipe, x, y = self.recipe, self.data.train.x, self.data.train.y
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        order = torch.randperm(len(y), generator=generator).to(x.device)
        total_loss = torch.zeros((), dtype=torch.float64, device=x.device)
        total_correct = torch.zeros((), dtype=torch.int64, device=x.device)
        images = 0
        low = recipe.precision == "bfloat16"
        self.model.train()
        while self.step < end:
            first = (self.step - epoch * self.steps_per_epoch) * recipe.batch_size
            chosen = order[first : first + recipe.batch_size]
            batch, labels = x[chosen], y[chosen]
            if recipe.augment:
                batch = flip_and_crop(batch)
            if recipe.channels_last:
                batch = batch.contiguous(memory_format=torch.channels_last)
            if recipe.attack is not None:
                batch = recipe.attack.perturb(self.model, batch, labels)
            rate = learning_rate(recipe.schedule, recipe.lr, self.step, self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
                logits = self.model(batch)
            logits = logits.float()
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.step += 1
            images += len(chosen)
            total_loss += loss.detach() * len(chosen)
            total_correct += (logits.detach().argmax(1) == labels).sum()
            bar.advance()
        self.seen[0] += float(total_loss)
        self.seen[1] += float(total_correct)
        self.seen[2] += images

    def _finish_epoch(self) -> None:
        loss, correct, images = self.seen
        epoch = self.step / self.steps_per_epoch
        test_loss, test_accuracy = evaluate(self.model, self.data.test)
        # the test loss too: it is the only one to see what the last step did
        for split, found in (("training", loss), ("test", test_loss)):
            if not math.isfinite(found):
                raise FloatingPointError(
                    f"the {split} loss became {found} in epoch {math.ceil(epoch)} with lr = "
                    f"{self.recipe.lr}; a smaller learning rate may help"
                )
        self.rows.append(
            {
                "epoch": epoch,
                "lr": self.optimizer.param_groups[0]["lr"],
                "train_loss": loss / images,
                "train_accuracy": correct / images,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
            }
        )
        self.seen = [0.0, 0.0, 0.0]

    def _keep(self, file: str | os.PathLike[str]) -> None:
        tensors = {f"model.{name}": x for name, x in weights.of(self.model).items()}
        tensors |= {f"random.{name}": x for name, x in self.random.state.items()}
        kept = optimizer_tensors(self.optimizer)
        tensors |= {f"optimizer.{name}": x for name, x in kept.items()}
        header = {
            "identity": self.identity(),
            "step": self.step,
            "rows": self.rows,
            "seen": self.seen,
        }
        write_tensors(file, "training", tensors, header)

    def resume(self, file: str | os.PathLike[str] | None) -> None:
        """Go to where the run was when it was last kept; nothing if it never was."""
        if file is None or not Path(file).exists():
            return
        tensors, header = read_tensors(file, "training")
        check_identity(file, header["identity"], self.identity())
        if header["step"] < self.step:
            return  # the run that continues is already further
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "random": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.random.state = parts["random"]
        restore_optimizer_(self.optimizer, parts["optimizer"])
        self.step, self.rows, self.seen = header["step"], header["rows"], header["seen"]


def _arrange(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the kernels of convolutions in memory; their values stay the same."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def check_last_batch(model: nn.Module, n: int, size: int) -> None:
    """One image has no variance: refuse to end an epoch with it where batch norm needs one.

    Raises:
        ValueError: when the last of the batches of `size` of `n` images is a single one, and the
            model has BatchNorm1d layers.
    """
    if n % size == 1 and any(isinstance(m, nn.BatchNorm1d) for m in model.modules()):
        raise ValueError(
            f"expected a batch_size whose last batch has at least two images (the network "
            f"has BatchNorm1d layers), found {size}: {n} = {n // size} × {size} + 1"
        )
