"""An approximate geodesic, `mc.fit_geodesic`, against the procedure of the paper.

The procedure is written plainly, without anything of the finder: a chain of independent copies
of the network, whose inner ones go down the sum of the divergences of neighbours.  Tan, Long,
Zhao, Laine, "Geodesic mode connectivity" (2023).
"""

from __future__ import annotations

import copy
import importlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.threads import one_thread

from .harness import CLOCKS, Comparison, Result, compare
from .images import images

NAME = "geodesic"
PAPER, OURS, CURVE = "procedure of the paper", "mc.fit_geodesic", "mc.fit_curve, same time"
LINE, BOUND = "straight line", "bound"
#: times faster than the paper's procedure: a fifth of the time
TARGET = 5.0
#: means over the pairs; the time of one search in seconds
_SHORTER, _SECONDS, _OF_THE_LINE, _RATIO = 2.0, 10.0, 0.25, 2.5
_BARRIERS = {"train": 0.01, "test": 0.02}
_PAIRS = 4
#: of the grid on which every path is measured: four between two networks of the paper's chain
_POINTS = 121
_TRAINED = {"optimizer": "adam", "lr": 1e-3, "batch_size": 64, "progress": False}
_SPLITS = ("train", "test")
#: the module; `mcbook.paths.geodesic` has the threshold up to which networks are stacked
_FINDER = importlib.import_module("mcbook.paths.geodesic")
#: by way, a number for each pair
_Table = dict[str, list[float]]


@dataclass(frozen=True)
class _Sizes:
    """How much is done."""

    width: tuple[int, ...] = (16, 16)
    epochs: int = 200
    networks: int = 25
    iterations: int = 4_000
    steps: Mapping[str, int] | None = None  # of our finder; its own when None
    sample: int = 500  # steps of the loss-fitted curve from which the cost of one is told
    points: int = _POINTS
    large: tuple[int, ...] = (512, 512, 512)


_SMOKE = _Sizes((4,), 1, 4, 2, {"steps": 2, "images": 8}, 2, 5, (4,))


def paper_chain(
    a: nn.Module,
    b: nn.Module,
    x: Tensor,
    networks: int = 25,
    iterations: int = 4_000,
    lr: float = 0.1,
    batch_size: int = 256,
    seed: int = 0,
) -> list[nn.Module]:
    """The paper's procedure: a chain of networks, moved until neighbours say nearly the same.

    The loss is the sum, over neighbours, of the mean Jensen-Shannon divergence on a minibatch;
    plain gradient descent at a constant rate.

    Args:
        a: the first network, frozen; neither is changed.
        b: the last.
        x: images.
        networks: of the chain, the ends included; the inner ones begin evenly on the chord.
        iterations: minibatches in all, shuffled anew in each epoch; the last of an epoch is short.
        lr: the rate.
        batch_size: images a minibatch.
        seed: of the order of the images.

    Returns:
        The chain.
    """
    chain = [copy.deepcopy(a).requires_grad_(False)]
    for i in range(1, networks - 1):
        inner = copy.deepcopy(a)
        with torch.no_grad():
            for p, q in zip(inner.parameters(), b.parameters(), strict=True):
                p.lerp_(q, i / (networks - 1))
        chain.append(inner)
    chain.append(copy.deepcopy(b).requires_grad_(False))
    moving = [p for inner in chain[1:-1] for p in inner.parameters()]
    optimizer = torch.optim.SGD(moving, lr=lr)
    batches = _minibatches(x, batch_size, seed)
    for _ in range(iterations):
        batch = next(batches)
        lp = torch.stack([network(batch) for network in chain]).log_softmax(-1)
        optimizer.zero_grad()
        _divergence(lp[:-1], lp[1:]).mean(1).sum().backward()
        optimizer.step()
    return chain


def _divergence(lp: Tensor, lq: Tensor) -> Tensor:
    """Jensen-Shannon, of log-probabilities: stable where a probability is 0 in single precision."""
    lm = torch.logaddexp(lp, lq) - math.log(2)
    return ((lp.exp() * (lp - lm)).sum(-1) + (lq.exp() * (lq - lm)).sum(-1)) / 2


def _minibatches(x: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(len(x), generator=generator).split(size):
            yield x[chosen]


@dataclass(frozen=True)
class _Pair:
    """Two trained networks, B aligned."""

    a: nn.Module
    b: nn.Module
    data: mc.Data

    def ours(self, sizes: _Sizes) -> mc.Path:
        return mc.fit_geodesic(self.a, self.b, self.data, progress=False, **(sizes.steps or {}))

    def paper(self, sizes: _Sizes) -> mc.Path:
        x = self.data.train.x
        chain = paper_chain(self.a, self.b, x, sizes.networks, sizes.iterations)
        return mc.PolychainPath(self.a, self.b, chain[1:-1])

    def curve(self, steps: int) -> mc.Path:
        return mc.fit_curve(self.a, self.b, self.data, steps=steps, lr=0.01, progress=False)


def _pair(number: int, data: mc.Data, sizes: _Sizes) -> _Pair:
    a, b = (
        mc.train(
            mc.build_model("mlp", data, width=sizes.width, seed=seed),
            data,
            epochs=sizes.epochs,
            seed=seed,
            **_TRAINED,
        ).eval()
        for seed in (2 * number, 2 * number + 1)
    )
    return _Pair(a, mc.activation_matching(a, b, data, progress=False).model, data)


class _Trial:
    """The searches between the networks of each pair: their times, and what they found."""

    def __init__(self, data: mc.Data, sizes: _Sizes, clock: str):
        self.data, self.sizes, self.now = data, sizes, CLOCKS[clock]
        self.pairs: list[_Pair] = []
        self.paths: list[dict[str, mc.Path]] = []
        self.seconds: dict[str, list[float]] = {way: [] for way in (PAPER, OURS, CURVE)}
        self.steps: list[int] = []

    def round(self, turn: int) -> None:
        """All ways on one pair; the curve gets the time that the geodesic took just before."""
        if turn < _PAIRS:
            pair = _pair(turn, self.data, self.sizes)
            self.pairs.append(pair)
            self.paths.append({LINE: mc.LinearPath(pair.a, pair.b)})
        if turn == 0:  # untimed: much is loaded at its first use
            mc.fit_geodesic(pair.a, pair.b, self.data, steps=2, progress=False)
            pair.curve(2)
            paper_chain(pair.a, pair.b, self.data.train.x, iterations=2)
        pair, paths, sizes = self.pairs[turn % _PAIRS], self.paths[turn % _PAIRS], self.sizes
        ways = {PAPER: pair.paper, OURS: pair.ours}
        for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            paths[way] = self._timed(way, lambda way=way: ways[way](sizes))
        begun = self.now()
        pair.curve(sizes.sample)
        cost = (self.now() - begun) / sizes.sample
        self.steps.append(max(1, round(self.seconds[OURS][-1] / cost)))
        paths[CURVE] = self._timed(CURVE, lambda: pair.curve(self.steps[-1]))

    def _timed(self, way: str, search: Callable[[], mc.Path]) -> mc.Path:
        begun = self.now()
        path = search()
        self.seconds[way].append(self.now() - begun)
        return path

    def lengths(self, split: str) -> _Table:
        """The Fisher lengths, and the least that any path can have."""
        x, points = getattr(self.data, split).x, self.sizes.points
        bounds = [mc.fisher_lower_bound(pair.a, pair.b, x) for pair in self.pairs]
        return {BOUND: bounds, **self._of_paths(lambda path: mc.fisher_length(path, x, points))}

    def barriers(self, split: str) -> _Table:
        """Of the loss, in nats."""

        def barrier(path: mc.Path) -> float:
            profile = mc.profile(path, self.data, self.sizes.points, (split,), progress=False)
            return profile.barrier(split, "loss")

        return self._of_paths(barrier)

    def _of_paths(self, what: Callable[[mc.Path], float]) -> _Table:
        ways = (LINE, PAPER, OURS, CURVE)
        return {way: [what(paths[way]) for paths in self.paths] for way in ways}


def _rows(title: str, table: _Table, digits: int) -> list[str]:
    """A table as text: a row for every way, a column for every pair, and the mean."""
    pairs = len(next(iter(table.values())))
    heads = [*(f"pair {i + 1}" for i in range(pairs)), "mean"]
    lines = [f"{title:26}" + "".join(f"{head:>9}" for head in heads)]
    for way, values in table.items():
        cells = [*values, statistics.mean(values)]
        lines.append(f"{way:26}" + "".join(f"{value:9.{digits}f}" for value in cells))
    return lines


def _over(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [x / y for x, y in zip(values, others, strict=True)]


def _claim(what: str, values: Sequence[float], least: float = 0.0, most: float = math.inf) -> str:
    """The line for a target that the mean over the pairs should keep."""
    mean = statistics.mean(values)
    limit = f"at most {most:g}" if most < math.inf else f"at least {least:g}"
    met = "met" if least <= mean <= most else "MISSED"
    return f"{what}: {mean:.3g} ({min(values):.3g} to {max(values):.3g}), {limit}: {met}"


def _found(trial: _Trial) -> tuple[list[str], list[str]]:
    """The notes, and what is not as it should be."""
    length = {split: trial.lengths(split) for split in _SPLITS}
    barrier = {split: trial.barriers(split) for split in _SPLITS}
    notes, claims, faults = [], [], []
    for split, table in length.items():
        over = {way: _over(table[way], table[BOUND]) for way in table if way != BOUND}
        notes += _rows(f"Fisher length, {split}", table, 3)
        notes += _rows(f"length / bound, {split}", over, 2)
        notes += _rows(f"barrier, {split}", barrier[split], 4)
        shorter = _over(table[PAPER], table[OURS])
        to_curve = _over(table[OURS], table[CURVE])
        claims += [
            _claim(f"times shorter than by the paper's, {split}", shorter, least=_SHORTER),
            _claim(f"length / loss-fitted curve's, {split}", to_curve, most=1.0),
            _claim(f"length / bound, {split}", over[OURS], most=_RATIO),
            _claim(f"barrier, {split}", barrier[split][OURS], most=_BARRIERS[split]),
        ]
        faults += [
            f"{way}: a length below the bound, {split}"
            for way, values in over.items()
            if min(values) < 1 - 1e-9
        ]
    to_line = _over(length["train"][OURS], length["train"][LINE])
    claims.append(_claim("length / line's, train", to_line, most=_OF_THE_LINE))
    claims.append(_claim(f"seconds of {OURS}", trial.seconds[OURS], most=_SECONDS))
    steps = ", ".join(map(str, trial.steps))
    return [*notes, f"steps of the loss-fitted curve: {steps}", *claims], faults


def _stacking(sizes: _Sizes, digits: mc.Data, rounds: int, clock: str) -> list[str]:
    """How much a step gains where all networks on the path run as one, on a small MLP and a large.

    The finder is made to do the one and the other, whatever it would choose.
    """
    mnist, said = images("mnist", 512, 10)
    notes = []
    for data, width, steps in ((digits, sizes.width, 50), (mnist, sizes.large, 2)):
        a, b = (mc.build_model("mlp", data, width=width, seed=seed) for seed in (0, 1))
        options = {"steps": 1 if sizes is _SMOKE else steps, "images": 1, "progress": False}

        def fit(most: float, a=a, b=b, data=data, options=options) -> None:
            with mock.patch.object(_FINDER, "_STACKED", most):
                mc.fit_geodesic(a, b, data, every=options["steps"], **options)

        ways = {"one by one": lambda: fit(0), "stacked": lambda: fit(math.inf)}
        found = compare(ways, "one by one", min(rounds, 3), clock=clock).ratio("stacked")
        count = sum(p.numel() for p in a.parameters())
        notes.append(
            f"networks of {count:,} weights stacked: {found.median:.2f} times faster than one by "
            f"one ({found.low:.2f} to {found.high:.2f}); up to {_FINDER._STACKED:,} they are"
        )
    return [*notes, f"the larger ones on {said}"]


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


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time both searches, and measure the paths they find.

    Args:
        rounds: how often; each round has the next of four pairs.
        smoke: tiny sizes.
        clock: "wall" or "cpu".

    Returns:
        The result.  Targets of quality are among the notes.
    """
    sizes = _SMOKE if smoke else _Sizes()
    data, said = _data(smoke)
    with one_thread():
        trial = _Trial(data, sizes, clock)
        for turn in range(rounds):
            trial.round(turn)
        notes, faults = _found(trial)
        notes += _stacking(sizes, data, rounds, clock)
    seconds = {way: tuple(times) for way, times in trial.seconds.items()}
    layers = "-".join(map(str, (64, *sizes.width, 10)))
    return Result(
        NAME,
        f"a path between two MLPs {layers}, B aligned; {len(trial.pairs)} pairs, one thread",
        said,
        Comparison(seconds, PAPER),
        {} if smoke else {OURS: TARGET},
        tuple(notes),
        tuple(faults),
    )
