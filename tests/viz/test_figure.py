"""The accessible figure: what it says, its bytes, its looks in a page."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from mcbook.viz.figure import Figure, show
from mcbook.viz.style import DARK, LIGHT, figure_style, new_figure, series

ALT = 'A line from 1 to 3 & "back"'
TABLE = {"t": np.linspace(0, 1, 61), "loss": np.linspace(1, 3, 61)}
PROGRAM = """
import hashlib, numpy as np
from mcbook.viz.figure import show
from mcbook.viz.style import LIGHT, figure_style, new_figure
with figure_style():
    figure, axes = new_figure()
    axes.plot([0, 1, 2], [1, 3, 1], color=LIGHT["blue"], marker="o")
    axes.imshow(np.eye(4), extent=(0, 1, 1, 2))
shown = show(figure, "A hill and a picture.", "Caption", {"a": [1.5, 2.5]})
text = shown.html() + shown.svg()
print(hashlib.sha256(text.encode()).hexdigest())
"""


def drawn(values: tuple[float, ...] = (1, 3, 1)) -> MatplotlibFigure:
    with figure_style():
        figure, axes = new_figure()
        axes.plot([0, 1, 2], values, color=LIGHT["blue"], marker="o")
        axes.fill_between([0, 1, 2], 0, values, color=LIGHT["vermillion"], alpha=0.3)
        axes.set_xlabel("t")
    return figure


def ids(text: str) -> list[str]:
    return re.findall(r'\bid="([^"]+)"', text)


class Page(HTMLParser):
    """Every start tag with its attributes, and whether tags are balanced."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def the(self, tag: str) -> dict[str, str | None]:
        (found,) = [attributes for name, attributes in self.tags if name == tag]
        return found


def test_a_page_gets_a_named_image_and_a_text():
    bundle = show(drawn(), ALT, "What <it> shows")._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/plain"] == f"Figure: {ALT}"
    page = Page(bundle["text/html"])
    assert not page.open
    images = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert [image["aria-label"] for image in images] == [ALT]
    assert page.the("img")["alt"] == ALT
    assert "<figcaption>What &lt;it&gt; shows</figcaption>" in bundle["text/html"]


def test_text_stays_text_in_the_font_of_the_page():
    text = show(drawn(), ALT).html()
    assert re.search(r"<text [^>]*>t</text>", text)
    live = text[text.index("<svg") : text.index("</svg>")]
    assert "font-family" not in live


def test_colours_follow_the_theme():
    text = show(drawn(), ALT).html()
    live = text[text.index("<svg") : text.index("</svg>")]
    assert 'fill="currentColor"' in live
    assert "stroke:currentColor" in live
    # only as fallbacks of the theme's variables
    assert set(re.findall(r".{12}#[0-9a-f]{6}", live)) == {
        f"{('var(--mc-' + name + ',')[-12:]}{LIGHT[name]}" for name in ("blue", "vermillion")
    }
    for name in LIGHT:
        assert f"--mc-{name}:{LIGHT[name]}" in text
        assert f"--mc-{name}:{DARK[name]}" in text
    assert "html[data-theme=dark] .bd-content div.cell_output .output.text_html" in text


def test_several_figures_share_a_page_without_sharing_an_id():
    pages = [show(drawn((1, height, 1)), ALT).html() for height in (2, 3, 4)]
    pages.append(show([drawn((5, 1, 2)), drawn((5, 1, 2))], "Two panels").html())
    together = [name for page in pages for name in ids(page)]
    assert together
    assert len(set(together)) == len(together)
    for page in pages:
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
        assert used == set(ids(page))


def test_the_same_figure_has_the_same_bytes():
    assert show(drawn(), ALT, table=TABLE).html() == show(drawn(), ALT, table=TABLE).html()
    first = show(drawn(), ALT)
    assert first.html() == first.html()


def test_the_same_figure_has_the_same_bytes_in_another_process(capsys: pytest.CaptureFixture):
    exec(PROGRAM, {})
    here = capsys.readouterr().out
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONHASHSEED": "1", "PATH": "", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert here == there != ""


def test_nothing_in_it_says_when_or_where_it_was_made():
    text = show(drawn(), ALT, table=TABLE).html()
    assert "matplotlib" not in text.lower()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http%3A", "")


def test_a_typical_figure_is_small():
    wave = np.sin(np.linspace(0, 3, 61))
    with figure_style():
        figure, axes = new_figure()
        for place in range(3):
            axes.plot(TABLE["t"], wave * (place + 1), color=series(place).color)
    assert len(show(figure, ALT, "Caption", TABLE).html()) < 25_000


def test_the_numbers_can_be_unfolded_and_downloaded():
    text = show(drawn(), ALT, table=TABLE, name="hill").html()
    link = Page(text).the("a")
    assert link["download"] == "hill.csv"
    kind, content = link["href"].split(",", 1)
    assert kind == "data:text/csv;charset=utf-8"
    rows = urllib.parse.unquote(content).splitlines()
    assert rows[0] == "t,loss"
    assert len(rows) == 62
    assert rows[-1] == "1,3"
    assert text.count("<tr>") == 1 + 31
    assert "31 of 61 rows; the file has all." in text


def test_a_short_table_is_shown_whole_and_a_wide_one_is_not():
    short = show(drawn(), ALT, table={"a": [1.0, float("nan")], "b": ["x", "<y>"]}).html()
    assert "the file has" not in short
    assert "<td>–</td><td>&lt;y&gt;</td>" in short
    wide = show(drawn(), ALT, table=pd.DataFrame(np.zeros((2, 30)))).html()
    assert "11 of 30 columns; the file has all." in wide


def test_a_stripped_page_keeps_a_still_picture():
    # as in JupyterLab before a notebook is trusted: no style sheet, no svg
    page = Page(show(drawn(), ALT).html())
    live = next(attributes for name, attributes in page.tags if name == "div")
    assert live["hidden"] == "hidden"
    kind, content = page.the("img")["src"].split(",", 1)
    assert kind == "data:image/svg+xml"
    root = ET.fromstring(urllib.parse.unquote(content))
    assert root.find("{*}title").text == ALT


def test_panels_are_one_image_to_those_who_do_not_see_it():
    shown = show([drawn(), drawn((3, 1, 3))], ALT)
    page = Page(shown.html())
    assert sum(attributes.get("role") == "img" for _, attributes in page.tags) == 1
    drawings = [attributes for name, attributes in page.tags if name == "svg"]
    assert [drawing["aria-hidden"] for drawing in drawings] == ["true", "true"]


def test_it_is_closed_so_that_no_notebook_draws_it_again():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot([1, 2])
    show(figure, ALT)
    assert not plt.fignum_exists(figure.number)
    assert plt.get_fignums() == []


def test_matplotlibs_settings_are_left_alone():
    import matplotlib

    before = matplotlib.rcParams.copy()
    show(drawn(), ALT).html()
    assert matplotlib.rcParams == before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_saved_svg_stands_by_itself(tmp_path: Path, theme: str):
    shown = show([drawn(), drawn((3, 1, 3))], ALT)
    file = shown.save(tmp_path / "picture.svg", theme=theme)
    text = file.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.find("{*}title").text == ALT
    assert "currentColor" not in text
    assert "var(" not in text
    palette = LIGHT if theme == "light" else DARK
    assert palette["blue"] in text
    assert len(set(ids(text))) == len(ids(text))
    assert shown.save(tmp_path / "again.svg", theme=theme).read_text(encoding="utf-8") == text


def test_a_saved_png_has_the_same_bytes_each_time(tmp_path: Path):
    shown = show([drawn(), drawn((3, 1, 3))], ALT)
    first = shown.save(tmp_path / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert b"Software" not in first
    assert shown.save(tmp_path / "b.png").read_bytes() == first


@pytest.mark.parametrize(
    ("name", "theme", "message"),
    [
        ("a.pdf", "light", r"expected a \.svg or a light \.png, found 'a\.pdf'"),
        ("a.png", "dark", r"expected a \.svg or a light \.png, found 'a\.png', dark"),
        ("a.svg", "blue", "expected theme 'light' or 'dark', found 'blue'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, theme: str, message: str):
    with pytest.raises(ValueError, match=message):
        show(drawn(), ALT).save(tmp_path / name, theme=theme)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("alt", ["", "  \n", None, 3])
def test_alt_text_is_required(alt: object):
    with pytest.raises(ValueError, match="expected alt text"):
        show(drawn(), alt)


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="expected a matplotlib Figure, found str"):
        show(["no figure"], ALT)
    with pytest.raises(ValueError, match="at least one matplotlib figure, found none"):
        Figure([], ALT)
    with pytest.raises(ValueError, match="expected a name of letters"):
        show(drawn(), ALT, name='a" onclick="')


def test_alt_text_is_escaped_everywhere():
    nasty = '</title><script>alert("1")</script> & more'
    shown = show(drawn(), nasty, nasty)
    assert "<script" not in shown.html()
    assert "<script" not in shown.svg()
    assert html.escape(nasty) in shown.html()


def test_twenty_five_series_all_look_different():
    assert len({series(index) for index in range(25)}) == 25
