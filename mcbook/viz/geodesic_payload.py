"""What the page needs to run the networks of several paths and to draw how predictions move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data import Data
from ..errors import IncompatibleError, expect
from ..paths.base import Path
from ..paths.bezier import BezierPath
from ..paths.linear import LinearPath
from ..paths.polychain import PolychainPath
from .curve_payload import _moments, named_ones
from .geodesic_tracks import POINTS, Track, track
from .network_slider import (
    MOST_BYTES,
    PATHS,
    _check_fit,
    _flat,
    _pack,
    _pack_images,
    _sizes,
    _split,
    chosen_images,
    describe_mlp,
)
from .wording import ends_named

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["geodesic_payload"]

MOST_CHOSEN = 12  # triangles on one page
ALIKE = 2  # of them of one class, as long as there are others


def geodesic_payload(
    paths: Path | Mapping[str, Path],
    data: Data,
    images: int | Sequence[int] = 300,
    chosen: int | Sequence[int] = 6,
    split: str = "test",
    title: str | None = None,
    step: float = 0.01,
    ends: tuple[str, str] = ("A", "B"),
) -> tuple[dict[str, Any], dict[str, Track]]:
    """Everything the page needs, and what was found along the paths while it was put together.

    Weights travel as float32; images as bytes where that loses nothing.

    Args:
        paths: straight lines, Bezier curves or polygonal chains between the same two
            multi-layer perceptrons, by name.
        data: whose images the networks are shown.
        images: how many, spread evenly over the split, or which.
        chosen: how many images get a triangle, those first whose own Fisher-Rao lengths differ
            most between the paths (of a single path: the longest), at most two of a class as long
            as there are others; or which of the split.
        split: `train` or `test`.
        title: the heading.
        step: how far one key press moves t.
        ends: what the networks at t = 0 and t = 1 are called.

    Returns:
        The payload, ready for JSON, and the `Track` of every path.

    Raises:
        TypeError: for something that is no path or no data.
        IncompatibleError: for other kinds of paths, paths with different ends, networks that are
            no multi-layer perceptrons or not made for these images, or a single class.
        ValueError: for no path or too many, no images, chosen images that are too many or not
            among those of the page, an unknown split, networks and images too large for a page,
            a step outside (0, 0.02], or ends that are not two names.
    """
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    named = named_ones(paths, "path")
    for name, one in named.items():
        _check_path(name, one)
    if not 1 <= len(named) <= PATHS:
        raise ValueError(f"expected 1 to {PATHS} paths on one slider, found {len(named)}")
    if not 0 < step <= 0.02:
        raise ValueError(f"expected a step in (0, 0.02], found {step}")
    a, b = ends_named(ends)
    indices = chosen_images(data, images, split)
    x, y = (part[indices].cpu() for part in _split(data, split))
    name, first = next(iter(named.items()))
    found = _described(first.model_at(0.0))
    _check_ends(named)
    _check_fit(found["layers"], x, data)
    if len(data.classes) < 2:
        raise IncompatibleError(f"expected data of at least 2 classes, found {len(data.classes)}")
    networks: list[str] = []
    entries = [
        {
            "name": name,
            "kind": "polychain" if isinstance(one, PolychainPath) else "bezier",
            "knots": list(one.knots),
            "networks": _packed_points(one, found["layers"], networks),
        }
        for name, one in named.items()
    ]
    moments = [_moments(one, found["standardize"]) for one in named.values()]
    images_packed = _pack_images(x.numpy())
    size = len(images_packed["bits"]) + sum(map(len, networks))
    if size > MOST_BYTES:
        raise ValueError(
            f"expected at most {MOST_BYTES / 1e6:.0f} MB of networks and images in a page, found "
            f"{size / 1e6:.1f} MB: take a smaller network or fewer images"
        )
    tracks = {name: track(one, x, y) for name, one in named.items()}
    payload = {
        "title": title or f"How predictions move from {a} to {b}",
        "data": data.name,
        "split": split,
        "step": step,
        "ends": [a, b],
        "points": POINTS,
        "classes": [str(label) for label in data.classes],
        "paths": entries,
        "networks": networks,
        "moments": moments[0],
        "layers": [{k: v for k, v in one.items() if k != "name"} for one in found["layers"]],
        "shape": list(x.shape[1:]),
        "images": images_packed,
        "labels": _pack(y.numpy().astype(np.uint8)),
        "chosen": _chosen(chosen, indices, y, list(tracks.values()), split),
    }
    return payload, tracks


def _check_path(name: str, path: Path) -> None:
    expect(path, Path, "paths by name, such as {'straight line': LinearPath(a, b)}")
    if not isinstance(path, LinearPath | BezierPath | PolychainPath):
        raise IncompatibleError(
            "GeodesicSlider expected a LinearPath, a BezierPath or a PolychainPath, found "
            f"{name!r}, a {type(path).__name__}"
        )


def _described(model: nn.Module) -> dict[str, Any]:
    """The layers, and the name of the standardisation; other networks are refused."""
    try:
        return describe_mlp(model)
    except IncompatibleError as error:
        raise IncompatibleError(
            "GeodesicSlider expected a multi-layer perceptron: nn.Sequential of at most a "
            "Standardize, Flatten, then Linear layers and ReLU, found "
            f"{str(error).rpartition(', found ')[2]}"
        ) from None


def _check_ends(named: Mapping[str, Path]) -> None:
    """Refuse paths that do not all join the same two networks."""
    (first, one), *others = named.items()
    layers = _described(one.model_at(0.0))["layers"]
    for name, other in others:
        found = _described(other.model_at(0.0))["layers"]
        if found != layers:
            raise IncompatibleError(
                f"expected paths of networks of one size, found {_sizes(layers)} in {first!r} "
                f"and {_sizes(found)} in {name!r}"
            )
        both = (one.control_points, other.control_points)
        for key in {**both[0], **both[1]}:
            for t, end in ((0, 0), (1, -1)):
                # what travels is float32
                here, there = (
                    points[key][end].cpu().float() if key in points else None for points in both
                )
                if here is None or there is None or not torch.equal(here, there):
                    raise IncompatibleError(
                        "expected paths between the same two networks, found "
                        f"{first!r} and {name!r} differing in {key} at t = {t}"
                    )


def _packed_points(path: Path, layers: Sequence[Mapping[str, Any]], known: list[str]) -> list[int]:
    """Where the control points stand in the list of networks; new ones are added to it."""
    found = []
    for i in range(len(next(iter(path.control_points.values())))):
        text = _pack(_flat({name: p[i] for name, p in path.control_points.items()}, layers))
        if text not in known:
            known.append(text)
        found.append(known.index(text))
    return found


def _chosen(
    chosen: int | Sequence[int], indices: Tensor, y: Tensor, tracks: Sequence[Track], split: str
) -> list[dict[str, int]]:
    """The images that get a triangle, by their place in the page, and the rival of each.

    The rival is the class, other than the true one, that reaches the highest probability
    anywhere on a path.
    """
    if isinstance(chosen, int):
        many, own = chosen, np.stack([one.own for one in tracks])
        apart = np.ptp(own, axis=0) if len(tracks) > 1 else own[0]
        # on a tie the first; rounded, since the last bits depend on the machine
        order = np.argsort(-np.round(apart, 6), kind="stable").tolist()
        seen: Counter[int] = Counter()
        turns = []
        for i in order:
            label = int(y[i])
            turns.append((seen[label] // ALIKE, i))
            seen[label] += 1
        places = [i for _, i in sorted(turns, key=lambda turn: turn[0])[: max(many, 0)]]
    else:
        wanted, there = [int(i) for i in chosen], indices.tolist()
        for i in wanted:
            if i not in there:
                raise ValueError(
                    f"expected chosen images among the {len(there)} {split} images of the page "
                    f"(the attribute indices), found {i}"
                )
        many, places = len(wanted), [there.index(i) for i in wanted]
    if not 1 <= many <= min(MOST_CHOSEN, len(y)):
        raise ValueError(f"expected 1 to {min(MOST_CHOSEN, len(y))} chosen images, found {many}")
    highest = np.max([one.highest for one in tracks], axis=0)
    highest[np.arange(len(y)), y.numpy()] = -1
    return [{"image": i, "rival": int(highest[i].argmax())} for i in places]
