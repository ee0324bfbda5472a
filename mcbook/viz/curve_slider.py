"""A curve with one bend in its loss plane; the reader moves the bend, the page runs the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .curve_along import Along, measured, read_off
from .curve_payload import by_name, curve_payload, named_ones, plane_payload
from .network_slider import _sizes, _split, chosen_images
from .widget import SliderWidget, asset, fallback_table
from .wording import BARRIER

if TYPE_CHECKING:
    from ..analysis.planes import LossPlane
    from ..analysis.profiles import Profile
    from ..data import Data
    from ..paths.base import Path

__all__ = ["CurveSlider"]

TABLE_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)


class CurveSlider(SliderWidget):
    """A slider along a curve with one bend, beside the plane it lies in; the bend can be moved.

    A curve from A to B with one bend C, such as θ(t) = (1 − t)² A + 2 t (1 − t) C + t² B, lies in
    the plane through A, B and C, and stays in it when C moves there.  The page shows the loss over
    that plane and along the curve, the straight line and the curve as it was given.  The reader
    drags the bend, or lets it take steps of gradient descent on the mean loss over t, which is
    what training a curve does, with two coordinates in place of all.  The three networks travel in
    the page, which mixes them and runs the mixture on some images at every move.

    Args:
        path: a `BezierPath` or `PolychainPath` with one bend between multi-layer perceptrons,
            or several by name, for instance `{"as trained": one, "aligned": two}`.
        data: whose images the networks are shown.
        planes: the loss over the plane of the path, or of some of the paths by name, as
            `curve_plane` measures it; measured on the images of the page when None.
        images: how many, spread evenly over the split, or a list of indices.
        split: `test` or `train`.
        title: the heading.
        start: where the slider stands at first.
        step: how far one key press moves t; at most 0.02.
        ends: what the networks at t = 0 and t = 1 are called.

    Attributes:
        indices: which images of the split were taken; none for `of_plane`.

    Raises:
        TypeError: see `curve_payload`.
        IncompatibleError: see `curve_payload`.
        UnknownNameError: see `curve_payload`.
        ValueError: see `curve_payload`.
    """

    _esm = asset(
        *("slider.js", "chart.js", "network.js", "curve_losses.js", "curve_plane.js"),
        "curve_slider.js",
    )
    _css = asset("slider.css", "curve_slider.css")

    def __init__(
        self,
        path: Path | Mapping[str, Path],
        data: Data,
        planes: LossPlane | Mapping[str, LossPlane] | None = None,
        images: int | Sequence[int] = 300,
        split: str = "test",
        title: str | None = None,
        *,
        start: float = 0.5,
        step: float = 0.01,
        ends: tuple[str, str] = ("A", "B"),
    ):
        payload = curve_payload(path, data, planes, images, split, title, step, ends)
        super().__init__(payload=payload, t=start)
        self.indices: list[int] = chosen_images(data, images, split).tolist()
        x, y = (part[self.indices].cpu() for part in _split(data, split))
        paths = path.values() if isinstance(path, Mapping) else [path]
        self._along = [measured(one, x, y) for one in paths]

    @classmethod
    def of_plane(
        cls,
        planes: LossPlane | Mapping[str, LossPlane],
        profiles: Profile | Mapping[str, Profile] | None = None,
        lines: Profile | Mapping[str, Profile] | None = None,
        kinds: str | Mapping[str, str] | None = None,
        title: str | None = None,
        *,
        start: float = 0.5,
        step: float = 0.01,
        ends: tuple[str, str] = ("A", "B"),
    ) -> CurveSlider:
        """The same for networks that do not run in a page: losses are read off a measured plane.

        Between the points of the grid the accuracy and the logarithm of the loss are bilinear.

        Args:
            planes: the loss over the plane through A, B and the bend, in this order, as
                `curve_plane` measures it; or several by name.
            profiles: what was measured along the fitted curve, or along some of them by name;
                read off the plane where it is not given.
            lines: the same along the straight line.
            kinds: `bezier` or `polychain` (whose bend is at t = 1/2), or some by name; where it
                is not given the kind of the profile, else `bezier`.
            title: the heading.
            start: where the slider stands at first.
            step: how far one key press moves t; at most 0.02.
            ends: what the networks at t = 0 and t = 1 are called.

        Raises:
            TypeError: see `plane_payload`.
            IncompatibleError: see `plane_payload`.
            UnknownNameError: see `plane_payload`.
            ValueError: see `plane_payload`.
        """
        payload = plane_payload(planes, profiles, lines, kinds, title, step, ends)
        self = cls.__new__(cls)
        SliderWidget.__init__(self, payload=payload, t=start)
        self.indices = []
        self._along = []
        named = named_ones(planes, "curve")
        known = [by_name(given, named) for given in (profiles, lines)]
        for entry, (name, plane) in zip(payload["paths"], named.items(), strict=True):
            curve, line = (
                Along.of(given[name], plane.split)
                if name in given
                else read_off(plane, entry["kind"], straight)
                for given, straight in zip(known, (False, True), strict=True)
            )
            self._along.append((curve, line))
        return self

    def _names(self) -> list[str]:
        """Of the paths, to be put before what is said of them; nothing where there is one."""
        names = [entry["name"] for entry in self.payload["paths"]]
        return [f"{name}: " for name in names] if len(names) > 1 else [""]

    def _source(self) -> str:
        """On what it was measured."""
        split, data = self.payload["split"], self.payload["data"]
        if not self.indices:
            return f"the {split} images of {data}"
        return f"{len(self.indices)} {split} images of {data}"

    def table(self) -> str:
        """Losses and accuracies at five places of curve and line, as a plain HTML table."""
        header, columns, barriers = ["t"], [[f"{t:.2f}" for t in TABLE_POINTS]], []
        for before, both in zip(self._names(), self._along, strict=True):
            for what, along in zip(("curve", "straight line"), both, strict=True):
                header += [f"{before}{what}, loss", f"{before}{what}, accuracy"]
                losses, accuracies = (
                    np.interp(TABLE_POINTS, along.t, values)
                    for values in (along.loss, along.accuracy)
                )
                columns.append([f"{value:#.4g}" for value in losses])
                columns.append([f"{100 * value:.1f} %" for value in accuracies])
                barriers.append(f"{before}{what} {along.barrier:.3g}")
        caption = (
            f"{self.payload['title']}: mean cross-entropy on {self._source()} along the curve with "
            "the bend as it was fitted, and along the straight line. "
            f"Barrier, {BARRIER['loss']}: {'; '.join(barriers)}."
        )
        return fallback_table(caption, header, list(zip(*columns, strict=True)))

    def describe(self) -> str:
        """The sizes of the networks, the images, and the barriers, in one line."""
        told: list[str] = []
        for before, entry, (curve, line) in zip(
            self._names(), self.payload["paths"], self._along, strict=True
        ):
            told.append(
                f"{before}{entry['kind']} curve {curve.barrier:.3g}, "
                f"straight line {line.barrier:.3g}"
            )
        sizes: Any = self.payload.get("layers")
        first = self.payload["paths"][0]
        grid = f"{len(first['x'])} x {len(first['y'])} grid"
        kind = _sizes(sizes) if sizes else grid
        return f"{kind}, {self._source()}: loss barrier of {'; '.join(told)}"
