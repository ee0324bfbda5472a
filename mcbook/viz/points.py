"""Two measurements against each other, a mark for every pair of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcbook.viz.figure import Figure, show
from mcbook.viz.panels import add_legend, set_scales
from mcbook.viz.style import INK, SINGLE, figure_style, new_figure, series
from mcbook.viz.tables import distinct, wanted_columns
from mcbook.viz.wording import count, labelled, number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["plot_points"]


def plot_points(
    table: pd.DataFrame,
    x: str,
    y: str,
    group: str | None = None,
    x_label: str | None = None,
    y_label: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    diagonal: bool = False,
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """A mark for every row, at what was measured of it in two ways.

    Args:
        table: a row for every mark.
        x: the column along the horizontal axis.
        y: the column along the vertical axis.
        group: a column that tells marks apart, by colour and shape.
        x_label: what to write at the axis in place of the column's name.
        y_label: what to write above the axes in place of the column's name.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is.
        diagonal: whether to draw the line on which both measurements are equal.
        alt: a text alternative in place of the composed one.
        caption: a line below the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if a column is missing, there are no rows, a value is not finite, or one on a
            logarithmic axis is not above zero.
    """
    along, said = x_label or x.replace("_", " "), y_label or y.replace("_", " ")
    wanted_columns(table, [x, y], [group], [x] * log_x + [y] * log_y)
    sentences = []
    with figure_style():
        figure, axes = new_figure(SINGLE)
        for index, label in enumerate(distinct(table, group)):
            rows = table if group is None else table[table[group] == label]
            look = series(index)
            axes.plot(
                rows[x],
                rows[y],
                look.marker,
                ms=6.5,
                mew=0,
                alpha=0.75,
                color=look.color,
                label=str(label),
            )
            spans = [
                f"{name} {number(rows[column].min())} to {number(rows[column].max())}"
                for column, name in ((x, along), (y, said))
            ]
            told = f"{count(len(rows), 'mark')}, {spans[0]}, {spans[1]}"
            sentences.append(labelled(str(label), told))
        set_scales(axes, log_x, log_y)
        if diagonal:
            low, high = table[[x, y]].min().min(), table[[x, y]].max().max()
            axes.plot([low, high], [low, high], color=INK, alpha=0.4, lw=1.2, zorder=1)
            sentences.append("A line shows where both are equal.")
        axes.set_xlabel(along)
        axes.set_title(said[:1].upper() + said[1:])
        if group is not None:
            add_legend(figure, axes, below=True)
    order = float(np.corrcoef(table[[x, y]].rank().to_numpy().T)[0, 1]) if len(table) > 2 else 0.0
    if len(table) > 2 and np.isfinite(order):
        sentences.append(f"Rank correlation of all marks: {number(order)}.")
    columns = [*([group] if group is not None else []), x, y]
    return show(figure, alt or " ".join(sentences), caption, table[columns], name="points")
