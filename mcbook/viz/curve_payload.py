"""What the page needs to draw a curve with one bend in its plane, and to move the bend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.plane_frames import Frame
from ..analysis.planes import LossPlane
from ..analysis.profiles import Profile
from ..data import Data
from ..errors import IncompatibleError, UnknownNameError, expect
from ..paths.base import Path
from ..paths.bezier import BezierPath
from ..paths.polychain import PolychainPath
from .curve_along import Along, mixture_losses
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
from .plane import _levels
from .widget import rounded
from .wording import count, ends_named, listed

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["curve_payload", "plane_payload"]

KINDS = ("bezier", "polychain")
DIGITS = 9  # of positions: the page finds the coefficients of the three networks from them
GRID = 25  # points across and up of a plane that is measured here
LEVELS = 10  # contour lines that can be told apart
BEND = "bend"


# ---------------------------------------------------------------- three networks in the page


def curve_payload(
    path: Path | Mapping[str, Path],
    data: Data,
    planes: LossPlane | Mapping[str, LossPlane] | None = None,
    images: int | Sequence[int] = 300,
    split: str = "test",
    title: str | None = None,
    step: float = 0.01,
    ends: tuple[str, str] = ("A", "B"),
) -> dict[str, Any]:
    """Everything the page needs to run the networks of a curve and to draw their plane.

    Weights travel as float32; images as bytes where that loses nothing.  A position is `(x, y)`,
    the point `A + x e_1 + y e_2` of the plane (see `mcbook.analysis.planes`), in Euclidean
    distance.

    Args:
        path: a curve with one bend between multi-layer perceptrons, or several by name.
        data: whose images the networks are shown.
        planes: the loss over the plane of the path, or of some of the paths by name; measured
            on the images of the page, 25 x 25 points, where it is not given.
        images: how many, spread evenly over the split, or which.
        split: `train` or `test`.
        title: the heading.
        step: how far one key press moves t.
        ends: what the networks at t = 0 and t = 1 are called.

    Raises:
        TypeError: for something that is no path, no plane or no data.
        IncompatibleError: for a path that has not one bend, networks that are no multi-layer
            perceptrons, of different sizes or not made for these images, or a plane of others.
        UnknownNameError: for planes of a path that is not there.
        ValueError: for no path, a bend on the line through the ends, no images, an unknown
            split, a plane of another split, networks and images too large for a page, a step
            outside (0, 0.02], or ends that are not two names.
    """
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    named = named_ones(path, "path")
    for name, one in named.items():
        _check_curve(name, one)
    given = by_name(planes, named)
    common = _common(len(named), title, step, ends)
    indices = chosen_images(data, images, split)
    x, y = (part[indices].cpu() for part in _split(data, split))
    layers = {name: _described(one.model_at(0.0)) for name, one in named.items()}
    first = next(iter(layers))
    for name, (other, _) in layers.items():
        if other != layers[first][0]:
            raise IncompatibleError(
                f"expected paths of networks of one size, found {_sizes(layers[first][0])} in "
                f"{first!r} and {_sizes(other)} in {name!r}"
            )
    _check_fit(layers[first][0], x, data)
    networks: list[str] = []
    entries = []
    for name, one in named.items():
        moments = _moments(one, layers[name][1])
        frame = Frame(one, (*common["ends"], BEND))
        places = [(0.0, 0.0), (frame.length, 0.0), (frame.foot, frame.height)]
        plane = given.get(name)
        if plane is None:
            plane = _own_plane(one, frame, x, y, (split, data.name))
        _check_plane(name, plane, places, split)
        entry = _entry(name, one.kind, one.knots, plane)
        entries.append(
            {
                **{key: value for key, value in entry.items() if key != "accuracy"},
                "own": name not in given,
                "networks": _packed_networks(one, layers[name][0], networks),
                "moments": moments,
            }
        )
    payload = {
        **common,
        "data": data.name,
        "split": split,
        "paths": entries,
        "networks": networks,
        "layers": [{k: v for k, v in one.items() if k != "name"} for one in layers[first][0]],
        "shape": list(x.shape[1:]),
        "images": _pack_images(x.numpy()),
        "labels": _pack(y.numpy().astype(np.uint8)),
    }
    size = len(payload["images"]["bits"]) + sum(map(len, networks))
    if size > MOST_BYTES:
        raise ValueError(
            f"expected at most {MOST_BYTES / 1e6:.0f} MB of networks and images in a page, found "
            f"{size / 1e6:.1f} MB: take a smaller network or fewer images, or CurveSlider.of_plane"
        )
    return payload


def named_ones(given: Any, alone: str) -> dict[str, Any]:
    """Several by name; one alone under the name `alone`."""
    if isinstance(given, Mapping):
        return {str(name): one for name, one in given.items()}
    return {alone: given}


def by_name(given: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to some of the paths; alone it belongs to the only one."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) and len(named) > 1:
        raise ValueError(
            f"expected a mapping with the names {listed(list(named))}, found one alone"
        )
    found = named_ones(given, next(iter(named)))
    for name in found:
        if name not in named:
            raise UnknownNameError("path", name, named)
    return {name: one for name, one in found.items() if one is not None}


def _common(many: int, title: str | None, step: float, ends: Sequence[str]) -> dict[str, Any]:
    if not 1 <= many <= PATHS:
        raise ValueError(f"expected 1 to {PATHS} paths on one slider, found {many}")
    if not 0 < step <= 0.02:
        raise ValueError(f"expected a step in (0, 0.02], found {step}")
    a, b = ends_named(ends)
    return {
        "title": title or f"A curve from {a} to {b}, and the bend that shapes it",
        "step": step,
        "ends": [a, b],
    }


def _check_curve(name: str, path: Path) -> None:
    expect(path, Path, "a path with one bend, such as BezierPath(a, b, [c])")
    bends = len(next(iter(path.control_points.values()))) - 2
    if not isinstance(path, BezierPath | PolychainPath) or bends != 1:
        raise IncompatibleError(
            "CurveSlider expected a BezierPath or a PolychainPath with one bend, found "
            f"{name!r}, a {type(path).__name__} with {count(bends, 'bend')}"
        )


def _described(model: nn.Module) -> tuple[list[dict[str, Any]], str | None]:
    """The layers, and the name of the standardisation; other networks are refused."""
    try:
        found = describe_mlp(model)
    except IncompatibleError as error:
        raise IncompatibleError(
            "CurveSlider expected a multi-layer perceptron: nn.Sequential of at most a "
            "Standardize, Flatten, then Linear layers and ReLU (for others measure a plane and "
            f"take CurveSlider.of_plane), found {str(error).rpartition(', found ')[2]}"
        ) from None
    return found["layers"], found["standardize"]


def _own_plane(path: Path, frame: Frame, x: Tensor, y: Tensor, facts: tuple[str, str]) -> LossPlane:
    """The loss on the images of the page, with room around the curve for the bend to move in."""
    low, high = min(0.0, frame.foot), max(frame.length, frame.foot)
    # neither side shorter than seven tenths of the other
    beside = max(0.15 * (high - low), 0.49 * frame.height - 0.5 * (high - low))
    above = max(0.2 * frame.height, 0.35 * (high - low) + 0.7 * beside - 0.5 * frame.height)
    across = np.linspace(low - beside, high + beside, GRID)
    up = np.linspace(-above, frame.height + above, GRID)
    places = {"A": (0.0, 0.0), "B": (frame.length, 0.0), BEND: (frame.foot, frame.height)}
    at = [*places.values(), *((p, q) for q in up for p in across)]
    rows = mixture_losses(path, x, y, (frame.coefficients(*place).tolist() for place in at))
    loss, accuracy = (rows[3:, k].reshape(GRID, GRID) for k in (0, 1))
    known = {name: (float(row[0]), float(row[1])) for name, row in zip(places, rows, strict=False)}
    split, name = facts
    return LossPlane(across, up, loss, accuracy, places, known, split, "none", name, frame)


def _check_plane(
    name: str, plane: LossPlane, where: Sequence[tuple[float, float]], split: str
) -> None:
    """Refuse a plane through other networks, or of another split."""
    expect(plane, LossPlane, "a plane, as curve_plane or loss_plane gives it")
    found = list(plane.places.values())
    if len(found) < 3 or np.abs(np.subtract(found[:3], where)).max() > 1e-3 * where[1][0]:
        places = "; ".join(f"({x:.4g}, {y:.4g})" for x, y in where)
        there = "; ".join(f"({x:.4g}, {y:.4g})" for x, y in found)
        raise IncompatibleError(
            f"expected the plane of {name!r}, through its ends and its bend at {places}, "
            f"found one through {there or 'none'}"
        )
    if plane.split != split:
        raise ValueError(f"expected a plane of the {split} loss, found {plane.split}")


def _packed_networks(
    path: Path, layers: Sequence[Mapping[str, Any]], known: list[str]
) -> list[int]:
    """Where A, B and the bend stand in the list of networks; new ones are added to it."""
    found = []
    for i in (0, 2, 1):
        text = _pack(_flat({name: p[i] for name, p in path.control_points.items()}, layers))
        if text not in known:
            known.append(text)
        found.append(known.index(text))
    return found


def _moments(path: Path, standardize: str | None) -> list[list[float]] | None:
    """Mean and deviation per channel, which must not change along the path."""
    if standardize is None:
        return None
    pair = [path.control_points[f"{standardize}.{what}"].flatten(1) for what in ("mean", "std")]
    if any((values != values[0]).any() for values in pair):
        raise IncompatibleError(
            f"expected one standardisation along the path, found {standardize!r} changing"
        )
    return [values[0].tolist() for values in pair]


# ---------------------------------------------------------------- a plane alone


def plane_payload(
    planes: LossPlane | Mapping[str, LossPlane],
    profiles: Profile | Mapping[str, Profile] | None = None,
    lines: Profile | Mapping[str, Profile] | None = None,
    kinds: str | Mapping[str, str] | None = None,
    title: str | None = None,
    step: float = 0.01,
    ends: tuple[str, str] = ("A", "B"),
) -> dict[str, Any]:
    """Everything the page needs to read the loss along a curve off a measured plane.

    See `CurveSlider.of_plane` for the arguments.

    Raises:
        TypeError: for something that is no plane or no profile.
        IncompatibleError: for a plane that is not through A, B and a bend.
        UnknownNameError: for profiles, lines or kinds of a plane that is not there, an unknown
            kind, or a profile without the split of the plane.
        ValueError: for no plane, planes of different splits or data, networks outside the grid,
            numbers that are not finite, a step outside (0, 0.02], or ends that are not two names.
    """
    named = named_ones(planes, "curve")
    common = _common(len(named), title, step, ends)
    if isinstance(kinds, str):
        kinds = dict.fromkeys(named, kinds)
    fitted, straight, told = (by_name(given, named) for given in (profiles, lines, kinds))
    for one in (*fitted.values(), *straight.values()):
        expect(one, Profile, "a profile, as mc.profile gives it")
    entries = []
    facts: set[tuple[str, str]] = set()
    for name, plane in named.items():
        expect(plane, LossPlane, "a plane, as curve_plane or loss_plane gives it")
        places = list(plane.places.values())
        # any three networks have this form; a plane through more or fewer is not that of a curve
        if len(places) != 3:
            raise IncompatibleError(f"expected a plane through 3 networks, found {len(places)}")
        _check_plane(name, plane, [(0.0, 0.0), (places[1][0], 0.0), places[2]], plane.split)
        facts.add((plane.data_name, plane.split))
        kind = told.get(name) or (fitted[name].path_kind if name in fitted else KINDS[0])
        if kind not in KINDS:
            raise UnknownNameError("kind of curve", kind, KINDS)
        entry = _entry(name, kind, (0.0, 0.5, 1.0), plane)
        for what, given in (("fitted", fitted), ("line", straight)):
            if name in given:
                along = Along.of(given[name], plane.split)
                # six digits: rounding twice must not change what the page says
                entry[what] = {
                    key: [rounded(float(v), 6) for v in values]
                    for key, values in along._asdict().items()
                }
        entries.append(entry)
    if len(facts) != 1:
        raise ValueError(
            f"expected planes of one split of one data set, found {listed(sorted(map(str, facts)))}"
        )
    (data_name, split) = facts.pop()
    return {**common, "data": data_name, "split": split, "paths": entries}


def _entry(name: str, kind: str, knots: Sequence[float], plane: LossPlane) -> dict[str, Any]:
    """One curve and its plane, as numbers for the page."""
    (_, (length, _), bend) = list(plane.places.values())[:3]
    for what, values in (("loss", plane.loss), ("accuracy", plane.accuracy)):
        if not np.isfinite(values).all():
            raise ValueError(f"expected a plane of finite numbers, found others in its {what}")
    for axis, at in ((plane.x, (0.0, length, bend[0])), (plane.y, (0.0, bend[1]))):
        if min(at) < axis[0] or max(at) > axis[-1]:
            raise ValueError(
                f"expected a grid that holds both ends and the bend, from {min(at):.4g} to "
                f"{max(at):.4g}, found one of {name!r} from {axis[0]:.4g} to {axis[-1]:.4g}"
            )
    return {
        "name": name,
        "kind": kind,
        "knot": knots[1] if kind == "polychain" else 0.5,
        "length": rounded(length, DIGITS),
        "bend": [rounded(value, DIGITS) for value in bend],
        "x": [rounded(value, 6) for value in plane.x],
        "y": [rounded(value, 6) for value in plane.y],
        "loss": [rounded(float(v), 4) for v in plane.loss.ravel()],
        "accuracy": [rounded(float(v), 4) for v in plane.accuracy.ravel()],
        "levels": _contours(plane.loss),
    }


def _contours(loss: np.ndarray) -> list[float]:
    """Where contour lines are drawn: round values, closer where the loss spans less."""
    low, high = float(loss.min()), float(loss.max())
    powers = range(-12, 1 + int(np.log10(max(high, 1))))
    for mantissas in ("1 2 5", "1 1.5 2 3 5 7"):
        steps = [float(f"{step}e{power}") for power in powers for step in mantissas.split()]
        inside = [step for step in steps if low < step < high]
        if len(inside) >= 5:
            break
    else:
        inside = _levels(loss)
    # every second, third, ... of too many, the highest among them
    return [rounded(v, 4) for v in inside[:: -1 * -(-len(inside) // LEVELS)][::-1]]
