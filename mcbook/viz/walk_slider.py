"""A layer-wise walk, tick by tick: which layers move, and what retraining makes of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .walk_payload import named_stages, walk_payload
from .widget import SliderWidget, asset, fallback_table
from .wording import count

if TYPE_CHECKING:
    from ..analysis.profiles import Profile
    from ..paths.layerwise import LayerwisePath

__all__ = ["WalkSlider", "percent_left"]


def percent_left(share: float) -> str:
    """A share as a percentage with two or three digits: `43 %`, `6.2 %`, `0.43 %`, `0 %`."""
    value = 100 * share
    places = 0 if value >= 9.95 or value == 0 else 1 if value >= 0.995 else 2
    return f"{value:.{places}f} %"


class WalkSlider(SliderWidget):
    """A slider over the ticks of a layer-wise walk.

    At a tick it shows the distance that every layer has left, as a part of its first, and which
    layers move; the loss before retraining and after it, in training mode, with the threshold; and
    over all ticks both as curves on logarithmic scales, with the stages.

    Of walks of more than 1000 ticks so many, evenly spaced, are in the page, and of fewer where
    there are many rows; a tick between two of them is not seen.

    Args:
        path: what `layerwise_path` or `path_to_origin` found.
        profile: what `mc.profile` measured along it: the loss on all training images at the
            recorded ticks is drawn too.
        title: the heading.
        by: what has a row: `tensor`; `layer`, the tensors of a module together; or `stage`.  None:
            the first of them that makes at most 16 rows, or `stage`.
        start: where the slider stands at first, as a part of all ticks.
        ends: what the start and the destination are called; None: A, and B or the origin.

    Attributes:
        t: where the slider stands, as a part of all ticks; not the path's `t`, for which see
            `path.log`.

    Raises:
        TypeError: see `walk_payload`.
        ValueError: see `walk_payload`.
        IncompatibleError: see `walk_payload`.
        UnknownNameError: see `walk_payload`.
    """

    _esm = asset("slider.js", "chart.js", "drawing.js", "walk_charts.js", "walk_slider.js")
    _css = asset("slider.css", "walk_slider.css")

    def __init__(
        self,
        path: LayerwisePath,
        profile: Profile | None = None,
        title: str | None = None,
        *,
        by: str | None = None,
        start: float = 0.5,
        ends: Sequence[str] | None = None,
    ):
        payload = walk_payload(path, profile, title, by, ends)
        self._table = _table(path, payload)
        super().__init__(payload=payload, t=start)

    @property
    def tick(self) -> int:
        """The tick at which the slider stands."""
        ticks = self.payload["ticks"]
        return int(ticks[int(self.t * (len(ticks) - 1) + 0.5)])

    def table(self) -> str:
        """Every stage, with losses and the distance left at its last tick, as plain HTML."""
        return self._table

    def describe(self) -> str:
        """Ticks, stages, the distance left and whether the walk converged, in one line."""
        payload = self.payload
        last = "converged" if payload["converged"] else f"not converged: {payload['shortfalls']}"
        return (
            f"{count(payload['total'], 'tick')} in {count(len(payload['stages']), 'stage')} from "
            f"{payload['ends'][0]} to {payload['ends'][1]}: {percent_left(payload['left'][-1])} of "
            f"the distance left, {last}"
        )


def _table(path: LayerwisePath, payload: dict[str, Any]) -> str:
    """The stages, a row each."""
    header = ["stage", "ticks", "what moves", "rounds", "highest loss", "last loss", "left"]
    rows = []
    for number, stage in enumerate(named_stages(path), 1):
        part = path.log[path.log["stage"] == number]
        losses = part["loss"]
        known = bool(losses.notna().any())
        rows.append(
            [
                str(number),
                f"{stage.first} to {stage.last}",
                stage.words,
                str(int(part["rounds"].sum())),
                f"{losses.max():.3g}" if known else "–",
                f"{losses.iloc[-1]:.3g}" if known else "–",
                percent_left(float(part["distance"].iloc[-1])),
            ]
        )
    caption = (
        f"{payload['title']}: the loss after retraining, as retraining saw it (threshold "
        f"{payload['threshold']:.3g}), and the part of the distance to {payload['ends'][1]} that "
        f"is left at the end of each stage."
    )
    return fallback_table(caption, header, rows)
