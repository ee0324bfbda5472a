"""The straight-through estimator: a permutation learned from the loss halfway between."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..data import Data, Split
from ..errors import IncompatibleError, UnknownNameError, expect
from ..evaluation import evaluate
from ..normalization import reset_batch_norm
from ..optimization import learning_rate, make_optimizer
from ..paths.linear import LinearPath
from ..progress import Bar
from ..saving import read_tensors, write_tensors
from ..symmetry.permutations import Permutation
from ..symmetry.permuting import permute
from ..symmetry.spec import PermutationSpec
from ..threads import one_thread
from .alignment import Alignment, aligned, check_networks
from .gains import Pair, compared
from .weight_matching import Descent, permutation_of

__all__ = ["straight_through"]

STARTS = ("a", "random")
# the loss at the midpoint is measured on so many training images
_IMAGES = 10_000


def straight_through(
    a: nn.Module,
    b: nn.Module,
    data: Data,
    epochs: int = 20,
    lr: float = 0.01,
    momentum: float = 0.9,
    optimizer: str = "sgd",
    schedule: str = "constant",
    batch_size: int = 64,
    start: str | Alignment | Permutation = "a",
    spec: PermutationSpec | None = None,
    example: Any = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Alignment:
    r"""Reorder B's hidden units so that the loss halfway between A and π(B) is low.

    Free weights :math:`\tilde\theta` stand in A's place: the permutation is the one that weight
    matching gives for them, and they are trained on the loss halfway,

    .. math::

        \min_{\tilde\theta} L\bigl(\tfrac12 (A + \pi(B))\bigr), \qquad
        \pi = \arg\max_\pi \langle \tilde\theta, \pi(B) \rangle .

    The forward pass uses π(B); in the backward pass it is replaced by :math:`\tilde\theta`
    (:math:`\pi(B) + \tilde\theta - \mathrm{sg}(\tilde\theta)`, where sg stops the gradient), since
    an assignment has no gradient of its own (Ainsworth et al. 2023, algorithm 2).  At every step
    the matching goes on from the last permutation.  After each epoch the midpoint's loss is
    measured, and the best permutation of all epochs is returned, that of the start among them.

    What comes out depends on where :math:`\tilde\theta` starts.  From A itself the first
    permutation *is* that of weight matching, and is hardly left again; a random start shows what
    the loss alone asks for.

    Args:
        a: stays as it is.
        b: a network of the same architecture; it is not changed.
        data: the loss is that on its training images.
        epochs: passes over them.
        lr: the learning rate.
        momentum: of SGD.
        optimizer: `sgd`, `adam` or `adamw`.
        schedule: `constant`, `cosine` or `onecycle`.
        batch_size: images a step.
        start: `a`: the free weights start at A; `random`: at random numbers, with the mean and
            standard deviation of each tensor of A; or at A with an alignment or permutation to
            begin with.
        spec: of the architecture; traced from `a` when None.
        example: an input for the trace, where the networks carry none.
        seed: of the batches, the visiting orders and the random start.
        progress: whether to show a bar.
        checkpoint: a file that keeps the run after every epoch; if it is there, the run goes on.

    Returns:
        π(B) and its permutation.  `objective` is minus the midpoint's training loss (on at most
        10,000 images, batch-norm statistics measured on them) at the start and whenever it became
        better; `facts["history"]` has it after every epoch.

    Raises:
        TypeError: for something that is no module, data, spec or start.
        IncompatibleError: for networks of different architectures, a spec of another one, or a
            checkpoint of another run.
        UnknownNameError: for an unknown start, optimizer or schedule.
        ValueError: for weights that are not finite, or numbers no run can use.
        FloatingPointError: when the loss becomes NaN or infinite.
    """
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    if isinstance(start, str) and start not in STARTS:
        raise UnknownNameError("start", start, STARTS)
    if not isinstance(start, (str, Alignment, Permutation)):
        raise TypeError(
            f"expected a start out of {', '.join(STARTS)}, an Alignment or a Permutation, found "
            f"{type(start).__name__}"
        )
    if epochs < 0 or batch_size < 1 or not 0 < lr < math.inf:
        raise ValueError(
            f"expected epochs from 0, a batch size from 1 and a learning rate above 0, found "
            f"{epochs}, {batch_size} and {lr}"
        )
    learning_rate(schedule, lr, 0, 1)  # refuses an unknown one
    if not len(data.train):
        raise ValueError("expected at least one training image, found none")
    if len(data.train) % batch_size == 1 and any(
        isinstance(m, nn.BatchNorm1d) for m in a.modules()
    ):
        raise ValueError(
            f"expected a batch_size whose last batch has at least two images (the network has "
            f"BatchNorm1d layers), found {batch_size} for {len(data.train)} images"
        )
    spec = check_networks([a, b], spec, example)
    device = next(a.parameters()).device
    run = _Run(a, b, data.to(device), spec, seed, start)
    run.optimizer = make_optimizer(optimizer, run.free.values(), lr, momentum, 0.0)
    identity = {
        "epochs": epochs,
        "lr": lr,
        "momentum": momentum,
        "optimizer": optimizer,
        "schedule": schedule,
        "batch size": batch_size,
        "start": start if isinstance(start, str) else "given",
        "seed": seed,
        "data": data.fingerprint,
        "objective": run.pair.objective,
    }
    with one_thread():
        if not (checkpoint is not None and run.resume(checkpoint, identity)):
            run.begin()
        steps = math.ceil(len(data.train) / batch_size)
        with Bar((epochs - run.epoch) * steps, "straight through", progress) as bar:
            while run.epoch < epochs:
                order = torch.randperm(
                    len(data.train), generator=torch.Generator().manual_seed(seed + run.epoch)
                )
                for i, chosen in enumerate(order.split(batch_size)):
                    rate = learning_rate(schedule, lr, run.epoch * steps + i, epochs * steps)
                    run.step(chosen.to(device), rate)
                    bar.advance(midpoint=run.losses[-1])
                run.finish_epoch()
                if checkpoint is not None:
                    run.keep(checkpoint, identity)
    return run.result()


class _Run:
    """Everything the future of a run depends on."""

    optimizer: torch.optim.Optimizer

    def __init__(
        self, a: nn.Module, b: nn.Module, data: Data, spec: PermutationSpec, seed: int, start: Any
    ):
        self.a, self.b, self.spec, self.seed, self.data = a, b, spec, seed, data
        self.fixed = compared(a, spec)
        free = {name: x.clone() for name, x in self.fixed.items()}
        if start == "random":
            generator = torch.Generator().manual_seed(seed)
            for x in free.values():
                noise = torch.randn(x.shape, generator=generator).to(x)
                x.copy_(noise * x.std(correction=0) + x.mean())
        self.free = {name: x.requires_grad_() for name, x in free.items()}
        self.pair = Pair(spec, self._detached(), compared(b, spec))
        self.given = not isinstance(start, str)
        if not isinstance(start, str):
            p = start.permutation if isinstance(start, Alignment) else start
            self.pair.put(spec.element(p))
        # batches see their own statistics; everything else is as when a network is used
        self.model = permute(a, spec.identity(), spec).eval()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.train()
        self.buffers = {n: x for n, x in self.model.named_buffers()}
        images = data if len(data.train) <= _IMAGES else data.subset(train=_IMAGES)
        self.images = images.train
        self.epoch, self.best = 0, self.pair.element
        self.losses: list[float] = []

    def _detached(self) -> dict[str, Tensor]:
        return {name: x.detach() for name, x in self.free.items()}

    def begin(self) -> None:
        """The first permutation: what was given, or weight matching with the free weights."""
        if not self.given:
            self._match()
        self.best = self.pair.element
        self.losses = [self._midpoint()]

    def _match(self) -> None:
        self.pair.compare_with(self._detached())
        Descent(self.pair, self.seed + len(self.losses)).run()

    def step(self, chosen: Tensor, rate: float) -> None:
        """One batch: match, mix, and move the free weights against the gradient."""
        self._match()
        mixed = {
            name: (self.fixed[name] + moved + free - free.detach()) / 2
            for (name, free), moved in zip(
                self.free.items(), self.pair.permuted.values(), strict=True
            )
        }
        split = self.data.train
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = functional_call(self.model, (mixed, self.buffers), (split.x[chosen],))
        loss = F.cross_entropy(logits.float(), split.y[chosen])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if not all(bool(torch.isfinite(x).all()) for x in self._detached().values()):
            raise FloatingPointError(
                f"the free weights became NaN or infinite in epoch {self.epoch + 1}; a smaller "
                f"learning rate may help"
            )

    def finish_epoch(self) -> None:
        """Measure, and keep the permutation if it is the best so far."""
        self._match()
        loss = self._midpoint()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {self.epoch + 1}; a smaller learning rate may "
                f"help"
            )
        if loss < min(self.losses):
            self.best = self.pair.element
        self.losses.append(loss)
        self.epoch += 1

    def _midpoint(self) -> float:
        """The training loss halfway between A and π(B)."""
        p = permutation_of(self.spec, self.pair.element)
        middle = LinearPath(self.a, permute(self.b, p, self.spec)).model_at(0.5)
        middle = reset_batch_norm(middle, self.images.x)
        return evaluate(middle, Split(self.images.x, self.images.y))[0]

    def result(self) -> Alignment:
        """The best alignment of all epochs."""
        before = [math.inf, *itertools.accumulate(self.losses, min)]
        best = [loss for loss, least in zip(self.losses, before, strict=False) if loss < least]
        history = pd.DataFrame({"epoch": range(len(self.losses)), "midpoint_loss": self.losses})
        p = permutation_of(self.spec, self.best)
        objective = [-loss for loss in best]
        return aligned(self.b, p, self.spec, objective, "straight through", history=history)

    def keep(self, file: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        """Write the run as it stands."""
        tensors = {f"free.{name}": x for name, x in self._detached().items()}
        tensors["now"] = torch.from_numpy(self.pair.element)
        tensors["best"] = torch.from_numpy(self.best)
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        header = {"identity": identity, "epoch": self.epoch, "losses": self.losses}
        write_tensors(file, "straight-through run", tensors, header)

    def resume(self, file: str | os.PathLike[str], identity: dict[str, Any]) -> bool:
        """Go to where a run was when it was last kept; whether there is one."""
        if not Path(file).exists():
            return False
        tensors, header = read_tensors(file, "straight-through run")
        for key, value in identity.items():
            if header["identity"].get(key) != value:
                raise IncompatibleError(
                    f"{file} is a checkpoint of another run: expected {key} = {value!r}, found "
                    f"{header['identity'].get(key)!r}; give another file or delete this one"
                )
        state = self.optimizer.state_dict()
        for name, x in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "free":
                self.free[rest].data.copy_(x)
            elif kind == "optimizer":
                index, _, key = rest.partition(".")
                state["state"].setdefault(int(index), {})[key] = x
        self.optimizer.load_state_dict(state)
        self.pair.put(tensors["now"].numpy())
        self.best = tensors["best"].numpy()
        self.epoch, self.losses = header["epoch"], header["losses"]
        return True
