"""The profile of a path: loss and accuracy, dense in `t`, and the barrier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..corrections import wrap_
from ..data import Data, Split
from ..errors import UnknownNameError, expect
from ..evaluation import evaluating, score
from ..layouts import arranged, image_layout
from ..normalized import Normalized, check_normalization
from ..paths.base import Path
from ..progress import Bar
from .first_layer import FirstLayer

if TYPE_CHECKING:
    from ..viz.figure import Figure

__all__ = ["Profile", "arc_of", "profile", "spreads_of", "statistics_images", "statistics_split"]

_STATISTICS_IMAGES = 10_000


@dataclass(frozen=True)
class Profile:
    """What was measured along a path.

    Attributes:
        table: a row for each `t`, in increasing order: `t`; for each split `<split>_loss` (mean
            cross-entropy, nats) and `<split>_accuracy` (in [0, 1]); `distance_a` and
            `distance_b`, the Euclidean distances of the parameters from those at both ends.
        normalization: what was done between the ends: `reset`, `none` or `repair`.
        path_kind: the kind of path: `linear`, ...
        data_name: the data set.
        arc: how far each point is from A along the path: the Euclidean length over parameters of
            the polygon through the points measured, `[points]`.
    """

    table: pd.DataFrame
    normalization: str
    path_kind: str
    data_name: str
    arc: np.ndarray | None = None

    def chord(self, split: str = "test", what: str = "loss") -> np.ndarray:
        """The straight line between the values at both ends, `(1 - t) f(0) + t f(1)`, `[points]`.

        Raises:
            UnknownNameError: when that was not measured.
        """
        t, f = self.table["t"].to_numpy(), self._values(split, what)
        return (1 - t) * f[0] + t * f[-1]

    def excess(self, split: str = "test", what: str = "loss") -> np.ndarray:
        """How much worse than the chord: `f - chord` for a loss, `chord - f` for an accuracy.

        Raises:
            UnknownNameError: when that was not measured.
        """
        difference = self._values(split, what) - self.chord(split, what)
        return difference if what == "loss" else -difference

    def barrier(self, split: str = "test", what: str = "loss") -> float:
        """The barrier: the highest excess over the chord.

        For a loss `max_t [L(t) - ((1 - t) L(0) + t L(1))]`, in nats; for an accuracy the largest
        shortfall, `max_t [((1 - t) A(0) + t A(1)) - A(t)]`, in [0, 1].  The ends have no excess, so
        the barrier is never negative.  (Frankle et al. 2020; with the chord instead of the mean of
        the ends, as Entezari et al. 2022 define it.)

        Args:
            split: `train` or `test`.
            what: `loss` or `accuracy`.

        Raises:
            UnknownNameError: when that was not measured.
        """
        return max(0.0, float(self.excess(split, what).max()))  # 0.0 instead of -0.0

    def barrier_at(self, split: str = "test", what: str = "loss") -> float:
        """The `t` of the barrier: where the excess is highest (the first such `t`).

        Raises:
            UnknownNameError: when that was not measured.
        """
        return float(self.table["t"].iloc[int(self.excess(split, what).argmax())])

    def average(self, split: str = "test", what: str = "accuracy") -> float:
        """The mean along the length of the path, not along `t`.

        `Σ_i (f_i + f_{i-1}) / 2 · (s_i - s_{i-1}) / s_end` with `s` the arc: the trapezoid rule.
        (Garipov et al. 2018, section 3; Tatro et al. 2020 call it the average accuracy.)

        Raises:
            UnknownNameError: when that was not measured.
            ValueError: for a profile without `arc`, or a path of no length.
        """
        f = self._values(split, what)
        if self.arc is None or not self.arc[-1] > 0:
            found = "none" if self.arc is None else f"{self.arc[-1]:g}"
            raise ValueError(f"expected the length of the path to be above 0, found {found}")
        return float(np.sum((f[1:] + f[:-1]) / 2 * np.diff(self.arc)) / self.arc[-1])

    def plot(self, **options: Any) -> Figure:
        """Draw the profile; see `mcbook.viz.plots.plot_profile` for the options."""
        from ..viz.plots import plot_profile

        return plot_profile(self, **options)

    def _values(self, split: str, what: str) -> np.ndarray:
        column = f"{split}_{what}"
        known = [c for c in self.table.columns if c.endswith(("_loss", "_accuracy"))]
        if column not in known:
            raise UnknownNameError("measurement", column, known)
        return self.table[column].to_numpy()

    def __repr__(self) -> str:
        """Where, how many points, and the barriers."""
        splits = [c.removesuffix("_loss") for c in self.table.columns if c.endswith("_loss")]
        barriers = ", ".join(f"{s} loss barrier {self.barrier(s):.3g}" for s in splits)
        where = f"{self.path_kind} on {self.data_name}"
        return f"Profile({where}, {len(self.table)} points, {barriers})"


def profile(
    path: Path,
    data: Data,
    points: int = 61,
    splits: Sequence[str] = ("train", "test"),
    normalization: str | None = None,
    precision: str = "float32",
    batch_size: int = 2048,
    progress: bool = True,
    between: int = 0,
) -> Profile:
    """Measure loss and accuracy along a path.

    Args:
        path: what to walk along.
        data: what to measure on; brought to the path's device if it is elsewhere.
        points: of the uniform grid on [0, 1]; the path's knots are added to it.
        splits: `train`, `test` or both.
        normalization: `reset` measures the batch-norm statistics anew at every point, on the
            training images (a fixed random 10,000 of them when there are more), before anything is
            evaluated; `none` interpolates them like weights.  None is `reset` where there is batch
            norm, by PyTorch's layers: statistics a network keeps in buffers of its own are not
            recognised and are interpolated.  Re-estimating changes the ends too, a little: what
            training stored are running averages over weights that were still moving.  `repair`
            gives every unit the mixture of the means and deviations that it has at the ends, on the
            same images (see `mcbook.repair`; measured, the read-out included), and re-estimates
            batch norm as `reset` does: at the ends it is `reset`, or `none` without batch norm.
        precision: `float32`, or `bfloat16` for all layers but, where its outputs are mixed instead
            of computed, the first; `reset` then measures the statistics in bfloat16 too (they are
            summed in float32 or better), `repair` in float32.
        batch_size: how many images at once; the result does not depend on it.
        progress: whether to show a bar.
        between: so many more points, evenly spaced inside every piece between two knots.

    Raises:
        TypeError: when `path` is not a Path or `data` not a Data.
        UnknownNameError: for an unknown split, normalization or precision.
        ValueError: for fewer than 2 points, or fewer than 0 between knots; with `repair`, see
            there.
    """
    expect(path, Path, "a path, such as LinearPath(a, b)")
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    if points < 2:
        raise ValueError(f"expected at least 2 points, found {points}")
    if between < 0:
        raise ValueError(f"expected at least 0 points between two knots, found {between}")
    if precision not in ("float32", "bfloat16"):
        raise UnknownNameError("precision", precision, ("float32", "bfloat16"))
    model = path.model_at(0.0)
    normalization = check_normalization(normalization, model)
    data = data.to(next(iter(path.control_points.values())).device)
    chosen = {split: data.split(split) for split in splits}

    inside = [
        s + (t - s) * k / (between + 1)
        for s, t in pairwise(path.knots)
        for k in range(1, between + 1)
    ]
    grid = sorted({*np.linspace(0, 1, points).tolist(), *path.knots, *inside})
    spreads = spreads_of(path, [name for name, _ in model.named_parameters()])
    layouts = {split: image_layout(model, part.x) for split, part in chosen.items()}
    # stored outputs would not be in the other layout, which saves more than they do
    first = {
        split: FirstLayer.of(path, part.x, batch_size)
        if layouts[split] == torch.contiguous_format
        else None
        for split, part in chosen.items()
    }
    networks = Normalized(path, normalization, statistics_images(data), precision)
    rows = []
    with Bar(len(grid), "profile", progress) as bar:
        for t in grid:
            model, corrections = networks.at(t)
            row = {"t": t}
            for split, part in chosen.items():
                network = model
                if (replay := first[split]) is not None:
                    network = replay.replaying(model, path.coefficients(t))
                    if replay.name in corrections:  # the replayed outputs are uncorrected
                        wrap_(network, replay.name, corrections[replay.name])
                loss, accuracy = _measure(
                    network, part.x, part.y, replay, batch_size, precision, layouts[split]
                )
                row[f"{split}_loss"], row[f"{split}_accuracy"] = loss, accuracy
            c = path.coefficients(t).numpy()
            for end, spread in zip("ab", spreads, strict=True):
                row[f"distance_{end}"] = float(np.sqrt(max(0.0, c @ spread @ c)))
            rows.append(row)
            bar.advance()
    arc = arc_of(np.stack([path.coefficients(t).numpy() for t in grid]), spreads[0])
    return Profile(pd.DataFrame(rows), normalization, path.kind, data.name, arc)


def _measure(
    model: torch.nn.Module,
    x: Tensor,
    y: Tensor,
    first: FirstLayer | None,
    batch_size: int,
    precision: str,
    layout: torch.memory_format = torch.contiguous_format,
) -> tuple[float, float]:
    """Mean loss and accuracy of the model as it stands; `first` is what it replays."""
    loss, correct = 0.0, 0
    low = precision == "bfloat16"
    # autocast around all batches: it then casts the weights once
    with evaluating(model), torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=low):
        for i, (images, labels) in enumerate(
            zip(x.split(batch_size), y.split(batch_size), strict=True)
        ):
            if first is not None:
                first.turn_to(i)
            batch_loss, batch_correct = score(model(arranged(images, layout)), labels)
            loss += batch_loss
            correct += batch_correct
    return loss / len(y), correct / len(y)


def spreads_of(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """For each end `P_e`, the matrix `G[i, j] = <P_i - P_e, P_j - P_e>` over the named tensors.

    Since `θ(t) - P_e = Σ_i c_i(t) (P_i - P_e)`, the squared distance from that end is `cᵀ G c`:
    the tensors are gone through once, however many points are measured.
    """
    count = len(next(iter(path.control_points.values())))
    spreads = [np.zeros((count, count)) for _ in "ab"]
    for name in names:
        points = path.control_points[name].reshape(count, -1).double()
        for spread, end in zip(spreads, (0, -1), strict=True):
            apart = points - points[end]
            spread += (apart @ apart.T).cpu().numpy()
    return spreads


def arc_of(coefficients: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The length of the polygon from the first point to each, for coefficients `[points, k]`."""
    d = np.diff(coefficients, axis=0)  # each sums to 0, so that the origin of `spread` drops out
    lengths = np.sqrt(np.maximum(0.0, np.einsum("pi,ij,pj->p", d, spread, d)))
    return np.concatenate([[0.0], np.cumsum(lengths)])


def statistics_images(data: Data) -> Tensor:
    """The training images statistics are measured on."""
    return statistics_split(data).x


def statistics_split(data: Data) -> Split:
    """The training images statistics are measured on: at most 10,000, a fixed random part."""
    part = data.train
    if len(part) <= _STATISTICS_IMAGES:
        return part
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    chosen = order[:_STATISTICS_IMAGES].to(part.x.device)
    return Split(part.x[chosen], part.y[chosen])
