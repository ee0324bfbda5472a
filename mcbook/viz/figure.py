"""Figures with a text alternative, which follow the page they stand on.

`show` turns matplotlib figures into a `Figure`: inline SVG in HTML that takes
its font and text colour from the page, so that it is right in light and dark
themes, without a kernel and without a network.  The same figure gives the
same bytes in every run.
"""

from __future__ import annotations

import hashlib
import html
import io
import os
import re
import sys
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mcbook.files import write_atomic
from mcbook.viz import svg
from mcbook.viz.style import DARK, LIGHT, figure_style

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    import pandas as pd
    from matplotlib.figure import Figure as MatplotlibFigure

__all__ = ["Figure", "show"]

#: rows and columns of a table that the page shows; the file to download has all
MOST_ROWS, MOST_COLUMNS = 31, 12
_PAPER = {"light": "#ffffff", "dark": "#14181e"}
_INK = {"light": "#1a1a1a", "dark": "#e6e6e6"}
_FONTS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_GAP = 16.0
#: pixels of the page to a point of the figure, at most
_SCALE = 1.4


def show(
    figure: MatplotlibFigure | Sequence[MatplotlibFigure],
    alt: str,
    caption: str | None = None,
    table: pd.DataFrame | Mapping[str, Iterable[Any]] | None = None,
    name: str = "figure",
) -> Figure:
    """Make an accessible figure out of matplotlib's.

    The matplotlib figures are closed, so that a notebook does not draw them a
    second time.

    Args:
        figure: what to show; several stand side by side where there is room,
            else below one another.
        alt: what the figure says, in words and numbers, for those who do not
            see it.
        caption: a line below the figure.
        table: the numbers drawn; readers unfold and download them.
        name: the name of the downloaded table, without ending.

    Returns:
        The figure, which notebooks and pages show as HTML.

    Raises:
        TypeError: if `figure` is not made of matplotlib figures.
        ValueError: if `alt` says nothing, or there is no figure.
    """
    return Figure(figure, alt, caption=caption, table=table, name=name)


class Figure:
    """A figure with a text alternative, a caption and its numbers.

    Made by `show` and by every `plot_…` function.

    Attributes:
        alt: the text alternative.
        caption: the line below the figure, or None.
        table: the numbers as a pandas table, or None.
        name: the name that a downloaded table gets.
    """

    def __init__(
        self,
        figure: MatplotlibFigure | Sequence[MatplotlibFigure],
        alt: str,
        caption: str | None = None,
        table: pd.DataFrame | Mapping[str, Iterable[Any]] | None = None,
        name: str = "figure",
    ):
        from matplotlib.figure import Figure as MatplotlibFigure

        panels = [figure] if isinstance(figure, MatplotlibFigure) else list(figure)
        for panel in panels:
            if not isinstance(panel, MatplotlibFigure):
                raise TypeError(f"expected a matplotlib Figure, found {type(panel).__name__}")
        if not panels:
            raise ValueError("expected at least one matplotlib figure, found none")
        if not isinstance(alt, str) or not alt.strip():
            raise ValueError(
                f"expected alt text that says what the figure shows, with numbers; found {alt!r}"
            )
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"expected a name of letters, digits, '-', '_' and '.', found {name!r}"
            )
        self.alt = " ".join(alt.split())
        self.caption = caption
        self.table = None if table is None else _as_table(table)
        self.name = name
        self._panels = panels
        self._drawings = tuple(_draw(panel) for panel in panels)
        for panel in panels:
            _close(panel)

    def __repr__(self) -> str:
        """The text alternative: what a page without pictures shows."""
        return f"Figure: {self.alt}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": repr(self)}

    def html(self) -> str:
        """The figure as HTML that needs nothing else.

        Viewers that take style sheets and SVG away (JupyterLab, as long as a
        notebook is not trusted) are left with a still picture: `hidden` then
        conceals what remains of the drawing, else the style sheet brings the
        drawing forth and puts the still away.

        Returns:
            A style sheet and a `<figure>` element.
        """
        colors = {value: f"var(--mc-{key},{value})" for key, value in LIGHT.items()}
        drawings = self._painted(colors, "currentColor", "var(--mc-paper)")
        alt = html.escape(self.alt)
        for drawing in drawings:
            width = float(drawing.attrib["viewBox"].split()[2])
            drawing.set("fill", "currentColor")
            drawing.set("stroke-linejoin", "round")
            drawing.set("style", f"max-width:{_SCALE * width:.0f}px")
            drawing.set("aria-hidden", "true")
        images = "".join(svg.write(drawing) for drawing in drawings)
        # within tags " only delimits, and ' needs no escape inside src="..."
        still = re.sub(
            "<[^>]+>", lambda tag: tag[0].replace("'", "&apos;").replace('"', "'"), self.svg()
        )
        still = urllib.parse.quote(still.strip(), safe=" /:;,=()'+-.")
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        live = "mc-live" if len(drawings) == 1 else "mc-live mc-panels"
        return (
            f"<style>{_css()}</style>\n"
            f'<figure class="mcbook-figure">'
            f'<div class="{live}" role="img" aria-label="{alt}" hidden="hidden">{images}</div>'
            f'<img class="mc-still" alt="{alt}" src="data:image/svg+xml,{still}"/>'
            f"{caption}{self._numbers()}</figure>"
        )

    def svg(self, theme: Literal["light", "dark"] = "light") -> str:
        """The figure as a file of its own, with a background.

        Args:
            theme: "light" or "dark".

        Returns:
            An SVG document.
        """
        if theme not in _PAPER:
            raise ValueError(f"expected theme 'light' or 'dark', found {theme!r}")
        ink, paper = _INK[theme], _PAPER[theme]
        palette = LIGHT if theme == "light" else DARK
        colors = {value: palette[key] for key, value in LIGHT.items()}
        drawings = self._painted(colors, ink, paper)
        sizes = [[float(v) for v in d.attrib["viewBox"].split()[2:]] for d in drawings]
        width = sum(w for w, _ in sizes) + _GAP * (len(sizes) - 1)
        height = max(h for _, h in sizes)
        left, parts = 0.0, []
        for drawing, (w, h) in zip(drawings, sizes, strict=True):
            attributes = {"x": f"{left:g}", "width": f"{w:g}", "height": f"{h:g}"}
            drawing.attrib.update(attributes)
            parts.append(svg.write(drawing))
            left += w + _GAP
        edge = _GAP / 2
        box = f"{-edge:g} {-edge:g} {width + _GAP:g} {height + _GAP:g}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="{box}"'
            f' width="{1.5 * (width + _GAP):g}" height="{1.5 * (height + _GAP):g}"'
            f' fill="{ink}" stroke-linejoin="round" font-family="{_FONTS}">'
            f"<title>{html.escape(self.alt)}</title>"
            f'<rect x="{-edge:g}" y="{-edge:g}" width="100%" height="100%" fill="{paper}"/>'
            + "".join(parts)
            + "</svg>\n"
        )

    def save(self, file: str | os.PathLike[str], theme: Literal["light", "dark"] = "light") -> Path:
        """Write the figure as a picture of its own.

        Args:
            file: a name that ends in `.svg` or `.png`.
            theme: "light" or "dark"; a PNG is always light.

        Returns:
            The path written.

        Raises:
            ValueError: if the ending is another, or a dark PNG is asked for.
        """
        file = Path(file)
        ending = file.suffix.lower()
        if ending == ".svg":
            return write_atomic(file, self.svg(theme))
        if ending != ".png" or theme != "light":
            raise ValueError(f"expected a .svg or a light .png, found {file.name!r}, {theme}")
        return write_atomic(file, self._png())

    def _painted(self, colors: Mapping[str, str], ink: str, paper: str) -> list[Element]:
        """Copies of the drawings with their colours and ids."""
        from copy import deepcopy

        content = "\n".join([self.alt, *map(svg.write, self._drawings)])
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        drawings = [deepcopy(drawing) for drawing in self._drawings]
        for place, drawing in enumerate(drawings):
            svg.number_ids(drawing, f"mc{digest}{'abcdefgh'[place % 8]}")
            svg.paint(drawing, colors, ink, paper)
        return drawings

    def _numbers(self) -> str:
        if self.table is None:
            return ""
        total, across = self.table.shape
        rows = self.table.iloc[_some(total, MOST_ROWS), _some(across, MOST_COLUMNS)]
        left_out = [
            f"{shown} of {there} {what}"
            for shown, there, what in zip(
                rows.shape, (total, across), ("rows", "columns"), strict=True
            )
            if shown < there
        ]
        note = f"{' and '.join(left_out)}; the file has all. " if left_out else ""
        head = "".join(f'<th scope="col">{html.escape(str(c))}</th>' for c in rows.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(v))}</td>" for v in row) + "</tr>"
            for row in rows.itertuples(index=False)
        )
        text = self.table.to_csv(index=False, float_format="%.4g", lineterminator="\n")
        link = "data:text/csv;charset=utf-8," + urllib.parse.quote(text, safe=",:/()[]+=")
        return (
            "<details><summary>The numbers</summary>"
            f'<div class="mc-numbers" role="group" aria-label="The numbers" tabindex="0">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            f'{note}<a download="{self.name}.csv" href="{link}">Download as CSV</a></details>'
        )

    def _png(self) -> bytes:
        import numpy as np
        from matplotlib.image import imsave

        pictures = []
        with figure_style():
            for panel in self._panels:
                raw = io.BytesIO()
                panel.savefig(raw, format="rgba", dpi=192, facecolor="white")
                size = panel.get_size_inches() * 192
                width, height = int(size[0]), int(size[1])
                flat = np.frombuffer(raw.getvalue(), dtype=np.uint8)
                pictures.append(flat.reshape(height, width, 4))
        height = max(len(picture) for picture in pictures)
        padded = [
            np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in pictures
        ]
        out = io.BytesIO()
        nothing: Any = {"Software": None}
        imsave(out, np.concatenate(padded, axis=1), format="png", metadata=nothing)
        return out.getvalue()


def _draw(panel: MatplotlibFigure) -> Element:
    out = io.StringIO()
    nothing: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with figure_style():
        panel.savefig(out, format="svg", metadata=nothing, facecolor="none", edgecolor="none")
    return svg.clean(out.getvalue())


def _close(panel: MatplotlibFigure) -> None:
    """Take the figure off pyplot's list, if pyplot has been used at all."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(panel)


def _as_table(table: pd.DataFrame | Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(table).reset_index(drop=True)


def _some(there: int, most: int) -> list[int]:
    """Evenly spaced places, the first and the last among them."""
    step = max(1, -(-(there - 1) // (most - 1)))
    return sorted({*range(0, there, step), there - 1}) if there else []


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"
    return str(value)


@cache
def _css() -> str:
    text = Path(__file__).with_name("figure.css").read_text(encoding="utf-8")
    return re.sub(r"\s*([{};:,>])\s*|\s+", lambda m: m[1] or " ", text).strip()
