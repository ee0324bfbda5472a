"""Small trained networks, and a page like the book's, for the tests of the sliders."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pydata_sphinx_theme
import sphinx_book_theme

import mcbook as mc
from mcbook.models.registry import Network


@cache
def digits() -> mc.Data:
    """The embedded digits."""
    return mc.load_data("digits")


@cache
def trained(seed: int, start: int | None = None, **options: object) -> Network:
    """A little network, trained for a moment."""
    first = mc.build_model("mlp", digits(), seed=seed if start is None else start, **options)
    return mc.train(first, digits(), epochs=4, lr=0.1, seed=seed, progress=False)


@cache
def line(b: int = 1, start: int | None = None) -> mc.LinearPath:
    """The straight path from seed 0 to seed b; `start`: the seed of B's initial weights."""
    return mc.LinearPath(trained(0, width=32), trained(b, start, width=32))


@cache
def measured(b: int = 1, start: int | None = None, points: int = 21) -> mc.Profile:
    """The profile of `line`."""
    return mc.profile(line(b, start), digits(), points=points, progress=False)


def write_page(folder: Path, *parts: str, theme: str = "light") -> Path:
    """A page with the book theme's own style sheets and the markup it puts around outputs."""
    styles = [
        Path(package.__file__).parent / "theme" / package.__name__ / "static" / "styles" / name
        for package, name in (
            (pydata_sphinx_theme, "bootstrap.css"),
            (pydata_sphinx_theme, "pydata-sphinx-theme.css"),
            (sphinx_book_theme, "sphinx-book-theme.css"),
        )
    ]
    links = "".join(f'<link rel="stylesheet" href="{style.as_uri()}">' for style in styles)
    cells = "".join(
        '<div class="cell docutils container"><div class="cell_output docutils container">'
        f'<div class="output text_html">{part}</div></div></div>'
        for part in parts
    )
    file = folder / f"page-{theme}.html"
    file.write_text(
        f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>A chapter</title>{links}</head><body>"
        '<main class="bd-content" style="display:block;max-width:760px;padding:16px">'
        f'<article class="bd-article" style="padding:0"><h1>A chapter</h1>{cells}</article>'
        "</main></body></html>",
        encoding="utf-8",
    )
    return file
