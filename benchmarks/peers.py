"""Other people's code to compare with, run from the folder of a checkout.

Nothing of it is in this repository.  `python -m benchmarks --peer FOLDER` names a checkout; a
benchmark whose peer was not named says so and runs without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcbook.errors import IncompatibleError

from .loading import loaded
from .mode_connectivity import ModeConnectivity

__all__ = [
    "KNOWN",
    "GitReBasin",
    "Matched",
    "ModeConnectivity",
    "chain_axes",
    "git_re_basin",
    "mode_connectivity",
    "use",
]

_named: dict[type, Path] = {}

#: for every axis of a tensor the name of the space on it, or None
Axes = Mapping[str, tuple[str | None, ...]]


@dataclass(frozen=True)
class Matched:
    """What the peer found.

    Attributes:
        vectors: per space, slot `i` takes unit `p[i]`.
        gains: what each visit of a space added to the objective, as it printed it.
        sweeps: how often it went through all spaces.
    """

    vectors: Mapping[str, Tensor]
    gains: tuple[float, ...]
    sweeps: int


class GitReBasin:
    """The PyTorch port of Git Re-Basin, themrzmaster/git-re-basin-pytorch: its weight matching.

    Args:
        folder: a checkout of it.

    Raises:
        FileNotFoundError: when that is not one.
    """

    REPOSITORY = "themrzmaster/git-re-basin-pytorch"
    FILE = "utils/weight_matching.py"
    _NEEDED = ("weight_matching", "permutation_spec_from_axes_to_perm", "apply_permutation")

    def __init__(self, folder: Path):
        self._code = loaded(folder, self.FILE, self.REPOSITORY, self._NEEDED)
        self.version = hashlib.sha256((folder / self.FILE).read_bytes()).hexdigest()[:12]

    def spec(self, axes: Axes) -> Any:
        """Its own kind of spec."""
        return self._code.permutation_spec_from_axes_to_perm(dict(axes))

    def match(
        self, spec: Any, a: Mapping[str, Tensor], b: Mapping[str, Tensor], seed: int
    ) -> Matched:
        """Its weight matching, in the visiting order that a seed gives.

        Args:
            spec: as `spec` makes it.
            a: the tensors of one network that count.
            b: of the other.
            seed: of the global random state, from which it draws the order; that is restored.
        """
        said = io.StringIO()
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(said):
            torch.manual_seed(seed)
            vectors = self._code.weight_matching(spec, a, b)
        # one line a visit: "sweep/space: gain"
        lines = said.getvalue().splitlines()
        gains = tuple(float(line.rpartition(": ")[2]) for line in lines)
        return Matched(vectors, gains, len({line.partition("/")[0] for line in lines}))

    def applied(self, spec: Any, found: Matched, b: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """B's tensors with their units moved, by its own code."""
        return self._code.apply_permutation(spec, found.vectors, b)


#: what can be named
KNOWN = (GitReBasin, ModeConnectivity)


def use(folders: Sequence[str]) -> None:
    """Name the checkouts to compare with.

    Raises:
        FileNotFoundError: for a folder that is none of a known peer.
    """
    found: dict[type, Path] = {}
    for path in (Path(folder).expanduser() for folder in folders):
        kinds = [kind for kind in KNOWN if (path / kind.FILE).is_file()]
        if not kinds:
            raise FileNotFoundError(
                f"expected a checkout of {' or '.join(kind.REPOSITORY for kind in KNOWN)}, "
                f"found no {' and no '.join(kind.FILE for kind in KNOWN)} in {path}"
            )
        kinds[0](path)
        found[kinds[0]] = path
    _named.clear()
    _named.update(found)


def git_re_basin() -> GitReBasin | None:
    """The PyTorch port of Git Re-Basin, None when it was not named."""
    return GitReBasin(_named[GitReBasin]) if GitReBasin in _named else None


def mode_connectivity() -> ModeConnectivity | None:
    """The code of Garipov et al., None when it was not named."""
    return ModeConnectivity(_named[ModeConnectivity]) if ModeConnectivity in _named else None


def chain_axes(model: nn.Module) -> dict[str, tuple[str | None, ...]]:
    """What the peer has to be told of a network whose layers follow one another.

    Its own spec of VGG16 counts running statistics among the weights, and permutes the outputs.
    This one names the parameters only, and leaves inputs and outputs where they are: the same
    tensors and the same group as on the other side.  For a perceptron it is the peer's own.

    Args:
        model: of linear layers, convolutions and batch norms, in the order of their use.

    Raises:
        IncompatibleError: for another layer with parameters, or where one does not take what the
            one before gives.
    """
    kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
    layers = [(n, m) for n, m in model.named_modules() if list(m.parameters(recurse=False))]
    last = [name for name, layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))][-1:]
    axes: dict[str, tuple[str | None, ...]] = {}
    space: str | None = None
    width: int | None = None
    for name, layer in layers:
        if not isinstance(layer, kinds):
            raise IncompatibleError(
                f"expected a network of linear layers, convolutions and batch norms, found "
                f"{name} ({type(layer).__name__})"
            )
        takes = layer.weight.shape[:2][-1]
        if width is not None and takes != width:
            raise IncompatibleError(
                f"expected {name} to take the {width} units of the layer before, found {takes}"
            )
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            own = None if [name] == last else name
            axes[f"{name}.weight"] = (own, space) + (None,) * (layer.weight.ndim - 2)
            space, width = own, len(layer.weight)
        else:
            axes[f"{name}.weight"] = (space,)
        if layer.bias is not None:
            axes[f"{name}.bias"] = (space,)
    return axes
