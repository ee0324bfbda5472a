"""Anything that was measured over a number, pair by pair: mean lines with their bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mcbook.analysis.statistics import interval
from mcbook.viz.figure import Figure, show
from mcbook.viz.panels import add_legend, set_scales, some
from mcbook.viz.style import PANEL, SINGLE, figure_style, new_figure, series
from mcbook.viz.tables import distinct, wanted_columns
from mcbook.viz.wording import count, labelled, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_lines"]


def plot_lines(
    table: pd.DataFrame,
    x: str,
    y: str,
    group: str | None = None,
    panel: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    level: float = 0.95,
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """A line for every group, over x; with several rows at one x their mean and its interval.

    Args:
        table: a row for every measurement; rows with the same x, group and panel are repetitions
            (pairs of networks).
        x: the column along the horizontal axis, numbers.
        y: the column that was measured.
        group: a column that tells lines apart.
        panel: a column that tells panels apart, side by side where there is room.
        x_label: what to write at the axis in place of the column's name.
        y_label: what was measured, in place of the column's name.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is.
        level: how often an interval should cover the mean.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        ValueError: if a column is missing, there are no rows, a value is not finite, or one on a
            logarithmic axis is not above zero.
    """
    along, said = x_label or x.replace("_", " "), y_label or y.replace("_", " ")
    wanted_columns(table, [x, y], [group, panel], [x] * log_x + [y] * log_y)
    rows: list[dict[str, Any]] = []
    sentences: list[str] = []
    with figure_style():
        figures = []
        for place in distinct(table, panel):
            part = table if panel is None else table[table[panel] == place]
            figure, axes = new_figure(SINGLE if panel is None else PANEL)
            figures.append(figure)
            labels = distinct(table, group)
            for index, label in enumerate(labels):
                line = part if group is None else part[part[group] == label]
                if not len(line):
                    continue
                found = _means(line, x, y, level)
                _draw(axes, found, index, len(labels), str(label))
                where = {panel: place} if panel is not None else {}
                where |= {group: label} if group is not None else {}
                rows += [{**where, **row} for row in found]
                name = ", ".join(str(part) for part in where.values())
                sentences.append(labelled(name, _told(found, said, along)))
            set_scales(axes, log_x, log_y)
            axes.set_xlabel(along)
            title = said if panel is None else f"{place}: {said}"
            axes.set_title(title[:1].upper() + title[1:])
            if group is not None:
                add_legend(figure, axes, below=True)
        _same_limits(figures, from_zero=not log_y)
    repetitions = max(row["pairs"] for row in rows)
    if caption is None and repetitions > 1:
        caption = (
            f"Lines: the mean over {count(repetitions, 'pair')}; bands: its {100 * level:g} % "
            "interval (Student's\u00a0t)."
        )
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    columns = {x if key == "x" else key: values for key, values in columns.items()}
    if repetitions == 1:
        columns = {
            y if key == "mean" else key: values
            for key, values in columns.items()
            if key not in ("pairs", "low", "high")
        }
    return show(figures, alt or " ".join(sentences), caption, columns, name="lines")


def _means(line: pd.DataFrame, x: str, y: str, level: float) -> list[dict[str, float]]:
    """At every x how many rows there are, their mean, and its interval if there are several."""
    found = []
    for at, values in line.groupby(x, sort=True)[y]:
        several = values.to_numpy(dtype=float)
        mean, low, high = float(several.mean()), float("nan"), float("nan")
        if len(several) > 1:
            mean, low, high = interval(several, level)
        row = {"x": float(at), "pairs": len(several), "mean": mean, "low": low, "high": high}
        found.append(row)
    return found


def _draw(axes: Axes, found: list[dict[str, float]], index: int, lines: int, label: str) -> None:
    look = series(index)
    x, mean, low, high = (
        np.array([row[key] for row in found]) for key in ("x", "mean", "low", "high")
    )
    axes.plot(
        x,
        mean,
        color=look.color,
        ls=look.dashes,
        lw=2.0,
        marker=look.marker if lines > 1 else None,
        markevery=some(len(x), index),
        label=label,
        zorder=3 - 0.1 * index,
    )
    axes.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0, zorder=1)


def _same_limits(figures: list[Any], from_zero: bool) -> None:
    """One vertical scale for all panels, so that they can be compared; a flat line looks flat."""
    axes = [figure.axes[0] for figure in figures]
    lows, highs = zip(*(one.get_ylim() for one in axes), strict=True)
    low = min(0.0, *lows) if from_zero else min(lows)
    for one in axes:
        one.set_ylim(low, max(highs))


def _told(found: list[dict[str, float]], said: str, along: str) -> str:
    """The line in words: its ends, and its highest and lowest point if they lie between."""
    means = np.array([row["mean"] for row in found])
    at = sorted({0, len(found) - 1, int(means.argmax()), int(means.argmin())})
    points = [
        f"{number(found[i]['mean'])} at {found[i]['x']:g}"
        + (
            f" (interval {number(found[i]['low'])} to {number(found[i]['high'])})"
            if found[i]["pairs"] > 1
            else ""
        )
        for i in at
    ]
    return f"{said} by {along}: {'; '.join(points)}"
