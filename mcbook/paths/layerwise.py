"""Layer by layer: a walk to another network that is retrained at every step."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..data import Data
from ..errors import UnknownNameError, expect
from ..evaluation import evaluate
from ..normalized import Normalized, check_normalization
from ..training import checked_recipe
from .courses import ToModel, ToSpheres
from .legs import Leg, check_rounds, checked_step, chosen_stages, growing, ticks_of
from .linear import LinearPath
from .moving import Moving
from .polychain import PolychainPath
from .retraining import checked_threshold, own_loss
from .walking import Walk

__all__ = ["LayerwisePath", "layerwise_path"]

SPHERES = ("interpolated", "start", "shrink", "free")
DEFAULTS = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "batch_size": 128}
_REACHED = 0.05  # of the distance between the ends may be left at the last tick


class LayerwisePath(PolychainPath, kind="layerwise"):
    """The polygon through the points of a layer-wise walk.

    Attributes:
        log: a row for each tick, 0 is the start: `tick`; `stage`, from 1; `moved`, how many tensors
            moved; `rounds`, minibatches of retraining; `batches`, their sum so far; `at_most`,
            whether they were the most allowed; `loss_before`, of the first minibatch after the
            move, and `loss`, the mean of the last ones, as retraining saw them (training mode,
            augmented); `distance`, over all tensors that move, from the destination, as a part of
            the first; `t`, where the point is on the path (NaN where it was not recorded).
        distances: the Euclidean distance of each tensor from its destination, tick × tensor.
        variances: the variance of each tensor, tick × tensor.
        targets: the variance each tensor was brought to, NaN where it was free.
        stages: the names of the tensors that begin to move in each stage.
        threshold: of the loss.
        closing: the highest training loss measured on the last piece, to B; NaN if there is none.
        shortfalls: why the walk has not converged, in words; empty if it has.
    """

    log: pd.DataFrame
    distances: pd.DataFrame
    variances: pd.DataFrame
    targets: pd.DataFrame
    stages: list[tuple[str, ...]]
    threshold: float
    closing: float
    shortfalls: list[str]

    @property
    def converged(self) -> bool:
        """Whether the walk arrived: see `layerwise_path`."""
        return not self.shortfalls

    @property
    def relative_distance(self) -> float:
        """The distance left at the last tick, as a part of the first, over all moved tensors."""
        return float(self.log["distance"].iloc[-1])

    def tick_at(self, t: float) -> int:
        """The recorded tick that is nearest to `t`; on the closing piece the last."""
        known = self.log.dropna(subset="t")
        return int(known["tick"].iloc[int((known["t"] - t).abs().to_numpy().argmin())])

    def _more(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tables = {n: getattr(self, n) for n in ("distances", "variances", "targets")}
        tensors = {n: torch.tensor(x.to_numpy(dtype=float)) for n, x in tables.items()}
        numeric = self.log.astype(float)
        tensors["log"] = torch.tensor(numeric.to_numpy())
        return tensors, {
            "columns": list(self.log),
            "types": [str(kind) for kind in self.log.dtypes],
            "tensors": list(self.distances),
            "stages": [list(stage) for stage in self.stages],
            "threshold": self.threshold,
            "closing": None if math.isnan(self.closing) else self.closing,
            "shortfalls": self.shortfalls,
        }

    def _take(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        log = pd.DataFrame(tensors["log"].numpy(), columns=numbers["columns"])
        self.log = log.astype(dict(zip(numbers["columns"], numbers["types"], strict=True)))
        self.history = self.log
        ticks = pd.Index(self.log["tick"], name="tick")
        for name in ("distances", "variances", "targets"):
            table = pd.DataFrame(tensors[name].numpy(), ticks, numbers["tensors"])
            setattr(self, name, table)
        self.stages = [tuple(stage) for stage in numbers["stages"]]
        self.threshold = numbers["threshold"]
        self.closing = math.nan if numbers["closing"] is None else numbers["closing"]
        self.shortfalls = list(numbers["shortfalls"])

    def __repr__(self) -> str:
        """Ticks, points, and whether it converged."""
        points = len(self.knots)
        last = "converged" if self.converged else f"not converged: {'; '.join(self.shortfalls)}"
        return f"LayerwisePath({len(self.log) - 1} ticks, {points} points, {last})"


def layerwise_path(
    a: nn.Module,
    b: nn.Module,
    data: Data,
    ticks: int | Sequence[int] | None = None,
    step: float = 0.02,
    stages: str | int | Sequence[Sequence[str]] = "flow",
    threshold: float | None = None,
    rounds: tuple[int, int] = (5, 50),
    sphere: str = "interpolated",
    arc_step: float = 0.0,
    fixed_step: float = 0.0,
    rule: str = "sum",
    points: int = 100,
    images: int = 2_000,
    example: Any = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **recipe: Any,
) -> LayerwisePath:
    """Walk from A to B, layer after layer, and retrain after every step.

    The low-loss path finder.  A *tick* from `P_i` to `P_{i+1}`:

    1. Each active tensor `W` moves towards its place in B, `δ = W_B - W`, by
       `W ← W + s δ / ‖δ‖`, `s = α ‖δ‖ + β arc + γ`, and never beyond (`s ≤ ‖δ‖`).
    2. All trained tensors are brought to their variance spheres,
       `W ← mean(W) + sqrt(v / Var(W)) (W - mean(W))`.
    3. *All* parameters are retrained on minibatches, until the mean loss of the last `rounds[0]` of
       them is at or below the threshold, or after `rounds[1]`.
    4. Step 2 again.

    Stage by stage more tensors are active, from the input to the output.  The last piece, from the
    last point to B, is a straight one, measured like any other.

    That the loss is low at the points is no discovery: they were trained until it was.  What the
    method claims is that one *arrives*: see `converged`.

    Sources: Tian, Al-Ars, Kitsak, Hofstee, "Connecting Independently Trained Modes via Layer-Wise
    Connectivity" (2026), algorithm 1.  Ours: the bound on the step, the interpolated spheres, the
    derived stages, the closing piece and `converged`.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, aligned or not.  Neither is changed.
        data: the training images are used.
        ticks: of each stage; or in all, of which the last stage has two shares and every other one.
            None: as many as leave `α` alone 1 % of the way of the last tensor, for the last stage,
            and half of it for every other.
        step: `α`, the part of the way left that a tick goes.
        stages: `flow`, as `flow_stages` derives them; a number, for at most so many of them; `all`
            for one stage; or lists of names of parameters or modules.
        threshold: of the loss, in nats.  None: 0.02 above twice the larger of the losses of A and
            B, as retraining sees them; of A's alone where B's is near that of guessing.
        rounds: the least and the most minibatches of a tick; `(0, 0)` for no retraining.
        sphere: `interpolated`: deviations go from A's to B's in step with the way; `start`: they
            stay A's (the paper's; the path can then not quite reach B where B's differ);
            `shrink`: all tensors first go to the lengths of B's, wherever they point and with their
            variance free, in the ticks of a last stage, and from there to B on B's spheres; `free`:
            no variance is corrected.
        arc_step: `β`, of the arc left at the beginning of the stage (see `spheres.arc`).
        fixed_step: `γ`, a length.
        rule: `sum` as above, or `max` for `s = max(α ‖δ‖, β arc + γ)`, as the paper's code has it.
        points: at most so many points are recorded, besides the ends.
        images: how many training images the closing piece is measured on.
        example: one input, for `stages="flow"`; networks made by mcbook need none.
        seed: of the order of the images, of augmentation and dropout.
        progress: whether to show a bar.
        checkpoint: a file that keeps the walk.  If it is there, the walk goes on from it; a
            finished one is returned as it is.
        **recipe: see `Recipe`; here by default SGD with `lr=0.01`, `momentum=0.9`,
            `batch_size=128`.  (The paper's has no momentum; with it, a tick takes a quarter of the
            rounds.)

    Returns:
        The path, with knots in proportion to its length, the log, and `.converged`: at the last
        tick at most 5 % of the distance between the ends is left, over all moved tensors; no loss
        measured on the closing piece, B included, is above the threshold; and at most half of the
        ticks needed the most rounds.  Batch-norm statistics are measured anew for every
        measurement.

    Raises:
        IncompatibleError: for networks of different architectures, or the checkpoint of another
            run.
        UnknownNameError: for unknown names in stages, or an unknown sphere or rule.
        FloatingPointError: when the loss or the weights become NaN or infinite.
        ValueError: for a threshold below A's loss, stages that miss a layer, or numbers no walk can
            use; with `shrink`, when B is longer than A: walk from B to A, then.

    Warns:
        UserWarning: for a threshold below B's loss: the walk cannot converge.
    """
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    way = checked_step(step, arc_step, fixed_step, rule)
    if sphere not in SPHERES:
        raise UnknownNameError("sphere", sphere, SPHERES)
    settings = checked_recipe({**DEFAULTS, **recipe})
    check_rounds(rounds, points, images)
    chord = LinearPath(a, b)
    device = next(iter(chord.control_points.values())).device
    data = data.to(device)
    moving = Moving(chord)
    at_a, at_b = (moving.views(p) for p in moving.points)
    groups = chosen_stages(a, stages, moving.names, example)
    counts = ticks_of(ticks, len(groups), way, sphere == "shrink")
    losses = [own_loss(chord.model_at(t), data, settings, images, seed) for t in (0.0, 1.0)]
    threshold = checked_threshold(threshold, losses[0], losses[1], math.log(len(data.classes)))
    numbers = {name: i for i, name in enumerate(moving.names)}
    active = growing([[numbers[name] for name in group] for group in groups])
    legs: list[Leg] = []
    if sphere == "shrink":
        _check_shrinking(at_a, at_b)
        inward = ticks - sum(counts) if isinstance(ticks, int) else counts[-1]
        legs.append(Leg(ToSpheres(at_b), active[-1], inward))
    course = ToModel(at_a, at_b, "end" if sphere == "shrink" else sphere)
    legs += [Leg(course, who, n, 1) for who, n in zip(active, counts, strict=True) if n]
    walk = Walk(moving, legs, at_b, way, data, rounds, threshold, settings, seed, points)
    walk.run(losses[0], progress, checkpoint)
    path = chain_of(walk, chord, groups, b)
    path.closing = _closing(walk.recorded[-1], chord, data, images)
    path.shortfalls = _shortfalls(path)
    return path


def chain_of(
    walk: Walk, chord: LinearPath, groups: list[tuple[str, ...]], b: nn.Module | None
) -> LayerwisePath:
    """The polygon from A through the recorded points; to B, if there is one."""
    ends = chord.control_points
    names = [name for name in ends]
    last = [] if b is None else [{name: ends[name][-1] for name in names}]
    chain = [{name: ends[name][0] for name in names}, *walk.recorded, *last]
    controls = {name: torch.stack([point[name] for point in chain]) for name in names}
    trained = [controls[name].reshape(len(chain), -1).double() for name in walk.names]
    squares = sum(x.diff(dim=0).square().sum(1) for x in trained)
    assert isinstance(squares, Tensor)
    pieces = squares.sqrt().cpu().numpy()
    # a piece of no length still needs some t
    pieces = pieces + 1e-6 * (pieces.sum() or 1.0)
    knots = [0.0, *(np.cumsum(pieces) / pieces.sum())[:-1].tolist(), 1.0]
    path = LayerwisePath._restored(chord._template, controls, knots)
    tables = walk.tables()
    path.log, path.distances = tables["log"], tables["distances"]
    path.variances, path.targets = tables["variances"], tables["targets"]
    where = dict(zip([0, *sorted(walk.kept)], knots, strict=False))
    path.log["t"] = [where.get(tick, math.nan) for tick in path.log["tick"]]
    path.history = path.log
    path.stages, path.threshold, path.closing = groups, walk.threshold, math.nan
    path.shortfalls = []
    return path


def too_many_rounds(path: LayerwisePath) -> list[str]:
    """In words, if more than half of the ticks took the most rounds."""
    share = float(path.log["at_most"].iloc[1:].mean())
    return [f"{share:.0%} of the ticks took the most rounds"] if share > 0.5 else []


def _shortfalls(path: LayerwisePath) -> list[str]:
    """Why a walk has not converged, in words."""
    found = too_many_rounds(path)
    if path.log["batches"].iloc[-1] == 0:
        found.append("nothing was retrained, so that no loss on the way is known")
    if path.relative_distance > _REACHED:
        found.append(f"{path.relative_distance:.1%} of the distance are left")
    if not path.closing <= path.threshold:
        found.append(
            f"the closing piece has a loss of {path.closing:.3g}, above {path.threshold:.3g}"
        )
    return found


def _closing(last: dict[str, Tensor], chord: LinearPath, data: Data, images: int) -> float:
    """The highest training loss on the piece from the last point to B, at eleven places."""
    model = chord.model_at(0.0)
    model.load_state_dict({**chord.at(0.0), **last})
    piece = LinearPath(model, chord.model_at(1.0))
    part = data.subset(train=min(images, len(data.train))).train
    networks = Normalized(piece, check_normalization(None, model), part.x)
    return max(evaluate(networks.at(t)[0], part)[0] for t in np.linspace(0, 1, 11).tolist())


def _check_shrinking(at_a: Sequence[Tensor], at_b: Sequence[Tensor]) -> None:
    """The first part of `shrink` goes inward."""
    lengths = [math.sqrt(sum(float(x.square().sum()) for x in xs)) for xs in (at_a, at_b)]
    if lengths[1] > lengths[0]:
        raise ValueError(
            f"expected an A of longer weights than B for sphere='shrink', found {lengths[0]:.4g} "
            f"and {lengths[1]:.4g}; walk from B to A (outward, gradients explode)"
        )
