r"""Do the units of two networks do the same, layer by layer?

With :math:`x_i` the activation of A's unit :math:`i` of a layer and :math:`y_i` that of B's unit in
the same slot, over all images and all positions in them, a layer's entry of the *correlation
signature* is

.. math::

    \frac{1}{n} \sum_{i=1}^{n} \operatorname{corr}(x_i, y_i), \qquad
    \operatorname{corr}(x, y) =
    \frac{\operatorname{E}[(x - \operatorname{E} x)(y - \operatorname{E} y)]}{\sigma_x \sigma_y} ,

Pearson's correlation, in [-1, 1].  A unit that never varies has none: it counts as 0, and such
units are counted.

Tatro, Chen, Das, Melnyk, Sattigeri and Lai (2020), "Optimizing mode connectivity via neuron
alignment", section 3: before and after alignment, and between the networks inside a curve and those
at its ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ..alignment.alignment import check_networks
from ..alignment.seen import Seen, balanced_images, like, on_one_device
from ..data import Data, Split
from ..errors import UnknownNameError, expect
from ..normalized import Normalized, check_normalization
from ..paths.base import Path
from ..symmetry.activations import Sites, find_sites
from ..symmetry.spec import PermutationSpec
from .observing import checked_alphas
from .profiles import statistics_images

__all__ = ["correlation_signature", "path_signature"]


def correlation_signature(
    a: nn.Module,
    b: nn.Module,
    data: Data | Split,
    images: int = 5_000,
    spec: PermutationSpec | None = None,
    example: Any = None,
    seed: int = 0,
    split: str = "test",
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The mean correlation of the units of A with those of B in the same slots, layer by layer.

    Units are looked at as the next layer reads them: after the activation function (and pooling).
    A residual stream is read in several places, and has a row for each.  Both networks are in eval
    mode, with their own batch-norm statistics.

    Sources: Tatro et al. (2020), section 3; Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent
    learning" (2016), for the correlation of units.

    Args:
        a: one network; any module whose forward pass can be traced.
        b: the other, of the same architecture: aligned or not.
        data: what to look at: the split of that name, or a split.
        images: how many of them: a random part with equally many of every class.
        spec: of both networks; traced from A when None.
        example: one input for the traces; the first of the images when None.
        seed: which images.
        split: `train` or `test`, for data.
        batch_size: how many at once; the result does not depend on it, up to rounding.
        progress: whether to show a bar.

    Returns:
        A row for each layer, in forward order:

        - `layer`: the layer that makes the units; of a residual stream, which several layers make
          and several read, `into` and the layer that reads them;
        - `read_by`: the module that reads them;
        - `units`: how many there are;
        - `dead`: how many of them never vary in A or in B;
        - `correlation`: the mean over all units, in [-1, 1].

    Raises:
        TypeError: for arguments of another kind.
        UnknownNameError: for an unknown split.
        IncompatibleError: for networks that are not of one architecture, or do not run the same
            operations, or a spec of another one.
        ValueError: for weights or activations that are not finite, no images, or fewer images than
            classes.

    Example:
        >>> import mcbook as mc
        >>> from mcbook.analysis.signature import correlation_signature
        >>> data = mc.load_data("digits", device="cpu")
        >>> a = mc.build_model("mlp", data, width=8)
        >>> correlation_signature(a, a, data, progress=False)["layer"].tolist()
        ['linear1', 'linear2']
    """
    x = balanced_images(data, images, seed, split)
    observer = _Observer.of(a, b, x, spec, example, batch_size, progress)
    rows = observer.compared(a, b)
    return pd.DataFrame(
        [{**place, **row} for place, row in zip(observer.places, rows, strict=True)]
    )


def path_signature(
    path: Path,
    data: Data,
    at: float | Iterable[float] = (0.25, 0.5, 0.75),
    normalization: str | None = None,
    images: int = 5_000,
    spec: PermutationSpec | None = None,
    example: Any = None,
    seed: int = 0,
    split: str = "test",
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The correlation of the networks inside a path with those at its ends, layer by layer.

    Where A is aligned with B, the networks between them resemble both.  At `t = 0` the correlation
    with A is 1 for every unit that varies.

    Args:
        path: what to walk along.
        data: what to look at.
        at: which `t`, in [0, 1].
        normalization: `reset` measures the batch-norm statistics anew on training images (at most
            10,000) in every network, both ends included; `none` mixes them like weights.  None is
            `reset` where there is batch norm.
        images: see `correlation_signature`.
        spec: see there.
        example: see there.
        seed: which images.
        split: `train` or `test`.
        batch_size: how many at once; the result does not depend on it, up to rounding.
        progress: whether to show bars.

    Returns:
        For each `t` a row for each layer, in forward order: `layer`, `read_by` and `units` as
        `correlation_signature` has them; `t`; `with_a` and `with_b`, the mean correlation with the
        network at that end; `dead_with_a` and `dead_with_b`, how many units never vary in one of
        the two.

    Raises:
        TypeError: for arguments of another kind.
        UnknownNameError: for an unknown split or normalization.
        IncompatibleError: see `correlation_signature`.
        ValueError: for a `t` outside [0, 1]; and see `correlation_signature`.
    """
    expect(path, Path, "a path, such as LinearPath(a, b)")
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    a = path.model_at(0.0)
    normalization = check_normalization(normalization, a)
    if normalization == "repair":
        raise UnknownNameError("normalization of a signature", normalization, ("none", "reset"))
    data = data.to(next(iter(path.control_points.values())).device)
    x = balanced_images(data, images, seed, split)
    along = Normalized(path, normalization, statistics_images(data))
    (a, _), (b, _) = (along.at(t) for t in (0.0, 1.0))
    observer = _Observer.of(a, b, x, spec, example, batch_size, progress)
    rows = []
    for t in checked_alphas(at):
        model, _ = along.at(t)
        found = (observer.compared(model, end) for end in (a, b))
        for place, with_a, with_b in zip(observer.places, *found, strict=True):
            row: dict[str, Any] = {"layer": place["layer"], "t": t}
            for end, values in (("a", with_a), ("b", with_b)):
                row[f"with_{end}"] = values["correlation"]
            row |= {"read_by": place["read_by"], "units": with_a["units"]}
            rows.append(row | {"dead_with_a": with_a["dead"], "dead_with_b": with_b["dead"]})
    return pd.DataFrame(rows)


@dataclass
class _Observer:
    """Compares pairs of networks of one architecture on the same images.

    Attributes:
        spec: of the architecture.
        sites: of it.
        x: the images.
        places: for each row `layer` and `read_by`.
        batch_size: how many images at once.
        progress: whether to show bars.
    """

    spec: PermutationSpec
    sites: Sites
    x: Tensor
    places: list[dict[str, Any]]
    batch_size: int | None
    progress: bool

    @classmethod
    def of(
        cls,
        a: nn.Module,
        b: nn.Module,
        x: Tensor,
        spec: PermutationSpec | None,
        example: Any,
        batch_size: int | None,
        progress: bool,
    ) -> _Observer:
        """The sites of A's architecture."""
        for model in (a, b):
            expect(model, nn.Module, "a torch.nn.Module")
        if example is None:
            example = like(x[:1], a)
        spec = check_networks([a, b], spec, example)
        sites = find_sites(a, spec, example)
        places = _places(Seen(spec, sites, a))
        return cls(spec, sites, x, places, batch_size, progress)

    def compared(self, a: nn.Module, b: nn.Module) -> list[dict[str, Any]]:
        """For each row `units`, `dead` and `correlation`."""
        models = on_one_device(a, b)
        seen = Seen(self.spec, self.sites, models[0])
        seen.watch(models, self.x, self.batch_size, self.progress)
        rows = []
        for keys in _members(seen).values():
            total, units, dead = 0.0, 0, 0
            for key in keys:
                own = np.diagonal(seen.similarity(key, "correlation"))
                alive = [z.cpu().numpy() for z in seen.moments[key].alive()]
                total, units = total + float(own.sum()), units + len(own)
                dead += int((~(alive[0] & alive[1])).sum())
            rows.append({"units": units, "dead": dead, "correlation": total / units})
        return rows


def _members(seen: Seen) -> dict[int, list[tuple[int, int]]]:
    """The places of every member, in the order of the forward pass."""
    members: dict[int, list[tuple[int, int]]] = {}
    for key in seen.readers:
        members.setdefault(key[0], []).append(key)
    return members


def _places(seen: Seen) -> list[dict[str, Any]]:
    """What to call the members: all differently."""
    made, read = [], []
    for keys in _members(seen).values():
        names = [seen.spec.classes[seen.readers[key].number].name for key in keys]
        made.append(list(dict.fromkeys(names)))
        read.append(seen.places[keys[0]].module)
    labels: list[str] = []
    for names, module in zip(made, read, strict=True):
        alone = len(names) == 1 and made.count(names) == 1
        label = names[0] if alone else f"into {module or 'the output'}"
        again = sum(x == label or x.startswith(f"{label}:") for x in labels)
        labels.append(f"{label}:{again + 1}" if again else label)
    return [{"layer": x, "read_by": module} for x, module in zip(labels, read, strict=True)]
