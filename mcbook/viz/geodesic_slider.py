"""Several paths between two networks: how far the predictions move along each, in the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .geodesic_payload import geodesic_payload
from .network_slider import _sizes, chosen_images
from .widget import SliderWidget, asset, fallback_table

if TYPE_CHECKING:
    from ..data import Data
    from ..paths.base import Path

__all__ = ["GeodesicSlider"]

TABLE_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}" if value else "0"


class GeodesicSlider(SliderWidget):
    """Sliders along several paths between the same two networks, and how predictions move.

    At every point of a path the network gives each image x a distribution p(y | x).  The page
    shows, for some images, the way of this distribution through a triangle whose corners are the
    true class, its strongest rival along the paths and all other classes together; or, by their
    square roots, on the sphere, where distances are Fisher-Rao distances

        d(p, q) = 4 arcsin(‖√p − √q‖ / 2),

    beside the great circle, the shortest way of this distribution from A to B.  Over all images of
    the page it shows the speed along each path, `sqrt(mean_x d_x²) / Δt` of a segment, the length,
    which is the sum of `sqrt(mean_x d_x²)` over the segments, and `sqrt(mean_x d_x(A, B)²)`, the
    bound that no path goes below.  The control points travel in the page, which mixes them and runs
    the mixtures.

    Args:
        paths: paths between the same two multi-layer perceptrons, by name, for instance
            `{"straight line": one, "geodesic": other}`: straight lines, Bezier curves of any
            degree, polygonal chains.
        data: whose images the networks are shown.
        images: how many, spread evenly over the split, or a list of indices.
        chosen: how many of them get a triangle, those first whose own Fisher-Rao lengths differ
            most between the paths, at most two of a class as long as there are others; or a list
            of indices of the split.
        split: `test` or `train`.
        title: the heading.
        start: where the sliders stand at first.
        step: how far one key press moves t; at most 0.02.
        ends: what the networks at t = 0 and t = 1 are called.

    Attributes:
        t: where the sliders stand; while they are not moved together, where the one stands that
            was moved last.
        indices: which images of the split were taken.
        chosen: which of them have a triangle, in the order of the page.

    Raises:
        TypeError: see `geodesic_payload`.
        IncompatibleError: see `geodesic_payload`.
        ValueError: see `geodesic_payload`.
    """

    _esm = asset(
        *("slider.js", "chart.js", "network.js", "geodesic_paths.js", "drawing.js"),
        *("geodesic_drawing.js", "geodesic_slider.js"),
    )
    _css = asset("slider.css", "geodesic_slider.css")

    def __init__(
        self,
        paths: Path | Mapping[str, Path],
        data: Data,
        images: int | Sequence[int] = 300,
        chosen: int | Sequence[int] = 6,
        split: str = "test",
        title: str | None = None,
        *,
        start: float = 0.5,
        step: float = 0.01,
        ends: tuple[str, str] = ("A", "B"),
    ):
        payload, self._tracks = geodesic_payload(
            paths, data, images, chosen, split, title, step, ends
        )
        super().__init__(payload=payload, t=start)
        self.indices: list[int] = chosen_images(data, images, split).tolist()
        self.chosen: list[int] = [self.indices[one["image"]] for one in payload["chosen"]]

    def _told(self) -> str:
        """The bound, and the length of every path as so many times the bound."""
        bound = next(iter(self._tracks.values())).bound
        said = []
        for name, one in self._tracks.items():
            times = f" ({one.length[-1] / bound:.2f} times the bound)" if bound > 0 else ""
            said.append(f"{name} {_digits(one.length[-1])}{times}")
        return f"{', '.join(said)}; no path is shorter than {_digits(bound)}"

    def _source(self) -> str:
        """On what it was measured."""
        split, data = self.payload["split"], self.payload["data"]
        return f"{len(self.indices)} {split} images of {data}"

    def table(self) -> str:
        """Loss, accuracy and length so far at five places of every path, as plain HTML."""
        header, columns = ["t"], [[f"{t:.2f}" for t in TABLE_POINTS]]
        for name, one in self._tracks.items():
            loss, accuracy, length = (
                np.interp(TABLE_POINTS, one.t, values)
                for values in (one.loss, one.accuracy, one.length)
            )
            header += [f"{name}: {what}" for what in ("loss", "accuracy", "length so far")]
            columns.append([f"{value:#.4g}" for value in loss])
            columns.append([f"{100 * value:.1f} %" for value in accuracy])
            columns.append([f"{value:#.4g}" if value else "0" for value in length])
        caption = (
            f"{self.payload['title']}: mean cross-entropy, accuracy and Fisher–Rao length from "
            f"{self.payload['ends'][0]} on {self._source()}. Whole lengths: {self._told()}."
        )
        return fallback_table(caption, header, list(zip(*columns, strict=True)))

    def describe(self) -> str:
        """The sizes of the networks, the images, and the lengths, in one line."""
        layers = self.payload["layers"]
        return f"{_sizes(layers)}, {self._source()}: Fisher–Rao length of {self._told()}"
