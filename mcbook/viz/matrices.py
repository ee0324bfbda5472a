"""Small matrices as fields of squares: how large an entry is, and which sign it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mcbook.viz.figure import Figure, show
from mcbook.viz.style import INK, LIGHT, figure_style, new_figure
from mcbook.viz.wording import labelled, number

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["plot_matrices"]

_MOST = 40
_SIDE = 250.0
#: squares of a smaller share of the largest entry are left out
_LEAST = 0.02


def plot_matrices(
    matrices: Mapping[str, np.ndarray | Tensor],
    x_label: str = "",
    y_label: str = "",
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Matrices side by side; a square's area is the size of an entry.

    Full squares are positive, hollow ones negative.  All matrices have one scale: that of the
    largest entry.

    Args:
        matrices: by title, `[m, n]` with at most 40 rows and columns.
        x_label: what the columns are.
        y_label: what the rows are.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to draw, a shape is no matrix or too large, or an entry is
            not finite.
    """
    arrays = {title: _as_matrix(title, one) for title, one in matrices.items()}
    if not arrays:
        raise ValueError("expected at least one matrix, found none")
    scale = max(float(np.abs(one).max()) for one in arrays.values())
    with figure_style():
        figures = []
        for title, one in arrays.items():
            rows, columns = one.shape
            figure, axes = new_figure((_SIDE, _SIDE * rows / columns + 45.0))
            figures.append(figure)
            _squares(axes, one, scale)
            axes.grid(False)
            axes.set_title(title)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
            axes.set_xlim(0.4, columns + 0.6)
            axes.set_ylim(rows + 0.6, 0.4)
            axes.set_aspect("equal")
            for which, n in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
                which([1, *range(5, n + 1, 5)] if n >= 5 else range(1, n + 1))
    if caption is None:
        caption = (
            f"Area: size of an entry (the largest is {number(scale)}); full: positive, hollow: "
            "negative."
        )
    told = alt or " ".join(labelled(title, _told(one)) for title, one in arrays.items())
    return show(figures, told, caption, _table(arrays), name="matrices")


def _as_matrix(title: str, matrix: np.ndarray | Tensor) -> np.ndarray:
    array = np.asarray(matrix.detach().cpu() if hasattr(matrix, "detach") else matrix, dtype=float)
    if array.ndim != 2 or not 1 <= min(array.shape) <= max(array.shape) <= _MOST:
        raise ValueError(
            f"expected matrices of 1 to {_MOST} rows and columns, found shape {list(array.shape)} "
            f"for {title!r}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite entries, found others in {title!r}")
    return array


def _squares(axes: Any, matrix: np.ndarray, scale: float) -> None:
    from matplotlib.patches import Rectangle

    for (i, j), value in np.ndenumerate(matrix):
        if abs(value) <= _LEAST * scale:
            continue
        side = 0.92 * np.sqrt(abs(value) / scale)
        corner = (j + 1 - side / 2, i + 1 - side / 2)
        if value > 0:
            look: dict[str, Any] = {"facecolor": LIGHT["blue"], "linewidth": 0}
        else:
            look = {"facecolor": "none", "edgecolor": LIGHT["vermillion"], "linewidth": 1.0}
        axes.add_patch(Rectangle(corner, side, side, **look))
    axes.spines[["left", "bottom"]].set_color(INK)


def _told(matrix: np.ndarray) -> str:
    rows, columns = matrix.shape
    told = f"{rows} × {columns}, entries from {number(matrix.min())} to {number(matrix.max())}"
    if rows == columns and rows > 1:
        off = matrix[~np.eye(rows, dtype=bool)]
        told += (
            f", on the diagonal {number(matrix.trace() / rows)} on average, beside it "
            f"{number(np.abs(off).mean())} in absolute value"
        )
    return told


def _table(arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {"matrix": title, "row": i + 1, "column": j + 1, "entry": value}
        for title, one in arrays.items()
        for (i, j), value in np.ndenumerate(one)
    ]
    return pd.DataFrame(rows)
