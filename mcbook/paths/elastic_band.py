"""The elastic band: a chain of networks that slides off high ground, and grows where it must."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path as File
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation import flip_and_crop
from ..checkpoints import Chance, check_identity, digest_of, epoch_seed
from ..data import Data, Split
from ..errors import expect
from ..evaluation import evaluate
from ..normalized import Normalized, check_normalization
from ..optimization import learning_rate, make_optimizer
from ..progress import Bar
from ..runs import Recipe, check_last_batch
from ..saving import read_tensors, write_tensors
from ..training import checked_recipe
from .base import Path
from .moving import Moving
from .polychain import PolychainPath

__all__ = ["elastic_band"]

_DEFAULTS = {"optimizer": "adam", "lr": 0.003, "schedule": "cosine"}


def elastic_band(
    a: nn.Module,
    b: nn.Module,
    data: Data,
    pivots: int = 3,
    cycles: int = 4,
    steps: int = 200,
    threshold: float = 0.2,
    between: int = 9,
    images: int = 2_000,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **recipe: Any,
) -> PolychainPath:
    """Relax a chain of networks from A to B, and insert more of them where it still runs uphill.

    The chain `P_0 = A, P_1, …, P_{n+1} = B` begins on the chord.  In a step every *pivot* `P_i`
    between the ends moves against the part of its gradient across the chain,

        g_i - (g_i · τ_i) τ_i,    τ_i = unit vector to the neighbour with the higher loss,

    computed on one minibatch for all; the part along the chain would only pull the pivots down into
    the ends.  Then the pivots are spread evenly again over the polygon they form: the limit of
    springs between them that are infinitely stiff along the chain.  After a *cycle* of such steps
    the loss is measured at `between` places inside each piece, on fixed training images, with
    batch-norm statistics re-estimated there.  Where it lies above the straight line between the
    losses of the pivots at both ends of the piece by more than `threshold` times the range of the
    losses on the chain, a pivot is inserted.  The result is the chain whose highest loss
    is lowest after any cycle (and of several such the one with the lowest mean); the chord counts
    as the first, so that the result is never worse.

    Sources: Draxler, Veschgini, Salmhofer, Hamprecht, "Essentially no barriers in neural network
    energy landscape" (2018), who call it AutoNEB; Henkelman and Jónsson (2000) for the tangents.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, aligned or not.  Neither is changed.
        data: the training images are used.
        pivots: how many there are at first.
        cycles: how often the chain is relaxed; between two of them pivots are inserted.
        steps: of a cycle.  A step computes a gradient for each pivot.
        threshold: see above.
        between: see above.
        images: how many training images the measurements use.
        seed: of the order of the images, of augmentation and dropout.
        progress: whether to show a bar.
        checkpoint: a file that keeps the run after every cycle.  If it is there, the run goes on
            from it; a finished run is returned as it is.
        **recipe: see `Recipe`; here by default `optimizer="adam"`, `lr=0.003`, `schedule="cosine"`
            (from its start in every cycle).

    Returns:
        The path, with knots in proportion to its length, and `.history`, a table with a row for
        each cycle, the chord first: `cycle`, `pivots`, `loss` (the mean over the places measured)
        and `highest`, the highest loss on the chain.

    Raises:
        IncompatibleError: for networks of different architectures, or the checkpoint of another
            run.
        FloatingPointError: when the loss becomes NaN or infinite.
        ValueError: for fewer than one pivot, cycle, step, place or image, a threshold below 0,
            networks of equal parameters, or numbers no run can use.
    """
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    whole = {"pivots": pivots, "cycles": cycles, "steps": steps}
    for name, number in {**whole, "between": between, "images": images}.items():
        if number < 1:
            raise ValueError(f"expected {name} of at least 1, found {number}")
    if not threshold >= 0:
        raise ValueError(f"expected a threshold of at least 0, found {threshold}")
    if len(data.train) == 0:
        raise ValueError("expected training images to relax a band on, found none")
    chord = PolychainPath(a, b, pivots)
    ends = Moving(chord).points
    if torch.equal(ends[0], ends[-1]):
        raise ValueError("expected two different networks, found A and B with equal parameters")
    options = {**whole, "threshold": threshold, "between": between, "images": images, "seed": seed}
    band = _Band(chord, data, options, checked_recipe({**_DEFAULTS, **recipe}))
    if checkpoint is not None:
        band.resume(checkpoint)
    with Bar((cycles - band.cycle) * steps, "elastic band", progress) as bar:
        while band.cycle < cycles:
            band.relax(bar)
            if checkpoint is not None:
                band.keep(checkpoint)
    return band.result()


class _Band:
    """A chain of networks after some cycles: everything its future depends on."""

    def __init__(self, chord: PolychainPath, data: Data, options: dict[str, Any], recipe: Recipe):
        self.options, self.recipe = options, recipe
        device = next(iter(chord.control_points.values())).device
        self.data = data.to(device)
        check_last_batch(chord.model_at(0), len(data.train), recipe.batch_size)
        few = self.data.subset(train=min(options["images"], len(data.train))).train
        self.measured: Split = few
        self.start = digest_of(chord.control_points)
        self.random = Chance(options["seed"], device)
        self.cycle = 0
        self.rows: list[dict[str, float]] = []
        self.chain, self.best = chord, chord
        self._measure(chord)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run."""
        ends = {"control points": self.start, "data": self.data.fingerprint}
        return {**ends, **asdict(self.recipe), **self.options}

    def relax(self, bar: Bar) -> None:
        """One cycle."""
        moving = Moving(self.chain)
        pivots = moving.points[1:-1]
        recipe, steps = self.recipe, self.options["steps"]
        optimizer = make_optimizer(recipe.optimizer, [pivots], recipe.lr, recipe.momentum, 0.0)
        with self.random.taken():
            for step in range(steps):
                losses, slopes = self._slopes(moving, *self._batch(self.cycle * steps + step))
                pivots.grad = _across(moving.points, losses, slopes)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe.schedule, recipe.lr, step, steps)
                optimizer.step()
                _spread_evenly(moving.points)
                bar.advance()
            self.random.note()
        if not bool(torch.isfinite(moving.points).all()):
            raise FloatingPointError(
                f"the pivots became NaN or infinite in cycle {self.cycle + 1} with lr = "
                f"{recipe.lr}; a smaller learning rate may help"
            )
        found = moving.current(_knots(moving.points))
        assert isinstance(found, PolychainPath)
        self.cycle += 1
        self._measure(found)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The minibatch of a step, counted over all cycles."""
        split, size = self.data.train, self.recipe.batch_size
        per_epoch = math.ceil(len(split) / size)
        epoch, place = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(epoch_seed(self.options["seed"], epoch))
        order = torch.randperm(len(split), generator=generator).to(split.x.device)
        chosen = order[place * size : (place + 1) * size]
        return split.x[chosen], split.y[chosen]

    def _slopes(self, moving: Moving, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of all of the chain, and the gradients of its pivots, on one minibatch."""
        recipe, count = self.recipe, len(moving.points)
        if recipe.augment:
            x = flip_and_crop(x)
        if recipe.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        losses = torch.zeros(count, device=x.device)
        slopes = torch.empty_like(moving.points[1:-1])
        one = torch.eye(count, dtype=moving.points.dtype, device=x.device)
        low = recipe.precision == "bfloat16"
        for i in range(count):
            inner = 0 < i < count - 1
            moving.to(one[i])
            batch = x if recipe.attack is None else recipe.attack.perturb(moving.model, x, y)
            with torch.set_grad_enabled(inner):
                with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
                    logits = moving.model(batch)
                loss = F.cross_entropy(logits.float(), y)
            if inner:
                loss.backward()
                slopes[i - 1] = moving.slope()
                if recipe.weight_decay:
                    slopes[i - 1].add_(moving.point, alpha=recipe.weight_decay)
            losses[i] = loss.detach()
        return losses, slopes

    def _measure(self, chain: PolychainPath) -> None:
        """Note how high a chain is, keep it if it is the best, and insert pivots for the next."""
        way = check_normalization(None, chain.model_at(0))
        networks = Normalized(chain, way, self.measured.x)
        inside = self.options["between"] + 1
        grid = [
            [s + (t - s) * k / inside for k in range(inside)]
            for s, t in zip(chain.knots, chain.knots[1:], strict=False)
        ]
        losses = [
            np.array([evaluate(networks.at(t)[0], self.measured)[0] for t in piece])
            for piece in grid
        ]
        last = evaluate(networks.at(1.0)[0], self.measured)[0]
        every = np.append(np.concatenate(losses), last)
        if not np.isfinite(every).all():
            raise FloatingPointError(
                f"the loss on the band became {every[~np.isfinite(every)][0]} in cycle "
                f"{self.cycle} with lr = {self.recipe.lr}; a smaller learning rate may help"
            )
        highest = float(every.max())
        level = (highest, float(every.mean()))
        if not self.rows or level < min((row["highest"], row["loss"]) for row in self.rows):
            self.best = chain
        self.rows.append(
            {
                "cycle": self.cycle,
                "pivots": len(chain.knots) - 2,
                "loss": level[1],
                "highest": highest,
            }
        )
        allowed = self.options["threshold"] * float(every.max() - every.min())
        share = np.arange(inside) / inside
        ends = [*(piece[0] for piece in losses), last]
        for i, piece in enumerate(losses):
            excess = piece - ((1 - share) * ends[i] + share * ends[i + 1])
            if excess.max() > allowed:
                chain = chain.with_knot(grid[i][int(excess.argmax())])
        self.chain = chain

    def result(self) -> PolychainPath:
        """The best chain, with the history."""
        self.best.history = pd.DataFrame(self.rows)
        return self.best

    def keep(self, file: str | os.PathLike[str]) -> None:
        """Write the run as it stands."""
        tensors = {f"random.{name}": x for name, x in self.random.state.items()}
        for which, chain in {"chain": self.chain, "best": self.best}.items():
            tensors |= {f"{which}.{name}": p for name, p in chain.control_points.items()}
        header = {
            "identity": self.identity(),
            "cycle": self.cycle,
            "rows": self.rows,
            "knots": [list(self.chain.knots), list(self.best.knots)],
        }
        write_tensors(file, "elastic band", tensors, header)

    def resume(self, file: str | os.PathLike[str]) -> None:
        """Go to where the run was when it was last kept; nothing if it never was."""
        if not File(file).exists():
            return
        tensors, header = read_tensors(file, "elastic band")
        check_identity(file, header["identity"], self.identity())
        parts: dict[str, dict[str, Tensor]] = {"random": {}, "chain": {}, "best": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        chains: list[Path] = [
            self.chain._restored(
                self.chain._template,
                {n: x.to(self.chain.control_points[n]) for n, x in parts[which].items()},
                knots,
            )
            for which, knots in zip(("chain", "best"), header["knots"], strict=True)
        ]
        self.chain, self.best = chains  # type: ignore[assignment]
        self.random.state = parts["random"]
        self.cycle, self.rows = header["cycle"], header["rows"]


def _across(points: Tensor, losses: Tensor, slopes: Tensor) -> Tensor:
    """The part of each pivot's gradient that is across the chain."""
    ahead, behind = points[2:] - points[1:-1], points[1:-1] - points[:-2]
    uphill = (losses[2:] > losses[:-2])[:, None]
    tangent = torch.where(uphill, ahead, behind)
    tangent = tangent / tangent.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return slopes - (slopes * tangent).sum(1, keepdim=True) * tangent


def _lengths(points: Tensor) -> Tensor:
    """How far each point is along the polygon, `[k]`, in float64."""
    steps = (points[1:] - points[:-1]).norm(dim=1).double()
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def _spread_evenly(points: Tensor) -> None:
    """Move the inner points along the polygon until all pieces take the same part of its length."""
    lengths = _lengths(points)
    wanted = (
        lengths[-1] * torch.arange(1, len(points) - 1, device=points.device) / (len(points) - 1)
    )
    piece = torch.searchsorted(lengths, wanted, right=True).clamp(1, len(points) - 1) - 1
    along = (wanted - lengths[piece]) / (lengths[piece + 1] - lengths[piece]).clamp_min(1e-300)
    points[1:-1] = torch.lerp(points[piece], points[piece + 1], along.to(points)[:, None])


def _knots(points: Tensor) -> list[float]:
    """Where each point is, as a part of the length of the polygon."""
    lengths = _lengths(points)
    return [0.0, *(lengths[1:-1] / lengths[-1]).tolist(), 1.0]
