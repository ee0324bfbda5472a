"""Matplotlib's SVG made small: the drawing stays the same."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from mcbook.viz import svg

SOURCE = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="36pt"
 viewBox="0 0 72.123456 36" xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><x/></metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1"><g id="patch_1"><path d="M 0 36
L 72 36
z
" style="fill: none"/></g>
 <g id="axes_1" clip-path="url(#p1)">
  <defs><path id="m1" d="M 0 0
L 0 3.5
" style="stroke: #000000"/></defs>
  <use xlink:href="#m1" x="1.23456" y="2" style="stroke: #000000"/>
  <text style="font-size: 10px; font-family: 'DejaVu Sans', sans-serif; text-anchor: middle"
   x="3.14159" y="4" transform="rotate(-0 3.14159 4)">a &lt; b</text>
 </g></g>
 <defs><clipPath id="p1"><rect x="0" y="0" width="9" height="9"/></clipPath></defs>
</svg>"""


def points(data: str) -> list[tuple[float, float]]:
    """The points of a path of relative lines, slowly."""
    tokens = re.findall(r"[A-Za-z]|-?(?:\d+\.?\d*|\.\d+)", data)
    found: list[tuple[float, float]] = []
    command, x, y = "", 0.0, 0.0
    while tokens:
        if tokens[0].isalpha():
            command = tokens.pop(0)
        if command == "z":
            continue
        if command in "hv":
            step = float(tokens.pop(0))
            x, y = (x + step, y) if command == "h" else (x, y + step)
        else:
            a, b = float(tokens.pop(0)), float(tokens.pop(0))
            x, y = (a, b) if command == "M" else (x + a, y + b)
        found.append((x, y))
    return found


def test_what_a_page_does_not_need_is_dropped():
    text = svg.write(svg.clean(SOURCE))
    for gone in ("metadata", "<style", "DejaVu", "figure_1", "rotate", "fill:none", "3.14159"):
        assert gone not in text
    assert 'viewBox="0 0 72.12 36"' in text
    assert "a &lt; b" in text
    assert 'href="#m1"' in text
    assert 'clip-path="url(#p1)"' in text


def test_ids_are_renamed_where_they_stand_and_where_they_are_used():
    root = svg.clean(SOURCE)
    svg.number_ids(root, "q")
    text = svg.write(root)
    ids = re.findall(r' id="([^"]+)"', text)
    assert sorted(ids) == ["q0", "q1"]
    assert sorted(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) == [("", "q1"), ("q0", "")]


def test_black_and_white_follow_the_page_and_other_colours_stay():
    style = "fill:#111111;stroke:#ffffff;stop-color:#0072B2;color:#808080;clip:url(#a)"
    root = ET.fromstring(f'<svg><g style="{style}"/></svg>')
    svg.paint(root, {"#0072b2": "var(--mc-blue)"}, "currentColor", "white")
    assert root[0].get("style") == (
        "fill:currentColor;stroke:white;stop-color:var(--mc-blue);color:#808080;clip:url(#a)"
    )


def test_a_long_path_keeps_every_point_within_rounding():
    wave = [(0.37 * i, 50 + 40 * ((i * 7919) % 101) / 101) for i in range(400)]
    data = "\n".join(f"{'L' if i else 'M'} {x:.6f} {y:.6f}" for i, (x, y) in enumerate(wave))
    short = svg.compact_path(data)
    assert len(short) < 0.5 * len(data)
    for (x, y), (u, v) in zip(wave, points(short), strict=True):
        # rounding to tenths must not add up
        assert abs(x - u) <= 0.0501
        assert abs(y - v) <= 0.0501


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("M 0 0\nL 0 3.5\n", "M0 0v3.5"),
        ("M 1 2 L 5 2 L 5 -0.5 z", "M1 2h4v-2.5z"),
        ("M 0 0 L 1.5 0.25 L 1.5 0.25", "M0 0l1.5 .25h0"),
        ("M 0 0 C 1 1 2 2 3 0", "M0 0c1 1 2 2 3 0"),
        ("M -0.001 1e-05 Q 1 1 2 0 Z", "M0 0q1 1 2 0z"),
    ],
)
def test_short_paths(data: str, expected: str):
    assert svg.compact_path(data) == expected


def test_an_unknown_command_is_refused():
    with pytest.raises(ValueError, match="path of M, L, C, Q and Z, found 'A'"):
        svg.compact_path("M 0 0 A 1 1 0 0 0 2 2")


def test_fonts_of_older_versions_of_matplotlib_are_understood():
    text = SOURCE.replace(
        "font-size: 10px; font-family: 'DejaVu Sans', sans-serif",
        "font: italic 700 10px 'DejaVu Sans', sans-serif",
    )
    assert 'style="font-style:italic;font-weight:700;font-size:10px;text-anchor:middle"' in (
        svg.write(svg.clean(text))
    )
