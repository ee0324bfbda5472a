"""What the panels of loss and accuracy have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from mcbook.viz.style import INK
from mcbook.viz.wording import distance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "What",
    "add_legend",
    "kinds_of",
    "mark_barrier",
    "set_limits",
    "set_path_axis",
    "set_scales",
    "some",
]

What = Literal["loss", "accuracy", "both"]


def kinds_of(what: str) -> list[str]:
    """What each panel shows.

    Args:
        what: "loss", "accuracy" or "both".

    Returns:
        A list of "loss", "accuracy" or both.

    Raises:
        ValueError: for anything else.
    """
    if what not in ("loss", "accuracy", "both"):
        raise ValueError(f"expected what to be 'loss', 'accuracy' or 'both', found {what!r}")
    return ["loss", "accuracy"] if what == "both" else [what]


def some(points: int, place: int) -> tuple[int, int]:
    """About eight markers a curve, at other places than the next curve's.

    Args:
        points: of the curve.
        place: which curve it is.

    Returns:
        The first point with a marker, and the step to the next.
    """
    step = max(1, points // 8)
    return (place * 2) % step if step > 1 else 0, step


def set_limits(axes: Axes, values: np.ndarray, kind: str) -> None:
    """Vertical limits and ticks: losses from zero, accuracies over ten points or more.

    Args:
        axes: whose.
        values: everything drawn.
        kind: "loss" or "accuracy".
    """
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(5))
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if kind == "loss":
        # from zero: a flat curve has to look flat
        axes.set_ylim(min(0.0, low), 1.06 * high if high > 0 else 1.0)
        return
    room = max(high - low, 0.1)
    axes.set_ylim(max(0.0, min(low, high - room) - 0.06 * room), min(1.0, high) + 0.04 * room)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


def set_scales(axes: Axes, log_x: bool, log_y: bool) -> None:
    """Logarithmic axes where they are asked for, with plain numbers.

    Args:
        axes: whose.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for wanted, axis, scale in (
        (log_x, axes.xaxis, axes.set_xscale),
        (log_y, axes.yaxis, axes.set_yscale),
    ):
        if wanted:
            scale("log")
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def set_path_axis(axes: Axes, ends: tuple[str, str] = ("A", "B")) -> None:
    """The horizontal axis of a path, from A to B.

    Args:
        axes: whose.
        ends: what the two ends are called.
    """
    axes.set_xlim(-0.01, 1.01)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_xlabel(f"t, the weight of {ends[1]}")
    label = axes.xaxis.label
    for x, name in zip((0.0, 1.0), ends, strict=True):
        axes.annotate(
            name,
            (x, 0),
            xycoords=("data", label),
            ha="center",
            va="bottom",
            weight="bold",
            size=11,
            annotation_clip=False,
        )


def mark_barrier(
    figure: Figure, axes: Axes, t: np.ndarray, y: np.ndarray, barrier: float, kind: str
) -> None:
    """A ruler from the chord to where the curve is farthest from it.

    Args:
        figure: whose width decides where the text fits.
        axes: with every curve already drawn, and its limits set.
        t: where was measured.
        y: what was measured.
        barrier: the number to write.
        kind: "loss" or "accuracy".
    """
    chord = (1 - t) * y[0] + t * y[-1]
    gap = y - chord if kind == "loss" else chord - y
    at = int(gap.argmax())
    bottom, top = axes.get_ylim()
    text = f"barrier {distance(barrier, kind)}"
    if gap[at] < 0.14 * (top - bottom):
        # too low for a ruler with its text inside: make room beyond the curve
        up = kind == "loss"
        edge = y.max() if up else y.min()
        room = 0.2 * (top - bottom)
        axes.set_ylim(min(bottom, edge - (0 if up else room)), max(top, edge + (room if up else 0)))
        axes.annotate(
            text,
            (0.5, edge),
            (0, 7 if up else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            size=10.5,
        )
        return
    axes.annotate(
        "",
        (t[at], chord[at]),
        (t[at], y[at]),
        arrowprops={
            "arrowstyle": "|-|,widthA=0.3,widthB=0.3",
            "linewidth": 1.1,
            "shrinkA": 0,
            "shrinkB": 0,
            "color": INK,
        },
    )
    x, height, right = _free(figure, axes, t[at], chord[at], y[at], 6.2 * len(text) + 10)
    axes.annotate(
        text,
        (x, height),
        (6 if right else -6, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        size=10.5,
    )


def _free(
    figure: Figure, axes: Axes, x: float, start: float, end: float, width: float
) -> tuple[float, float, bool]:
    """Where near a ruler a text of this width (in points) crosses no curve.

    Beside the ruler and near its start if there is room, else outside the
    hill (or valley) and near its top.

    Args:
        figure: whose size is shared out.
        axes: with every curve already drawn.
        x: where the ruler stands.
        start: where it starts, on the chord.
        end: where it ends, on the curve.
        width: how wide the text is.

    Returns:
        Where the text starts, its height, and whether it goes to the right.
    """
    # about what the axes get of the figure, in points
    across, up = np.array([0.82, 0.7]) * figure.get_size_inches() * 72
    bottom, top = axes.get_ylim()
    margin = 8 * (top - bottom) / up
    grid = np.linspace(0, 1, 201)
    curves = [
        np.interp(grid, np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
        for line in axes.get_lines()
    ]
    best, room_there = (x, start, True), -float("inf")
    for share in (0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.8, 0.7, 0.9, 0.6):
        inside = share < 0.5
        height = start + share * (end - start)
        taken = np.any([np.abs(y - height) < margin for y in curves], axis=0)
        for right in (True, False):
            # how far from the ruler curves are met on this side
            met = np.abs(grid - x)[taken & ((grid > x + 0.02) if right else (grid < x - 0.02))]
            edge = 1 - x if right else x
            near, far = (met.min(), met.max()) if len(met) else (edge, 0.0)
            room = across * (near if inside else edge - far) - width
            place = x if inside else (x + far if right else x - far)
            if room >= 0:
                return place, height, right
            if room > room_there:
                best, room_there = (place, height, right), room
    return best


def add_legend(figure: Figure, axes: Axes, below: bool = False) -> None:
    """A legend in the line of the title where it fits, else below.

    Args:
        figure: which grows where the legend stands below.
        axes: with every series already drawn.
        below: put it below in any case, where titles are long.
    """
    handles, labels = axes.get_legend_handles_labels()
    width = figure.get_size_inches()[0] * 72
    needed = 9 * len(axes.get_title()) + sum(48 + 6.5 * len(label) for label in labels)
    if needed < width - 40 and not below:
        axes.legend(
            handles,
            labels,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.015),
            ncols=len(labels),
        )
        return
    longest = 50 + 6.5 * max(map(len, labels))
    columns = max(1, min(len(labels), int((width - 20) // longest)))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + (16 * rows + 6) / 72)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)
