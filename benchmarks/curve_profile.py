"""The profile of a curve between two networks with batch norm: `mc.profile` against the peer.

At every point the statistics of batch norm are measured anew, then the loss of all training and
test images: there by passes over loaders that make a tensor of each image anew, here in memory.
Both get the same curve, whose control points are networks of the peer's own architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import mcbook as mc
from mcbook.normalization import measure_statistics_

from .harness import CLOCKS, Comparison, Result, compare
from .images import images
from .matching import verdict
from .mode_connectivity import ModeConnectivity
from .peers import mode_connectivity

NAME = "curve_profile"
PEER, OURS, LOW = "evaluation of the peer", "mc.profile", "mc.profile in bfloat16"
#: times faster on all images of CIFAR-10
TARGET = 5.0
#: of a loss
AGREEMENT = 0.01
_POINTS = 3
#: training and test images: so many are measured, and so many there are
_MEASURED, _ALL = (10_000, 2_000), (50_000, 10_000)
#: training images that `mc.profile` measures statistics on when there are more
_STATISTICS = 10_000
_PEER_BATCH, _OUR_BATCH = 128, 128
#: as the peer's own transform has them
_MEAN, _DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_RECIPE = {"lr": 0.05, "momentum": 0.9, "batch_size": 128, "schedule": "cosine"}


class _Pictures(Dataset):
    """Images as torchvision's data sets keep them, transformed one by one."""

    def __init__(self, split: mc.Split, transform: Callable[[object], Tensor]):
        self.pixels = (255 * split.x).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        self.labels = split.y
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index].numpy())), int(self.labels[index])


class _Standardized(nn.Module):
    """The network with what the peer's transform does to its images."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(3, 1, 1))
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.deviation)


def _curve(make: Callable[[int], nn.Module], data: mc.Data, smoke: bool) -> mc.Path:
    """A curve between two networks, both trained for a while, and trained for a while itself."""
    part = data.subset(train=min(len(data.train), 64 if smoke else 5_000), test=10)
    ends = [mc.train(make(s), part, 1, seed=s, progress=False, **_RECIPE) for s in (0, 1)]
    return mc.fit_curve(*ends, part, steps=1 if smoke else 40, progress=False, batch_size=128)


def _peers_curve(peer: ModeConnectivity, path: mc.Path) -> nn.Module:
    """The same curve in the peer's layers."""
    points = []
    for i in range(3):
        model = path.model_at(0.0)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(path.control_points[name][i])
        points.append(model.net)
    return peer.preresnet20_curve(points)


def _theirs(peer: ModeConnectivity, path: mc.Path, data: mc.Data) -> Callable[[], pd.DataFrame]:
    net, transform = _peers_curve(peer, path), peer.transform()
    # The loaders it would make, without augmentation and in this process, whose clock is read.
    loaders = [
        DataLoader(_Pictures(split, transform), batch_size=_PEER_BATCH)
        for split in (data.train, data.test)
    ]

    def measured() -> pd.DataFrame:
        rows = [peer.measure(net, loaders, t) for t in np.linspace(0, 1, _POINTS)]
        return pd.DataFrame(rows, columns=["train_loss", "test_loss"])

    return measured


def _differences(found: pd.DataFrame, expected: pd.DataFrame) -> dict[str, Sequence[float]]:
    """How far the losses are apart at each point, relative to the expected ones."""
    return {
        column: ((found[column] - expected[column]).abs() / expected[column]).tolist()
        for column in ("train_loss", "test_loss")
    }


def on_all(point: float, statistics: float | None, train: int, test: int) -> float:
    """The seconds of a point on all images of CIFAR-10, on a straight line.

    Args:
        point: the seconds measured.
        statistics: of those, what does not grow: 10,000 images are enough for our statistics; None
            for the peer, which passes the training images twice.
        train: how many training images were measured.
        test: how many test images.
    """
    all_train, all_test = _ALL
    if statistics is None:
        return point * (2 * all_train + all_test) / (2 * train + test)
    return statistics + (point - statistics) * (all_train + all_test) / (train + test)


def _times_of_a_point(found: Comparison, path: mc.Path, data: mc.Data, clock: str) -> list[str]:
    """The seconds of a point, as measured and for all images."""
    now = CLOCKS[clock]
    statistics: dict[str, float] = {}
    for way, precision in ((OURS, "float32"), (LOW, "bfloat16")):
        model = path.model_at(0.5)
        begun = now()
        measure_statistics_(model, data.train.x, precision=precision)
        statistics[way] = now() - begun
    train, test = len(data.train), len(data.test)
    points = {way: found.median(way) / _POINTS for way in found.seconds}
    notes = [
        f"{way}: {point:.2f} s a point"
        + (f", of which {statistics[way]:.2f} for the statistics" if way in statistics else "")
        for way, point in points.items()
    ]
    if train != _STATISTICS:  # what they cost on other numbers of images is not proportional
        return [*notes, f"what all images take is told from {_STATISTICS:,} training images only"]
    wholes = {way: on_all(point, statistics.get(way), train, test) for way, point in points.items()}
    notes += [f"{way}: on all images, on a straight line, {s:.0f} s" for way, s in wholes.items()]
    if PEER in wholes:
        claim = "times faster than the peer on all images, on a straight line"
        notes.append(verdict(claim, wholes[PEER] / wholes[LOW], TARGET))
    return notes


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time the evaluation each way, and compare what it found.

    Args:
        rounds: how often.
        smoke: on so few images that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result; the target, on all images, is among the notes.
    """
    peer = mode_connectivity()
    data, said = images("cifar10", *((64, 32) if smoke else _MEASURED))
    if peer is None:
        width = {"width": 4} if smoke else {}
        path = _curve(lambda s: mc.build_model("resnet20", data, seed=s, **width), data, smoke)
    else:
        path = _curve(lambda s: _Standardized(peer.preresnet20(10, s)), data, smoke)
    found: dict[str, pd.DataFrame] = {}

    def ours(way: str, precision: str) -> None:
        options = {"progress": False, "batch_size": _OUR_BATCH, "precision": precision}
        found[way] = mc.profile(path, data, _POINTS, **options).table

    ways: dict[str, Callable[[], None]] = {
        OURS: lambda: ours(OURS, "float32"),
        LOW: lambda: ours(LOW, "bfloat16"),
    }
    if peer is not None:
        measured = _theirs(peer, path, data)

        def theirs() -> None:
            found[PEER] = measured()

        ways = {PEER: theirs, **ways}
    baseline = next(iter(ways))
    comparison = compare(ways, baseline, rounds, warmups=int(smoke), clock=clock)
    notes = _times_of_a_point(comparison, path, data, clock)
    failures = []
    for way in list(ways)[1:]:
        apart = _differences(found[way], found[baseline])
        worst = {column.partition("_")[0]: max(values) for column, values in apart.items()}
        notes.append(
            f"{way}: losses differ by at most "
            + ", ".join(f"{100 * x:.2f} % ({split})" for split, x in worst.items())
        )
        if max(worst.values()) > AGREEMENT:
            failures.append(f"{way}: losses should agree to {100 * AGREEMENT:g} %")
    losses = [f"{loss:.3f}" for loss in found[baseline]["test_loss"]]
    notes.append(f"test losses along the curve: {', '.join(losses)}")
    if peer is None:
        notes.append(f"without {ModeConnectivity.REPOSITORY}: --peer FOLDER names a checkout")
    return Result(
        NAME,
        f"{_POINTS} points of a Bezier curve between residual networks of depth 20",
        said,
        comparison,
        {},
        notes=tuple(notes),
        failures=tuple(failures),
    )
