"""The barrier when one layer, or a part of the layers, goes from A to B and the rest stays.

With `S` a set of layers and `w` the tensors of layers,

    θ_S(t) = { (1 - t) w_A + t w_B  in the layers of S,   w_R  in all others },   R = A or B,

is a straight line that moves in `S` only.  Its profile is one row of a map layer × t:

| mode | the row of layer l moves | its t = 1 (rest at A) |
|---|---|---|
| `single` | l alone | A with one layer of B |
| `cumulative` | l and all layers before it | B up to l, A behind it; B itself in the last row |
| `cumulative_backward` | l and all behind it | A before l, B from it on; B in the first row |

What is compared with the straight line between two losses is a barrier.  There are two such lines:

    row:       max_t [L(θ_S(t)) - ((1 - t) L(θ_S(0)) + t L(θ_S(1)))],
    networks:  max_t [L(θ_S(t)) - ((1 - t) L(A) + t L(B))].

The first is that of `mcbook.profile`: whether there is a wall on this line.  The second counts what
the exchange of the layers costs as well.  Adilova, Andriushchenko, Kamp, Fischer and Jaggi,
"Layer-wise linear mode connectivity" (ICLR 2024), draw the second at the middle alone,
`L(θ_S(1/2)) - (L(A) + L(B)) / 2`, for R = A and R = B, single layers and cumulative ones from
either side (so the code that they published with the paper; our maximum over t is not theirs):
that is the column 0.5 of `LayerBarriers.excess(chord="networks")`.

A *layer* is a module with parameters of its own: weight and bias, and what a parametrisation makes
them of, move together.  Batch norm goes with the layer before it, whose outputs its scales and
statistics are of; other norms are layers themselves.  A tensor that two layers share is the first
one's.  Layers stand in the order of the data's way through the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data import Data
from ..errors import UnknownNameError, expect
from ..paths.linear import LinearPath
from ..paths.stages import flow_stages
from ..progress import Bar
from .profiles import Profile, profile

if TYPE_CHECKING:
    from ..viz.figure import Figure

__all__ = ["LayerBarriers", "layer_barriers"]

MODES = ("single", "cumulative", "cumulative_backward")
CHORDS = ("row", "networks")
_ROOT = "(network)"


@dataclass(frozen=True)
class LayerBarriers:
    """What was measured while layers went from A to B.

    Attributes:
        table: for each layer, in the order of the data's way, a row for each `t`: `layer`, `t`;
            for each split `<split>_loss` (mean cross-entropy, nats) and `<split>_accuracy` (in
            [0, 1]); `distance_a` and `distance_b`, the distances of the parameters from both ends
            of this row's line.
        ends: the rows of A (`t` = 0) and of B (`t` = 1), with the same columns but `layer`.
        mode: which layers a row moves: `single`, `cumulative` or `cumulative_backward`.
        rest: where all other layers are: `a` or `b`.
        normalization: what was done between the ends: `reset`, `none` or `repair`.
        data_name: the data set.
        tensors: for each layer the names of its tensors, batch norm's among them.
    """

    table: pd.DataFrame
    ends: pd.DataFrame
    mode: str
    rest: str
    normalization: str
    data_name: str
    tensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """The layers that have a row, in order."""
        return list(dict.fromkeys(self.table["layer"]))

    def profile(self, layer: str) -> Profile:
        """The row of a layer, as the profile of a path.

        Raises:
            UnknownNameError: for a layer that has no row.
        """
        if layer not in self.layers:
            raise UnknownNameError("layer", layer, self.layers)
        rows = self.table[self.table["layer"] == layer].drop(columns="layer")
        # a straight line: the arc is the distance from its beginning
        arc = rows["distance_a"].to_numpy()
        return Profile(rows.reset_index(drop=True), self.normalization, LinearPath.kind,
                       self.data_name, arc)  # fmt: skip

    def map(self, split: str = "test", quantity: str = "loss") -> pd.DataFrame:
        """What was measured: a row for each layer, a column for each `t`.

        Args:
            split: `train` or `test`.
            quantity: `loss` or `accuracy`.

        Raises:
            UnknownNameError: when that was not measured.
        """
        column = self._checked(split, quantity)
        wide = self.table.pivot(index="layer", columns="t", values=column)
        return wide.loc[self.layers]

    def excess(
        self, split: str = "test", quantity: str = "loss", chord: str = "row"
    ) -> pd.DataFrame:
        """How much worse than the chord, in the form of `map`; of an accuracy, how much lower.

        Args:
            split: `train` or `test`.
            quantity: `loss` or `accuracy`.
            chord: the straight line between the two ends of the `row`, or between the values of
                A and B, the two whole `networks`.

        Raises:
            UnknownNameError: when that was not measured, or for another chord.
        """
        column = self._checked(split, quantity)
        if chord not in CHORDS:
            raise UnknownNameError("chord", chord, CHORDS)
        values = self.map(split, quantity)
        if chord == "row":
            rows = [self.profile(layer).excess(split, quantity) for layer in values.index]
            return pd.DataFrame(rows, index=values.index, columns=values.columns)
        t = values.columns.to_numpy(dtype=float)
        of_a, of_b = self.ends[column]
        difference = values - ((1 - t) * of_a + t * of_b)
        return difference if quantity == "loss" else -difference

    def barrier(self, split: str = "test", quantity: str = "loss", chord: str = "row") -> pd.Series:
        """For each layer the barrier: the highest excess over the chord, never negative.

        Args:
            split: `train` or `test`.
            quantity: `loss` or `accuracy`.
            chord: see `excess`.

        Raises:
            UnknownNameError: when that was not measured, or for another chord.
        """
        highest = self.excess(split, quantity, chord).max(axis=1).clip(lower=0.0)
        return highest.rename("barrier")

    def plot(self, split: str = "test", quantity: str = "loss", **options: Any) -> Figure:
        """Draw the map; see `mcbook.viz.layer_map.plot_layer_map` for the options.

        Args:
            split: `train` or `test`.
            quantity: `loss` or `accuracy`.
            **options: for `plot_layer_map`.

        Raises:
            UnknownNameError: when that was not measured.
        """
        from ..viz.layer_map import plot_layer_map

        return plot_layer_map(self, split, quantity, **options)

    def _checked(self, split: str, quantity: str) -> str:
        """The column of a measurement."""
        column = f"{split}_{quantity}"
        known = [c for c in self.table.columns if c.endswith(("_loss", "_accuracy"))]
        if column not in known:
            raise UnknownNameError("measurement", column, known)
        return column

    def __repr__(self) -> str:
        """How many layers and points, and the highest barrier."""
        columns = [c for c in self.table.columns if c.endswith("_loss")]
        told = []
        for split in (c.removesuffix("_loss") for c in columns):
            barriers = self.barrier(split)
            told.append(f"highest {split} loss barrier {barriers.max():.3g} ({barriers.idxmax()})")
        counts = f"{len(self.layers)} layers, {self.table['t'].nunique()} points"
        return f"LayerBarriers({self.mode} on {self.data_name}, {counts}, {', '.join(told)})"


def layer_barriers(
    a: nn.Module,
    b: nn.Module,
    data: Data,
    mode: str = "single",
    points: int = 11,
    splits: Sequence[str] = ("train", "test"),
    normalization: str | None = None,
    layers: str | Sequence[str] | None = None,
    images: int | None = None,
    rest: str = "a",
    batch_size: int = 2048,
    progress: bool = True,
) -> LayerBarriers:
    """Measure loss and accuracy while one layer after another goes from A to B.

    Every row is `mcbook.profile` of the line `θ_S(t)` above, so that a row of all layers is the
    profile of `LinearPath(a, b)`.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, of the same architecture.
        data: what to measure on; brought to A's device if it is elsewhere.
        mode: `single`, `cumulative` or `cumulative_backward`, see above.
        points: of the uniform grid on [0, 1].
        splits: `train`, `test` or both.
        normalization: as in `mcbook.profile`: None measures batch-norm statistics anew at every
            point, where there is batch norm.
        layers: the layers that get a row, by the names of their modules; all when None.  What a
            row moves does not depend on which others there are, nor their order on that given.
        images: how many of the images of each split, a fixed random part (of the training images,
            for batch-norm statistics too); all when None, or when there are fewer.
        rest: where the layers are that a row does not move: at `a` (then every row begins at A),
            or at `b` (then every row ends at B).
        batch_size: how many images at once; the result does not depend on it.
        progress: whether to show a bar.

    Raises:
        TypeError: when a network is no module, or `data` not a Data.
        IncompatibleError: when the networks are not of one architecture, or (as TraceError) the
            forward pass cannot be followed.
        UnknownNameError: for an unknown mode, rest, split, normalization or layer; a batch-norm
            layer has no row of its own.
        ValueError: for fewer than 2 points, no images, no layers, or weights that are NaN or
            infinite.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> found = mc.layer_barriers(a, b, data, points=3, images=50, progress=False)
        >>> found.layers
        ['linear1', 'linear2', 'output']
    """
    for network in (a, b):
        expect(network, nn.Module, "a torch.nn.Module")
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    for what, given, known in (("mode", mode, MODES), ("rest", rest, ("a", "b"))):
        if given not in known:
            raise UnknownNameError(what, given, known)
    if points < 2:
        raise ValueError(f"expected at least 2 points, found {points}")
    if images is not None:
        if images < 1:
            raise ValueError(f"expected at least 1 image, found {images}")
        data = data.subset(min(images, len(data.train)), min(images, len(data.test)))
    line = LinearPath(a, b)
    data = data.to(next(iter(line.control_points.values())).device)
    tensors = _layers_of(line.model_at(0.0), data.train.x[:1])
    chosen = _chosen(list(tensors), layers)

    def measured(path: LinearPath, points: int) -> Profile:
        return profile(
            path, data, points, splits, normalization, batch_size=batch_size, progress=False
        )

    ends = measured(line, 2)
    rows = []
    with Bar(len(chosen), "layer barriers", progress) as bar:
        for layer in chosen:
            moving = [n for one in _moved(list(tensors), layer, mode) for n in tensors[one]]
            row = measured(_moving(line, set(moving), rest), points).table
            row.insert(0, "layer", layer)
            rows.append(row)
            bar.advance()
    return LayerBarriers(
        pd.concat(rows, ignore_index=True),
        ends.table,
        mode,
        rest,
        ends.normalization,
        data.name,
        tensors,
    )


def _moved(order: list[str], layer: str, mode: str) -> list[str]:
    """The layers that the row of `layer` moves."""
    i = order.index(layer)
    if mode == "single":
        return [layer]
    return order[: i + 1] if mode == "cumulative" else order[i:]


def _moving(line: LinearPath, moving: set[str], rest: str) -> LinearPath:
    """The line that goes from A to B in the tensors named, and stands still in all others."""
    at: dict[str, dict[str, Tensor]] = {"a": line.at(0.0), "b": line.at(1.0)}
    ends = []
    for end, t in (("a", 0.0), ("b", 1.0)):
        network = line.model_at(t)
        network.load_state_dict(
            {name: at[end if name in moving else rest][name] for name in at[rest]}
        )
        ends.append(network)
    return LinearPath(*ends)


def _chosen(order: list[str], layers: str | Sequence[str] | None) -> list[str]:
    """The layers wanted, in the order of the network."""
    if layers is None:
        return order
    wanted = [layers] if isinstance(layers, str) else list(layers)
    for name in wanted:
        if name not in order:
            raise UnknownNameError("layer", name, order)
    if not wanted:
        raise ValueError("expected at least one layer, found an empty list")
    return [name for name in order if name in wanted]


def _in_order_of_use(model: nn.Module, x: Tensor) -> list[str]:
    """The names of all parameters, as the data meet them on their way."""
    return [name for stage in flow_stages(model, x, most=None) for name in stage]


def _layers_of(model: nn.Module, x: Tensor) -> dict[str, tuple[str, ...]]:
    """The layers in order, each with its tensors; every floating-point tensor is in one.

    Buffers of modules without parameters go with the layer registered before them.

    Raises:
        ValueError: when there are no parameters.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    first = {module: name for name, module in reversed(named.items())}

    def owner(tensor: str) -> str:
        name = tensor.rpartition(".")[0]
        # what a weight is computed from is the layer's whose weight it is
        parts = name.split(".")
        if "parametrizations" in parts:
            name = ".".join(parts[: parts.index("parametrizations")])
        return first[named[name]]

    parameters = dict(model.named_parameters())
    row_of: dict[str, str] = {}  # by module
    row_of_tensor: dict[int, str] = {}
    last = ""
    for tensor in _in_order_of_use(model, x):
        module = owner(tensor)
        if module not in row_of:
            if not (isinstance(named[module], _BatchNorm) and last):
                last = module or _ROOT
            row_of[module] = last
        row_of_tensor[id(parameters[tensor])] = row_of[module]
    if not row_of:
        raise ValueError(
            f"expected a network with parameters, found none in this {type(model).__name__}"
        )
    tensors: dict[str, list[str]] = {row: [] for row in row_of.values()}
    row = next(iter(tensors))
    for name, x in model.state_dict(keep_vars=True).items():
        if isinstance(x, Tensor) and x.is_floating_point():
            row = row_of_tensor.get(id(x)) or row_of.get(owner(name), row)
            tensors[row].append(name)
    return {row: tuple(names) for row, names in tensors.items()}
