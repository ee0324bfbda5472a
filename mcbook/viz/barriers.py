"""Barriers of many pairs, over the width or whatever was varied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from mcbook.analysis.statistics import interval
from mcbook.errors import UnknownNameError
from mcbook.viz.figure import Figure, show
from mcbook.viz.style import SINGLE, figure_style, new_figure, series
from mcbook.viz.wording import labelled, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_barriers"]


def plot_barriers(
    table: pd.DataFrame,
    x: str = "width",
    y: str = "barrier",
    group: str | None = None,
    spacing: Literal["log", "linear", "even"] = "log",
    x_label: str | None = None,
    y_label: str | None = None,
    level: float = 0.95,
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """A point for every pair, and the mean with its interval at every x.

    Args:
        table: a row per pair.
        x: the column that was varied; numbers, or names in the order wanted.
        y: the column that was measured.
        group: a column that tells series apart, for example live results from
            a record.
        spacing: how numbers are placed: on a logarithmic axis, on a plain one, or at even steps
            whatever their values.
        x_label: what to write at the axis in place of the column's name.
        y_label: what to write at the axis in place of the column's name.
        level: how often an interval should cover the mean.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        ValueError: if a column is missing, there are no rows, a value is not
            finite, or a logarithmic axis is asked for values that are not
            above zero.
        UnknownNameError: for an unknown spacing.
    """
    import pandas as pd

    wanted = [x, y, *([group] if group else [])]
    missing = [column for column in wanted if column not in table.columns]
    if missing or not len(table):
        found = ", ".join(map(str, table.columns)) if missing else "no rows"
        raise ValueError(f"expected a table with the columns {wanted}, found {found}")
    if not np.isfinite(table[y].to_numpy(dtype=float)).all():
        raise ValueError(f"expected finite numbers in column {y!r}, found others")
    numeric = pd.api.types.is_numeric_dtype(table[x])
    if spacing not in ("log", "linear", "even"):
        raise UnknownNameError("spacing", spacing, ("log", "linear", "even"))
    if numeric and spacing == "log" and (table[x] <= 0).any():
        raise ValueError(
            f"expected {x!r} above zero on a logarithmic axis, found {table[x].min():g}; "
            "spacing='linear' draws it on a plain one"
        )
    levels = sorted(table[x].unique()) if numeric else list(pd.unique(table[x]))
    places = _places(levels, spacing if numeric else "even")
    labels = list(pd.unique(table[group])) if group else [""]
    said = y_label or str(y).replace("_", " ")
    along = x_label or str(x).replace("_", " ")
    sentences: list[str] = []
    columns: dict[str, list] = {key: [] for key in (group or "", x, "pairs", "mean", "low", "high")}
    # groups and pairs stand apart by parts of the closest spacing
    at_all = sorted(places.values())
    reach = at_all[-1] - at_all[0] or 1.0
    gap = float(np.clip(min(np.diff(at_all), default=1.0), 0.03 * reach, reach / 6))
    with figure_style():
        figure, axes = new_figure(SINGLE)
        for index, label in enumerate(labels):
            rows = table[table[group] == label] if group else table
            look = series(index)
            shift = gap * 0.3 * (index - (len(labels) - 1) / 2)
            means, told = [], []
            for value in levels:
                pairs = rows.loc[rows[x] == value, y].to_numpy(dtype=float)
                if not len(pairs):
                    continue
                at = places[value] + shift
                mean, low, high = float(pairs.mean()), float("nan"), float("nan")
                if len(pairs) > 1:
                    mean, low, high = interval(pairs, level)
                    spread = gap * 0.11 * np.linspace(-1, 1, len(pairs))
                    axes.plot(at + spread, pairs, "o", ms=3.6, mew=0, color=look.color, alpha=0.6)
                    axes.errorbar(
                        at, mean, [[mean - low], [high - mean]], color=look.color, capsize=4, lw=1.4
                    )
                means.append((at, mean))
                told.append(_told(f"{value:g}" if numeric else str(value), mean, low, high))
                for key, cell in zip(
                    columns, (label, value, len(pairs), mean, low, high), strict=True
                ):
                    columns[key].append(cell)
            axes.plot(
                *zip(*means, strict=True),
                color=look.color,
                # names have no order that a line could follow
                ls=look.dashes if numeric else "none",
                lw=1.4,
                marker=look.marker,
                ms=7,
                label=str(label),
            )
            sentences.append(labelled(str(label), f"{said} by {along}: {'; '.join(told)}"))
        _axis(axes, levels, places, numeric, gap * (0.15 * len(labels) + 0.02))
        axes.set_xlabel(along)
        # with a legend, on a line of its own above it, or several
        in_a_row, lines = _legend_rows(labels) if group else (1, 0)
        axes.set_title(said[:1].upper() + said[1:], pad=12 + 16 * lines if group else None)
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(0.0, bottom), top)
        if group:
            handles, names = axes.get_legend_handles_labels()
            axes.legend(
                handles, names, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=in_a_row
            )
    if not group:
        del columns[""]
    sizes = set(columns["pairs"])
    if caption is None:
        caption = "One pair at every point."
        if sizes != {1}:
            few = f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
            caption = (
                f"Small dots: single pairs ({few} at every point). Large marks: their mean "
                f"with its {100 * level:g} % interval (Student's\u00a0t); a single pair has none."
            )
            if min(sizes) > 1:
                caption = caption.replace("; a single pair has none", "")
    return show(figure, alt or " ".join(sentences), caption, columns, name="barriers")


def _places(levels: list, spacing: str) -> dict:
    if spacing == "even":
        return {value: float(place) for place, value in enumerate(levels)}
    return {value: float(np.log2(value) if spacing == "log" else value) for value in levels}


def _axis(axes: Axes, levels: list, places: dict, numeric: bool, reach: float) -> None:
    """Ticks at the values that were measured, and nowhere else; labels where there is room.

    `reach` is how far marks stand beside their value.
    """
    at = [places[value] for value in levels]
    room = max(0.08 * (max(at) - min(at)) or 0.5, reach)
    labels: list[str] = []
    last = -np.inf
    for value, place in zip(levels, at, strict=True):
        free = not numeric or place - last >= 0.5 * room
        labels.append((f"{value:g}" if numeric else str(value)) if free else "")
        last = place if free else last
    if not numeric:
        labels = _wrapped(labels)
    axes.set_xticks(at, labels)
    axes.set_xlim(min(at) - room, max(at) + room)


def _wrapped(labels: list[str]) -> list[str]:
    """Names with a line break where two of them would run into each other."""
    import textwrap

    fits = int(0.83 * SINGLE[0] / max(1, len(labels)) / 5.6)
    return [
        "\n".join(textwrap.wrap(label, max(fits, 1), break_long_words=False)) for label in labels
    ]


def _legend_rows(labels: list) -> tuple[int, int]:
    """How many names of a legend fit side by side, and how many lines that makes."""
    widths = [48 + 6.5 * len(str(label)) for label in labels]
    side_by_side = len(labels)
    while side_by_side > 1 and side_by_side * max(widths) > SINGLE[0] < sum(widths):
        side_by_side -= 1
    return side_by_side, -(-len(labels) // side_by_side)


def _told(value: str, mean: float, low: float, high: float) -> str:
    if low != low:
        return f"{number(mean)} at {value}"
    return f"{number(mean)} at {value} (interval {number(low)} to {number(high)})"
