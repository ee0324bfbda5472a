"""The spaces of a network, drawn on its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcbook.errors import expect
from mcbook.symmetry.spec import PermutationSpec
from mcbook.viz.figure import Figure, show
from mcbook.viz.style import figure_style
from mcbook.viz.symmetry_drawing import WIDTH, Drawing
from mcbook.viz.symmetry_parts import (
    FROZEN,
    Space,
    axes_of,
    frozen_text,
    parts_of,
    rows_of,
    side,
    spaces_of,
)
from mcbook.viz.wording import count, listed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_symmetry"]

#: points between rows
_GAP = 12.0
#: spaces named in a cell of the table
_MOST_NAMES = 8


def plot_symmetry(
    spec: PermutationSpec,
    alt: str | None = None,
    caption: str | None = None,
    most_tensors: int = 40,
) -> Figure:
    """The tensors of a network, with the spaces that act on their axes.

    Every matrix and convolution is a rectangle: the strip at its left is what acts on its rows
    (axis 0, the outputs), the strip above it what acts on its columns (axis 1, the inputs).
    Vectors (biases, scales, statistics) are bars beside it, one a module and space.  Strips with
    the same tag are permuted together; hatched ones cannot move.

    Args:
        spec: the permutation symmetry, from `trace_symmetry`.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.
        most_tensors: how many matrices and convolutions are drawn; of larger networks the first.

    Returns:
        The figure.  Its table has a row for every axis of every tensor, but for kernel axes and
        those of length one.

    Raises:
        TypeError: if `spec` is no `PermutationSpec`.
        ValueError: if no tensor is to be drawn.
    """
    expect(spec, PermutationSpec, "a PermutationSpec")
    if isinstance(most_tensors, bool) or not isinstance(most_tensors, int) or most_tensors < 1:
        raise ValueError(f"expected most_tensors of at least 1, found {most_tensors!r}")
    spaces = spaces_of(spec)
    every = rows_of(spec)
    rows = every[:most_tensors]
    drawn = {name for row in rows for name in row.tensors()}
    named = [s for k, s in spaces.items() if spec.classes[k].is_space and drawn & {*s.tensors}]
    left_out = _left_out(len(every) - len(rows), len(spec.spaces) - len(named))
    with figure_style():
        from matplotlib.figure import Figure as MatplotlibFigure

        figure = MatplotlibFigure(figsize=(WIDTH / 72, 1))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        y = _title(axes, spec)
        drawing = Drawing(axes, spaces, rows)
        for row in rows:
            y = drawing.row(row, y) + _GAP
        if left_out:
            axes.text(0, y, left_out, size=10.5, style="italic", va="top")
            y += 24
        y = drawing.legend(named, bool(spec.frozen), y)
        figure.set_figheight(y / 72)
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(y, 0)
    if caption is None:
        caption = _caption(spec, named, len(rows), left_out)
    return show(figure, alt or _told(spec, spaces, left_out), caption, _table(spec), "symmetry")


def _title(axes: Axes, spec: PermutationSpec) -> float:
    said = f"{count(len(spec.spaces), 'space')}, {count(spec.units, 'unit')}"
    axes.text(0, 8, f"{spec.model}: {said}", size=11, weight="bold", va="center_baseline")
    return 26.0


def _left_out(matrices: int, spaces: int) -> str:
    if not matrices:
        return f"… and {count(spaces, 'space')} on what is not drawn" if spaces > 0 else ""
    more = f"… and {count(matrices, 'more matrix', 'more matrices and convolutions')}"
    return more + (f", with {count(spaces, 'more space')}" if spaces > 0 else "")


def _caption(spec: PermutationSpec, named: Sequence[Space], rows: int, left_out: str) -> str:
    text = (
        "Rectangles are matrices and convolutions: the strip at the left is what acts on the rows "
        "(outputs), the strip above what acts on the columns (inputs). Bars are vectors (norm.*: "
        "all those of norm). The units of strips with the same tag are permuted together."
    )
    if len({space.look.filled for space in named}) > 1:
        text += " Full colour: the spaces on the most tensors."
    if spec.nested:
        text += " Lines across a strip separate blocks, which are permuted as a whole."
    if spec.aliases:
        tied = [f"{name} is {first}" for name, first in spec.aliases.items()]
        text += f" Tied, and drawn once: {listed(tied[:4])}."
    if left_out:
        shown = f"the first {rows} rows" if rows > 1 else "the first row"
        text += f" Drawn: {shown}; left out: {left_out.removeprefix('… and ')}."
    return text


def _told(spec: PermutationSpec, spaces: dict[int, Space], left_out: str) -> str:
    own = [s for k, s in spaces.items() if spec.classes[k].is_space]
    text = (
        f"The permutation symmetry of {spec.model}: {count(len(own), 'space')} "
        f"with {count(spec.units, 'unit')} on {count(len(spec.shapes), 'tensor')}"
    )
    few = own if len(own) <= 6 else []
    text += f": {listed([s.text for s in few])}. " if few else ". "
    if own:
        most = max(own, key=lambda s: len(s.tensors))
        shared = list(most.tensors)
        if len(shared) > 8:
            shared[7:] = [f"{len(shared) - 7} more"]
        on = count(len(most.tensors), "tensor")
        size = count(spec.spaces[most.name], "unit")
        text += f"{most.name} ({most.tag}, {size}) acts on the most, {on}: {listed(shared)}. "
    if spec.nested:
        text += f"{count(len(spec.nested), 'space lies', 'spaces lie')} in blocks. "
    frozen = frozen_text(spec)
    text += f"Frozen: {frozen}. " if frozen else "Nothing is frozen. "
    return text + (f"Not drawn: {left_out.removeprefix('… and ')}." if left_out else "")


def _table(spec: PermutationSpec) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, list[Any]] = {k: [] for k in ("tensor", "axis", "size", "spaces", "frozen")}
    for tensor, shape in spec.shapes.items():
        moving = {a for p in parts_of(spec, tensor) if (p.units >= 0).any() for a in p.axes}
        for axis in sorted({*axes_of(spec, tensor), *moving}):
            if shape[axis] == 1:
                continue
            segments = side(spec, tensor, axis)
            kinds = list(dict.fromkeys(s.kind for s in segments if s.kind >= 0))
            mixed = any(s.kind < FROZEN for s in segments)
            names = [spec.classes[k].name for k in kinds] + ["several together"] * mixed
            if len(names) > _MOST_NAMES:
                names[_MOST_NAMES - 1 :] = [f"{len(names) - _MOST_NAMES + 1} more"]
            frozen = sum(s.length for s in segments if s.kind == FROZEN)
            for key, cell in zip(
                columns, (tensor, axis, shape[axis], ", ".join(names) or "–", frozen), strict=True
            ):
                columns[key].append(cell)
    return pd.DataFrame(columns)
