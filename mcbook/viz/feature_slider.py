"""Features of two networks, their blend, and those of the mixed network, in the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ..errors import IncompatibleError
from .network_slider import _sizes, _split, chosen_images, describe_mlp, network_payload
from .widget import SliderWidget, asset, fallback_table

if TYPE_CHECKING:
    from ..data import Data
    from ..paths.base import Path

__all__ = ["FeatureSlider", "feature_payload", "feature_stages"]

ALPHAS = (0.25, 0.5, 0.75)
SHOWN = 24  # as many images as can be drawn beside one another and still be told apart


def feature_stages(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where the features of a multi-layer perceptron are read: before and after every ReLU.

    Args:
        layers: as `describe_mlp` gives them.

    Returns:
        In the order in which they are computed, each with its name, the index of its layer, and
        whether it is read after a ReLU.
    """
    stages: list[dict[str, Any]] = []
    for i, layer in enumerate(layers):
        name = "logits" if i == len(layers) - 1 else f"layer {i + 1}"
        if layer["relu"]:
            stages.append({"name": f"{name} before ReLU", "layer": i, "relu": False})
        stages.append({"name": name, "layer": i, "relu": layer["relu"]})
    return stages


def feature_payload(
    path: Path | Mapping[str, Path],
    data: Data,
    images: int | Sequence[int] = 24,
    split: str = "test",
    title: str | None = None,
    step: float = 0.01,
    ends: tuple[str, str] = ("A", "B"),
) -> dict[str, Any]:
    """Everything the page needs to compare features, ready for JSON.

    It is that of `network_payload`, and `stages`, where features are read.

    Args:
        path: one straight path, or several by name (of networks of the same sizes).
        data: whose images are shown to the networks.
        images: how many, spread evenly over the split, or which; the first 24, the classes in
            turn, are drawn.
        split: `train` or `test`.
        title: the heading.
        step: how far one key press moves α.
        ends: what the networks at α = 0 and α = 1 are called.

    Raises:
        IncompatibleError: for a path that is not one straight piece, or what `network_payload`
            refuses.
        ValueError: see `network_payload`.
    """
    named = _named(path)
    for name, one in named.items():
        _check_straight(name, one)
    title = title or "Features of two networks, of their blend, and of the mixed network"
    payload = network_payload(named, data, images, split, title, SHOWN, step, ends)
    return {**payload, "stages": feature_stages(payload["layers"])}


def _named(path: Path | Mapping[str, Path]) -> dict[str, Path]:
    if isinstance(path, Mapping):
        return {str(name): one for name, one in path.items()}
    return {"path": path}


def _check_straight(name: str, path: Path) -> None:
    """Refuse other networks in this slider's name, and paths of several pieces."""
    try:
        describe_mlp(path.model_at(0.0))
    except IncompatibleError as error:
        what = str(error).rpartition(", found ")[2]
        raise IncompatibleError(
            "FeatureSlider expected a multi-layer perceptron: nn.Sequential of at most a "
            f"Standardize, Flatten, then Linear layers and ReLU, found {what}"
        ) from None
    if len(path.knots) != 2:
        raise IncompatibleError(
            "FeatureSlider expected a straight path between two networks, such as a LinearPath, "
            f"found {name!r} ({type(path).__name__}) of {len(path.knots) - 1} pieces"
        )


class _Means(NamedTuple):
    """Means over the images that have features; NaN where none has."""

    cos: float
    coefficient: float
    kept: int
    baseline: float
    baseline_kept: int


def _features(
    weights: Mapping[str, Tensor], layers: Sequence[Mapping[str, Any]], x: Tensor
) -> list[Tensor]:
    """What every stage puts out, `[n, units]`, from images that are standardised and flat."""
    found = []
    for layer in layers:
        x = F.linear(x, weights[f"{layer['name']}.weight"], weights.get(f"{layer['name']}.bias"))
        found.append(x)
        if layer["relu"]:
            x = x.relu()
            found.append(x)
    return found


def _compare(a: Tensor, b: Tensor, own: Tensor, alpha: float) -> _Means:
    """Own features against the blend, and those of the ends against each other."""
    blend = (1 - alpha) * a + alpha * b
    sizes = [one.norm(dim=1) for one in (own, blend, a, b)]
    both, ends = (sizes[0] > 0) & (sizes[1] > 0), (sizes[2] > 0) & (sizes[3] > 0)
    inner = (own * blend).sum(1)[both]
    cos = inner / (sizes[0] * sizes[1])[both]
    baseline = (a * b).sum(1)[ends] / (sizes[2] * sizes[3])[ends]
    return _Means(
        float(cos.mean()),
        float((inner / sizes[1][both] ** 2).mean()),
        len(cos),
        float(baseline.mean()),
        len(baseline),
    )


def _measure(path: Path, x: Tensor) -> dict[float, list[_Means]]:
    """The means of every stage, by α, in double precision."""
    found = describe_mlp(path.model_at(0.0))
    a, b = ({name: w.cpu().double() for name, w in path.at(t).items()} for t in (0.0, 1.0))
    x = x.double()
    if found["standardize"]:
        mean, std = (a[f"{found['standardize']}.{what}"].view(-1, 1, 1) for what in ("mean", "std"))
        x = (x - mean) / std
    x = x.flatten(1)
    ends = [_features(weights, found["layers"], x) for weights in (a, b)]
    measured = {}
    for alpha in ALPHAS:
        mixed = {name: (1 - alpha) * w + alpha * b[name] for name, w in a.items()}
        own = _features(mixed, found["layers"], x)
        measured[alpha] = [
            _compare(at_a, at_b, at_mixed, alpha)
            for at_a, at_b, at_mixed in zip(*ends, own, strict=True)
        ]
    return measured


class FeatureSlider(SliderWidget):
    """Features of A, of B, their blend, and those of the network mixed as far, in the page.

    The reader picks a path, a layer and an image, and moves α, the weight of B.  The page mixes
    the weights, (1 − α) A + α B, and runs the mixed network; its features stand beside the blend
    of the features, (1 − α) times those of A and α times those of B.  Their cosine, the
    coefficient of the one on the other, and the cosine of A's and B's features, are shown for the
    image and as means over all images, and the mean of 1 − cos for every layer.

    Args:
        path: a straight path between two multi-layer perceptrons, or several by name, for
            instance `{"spawned": one, "matched": another}`.
        data: whose images the networks are shown.
        images: how many, spread evenly over the split, or a list of indices; up to 24 are drawn.
        split: `test` or `train`.
        title: the heading.
        start: where the slider stands at first.
        step: how far one key press moves α; at most 0.02.
        ends: what the networks at α = 0 and α = 1 are called.

    Attributes:
        indices: which images of the split were taken.
        t: α, the weight of B.

    Raises:
        IncompatibleError: see `feature_payload`.
        ValueError: see `feature_payload`.
    """

    _esm = asset("slider.js", "chart.js", "network.js", "feature_maps.js", "feature_slider.js")
    _css = asset("slider.css", "feature_slider.css")

    def __init__(
        self,
        path: Path | Mapping[str, Path],
        data: Data,
        images: int | Sequence[int] = 24,
        split: str = "test",
        title: str | None = None,
        *,
        start: float = 0.5,
        step: float = 0.01,
        ends: tuple[str, str] = ("A", "B"),
    ):
        payload = feature_payload(path, data, images, split, title, step, ends)
        super().__init__(payload=payload, t=start)
        self.indices: list[int] = chosen_images(data, images, split).tolist()
        x = _split(data, split)[0][self.indices].cpu()
        self._measured = {name: _measure(one, x) for name, one in _named(path).items()}

    def _cell(self, value: float, kept: int, digits: int) -> str:
        """A mean, and of how many images where it is not of all."""
        if not kept:
            return "no features (all zero)"
        n = len(self.indices)
        return f"{value:.{digits}f}" + ("" if kept == n else f" ({kept} of {n} images)")

    def table(self) -> str:
        """The means of every layer at three places, measured by torch, as a plain HTML table."""
        several = len(self._measured) > 1
        a, b = self.payload["ends"]
        stages = [stage["name"] for stage in self.payload["stages"]]
        header = ["layer"]
        columns = [[f"{name}, α\u00a0=\u00a0{alpha:.2f}" for name in stages for alpha in ALPHAS]]
        for name, measured in self._measured.items():
            before = f"{name}: " if several else ""
            header += [f"{before}cos", f"{before}coefficient", f"{before}cos({a}, {b})"]
            means = [measured[alpha][i] for i in range(len(stages)) for alpha in ALPHAS]
            columns.append([self._cell(one.cos, one.kept, 4) for one in means])
            columns.append([self._cell(one.coefficient, one.kept, 3) for one in means])
            columns.append([self._cell(one.baseline, one.baseline_kept, 4) for one in means])
        caption = (
            f"{self.payload['title']}: means over {len(self.indices)} {self.payload['split']} "
            f"images of {self.payload['data']}. cos: the cosine between the features of the "
            f"network with weights (1 − α) {a} + α {b} and the same blend of the features of {a} "
            f"and {b}; "
            "coefficient: their inner product over the squared length of the blend; "
            f"cos({a}, {b}): the cosine between the features of {a} and {b}."
        )
        return fallback_table(caption, header, list(zip(*columns, strict=True)))

    def describe(self) -> str:
        """The sizes, the images, and where the two agree least at α = 1/2, in one line."""
        payload, told = self.payload, []
        for name, measured in self._measured.items():
            before = f"{name} " if len(self._measured) > 1 else ""
            means = [
                (one.cos, stage["name"])
                for one, stage in zip(measured[0.5], payload["stages"], strict=True)
                if one.kept
            ]
            told.append("{}{:.3f} ({})".format(before, *min(means)) if means else f"{before}none")
        return (
            f"{_sizes(payload['layers'])}, {len(self.indices)} {payload['split']} images of "
            f"{payload['data']}: least mean cos of own features and blend at α = 1/2: "
            + ", ".join(told)
        )
