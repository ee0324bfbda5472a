"""Losses and accuracies as curves: along a path, and over the epochs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from mcbook.analysis.statistics import interval
from mcbook.viz.figure import Figure, show
from mcbook.viz.style import INK, PANEL, SINGLE, figure_style, new_figure, series
from mcbook.viz.wording import BARRIER, count, distance, distances, labelled, listed, quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

    from mcbook.analysis.profiles import Profile

__all__ = ["plot_history", "plot_profile", "plot_profile_band"]

What = Literal["loss", "accuracy", "both"]
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

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to draw, or `what` or a split is not in
            the profile.
    """
    curves = dict(profiles) if isinstance(profiles, Mapping) else {"": profiles}
    if not curves:
        raise ValueError("expected at least one profile, found none")
    kinds = _kinds(what)
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
                        markevery=_some(len(t), place),
                        label=text,
                        zorder=3 - 0.1 * place,
                    )
                    if chord and first:
                        axes.plot(t[[0, -1]], y[[0, -1]], color=INK, lw=1, ls=_CHORD, zorder=2)
                    sentences.append(_told(label, profile, split, kind, t, y, barrier))
            _limits(axes, np.concatenate(values), kind)
            if mark_barrier and len(curves) == 1:
                (profile,) = curves.values()
                t, y = _curve(profile, chosen[0], kind)
                _mark(axes, t, y, profile.barrier(chosen[0], kind), kind)
            only = chosen[0] if len(chosen) == 1 else ""
            axes.set_title(f"{only} {kind}".strip().capitalize())
            _path_axis(axes)
            if len(curves) * len(chosen) > 1:
                _legend(figure, axes)
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
    kinds = _kinds(what)
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
            _limits(axes, np.concatenate(everything), kind)
            axes.set_title(f"{split} {kind}".capitalize())
            _path_axis(axes)
            if len(groups) > 1:
                _legend(figure, axes)
    if set(columns["label"]) == {""}:
        del columns["label"]
    if caption is None:
        caption = (
            f"Thin: each pair. Thick: the mean over pairs; band: its {100 * level:g} % interval "
            "at each t (Student's t)."
        )
    return show(panels, alt or " ".join(sentences), caption, columns, name="profiles")


def plot_history(
    histories: pd.DataFrame | Mapping[str, pd.DataFrame],
    what: What = "both",
    log_loss: bool = False,
    alt: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Loss and accuracy over the epochs of one training or of several.

    Args:
        histories: the `.history` of a trained model, or histories by label.
        what: "loss", "accuracy", or "both" in two panels.
        log_loss: draw the loss on a logarithmic axis.
        alt: a text alternative in place of the composed one.
        caption: a caption in place of the composed one.

    Returns:
        The figure.

    Raises:
        ValueError: if there is nothing to draw, or a column is missing.
    """
    import pandas as pd

    tables = dict(histories) if isinstance(histories, Mapping) else {"": histories}
    if not tables:
        raise ValueError("expected at least one history, found none")
    kinds = _kinds(what)
    for label, table in tables.items():
        wanted = ["epoch", *(f"{split}_{kind}" for split in ("train", "test") for kind in kinds)]
        missing = [column for column in wanted if column not in table.columns]
        if missing or not len(table):
            found = ", ".join(map(str, table.columns)) if missing else "no rows"
            raise ValueError(f"expected the columns {wanted} in history {label!r}, found {found}")
    sentences: list[str] = []
    with figure_style():
        panels = []
        for kind in kinds:
            figure, axes = new_figure(PANEL if len(kinds) > 1 else SINGLE)
            panels.append(figure)
            values = []
            for place, (label, table) in enumerate(tables.items()):
                for split in ("test", "train"):
                    look = series(place if len(tables) > 1 else ("test", "train").index(split))
                    y = table[f"{split}_{kind}"].to_numpy(dtype=float)
                    values.append(y)
                    axes.plot(
                        table["epoch"],
                        y,
                        color=look.color,
                        linestyle="-" if split == "test" else (0, (4, 2)),
                        linewidth=2.0 if split == "test" else 1.2,
                        marker=look.marker if len(tables) > 1 and split == "test" else None,
                        markevery=_some(len(y), place),
                        label=f"{label}, {split}" if label else split,
                    )
                test = table[f"test_{kind}"].to_numpy(dtype=float)
                sentences.append(
                    labelled(
                        label,
                        f"test {kind} {quantity(test[0], kind)} after epoch "
                        f"{table['epoch'].iloc[0]:g}, {quantity(test[-1], kind)} after epoch "
                        f"{table['epoch'].iloc[-1]:g}",
                    )
                )
            if kind == "loss" and log_loss:
                axes.set_yscale("log")
            else:
                _limits(axes, np.concatenate(values), kind)
            axes.set_title(kind.capitalize())
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            _legend(figure, axes)
    table = pd.concat(
        [frame.assign(label=label)[["label", *frame.columns]] for label, frame in tables.items()]
    )
    if set(tables) == {""}:
        table = table.drop(columns="label")
    return show(panels, alt or " ".join(sentences), caption, table, name="history")


def _kinds(what: str) -> list[str]:
    if what not in ("loss", "accuracy", "both"):
        raise ValueError(f"expected what to be 'loss', 'accuracy' or 'both', found {what!r}")
    return ["loss", "accuracy"] if what == "both" else [what]


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
    label: str, profile: Profile, split: str, kind: str, t: np.ndarray, y: np.ndarray, barrier: float
) -> str:
    way = _WAYS.get(profile.path_kind, f"{profile.path_kind} path")
    return labelled(
        label,
        f"{split} {kind} along the {way} from A to B: {_course(t, y, kind)}; "
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


def _course(t: np.ndarray, y: np.ndarray, kind: str) -> str:
    """What a curve does between its ends, in words."""
    at = _extreme(y, kind)
    ends = quantity(y[0], kind), quantity(y[-1], kind)
    far, where = quantity(y[at], kind), f"t = {t[at]:.2f}"
    if far in ends or at in (0, len(t) - 1):
        bound = "at most" if kind == "loss" else "at least"
        return f"{ends[0]} at A and {ends[1]} at B, in between {bound} {far}"
    verb = "rises" if kind == "loss" else "falls"
    return f"{ends[0]} at A, {verb} to {far} at {where}, {ends[1]} at B"


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


def _some(points: int, place: int) -> tuple[int, int]:
    """About eight markers a curve, at other places than the next curve's."""
    step = max(1, points // 8)
    return (place * 2) % step if step > 1 else 0, step


def _limits(axes: Axes, values: np.ndarray, kind: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(5))
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if kind == "loss":
        # from zero: a flat curve has to look flat
        axes.set_ylim(min(0.0, low), 1.06 * high if high > 0 else 1.0)
        return
    room = max(high - low, 0.1)
    axes.set_ylim(max(0.0, min(low, high - room) - 0.06 * room), min(1.0, high) + 0.04 * room)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


def _path_axis(axes: Axes) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_xlabel("t, the weight of B")
    label = axes.xaxis.label
    for x, name in ((0.0, "A"), (1.0, "B")):
        axes.annotate(
            name,
            (x, 0),
            xycoords=("data", label),
            ha="center",
            va="bottom",
            weight="bold",
            size=11,
            annotation_clip=False,
        )


def _mark(axes: Axes, t: np.ndarray, y: np.ndarray, barrier: float, kind: str) -> None:
    """A ruler from the chord to where the curve is farthest from it."""
    chord = (1 - t) * y[0] + t * y[-1]
    gap = y - chord if kind == "loss" else chord - y
    at = int(gap.argmax())
    bottom, top = axes.get_ylim()
    text = f"barrier {distance(barrier, kind)}"
    if gap[at] < 0.14 * (top - bottom):
        # too low for a ruler with its text inside: make room beyond the curve
        up = kind == "loss"
        edge = y.max() if up else y.min()
        room = 0.2 * (top - bottom)
        axes.set_ylim(min(bottom, edge - (0 if up else room)), max(top, edge + (room if up else 0)))
        axes.annotate(
            text,
            (0.5, edge),
            (0, 7 if up else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            size=10.5,
        )
        return
    axes.annotate(
        "",
        (t[at], chord[at]),
        (t[at], y[at]),
        arrowprops={
            "arrowstyle": "|-|,widthA=0.3,widthB=0.3",
            "linewidth": 1.1,
            "shrinkA": 0,
            "shrinkB": 0,
            "color": INK,
        },
    )
    x, height, right = _free(axes, t[at], chord[at], y[at], 6.2 * len(text) + 10)
    axes.annotate(
        text,
        (x, height),
        (6 if right else -6, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        size=10.5,
    )


def _free(
    axes: Axes, x: float, start: float, end: float, width: float
) -> tuple[float, float, bool]:
    """Where beside a ruler a text of this width (in points) crosses no curve.

    Args:
        axes: with every curve already drawn.
        x: where the ruler stands.
        start: where it starts; a text near its start is preferred.
        end: where it ends.
        width: how wide the text is.

    Returns:
        The place of the text, and whether it stands to the right.
    """
    points = 0.82 * axes.figure.get_size_inches()[0] * 72
    curves = [line.get_data() for line in axes.get_lines()]
    best = (-np.inf, x, start, True)
    for share in np.linspace(0.45, 0.1, 8):
        height = start + share * (end - start)
        crossings = [0.0, 1.0]
        for t, y in curves:
            t, above = np.asarray(t, dtype=float), np.asarray(y, dtype=float) > height
            crossings += list(t[:-1][above[:-1] != above[1:]])
        for right in (True, False):
            side = [c - x if right else x - c for c in crossings]
            room = min(points * min(d for d in side if d > 0.02) - width, 0.0)
            if room > best[0]:
                best = (room, x, height, right)
    return best[1:]


def _legend(figure: MatplotlibFigure, axes: Axes) -> None:
    """In the line of the title where it fits, else below."""
    handles, labels = axes.get_legend_handles_labels()
    width = figure.get_size_inches()[0] * 72
    needed = 9 * len(axes.get_title()) + sum(48 + 6.5 * len(label) for label in labels)
    if needed < width - 40:
        axes.legend(
            handles,
            labels,
            loc="lower right",
            bbox_to_anchor=(1.0, 1.015),
            ncols=len(labels),
        )
        return
    longest = 50 + 6.5 * max(map(len, labels))
    columns = max(1, min(len(labels), int((width - 20) // longest)))
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + (16 * rows + 6) / 72)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)
