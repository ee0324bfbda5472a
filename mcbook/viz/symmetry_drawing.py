"""How the tensors of a network, and the spaces on their axes, are put on paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mcbook.viz.style import INK
from mcbook.viz.symmetry_parts import FROZEN, Bar, Look, Row, Segment, Space, shape_text, short_name
from mcbook.viz.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["WIDTH", "Drawing"]

PAPER = "#ffffff"
#: left, top, width and height
Box = tuple[float, float, float, float]
#: points: the figure, the thickness of a strip, the sizes of text, what a letter takes of its size
WIDTH, STRIP = 400.0, 15.0
NAME, SMALL, LETTER, BOLD = 10.5, 9.5, 0.6, 0.72


class Drawing:
    """Draws rows and the legend; lengths are points, y goes down."""

    def __init__(self, axes: Axes, spaces: dict[int, Space], rows: Sequence[Row]):
        self.axes, self.spaces = axes, spaces
        sides = [side for row in rows for side in (row.rows, row.columns)]
        upright = [row.rows for row in rows] + [bar.segments for row in rows for bar in row.bars]
        self.largest = max((_size(s) for s in sides + upright), default=1)
        tags = [self.labels(segment)[-1] for segments in upright for segment in segments]
        # the width of a strip that stands upright
        self.upright = 9 + BOLD * SMALL * max([2, *map(len, tags)])
        names = [(row.name, NAME) for row in rows] + [(shape_text(r.shape), SMALL) for r in rows]
        self.left = 10 + min(138.0, max((_width(*name) for name in names), default=0.0))
        self.inner = self.left + self.upright + 1.5
        beside = [sum(self.bar(row, bar)[1] + 11 for bar in row.bars) for row in rows]
        spare = WIDTH - self.inner - 5 - max(beside, default=0.0)
        self.high = (80.0, min(max(spare, 80.0), 190.0)) if len(rows) <= 6 else (30.0, 80.0)
        widths = [self.wide(row) for row in rows if row.tensor]
        # bars stand below one another, but for rows of many segments
        self.bars = self.inner + min(max(widths, default=0.0), 190.0) + 16

    def labels(self, segment: Segment) -> list[str]:
        """What may be written on a segment, the longest first."""
        if segment.kind == FROZEN:
            return [f"{segment.length} frozen", str(segment.length)][segment.length == 1 :]
        if segment.kind < 0:
            return ["mixed", "…"]
        tag = self.spaces[segment.kind].tag
        many = f"{tag} ×{segment.repeats}"
        return [many, tag] if segment.repeats > 1 else [tag]

    def bar(self, row: Row, bar: Bar) -> tuple[str, float]:
        """What is written at a bar, and how wide it is with that."""
        label = _short(bar.label((row.tensor or "").rpartition(".")[0]), 90.0, SMALL)
        return label, max(self.upright, _width(label, SMALL))

    def wide(self, row: Row) -> float:
        """How wide the rectangle of a row is: there is room for a bar beside it."""
        most = (
            WIDTH - self.inner - 16 - max([self.upright, *(self.bar(row, b)[1] for b in row.bars)])
        )
        return self.extent(row.columns, 44.0, self.high[1], most, upright=False)

    def tall(self, segments: Sequence[Segment]) -> float:
        """How tall an upright strip is."""
        return self.extent(segments, 24.0, self.high[0], 92.0, upright=True)

    def extent(
        self, segments: Sequence[Segment], low: float, high: float, most: float, upright: bool
    ) -> float:
        """How long an axis is drawn: by the logarithm of its size, and so that its tags fit."""
        length = low + (high - low) * math.log1p(_size(segments)) / math.log1p(self.largest)
        needed = sum(self.least(s, upright) for s in segments)
        return max(length, needed if needed <= most else min(most, 130.0))

    def least(self, segment: Segment, upright: bool) -> float:
        """The room that the shortest label of a segment needs."""
        return 13.0 if upright else _width(self.labels(segment)[-1], bold=True) + 7

    def row(self, row: Row, y: float) -> float:
        """Draw a row; returns where it ends."""
        x, bottom = self.left, y + STRIP
        if row.tensor is not None:
            self.text(0, y + 8, _short(row.name, self.left - 8, NAME), NAME)
            self.text(0, y + 23, shape_text(row.shape), SMALL, alpha=0.8)
            width, height = self.wide(row), self.tall(row.rows)
            top = y + STRIP + 1.5
            self.strip((self.inner, y, width, STRIP), row.columns, upright=False)
            self.strip((self.left, top, self.upright, height), row.rows, upright=True)
            self.body((self.inner, top, width, height), row)
            x, bottom = max(self.bars, self.inner + width + 16), top + height
            for segments, total, upright, what in (
                (row.columns, width, False, "above"), (row.rows, height, True, "left")
            ):  # fmt: skip
                note = self.note(segments, total, upright)
                if note:
                    self.text(self.left, bottom + 9, f"{what}: {note}", SMALL)
                    bottom += 14
        line, start = y, x
        for bar in row.bars:
            label, wide = self.bar(row, bar)
            if x + wide > WIDTH + 4 and x > start:
                x, line = start, bottom + 7
            self.text(x, line + 8, label, SMALL)
            box = (x, line + STRIP + 1.5, self.upright, self.tall(bar.segments))
            self.strip(box, bar.segments, upright=True)
            end = box[1] + box[3]
            if not self.fits(bar.segments, box[3], upright=True):
                tags = self.tags(bar.segments)
                self.text(x, end + 9, tags[0], SMALL)
                self.text(x, end + 22, f"to {tags[-1]}", SMALL)
                end += 27
            bottom = max(bottom, end)
            x += wide + 11
        return bottom

    def fits(self, segments: Sequence[Segment], total: float, upright: bool) -> bool:
        """Whether every segment has room for its tag."""
        return sum(self.least(s, upright) for s in segments) <= total + 0.01

    def tags(self, segments: Sequence[Segment]) -> list[str]:
        """The tags on a strip, each once."""
        return list(dict.fromkeys(self.labels(s)[-1] for s in segments))

    def note(self, segments: Sequence[Segment], total: float, upright: bool) -> str:
        """What the tags on a strip do not say."""
        tags, mingled = self.tags(segments), any(s.scattered for s in segments)
        if self.fits(segments, total, upright):
            return f"{' and '.join(tags) if len(tags) < 3 else 'these'} alternate" * mingled
        first = ", ".join(tags) if len(tags) < 5 else f"{', '.join(tags[:2])} … {tags[-1]}"
        return f"{len(tags)} parts, {first}" + " (they alternate)" * mingled

    def strip(self, box: Box, segments: Sequence[Segment], upright: bool) -> None:
        """A side: its segments one after the other, each with its tag where there is room."""
        x, y, w, h = box
        total, whole = h if upright else w, _size(segments)
        fits = self.fits(segments, total, upright)
        least = [self.least(s, upright) if fits else 0.0 for s in segments]
        spare = total - sum(least)
        at = 0.0
        for place, (segment, room) in enumerate(zip(segments, least, strict=True), start=1):
            length = room + spare * segment.length / whole
            inner = length if place == len(segments) else max(length - 1.0, 0.6)
            part = (x, y + at, w, inner) if upright else (x + at, y, inner, h)
            self.segment(part, segment, upright, fits)
            at += length

    def segment(self, box: Box, segment: Segment, upright: bool, label: bool) -> None:
        """A part of a strip, with its tag where wanted."""
        x, y, w, h = box
        look = self.spaces[segment.kind].look if segment.kind >= 0 else None
        bold = look is not None
        words = [t for t in self.labels(segment) if _width(t, bold=bold) + 5 <= w] if label else []
        text = words[0] if words else self.labels(segment)[-1] * label
        # what the label takes of the length
        taken = (12.0 if upright else _width(text, bold=bold) + 6) if text else 0.0
        if look is None:
            self.hatched(box, upright, taken, empty=segment.length == 1)
        else:
            self.patch(box, look)
            self.notches(box, segment.ticks, upright, taken, PAPER if look.filled else look.color)
        ink = PAPER if look and look.filled else INK
        weight = "bold" if bold else "normal"
        self.text(x + w / 2, y + h / 2, text, SMALL, "center", color=ink, weight=weight)

    def notches(
        self, box: Box, ticks: Sequence[float], upright: bool, taken: float, color: str
    ) -> None:
        """Lines between blocks; beside the label only their ends."""
        x, y, w, h = box
        length, thick = (h, w) if upright else (w, h)
        if len(ticks) * 3 > length:
            return
        ends: list[tuple[float, float]] = []
        for share in ticks:
            free = abs(share - 0.5) * length > taken / 2
            at = share * length
            for start, end in [(0, thick)] if free else [(0, 2.5), (thick - 2.5, thick)]:
                ends += [(start, at), (end, at)] if upright else [(at, start), (at, end)]
        self.lines([(x + across, y + down) for across, down in ends], color, 1.0)

    def lines(
        self, ends: Sequence[tuple[float, float]], color: str, width: float, alpha: float = 1.0
    ) -> None:
        """Lines between pairs of points, as one shape."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        if ends:
            path = Path(list(ends), [Path.MOVETO, Path.LINETO] * (len(ends) // 2))
            self.add(PathPatch(path, fill=False, edgecolor=color, linewidth=width, alpha=alpha))

    def add(self, patch: Patch) -> None:
        """A shape; nothing is cut off, which keeps the file small."""
        self.axes.add_artist(patch).set_clip_path(None)
        patch.set_clip_on(False)

    def patch(self, box: Box, look: Look) -> None:
        """An area in the colours of a space."""
        from matplotlib.patches import Rectangle

        x, y, w, h = box
        if look.filled:
            self.add(Rectangle((x, y), w, h, facecolor=look.color, lw=0))
            return
        # the frame lies inside
        w, h = max(w - 1.6, 0.2), max(h - 1.6, 0.2)
        frame = Rectangle((x + 0.8, y + 0.8), w, h, fill=False, edgecolor=look.color, lw=1.6)
        self.add(frame)

    def hatched(self, box: Box, upright: bool, taken: float = 0.0, empty: bool = False) -> None:
        """What cannot move; a single position has nothing to move with, and only a frame."""
        from matplotlib.patches import Rectangle

        x, y, w, h = box
        frame = Rectangle((x + 0.4, y + 0.4), max(w - 0.8, 0.2), max(h - 0.8, 0.2), fill=False)
        frame.set(edgecolor=INK, linewidth=0.8, alpha=0.5)
        self.add(frame)
        if empty:
            return
        points: list[tuple[float, float]] = []
        step, length = 5.0, h if upright else w
        if length - taken < 6:  # little would be left of it
            taken = 0.0
        ends = [(0.0, (length - taken) / 2), ((length + taken) / 2, length)]
        for start, end in ends if taken else [(0.0, length)]:
            # slanted lines, cut at the edges of this part
            left, top = (x, y + start) if upright else (x + start, y)
            across, down = (w, end - start) if upright else (end - start, h)
            for k in range(1, math.ceil((across + down) / step)):
                c = k * step
                points.append((left + max(0.0, c - down), top + min(c, down)))
                points.append((left + min(c, across), top + max(0.0, c - across)))
        self.lines(points, INK, 0.8, alpha=0.35)

    def body(self, box: Box, row: Row) -> None:
        """A rectangle, with the size of the kernel."""
        from matplotlib.patches import Rectangle

        x, y, w, h = box
        self.add(Rectangle((x, y), w, h, facecolor=INK, alpha=0.07, lw=0))
        kernel = [n for a, n in enumerate(row.shape) if a not in row.axes]
        if len(kernel) > 1:
            self.text(x + w / 2, y + h / 2, shape_text(kernel), SMALL, "center", alpha=0.8)

    def legend(self, named: Sequence[Space], frozen: bool, y: float) -> float:
        """The tags and what they stand for; returns where it ends."""
        self.axes.plot([0, WIDTH], [y, y], color=INK, lw=0.7, alpha=0.4)
        y += 8
        chip = max([self.upright, *(9 + BOLD * SMALL * len(s.tag) for s in named)])
        longest = max([_width(s.text, NAME) for s in named], default=0.0)
        columns = max(1, min(3, int(WIDTH // (chip + longest + 16))))
        lines, wide = -(-len(named) // columns), WIDTH / columns
        room = wide - chip - 8
        # the number of tensors, where there is room for all of them
        on = {s.tag: f", on {count(len(s.tensors), 'tensor')}" for s in named}
        counted = columns == 1 and all(_width(s.text + on[s.tag], NAME) <= room for s in named)
        for place, space in enumerate(named):
            column, line = divmod(place, lines)
            x, at = column * wide, y + 19 * line
            self.patch((x, at, chip, STRIP), space.look)
            ink = PAPER if space.look.filled else INK
            look = {"color": ink, "weight": "bold"}
            self.text(x + chip / 2, at + STRIP / 2, space.tag, SMALL, "center", **look)
            text = space.text + on[space.tag] * counted
            if _width(text, NAME) > room:
                size = f": {space.size}"
                text = _short(space.name, room - _width(size, NAME), NAME) + size
            self.text(x + chip + 6, at + STRIP / 2, text, NAME)
        y += 19 * lines
        if frozen or not named:
            self.hatched((0, y, chip, STRIP), upright=False)
            self.text(chip + 6, y + STRIP / 2, "frozen: stays where it is", NAME)
            y += 19
        return y + 2

    def text(
        self, x: float, y: float, text: str, size: float, ha: str = "left", **look: Any
    ) -> None:
        """Text whose middle is at this height."""
        self.axes.text(x, y, text, size=size, ha=ha, va="center_baseline", **look)


def _size(segments: Sequence[Segment]) -> int:
    return sum(segment.length for segment in segments)


def _width(text: str, size: float = SMALL, bold: bool = False) -> float:
    """About how wide a text is, in points."""
    return (BOLD if bold else LETTER) * size * len(text)


def _short(name: str, room: float, size: float) -> str:
    return short_name(name, max(int(room / (LETTER * size)), 4))
