"""A spec as a table that a student can read."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .group import cells

if TYPE_CHECKING:
    from .spec import PermutationSpec

__all__ = ["acts_on", "html_report", "report", "structure", "table"]

_WIDTHS = {"acts on": 42, "tied by": 30}
_MOST = 8
_MOST_SPACES = 150
_LEFT = ' style="text-align:left;vertical-align:top"'


def table(spec: PermutationSpec, most: int | None = None) -> pd.DataFrame:
    """A row for each space: `space`, `units`, `structure`, `acts on`, `tied by`.

    Args:
        spec: what to describe.
        most: only so many spaces, the first.
    """
    rows: list[dict[str, object]] = []
    for place, c in enumerate(spec.classes):
        if c.is_space and (most is None or len(rows) < most):
            rows.append(
                {
                    "space": c.name,
                    "units": c.size,
                    "structure": structure(spec, place),
                    "acts on": ", ".join(acts_on(spec, c.name)) or _holds(spec, place),
                    "tied by": ", ".join(c.why),
                }
            )
    return pd.DataFrame(rows, columns=["space", "units", "structure", "acts on", "tied by"])


def _holds(spec: PermutationSpec, place: int) -> str:
    """What blocks without a tensor of their own move: what lies in them."""
    inside = [c.name for c in spec.classes if any(above == place for above, _ in c.parents)]
    return f"moves {' and '.join(inside)} in blocks"


def structure(spec: PermutationSpec, place: int) -> str:
    """How the units of a class lie in blocks, or what blocks they are; empty for plain units."""
    c = spec.classes[place]
    said = []
    if c.parents:
        sizes = sorted(set(cells(c.parents, c.size).tolist()))
        inside = " or ".join(map(str, sizes))
        said.append(f"{inside} in each of {c.size // max(sizes[0], 1)} blocks" if len(sizes) == 1
                    else f"{inside} in each block")  # fmt: skip
    if any(place == above for other in spec.classes for above, _ in other.parents):
        said.append("blocks")
    return "; ".join(said)


def acts_on(spec: PermutationSpec, name: str) -> list[str]:
    """The axes a space acts on, in short: `conv1 (out)`, `norm1`, `conv2 (in)`.

    A part of an axis is written `[first:last]`; several positions a unit as `×49`.

    Args:
        spec: the spec.
        name: of the space.
    """
    place = spec.space(name)
    inside = {place}
    for k, c in enumerate(spec.classes):  # what has no space of its own and follows this one
        if not c.is_space and any(above in inside for above, _ in c.parents):
            inside.add(k)
    starts = spec.starts
    found: dict[str, None] = {}
    for tensor, parts in spec.slots.items():
        for part in parts:
            of = np.searchsorted(starts, part.units.reshape(-1), side="right") - 1
            here = np.isin(of, list(inside)) & (part.units.reshape(-1) >= 0)
            if here.any():
                found[_place(spec, tensor, part.axes, here, part.rank.reshape(-1)[here])] = None
    return list(found)


def _place(
    spec: PermutationSpec, tensor: str, axes: tuple[int, ...], here: np.ndarray, rank: np.ndarray
) -> str:
    """One entry of `acts_on`."""
    path, _, last = tensor.rpartition(".")
    plain = {"weight", "bias", "running_mean", "running_var"}
    text = path if path and last in plain else tensor
    ndim = len(spec.shapes[tensor])
    # a bias goes with the rows of its matrix
    rows = ndim > 1 or (last == "bias" and len(spec.shapes.get(f"{path}.weight", ())) > 1)
    if axes == (0,) and rows:
        text += " (out)"
    elif axes in ((1,), (0, 1)) and ndim > 1:
        text += " (in)"
    elif ndim > 1:
        text += f" (axis {', '.join(map(str, axes))})"
    if len(axes) == 1 and not here.all():
        places = np.flatnonzero(here)
        text += f"[{places[0]}:{places[-1] + 1}]"
    if int(rank.max()) > 0:
        text += f" ×{int(rank.max()) + 1}"
    return text


def report(spec: PermutationSpec) -> str:
    """The whole spec as text: the group, its spaces, what cannot move, and whether it holds."""
    title, *head = _head(spec)
    lines = [title, *(f"  {line}" for line in head), ""]
    rows = table(spec, _MOST_SPACES)
    if len(rows):
        lines += _columns(rows)
        lines += [_more(spec)] if len(spec.spaces) > len(rows) else []
    else:
        lines.append("no units can be permuted")
    lines.append("")
    if spec.frozen:
        lines.append("cannot move")
    for text in _frozen(spec):
        lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="    ")
    for note in spec.notes:
        lines += textwrap.wrap(f"note: {note}", 100, subsequent_indent="  ")
    return "\n".join(lines).rstrip()


def html_report(spec: PermutationSpec) -> str:
    """The same as HTML, for notebooks and pages."""
    title, *head = map(html.escape, _head(spec))
    head = [re.sub(r"10\^([\d.,]+)", r"10<sup>\1</sup>", line) for line in head]
    rows = table(spec, _MOST_SPACES)
    parts = [f"<p><strong>{title}</strong><br>{'<br>'.join(head)}</p>"]
    if len(rows):
        if not rows["structure"].any():
            rows = rows.drop(columns="structure")
        top = "".join(f'<th scope="col"{_LEFT}>{name}</th>' for name in rows.columns)
        body = []
        for row in rows.itertuples(index=False):
            first, *others = (
                f"{cell:,}" if isinstance(cell, int) else _shortened(cell) for cell in row
            )
            # as notebooks set them, tables are to the right and centred
            cells_of = "".join(f"<td{_LEFT}>{html.escape(cell)}</td>" for cell in others)
            body.append(f'<tr><th scope="row"{_LEFT}>{html.escape(first)}</th>{cells_of}</tr>')
        parts.append(
            '<table class="dataframe" style="text-align:left">'
            f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )
        if len(spec.spaces) > len(rows):
            parts.append(f"<p>{_more(spec)}</p>")
    else:
        parts.append("<p>No units can be permuted.</p>")
    if spec.frozen:
        items = "".join(f"<li>{html.escape(text)}</li>" for text in _frozen(spec))
        parts.append(f"<p>Cannot move:</p><ul>{items}</ul>")
    parts += [f"<p>Note: {html.escape(note)}</p>" for note in spec.notes]
    return f'<div class="mcbook-spec">{"".join(parts)}</div>'


def _head(spec: PermutationSpec) -> list[str]:
    """The title, and what there is to say of the group as a whole."""
    free, every = spec.axis_counts()
    return [
        f"Permutation symmetry of {spec.model}",
        f"{_count(len(spec.spaces), 'space')} with {spec.units:,} units{_blocks(spec)}: "
        f"{_power(spec.log10_order)} orders compute the same function",
        f"units can move on {free} of {every} axes of the weights (the taps of kernels never do)",
        *_checked(spec),
    ]


def _checked(spec: PermutationSpec) -> list[str]:
    found = spec.verification
    if found is None:
        return ["not verified yet: spec.verify(model)"]
    if not len(found.table):
        return ["nothing to verify"]
    train = "" if np.isnan(found.train_error) else f", {found.train_error:.0e} in train mode"
    said = [
        f"verified in {found.precision}: outputs change by {found.error:.0e}{train}; "
        f"control at least {found.control:.0e}"
    ]
    other = found.table.loc[found.table["verified"] == "not verifiable", "space"].tolist()
    if other:
        said.append(f"not verifiable (the outputs hardly depend on them): {', '.join(other)}")
    if found.failed:
        said.append(f"failed and frozen: {', '.join(found.failed)}")
    return said


def _columns(rows: pd.DataFrame) -> list[str]:
    """The table in columns, long cells wrapped."""
    shown = rows.copy()
    for column in ("acts on", "tied by"):
        shown[column] = [_shortened(text) for text in shown[column]]
    if not shown["structure"].any():
        shown = shown.drop(columns="structure")
    shown["units"] = [f"{n:,}" for n in shown["units"]]
    widths = {
        c: min(_WIDTHS.get(c, 10**6), max(len(c), *map(len, shown[c]))) for c in shown.columns
    }

    def line(cells_of: Iterable[str]) -> str:
        return "  ".join(
            text.rjust(widths[c]) if c == "units" else text.ljust(widths[c])
            for c, text in zip(shown.columns, cells_of, strict=True)
        ).rstrip()

    out = [line(shown.columns), line("-" * widths[c] for c in shown.columns)]
    for row in shown.itertuples(index=False):
        wrapped = [textwrap.wrap(text, widths[c]) or [""]
                   for c, text in zip(shown.columns, row, strict=True)]  # fmt: skip
        for i in range(max(map(len, wrapped))):
            out.append(line(part[i] if i < len(part) else "" for part in wrapped))
    return out


def _shortened(text: str) -> str:
    parts = text.split(", ")
    return text if len(parts) <= _MOST else f"{', '.join(parts[: _MOST - 1])}, " \
        f"and {len(parts) - _MOST + 1} more"  # fmt: skip


def _frozen(spec: PermutationSpec) -> list[str]:
    """What cannot move, gathered by reason: a line for each."""
    by_reason: dict[str, list[str]] = {}
    for one in spec.frozen:
        side = {0: "rows", 1: "columns"}.get(one.axis, f"axis {one.axis}")
        if len(spec.shapes.get(one.tensor, ())) < 2:
            side = "entries"
        many = f"all {one.size}" if one.count == one.size else f"{one.count} of {one.size}"
        by_reason.setdefault(one.reason, []).append(f"{one.tensor} ({many} {side})")
    return [f"{_shortened(', '.join(places))}: {reason}" for reason, places in by_reason.items()]


def _blocks(spec: PermutationSpec) -> str:
    """How many of the units are blocks of others."""
    above = {k for c in spec.classes for k, _ in c.parents if spec.classes[k].is_space}
    blocks = sum(spec.classes[k].size for k in above)
    return f" ({blocks} of them blocks of others)" if blocks else ""


def _power(log10: float) -> str:
    """A number given by its logarithm: in full where it is small."""
    return f"{round(10**log10):,}" if log10 < 6.5 else f"10^{log10:,.1f}"


def _more(spec: PermutationSpec) -> str:
    return f"... and {len(spec.spaces) - _MOST_SPACES} more spaces; spec.table() has them all"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
