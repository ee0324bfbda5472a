"""Ways of a distribution over three classes, drawn in the triangle of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mcbook.viz.figure import Figure, show
from mcbook.viz.panels import add_legend
from mcbook.viz.style import INK, figure_style, new_figure, series
from mcbook.viz.wording import labelled, number

__all__ = ["plot_simplex"]

_SIZE = (400.0, 330.0)
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


def plot_simplex(
    trails: Mapping[str, np.ndarray],
    corners: Sequence[str] = ("class 1", "class 2", "class 3"),
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """The ways that distributions over three classes take.

    A distribution `p` stands at `Σ_k p_k c_k`, with the corners `c_k` of an equilateral triangle:
    in a corner one class is certain, in the middle all are equally likely.

    Args:
        trails: by name, the distributions along a way, `[points, 3]`.
        corners: the names of the three classes.
        alt: a text alternative in place of the composed one.
        caption: a line below the figure.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no trail, one is not `[points, 3]` of at least two points, or its
            rows are no distributions; or there are not three names of corners.
    """
    if len(corners) != 3:
        raise ValueError(f"expected the names of 3 corners, found {len(corners)}")
    if not trails:
        raise ValueError("expected at least one trail, found none")
    rows: list[pd.DataFrame] = []
    sentences = []
    with figure_style():
        figure, axes = new_figure(_SIZE)
        outline = _CORNERS[[0, 1, 2, 0]]
        axes.plot(outline[:, 0], outline[:, 1], color=INK, lw=0.8, alpha=0.6)
        for index, (label, trail) in enumerate(trails.items()):
            p = _checked(label, trail)
            look = series(index)
            x, y = (p @ _CORNERS).T
            axes.plot(x, y, color=look.color, linestyle=look.dashes, label=label)
            axes.plot(x[[0, -1]], y[[0, -1]], "o", ms=6, color=INK, zorder=4)
            rows.append(pd.DataFrame(p, columns=list(corners)).assign(trail=label))
            middle = ", ".join(number(value) for value in p[len(p) // 2])
            ends = [", ".join(number(value) for value in p[i]) for i in (0, -1)]
            sentences.append(
                labelled(label, f"from ({ends[0]}) by ({middle}) half-way to ({ends[1]})")
            )
        for (x, y), name, down in zip(_CORNERS, corners, (True, True, False), strict=True):
            axes.annotate(
                name,
                (x, y),
                xytext=(0, -6 if down else 5),
                textcoords="offset points",
                ha="center",
                va="top" if down else "bottom",
            )
        axes.set_aspect("equal")
        axes.set_xlim(-0.12, 1.12)
        axes.set_ylim(-0.1, 0.96)
        axes.set_axis_off()
        if len(trails) > 1:
            add_legend(figure, axes, below=True)
    said = f"In the triangle of {', '.join(corners)}: " + " ".join(sentences)
    table = pd.concat(rows, ignore_index=True)[["trail", *corners]]
    return show(figure, alt or said, caption, table, name="simplex")


def _checked(label: str, trail: np.ndarray) -> np.ndarray:
    """The trail, if it is one."""
    p = np.asarray(trail, dtype=float)
    if p.ndim != 2 or p.shape[1] != 3 or len(p) < 2:
        raise ValueError(f"expected [points, 3] for {label!r}, found {list(p.shape)}")
    if not (p >= 0).all() or not np.allclose(p.sum(1), 1, atol=1e-6):
        raise ValueError(f"expected rows of {label!r} that are distributions, found others")
    return p
