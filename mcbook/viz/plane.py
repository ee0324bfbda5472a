"""The loss over a plane in weight space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mcbook.viz.figure import Figure, show
from mcbook.viz.style import INK, LIGHT, figure_style, new_figure
from mcbook.viz.wording import count, listed, number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["plot_plane"]


def plot_plane(
    xs: Sequence[float] | np.ndarray,
    ys: Sequence[float] | np.ndarray,
    z: np.ndarray,
    points: Mapping[str, tuple[float, float]],
    segments: Sequence[tuple[str, str]] | None = None,
    path: np.ndarray | None = None,
    levels: Sequence[float] | None = None,
    what: str = "Test loss",
    x_label: str = "",
    y_label: str = "",
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Contours of a loss over a plane, with marked networks and a path.

    The fill is one colour that grows stronger with the loss over the page's
    own background: low is pale and high is full in light and dark themes, and
    for every kind of colour vision.  The lines carry their values.

    Args:
        xs: the positions of the columns of `z`.
        ys: the positions of the rows of `z`.
        z: the loss, `[len(ys), len(xs)]`.
        points: where the named networks are.
        segments: pairs of names to join by a line; by default the first two
            points.
        path: positions `[n, 2]` of a curve to draw.
        levels: the values of the contour lines; by default steps of 1, 2 and 5.
        what: what was measured.
        x_label: what to write at the horizontal axis.
        y_label: what to write at the vertical axis.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        ValueError: if shapes do not fit, a loss is not finite, or a segment
            names an unknown point.
    """
    across, up = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
    values = np.asarray(z, dtype=float)
    if values.shape != (len(up), len(across)):
        raise ValueError(
            f"expected z of shape {(len(up), len(across))} (rows ys, columns xs), "
            f"found {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite values of {what.lower()}, found others")
    names = list(points)
    joined = list(segments) if segments is not None else [tuple(names[:2])] * (len(names) > 1)
    unknown = [name for pair in joined for name in pair if name not in points]
    if unknown:
        raise ValueError(f"expected segments between {names}, found {unknown[0]!r}")
    lines = sorted(levels) if levels is not None else _levels(values)
    shape = (up.max() - up.min()) / (across.max() - across.min())
    width = 400.0
    with figure_style():
        figure, axes = new_figure((width, min(max((width - 45) * shape, 160.0), 440.0) + 55))
        axes.grid(False)
        for line in lines:
            # laid over one another, so that no seam shows between two levels
            axes.contourf(
                across,
                up,
                values,
                levels=[line, max(values.max(), line) + 1.0],
                colors=[LIGHT["blue"]],
                alpha=min(0.14, 0.75 / len(lines)),
            )
        drawn = axes.contour(
            across, up, values, levels=lines, colors=INK, linewidths=0.8, alpha=0.7
        )
        axes.clabel(drawn, fontsize=9.5, fmt=lambda value: f"{value:g}", inline_spacing=4)
        for first, second in joined:
            axes.plot(
                *zip(points[first], points[second], strict=True), color=INK, lw=1.8, ls=(0, (5, 2))
            )
        if path is not None:
            axes.plot(*np.asarray(path, dtype=float).T, color=LIGHT["vermillion"], lw=2.4)
        middle = np.mean([*points.values()] or [(0.0, 0.0)], axis=0)
        for name, place in points.items():
            axes.plot(*place, "o", ms=9, color=LIGHT["vermillion"], mec=INK, mew=1.0, zorder=5)
            # the name stands on the far side from the other points
            away = np.asarray(place, dtype=float) - middle
            offset = 14 * away / (np.linalg.norm(away) or 1.0)
            axes.annotate(
                name,
                place,
                tuple(offset if offset.any() else (0.0, 14.0)),
                textcoords="offset points",
                ha="center",
                va="center",
                weight="bold",
                size=12,
            )
        axes.set_title(what)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_xlim(across.min(), across.max())
        axes.set_ylim(up.min(), up.max())
        axes.set_aspect("equal")
        axes.locator_params(nbins=5)
    if caption is None:
        caption = f"Lines of equal {what.lower()} with its value; fuller colour is higher."
    told = alt or _told(across, up, values, points, joined, what)
    return show(figure, told, caption, _table(across, up, values, what), name="plane")


def _levels(values: np.ndarray) -> list[float]:
    """Steps of 1, 2 and 5; plain ones where the values span too little."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(values.min()), float(values.max())
    if low > 0:
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        steps = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
        inside = [step for step in steps if low < step < high]
        if len(inside) >= 5:
            return inside
    return [float(v) for v in MaxNLocator(8).tick_values(low, high) if low < v < high] or [low]


def _nearest(across: np.ndarray, up: np.ndarray, values: np.ndarray, x: float, y: float) -> float:
    from scipy.interpolate import RegularGridInterpolator

    x, y = np.clip(x, across.min(), across.max()), np.clip(y, up.min(), up.max())
    return RegularGridInterpolator((up, across), values)((y, x)).item()


def _told(
    across: np.ndarray,
    up: np.ndarray,
    values: np.ndarray,
    points: Mapping[str, tuple[float, float]],
    joined: Sequence[tuple[str, ...]],
    what: str,
) -> str:
    at = [f"about {number(_nearest(across, up, values, *p))} at {n}" for n, p in points.items()]
    text = f"{what} over a plane through {listed(list(points)) or 'the origin'}: "
    if at:
        text += f"{listed(at)}; "
    for first, second in joined:
        start, end = np.array(points[first]), np.array(points[second])
        along = [
            _nearest(across, up, values, *(start + t * (end - start)))
            for t in np.linspace(0, 1, 101)
        ]
        text += f"on the segment from {first} to {second} at most {number(max(along))}; "
    return (
        f"{text}on the whole grid of {count(len(across), 'column')} and {count(len(up), 'row')} "
        f"from {number(values.min())} to {number(values.max())}."
    )


def _table(across: np.ndarray, up: np.ndarray, values: np.ndarray, what: str) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(values, columns=[f"x = {x:.4g}" for x in across])
    table.insert(0, f"{what}, y =", up)
    return table
