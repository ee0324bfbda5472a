"""A layer-wise walk on a printed page: the distances left, and the loss, tick by tick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import expect
from ..paths.layerwise import LayerwisePath
from .figure import Figure, show
from .panels import add_legend
from .style import INK, LIGHT, PANEL, figure_style, new_figure, series
from .walk_payload import (
    Row,
    Stage,
    distance_text,
    ends_of,
    full_losses,
    named_stages,
    walk_rows,
)
from .walk_slider import percent_left
from .wording import count, listed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ..analysis.profiles import Profile

__all__ = ["plot_walk"]

#: more lines than these are those of stages
_LINES = 8
#: points of a line: a panel is hardly wider in points of print
_POINTS = 240
_LOWEST_SHARE, _LOWEST_LOSS = 1e-5, 1e-7


def plot_walk(
    path: LayerwisePath,
    profile: Profile | None = None,
    by: str | None = None,
    ends: Sequence[str] | None = None,
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """The distance every layer has left, and the loss before and after retraining, tick by tick.

    Both scales are logarithmic; thin lines show where a stage begins.  Where there are too many
    ticks for the width of the page, each point of the loss is the highest of several.

    Args:
        path: what `layerwise_path` or `path_to_origin` found.
        profile: what `mc.profile` measured along it: the loss on all training images at the
            recorded ticks is drawn too.
        by: what has a line: `tensor`; `layer`, the tensors of a module together; or `stage`.  None:
            `layer`, where that makes at most eight lines, else `stage`.
        ends: what the start and the destination are called; None: A, and B or the origin.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        TypeError: for something that is no walk, or no profile.
        ValueError: for a walk without ticks, or of layers that have no way to go; a profile without
            the training loss; ends that are not two names.
        IncompatibleError: for a profile of another path.
        UnknownNameError: for another `by`.
    """
    expect(path, LayerwisePath, "a walk, as layerwise_path and path_to_origin give it")
    if len(path.log) < 2:
        raise ValueError(f"expected a walk of at least 1 tick, found {len(path.log) - 1}")
    a, b = ends_of(path, ends)
    full = full_losses(path, profile)
    if by is None:
        by = "layer" if len(walk_rows(path, "layer")) <= _LINES else "stage"
    rows = walk_rows(path, by)
    stages = named_stages(path)
    table, each = _thinned(path, rows)
    names = {row.name: row.name for row in rows}
    if by == "stage":
        names = {row.name: f"stage {row.stage + 1}" for row in rows}
    with figure_style():
        figures = []
        for draw in (_draw_distances, _draw_losses):
            figure, axes = new_figure(PANEL)
            figures.append(figure)
            draw(axes, path, table, rows, names, full)
            _set_axes(axes, stages, len(path.log) - 1)
            add_legend(figure, axes, below=True)
        height = max(figure.get_figheight() for figure in figures)
        for figure in figures:
            figure.set_figheight(height)
    if caption is None:
        caption = (
            f"Left: {distance_text(path, b)} as a part of what it was at {a}. Right: the loss as "
            f"retraining sees it, of the first minibatch after the move and the mean of the last "
            f"ones"
            + (f"; a point is the highest of up to {each} ticks" if each > 1 else "")
            + f". Threshold: {path.threshold:.3g}."
            + (" Vertical lines: a stage begins." if len(stages) > 1 else "")
        )
        if by == "stage":
            parts = [f"{row.stage + 1}: {row.name}" for row in rows]
            caption += f" Stages: {'; '.join(parts)}."
    return show(figures, alt or _told(path, rows, stages, full), caption, table, name="walk")


def _thinned(path: LayerwisePath, rows: Sequence[Row]) -> tuple[pd.DataFrame, int]:
    """The numbers drawn: at the last of every few ticks, of the losses the highest of them.

    Returns:
        The table, and how many ticks a row stands for at most.
    """
    each = -(-(len(path.log) - 1) // _POINTS)
    bins = np.ceil(np.arange(len(path.log)) / each).astype(int)
    groups = path.log.groupby(bins)
    table = groups[["tick", "stage", "distance"]].last()
    table["rounds"] = groups["rounds"].sum()
    table["loss_before"] = groups["loss_before"].max()
    table["loss"] = groups["loss"].max()
    for row in rows:
        table[f"left: {row.name}"] = row.share[table["tick"].to_numpy()]
    return table.reset_index(drop=True), each


def _draw_distances(
    axes: Axes,
    path: LayerwisePath,
    table: pd.DataFrame,
    rows: Sequence[Row],
    names: Mapping[str, str],
    full: list[tuple[int, float]],
) -> None:
    del path, full
    columns = [table[f"left: {row.name}"].to_numpy() for row in rows]
    low = _least(np.concatenate(columns), _LOWEST_SHARE)
    for row, share in zip(rows, columns, strict=True):
        look = series(row.look)
        axes.plot(
            table["tick"],
            np.maximum(share, low),
            color=look.color,
            ls=look.dashes,
            lw=1.0 if row.thin else 2.0,
            label=names[row.name],
        )
    axes.set_title("Distance left")
    _log_axis(axes, low, float(np.max(columns)), _percent)


def _draw_losses(
    axes: Axes,
    path: LayerwisePath,
    table: pd.DataFrame,
    rows: Sequence[Row],
    names: Mapping[str, str],
    full: list[tuple[int, float]],
) -> None:
    del rows, names
    known = np.array(full).reshape(-1, 2)
    values = np.concatenate(
        [[path.threshold], known[:, 1], *table[["loss_before", "loss"]].to_numpy().T]
    )
    low = _least(values, _LOWEST_LOSS)
    looks: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("loss_before", "before", {"color": LIGHT["vermillion"], "lw": 0.9}),
        ("loss", "after", {"color": LIGHT["blue"], "lw": 1.6}),
    )
    for column, label, look in looks:
        losses = table[column].to_numpy(dtype=float)
        if np.isfinite(losses[1:]).any():
            axes.plot(table["tick"], np.maximum(losses, low), label=label, **look)
    if full:
        losses = np.maximum(known[:, 1], low)
        axes.plot(known[:, 0], losses, "o", color=LIGHT["green"], ms=2.4, mew=0, label="all images")
    axes.axhline(
        path.threshold,
        color=INK,
        lw=1.1,
        ls=(0, (5, 3)),
        label="threshold",
    )
    axes.set_title("Loss")
    _log_axis(axes, low, float(np.nanmax(values)), lambda value, _: f"{value:g}")


def _least(values: np.ndarray, floor: float) -> float:
    """The least value above 0, but not below the floor: what is less lies there."""
    return max(floor, float(values[values > 0].min()))


def _percent(value: float, _: Any = None) -> str:
    return f"{100 * value:.3g} %"


def _log_axis(axes: Axes, low: float, high: float, say: Any) -> None:
    """A logarithmic axis, with 1-2-5 where powers of ten alone would be few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_yscale("log")
    low = min(low, high / 3)
    axes.set_ylim(low / 1.3, high * 1.3)
    subs = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 20 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(say))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _set_axes(axes: Axes, stages: Sequence[Stage], total: int) -> None:
    """The ticks, and where stages begin."""
    from matplotlib.ticker import MaxNLocator

    for stage in stages[1:]:
        axes.axvline(stage.first - 1, color=INK, lw=0.7, alpha=0.35, zorder=0)
    axes.set_xlim(0, total)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("tick")


def _told(
    path: LayerwisePath, rows: Sequence[Row], stages: Sequence[Stage], full: Sequence[Any]
) -> str:
    """The walk in words."""
    log, total = path.log, len(path.log) - 1
    parts = [f"{stage.begins} from tick {stage.first}" for stage in stages]
    text = (
        f"A walk of {count(total, 'tick')} in {count(len(stages), 'stage')}. Moving: "
        f"{listed(parts)}. "
    )
    last = [float(row.share[-1]) for row in rows]
    low, high = int(np.argmin(last)), int(np.argmax(last))
    text += f"Distance left at the last tick: {percent_left(last[low])} ({rows[low].name})"
    if low != high:
        text += f" to {percent_left(last[high])} ({rows[high].name})"
    after, before = log["loss"].iloc[1:].dropna(), log["loss_before"].iloc[1:].dropna()
    if len(after):
        text += (
            f". Loss before retraining at most {before.max():.3g}, after it at most "
            f"{after.max():.3g}, at the end {after.iloc[-1]:.3g}"
        )
    else:
        text += ". Nothing was retrained"
    if full:
        text += f"; on all training images at most {max(loss for _, loss in full):.3g}"
    return f"{text}; threshold {path.threshold:.3g}."
