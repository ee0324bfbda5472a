"""Matplotlib's SVG made small, deterministic and at home on any page.

Matplotlib writes for print: black on white, ids that may meet on one page,
six decimals.  `clean` turns that into a tree without needless parts, `paint`
gives it colours that follow the page's theme (or fixed ones), and
`number_ids` gives it ids of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from xml.etree import ElementTree as ET

__all__ = ["clean", "number_ids", "paint", "write"]

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_TOKEN = re.compile(r"[A-Za-z]|-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_GENERIC_FONTS = ("monospace", "serif", "cursive")
_FONT = re.compile(r"(?P<before>[^'\"]*?)(?P<size>[\d.]+px)")
#: how many coordinates and commands make a path long
_LONG = 120
#: every channel up to the first counts as ink, from the second on as paper
_INK, _PAPER = 0x30, 0xF0


def clean(source: str) -> ET.Element:
    """The drawing in `source` without what a page does not need.

    Ids that nothing refers to, groups that say nothing, invisible shapes, the
    style sheet that would apply to the whole page, font names and decimals
    beyond the second are dropped.  What is drawn stays the same.

    Args:
        source: SVG as matplotlib writes it.

    Returns:
        The `<svg>` element: tags without namespace, size only as viewBox.
    """
    root = ET.fromstring(source)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {k.rpartition("}")[2]: v for k, v in element.attrib.items()}
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
    view = _rounded(root.attrib["viewBox"], 2)
    _drop(root, lambda e: e.tag in ("metadata", "style") or _invisible(e))
    used = _referenced(root)
    styles = {e.attrib["id"]: e.attrib.get("style") for e in root.iter() if "id" in e.attrib}
    for element in root.iter():
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
        _shorten(element)
        target = element.attrib.get("href", "")[1:]
        # a repeated style: the shape referred to has the same one
        if element.tag == "use" and element.attrib.get("style") == _style(styles.get(target) or ""):
            element.attrib.pop("style", None)
    _flatten(root)
    root.attrib = {"viewBox": view}
    return root


def paint(root: ET.Element, colors: Mapping[str, str], ink: str, paper: str) -> None:
    """Exchange colours in place.

    Args:
        root: a tree from `clean`.
        colors: new values by hexadecimal colour (lower case).
        ink: what stands for black and nearly black.
        paper: what stands for white and nearly white.
    """
    for element in root.iter():
        style = element.attrib.get("style")
        if style and "#" in style:
            parts = [part.partition(":") for part in style.split(";")]
            element.attrib["style"] = ";".join(
                f"{key}:{_color(value, colors, ink, paper)}" for key, _, value in parts
            )


def number_ids(root: ET.Element, prefix: str) -> None:
    """Rename every id to `prefix` and its number in the order of the document.

    Args:
        root: a tree from `clean`.
        prefix: what no other drawing on the page uses.
    """
    names: dict[str, str] = {}
    for element in root.iter():
        if "id" in element.attrib:
            names[element.attrib["id"]] = element.attrib["id"] = f"{prefix}{len(names)}"

    def renamed(match: re.Match[str]) -> str:
        return f"url(#{names.get(match[1], match[1])})"

    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href" and value.startswith("#"):
                element.attrib[key] = "#" + names.get(value[1:], value[1:])
            elif "url(#" in value:
                element.attrib[key] = _REFERENCE.sub(renamed, value)


def write(root: ET.Element) -> str:
    """The tree as text.

    Args:
        root: a tree from `clean`.

    Returns:
        Its markup, on one line.
    """
    return ET.tostring(root, encoding="unicode", short_empty_elements=True).replace(" />", "/>")


def compact_path(data: str) -> str:
    """A path with relative coordinates, rounded.

    Short paths are rounded to hundredths of a point, long ones to tenths.
    Every point is rounded before differences are taken, so that rounding does
    not add up along a curve.

    Args:
        data: the `d` attribute, with the absolute commands M, L, C, Q and Z.

    Returns:
        The same path, about a third as long.
    """
    out: list[str] = []
    last = ""
    here = start = (0, 0)
    tokens = _TOKEN.findall(data)
    grain = 100 if len(tokens) < _LONG else 10
    position = 0
    command = ""
    counts = {"M": 1, "L": 1, "C": 3, "Q": 2}
    while position < len(tokens):
        if tokens[position].isalpha():
            command = tokens[position]
            position += 1
            if command in "zZ":
                out.append("z")
                here, last = start, "z"
                continue
        if command not in counts:
            raise ValueError(f"expected a path of M, L, C, Q and Z, found {command!r}")
        numbers = tokens[position : position + 2 * counts[command]]
        position += len(numbers)
        values = [round(grain * float(number)) for number in numbers]
        points = list(zip(values[::2], values[1::2], strict=True))
        if command == "M":
            out.append("M" + _join(points[0], grain))
            here = start = points[0]
            last = "M"
            continue
        steps = [(x - here[0], y - here[1]) for x, y in points]
        letter, moves = command.lower(), [v for step in steps for v in step]
        if command == "L" and 0 in moves:
            letter, moves = ("h", moves[:1]) if moves[1] == 0 else ("v", moves[1:])
        body = _join(moves, grain)
        glue = "" if body.startswith("-") else " "
        out.append(glue + body if letter == last else letter + body)
        here, last = points[-1], letter
    return "".join(out)


def _join(values: tuple[int, ...] | list[int], grain: int) -> str:
    text = ""
    for value in values:
        number = f"{value / grain:.2f}".rstrip("0").rstrip(".")
        number = number.replace("0.", ".", 1) if number.startswith(("0.", "-0.")) else number
        number = "0" if number in ("-0", "") else number
        text += number if not text or number.startswith("-") else " " + number
    return text


def _shorten(element: ET.Element) -> None:
    attributes = element.attrib
    if "style" in attributes:
        attributes["style"] = _style(attributes["style"])
        if not attributes["style"]:
            del attributes["style"]
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    if "d" in attributes:
        attributes["d"] = compact_path(attributes["d"])
    href = attributes.get("href", "")
    if href.startswith("data:"):
        attributes["href"] = "".join(href.split())
    for key in ("x", "y", "width", "height", "transform", "points"):
        if key in attributes:
            places = 4 if key == "transform" else 2
            attributes[key] = _rounded(attributes[key], places)


def _rounded(text: str, places: int) -> str:
    """The text with no number of more than so many decimals."""
    return _DECIMAL.sub(lambda m: f"{float(m[0]):.{places}f}".rstrip("0").rstrip("."), text)


def _style(style: str) -> str:
    """The declarations without spaces and without the names of fonts."""
    kept = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font-family":
            generic = [name for name in _GENERIC_FONTS if value.split(",")[-1].strip() == name]
            value = generic[0] if generic else ""
        shorthand = _FONT.match(value) if key == "font" else None
        if shorthand:  # matplotlib before 3.10
            for word in shorthand["before"].split():
                kept.append(f"font-{'weight' if word.isdigit() else 'style'}:{word}")
            key, value = "font-size", shorthand["size"]
        if key and value:
            kept.append(f"{key}:{value}")
    return ";".join(kept)


def _invisible(element: ET.Element) -> bool:
    style = element.attrib.get("style", "").replace(" ", "")
    return element.tag == "path" and style == "fill:none" and "id" not in element.attrib


def _drop(element: ET.Element, unwanted: Callable[[ET.Element], bool]) -> None:
    for child in list(element):
        if unwanted(child):
            element.remove(child)
        else:
            _drop(child, unwanted)


def _flatten(element: ET.Element) -> None:
    for child in list(element):
        _flatten(child)
    flat: list[ET.Element] = []
    for child in list(element):
        if child.tag in ("g", "defs") and not len(child):
            continue
        flat.extend(child if child.tag == "g" and not child.attrib else [child])
    element[:] = flat
    # what all markers of a line have in common stands once
    styles = {child.attrib.get("style") for child in element if child.tag == "use"}
    if element.tag == "g" and len(styles) == 1 and all(child.tag == "use" for child in element):
        (common,) = styles
        if common and "style" not in element.attrib:
            element.attrib["style"] = common
            for child in element:
                del child.attrib["style"]


def _referenced(root: ET.Element) -> set[str]:
    used: set[str] = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href" and value.startswith("#"):
                used.add(value[1:])
            used.update(_REFERENCE.findall(value))
    return used


def _color(value: str, colors: Mapping[str, str], ink: str, paper: str) -> str:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return value
    if value.lower() in colors:
        return colors[value.lower()]
    channels = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
    if max(channels) <= _INK:
        return ink
    return paper if min(channels) >= _PAPER else value
