"""Anything measured over numbers or names, pair by pair: mean lines with their bands."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
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

#: points of a letter's width and of a line's height, at the size of tick labels
_LETTER, _LINE = 6.0, 13.0
#: how much of a figure's width its axes have, about
_AXES = 0.83
#: longer names lose their beginning at the axis; a layer's end tells more
_LONGEST = 28
_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


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

    Over names (layers, say) the points stand evenly spaced, in the order in which the names first
    come in the table, with a marker at every one.

    Args:
        table: a row for every measurement; rows with the same x, group and panel are repetitions
            (pairs of networks).
        x: the column along the horizontal axis: numbers, or names.
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
        ValueError: if a column is missing, there are no rows, a value is not finite, one on a
            logarithmic axis is not above zero, or there are names on a logarithmic axis, or names
            among missing values.
    """
    along, said = x_label or x.replace("_", " "), y_label or y.replace("_", " ")
    named = x in table.columns and any(isinstance(value, str) for value in table[x])
    numbers = [y] if named else [x, y]
    wanted_columns(table, numbers, [x, group, panel], [x] * (log_x and not named) + [y] * log_y)
    names = _names(table, x, log_x) if named else None
    rows: list[dict[str, Any]] = []
    sentences: list[str] = []
    with figure_style():
        figures = []
        for place in distinct(table, panel):
            part = table if panel is None else table[table[panel] == place]
            size = SINGLE if panel is None else PANEL
            figure, axes = new_figure(size)
            figures.append(figure)
            # those of this panel, in the order of the whole table
            here = None if names is None else [name for name in names if (part[x] == name).any()]
            labels = distinct(table, group)
            for index, label in enumerate(labels):
                line = part if group is None else part[part[group] == label]
                if not len(line):
                    continue
                found = _means(line, x, y, level, here)
                _draw(axes, found, index, len(labels), str(label), here)
                where = {panel: place} if panel is not None else {}
                where |= {group: label} if group is not None else {}
                rows += [{**where, **row} for row in found]
                name = ", ".join(str(part) for part in where.values())
                sentences.append(labelled(name, _told(found, said, along, log_y)))
            set_scales(axes, log_x, log_y)
            if here is not None:
                _name_axis(figure, axes, here, size[0])
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


def _names(table: pd.DataFrame, x: str, log_x: bool) -> list[str]:
    """The names along the axis, in the order in which they first come."""
    names = distinct(table, x)
    if not all(isinstance(name, str) for name in names):
        others = [name for name in names if not isinstance(name, str)]
        raise ValueError(f"expected numbers or names in column {x!r}, found both: {others[0]!r}")
    if log_x:
        raise ValueError(
            f"expected numbers in column {x!r} on a logarithmic axis, found names: {names[0]!r}"
        )
    return names


def _means(
    line: pd.DataFrame, x: str, y: str, level: float, names: list[str] | None
) -> list[dict[str, Any]]:
    """At every x how many rows there are, their mean, and its interval if there are several."""
    at = [names.index(name) for name in line[x]] if names else line[x].to_numpy(dtype=float)
    found = []
    for place, values in line[y].groupby(np.asarray(at), sort=True):
        several = values.to_numpy(dtype=float)
        mean, low, high = float(several.mean()), float("nan"), float("nan")
        if len(several) > 1:
            mean, low, high = interval(several, level)
        where = names[place] if names else float(place)
        found.append({"x": where, "pairs": len(several), "mean": mean, "low": low, "high": high})
    return found


def _draw(
    axes: Axes,
    found: list[dict[str, Any]],
    index: int,
    lines: int,
    label: str,
    names: list[str] | None,
) -> None:
    look = series(index)
    mean, low, high = (np.array([row[key] for row in found]) for key in ("mean", "low", "high"))
    x = np.array([names.index(row["x"]) if names else row["x"] for row in found], dtype=float)
    axes.plot(
        x,
        mean,
        color=look.color,
        ls=look.dashes,
        lw=2.0,
        # between names there is nothing: what was measured are the points
        marker=look.marker if lines > 1 or names else None,
        markevery=None if names else some(len(x), index),
        label=label,
        zorder=3 - 0.1 * index,
    )
    axes.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0, zorder=1)


def _name_axis(figure: Any, axes: Axes, names: list[str], width: float) -> None:
    """A tick for every name, and the names so that none runs into the next.

    They are wrapped where that is enough, else turned, and where even upright lines are too many,
    some are left out.  The figure grows by what the names take.
    """
    axes.set_xlim(-0.4, len(names) - 0.6)
    apart = _AXES * width / (len(names) - 0.2)
    fits = int(apart / _LETTER - 0.5)  # and half a letter between them
    wrapped = [textwrap.wrap(name, max(1, fits), **_WHOLE) for name in names]
    lines = max(len(parts) for parts in wrapped)
    if lines <= 3 and all(len(part) <= fits for parts in wrapped for part in parts):
        axes.set_xticks(range(len(names)), ["\n".join(parts) for parts in wrapped])
        extra = _LINE * (lines - 1)
    else:
        short = [x if len(x) <= _LONGEST else "…" + x[1 - _LONGEST :] for x in names]
        angle = 45 if apart >= 1.42 * _LINE else 90
        step = max(1, math.ceil(_LINE / apart))
        axes.set_xticks(
            range(len(names)),
            [name if i % step == 0 else "" for i, name in enumerate(short)],
            rotation=angle,
            rotation_mode="anchor",
            ha="right",
            va="center" if angle == 90 else "top",
        )
        extra = _LETTER * max(map(len, short)) * math.sin(math.radians(angle))
    figure.set_figheight(figure.get_figheight() + extra / 72)


def _same_limits(figures: list[Any], from_zero: bool) -> None:
    """One vertical scale for all panels, so that they can be compared; a flat line looks flat."""
    axes = [figure.axes[0] for figure in figures]
    lows, highs = zip(*(one.get_ylim() for one in axes), strict=True)
    low = min(0.0, *lows) if from_zero else min(lows)
    for one in axes:
        one.set_ylim(low, max(highs))


def _told(found: list[dict[str, Any]], said: str, along: str, log: bool) -> str:
    """The line in words: its ends, and its highest and lowest point if they lie between."""
    # on a logarithmic axis the small numbers are what is seen
    told: Callable[[float], str] = _significant if log else number
    means = np.array([row["mean"] for row in found])
    at = sorted({0, len(found) - 1, int(means.argmax()), int(means.argmin())})
    points = [
        f"{told(found[i]['mean'])} at {_place(found[i]['x'])}"
        + (
            f" (interval {told(found[i]['low'])} to {told(found[i]['high'])})"
            if found[i]["pairs"] > 1
            else ""
        )
        for i in at
    ]
    return f"{said} by {along}: {'; '.join(points)}"


def _significant(value: float) -> str:
    return number(value) if abs(value) >= 5e-4 else f"{value:.2g}".replace("-", "−")


def _place(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:g}"
