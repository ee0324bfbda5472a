"""A layer-wise walk, `mc.layerwise_path`, against the procedure of the paper.

The procedure is in `paper_walk.py`, written plainly.  A Bezier curve and an elastic band get as
many gradients as our walk.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import mcbook as mc
from mcbook.threads import one_thread

from .harness import CLOCKS, Comparison, Result
from .images import images
from .paper_walk import PaperWalk, paper_walk

NAME = "layerwise"
PAPER, OURS = "procedure of the paper", "mc.layerwise_path"
CURVE, BAND = "mc.fit_curve, same gradients", "mc.elastic_band, same gradients"
LINE = "straight line"
#: of the digits, on every pair: the line is that high, and the walk that low, all training images
_LINE, _HIGHEST, _SPREAD = 0.3, 0.06, 0.2
#: of LeNet5
_LENET_LINE, _LENET_HIGHEST, _LENET_SECONDS = 1.5, 0.2, 60.0
_PAIRS = 4
_RECIPE = {"lr": 0.05, "momentum": 0.9, "batch_size": 64, "progress": False}
_LENET_RECIPE = {
    "lr": 0.02, "momentum": 0.9, "batch_size": 128, "schedule": "cosine", "progress": False
}  # fmt: skip
#: by way, a number for each pair
_Table = dict[str, list[float]]


@dataclass(frozen=True)
class _Sizes:
    """How much is done."""

    width: tuple[int, ...] = (64, 64, 64)
    epochs: int = 60
    # of every stage: 1 % of the way of the last layer is left; as the finder would choose
    ticks: tuple[int, ...] = (114, 114, 114, 228)
    step: float = 0.02
    threshold: float = 0.02
    most: int = 50  # rounds of a tick of ours
    paper_most: int = 1_000  # without momentum it needs more
    batch_size: int = 128
    points: int = 100
    grid: int = 121  # where the line and the curves are measured
    lenet: Mapping[str, Any] = field(
        default_factory=lambda: {
            "epochs": 5, "train": 60_000, "test": 10_000, "measured": 3_000, "threshold": 0.1,
            "step": 0.05, "points": 30, "rounds": (5, 30),
        }
    )  # fmt: skip


_SMOKE = _Sizes(
    (4, 4), 1, (2, 1, 2), 0.5, 10.0, 6, 6, 8, 3, 3,
    {"epochs": 1, "train": 64, "test": 16, "measured": 16, "threshold": 10.0,
     "step": 0.5, "points": 2, "rounds": (1, 2), "ticks": 6},
)  # fmt: skip


# the trial ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Two networks trained from their own seeds, not aligned."""

    a: nn.Module
    b: nn.Module
    data: mc.Data
    seed: int

    def paper(self, sizes: _Sizes, now: Callable[[], float]) -> PaperWalk:
        return paper_walk(
            self.a, self.b, self.data, sizes.ticks, sizes.step, sizes.threshold,
            (min(5, sizes.paper_most), sizes.paper_most), batch_size=sizes.batch_size,
            points=sizes.points, seed=self.seed, now=now,
        )  # fmt: skip

    def ours(self, sizes: _Sizes) -> mc.LayerwisePath:
        return mc.layerwise_path(
            self.a, self.b, self.data, sizes.ticks, sizes.step, threshold=sizes.threshold,
            rounds=(min(5, sizes.most), sizes.most), batch_size=sizes.batch_size,
            points=sizes.points, seed=self.seed, progress=False,
        )  # fmt: skip

    def curve(self, sizes: _Sizes, gradients: int) -> mc.Path:
        return mc.fit_curve(
            self.a, self.b, self.data, steps=gradients, batch_size=sizes.batch_size,
            seed=self.seed, progress=False,
        )  # fmt: skip

    def band(self, sizes: _Sizes, gradients: int) -> tuple[mc.Path, int]:
        """The band, and its gradients: more than were asked for where pivots were inserted."""
        steps = max(1, gradients // 12)  # four cycles, at first of three pivots
        path = mc.elastic_band(
            self.a, self.b, self.data, steps=steps, batch_size=sizes.batch_size,
            seed=self.seed, progress=False,
        )  # fmt: skip
        return path, steps * int(path.history["pivots"].iloc[:-1].sum())


def _pair(number: int, data: mc.Data, sizes: _Sizes) -> _Pair:
    a, b = (
        mc.train(
            mc.build_model("mlp", data, width=sizes.width, seed=seed),
            data, epochs=sizes.epochs, seed=seed, **_RECIPE,
        )
        for seed in (2 * number, 2 * number + 1)
    )  # fmt: skip
    return _Pair(a, b, data, number)


class _Trial:
    """The searches between the networks of each pair: their times, and what they found."""

    def __init__(self, data: mc.Data, sizes: _Sizes, clock: str):
        self.data, self.sizes, self.now = data, sizes, CLOCKS[clock]
        self.pairs: list[_Pair] = []
        self.paths: list[dict[str, mc.Path]] = []
        self.walks: list[PaperWalk] = []
        self.gradients: list[dict[str, int]] = []
        self.seconds: dict[str, list[float]] = {way: [] for way in (PAPER, OURS, CURVE, BAND)}

    def round(self, turn: int) -> None:
        """All ways on one pair; the curve and the band get the gradients that our walk took."""
        sizes, now = self.sizes, self.now
        if turn < _PAIRS:
            pair = _pair(turn, self.data, sizes)
            self.pairs.append(pair)
            self.paths.append({LINE: mc.LinearPath(pair.a, pair.b)})
            self.gradients.append({})
        if turn == 0:  # untimed: much is loaded at its first use
            for warm_up in (pair.ours, lambda s: pair.paper(s, now)):
                warm_up(_Sizes(ticks=(1,) * len(sizes.ticks), threshold=1e3, most=5, paper_most=5))
            pair.curve(sizes, 2)
            pair.band(sizes, 12)
        number = turn % _PAIRS
        pair, paths, gradients = self.pairs[number], self.paths[number], self.gradients[number]
        for way in (PAPER, OURS) if turn % 2 == 0 else (OURS, PAPER):
            if way == PAPER:
                walk = self._timed(PAPER, lambda: pair.paper(sizes, now))
                gradients[PAPER] = walk.gradients
                paths[PAPER] = mc.PolychainPath(pair.a, pair.b, walk.points)
                if turn < _PAIRS:
                    self.walks.append(walk)
            else:
                path = self._timed(OURS, lambda: pair.ours(sizes))
                gradients[OURS] = int(path.log["batches"].iloc[-1])
                paths[OURS] = path
        given = gradients[CURVE] = gradients[OURS]
        paths[CURVE] = self._timed(CURVE, lambda: pair.curve(sizes, given))
        paths[BAND], gradients[BAND] = self._timed(BAND, lambda: pair.band(sizes, given))

    def _timed(self, way: str, search: Callable[[], Any]) -> Any:
        begun = self.now()
        found = search()
        self.seconds[way].append(self.now() - begun)
        return found

    def heights(self) -> dict[str, _Table]:
        """The highest training loss of every path, in nats, and the lowest test accuracy."""
        found: dict[str, _Table] = {"loss": {}, "barrier": {}, "accuracy": {}}
        for way in (LINE, PAPER, OURS, CURVE, BAND):
            # of a walk, every point and three places inside every piece
            points = 2 if way in (PAPER, OURS) else self.sizes.grid
            between = 3 if way in (PAPER, OURS, BAND) else 0
            for path in (paths[way] for paths in self.paths):
                seen = mc.profile(path, self.data, points, between=between, progress=False)
                found["loss"].setdefault(way, []).append(float(seen.table["train_loss"].max()))
                found["barrier"].setdefault(way, []).append(seen.barrier("train"))
                lowest = float(seen.table["test_accuracy"].min())
                found["accuracy"].setdefault(way, []).append(lowest)
        return found


# what was found -------------------------------------------------------------------------------


def _rows(title: str, table: Mapping[str, Sequence[float]], digits: int) -> list[str]:
    """A table as text: a row for every way, a column for every pair, and the mean."""
    pairs = len(next(iter(table.values())))
    heads = [*(f"pair {i + 1}" for i in range(pairs)), "mean"]
    lines = [f"{title:32}" + "".join(f"{head:>9}" for head in heads)]
    for way, values in table.items():
        cells = [*values, statistics.mean(values)]
        lines.append(f"{way:32}" + "".join(f"{value:9.{digits}f}" for value in cells))
    return lines


def _claim(what: str, values: Sequence[float], least: float = 0.0, most: float = math.inf) -> str:
    """The line for a target that every pair should keep."""
    limit = f"at most {most:g}" if most < math.inf else f"at least {least:g}"
    met = "met" if least <= min(values) and max(values) <= most else "MISSED"
    return f"{what}: {min(values):.3g} to {max(values):.3g}, {limit}: {met}"


def _found(trial: _Trial) -> tuple[list[str], list[str]]:
    """The notes, and what is not as it should be."""
    seen = trial.heights()
    ways = (PAPER, OURS, CURVE, BAND)
    gradients = {way: [float(g[way]) for g in trial.gradients] for way in ways}
    walks = [path for path in (paths[OURS] for paths in trial.paths)]
    left = {
        PAPER: [walk.left for walk in trial.walks],
        OURS: [path.relative_distance for path in walks],
    }
    notes = [
        *_rows("highest training loss", seen["loss"], 4),
        *_rows("training barrier", seen["barrier"], 4),
        *_rows("lowest test accuracy", seen["accuracy"], 3),
        *_rows("gradients", gradients, 0),
        *_rows("distance left", left, 4),
    ]
    fewer = [x / y for x, y in zip(gradients[PAPER], gradients[OURS], strict=True)]
    notes.append(f"times fewer gradients than the paper's: {min(fewer):.2f} to {max(fewer):.2f}")
    testing = [walk.testing for walk in trial.walks]
    notes.append(f"of the paper's seconds, tests: {min(testing):.2f} to {max(testing):.2f}")
    most = [walk.at_most for walk in trial.walks]
    notes.append(f"ticks that took the most rounds, paper's: {', '.join(map(str, most))}")
    highest = seen["loss"][OURS]
    mean = statistics.mean(highest)
    spread = [abs(x - mean) / mean for x in highest]
    notes += [
        _claim("barrier of the line, train", seen["barrier"][LINE], least=_LINE),
        _claim(f"highest training loss of {OURS}", highest, most=_HIGHEST),
        _claim(f"its distance from the mean of {len(highest)} pairs", spread, most=_SPREAD),
    ]
    faults = []
    for number, (pair, path) in enumerate(zip(trial.pairs, walks, strict=True), 1):
        if trial.sizes is not _SMOKE and not path.converged:
            faults.append(f"pair {number}: the walk has not converged: {path.shortfalls}")
        for t, end in ((0.0, pair.a), (1.0, pair.b)):
            at = path.at(t)
            if any(not torch.equal(at[name], x) for name, x in end.state_dict().items()):
                faults.append(f"pair {number}: the path is not at its end at t = {t:g}")
    return notes, faults


# LeNet5 ---------------------------------------------------------------------------------------


def check_mnist() -> None:
    """See whether MNIST is at hand.

    Raises:
        FileNotFoundError: if it is not.
    """
    folder = os.environ.get("MCBOOK_DATA", "")
    if not folder or not (Path(folder).expanduser() / "mnist.npz").exists():
        raise FileNotFoundError(
            f"expected mnist.npz in $MCBOOK_DATA for --mnist, found MCBOOK_DATA={folder!r}"
        )


def _lenet5(sizes: _Sizes) -> list[str]:
    """A walk between two LeNet5 on MNIST: its height, and its time on both clocks."""
    about = dict(sizes.lenet)
    epochs, measured = about.pop("epochs"), about.pop("measured")
    data, said = images("mnist", about.pop("train"), about.pop("test"))
    a, b = (
        mc.train(
            mc.build_model("lenet5", data, seed=seed, standardize=True),
            data, epochs=epochs, seed=seed, **_LENET_RECIPE,
        )
        for seed in (0, 1)
    )  # fmt: skip
    begun = {clock: now() for clock, now in CLOCKS.items()}
    walk = mc.layerwise_path(a, b, data, batch_size=128, lr=0.005, progress=False, **about)
    took = {clock: now() - begun[clock] for clock, now in CLOCKS.items()}
    part = data.subset(train=measured)
    tops = {}
    for way, path in ((LINE, mc.LinearPath(a, b)), (OURS, walk)):
        points, between = (2, 3) if way == OURS else (25, 0)
        seen = mc.profile(path, part, points, ("train",), between=between, progress=False).table
        top = float(seen["t"].iloc[int(seen["train_loss"].argmax())])
        on_all = mc.evaluate(path.model_at(top), data.train)[0]
        tops[way] = [float(seen["train_loss"].max()), on_all]
    return [
        f"LeNet5, one pair, one thread, on {said}: {walk}",
        f"its gradients: {int(walk.log['batches'].iloc[-1]):,}; seconds: processor "
        f"{took['cpu']:.1f}, wall {took['wall']:.1f}",
        _claim("its processor seconds", [took["cpu"]], most=_LENET_SECONDS),
        f"highest training losses below: on {measured:,} images, and of that place on all",
        _claim("LeNet5, line", tops[LINE], least=_LENET_LINE),
        _claim(f"LeNet5, {OURS}", tops[OURS], most=_LENET_HIGHEST),
    ]


def _data(smoke: bool) -> tuple[mc.Data, str]:
    if not smoke:
        data = mc.load_data("digits", device="cpu")
        count = f"{len(data.train):,} training and {len(data.test)} test images"
        return data, f"digits, {count}"
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 10
    classes = tuple("0123456789")
    data = mc.data_from_arrays(pixels[:30], labels[:30], pixels[30:], labels[30:], classes)
    return data, "random images of the size of digits"


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall", mnist: bool = False) -> Result:
    """Time all searches, and measure the paths they find.

    Args:
        rounds: how often; each round has the next of four pairs.
        smoke: tiny sizes.
        clock: "wall" or "cpu".
        mnist: also a walk between two LeNet5 on MNIST, which must be in `$MCBOOK_DATA` (with
            `smoke`, random images do).

    Returns:
        The result.  Targets of quality are among the notes.

    Raises:
        FileNotFoundError: if MNIST is asked for and is not there.
    """
    if mnist and not smoke:
        check_mnist()
    sizes = _SMOKE if smoke else _Sizes()
    data, said = _data(smoke)
    with one_thread():
        trial = _Trial(data, sizes, clock)
        for turn in range(rounds):
            trial.round(turn)
        notes, faults = _found(trial)
        notes += _lenet5(sizes) if mnist else [
            "LeNet5 on MNIST: skipped; --mnist runs it, with mnist.npz in $MCBOOK_DATA"
        ]  # fmt: skip
    seconds = {way: tuple(times) for way, times in trial.seconds.items()}
    layers = "-".join(map(str, (64, *sizes.width, 10)))
    return Result(
        NAME,
        f"a path between two MLPs {layers}, not aligned; {len(trial.pairs)} pairs, one thread",
        said,
        Comparison(seconds, PAPER),
        {},
        tuple(notes),
        tuple(faults),
    )
