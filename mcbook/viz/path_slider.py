"""A slider over what was measured along a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .widget import SliderWidget, asset, fallback_table, rounded

if TYPE_CHECKING:
    from ..analysis.profiles import Profile

__all__ = ["PathSlider", "path_payload"]

SPLITS = ("test", "train")
MEASURES = ("loss", "accuracy")
# three more than the page shows: rounding twice must not change what it says
DIGITS = 6
LINES = 5  # so many colours and dashes can be told apart


def path_payload(
    profiles: Profile | Mapping[str, Profile],
    split: str | None = None,
    title: str | None = None,
    step: float = 0.01,
) -> dict[str, Any]:
    """What `PathSlider` draws, as plain numbers and text ready for JSON.

    Args:
        profiles: one profile, or several by name.
        split: which split is under discussion at first; `test` where it was measured.
        title: the heading; made from the profiles when None.
        step: how far one key press moves t.

    Raises:
        ValueError: for no profile or too many, a split that was not measured, a table without
            t = 0 and t = 1, numbers that are not finite, a step outside (0, 0.02].
    """
    named = dict(profiles) if isinstance(profiles, Mapping) else {"path": profiles}
    if not 1 <= len(named) <= LINES:
        raise ValueError(f"expected 1 to {LINES} profiles on one slider, found {len(named)}")
    if not 0 < step <= 0.02:
        raise ValueError(f"expected a step in (0, 0.02], found {step}")
    entries = [_entry(str(name), profile) for name, profile in named.items()]
    for entry in entries:
        if split is None:
            split = next(iter(entry["splits"]))
        if split not in entry["splits"]:
            raise ValueError(
                f"expected every profile to have the split {split!r}, "
                f"found {', '.join(entry['splits'])} in {entry['name']!r}"
            )
    data = {str(getattr(p, "data_name", "") or "") for p in named.values()}
    if title is None:
        kinds = sorted({entry["kind"] for entry in entries})
        title = (
            f"Along the {kinds[0]} path from A to B"
            if len(entries) == 1
            else f"Along {len(entries)} paths from A to B"
        )
    return {
        "title": title,
        "data": ", ".join(sorted(data - {""})),
        "split": split,
        "step": step,
        "profiles": entries,
    }


def _entry(name: str, profile: Profile) -> dict[str, Any]:
    """One profile as plain numbers: t, and per split its losses, accuracies and barriers."""
    table = profile.table
    found = [s for s in SPLITS if all(f"{s}_{what}" in table for what in MEASURES)]
    if "t" not in table or not found:
        raise ValueError(
            "expected a profile with the columns t and, for a split, <split>_loss and "
            f"<split>_accuracy, found {', '.join(map(str, table.columns))} in {name!r}"
        )
    table = table.sort_values("t")
    ts = table["t"].to_numpy(float)
    if ts[0] != 0 or ts[-1] != 1:
        raise ValueError(f"expected t from 0 to 1, found {ts[0]:g} to {ts[-1]:g} in {name!r}")
    columns = [f"{split}_{what}" for split in found for what in MEASURES]
    for column in columns:
        bad = ~np.isfinite(table[column].to_numpy(float))
        if bad.any():
            raise ValueError(
                f"expected finite numbers, found {table[column].to_numpy()[bad][0]} "
                f"in {column} at t = {ts[bad][0]:g} of {name!r}"
            )
    splits: dict[str, Any] = {}
    for split in found:
        values = {what: table[f"{split}_{what}"].to_numpy(float) for what in MEASURES}
        splits[split] = {
            **{what: [rounded(v, DIGITS) for v in ys] for what, ys in values.items()},
            "barrier": {
                what: {
                    "t": rounded(_place(ts, values[what], what), DIGITS),
                    "value": rounded(float(profile.barrier(split, what)), DIGITS),
                }
                for what in MEASURES
            },
        }
    return {
        "name": name,
        "kind": str(getattr(profile, "path_kind", "") or "straight"),
        "t": [rounded(t, DIGITS) for t in ts],
        "splits": splits,
    }


def _place(ts: np.ndarray, ys: np.ndarray, what: str) -> float:
    """Where the curve is farthest above the chord (a loss) or below it (an accuracy)."""
    away = ys - ((1 - ts) * ys[0] + ts * ys[-1])
    return float(ts[np.argmax(away if what == "loss" else -away)])


class PathSlider(SliderWidget):
    """A slider over the profile of a path: the same in a live notebook and in a static page.

    Shows the curves, the chord between the endpoints, the barrier at its place, and the numbers
    at t.  `slider.t` is where it stands; `slider.observe(f, "t")` hears it move.

    Args:
        profiles: what `mc.profile` measured, or several by name, for instance
            `{"as trained": before, "aligned": after}`: one curve each on one slider.
        split: `test` or `train`: which one is under discussion at first.
        title: the heading.
        start: where the slider stands at first.
        step: how far one key press moves t; at most 0.02.

    Raises:
        ValueError: see `path_payload`.
    """

    _esm = asset("slider.js", "chart.js", "path_slider.js")
    _css = asset("slider.css")

    def __init__(
        self,
        profiles: Profile | Mapping[str, Profile],
        split: str | None = None,
        title: str | None = None,
        *,
        start: float = 0.5,
        step: float = 0.01,
    ):
        super().__init__(payload=path_payload(profiles, split, title, step), t=start)

    def show(
        self,
        profiles: Profile | Mapping[str, Profile],
        split: str | None = None,
        title: str | None = None,
    ) -> None:
        """Draw other profiles on this slider; where it is on the screen, it changes there."""
        self.payload = path_payload(profiles, split, title, self.payload["step"])

    def table(self) -> str:
        """Losses and accuracies at eleven places, and the barriers, as a plain HTML table."""
        payload = self.payload
        several = len(payload["profiles"]) > 1
        grid = np.linspace(0, 1, 11)
        header, columns, barriers = ["t"], [[f"{t:.1f}" for t in grid]], []
        for profile in payload["profiles"]:
            for split, values in profile["splits"].items():
                if several and split != payload["split"]:
                    continue
                name = f"{profile['name']}, {split}" if several else split
                at = {what: np.interp(grid, profile["t"], values[what]) for what in MEASURES}
                header += [f"{name} loss", f"{name} accuracy"]
                columns.append([f"{v:#.4g}" for v in at["loss"]])
                columns.append([f"{100 * v:.1f} %" for v in at["accuracy"]])
                barriers.append(f"{name} {values['barrier']['loss']['value']:.4g}")
        caption = (
            f"{payload['title']}. Barrier of the loss, max over t of "
            f"L(t) − [(1 − t) L(0) + t L(1)]: {'; '.join(barriers)}."
        )
        return fallback_table(caption, header, list(zip(*columns, strict=True)))

    def describe(self) -> str:
        """The profiles and their barriers in one line."""
        split = self.payload["split"]
        several = len(self.payload["profiles"]) > 1
        parts = []
        for profile in self.payload["profiles"]:
            barrier = profile["splits"][split]["barrier"]["loss"]
            name = profile["name"] if several else f"{profile['kind']} path"
            where = f" at t = {barrier['t']:.2f}" if barrier["value"] > 0 else ""
            parts.append(f"{name}: {split} loss barrier {barrier['value']:.3g}{where}")
        return "; ".join(parts)
