"""A slider over two networks that run in the page."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Split
from ..errors import IncompatibleError
from ..evaluation import evaluate
from .widget import SliderWidget, asset, fallback_table
from .wording import ends_named

if TYPE_CHECKING:
    from ..data import Data
    from ..paths.base import Path

__all__ = ["NetworkSlider", "describe_mlp", "network_payload"]

TABLE_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
PATHS = 5  # so many colours and dashes can be told apart
MOST_BYTES = 8_000_000


def describe_mlp(model: nn.Module) -> dict[str, Any]:
    """The layers of a multi-layer perceptron, as the page runs them.

    A multi-layer perceptron is here an `nn.Sequential`: at most a `Standardize` (buffers `mean`
    and `std`, per channel), a `Flatten`, then linear layers with or without `ReLU` after them.

    Args:
        model: the network.

    Returns:
        `layers`, each with its name, inputs, outputs and whether a ReLU follows; and `standardize`,
        the name of that module or None.

    Raises:
        IncompatibleError: for any other network; names the module that does not fit.
    """
    if not isinstance(model, nn.Sequential):
        raise IncompatibleError(f"{_EXPECTED}, found a {type(model).__name__}")
    layers: list[dict[str, Any]] = []
    standardize: str | None = None
    flat = False
    for name, module in _steps(model):
        kind = type(module).__name__
        if kind == "Standardize" and standardize is None and not flat:
            standardize = name
        elif isinstance(module, nn.Flatten) and module.start_dim == 1 and not flat:
            flat = True
        elif isinstance(module, nn.Linear) and flat:
            size = {"inputs": module.in_features, "outputs": module.out_features}
            layers.append({"name": name, **size, "relu": False})
        elif isinstance(module, nn.ReLU) and layers and not layers[-1]["relu"]:
            layers[-1]["relu"] = True
        else:
            raise IncompatibleError(f"{_EXPECTED}, found {kind} at {name!r}")
    if not layers:
        raise IncompatibleError(f"{_EXPECTED}, found no Linear layer")
    return {"layers": layers, "standardize": standardize}


_EXPECTED = (
    "NetworkSlider expected a multi-layer perceptron: nn.Sequential of at most a Standardize, "
    "Flatten, then Linear layers and ReLU (for others show the profile with PathSlider)"
)


def _steps(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The modules of a sequence, and of the sequences in it, in their order, by full name."""
    steps: list[tuple[str, nn.Module]] = []
    for name, module in model.named_children():
        inner = f"{prefix}{name}"
        nested = isinstance(module, nn.Sequential)
        steps += _steps(module, f"{inner}.") if nested else [(inner, module)]
    return steps


def network_payload(
    path: Path | Mapping[str, Path],
    data: Data,
    images: int | Sequence[int] = 360,
    split: str = "test",
    title: str | None = None,
    shown: int = 20,
    step: float = 0.01,
    ends: tuple[str, str] = ("A", "B"),
) -> dict[str, Any]:
    """Everything the page needs to mix and run the networks, ready for JSON.

    Weights travel as float32, bit for bit; images as bytes where that loses nothing.

    Args:
        path: one path of straight pieces, or several by name (of networks of the same sizes).
        data: whose images are shown to the networks.
        images: how many, spread evenly over the split, or which.
        split: `train` or `test`.
        title: the heading.
        shown: how many of them are drawn.
        step: how far one key press moves t.
        ends: what the networks at t = 0 and t = 1 are called.

    Raises:
        IncompatibleError: for a network that is not a multi-layer perceptron, paths of networks
            of different sizes, a path that bends, or images of another size than the network's.
        ValueError: for no path, an unknown split, no or too many images, networks and images too
            large for a page, a step outside (0, 0.02], or ends that are not two names.
    """
    named = dict(path) if isinstance(path, Mapping) else {"path": path}
    if not 1 <= len(named) <= PATHS:
        raise ValueError(f"expected 1 to {PATHS} paths on one slider, found {len(named)}")
    if not 0 < step <= 0.02:
        raise ValueError(f"expected a step in (0, 0.02], found {step}")
    indices = chosen_images(data, images, split)
    x, y = (part[indices].cpu() for part in _split(data, split))
    entries = [_path_entry(str(name), one) for name, one in named.items()]
    layers = [entry.pop("layers") for entry in entries]
    for entry, other in zip(entries, layers, strict=True):
        if other != layers[0]:
            raise IncompatibleError(
                f"expected paths of networks of one size, found {_sizes(layers[0])} in "
                f"{entries[0]['name']!r} and {_sizes(other)} in {entry['name']!r}"
            )
    _check_fit(layers[0], x, data)
    payload: dict[str, Any] = {
        "title": title or "Two networks, mixed and run in this page",
        "data": data.name,
        "split": split,
        "step": step,
        "ends": list(ends_named(ends)),
        "classes": [str(name) for name in data.classes],
        "shape": list(x.shape[1:]),
        "images": _pack_images(x.numpy()),
        "labels": _pack(y.numpy().astype(np.uint8)),
        "shown": _examples(y, shown),
        "layers": [{k: v for k, v in layer.items() if k != "name"} for layer in layers[0]],
        "paths": entries,
    }
    size = len(payload["images"]["bits"]) + sum(len(w) for e in entries for w in e["weights"])
    if size > MOST_BYTES:
        raise ValueError(
            f"expected at most {MOST_BYTES / 1e6:.0f} MB of networks and images in a page, found "
            f"{size / 1e6:.1f} MB: take a smaller network or fewer images"
        )
    return payload


def chosen_images(data: Data, images: int | Sequence[int], split: str) -> Tensor:
    """The indices of the images that are used: as given, or spread evenly over the split.

    Raises:
        ValueError: for none, more than there are, or an index that is not there.
    """
    there = len(_split(data, split)[1])
    if isinstance(images, int):
        if images < 1:
            raise ValueError(f"expected at least 1 image, found {images}")
        return torch.arange(min(images, there)) * there // min(images, there)
    indices = torch.as_tensor(list(images), dtype=torch.int64)
    if len(indices) == 0 or int(indices.min()) < 0 or int(indices.max()) >= there:
        raise ValueError(f"expected indices of the {there} {split} images, found {list(images)}")
    return indices


def _split(data: Data, split: str) -> tuple[Tensor, Tensor]:
    if split not in ("train", "test"):
        raise ValueError(f"expected split to be 'train' or 'test', found {split!r}")
    part = getattr(data, split)
    return part.x, part.y


def _path_entry(name: str, path: Path) -> dict[str, Any]:
    """One path: the weights at its knots, flat, in the order in which the page reads them."""
    found = describe_mlp(path.model_at(0.0))
    layers, standardize = found["layers"], found["standardize"]
    knots = [float(t) for t in path.knots]
    ends = [path.at(t) for t in knots]
    for i, (s, t) in enumerate(itertools.pairwise(knots)):
        middle = path.at((s + t) / 2)
        for key, value in middle.items():
            if not torch.allclose(value, (ends[i][key] + ends[i + 1][key]) / 2, 1e-3, 1e-4):
                raise IncompatibleError(
                    f"expected a path that is straight between its knots, found {name!r} "
                    f"({type(path).__name__}) bending in {key} between t = {s:g} and {t:g}"
                )
    moments: list[list[list[float]] | None] = [
        [weights[f"{standardize}.{what}"].flatten().tolist() for what in ("mean", "std")]
        if standardize
        else None
        for weights in ends
    ]
    if any(pair != moments[0] for pair in moments):
        raise IncompatibleError(
            f"expected one standardisation along the path, found {standardize!r} changing"
        )
    return {
        "name": name,
        "layers": layers,
        "knots": knots,
        "weights": [_pack(_flat(weights, layers)) for weights in ends],
        "moments": moments[0],
    }


def _flat(weights: Mapping[str, Tensor], layers: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Per layer the matrix, row by row, then the bias (zeros where there is none)."""
    parts = []
    for layer in layers:
        parts.append(weights[f"{layer['name']}.weight"].reshape(-1))
        bias = weights.get(f"{layer['name']}.bias")
        parts.append(torch.zeros(layer["outputs"]) if bias is None else bias)
    flat = torch.cat([part.detach().cpu().float() for part in parts])
    if not torch.isfinite(flat).all():
        raise ValueError("expected finite weights, found NaN or infinite entries")
    return flat.numpy()


def _check_fit(layers: Sequence[Mapping[str, Any]], x: Tensor, data: Data) -> None:
    """Refuse networks made for other images or classes."""
    size, classes = x[0].numel(), len(data.classes)
    first, last = layers[0]["inputs"], layers[-1]["outputs"]
    if first != size or last != classes:
        raise IncompatibleError(
            f"expected a network from {size} pixels to {classes} classes ({data.name}), "
            f"found one from {first} to {last}"
        )
    if classes > 256:
        raise IncompatibleError(f"expected at most 256 classes, found {classes}")


def _sizes(layers: Sequence[Mapping[str, Any]]) -> str:
    return "-".join(str(n) for n in [layers[0]["inputs"], *(x["outputs"] for x in layers)])


def _pack(values: np.ndarray) -> str:
    """An array as base64 of its little-endian bytes."""
    array = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _pack_images(x: np.ndarray) -> dict[str, Any]:
    """Images as bytes over a scale where that is exact (digits: 16, the usual files: 255)."""
    levels = np.unique(x)
    for scale in (1, 16, 255):
        whole = np.round(levels * scale)
        if whole.min() >= 0 and whole.max() <= 255 and np.abs(levels - whole / scale).max() < 1e-6:
            return {
                "type": "uint8",
                "scale": scale,
                "bits": _pack(np.round(x * scale).astype("u1")),
            }
    return {"type": "float32", "scale": 1, "bits": _pack(x.astype(np.float32))}


def _examples(y: Tensor, shown: int) -> list[int]:
    """The images that are drawn: the first of every class, then the second of every class, ..."""
    seen: dict[int, int] = {}
    turns = []
    for i, label in enumerate(y.tolist()):
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], label, i))
    return [i for _, _, i in sorted(turns)[:shown]]


class NetworkSlider(SliderWidget):
    """A slider over two small networks that the page itself mixes and runs.

    Both networks and some images are carried in the page.  At every move JavaScript interpolates
    the weights, runs the mixture on all the images, and shows its loss, its accuracy, what it
    sees in some of the images, and the probabilities of the one that is selected.

    Args:
        path: a straight path between two multi-layer perceptrons, or several by name, for
            instance `{"as trained": naive, "aligned": aligned}`.
        data: whose images the networks are shown.
        images: how many, spread evenly over the split, or a list of indices.
        split: `test` or `train`.
        title: the heading.
        shown: how many images are drawn.
        start: where the slider stands at first.
        step: how far one key press moves t; at most 0.02.
        ends: what the networks at t = 0 and t = 1 are called.

    Attributes:
        indices: which images of the split were taken.

    Raises:
        IncompatibleError: see `network_payload`.
        ValueError: see `network_payload`.
    """

    _esm = asset("slider.js", "chart.js", "network.js", "network_slider.js")
    _css = asset("slider.css", "network_slider.css")

    def __init__(
        self,
        path: Path | Mapping[str, Path],
        data: Data,
        images: int | Sequence[int] = 360,
        split: str = "test",
        title: str | None = None,
        *,
        shown: int = 20,
        start: float = 0.5,
        step: float = 0.01,
        ends: tuple[str, str] = ("A", "B"),
    ):
        payload = network_payload(path, data, images, split, title, shown, step, ends)
        super().__init__(payload=payload, t=start)
        self.indices: list[int] = chosen_images(data, images, split).tolist()
        named = dict(path) if isinstance(path, Mapping) else {"path": path}
        used = Split(*(part[self.indices] for part in _split(data, split)))
        self._measured = {
            str(name): [evaluate(one.model_at(t), used) for t in TABLE_POINTS]
            for name, one in named.items()
        }

    def table(self) -> str:
        """Loss and accuracy at five places, measured by torch, as a plain HTML table."""
        several = len(self._measured) > 1
        header, columns = ["t"], [[f"{t:.2f}" for t in TABLE_POINTS]]
        for name, values in self._measured.items():
            before = f"{name}: " if several else ""
            header += [f"{before}{self.payload['split']} loss", f"{before}accuracy"]
            columns.append([f"{loss:#.4g}" for loss, _ in values])
            columns.append([f"{100 * accuracy:.1f} %" for _, accuracy in values])
        a, b = self.payload["ends"]
        caption = (
            f"{self.payload['title']}: {len(self.indices)} {self.payload['split']} images of "
            f"{self.payload['data']}, weights (1 − t) {a} + t {b}."
        )
        return fallback_table(caption, header, list(zip(*columns, strict=True)))

    def describe(self) -> str:
        """The sizes of the networks, the images, and the losses at 0, 1/2 and 1, in one line."""
        layers = self.payload["layers"]
        losses = "; ".join(
            ", ".join(f"{values[i][0]:.3g}" for i in (0, 2, 4))
            for values in self._measured.values()
        )
        return (
            f"{_sizes(layers)}, {len(self.indices)} {self.payload['split']} images of "
            f"{self.payload['data']}: loss at t = 0, 1/2, 1: {losses}"
        )
