"""Training a curve: the bends are moved until the loss is low all along it."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Data
from ..errors import expect
from ..runs import check_last_batch
from ..training import checked_recipe
from .base import Path
from .descent import Descent, Watch, begin

__all__ = ["fit_curve"]

_DEFAULTS = {"optimizer": "adam", "lr": 0.003, "schedule": "cosine"}


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
    if len(data.train) == 0:
        raise ValueError("expected training images to fit a curve on, found none")
    path = begin(kind, a, b, bends, start)
    data = data.to(next(iter(path.control_points.values())).device)
    fit = _Fit(
        path,
        data.train.x,
        data.train.y,
        data.fingerprint,
        steps,
        seed,
        checked_recipe({**_DEFAULTS, **recipe}),
        every,
    )
    check_last_batch(fit.moving.model, len(data.train), fit.recipe.batch_size)
    fit.run(watch, progress, checkpoint)
    return fit.result()


class _Fit(Descent):
    """A curve in training on the loss at one `t` a step."""

    what = "curve in training"
    seen = "loss"

    def _step(self, batch: Tensor, labels: Tensor | None, draws: Tensor) -> Tensor:
        assert labels is not None
        recipe, moving = self.recipe, self.moving
        coefficients = self.path.coefficients(float(draws)).to(self.bends)
        moving.to(coefficients)
        if recipe.attack is not None:
            batch = recipe.attack.perturb(moving.model, batch, labels)
        low = recipe.precision == "bfloat16"
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=low):
            logits = moving.model(batch)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        slope = moving.slope()
        if recipe.weight_decay:
            slope.add_(moving.point, alpha=recipe.weight_decay)
        self.bends.grad = coefficients[1:-1, None] * slope
        return loss.detach()
