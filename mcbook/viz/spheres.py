"""The variance spheres of several networks: how wide each is, and how nearly they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .figure import Figure, show
from .style import INK, LIGHT, figure_style, new_figure
from .tables import wanted_columns
from .wording import count, percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_spheres"]

#: of a panel, in points
_WIDTH, _ROW, _EDGES = 400.0, 17.0, 62.0
#: more tensors stand in further panels
_MOST = 30
#: longer names lose their beginning; a tensor's end tells more
_LONGEST = 24
#: a sphere counts as one about the origin from this share of variance on
_CENTRED = 0.9


def plot_spheres(table: pd.DataFrame, alt: str | None = None, caption: str | None = None) -> Figure:
    """The deviation of every tensor, and between which bounds the networks' own lie.

    A row for each tensor, in the order of the table: a mark at the deviation, on a logarithmic
    scale; a bar from `deviation · sqrt(1 - spread)` to `deviation · sqrt(1 + spread)`; and the
    spread as a number.  Filled marks are those of spheres about the origin.

    Args:
        table: what `variance_spheres` gives: a row for each tensor, with `deviation`, `spread` and
            `share`.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        ValueError: if a column is missing, there are no rows, a value is not finite or negative, or
            all tensors are constant.
    """
    wanted_columns(table, ["deviation", "spread", "share"])
    for column in ("deviation", "spread"):
        if (least := float(table[column].min())) < 0:
            raise ValueError(f"expected no {column} below zero, found {least:g}")
    if not (table["deviation"] > 0).any():
        raise ValueError("expected a tensor whose entries differ, found constant ones only")
    panels = -(-len(table) // _MOST)
    size = -(-len(table) // panels)
    low, high = _reach(table)
    room = (high / low) ** 0.06
    with figure_style():
        figures = []
        for k in range(panels):
            part = table.iloc[k * size : (k + 1) * size]
            figure, axes = new_figure((_WIDTH, _EDGES + _ROW * size))
            figures.append(figure)
            # of one height, also where the last panel has fewer rows
            axes.set_ylim(size - 0.4, -0.6)
            _draw(axes, part, low / room, high * room)
    if caption is None:
        caption = (
            "Marks: the deviation of the entries, sqrt(mean variance). Bars and numbers: the "
            "standard deviation of the variances between the networks, over their mean. Filled: "
            "at least 90 % of ‖W‖² is variance, so that the sphere is about the origin."
        )
    return show(figures, alt or _told(table), caption, table.reset_index(), name="spheres")


def _bounds(deviation: Any, spread: Any) -> tuple[Any, Any]:
    """Of the bars."""
    return deviation * np.sqrt(np.maximum(0.0, 1 - spread)), deviation * np.sqrt(1 + spread)


def _reach(table: pd.DataFrame) -> tuple[float, float]:
    """The least and the highest deviation drawn; bars that reach 0 are cut off."""
    known = table[table["deviation"] > 0]
    deviation = known["deviation"].to_numpy(dtype=float)
    low, high = _bounds(deviation, known["spread"].to_numpy(dtype=float))
    return float(np.maximum(low, deviation / 2).min()), float(high.max())


def _draw(axes: Axes, part: pd.DataFrame, low: float, high: float) -> None:
    """A row for each tensor."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    for row, (_, one) in enumerate(part.iterrows()):
        deviation, spread = float(one["deviation"]), float(one["spread"])
        if deviation > 0:
            start, end = _bounds(deviation, spread)
            axes.plot(
                [max(start, low), end],
                [row, row],
                color=LIGHT["blue"],
                lw=7,
                alpha=0.35,
                solid_capstyle="butt",
            )
            centred = float(one["share"]) >= _CENTRED
            axes.plot(
                deviation,
                row,
                "o",
                ms=6,
                mew=1.6,
                color=LIGHT["blue"],
                mfc=LIGHT["blue"] if centred else "none",
            )
        text = f"± {_digits(100 * spread)} %" if deviation > 0 else "constant"
        axes.annotate(
            text,
            (1.0, row),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            size=10.5,
        )
    axes.annotate(
        "spread",
        (1.0, 1.0),
        (6, 8),
        xycoords="axes fraction",
        textcoords="offset points",
        size=10.5,
    )
    names = [str(name) for name in part.index]
    axes.set_yticks(
        range(len(part)), [n if len(n) <= _LONGEST else "…" + n[1 - _LONGEST :] for n in names]
    )
    axes.grid(True, axis="y")
    axes.spines["left"].set_visible(False)
    subs = (1.0, 2.0, 5.0) if high / low < 10 else (1.0, 3.0) if high / low < 60 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", color=INK)
    axes.set_title("Deviation of the entries")


def _digits(value: float) -> str:
    """Two digits, and all before the point."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def _told(table: pd.DataFrame) -> str:
    """Which tensors are widest and narrowest, and which the networks agree on most and least."""
    known = table[table["deviation"] > 0]
    deviation, spread = known["deviation"], known["spread"]
    text = (
        f"The deviations of {count(len(table), 'tensor')}: from {deviation.min():.2g} "
        f"({deviation.idxmin()}) to {deviation.max():.2g} ({deviation.idxmax()}). The variances of "
        f"different networks spread by {percent(float(spread.min()))} ({spread.idxmin()}) to "
        f"{percent(float(spread.max()))} ({spread.idxmax()})."
    )
    constant = len(table) - len(known)
    return f"{text} Constant: {count(constant, 'tensor')}." if constant else text
