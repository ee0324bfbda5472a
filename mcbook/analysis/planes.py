r"""The loss over the plane through three networks.

Three networks A, B, C of one architecture span a plane in the space of parameters, with A at its
origin.  By Gram and Schmidt's method

.. math::

    e_1 = \frac{B - A}{\lVert B - A \rVert}, \qquad
    e_2 = \frac{r}{\lVert r \rVert}, \quad r = (C - A) - \langle C - A, e_1 \rangle\, e_1 ,

so that coordinates :math:`(x, y)` stand for the parameters :math:`A + x e_1 + y e_2` and are
Euclidean distances: :math:`A = (0, 0)`, :math:`B = (\lVert B - A \rVert, 0)`,
:math:`C = (\langle C - A, e_1 \rangle, \lVert r \rVert)`.

Garipov, Izmailov, Podoprikhin, Vetrov and Wilson (2018), "Loss surfaces, mode connectivity, and
fast ensembling of DNNs", section 3; Tatro, Chen, Das, Melnyk, Sattigeri and Lai (2020), "Optimizing
mode connectivity via neuron alignment", draw the plane through A, B and the aligned B as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .. import weights
from ..data import Data
from ..errors import UnknownNameError, expect
from ..normalization import measure_statistics_
from ..normalized import check_normalization
from ..paths.base import Path, _mix
from ..paths.bezier import BezierPath
from ..progress import Bar
from .first_layer import FirstLayer
from .plane_frames import Frame, axis, check_triple, checked_names
from .profiles import _measure, statistics_images

if TYPE_CHECKING:
    from ..viz.figure import Figure

__all__ = ["LossPlane", "curve_plane", "loss_plane"]

_COLUMNS = ["place", "x", "y", "loss", "accuracy", "split", "normalization", "data"]


@dataclass(frozen=True, repr=False, eq=False)
class LossPlane:
    """The loss and accuracy over a plane in the space of parameters.

    Attributes:
        x: the coordinates of the grid's columns, in the units of the parameters, increasing.
        y: those of its rows.
        loss: the mean cross-entropy in nats, `[len(y), len(x)]`.
        accuracy: in [0, 1], `[len(y), len(x)]`.
        places: where the three networks are, by name: `(x, y)`.
        measured: what was measured at them, by name: `(loss, accuracy)`.
        split: the images: `train` or `test`.
        normalization: `none`, or `reset` where batch-norm statistics were measured anew.
        data_name: the data set.
        frame: the axes; None where a plane was read from a table, which holds no weights.
    """

    x: np.ndarray
    y: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    places: dict[str, tuple[float, float]]
    measured: dict[str, tuple[float, float]]
    split: str
    normalization: str
    data_name: str
    frame: Frame | None = None

    def position(self, point: nn.Module | Mapping[str, Tensor]) -> tuple[float, float, float]:
        """Where a network is: `(x, y)` of its foot in the plane, and its distance off the plane.

        Args:
            point: a network, or weights; only its parameters count.

        Raises:
            IncompatibleError: when a parameter is missing or of another shape.
            ValueError: for a plane that was read from a table.
        """
        if self.frame is None:
            raise ValueError(
                "expected a plane with its weights, found one read from a table; measure it with "
                "loss_plane or curve_plane, or keep the positions in a table too"
            )
        return self.frame.position(point)

    def trace(self, path: Path, points: int = 61) -> np.ndarray:
        """Where a path goes: `[n, 3]`, a row `(x, y, distance off the plane)` for each `t`.

        Args:
            path: of the same architecture.
            points: of the uniform grid on [0, 1]; the path's knots are added to it.

        Raises:
            TypeError: when `path` is not a Path.
            IncompatibleError: when it is of another architecture.
            ValueError: for fewer than 2 points, or a plane that was read from a table.
        """
        expect(path, Path, "a path, such as BezierPath(a, b, [c])")
        if points < 2:
            raise ValueError(f"expected at least 2 points, found {points}")
        grid = sorted({*np.linspace(0, 1, points).tolist(), *path.knots})
        return np.array([self.position(path.at(t)) for t in grid])

    def table(self) -> pd.DataFrame:
        """All of it in long form, for a record; `from_table` reads it.

        Returns:
            A row for each of the three networks, then one for each point of the grid, row by row:
            `place` (the network's name, empty on the grid), `x`, `y`, `loss`, `accuracy`, and the
            same in every row, `split`, `normalization` and `data`.
        """
        rows = [(n, *self.places[n], *self.measured[n]) for n in self.places]
        across, up = np.meshgrid(self.x, self.y)
        columns = (values.ravel().tolist() for values in (across, up, self.loss, self.accuracy))
        rows += [("", *row) for row in zip(*columns, strict=True)]
        same = (self.split, self.normalization, self.data_name)
        return pd.DataFrame([(*row, *same) for row in rows], columns=_COLUMNS)

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> LossPlane:
        """The plane that `table` wrote; it holds no weights, so that `position` is not there.

        Raises:
            ValueError: when that is no such table.
        """
        missing = [column for column in _COLUMNS if column not in table.columns]
        if missing:
            raise ValueError(
                f"expected the table of a plane with columns {', '.join(_COLUMNS)}, found none "
                f"called {', '.join(missing)}"
            )
        facts = table[_COLUMNS[5:]].drop_duplicates()
        if len(facts) != 1:
            raise ValueError(f"expected the table of one plane, found those of {len(facts)}")
        networks, grid = table[table["place"] != ""], table[table["place"] == ""]
        x, y = (np.unique(grid[column].to_numpy(dtype=float)) for column in "xy")
        grid = grid.sort_values(["y", "x"])
        if len(grid) != len(x) * len(y) or grid.duplicated(["x", "y"]).any():
            raise ValueError(
                f"expected one row for each point of a grid of {len(x)} columns and {len(y)} rows, "
                f"found {len(grid)} rows"
            )
        if networks["place"].duplicated().any():
            raise ValueError("expected one row for each network, found several of one name")
        loss, accuracy = (
            grid[what].to_numpy(dtype=float).reshape(len(y), len(x)) for what in _COLUMNS[3:5]
        )
        rows = networks[_COLUMNS[:5]].itertuples(index=False, name=None)
        known = {str(n): tuple(map(float, values)) for n, *values in rows}
        places = {n: (v[0], v[1]) for n, v in known.items()}
        measured = {n: (v[2], v[3]) for n, v in known.items()}
        split, normalization, data_name = map(str, facts.iloc[0])
        return cls(x, y, loss, accuracy, places, measured, split, normalization, data_name)

    def plot(
        self,
        path: Path | np.ndarray | None = None,
        what: str = "loss",
        cap: float | None = None,
        **options: Any,
    ) -> Figure:
        """Draw the plane; see `mcbook.viz.plots.plot_plane` for the options.

        Args:
            path: to draw in it, as its shadow where it is not in the plane; or what `trace` gives.
            what: `loss` or `error`, which is one minus the accuracy.
            cap: what is higher is drawn as this.
            **options: for `plot_plane`.

        Raises:
            UnknownNameError: for another `what`.
            ValueError: see `trace`.
        """
        from ..viz.plots import plot_plane

        if what not in ("loss", "error"):
            raise UnknownNameError("measurement", what, ("loss", "error"))
        values = self.loss if what == "loss" else 1 - self.accuracy
        first, second = list(self.places)[:2]
        chosen = {
            "what": f"{self.split.capitalize()} {what}" + (f", cut at {cap:g}" if cap else ""),
            "x_label": f"distance from {first} towards {second}",
            "y_label": f"distance from the line through {first} and {second}",
        } | options
        line = self.trace(path) if isinstance(path, Path) else path
        return plot_plane(
            self.x,
            self.y,
            values if cap is None else np.minimum(values, cap),
            self.places,
            path=None if line is None else np.asarray(line)[:, :2],
            **chosen,
        )

    def __repr__(self) -> str:
        """Through what, where, how many points, and the range of the loss."""
        return (
            f"LossPlane({', '.join(self.places)}; {self.split} loss on {self.data_name}, "
            f"{len(self.x)} x {len(self.y)} points, "
            f"from {self.loss.min():.3g} to {self.loss.max():.3g})"
        )


def loss_plane(
    a: nn.Module,
    b: nn.Module,
    c: nn.Module,
    data: Data,
    points: int = 25,
    margin: float = 0.2,
    split: str = "test",
    normalization: str | None = None,
    batch_size: int = 2048,
    progress: bool = True,
    names: Sequence[str] = ("A", "B", "C"),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> LossPlane:
    """Measure loss and accuracy over the plane through three networks.

    At `(x, y)` stands the affine combination `A + β (B - A) + γ (C - A)` of the three, with
    `γ = y / h` and `β = (x - γ s) / l`, where `B = (l, 0)` and `C = (s, h)`: of their parameters
    and of their floating-point buffers.  Integer buffers are A's.

    Args:
        a: the network at the origin; its device is the plane's.
        b: the network on the first axis.
        c: the third; a bend, an aligned B, or any other network that is not on their line.
        data: what to measure on; brought to A's device if it is elsewhere.
        points: of the grid in each direction.
        margin: how far the grid goes beyond the three networks, as a share of their extent.
        split: `train` or `test`.
        normalization: `reset` measures the batch-norm statistics anew at every point, on the
            training images (a fixed random 10,000 of them when there are more); `none` mixes them
            like weights.  None is `reset` where there is batch norm.
        batch_size: how many images at once; the result does not depend on it.
        progress: whether to show a bar.
        names: what the three are called.
        x_range: the first and last column, in place of the margin.
        y_range: the first and last row.

    Raises:
        TypeError: when a network is no module or `data` not a Data.
        IncompatibleError: when the networks are not of one architecture; names the first tensor
            that differs.
        UnknownNameError: for an unknown split or normalization.
        ValueError: for networks on one line, fewer than 2 points, a negative margin, a range that
            does not increase, names that are not three different ones, weights that are not finite,
            or mixed batch-norm variances that are negative.

    Example:
        >>> import mcbook as mc
        >>> from mcbook.analysis.planes import loss_plane
        >>> data = mc.load_data("digits", device="cpu").subset(train=50, test=50)
        >>> a, b, c = (mc.build_model("mlp", data, seed=s) for s in (0, 1, 2))
        >>> loss_plane(a, b, c, data, points=5, progress=False).loss.shape
        (5, 5)
    """
    names = check_triple((a, b, c), checked_names(names))
    path = BezierPath(a, b, [c])
    grid = (points, margin, x_range, y_range)
    return _measured(path, data, grid, split, normalization, batch_size, progress, names)


def curve_plane(
    path: Path,
    data: Data,
    points: int = 25,
    margin: float = 0.2,
    split: str = "test",
    normalization: str | None = None,
    batch_size: int = 2048,
    progress: bool = True,
    names: Sequence[str] = ("A", "B", "bend"),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> LossPlane:
    """Measure loss and accuracy over the plane that a curve with one bend lies in.

    It is the plane through both ends and the bend.  See `loss_plane` for the arguments.

    Args:
        path: with exactly one bend, such as `BezierPath(a, b, [c])`.
        data: see `loss_plane`, and for all others too.
        points: of the grid in each direction.
        margin: how far it goes beyond the three.
        split: `train` or `test`.
        normalization: what to do with batch-norm statistics.
        batch_size: how many images at once.
        progress: whether to show a bar.
        names: what A, B and the bend are called.
        x_range: the first and last column.
        y_range: the first and last row.

    Raises:
        TypeError: when `path` is not a Path or `data` not a Data.
        UnknownNameError: for an unknown split or normalization.
        ValueError: for a path that has not one bend, or whose bend is on the line through its ends;
            and as `loss_plane` does.
    """
    expect(path, Path, "a path, such as BezierPath(a, b, [c])")
    bends = len(next(iter(path.control_points.values()))) - 2
    if bends != 1:
        raise ValueError(
            f"expected a path with exactly 1 bend, found {bends}: with another number it lies in "
            f"no one plane; choose three networks and call loss_plane"
        )
    grid = (points, margin, x_range, y_range)
    names = checked_names(names)
    return _measured(path, data, grid, split, normalization, batch_size, progress, names)


def _measured(
    path: Path,
    data: Data,
    grid: tuple[int, float, tuple[float, float] | None, tuple[float, float] | None],
    split: str,
    normalization: str | None,
    batch_size: int,
    progress: bool,
    names: Sequence[str],
) -> LossPlane:
    """The plane through a path's three control points, which are A, C and B."""
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    model = path.model_at(0.0)
    normalization = check_normalization(normalization, model)
    if normalization == "repair":
        raise UnknownNameError("normalization of a plane", normalization, ("none", "reset"))
    frame = Frame(path, names)
    places = [(0.0, 0.0), (frame.length, 0.0), (frame.foot, frame.height)]
    points, margin, x_range, y_range = grid
    x, y = (
        axis(points, margin, given, values, what)
        for given, values, what in zip(
            (x_range, y_range), zip(*places, strict=True), ("x_range", "y_range"), strict=True
        )
    )
    data = data.to(next(iter(path.control_points.values())).device)
    part, images = data.split(split), statistics_images(data)
    first = FirstLayer.of(path, part.x, batch_size)
    here = {name: x for name, x in weights.of(model).items() if name in path.control_points}

    def at(c: Tensor) -> tuple[float, float]:
        # one module for all points: its weights are written in place
        with torch.no_grad():
            for name, tensor in here.items():
                tensor.copy_(_mix(c, path.control_points[name]))
            if normalization == "reset":
                measure_statistics_(model, images)
            else:
                _check_variances(here)
        network = model if first is None else first.replaying(model, c)
        return _measure(network, part.x, part.y, first, batch_size, "float32")

    with Bar(len(x) * len(y) + 3, "plane", progress) as bar:
        values = []
        units = [torch.eye(3, dtype=torch.float64)[i] for i in (0, 2, 1)]
        for c in (*units, *(frame.coefficients(p, q) for q in y for p in x)):
            values.append(at(c))
            bar.advance()
    losses, accuracies = (
        np.array(v[3:]).reshape(len(y), len(x)) for v in zip(*values, strict=True)
    )
    return LossPlane(
        x,
        y,
        losses,
        accuracies,
        dict(zip(names, places, strict=True)),
        dict(zip(names, values[:3], strict=True)),
        split,
        normalization,
        data.name,
        frame,
    )


def _check_variances(here: Mapping[str, Tensor]) -> None:
    for name, tensor in here.items():
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise ValueError(
                f"expected variances of at least 0 all over the plane, found negative ones in "
                f"{name}: outside the triangle of the three networks mixed batch-norm statistics "
                f'mean nothing; take normalization="reset", or a smaller margin'
            )
