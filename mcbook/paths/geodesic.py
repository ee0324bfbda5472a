"""Approximate geodesics: the control points are moved until the path is as short as it gets.

Length is that of the predictions, not of the weights; no label is used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from ..batch_statistics import with_batch_statistics
from ..checkpoints import digest_of
from ..data import Data
from ..errors import UnknownNameError, expect
from ..information.distances import hellinger_squared, js_divergence
from ..information.fisher import fisher_length, logit_speed_squared
from ..normalization import has_batch_norm
from ..runs import check_last_batch
from ..training import checked_recipe
from .base import Path
from .descent import Descent, Watch, begin
from .moving import Moving

__all__ = ["fit_geodesic"]

_DEFAULTS = {"optimizer": "adam", "batch_size": 512, "schedule": "cosine"}
_SQUARED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hellinger": hellinger_squared,
    "jsd": lambda lp, lq: 8 * js_divergence(lp, lq),
}
_ENERGIES = (*_SQUARED, "exact")
# a weight's way from A to B is a natural unit for the steps of Adam: wide networks have small
# weights and small ways, and want small steps
_STEP = 0.08
# below so many weights one stacked network is faster than one after the other, by up to a third
_STACKED = 10_000


def fit_geodesic(
    a: nn.Module,
    b: nn.Module,
    data: Data | Tensor,
    kind: str = "bezier",
    bends: int = 2,
    energy: str = "hellinger",
    points: int = 13,
    between: bool = True,
    damping: float = 0.0,
    steps: int = 400,
    seed: int = 0,
    start: Path | None = None,
    images: int = 1000,
    watch: Watch | None = None,
    every: int | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **recipe: Any,
) -> Path:
    """Find a path from A to B along which the predictions change as little as possible.

    Minimises, over the bends of the path, its energy in the Fisher metric with a damping λ,

        E = ∫ θ'ᵀ (G(θ) + λ I) θ' dt,    G = E_x [ Jᵀ (diag p - p pᵀ) J ],

    whose minimum is a shortest path at constant speed (`length² ≤ E`, with equality at constant
    speed).  No label is used.  With the nodes `0 = t_0 < … < t_N = 1` and the distributions `p_i`
    there, on one minibatch a step, the first term is

    - `hellinger`: `Σ_i E_x 4 ‖√p_i - √p_{i+1}‖² / (t_{i+1} - t_i)`: the energy of a chain of
      points `2√p` on a sphere, which is what the Fisher metric measures;
    - `jsd`: `Σ_i E_x 8 JSD(p_i, p_{i+1}) / (t_{i+1} - t_i)`, as in the paper;
    - `exact`: the mean of `θ'ᵀ G θ'`, by forward differentiation, at one random `t` in each of the
      `N` intervals.

    Between the nodes nothing is seen.  So they move: each inner node is drawn anew in every step,
    within a quarter of an interval of its place, and the path has only a few control points.  The
    paper's way, many independent networks that are seen at the knots only, is
    `kind="polychain", between=False`; the path between its knots can be much longer than they
    show.

    What comes back is not the last path but the shortest that was met, judged by `fisher_length`
    on some fixed images, with nodes twice as dense: never one that is longer than the start.

    Batch norm uses the statistics of each minibatch, and is differentiated through them; lengths
    are measured with the statistics re-estimated.  Dropout does nothing.

    Source: Tan, Long, Zhao, Laine, "Geodesic mode connectivity" (2023); the parametrisation, the
    moving nodes and the choice of the best are ours.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, aligned or not.  Neither is changed.
        data: its training images are used; or the images themselves, `[n, c, h, w]`.
        kind: `bezier` or `polychain`.
        bends: how many inner control points; they begin on the chord.
        energy: see above.
        points: nodes of the energy, `N + 1`, the ends included: at least 3, or 2 for `exact`.
        between: whether the inner nodes move.  If not, they are even, or the knots of a polychain
            (`points` is then not used).
        damping: λ: a price for moving in directions that change no prediction.
        steps: minibatches in all.
        seed: of the nodes, the order of the images, of augmentation, and of the images to judge by.
        start: a path from A to B of this kind and number of bends, to begin from instead.
        images: how many images the lengths in the history are measured on; at most all.
        watch: a function from the path so far to numbers, by name, that go into the history.
        every: after so many steps the history gets a row, the path is judged and the checkpoint is
            kept; a tenth of the steps when None.
        progress: whether to show a bar.
        checkpoint: a file that keeps the run.  If it is there, the run goes on from it; a finished
            run is returned as it is.
        **recipe: see `Recipe`; here by default `optimizer="adam"`, `batch_size=512`,
            `schedule="cosine"`, and `lr` 0.08 times the root mean square of a weight's way from A
            to B.

    Returns:
        The path, with `.history`, a table: `step`, `lr`, `energy` (the mean over the minibatches
        since the row before), `length` (in the Fisher metric, on the fixed images), and what
        `watch` says; its first row is the start, and the path is that of the row with the least
        length.  Between equal ends it is the start, of length 0.

    Raises:
        UnknownNameError: for an unknown kind, energy, or name in the recipe.
        IncompatibleError: for networks of different architectures, a start between others, or a
            checkpoint of another run.
        FloatingPointError: when an end, or a network on the way, gives NaN.
        ValueError: for fewer than one bend or step, too few points, no images, a negative damping,
            a recipe with `weight_decay` or `attack`, a last batch of one image where there is
            BatchNorm1d, or numbers no run can use.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu").subset(train=64, test=10)
        >>> a, b = (mc.build_model("mlp", data, width=(4,), seed=s) for s in (0, 1))
        >>> mc.fit_geodesic(a, b, data, steps=2, progress=False)
        BezierPath(control points=4, weights=314)
    """
    if isinstance(data, Tensor):
        x, fingerprint = data, digest_of({"images": data})
    else:
        expect(data, Data, "data, as load_data or data_from_arrays gives them, or images")
        x, fingerprint = data.train.x, data.fingerprint
    if len(x) == 0:
        raise ValueError("expected images to measure lengths on, found none")
    if energy not in _ENERGIES:
        raise UnknownNameError("energy", energy, _ENERGIES)
    fewest = 2 if energy == "exact" else 3  # with two nodes the chain is A and B alone
    for name, number, least in (("points", points, fewest), ("images", images, 1)):
        if number < least:
            raise ValueError(f"expected {name} of at least {least}, found {number}")
    if not 0 <= damping < math.inf:
        raise ValueError(f"expected a damping of at least 0, found {damping}")
    for name in ("weight_decay", "attack"):
        if recipe.get(name):
            instead = "damping" if name == "weight_decay" else "no attack: it needs labels"
            raise ValueError(f"expected {instead}, found {name} = {recipe[name]!r}")
    path = begin(kind, a, b, bends, start)
    x = x.to(next(iter(path.control_points.values())).device)
    way = _way(path)
    if recipe.get("lr") is None:
        recipe["lr"] = _STEP * way if way > 0 else 1.0  # between equal ends no step is taken
    fit = _Fit(
        path,
        x,
        None,
        fingerprint,
        steps,
        seed,
        checked_recipe({**_DEFAULTS, **recipe}),
        max(1, steps // 10) if every is None else every,
    )
    check_last_batch(fit.moving.model, len(x), fit.recipe.batch_size)
    fit.prepare(energy, points, between, damping, images)
    if way == 0:
        fit.steps = 0
    fit.run(watch, progress, checkpoint)
    return fit.result()


def _way(path: Path) -> float:
    """The root mean square of a trained weight's way from A to the control point farthest away."""
    points = Moving(path).points.double()
    return float((points - points[0]).square().mean(1).max().sqrt())


class _Fit(Descent):
    """A path on its way to a geodesic, and the shortest that was met so far."""

    what = "geodesic in training"
    seen = "energy"

    def prepare(self, energy: str, points: int, between: bool, damping: float, images: int) -> None:
        """What this finder adds to a descent; once, before it runs."""
        model = self.moving.model
        self.model = with_batch_statistics(model) if has_batch_norm(model) else model.eval()
        self.energy, self.between, self.damping = energy, between, damping
        knots = self.path.knots
        even = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
        self.nodes = list(knots) if not between and len(knots) > 2 else even
        self.draws = len(self.nodes)
        self.dense = max(2 * len(self.nodes) - 1, 25)
        self.stacked = self.moving.points.shape[1] < _STACKED and self._stackable()
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(self.images), generator=generator)[:images]
        self.judged = self.images[chosen.to(self.images.device)]
        self.best, self.least = self.bends.clone(), math.inf

    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run."""
        return {
            **super().identity(),
            "energy": self.energy,
            "nodes": self.nodes,
            "between": self.between,
            "damping": self.damping,
            "judged": len(self.judged),
        }

    def _step(self, batch: Tensor, labels: Tensor | None, draws: Tensor) -> Tensor:
        points = self.moving.points.requires_grad_(True)
        try:
            value = (
                self._exact(batch, draws) if self.energy == "exact" else self._chain(batch, draws)
            )
            (slope,) = torch.autograd.grad(value, points)
        finally:
            points.requires_grad_(False)
        self.bends.grad = slope[1:-1]
        return value.detach()

    def _chain(self, batch: Tensor, draws: Tensor) -> Tensor:
        """The energy of the chain of distributions at the nodes."""
        t = torch.tensor(self.nodes, dtype=torch.float64)
        if self.between:
            t[1:-1] += (draws[1:-1] - 0.5) / (2 * (len(t) - 1))
        gaps = t.diff().to(self.bends)
        c = torch.stack([self.path.coefficients(s) for s in t.tolist()]).to(self.bends)
        with torch.no_grad():
            ends = self._logits(c[[0, -1]], batch)
        inner = self._logits(c[1:-1], batch) if len(c) > 2 else ends[:0]
        lp = torch.cat([ends[:1], inner, ends[1:]]).float().log_softmax(-1)
        value = (_SQUARED[self.energy](lp[1:], lp[:-1]).mean(1) / gaps).sum()
        if self.damping:
            ways = (c.diff(dim=0) @ self.moving.points).square().sum(1)
            value = value + self.damping * (ways / gaps).sum()
        return value

    def _exact(self, batch: Tensor, draws: Tensor) -> Tensor:
        """The mean of the squared speed at one random `t` in each interval."""
        count = len(self.nodes) - 1
        t = ((torch.arange(count) + draws[:count]) / count).tolist()
        c = torch.stack([self.path.coefficients(s) for s in t]).to(self.bends)
        v = torch.stack([self.path.coefficient_velocities(s) for s in t]).to(self.bends)
        states, rates = self.moving.states(c), self.moving.states(v)

        def both(state: dict[str, Tensor], rate: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            z, dz = jvp(lambda s: self._said(s, batch), (state,), (rate,))[:2]
            return z, dz

        z, dz = self._each(both, states, rates)
        value = logit_speed_squared(z, dz).mean()
        if self.damping:
            value = value + self.damping * (v @ self.moving.points).square().sum(1).mean()
        return value

    def _logits(self, coefficients: Tensor, batch: Tensor) -> Tensor:
        """`[m, n, classes]`: of the networks at `m` mixtures of the control points."""
        (z,) = self._each(lambda s: (self._said(s, batch),), self.moving.states(coefficients))
        return z

    def _said(self, state: dict[str, Tensor], batch: Tensor) -> Tensor:
        low = self.recipe.precision == "bfloat16"
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=low):
            # tied weights stand in it under each of their names
            return functional_call(self.model, state, (batch,), tie_weights=False)

    def _each(
        self, what: Callable[..., tuple[Tensor, ...]], *states: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """`what` of every network, stacked: all at once, or one after the other."""
        if self.stacked:
            return vmap(what)(*states)
        count = len(next(iter(states[0].values())))
        found = [what(*({n: x[i] for n, x in s.items()} for s in states)) for i in range(count)]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    def _stackable(self) -> bool:
        """Whether the network can be vectorised over weights (no data-dependent Python in it)."""
        c = self.path.coefficients(0.0).to(self.bends)[None]
        try:
            with torch.no_grad():
                vmap(lambda s: self._said(s, self.images[:2]))(self.moving.states(c))
        except (RuntimeError, NotImplementedError):
            return False
        return True

    def _observe(self) -> dict[str, float]:
        length = fisher_length(self.moving.current(), self.judged, self.dense)
        if length < self.least:
            self.best, self.least = self.bends.clone(), length
        return {"length": length}

    def _extra(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"best": self.best}, {"least": self.least}

    def _restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        self.best, self.least = tensors["best"].to(self.bends), numbers["least"]

    def result(self) -> Path:
        """The shortest path that was met, with the history of the search."""
        self.bends.copy_(self.best)
        return super().result()
