"""What is drawn of a layer-wise walk: its rows, its stages in words, and the page's payload."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import IncompatibleError, UnknownNameError, expect
from ..paths.layerwise import LayerwisePath
from .widget import rounded
from .wording import ends_named, listed

if TYPE_CHECKING:
    from ..analysis.profiles import Profile

__all__ = [
    "MOST_ROWS",
    "Row",
    "Stage",
    "distance_text",
    "ends_of",
    "full_losses",
    "named_stages",
    "walk_payload",
    "walk_rows",
]

#: more are merged: tensors to layers, layers to stages
MOST_ROWS = 16
#: more ticks than these are thinned, evenly
MOST_TICKS = 1000
#: numbers of the rows in a page: many rows thin the ticks further
MOST_NUMBERS = 24_000
BY = ("tensor", "layer", "stage")
_CLOSE = 1e-9


@dataclass(frozen=True)
class Row:
    """What is drawn as one: a tensor, a layer or a stage.

    Attributes:
        name: what it is called.
        stage: the number of the stage it begins to move in, as `path.stages` has them, from 0.
        look: the number of its colour and dashes: that of its stage, or of its layer where there
            is one stage only.
        tensors: the names of its tensors.
        thin: whether it has neither matrices nor kernels: a bias, a norm.
        share: the distance left as a part of the first, `sqrt(Σ d²) / sqrt(Σ d₀²)` over its
            tensors, `[ticks + 1]`.
    """

    name: str
    stage: int
    look: int
    tensors: tuple[str, ...]
    thin: bool
    share: np.ndarray


@dataclass(frozen=True)
class Stage:
    """A stage of the walk, as the log counts them.

    Attributes:
        first: its first tick.
        last: its last tick.
        upto: so many groups of `path.stages` move in it.
        words: which layers, in words.
        verb: `move`, or `moves` for one.
        begins: those of them that did not move in the stage before; all if there are none.
    """

    first: int
    last: int
    upto: int
    words: str
    verb: str
    begins: str


def walk_rows(path: LayerwisePath, by: str | None = None, most: int = MOST_ROWS) -> list[Row]:
    """The distances of a walk, a row for each tensor, layer or stage, in the order of the stages.

    Args:
        path: the walk.
        by: `tensor`; `layer`, the tensors of one module together; or `stage`.  None: the first of
            them with at most `most` rows, or `stage`.
        most: see `by`.

    Returns:
        The rows.  Left out are tensors that are not moved and rows that begin at their
        destination: nothing is a part of a distance of 0.

    Raises:
        UnknownNameError: for another `by`.
        ValueError: if no row is left.
    """
    if by is not None and by not in BY:
        raise UnknownNameError("kind of rows", by, BY)
    stage_of = {name: k for k, group in enumerate(path.stages) for name in group}
    moved = [name for group in path.stages for name in group]
    for kind in BY if by is None else (by,):
        groups = _grouped(moved, stage_of, kind, path.stages)
        if by is not None or kind == BY[-1] or len(groups) <= most:
            break
    rows: list[Row] = []
    layers: dict[str, int] = {}
    for name, tensors in groups:
        squares = path.distances[list(tensors)].to_numpy(dtype=float) ** 2
        distance = np.sqrt(squares.sum(axis=1))
        if not distance[0] > 0:
            continue
        thin = all(path.control_points[tensor].ndim - 1 < 2 for tensor in tensors)
        stage = min(stage_of[t] for t in tensors)
        layer = layers.setdefault(tensors[0].rpartition(".")[0] or name, len(layers))
        look = stage if len(path.stages) > 1 else layer
        rows.append(Row(name, stage, look, tensors, thin, distance / distance[0]))
    if not rows:
        raise ValueError("expected a walk of layers that are not where they go, found none")
    return rows


def _grouped(
    moved: Sequence[str], stage_of: dict[str, int], kind: str, stages: Sequence[Sequence[str]]
) -> list[tuple[str, tuple[str, ...]]]:
    """The names of the rows, with their tensors."""
    if kind == "stage":
        return [(_shortened(_modules(group, moved)), tuple(group)) for group in stages]
    groups: dict[str, list[str]] = {}
    for name in moved:
        module = name if kind == "tensor" else name.rpartition(".")[0] or name
        groups.setdefault(module, []).append(name)
    return [(name, tuple(tensors)) for name, tensors in groups.items()]


def named_stages(path: LayerwisePath) -> list[Stage]:
    """The stages of a walk, from the log: when each begins and what moves in it."""
    sizes = np.cumsum([len(group) for group in path.stages])
    every = [name for group in path.stages for name in group]
    found: list[Stage] = []
    for _, ticks in path.log[path.log["stage"] > 0].groupby("stage", sort=True):
        upto = int(np.searchsorted(sizes, ticks["moved"].iloc[0])) + 1
        names = [name for group in path.stages[:upto] for name in group]
        modules = _modules(names, every)
        words = "all layers" if len(names) == len(every) else _shortened(modules)
        verb = "moves" if len(modules) == 1 and words != "all layers" else "move"
        before = found[-1].upto if found else 0
        new = [name for group in path.stages[before:upto] for name in group]
        begins = _shortened(_modules(new, every)) if new and before else words
        first, last = int(ticks["tick"].min()), int(ticks["tick"].max())
        found.append(Stage(first, last, upto, words, verb, begins))
    return found


def _modules(tensors: Iterable[str], every: Sequence[str]) -> list[str]:
    """The largest modules that these tensors fill, and the names of those that fill none."""
    inside: dict[str, int] = {}
    chosen: dict[str, int] = {}
    tensors = list(tensors)
    for count, names in ((inside, every), (chosen, tensors)):
        for name in names:
            for module in _above(name):
                count[module] = count.get(module, 0) + 1
    found: dict[str, None] = {}
    for name in tensors:
        found[next(m for m in _above(name) if chosen[m] == inside[m])] = None
    return list(found)


def _above(name: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _shortened(names: Sequence[str]) -> str:
    """At most four names."""
    if len(names) <= 4:
        return listed(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def ends_of(path: LayerwisePath, ends: Sequence[str] | None) -> tuple[str, str]:
    """What the start and the destination are called: A, and B or the origin."""
    if ends is not None:
        return ends_named(ends)
    # what ends in no network has no closing piece
    return ("A", "the origin") if math.isnan(path.closing) else ("A", "B")


def distance_text(path: LayerwisePath, b: str) -> str:
    """What is measured of every tensor."""
    return "‖W‖" if math.isnan(path.closing) else f"‖W − W({b})‖"


def full_losses(path: LayerwisePath, profile: Profile | None) -> list[tuple[int, float]]:
    """The training loss at the recorded ticks, from a profile of the walk.

    Raises:
        TypeError: for something that is no profile.
        ValueError: for a profile without the training loss.
        IncompatibleError: for a profile that has not measured a recorded point.
    """
    from ..analysis.profiles import Profile

    if profile is None:
        return []
    expect(profile, Profile, "a profile of the walk, as mc.profile gives it")
    if "train_loss" not in profile.table:
        found = ", ".join(map(str, profile.table.columns))
        raise ValueError(f"expected a profile with the column train_loss, found {found}")
    ts = profile.table["t"].to_numpy(dtype=float)
    losses = profile.table["train_loss"].to_numpy(dtype=float)
    points = []
    for tick, t in path.log[["tick", "t"]].dropna().itertuples(index=False):
        at = int(np.abs(ts - t).argmin())
        if abs(ts[at] - t) > _CLOSE:
            raise IncompatibleError(
                f"expected a profile of this walk, found none of its points at t = {t:.6g} (tick "
                f"{int(tick)}); the nearest is {ts[at]:.6g}"
            )
        points.append((int(tick), float(losses[at])))
    return points


def walk_payload(
    path: LayerwisePath,
    profile: Profile | None = None,
    title: str | None = None,
    by: str | None = None,
    ends: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What `WalkSlider` draws, as plain numbers and text ready for JSON.

    Args:
        path: the walk.
        profile: of the walk: its training loss at the recorded ticks is drawn too.
        title: the heading; made from the ends when None.
        by: see `walk_rows`.
        ends: what the start and the destination are called; None: A, and B or the origin.

    Raises:
        TypeError: for something that is no walk, or no profile.
        ValueError: see `walk_rows` and `full_losses`; for a walk without ticks, or ends that are
            not two names.
        IncompatibleError: see `full_losses`.
        UnknownNameError: see `walk_rows`.
    """
    expect(path, LayerwisePath, "a walk, as layerwise_path and path_to_origin give it")
    a, b = ends_of(path, ends)
    log, total = path.log, len(path.log) - 1
    if total < 1:
        raise ValueError(f"expected a walk of at least 1 tick, found {total}")
    rows = walk_rows(path, by)
    every = {name for group in path.stages for name in group}
    count = min(total, MOST_TICKS, max(1, MOST_NUMBERS // (len(rows) + 5)))
    kept = np.round(np.linspace(0, total, count + 1)).astype(int)
    stages = named_stages(path)
    full = full_losses(path, profile)
    columns = {name: log[name].to_numpy()[kept] for name in log if name != "t"}
    return {
        "title": title or f"A walk from {a} to {b}, layer by layer",
        "ends": [a, b],
        "total": total,
        "ticks": kept.tolist(),
        "stages": [
            {"first": s.first, "upto": s.upto, "words": f"{s.words} {s.verb}"} for s in stages
        ],
        "distance": distance_text(path, b),
        "rows": [
            {
                "name": row.name,
                "stage": row.stage,
                "look": row.look,
                "thin": row.thin,
                "share": _numbers(row.share[kept]),
            }
            for row in rows
        ],
        "left_out": len(every) - sum(len(row.tensors) for row in rows),
        "stage": columns["stage"].tolist(),
        "rounds": columns["rounds"].tolist(),
        "most": columns["at_most"].astype(int).tolist(),
        "before": _numbers(columns["loss_before"]),
        "after": _numbers(columns["loss"]),
        "left": _numbers(columns["distance"]),
        "threshold": rounded(path.threshold),
        "closing": None if math.isnan(path.closing) else rounded(path.closing),
        "converged": path.converged,
        "shortfalls": listed(path.shortfalls),
        "full": {"tick": [t for t, _ in full], "loss": _numbers([loss for _, loss in full])},
    }


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Four digits of each; what was not measured is null."""
    return [None if math.isnan(value) else rounded(float(value)) for value in values]
