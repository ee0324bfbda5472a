"""A training step of a curve against one of the network itself.

The curve is a Bezier curve with one bend; its network is moved to a random `t` for every batch,
and the gradient handed on to the bend.  The optimizer, the batches and the weight decay are the
same on all sides, and all images are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import mcbook as mc

from .harness import Comparison, Result, compare
from .images import images
from .mode_connectivity import Batches, ModeConnectivity
from .peers import mode_connectivity

NAME = "curve_step"
PLAIN, OURS, PEER = "mc.train", "mc.fit_curve", "curve layers of the peer"
#: a step of the curve costs at most 1.3 plain ones
TARGET = 1 / 1.3
_RECIPE = {
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "constant",
}


@dataclass(frozen=True)
class _Case:
    """A network to time.

    Attributes:
        said: which one, in words.
        data: the images; the few for testing count for little.
        ends: the two networks.
        batch: the size of a batch.
        epochs: how often the images are gone through.
        peer: makes the peer's curve through control points, or None.
    """

    said: str
    data: mc.Data
    ends: tuple[nn.Module, nn.Module]
    batch: int
    epochs: int
    peer: Callable[[list[nn.Module]], nn.Module] | None

    @property
    def steps(self) -> int:
        """How many steps a run has, the last of an epoch on fewer images."""
        return self.epochs * -(-len(self.data.train) // self.batch)

    def ways(self, peer: ModeConnectivity | None) -> dict[str, Callable[[], object]]:
        """What is timed."""
        recipe: dict[str, Any] = {**_RECIPE, "batch_size": self.batch, "progress": False}
        ways: dict[str, Callable[[], object]] = {
            PLAIN: lambda: mc.train(self.ends[0], self.data, epochs=self.epochs, **recipe),
            OURS: lambda: mc.fit_curve(*self.ends, self.data, steps=self.steps, **recipe),
        }
        if peer is not None and self.peer is not None:
            a, b = self.ends
            net = self.peer([a, a, b])
            net.init_linear()
            optimizer = torch.optim.SGD(
                [p for p in net.parameters() if p.requires_grad], lr=0.01, momentum=0.9
            )
            train = self.data.train
            batches = Batches(train.x, train.y, self.batch, self.steps)
            ways[PEER] = lambda: peer.train(net, batches, optimizer, _RECIPE["weight_decay"])
        return ways


def _ends(make: Callable[[int], nn.Module]) -> tuple[nn.Module, nn.Module]:
    return make(0), make(1)


def _cases(peer: ModeConnectivity | None, smoke: bool) -> tuple[list[_Case], str]:
    count = 128 if smoke else 12_800
    mnist, said = images("mnist", count, 10)
    width = (16, 16, 16) if smoke else (512, 512, 512)
    wide = _ends(lambda seed: mc.build_model("mlp", mnist, width=width, seed=seed))
    chain = None if peer is None else peer.chain_curve
    sizes = "-".join(map(str, (784, *width, 10)))
    cases = [_Case(f"MLP {sizes}, batches of 128", mnist, wide, 128, 1, chain)]

    digits = mc.load_data("digits", device="cpu").subset(train=128 if smoke else 1_280, test=10)
    small = _ends(lambda seed: mc.build_model("mlp", digits, width=(16, 16), seed=seed))
    epochs = 1 if smoke else 50
    cases.append(_Case("MLP 64-16-16-10, batches of 64", digits, small, 64, epochs, chain))

    cifar, _ = images("cifar10", 32 if smoke else 512, 10)
    size = 16 if smoke else 128
    if peer is None:
        options = {"width": 4} if smoke else {}
        ends = _ends(lambda seed: mc.build_model("resnet20", cifar, seed=seed, **options))
        cases.append(_Case(f"ResNet20, batches of {size}", cifar, ends, size, 1, None))
    else:
        ends = _ends(lambda seed: peer.preresnet20(10, seed))
        cases.append(
            _Case(f"PreResNet20, batches of {size}", cifar, ends, size, 1, peer.preresnet20_curve)
        )
    return cases, said


def _note(case: _Case, found: Comparison) -> str:
    steps = ", ".join(
        f"{way} {1e3 * found.median(way) / case.steps:.2f} ms"
        + ("" if way == PLAIN else f" ({1 / found.ratio(way).median:.2f} plain steps)")
        for way in found.seconds
    )
    return f"{case.said}: a step of {steps}"


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time the steps each way.

    Args:
        rounds: how often.
        smoke: tiny sizes.
        clock: "wall" or "cpu".

    Returns:
        The result for the first network, with the others in the notes.
    """
    peer = mode_connectivity()
    cases, said = _cases(peer, smoke)
    found = [compare(case.ways(peer), PLAIN, rounds, warmups=1, clock=clock) for case in cases]
    notes = [_note(case, each) for case, each in zip(cases, found, strict=True)]
    if peer is None:
        notes.append(f"without {ModeConnectivity.REPOSITORY}: --peer FOLDER names a checkout")
    return Result(
        NAME,
        f"{cases[0].steps} training steps of an {cases[0].said}",
        said,
        found[0],
        {} if smoke else {OURS: TARGET},
        notes=tuple(notes),
    )
