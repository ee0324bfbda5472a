"""A small network whose hidden units the reader puts in another order, in the page."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import traitlets
from torch import nn

from .. import weights
from ..data import Split
from ..errors import IncompatibleError
from ..evaluation import evaluate, evaluating
from ..paths.linear import LinearPath
from .network_slider import (
    MOST_BYTES,
    TABLE_POINTS,
    _check_fit,
    _examples,
    _flat,
    _pack,
    _pack_images,
    _sizes,
    _split,
    chosen_images,
    describe_mlp,
)
from .widget import SliderWidget, asset, fallback_table, rounded, static_html

if TYPE_CHECKING:
    from ..data import Data

__all__ = ["PermutationSlider", "permutation_payload", "permute_mlp", "random_orders"]

# the darkest colour stands for this quantile of |w|: a few large weights leave the rest visible
FULL_COLOUR = 0.98
# rounding errors differ between machines: below this the table names the bound, not the number
ROUNDING = 1e-9


def _layers_of(model: nn.Module) -> tuple[list[dict[str, Any]], str | None]:
    """The layers and the standardisation of a network whose hidden units can be reordered."""
    try:
        found = describe_mlp(model)
    except IncompatibleError as error:
        what = str(error).rpartition(", found ")[2]
        raise IncompatibleError(
            "PermutationSlider expected a multi-layer perceptron: nn.Sequential of at most a "
            f"Standardize, Flatten, then Linear layers and ReLU, found {what}"
        ) from None
    layers = found["layers"]
    if len(layers) < 2:
        raise IncompatibleError(
            "PermutationSlider expected a network with at least one hidden layer, found "
            f"{_sizes(layers)}: a single layer, whose units are the classes"
        )
    return layers, found["standardize"]


def random_orders(model: nn.Module, seed: int) -> list[list[int]]:
    """A random order of the units of every hidden layer.

    Args:
        model: a multi-layer perceptron, see `describe_mlp`.
        seed: of the orders.

    Returns:
        One list a hidden layer; slot `i` takes unit `p[layer][i]`.

    Raises:
        IncompatibleError: for another network, or one without a hidden layer.
    """
    layers, _ = _layers_of(model)
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(x["outputs"], generator=generator).tolist() for x in layers[:-1]]


def permute_mlp(model: nn.Module, permutation: Sequence[Sequence[int]]) -> nn.Module:
    """The same function with its hidden units in another order.

    Args:
        model: a multi-layer perceptron, see `describe_mlp`.
        permutation: one list a hidden layer; slot `i` takes unit `p[layer][i]`.

    Returns:
        A new network: rows and bias of each hidden layer reordered, and the columns of the next.

    Raises:
        IncompatibleError: for another network, or one without a hidden layer.
        ValueError: for lists that are no permutations of its hidden units.
    """
    layers, _ = _layers_of(model)
    _check_orders(permutation, layers)
    other = copy.deepcopy(model)
    tensors = other.state_dict()  # the parameters themselves: what is written here is written there
    for layer, following, order in zip(layers, layers[1:], permutation, strict=False):
        rows = torch.as_tensor(list(order), device=tensors[f"{layer['name']}.weight"].device)
        for name in (f"{layer['name']}.weight", f"{layer['name']}.bias"):
            if name in tensors:
                tensors[name].copy_(tensors[name][rows])
        columns = tensors[f"{following['name']}.weight"]
        columns.copy_(columns[:, rows])
    return other


def _check_orders(orders: Sequence[Sequence[int]], layers: Sequence[dict[str, Any]]) -> None:
    """Refuse what is not a permutation for every hidden layer."""
    widths = [layer["outputs"] for layer in layers[:-1]]
    if len(orders) != len(widths):
        raise ValueError(
            f"expected {len(widths)} lists, one for each hidden layer, found {len(orders)}"
        )
    for i, (order, width) in enumerate(zip(orders, widths, strict=True), start=1):
        if sorted(order) != list(range(width)):
            raise ValueError(
                f"expected each of 0 to {width - 1} once in the order of hidden layer {i}, "
                f"found {list(order)}"
            )


def permutation_payload(
    model: nn.Module,
    data: Data,
    seed: int = 0,
    images: int | Sequence[int] = 200,
    split: str = "test",
    title: str | None = None,
    shown: int = 10,
    step: float = 0.01,
    line: bool = True,
) -> dict[str, Any]:
    """Everything the page needs to reorder and run the network, ready for JSON.

    Weights travel as float32, bit for bit; images as bytes where that loses nothing.

    Args:
        model: a multi-layer perceptron, see `describe_mlp`, with a hidden layer.
        data: whose images are shown to the network.
        seed: of the orders that the buttons of the page draw.
        images: how many, spread evenly over the split, or which.
        split: `train` or `test`.
        title: the heading.
        shown: how many of them are drawn: the first of every class, then the second of every class,
            and so on.
        step: how far one key press moves t.
        line: whether the page shows the straight line to the shuffled network.

    Raises:
        IncompatibleError: for a network that is not such a multi-layer perceptron, has no hidden
            layer, or was made for images of another size.
        ValueError: for an unknown split, no or too many images, weights that are not finite, a
            network and images too large for a page, no image drawn, or a step outside (0, 0.02].
    """
    if not 0 < step <= 0.02:
        raise ValueError(f"expected a step in (0, 0.02], found {step}")
    if shown < 1:
        raise ValueError(f"expected at least 1 image shown, found {shown}")
    layers, standardize = _layers_of(model)
    indices = chosen_images(data, images, split)
    x, y = (part[indices].cpu() for part in _split(data, split))
    _check_fit(layers, x, data)
    tensors = weights.of(model)
    flat = _flat(tensors, layers)
    payload: dict[str, Any] = {
        "title": title or "One network, its hidden units in any order",
        "data": data.name,
        "split": split,
        "step": step,
        "line": line,
        "seed": seed,
        "classes": [str(name) for name in data.classes],
        "shape": list(x.shape[1:]),
        "images": _pack_images(x.numpy()),
        "labels": _pack(y.numpy().astype(np.uint8)),
        "shown": _examples(y, shown),
        "layers": [
            {
                **{key: layer[key] for key in ("inputs", "outputs", "relu")},
                "bias": f"{layer['name']}.bias" in tensors,
            }
            for layer in layers
        ],
        "weights": _pack(flat),
        "moments": [tensors[f"{standardize}.{what}"].flatten().tolist() for what in ("mean", "std")]
        if standardize
        else None,
        # 1 where all weights are zero: every colour is the middle one then
        "scale": rounded(float(np.quantile(np.abs(flat), FULL_COLOUR)), 2) or 1.0,
    }
    size = len(payload["images"]["bits"]) + len(payload["weights"])
    if size > MOST_BYTES:
        raise ValueError(
            f"expected at most {MOST_BYTES / 1e6:.0f} MB of network and images in a page, found "
            f"{size / 1e6:.1f} MB: take a smaller network or fewer images"
        )
    return payload


class _Measured(NamedTuple):
    """What torch finds for one permutation: the table's numbers."""

    scores: dict[float, tuple[float, float]]
    change: float
    distance: float


def _measure(
    model: nn.Module, permutation: Sequence[Sequence[int]], used: Split, places: Sequence[float]
) -> _Measured:
    """Scores on the line to the permuted network, and how far logits and weights moved."""
    other = permute_mlp(model, permutation)
    path = LinearPath(model, other)
    logits = []
    for one in (model, other):
        with evaluating(copy.deepcopy(one).cpu().double()) as precise:
            logits.append(precise(used.x.cpu().double()))
    return _Measured(
        {t: evaluate(path.model_at(t), used) for t in places},
        float((logits[0] - logits[1]).abs().max()),
        float(weights.distance(weights.of(model), weights.of(other))),
    )


def _count_orders(layers: Sequence[dict[str, Any]]) -> str:
    """The number of orders of all hidden units in words: `32! · 32! ≈ 10^70.8`."""
    widths = [layer["outputs"] for layer in layers[:-1]]
    product = " · ".join(f"{width}!" for width in widths)
    power = sum(math.lgamma(width + 1) for width in widths) / math.log(10)
    if power < 6:
        return f"{product} = {math.prod(map(math.factorial, widths))}"
    return f"{product} ≈ 10^{power:.1f}"


class PermutationSlider(SliderWidget):
    """A small network in the page, its hidden units in any order, and the line to that self.

    The weight matrices are drawn; buttons reorder the hidden units: rows of one matrix travel,
    and columns of the next.  The page runs the network before and after, on all the images, and
    says how far logits and weights moved.  Under it, unless `line` is false, the slider goes along
    the straight line from the network, t = 0, to its shuffled self, t = 1, with the loss and the
    accuracy there.

    Args:
        model: a multi-layer perceptron with at least one hidden layer, see `describe_mlp`.
        data: whose images the network is shown.
        seed: of the order it stands in at first, and of those the buttons draw.
        images: how many, spread evenly over the split, or a list of indices.
        split: `test` or `train`.
        title: the heading.
        shown: how many images are drawn: the first of every class, then the second, and so on.
        line: whether the straight line is shown; without it nothing is said of it, and `t` moves
            nothing.
        start: where the slider stands at first.
        step: how far one key press moves t; at most 0.02.

    Attributes:
        indices: which images of the split were taken.
        permutation: one list a hidden layer; slot `i` takes unit `p[layer][i]`.  Follows the
            reader's buttons where there is a kernel, and moves the units when it is set.

    Raises:
        IncompatibleError: see `permutation_payload`.
        ValueError: see `permutation_payload`.
    """

    _esm = asset(
        "slider.js",
        "chart.js",
        "network.js",
        "permutation_network.js",
        "permutation_matrices.js",
        "permutation_line.js",
        "permutation_slider.js",
    )
    _css = asset("slider.css", "permutation_slider.css")

    permutation = traitlets.List(traitlets.List(traitlets.Int())).tag(sync=True)

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        seed: int = 0,
        images: int | Sequence[int] = 200,
        split: str = "test",
        title: str | None = None,
        *,
        shown: int = 10,
        line: bool = True,
        start: float = 0.5,
        step: float = 0.01,
    ):
        payload = permutation_payload(model, data, seed, images, split, title, shown, step, line)
        super().__init__(payload=payload, t=start, permutation=random_orders(model, seed))
        self.indices: list[int] = chosen_images(data, images, split).tolist()
        self._model = copy.deepcopy(model)  # as it is now, whatever is done with it later
        self._used = Split(*(part[self.indices] for part in _split(data, split)))
        self._known: tuple[list[list[int]], _Measured] | None = None

    @traitlets.validate("permutation")
    def _valid_permutation(self, proposal: dict[str, Any]) -> list[list[int]]:
        value = [list(order) for order in proposal["value"]]
        try:
            _check_orders(value, self.payload["layers"])
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from None
        return value

    @property
    def _measured(self) -> _Measured:
        """The numbers of the permutation as it stands now."""
        if self._known is None or self._known[0] != self.permutation:
            places = TABLE_POINTS if self.payload["line"] else (0.0, 1.0)
            measured = _measure(self._model, self.permutation, self._used, places)
            self._known = (self.permutation, measured)
        return self._known[1]

    def to_html(self) -> str:
        """This slider as self-contained HTML: no kernel, no network, no other file."""
        state = {"payload": self.payload, "t": self.t, "permutation": self.permutation}
        return static_html(str(self._esm), str(self._css), state, self.table())

    def _change(self) -> str:
        """The largest change of a logit in words that are the same on every machine."""
        change = self._measured.change
        if change == 0:
            return "no logit changes"
        if change < ROUNDING:
            return "no logit changes by more than 1e-9"
        return f"largest change of any logit {change:.2g}"

    def table(self) -> str:
        """Loss and accuracy by torch, along the line or before and after, as a plain table."""
        payload, measured = self.payload, self._measured
        line = payload["line"]
        caption = (
            f"{payload['title']}: {_sizes(payload['layers'])}, {len(self.indices)} "
            f"{payload['split']} images of {payload['data']}. "
            f"{'At t = 0 the network, at t = 1' if line else 'The network, and'} the "
            f"same network with its hidden units in another order: {self._change()} (double "
            f"precision), distance in weight space {measured.distance:.4g}, one of "
            f"{_count_orders(payload['layers'])} orders."
        )
        if line:
            caption += " Between them the weights are (1 − t) θ + t π(θ)."
            names = [f"{t:.2f}" for t in measured.scores]
        else:
            names = ["as it was trained", "in another order"]
        header = ["t" if line else "hidden units", f"{payload['split']} loss", "accuracy"]
        rows = [
            (name, f"{loss:#.4g}", f"{100 * accuracy:.1f} %")
            for name, (loss, accuracy) in zip(names, measured.scores.values(), strict=True)
        ]
        return fallback_table(caption, header, rows)

    def describe(self) -> str:
        """The sizes, the images, the distance and some losses, in one line."""
        payload, measured = self.payload, self._measured
        places: tuple[float, ...] = (0.0, 1.0)
        said = "before and after"
        if payload["line"]:
            places, said = (0.0, 0.5, 1.0), "at t = 0, 1/2, 1"
        losses = ", ".join(f"{measured.scores[t][0]:.3g}" for t in places)
        return (
            f"{_sizes(payload['layers'])}, {len(self.indices)} {payload['split']} images of "
            f"{payload['data']}: distance {measured.distance:.3g}, {self._change()}; "
            f"loss {said}: {losses}"
        )
