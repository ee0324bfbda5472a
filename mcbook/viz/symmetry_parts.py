"""What a picture of a `PermutationSpec` is made of: tags, sides of tensors, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mcbook.viz.style import LIGHT, SERIES
from mcbook.viz.wording import count, listed

if TYPE_CHECKING:
    from mcbook.symmetry.parts import Slots, UnitClass
from mcbook.symmetry.spec import PermutationSpec

__all__ = [
    "FROZEN",
    "Bar",
    "Look",
    "Row",
    "Segment",
    "Space",
    "axes_of",
    "frozen_text",
    "parts_of",
    "rows_of",
    "shape_text",
    "short_name",
    "side",
    "spaces_of",
]

#: what stands in place of the number of a class: nothing moves; several spaces at every position
FROZEN, MIXED = -1, -2
#: an axis that changes class more often, and back, is drawn class by class
_MOST_RUNS = 6
#: an axis whose units come round again is drawn in that many rounds at most
_MOST_ROUNDS = 6
#: boundaries between blocks, drawn one by one
_MOST_TICKS = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Look:
    """How the sides of a space are drawn.

    Attributes:
        color: a colour of `LIGHT`, or `INK`.
        filled: in full colour; else a frame.
    """

    color: str
    filled: bool


@dataclass(frozen=True)
class Space:
    """A space as the picture names it.

    Attributes:
        tag: what is written on every side it acts on; S2a lies in the blocks S2.
        name: its name in the spec.
        size: how many units of what, in words.
        tensors: the names of the tensors it acts on.
        look: how its sides are drawn.
    """

    tag: str
    name: str
    size: str
    tensors: tuple[str, ...]
    look: Look

    @property
    def text(self) -> str:
        """Its name and size."""
        return f"{self.name}: {self.size}"


@dataclass(frozen=True)
class Segment:
    """Neighbouring positions on an axis on which one space acts.

    Attributes:
        kind: the number of the class, `FROZEN` or `MIXED`.
        length: how many positions.
        repeats: how many positions every unit has among them.
        ticks: where a block begins, as shares of the length.
        scattered: whether the positions lie between those of other spaces.
    """

    kind: int
    length: int
    repeats: int = 1
    ticks: tuple[float, ...] = ()
    scattered: bool = False


@dataclass
class Bar:
    """The vectors of a module on which the same spaces act in the same way."""

    module: str
    tensors: list[str]
    segments: list[Segment]

    def label(self, own: str) -> str:
        """What is written at the bar, in the row of a module with the name `own`."""
        module, _, leaf = self.tensors[0].rpartition(".")
        last = module.rpartition(".")[2]
        if len(self.tensors) > 1:
            return f"{last}.*" if last else "*"
        return leaf if module == own or not last else f"{last}.{leaf}"


@dataclass
class Row:
    """A matrix or convolution, and the vectors that follow it.

    Attributes:
        tensor: its name, None for vectors before the first matrix.
        shape: its shape.
        axes: which axes are drawn as rows and as columns.
        rows: what acts on the rows.
        columns: what acts on the columns.
        bars: the vectors.
    """

    tensor: str | None = None
    shape: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()
    rows: list[Segment] = field(default_factory=list)
    columns: list[Segment] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What is written beside it: the module of a weight, else the tensor."""
        return (self.tensor or "").removesuffix(".weight")

    def tensors(self) -> list[str]:
        """The names of the tensors drawn in the row."""
        first = [] if self.tensor is None else [self.tensor]
        return first + [name for bar in self.bars for name in bar.tensors]


def parts_of(spec: PermutationSpec, tensor: str) -> Sequence[Slots]:
    """Where units stand on a tensor, also under its second name."""
    return spec.slots.get(spec.aliases.get(tensor, tensor), ())


def axes_of(spec: PermutationSpec, tensor: str) -> tuple[int, ...]:
    """The axes of a tensor that its picture shows: one of a vector, two of all else.

    Rows and columns of matrices and convolutions; where units stand on other axes, those.
    """
    shape = spec.shapes[tensor]
    if len(shape) < 2:
        return tuple(range(len(shape)))
    moving = {a for p in parts_of(spec, tensor) if (p.units >= 0).any() for a in p.axes}
    if moving <= {0, 1} and (moving or len(shape) == 2 or max(shape[:2]) > 1):
        return (0, 1)
    long = sorted((a for a, n in enumerate(shape) if n > 1), key=lambda a: (a not in moving, a))
    return tuple(sorted(long[:2]))


def side(spec: PermutationSpec, tensor: str, axis: int) -> list[Segment]:
    """What acts along one axis of a tensor, segment by segment.

    Where classes alternate, each has one segment of all its positions.

    Args:
        spec: the symmetry.
        tensor: its name.
        axis: which axis.

    Returns:
        Segments that together are as long as the axis.
    """
    size = spec.shapes[tensor][axis]
    parts = sorted(
        (p for p in parts_of(spec, tensor) if axis in p.axes), key=lambda p: -p.units.ndim
    )
    if not parts:
        return [Segment(FROZEN, size)]
    part = parts[0]
    at = part.axes.index(axis)
    units = np.moveaxis(part.units, at, 0).reshape(size, -1)
    rank = np.moveaxis(part.rank, at, 0).reshape(size, -1)[:, 0]
    kinds = np.where(units >= 0, np.searchsorted(spec.starts, units, side="right") - 1, FROZEN)
    top = kinds.max(axis=1)
    low = np.where(kinds >= 0, kinds, top[:, None]).min(axis=1)
    kind = np.where(low == top, top, MIXED)
    # one unit a position, also where several axes are permuted together
    unit = units.max(axis=1) if part.units.ndim == 1 else np.full(size, FROZEN)
    moves = np.where(kind >= 0, rank, 0)
    rounds = np.flatnonzero((np.diff(kind) != 0) | (np.diff(moves) != 0)) + 1
    runs = np.flatnonzero(np.diff(kind)) + 1
    order = list(dict.fromkeys(kind.tolist()))
    if len(rounds) < _MOST_ROUNDS:
        pieces = np.split(np.arange(size), rounds)
    elif len(runs) < max(_MOST_RUNS, len(order)):
        pieces = np.split(np.arange(size), runs)
    else:
        pieces = [np.flatnonzero(kind == k) for k in order]
    return [_segment(spec, int(kind[piece[0]]), unit[piece], piece) for piece in pieces]


def _segment(spec: PermutationSpec, kind: int, unit: np.ndarray, at: np.ndarray) -> Segment:
    scattered = bool((np.diff(at) > 1).any())
    if kind < 0 or (unit < 0).any():
        return Segment(kind, len(unit), scattered=scattered)
    ticks: tuple[float, ...] = ()
    for _, block in spec.classes[kind].parents[:1]:
        new = np.flatnonzero(np.diff(block[unit - spec.starts[kind]])) + 1
        ticks = tuple((new / len(unit)).tolist()) if len(new) <= _MOST_TICKS else ()
    return Segment(kind, len(unit), len(unit) // len(np.unique(unit)), ticks, scattered)


def spaces_of(spec: PermutationSpec) -> dict[int, Space]:
    """How the picture names and draws every class, by its number.

    A class of blocks is called S2, what lies in the blocks S2a, S2b; classes that only follow
    blocks have the tags of the blocks.

    Args:
        spec: the symmetry.

    Returns:
        The classes in the order of the spec.
    """
    tags: dict[int, str] = {}
    roots: dict[int, int] = {}
    inside: dict[str, int] = {}
    tops = 0
    for number, c in enumerate(spec.classes):
        above = [k for k, _ in c.parents]
        if not above:
            tops += 1
            tags[number], roots[number] = f"S{tops}", number
            continue
        roots[number] = roots[above[0]]
        if not c.is_space:
            tags[number] = "·".join(tags[k] for k in above)
            continue
        place = inside.get(tags[above[0]], 0)
        inside[tags[above[0]]] = place + 1
        letter = _LETTERS[place] if place < len(_LETTERS) else f".{place + 1}"
        tags[number] = tags[above[0]] + letter
    holding = {k for c in spec.classes for k, _ in c.parents}
    tensors = [_tensors(spec, number) for number in range(len(spec.classes))]
    looks = _looks({root: len(tensors[root]) for root in roots.values()})
    return {
        number: Space(
            tags[number],
            c.name,
            _size_of(c, number in holding, [tags[k] for k, _ in c.parents]),
            tensors[number],
            looks[roots[number]],
        )
        for number, c in enumerate(spec.classes)
    }


def _size_of(c: UnitClass, holds: bool, above: list[str]) -> str:
    # the names of most blocks say that they are blocks
    noun = "block" if holds else "unit"
    what = str(c.size) if c.name.endswith(" blocks") else count(c.size, noun)
    return f"{what} in {listed(above)}" if above else what


def _tensors(spec: PermutationSpec, number: int) -> tuple[str, ...]:
    c = spec.classes[number]
    return tuple(spec.tensors_of(c.name)) if c.is_space else ()


def _looks(shared: dict[int, int]) -> dict[int, Look]:
    """The looks of classes by how many tensors they act on: what is on many is in full colour."""
    colors = list(LIGHT.values())
    median = float(np.median(list(shared.values()))) if shared else 0.0
    ranked = sorted(shared, key=lambda k: (-shared[k], k))
    streams = [k for k in ranked if shared[k] >= 1.5 * median][: len(colors)]
    if len(shared) <= len(colors) or not streams:
        return {k: Look(colors[i % len(colors)], True) for i, k in enumerate(shared)}
    looks = {k: Look(colors[i], True) for i, k in enumerate(sorted(streams))}
    others = [k for k in shared if k not in looks]
    for i, k in enumerate(others):
        looks[k] = Look(SERIES[i % len(SERIES)].color, False)
    return looks


def rows_of(spec: PermutationSpec) -> list[Row]:
    """The tensors of a network in their order, a row for every matrix or convolution.

    Vectors stand in the row of the matrix before them, those of one module on which the same
    spaces act in one bar; scalars and second names of tied tensors are left out.

    Args:
        spec: the symmetry.

    Returns:
        The rows.
    """
    rows: list[Row] = []
    for tensor, shape in spec.shapes.items():
        axes = axes_of(spec, tensor)
        if not axes or tensor in spec.aliases:
            continue
        sides = [side(spec, tensor, axis) for axis in axes]
        if len(axes) == 2:
            rows.append(Row(tensor, shape, axes, sides[0], sides[1]))
            continue
        if not rows:
            rows.append(Row())
        module = tensor.rpartition(".")[0]
        same = [b for b in rows[-1].bars if b.module == module and b.segments == sides[0]]
        if same:
            same[0].tensors.append(tensor)
        else:
            rows[-1].bars.append(Bar(module, [tensor], sides[0]))
    return rows


def shape_text(shape: Sequence[int]) -> str:
    """For example "16 × 3 × 3 × 3"."""
    return " × ".join(map(str, shape))


def frozen_text(spec: PermutationSpec, most: int = 6) -> str:
    """What cannot move, in words: for example "64 columns of linear1.weight"."""
    words = []
    for f in spec.frozen:
        axes = axes_of(spec, f.tensor)
        if len(axes) < 2:
            what = count(f.count, "entry", "entries")
        elif f.axis in axes:
            what = count(f.count, ("row", "column")[axes.index(f.axis)])
        else:
            what = f"{count(f.count, 'place')} on axis {f.axis}"
        words.append(f"{what} of {f.tensor}")
    if len(words) > most:
        words[most:] = [f"parts of {count(len(words) - most, 'more axis', 'more axes')}"]
    return listed(words)


def short_name(name: str, most: int) -> str:
    """A name of at most so many letters, where that is possible.

    Parts without a number go first, the last part never.

    Args:
        name: parts with dots between them.
        most: how many letters there is room for.

    Returns:
        For example "…denselayer10.conv2".
    """
    parts = name.split(".")
    inner = range(len(parts) - 1)
    order = sorted(inner, key=lambda i: any(letter.isdigit() for letter in parts[i]))
    for i in order:
        if len(_joined(parts)) <= most:
            break
        parts[i] = ""
    text = _joined(parts)
    return text if len(text) <= most else "…" + text[len(text) - most + 1 :]


def _joined(parts: Sequence[str]) -> str:
    """Parts with dots between them, and three dots where some are missing."""
    text = ".".join(part or "…" for part in parts)
    while "….…" in text:
        text = text.replace("….…", "…")
    return text.replace("….", "…").replace(".…", "…")
