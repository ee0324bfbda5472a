"""Losses and accuracies along paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mcbook.analysis.statistics import interval
from mcbook.viz.figure import Figure, show
from mcbook.viz.panels import What, add_legend, kinds_of, set_limits, set_path_axis, some
from mcbook.viz.panels import mark_barrier as draw_barrier
from mcbook.viz.style import INK, PANEL, SINGLE, figure_style, new_figure, series
from mcbook.viz.wording import (
    BARRIER,
    count,
    distance,
    distances,
    ends_named,
    labelled,
    listed,
    quantity,
)

if TYPE_CHECKING:
    import pandas as pd

    from mcbook.analysis.profiles import Profile

__all__ = ["plot_profile", "plot_profile_band"]

_CHORD = (0, (1, 2.2))
_WAYS = {"linear": "line", "bezier": "Bezier curve", "polychain": "polygonal chain"}


def plot_profile(
    profiles: Profile | Mapping[str, Profile],
    what: What = "both",
    splits: Sequence[str] | None = None,
    chord: bool = True,
    mark_barrier: bool = True,
    alt: str | None = None,
    caption: str | None = None,
    ends: tuple[str, str] = ("A", "B"),
) -> Figure:
    """Loss and accuracy along a path, or along several.

    Args:
        profiles: one profile, or profiles by label.
        what: "loss", "accuracy", or "both" in two panels.
        splits: which of "train" and "test" to draw; by default both for one
            profile, and the test split (or the only one) for several.
        chord: draw the straight line between the ends of each curve.
        mark_barrier: show how far the curve leaves the chord (one profile), or
            say it beside the label (several).
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.
        ends: what the networks at t = 0 and t = 1 are called.

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to draw, `what` or a split is not in
            the profile, or `ends` are not two names.
    """
    ends = ends_named(ends)
    curves = dict(profiles) if isinstance(profiles, Mapping) else {"": profiles}
    if not curves:
        raise ValueError("expected at least one profile, found none")
    kinds = kinds_of(what)
    chosen = _splits(curves, kinds, splits)
    sentences: list[str] = []
    with figure_style():
        panels = []
        for kind in kinds:
            figure, axes = new_figure(PANEL if len(kinds) > 1 else SINGLE)
            panels.append(figure)
            values = []
            for place, (label, profile) in enumerate(curves.items()):
                for split in chosen:
                    look = series(place if len(curves) > 1 else chosen.index(split))
                    first = split == chosen[0]
                    t, y = _curve(profile, split, kind)
                    values.append(y)
                    barrier = profile.barrier(split, kind)
                    text = label or split
                    if label and len(chosen) > 1:
                        text += f", {split}"
                    if label and mark_barrier:
                        text += f" (barrier {distance(barrier, kind)})"
                    second = len(curves) > 1 and not first
                    axes.plot(
                        t,
                        y,
                        color=look.color,
                        linestyle=(0, (1, 1)) if second else look.dashes,
                        linewidth=1.2 if second else 2.0,
                        marker=look.marker if len(curves) > 1 and first else None,
                        markevery=some(len(t), place),
                        label=text,
                        zorder=3 - 0.1 * place,
                    )
                    if chord and first:
                        axes.plot(t[[0, -1]], y[[0, -1]], color=INK, lw=1, ls=_CHORD, zorder=2)
                    told = _course(t, y, kind, ends)
                    sentences.append(_told(label, profile, split, kind, ends, told, barrier))
            set_limits(axes, np.concatenate(values), kind)
            if mark_barrier and len(curves) == 1:
                (profile,) = curves.values()
                t, y = _curve(profile, chosen[0], kind)
                draw_barrier(figure, axes, t, y, profile.barrier(chosen[0], kind), kind)
            only = chosen[0] if len(chosen) == 1 else ""
            axes.set_title(f"{only} {kind}".strip().capitalize())
            set_path_axis(axes, ends)
            if len(curves) * len(chosen) > 1:
                add_legend(figure, axes)
    return show(
        panels,
        alt or " ".join(sentences),
        _barrier_caption(kinds, chord, mark_barrier) if caption is None else caption,
        _profile_table(curves, chosen, kinds),
        name="profile",
    )


def plot_profile_band(
    profiles: Iterable[Profile] | Mapping[str, Iterable[Profile]],
    what: What = "both",
    split: str = "test",
    level: float = 0.95,
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """The curves of several pairs, their mean and how sure it is.

    Every pair is a thin line; the thick line is the mean over pairs at each t,
    the band Student's t-interval for it (`mcbook.analysis.statistics`).

    Args:
        profiles: the profiles of several pairs, or such collections by label.
        what: "loss", "accuracy", or "both" in two panels.
        split: "train" or "test".
        level: how often the band should cover the mean, at each t.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to draw, or the profiles of one
            collection were not measured at the same t.
    """
    given = profiles if isinstance(profiles, Mapping) else {"": profiles}
    groups = {label: list(members) for label, members in given.items()}
    if not groups or not all(groups.values()):
        raise ValueError("expected at least one profile in every collection, found none")
    kinds = kinds_of(what)
    sentences: list[str] = []
    columns: dict[str, list] = {"label": [], "t": []}
    with figure_style():
        panels = []
        for kind in kinds:
            figure, axes = new_figure(PANEL if len(kinds) > 1 else SINGLE)
            panels.append(figure)
            everything = []
            for place, (label, members) in enumerate(groups.items()):
                look = series(place)
                t, y = _stacked(members, split, kind, label)
                everything.append(y.ravel())
                # the pairs themselves recede, the mean comes forward
                axes.plot(t, y.T, color=look.color, lw=0.9, alpha=0.45, zorder=2)
                mean = y.mean(axis=0)
                axes.plot(t, mean, color=look.color, ls=look.dashes, lw=2.4, zorder=4)
                axes.plot([], [], color=look.color, ls=look.dashes, lw=2.4, label=label or "mean")
                low, high = mean, mean
                if len(members) > 1:
                    ends = np.array([interval(column, level) for column in y.T])
                    low, high = ends[:, 1], ends[:, 2]
                    axes.fill_between(
                        t, low, high, color=look.color, alpha=0.18, linewidth=0, zorder=1
                    )
                sentences.append(_told_band(label, members, split, kind, t, mean, level))
                if kind == kinds[0]:
                    columns["label"] += [label] * len(t)
                    columns["t"] += list(t)
                for key, column in (("mean", mean), ("low", low), ("high", high)):
                    columns.setdefault(f"{split}_{kind}_{key}", []).extend(column)
            set_limits(axes, np.concatenate(everything), kind)
            axes.set_title(f"{split} {kind}".capitalize())
            set_path_axis(axes)
            if len(groups) > 1:
                add_legend(figure, axes)
    if set(columns["label"]) == {""}:
        del columns["label"]
    if caption is None:
        caption = (
            f"Thin: each pair. Thick: the mean over pairs; band: its {100 * level:g} % interval "
            "at each t (Student's\u00a0t)."
        )
    return show(panels, alt or " ".join(sentences), caption, columns, name="profiles")


def _splits(
    curves: Mapping[str, Profile], kinds: Sequence[str], splits: Sequence[str] | None
) -> list[str]:
    """The splits to draw, the test split first."""
    columns = set.intersection(*(set(profile.table.columns) for profile in curves.values()))
    there = [s for s in ("test", "train") if all(f"{s}_{kind}" in columns for kind in kinds)]
    if splits is None:
        splits = there if len(curves) == 1 else there[:1]
    splits = [splits] if isinstance(splits, str) else list(splits)
    unknown = [split for split in splits if split not in there]
    if unknown or not splits:
        raise ValueError(f"expected splits among {there}, found {unknown or 'none'}")
    return sorted(splits)


def _curve(profile: Profile, split: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    table = profile.table
    return table["t"].to_numpy(dtype=float), table[f"{split}_{kind}"].to_numpy(dtype=float)


def _stacked(
    members: Sequence[Profile], split: str, kind: str, label: str
) -> tuple[np.ndarray, np.ndarray]:
    for member in members:
        _splits({label: member}, [kind], [split])
    grids, rows = zip(*(_curve(member, split, kind) for member in members), strict=True)
    for grid in grids:
        if len(grid) != len(grids[0]) or not np.allclose(grid, grids[0]):
            raise ValueError(
                f"expected profiles measured at the same t, found {len(grids[0])} and "
                f"{len(grid)} points that differ"
            )
    return grids[0], np.stack(rows)


def _extreme(y: np.ndarray, kind: str) -> int:
    return int(y.argmax() if kind == "loss" else y.argmin())


def _told(
    label: str,
    profile: Profile,
    split: str,
    kind: str,
    ends: tuple[str, str],
    course: str,
    barrier: float,
) -> str:
    way = _WAYS.get(profile.path_kind, f"{profile.path_kind} path")
    return labelled(
        label,
        f"{split} {kind} along the {way} from {ends[0]} to {ends[1]}: {course}; "
        f"barrier {distance(barrier, kind)}",
    )


def _told_band(
    label: str,
    members: Sequence[Profile],
    split: str,
    kind: str,
    t: np.ndarray,
    mean: np.ndarray,
    level: float,
) -> str:
    barriers = [member.barrier(split, kind) for member in members]
    text = f"mean {split} {kind} of {count(len(members), 'pair')}: {_course(t, mean, kind)}; "
    text += f"barrier {distance(float(np.mean(barriers)), kind)}"
    if len(barriers) > 1:
        _, low, high = interval(barriers, level)
        text += (
            f" on average ({100 * level:g} % interval {distances(low, high, kind)}, "
            f"pairs from {distances(min(barriers), max(barriers), kind)})"
        )
    return labelled(label, text)


def _course(t: np.ndarray, y: np.ndarray, kind: str, names: tuple[str, str] = ("A", "B")) -> str:
    """What a curve does between its ends, in words."""
    at = _extreme(y, kind)
    ends = quantity(y[0], kind), quantity(y[-1], kind)
    far, where = quantity(y[at], kind), f"t = {t[at]:.2f}"
    if far in ends or at in (0, len(t) - 1):
        bound = "at most" if kind == "loss" else "at least"
        return f"{ends[0]} at {names[0]} and {ends[1]} at {names[1]}, in between {bound} {far}"
    verb = "rises" if kind == "loss" else "falls"
    return f"{ends[0]} at {names[0]}, {verb} to {far} at {where}, {ends[1]} at {names[1]}"


def _barrier_caption(kinds: Sequence[str], chord: bool, mark_barrier: bool) -> str | None:
    parts = []
    if chord:
        parts.append("Dotted: the chord between the ends.")
    if mark_barrier:
        defined = [f"{BARRIER[kind]} for the {kind}" for kind in kinds]
        parts.append(f"Barrier: {listed(defined)}.")
    return " ".join(parts) or None


def _profile_table(
    curves: Mapping[str, Profile], splits: Sequence[str], kinds: Sequence[str]
) -> pd.DataFrame:
    import pandas as pd

    columns = ["t", *(f"{split}_{kind}" for split in splits for kind in kinds)]
    if set(curves) == {""}:
        return curves[""].table[columns]
    tables = {label: profile.table[columns] for label, profile in curves.items()}
    grids = [table["t"].to_numpy() for table in tables.values()]
    if all(len(g) == len(grids[0]) and np.allclose(g, grids[0]) for g in grids):
        wide = {"t": grids[0]}
        for label, table in tables.items():
            wide |= {f"{label} {column}": table[column].to_numpy() for column in columns[1:]}
        return pd.DataFrame(wide)
    long = [table.assign(label=label) for label, table in tables.items()]
    return pd.concat(long)[["label", *columns]]
