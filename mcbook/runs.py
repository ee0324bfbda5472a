"""One training run, step by step: its state, keeping it, going on from it, forking it.

Every random choice follows from the seed: the order of epoch `e` is a function of `(seed, e)`, the
learning rate of the step, and augmentation and dropout draw from a generator whose state is kept
with the weights.  So a run that is interrupted goes on to the same weights, bit for bit, as one
that is not, and a run can be forked at any step.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from . import weights
from .augmentation import flip_and_crop
from .data import Data
from .errors import IncompatibleError, UnknownNameError
from .evaluation import evaluate
from .modules import annotate
from .optimization import OPTIMIZERS, SCHEDULES, learning_rate, make_optimizer
from .progress import Bar
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


def _mix(seed: int, epoch: int) -> int:
    """A seed for every epoch of every seed, far apart."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]) >> 1


class Run:
    """A training run at a step: everything its future depends on."""

    def __init__(self, model: nn.Module, data: Data, epochs: float, seed: int, recipe: Recipe):
        self.data, self.recipe, self.seed, self.epochs = data, recipe, seed, epochs
        weights.check_finite(weights.of(model), "the network to train")
        self.model = copy.deepcopy(model).to(data.train.x.device)
        self.start = _digest(self.model)
        if recipe.channels_last:
            _arrange(self.model, torch.channels_last)
        self.optimizer = self._optimizer(self.model)
        self.steps_per_epoch = math.ceil(len(data.train) / recipe.batch_size)
        if not 0 <= epochs < math.inf:
            raise ValueError(f"expected a number of epochs of at least 0, found {epochs}")
        self._check_last_batch()
        self.total = round(epochs * self.steps_per_epoch)
        self.step = 0
        self.shared: int | None = None  # steps before a fork; part of what the run is
        self.rows: list[dict[str, float]] = []
        self.seen: list[float] = [0.0, 0.0, 0.0]  # loss, correct, images of this epoch so far
        self.random = self._seeded(seed)

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
        if seed != self.seed:
            other.seed, other.random = seed, self._seeded(seed)
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
        with torch.random.fork_rng(devices=self._cuda()):
            self._restore_random()
            while self.step < until:
                epoch = self.step // self.steps_per_epoch
                end = min(until, (epoch + 1) * self.steps_per_epoch)
                self._steps(epoch, end, bar)
                if self.step % self.steps_per_epoch == 0 or self.step == self.total:
                    self._finish_epoch()
                self.random = self._current_random()
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
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
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

    def _check_last_batch(self) -> None:
        """One image has no variance: refuse to end an epoch with it where batch norm needs one."""
        n, size = len(self.data.train), self.recipe.batch_size
        if n % size == 1 and any(isinstance(m, nn.BatchNorm1d) for m in self.model.modules()):
            raise ValueError(
                f"expected a batch_size whose last batch has at least two images (the network "
                f"has BatchNorm1d layers), found {size}: {n} = {n // size} × {size} + 1"
            )

    def _seeded(self, seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=self._cuda()):
            torch.manual_seed(_mix(seed, 0))
            return self._current_random()

    def _cuda(self) -> list[torch.device]:
        device = self.data.train.x.device
        return [device] if device.type == "cuda" else []

    def _current_random(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        for device in self._cuda():
            state["cuda"] = torch.cuda.get_rng_state(device)
        return state

    def _restore_random(self) -> None:
        torch.set_rng_state(self.random["cpu"])
        for device in self._cuda():
            torch.cuda.set_rng_state(self.random["cuda"], device)

    def _keep(self, file: str | os.PathLike[str]) -> None:
        tensors = {f"model.{name}": x for name, x in weights.of(self.model).items()}
        tensors |= {f"random.{name}": x for name, x in self.random.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
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
        for key, value in self.identity().items():
            if header["identity"].get(key) != value:
                raise IncompatibleError(
                    f"{file} is a checkpoint of another run: expected {key} = {value!r}, found "
                    f"{header['identity'].get(key)!r}; give another file or delete this one"
                )
        if header["step"] < self.step:
            return  # the run that continues is already further
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "random": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.random = parts["random"]
        state = self.optimizer.state_dict()
        state["state"] = {}
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            parameter = trained[int(index)]
            if tensor.shape == parameter.shape:
                # in the parameter's memory layout: fused optimizers walk through both at once
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            state["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(state)
        self.step, self.rows, self.seen = header["step"], header["rows"], header["seen"]


def _arrange(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the kernels of convolutions in memory; their values stay the same."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights.of(model).items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
