"""What the book's sliders share: one renderer, shown by a kernel or by the page alone.

A slider is an anywidget: with a kernel, the front end runs its JavaScript against the kernel's
traits.  The same JavaScript, with the payload, also goes into a self-contained `text/html`, so
that the static page, a viewer without a kernel, and a file on a disk show the same slider.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import anywidget
import traitlets

__all__ = ["SliderWidget", "asset", "fallback_table", "rounded", "script_json", "static_html"]


def asset(*names: str) -> str:
    """The text of JavaScript or CSS files of this folder, one after the other.

    Indentation and lines that are only a comment are left out: the text goes into every page.
    """
    lines: list[str] = []
    for name in names:
        text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        lines += [line.strip() for line in text.splitlines()]
    return "\n".join(x for x in lines if x and not x.startswith(("//", "/*"))) + "\n"


def rounded(value: float, digits: int = 4) -> float:
    """`value` to `digits` significant digits, so that a re-run writes the same bytes.

    Raises:
        ValueError: for NaN or infinity.
    """
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, found {value}")
    return float(f"{value:.{digits}g}") + 0.0  # no minus zero


def script_json(value: object) -> str:
    """`value` as JSON that may stand inside a `<script>`: no `<`, so nothing can end it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def fallback_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A plain HTML table: what a reader sees where scripts are off.

    Args:
        caption: said above the table.
        header: the names of the columns.
        rows: the cells as text; the first of each row names it.
    """
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return (
        '<div class="mcw-scroll" tabindex="0" role="region" aria-label="table">'
        f"<table>\n<caption>{html.escape(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def static_html(script: str, style: str, state: dict[str, Any], table: str) -> str:
    """The whole slider as HTML that needs no kernel, no network and no other file.

    Args:
        script: an ES module whose `render` is called.
        style: its CSS.
        state: the traits `render` asks for.
        table: what stands there until the script has run.
    """
    data = script_json(state)
    name = hashlib.sha256((script + data).encode()).hexdigest()[:12]
    return (
        f"<style>\n{style}</style>\n"
        f'<div class="mcw" data-mcw="{name}">{table}</div>\n'
        f'<script type="module">\n{script}mount(render, "{name}", {data});\n</script>'
    )


class SliderWidget(anywidget.AnyWidget):
    """The base of the sliders: a payload that is drawn, and `t`, which moves.

    Attributes:
        payload: everything the renderer needs, as JSON.
        t: where the slider stands, in [0, 1]; follows the reader's hand where there is a kernel,
            and moves the slider when it is set.
    """

    # ipywidgets 7 shows a widget by this method and would never ask for the text/html
    _ipython_display_ = None

    payload = traitlets.Dict().tag(sync=True)
    t = traitlets.Float(0.5).tag(sync=True)

    @traitlets.validate("t")
    def _valid_t(self, proposal: dict[str, Any]) -> float:
        value = float(proposal["value"])
        if not 0 <= value <= 1:
            raise traitlets.TraitError(f"expected t in [0, 1], found {value}")
        return value

    def table(self) -> str:
        """The plain HTML table shown where scripts are off."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line of plain text, without the name of the class."""
        raise NotImplementedError

    def to_html(self) -> str:
        """This slider as self-contained HTML: no kernel, no network, no other file."""
        state = {"payload": self.payload, "t": self.t}
        return static_html(str(self._esm), str(self._css), state, self.table())

    def __repr__(self) -> str:
        """The same text for the same content, at every run."""
        return f"{type(self).__name__}({self.describe()})"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        return {**data, "text/html": self.to_html()}, metadata
