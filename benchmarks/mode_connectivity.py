"""The peer for curves: Garipov et al.'s own code, timgaripov/dnn-mode-connectivity.

There every kind of layer has a second version that holds all control points and computes its
weights at `t` in each forward pass.  Nothing of it is in this repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.errors import IncompatibleError

from .loading import known_as, loaded

__all__ = ["Batches", "ModeConnectivity"]

#: its way to move a batch to the GPU no longer parses; here everything stays on the CPU
_MENDED = {".cuda(async=True)": ""}


class Batches:
    """Images in memory, in batches, with what the peer asks of a loader.

    Args:
        x: the images.
        y: their labels.
        size: of a batch.
        count: how many batches; the images are gone through again as often as it takes.
    """

    def __init__(self, x: Tensor, y: Tensor, size: int, count: int):
        self.dataset = x
        self._parts = list(zip(x.split(size), y.split(size), strict=True))
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterable[tuple[Tensor, Tensor]]:
        return (self._parts[i % len(self._parts)] for i in range(self._count))


class ModeConnectivity:
    """Its curves, its training loop and its evaluation.

    Args:
        folder: a checkout of it, as it is.

    Raises:
        FileNotFoundError: when that is not one.
    """

    REPOSITORY = "timgaripov/dnn-mode-connectivity"
    FILE = "curves.py"
    _NEEDED = ("CurveNet", "Bezier", "CurveModule", "Linear", "Conv2d", "BatchNorm2d")

    def __init__(self, folder: Path):
        self._folder = folder
        self._curves = self._file(self.FILE, (*self._NEEDED, "l2_regularizer"))
        with known_as("curves", self._curves):
            self._utils = self._file("utils.py", ("train", "test", "update_bn"))
            self._models = self._file("models/preresnet.py", ("PreResNetBase", "PreResNetCurve"))

    def _file(self, file: str, needed: Sequence[str]) -> Any:
        return loaded(self._folder, file, self.REPOSITORY, needed, _MENDED)

    def preresnet20(self, classes: int, seed: int) -> nn.Module:
        """Its residual network of depth 20, an ordinary module with initial weights by seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._models.PreResNetBase(classes, depth=20)

    def preresnet20_curve(self, points: Sequence[nn.Module]) -> nn.Module:
        """Its curve through control points that `preresnet20` made."""
        classes = points[0].fc.out_features
        return self._curve(self._models.PreResNetCurve, classes, points, depth=20)

    def chain_curve(self, points: Sequence[nn.Module]) -> nn.Module:
        """Its curve of networks whose layers follow one another.

        Args:
            points: the control points, `nn.Sequential` of one architecture.

        Raises:
            IncompatibleError: for a layer with parameters that it has no version of.
        """
        like = points[0]

        def architecture(classes: int, fix_points: Sequence[bool]) -> nn.Module:
            return _Chain([self._layer(layer, fix_points) for layer in like.children()])

        return self._curve(architecture, 0, points)

    def _curve(
        self,
        architecture: Callable[..., nn.Module],
        classes: int,
        points: Sequence[nn.Module],
        **options: Any,
    ) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # it draws weights that are then replaced
            net = self._curves.CurveNet(
                classes, self._curves.Bezier, architecture, len(points), architecture_kwargs=options
            )
        for i, point in enumerate(points):
            net.import_base_parameters(point, i)
        return net

    def _layer(self, layer: nn.Module, fix: Sequence[bool]) -> nn.Module:
        """Its version of a layer; one without parameters is taken as it is."""
        if isinstance(layer, nn.Linear):
            bias = layer.bias is not None
            return self._curves.Linear(layer.in_features, layer.out_features, fix, bias=bias)
        if list(layer.parameters()):
            raise IncompatibleError(
                f"expected linear layers and layers without parameters, found "
                f"{type(layer).__name__}"
            )
        return layer

    def train(
        self, net: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer, decay: float
    ) -> None:
        """Its epoch of training over these batches, at a random `t` for each."""
        penalty = self._curves.l2_regularizer(decay)
        with torch.random.fork_rng(devices=[]):  # its `t` come from the global generator
            self._utils.train(batches, net, optimizer, F.cross_entropy, penalty)

    def measure(self, net: nn.Module, loaders: Sequence[Iterable], t: float) -> list[float]:
        """Its evaluation of a point: batch norm over the first loader, then all of them.

        Returns:
            The mean cross-entropy over each loader.
        """
        at = torch.tensor([t])
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # loaders draw from it, too
            self._utils.update_bn(loaders[0], net, t=at)
            return [self._utils.test(one, net, F.cross_entropy, t=at)["nll"] for one in loaders]

    def transform(self) -> Any:
        """What its loaders do to a test image of CIFAR-10."""
        mc.models.library("torchvision")  # made importable beside any torch
        data = self._file("data.py", ("Transforms",))
        return data.Transforms.CIFAR10.ResNet.test


class _Chain(nn.Module):
    """Layers one after the other; those with control points are told the coefficients."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, coefficients: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, coefficients) if hasattr(layer, "compute_weights_t") else layer(x)
        return x
