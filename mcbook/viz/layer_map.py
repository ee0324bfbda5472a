"""A map of layers × t: what the networks do while single layers, or more and more, are moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mcbook.viz.figure import Figure, show
from mcbook.viz.style import INK, LIGHT, figure_style, new_figure
from mcbook.viz.wording import BARRIER, count, distance, distances, quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from mcbook.analysis.layer_barriers import LayerBarriers

__all__ = ["plot_layer_map"]

_WIDTH = 400.0
_ROW = 15.5
#: names longer than this lose their middle, and keep so much of their beginning
_LONGEST, _BEGINNING = 26, 10
#: how many shades there are; the squares of one shade are one shape of the drawing
_SHADES = 24
_PALEST, _FULLEST = 0.1, 0.92
_MOVED = {
    "single": "the layer",
    "cumulative": "the layer and all before it",
    "cumulative_backward": "the layer and all behind it",
}


def plot_layer_map(
    found: LayerBarriers,
    split: str = "test",
    what: str = "loss",
    chord: str = "row",
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """A row for each layer, a square for each `t`, and each row's barrier behind it.

    One colour grows stronger the worse a network is, over the page's own background; the scale
    goes from the best to the worst network of the map.

    Args:
        found: what `layer_barriers` measured.
        split: `train` or `test`.
        what: `loss` or `accuracy`.
        chord: of the barriers, see `LayerBarriers.excess`.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        UnknownNameError: when that was not measured, or for another chord.
        ValueError: when a value is not finite.
    """
    values = found.map(split, what)
    z = values.to_numpy(dtype=float)
    if not np.isfinite(z).all():
        raise ValueError(f"expected finite values of the {split} {what}, found others")
    barriers = found.barrier(split, what, chord)
    worse = z if what == "loss" else -z
    low, high = float(worse.min()), float(worse.max())
    shade = np.zeros(z.shape, dtype=int)
    if high > low:
        shade = np.rint((worse - low) / (high - low) * (_SHADES - 1)).astype(int)
    with figure_style():
        figure, axes = new_figure((_WIDTH, _ROW * len(z) + 92.0))
        _draw(axes, shade, values.columns.to_numpy(dtype=float))
        axes.set_yticks(range(len(z)), [_short(str(name)) for name in values.index])
        for row, height in enumerate(barriers):
            axes.annotate(
                distance(height, what).removesuffix(" points"),
                (1.0, row),
                (8, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                size=10.5,
            )
        axes.annotate(
            "barrier" if what == "loss" else "barrier, %",
            (1.0, 1.0),
            (8, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            size=10.5,
        )
        axes.set_title(f"{split} {what}".capitalize())
        moved = _MOVED[found.mode].replace(" and all", "\nand all")
        axes.set_xlabel(f"t, the weight of B in {moved}")
        _add_key(figure, low if what == "loss" else -low, high if what == "loss" else -high, what)
    if caption is None:
        definition = BARRIER[what]
        if chord == "networks":
            definition = definition.replace("(0)", "(A)").replace("(1)", "(B)")
        caption = (
            f"Fuller: {'higher loss' if what == 'loss' else 'lower accuracy'}. All other layers "
            f"are those of {found.rest.upper()}. Barrier of a row: {definition}."
        )
    table = values.rename(columns=lambda t: f"t = {t:.4g}").assign(barrier=barriers)
    told = alt or _told(found, values, barriers, split, what)
    return show(figure, told, caption, table.reset_index(), name="layers")


def _draw(axes: Axes, shade: np.ndarray, ts: np.ndarray) -> None:
    """Squares with the page between them; those of one shade in one path."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    step = float(ts[1] - ts[0])
    # gaps of a tenth, in which the page is seen
    half = 0.5 * step * 0.9
    for level in np.unique(shade):
        places = np.argwhere(shade == level)
        corners = [
            [
                (ts[j] - half, i - 0.45),
                (ts[j] + half, i - 0.45),
                (ts[j] + half, i + 0.45),
                (ts[j] - half, i + 0.45),
                (ts[j] - half, i - 0.45),
            ]
            for i, j in places
        ]
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
        whole = Path(np.array(corners).reshape(-1, 2), codes * len(places))
        axes.add_patch(
            PathPatch(whole, facecolor=LIGHT["blue"], linewidth=0, alpha=_strength(level))
        )
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", color=INK)
    axes.set_xlim(-step / 2, 1 + step / 2)
    axes.set_ylim(len(shade) - 0.4, -0.6)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])


def _strength(level: int) -> float:
    """How opaque the squares of a shade are."""
    return round(_PALEST + (_FULLEST - _PALEST) * level / (_SHADES - 1), 3)


def _add_key(figure: Any, best: float, worst: float, what: str) -> None:
    """What the shades stand for: the best value, the worst and two between."""
    from matplotlib.patches import Patch

    shares = (0.0, 1 / 3, 2 / 3, 1.0) if worst != best else (0.0,)
    handles = [
        Patch(facecolor=LIGHT["blue"], linewidth=0, alpha=_strength(round(s * (_SHADES - 1))))
        for s in shares
    ]
    labels = [quantity(best + s * (worst - best), what) for s in shares]
    figure.legend(handles, labels, loc="outside lower left", ncols=4, handlelength=1.4)


def _short(name: str) -> str:
    """The name, or its beginning and end, which tell most layers apart."""
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_BEGINNING]}…{name[_BEGINNING + 1 - _LONGEST :]}"


def _told(
    found: LayerBarriers, values: pd.DataFrame, barriers: pd.Series, split: str, what: str
) -> str:
    start, end = values.iloc[:, 0], values.iloc[:, -1]
    text = (
        f"{split.capitalize()} {what} of {count(len(values), 'layer')} by "
        f"{count(values.shape[1], 'value')} of t, while {_MOVED[found.mode]} goes from A to B and "
        f"all others are those of {found.rest.upper()}: at t = 0 {_range(start, what)}; at t = 1 "
        f"{_range(end, what)}. "
    )
    highest = barriers.idxmax()
    ends = distances(float(barriers.min()), float(barriers.max()), what)
    return f"{text}The barriers of the rows are {ends}; the highest is that of {highest}."


def _range(column: pd.Series, what: str) -> str:
    """The values of a column of the map, with the layers of the least and the most."""
    low, high = float(column.min()), float(column.max())
    if quantity(low, what) == quantity(high, what):
        return f"{quantity(low, what)} in every row"
    return (
        f"from {quantity(low, what)} ({column.idxmin()}) to {quantity(high, what)} "
        f"({column.idxmax()})"
    )
