"""How figures look: colours, dashes, markers and matplotlib's settings.

The colours are those of Okabe and Ito, darkened until each has a contrast of
at least 4.5 to 1 on white, with a lighter twin for dark pages.  Colour is
never the only difference: every series has a dash pattern and a marker too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

__all__ = [
    "DARK",
    "GRID",
    "INK",
    "LIGHT",
    "PANEL",
    "SERIES",
    "SINGLE",
    "Series",
    "figure_style",
    "new_figure",
    "series",
]

#: The colours on a light page, by name; SVG output refers to them by name.
LIGHT = {"blue": "#0072b2", "vermillion": "#c24d00", "green": "#00805f", "purple": "#a8558a"}
#: Their twins on a dark page.
DARK = {"blue": "#56b4e9", "vermillion": "#f0813a", "green": "#2fc49a", "purple": "#e08fbf"}
#: Black stands for "the colour of the page's text" and follows the theme.
INK = "#000000"
#: Width and height in points of a figure with one panel; text is 11 points,
#: so that it is 10 pixels on a telephone and 15 in the book's column.
SINGLE = (400.0, 250.0)
#: Width and height in points of each of several panels that stand side by
#: side where there is room, else below one another.
PANEL = (320.0, 236.0)
#: How faint the grid is.
GRID = 0.14


@dataclass(frozen=True)
class Series:
    """How one series of a figure is drawn.

    Attributes:
        color: a hexadecimal colour of `LIGHT`, or `INK`.
        dashes: matplotlib's line style.
        marker: matplotlib's marker.
    """

    color: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str


#: The series in the order in which figures use them.
SERIES = (
    Series(LIGHT["blue"], "-", "o"),
    Series(LIGHT["vermillion"], (0, (6, 2)), "s"),
    Series(LIGHT["green"], (0, (1.2, 1.6)), "^"),
    Series(LIGHT["purple"], (0, (7, 2, 1.2, 2)), "D"),
    Series(INK, (0, (3, 1.5)), "v"),
)

_SETTINGS: dict[str, Any] = {
    # text stays text; DejaVu comes with matplotlib, so the layout is the same everywhere
    "svg.fonttype": "none",
    "svg.hashsalt": "mcbook",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 11,
    "axes.labelpad": 5,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.6,
    "legend.borderaxespad": 0.0,
    "legend.borderpad": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": GRID,
    "grid.linewidth": 0.7,
    "xtick.major.size": 3.5,
    "ytick.major.size": 0,
    "xtick.major.width": 0.7,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "ytick.major.pad": 5,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "lines.solid_capstyle": "round",
    "lines.dash_capstyle": "butt",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "auto",
    "figure.dpi": 72,
    "image.cmap": "gray",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Make matplotlib draw in the book's style inside a `with` block.

    Yields:
        Nothing; settings are as before when the block ends.
    """
    import matplotlib

    settings: Any = _SETTINGS  # matplotlib types the names one by one
    with matplotlib.rc_context(settings):
        yield


def series(index: int) -> Series:
    """The look of the series with this index.

    After the last colour they start again, each with the next dash pattern
    and marker, so that no two of the first twenty-five look the same.

    Args:
        index: 0 for the first series.

    Returns:
        Its colour, dashes and marker.
    """
    turn, place = divmod(index, len(SERIES))
    other = SERIES[(place + turn) % len(SERIES)]
    return Series(SERIES[place].color, other.dashes, other.marker)


def new_figure(size: tuple[float, float] = SINGLE) -> tuple[MatplotlibFigure, Axes]:
    """A figure with one set of axes, outside pyplot's list of open figures.

    Args:
        size: width and height in points.

    Returns:
        The figure and its axes.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04)
    figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout=layout)
    return figure, figure.subplots()
