"""An elastic band: its ends stay, it slides off high ground and grows where it must."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook import weights
from mcbook.checkpoints import epoch_seed
from mcbook.training import checked_recipe

# the name of the module is that of the function, too
MODULE = importlib.import_module("mcbook.paths.elastic_band")

NEVER = 1e9  # a threshold no excess reaches


def band(a: nn.Module, b: nn.Module, data: mc.Data, **options: Any) -> mc.PolychainPath:
    usual = {"pivots": 2, "cycles": 2, "steps": 4, "between": 3, "images": 50, "batch_size": 16}
    return mc.elastic_band(a, b, data, **{**usual, "progress": False, **options})


def same(a: mc.Path, b: mc.Path) -> bool:
    points = b.control_points
    return a.knots == b.knots and all(
        torch.equal(p, points[n]) for n, p in a.control_points.items()
    )


def best_of(path: mc.Path) -> int:
    """The first cycle with the lowest highest loss, and of several such the lowest mean."""
    levels = list(zip(path.history["highest"], path.history["loss"], strict=True))
    return levels.index(min(levels))


@pytest.fixture
def pair(tiny: mc.Data) -> list[nn.Module]:
    return [mc.build_model("mlp", tiny, width=(6,), seed=s) for s in (0, 1)]


@pytest.fixture(scope="module")
def trained(small: mc.Data) -> list[nn.Module]:
    """Two perceptrons with high ground between them."""
    return [
        mc.train(mc.build_model("mlp", small, width=(16, 16), seed=s), small, 20, seed=s)
        for s in (0, 1)
    ]


@pytest.fixture(scope="module")
def ends(small: mc.Data) -> list[nn.Module]:
    """Two trained networks with batch norm."""
    return [
        mc.train(mc.build_model("convnet", small, width=4, seed=s), small, 4, seed=s, batch_size=32)
        for s in (0, 1)
    ]


# geometry -----------------------------------------------------------------------------------


def chain(seed: int, count: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def slow_tangent(points: np.ndarray, losses: list[float], i: int) -> np.ndarray:
    """The unit vector along the piece to the neighbour whose loss is higher."""
    if losses[i + 1] > losses[i - 1]:
        piece = points[i + 1] - points[i]
    else:
        piece = points[i] - points[i - 1]
    return piece / math.sqrt(math.fsum(x * x for x in piece))


def slow_spread(points: np.ndarray) -> np.ndarray:
    """The polygon resampled at equal parts of its length, coordinate by coordinate."""
    where = [0.0]
    for p, q in pairwise(points):
        where.append(where[-1] + math.sqrt(math.fsum((p - q) ** 2)))
    wanted = [where[-1] * i / (len(points) - 1) for i in range(len(points))]
    return np.stack([np.interp(wanted, where, column) for column in points.T], axis=1)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 6))
def test_what_moves_a_pivot_is_across_the_chain(seed: int, pivots: int, width: int) -> None:
    points, slopes = chain(seed, pivots + 2, width), chain(seed + 1, pivots, width)
    losses = chain(seed + 2, pivots + 2, 1)[:, 0]
    before = [x.clone() for x in (points, slopes, losses)]
    found = MODULE._across(points, losses, slopes)
    for x, y in zip(before, (points, slopes, losses), strict=True):
        assert torch.equal(x, y)
    for i in range(1, pivots + 1):
        tangent = slow_tangent(points.numpy(), losses.tolist(), i)
        slope, moves = slopes[i - 1].numpy(), found[i - 1].numpy()
        assert abs(tangent @ moves) < 1e-10
        taken = slope - moves  # is all along the tangent
        np.testing.assert_allclose(taken, (slope @ tangent) * tangent, atol=1e-10)


def test_where_two_points_meet_there_is_no_direction() -> None:
    points = torch.zeros(3, 2)
    slopes = torch.tensor([[1.0, 2.0]])
    assert torch.equal(MODULE._across(points, torch.tensor([0.0, 1.0, 2.0]), slopes), slopes)


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5))
def test_pivots_are_spread_evenly_over_the_polygon(seed: int, pivots: int, width: int) -> None:
    points = chain(seed, pivots + 2, width)
    expected = slow_spread(points.numpy())
    ends = points[[0, -1]].clone()
    MODULE._spread_evenly(points)
    np.testing.assert_allclose(points.numpy(), expected, atol=1e-10)
    assert torch.equal(points[[0, -1]], ends)


def test_an_even_chain_stays_and_an_uneven_line_becomes_even() -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 1.0]])
    even = corners.clone()
    MODULE._spread_evenly(even)
    torch.testing.assert_close(even, corners, rtol=0, atol=1e-6)
    step = torch.tensor([0.6, -0.8])
    line = torch.tensor([0.0, 0.1, 0.2, 5.0, 6.0])[:, None] * step
    MODULE._spread_evenly(line)
    torch.testing.assert_close(line, torch.linspace(0, 6, 5)[:, None] * step)
    # two points in one place, and all of them
    double = torch.tensor([[0.0], [0.0], [1.0], [1.0], [4.0]])
    MODULE._spread_evenly(double)
    torch.testing.assert_close(double, torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]]))
    still = torch.ones(4, 3)
    MODULE._spread_evenly(still)
    assert torch.equal(still, torch.ones(4, 3))


def test_knots_are_parts_of_the_length() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0], [7.0, 5.0]])
    assert MODULE._knots(points) == [0.0, 0.5, 0.6, 1.0]


# against the slow ---------------------------------------------------------------------------


def slow_band(
    a: nn.Module, b: nn.Module, data: mc.Data, pivots: int, cycles: int, steps: int, size: int,
    lr: float, decay: float,
) -> np.ndarray:  # fmt: skip
    """Gradient descent with a cosine schedule, network by network; no pivot is inserted."""
    named = [dict(m.named_parameters()) for m in (a, b)]
    start, end = (weights.ravel(x).detach().numpy() for x in named)
    points = np.stack([start + (end - start) * i / (pivots + 1) for i in range(pivots + 2)])
    per_epoch = math.ceil(len(data.train) / size)
    for number in range(cycles * steps):
        epoch, place = divmod(number, per_epoch)
        generator = torch.Generator().manual_seed(epoch_seed(0, epoch))
        order = torch.randperm(len(data.train), generator=generator)
        chosen = order[place * size : (place + 1) * size]
        losses, slopes = [], []
        for p in points:
            network = copy.deepcopy(a)
            torch.nn.utils.vector_to_parameters(torch.from_numpy(p.copy()), network.parameters())
            loss = F.cross_entropy(network(data.train.x[chosen]), data.train.y[chosen])
            grads = torch.autograd.grad(loss, list(network.parameters()))
            losses.append(float(loss.detach()))
            slopes.append(torch.cat([g.flatten() for g in grads]).numpy() + decay * p)
        moved = points.copy()
        rate = lr * (1 + math.cos(math.pi * (number % steps) / steps)) / 2
        for i in range(1, pivots + 1):
            tangent = slow_tangent(points, losses, i)
            moved[i] -= rate * (slopes[i] - (slopes[i] @ tangent) * tangent)
        points = slow_spread(moved)
    return points


@pytest.mark.parametrize(("pivots", "decay"), [(1, 0.0), (3, 0.0), (3, 0.05)])
def test_it_is_the_slow_one(tiny: mc.Data, pivots: int, decay: float) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(6, 5), seed=s).double() for s in (0, 1))
    data = mc.Data(
        train=mc.Split(tiny.train.x.double(), tiny.train.y),
        test=mc.Split(tiny.test.x.double(), tiny.test.y),
        classes=tiny.classes, name=tiny.name, fingerprint=tiny.fingerprint,
    )  # fmt: skip
    path = band(a, b, data, pivots=pivots, cycles=2, steps=4, threshold=NEVER, optimizer="sgd",
                momentum=0.0, lr=0.4, weight_decay=decay)  # fmt: skip
    assert best_of(path) == 2  # the last is the best, and so the result
    slow = slow_band(a, b, data, pivots, 2, 4, 16, 0.4, decay)
    points = path.control_points
    found = torch.cat([points[n].flatten(1) for n, _ in a.named_parameters()], dim=1)
    np.testing.assert_allclose(found.numpy(), slow, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(path.knots, MODULE._knots(torch.from_numpy(slow)), atol=1e-8)


def measured(path: mc.PolychainPath, data: mc.Data, between: int, images: int) -> list[list[float]]:
    """The losses at the places of every piece, from its beginning to its end."""
    part = data.subset(train=images).train
    pieces = []
    for s, t in pairwise(path.knots):
        places = [s + (t - s) * k / (between + 1) for k in range(between + 1)]
        networks = [mc.reset_batch_norm(path.model_at(place), part.x) for place in [*places, t]]
        pieces.append([mc.evaluate(network, part)[0] for network in networks])
    return pieces


def all_of(pieces: list[list[float]]) -> list[float]:
    return [*(loss for piece in pieces for loss in piece[:-1]), pieces[-1][-1]]


def test_the_result_is_the_best_of_its_history(
    pair: list[nn.Module], trained: list[nn.Module], ends: list[nn.Module], tiny: mc.Data,
    small: mc.Data,
) -> None:  # fmt: skip
    for a, b, data, options in (
        (*pair, tiny, {}),
        (*pair, tiny, {"optimizer": "sgd", "lr": 300.0}),
        (*trained, small, {"steps": 20, "threshold": 0.05, "lr": 0.01}),
        (*ends, small, {"steps": 6, "threshold": NEVER, "lr": 0.01}),
    ):
        path = band(a, b, data, between=4, **options)
        table = path.history
        assert list(table) == ["cycle", "pivots", "loss", "highest"]
        assert table["cycle"].tolist() == [0, 1, 2]
        assert (table["loss"] <= table["highest"]).all()
        best = table.iloc[best_of(path)]
        losses = all_of(measured(path, data, 4, 50))
        assert math.isclose(max(losses), best["highest"], rel_tol=1e-4)
        assert math.isclose(sum(losses) / len(losses), best["loss"], rel_tol=1e-4)
        assert len(path.knots) == best["pivots"] + 2
        chord = all_of(measured(mc.PolychainPath(a, b, 2), data, 4, 50))
        assert math.isclose(max(chord), table["highest"][0], rel_tol=1e-4)
        assert math.isclose(sum(chord) / len(chord), table["loss"][0], rel_tol=1e-4)
        assert table["pivots"][0] == 2


def test_a_band_that_climbs_is_not_taken(pair: list[nn.Module], tiny: mc.Data) -> None:
    for options in ({"threshold": NEVER}, {"threshold": 0.0}):
        path = band(*pair, tiny, steps=1, optimizer="sgd", lr=1e3, **options)
        assert (path.history["highest"][1:] > 10 * path.history["highest"][0]).all()
        assert same(path, mc.PolychainPath(*pair, 2))
        assert len(path.history) == 3


@pytest.mark.parametrize("threshold", [0.0, 0.03, 0.2, 10.0])
def test_pivots_come_where_the_chain_rises(
    trained: list[nn.Module], ends: list[nn.Module], small: mc.Data, threshold: float
) -> None:
    for a, b in (trained, ends):
        chord = mc.PolychainPath(a, b, 2)
        options = {"pivots": 2, "cycles": 1, "steps": 1, "threshold": threshold, "between": 4,
                   "images": 50, "seed": 0}  # fmt: skip
        found = MODULE._Band(chord, small, options, checked_recipe({})).chain
        pieces = measured(chord, small, 4, 50)
        losses = all_of(pieces)
        allowed = threshold * (max(losses) - min(losses))
        expected = []
        for (s, t), piece in zip(pairwise(chord.knots), pieces, strict=True):
            excess = [piece[k] - ((5 - k) * piece[0] + k * piece[-1]) / 5 for k in range(1, 5)]
            if max(excess) > allowed:
                expected.append(s + (t - s) * (1 + excess.index(max(excess))) / 5)
        assert len(expected) > 0 or threshold > 0
        assert len(expected) == 0 or threshold < 10
        np.testing.assert_allclose(found.knots, sorted([*chord.knots, *expected]))
        for name, x in found.at(0.47).items():  # it is the same polygon
            torch.testing.assert_close(x, chord.at(0.47)[name])


def test_the_lower_the_threshold_the_more_pivots(trained: list[nn.Module], small: mc.Data) -> None:
    counts = []
    for threshold in (0.0, 0.2, NEVER):
        path = band(*trained, small, cycles=3, steps=6, threshold=threshold, lr=0.01)
        counts.append(path.history["pivots"].tolist())
    assert counts[2] == [2] * 4
    assert counts[0][-1] >= counts[1][-1] > 2
    assert all(a <= b for a, b in pairwise(counts[0]))


# the phenomenon -----------------------------------------------------------------------------


def test_the_wall_is_gone(endpoints: list[nn.Module], digits: mc.Data) -> None:
    for a, b in (endpoints[:2], endpoints[2:4]):
        line, path = (
            mc.profile(p, digits, 15, ("train",))
            for p in (
                mc.LinearPath(a, b),
                band(a, b, digits, pivots=3, steps=80, lr=0.01, images=200, batch_size=64),
            )
        )
        assert line.barrier("train") > 0.5
        assert path.barrier("train") < 0.2 * line.barrier("train")
        assert path.table["train_accuracy"].min() > 0.85


def test_with_batch_norm_too(
    ends: list[nn.Module], small: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    a, b = ends
    unchanged = [untouched(m) for m in ends]
    path = band(a, b, small, cycles=1, steps=40, lr=0.01, batch_size=32, threshold=NEVER)
    for check in unchanged:
        check()
    line = mc.profile(mc.LinearPath(a, b), small, 7)
    assert mc.profile(path, small, 7).barrier("train") < 0.6 * line.barrier("train")
    for name, x in weights.of(a).items():
        assert torch.equal(path.at(0)[name], x)
        if x.is_floating_point():
            assert torch.equal(path.at(1)[name], weights.of(b)[name])
    # what batch norm stores stays on the chord, what is trained does not
    for t in path.knots:
        torch.testing.assert_close(
            path.at(t)["norm1.running_mean"], mc.LinearPath(a, b).at(t)["norm1.running_mean"]
        )
    middle = path.knots[1]
    assert not torch.allclose(
        path.at(middle)["conv1.weight"], mc.LinearPath(a, b).at(middle)["conv1.weight"], atol=1e-3
    )


def test_knots_are_in_proportion_to_the_length(trained: list[nn.Module], small: mc.Data) -> None:
    names = [name for name, _ in trained[0].named_parameters()]
    for threshold in (NEVER, 0.05):
        path = band(*trained, small, cycles=2, steps=20, lr=0.01, threshold=threshold)
        steps = [weights.distance(path.at(s), path.at(t), names) for s, t in pairwise(path.knots)]
        np.testing.assert_allclose(np.diff(path.knots), np.array(steps) / sum(steps), rtol=1e-4)
        # evenly spread in the last step: only the corners that it cut are between
        np.testing.assert_allclose(np.diff(path.knots), 1 / len(steps), rtol=0.05)
        chord = weights.distance(path.at(0), path.at(1), names)
        assert sum(steps) > 1.01 * chord
    assert path.kind == "polychain"


# runs ---------------------------------------------------------------------------------------


def test_the_seed_decides_and_nothing_is_touched(
    pair: list[nn.Module], tiny: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    unchanged = [untouched(m) for m in pair]
    first = band(*pair, tiny, seed=3, augment=True)
    assert same(first, band(*pair, tiny, seed=3, augment=True))
    assert not same(first, band(*pair, tiny, seed=4, augment=True))
    assert not same(first, band(*pair, tiny, seed=3))
    for check in unchanged:
        check()
    for name, x in weights.of(pair[1]).items():
        assert torch.equal(first.at(0)[name], weights.of(pair[0])[name])
        assert torch.equal(first.at(1)[name], x)


def test_pivots_are_moved_on_images_attacked_for_them(pair: list[nn.Module], tiny: mc.Data) -> None:
    plain = band(*pair, tiny)
    assert same(plain, band(*pair, tiny, attack=mc.PGD(0, 0.1, 2)))
    assert not same(plain, band(*pair, tiny, attack=mc.PGD(0.2, 0.1, 2)))


def test_every_step_draws_numbers_of_its_own(
    pair: list[nn.Module], tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def draw(x: Tensor) -> Tensor:
        drawn.append(float(torch.rand(())))
        return x

    monkeypatch.setattr(MODULE, "flip_and_crop", draw)
    band(*pair, tiny, cycles=3, steps=2, augment=True)
    assert len(set(drawn)) == len(drawn) == 6


class Killed(Exception):
    """What stops a run."""


@pytest.mark.parametrize("stop", [2, 6, 10])
@pytest.mark.parametrize("recipe", [{"lr": 0.02}, {"optimizer": "sgd", "lr": 0.1, "augment": True}])
def test_interrupted_and_resumed_is_uninterrupted(
    trained: list[nn.Module], small: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stop: int, recipe: dict[str, Any],
) -> None:  # fmt: skip
    a, b = (nn.Sequential(*copy.deepcopy(m), nn.Dropout(0.1)) for m in trained)
    file, options = tmp_path / "band", {"cycles": 3, "threshold": 0.1, **recipe}
    whole = band(a, b, small, **options)
    assert best_of(whole) > 0
    assert whole.history["pivots"].nunique() > 1

    class Bomb(MODULE.Bar):
        done = 0

        def advance(self, steps: int = 1, **numbers: float) -> None:
            self.done += steps
            if self.done > stop:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "Bar", Bomb)
        with pytest.raises(Killed):
            band(a, b, small, checkpoint=file, **options)
    assert file.exists() == (stop > 4)
    resumed = band(a, b, small, checkpoint=file, **options)
    assert same(resumed, whole)
    assert resumed.history.equals(whole.history)
    with monkeypatch.context() as patch:  # a finished run takes no step more
        patch.setattr(MODULE._Band, "relax", None)
        finished = band(a, b, small, checkpoint=file, **options)
    assert same(finished, whole)
    assert finished.history.equals(whole.history)


def test_a_checkpoint_of_another_run_is_refused(
    pair: list[nn.Module], tiny: mc.Data, tmp_path: Path
) -> None:
    file = tmp_path / "band"
    band(*pair, tiny, checkpoint=file)
    for change, said in (
        ({"pivots": 3}, "expected control points"),
        ({"cycles": 3}, "cycles = 3, found 2"),
        ({"steps": 5}, "steps = 5, found 4"),
        ({"threshold": 0.1}, "threshold = 0.1, found 0.2"),
        ({"between": 4}, "between = 4, found 3"),
        ({"images": 40}, "images = 40, found 50"),
        ({"seed": 1}, "seed = 1, found 0"),
        ({"lr": 0.5}, "lr = 0.5, found 0.003"),
        ({"attack": mc.PGD(0.1, 0.1)}, "found None"),
    ):
        with pytest.raises(mc.IncompatibleError, match=said):
            band(*pair, tiny, checkpoint=file, **change)
    with pytest.raises(mc.IncompatibleError, match="expected control points"):
        band(*pair[::-1], tiny, checkpoint=file)
    with pytest.raises(mc.IncompatibleError, match="expected data"):
        band(*pair, tiny.subset(train=69), checkpoint=file)
    band(*pair, tiny, checkpoint=file)


def test_bad_input_is_refused(pair: list[nn.Module], tiny: mc.Data) -> None:
    for name in ("pivots", "cycles", "steps", "between", "images"):
        with pytest.raises(ValueError, match=f"expected {name} of at least 1, found 0"):
            band(*pair, tiny, **{name: 0})
    for threshold in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"threshold of at least 0, found {threshold}"):
            band(*pair, tiny, threshold=threshold)
    for options, said in (({"lr": -1}, "rate above 0"), ({"batch_size": 0}, "batch size of at")):
        with pytest.raises(ValueError, match=said):
            band(*pair, tiny, **options)
    with pytest.raises(
        ValueError, match="two different networks, found A and B with equal parameters"
    ):
        band(pair[0], copy.deepcopy(pair[0]), tiny)
    with pytest.raises(mc.UnknownNameError, match="field of the recipe"):
        band(*pair, tiny, rate=1)
    with pytest.raises(mc.IncompatibleError, match="no path joins these networks"):
        band(pair[0], mc.build_model("mlp", tiny, width=(5,)), tiny)
    with pytest.raises(TypeError, match="expected data"):
        band(*pair, tiny.train)
    empty = copy.copy(tiny)
    object.__setattr__(empty, "train", mc.Split(tiny.train.x[:0], tiny.train.y[:0]))
    with pytest.raises(ValueError, match="training images to relax a band on, found none"):
        band(*pair, empty)
    single = [mc.build_model("mlp", tiny, width=(6,), norm="batch", seed=s) for s in (0, 1)]
    with pytest.raises(ValueError, match="last batch has at least two images"):
        band(*single, tiny, batch_size=23)


def test_more_images_than_there_are_is_all(pair: list[nn.Module], tiny: mc.Data) -> None:
    found, all_ = (band(*pair, tiny, images=n) for n in (2_000, 70))
    np.testing.assert_allclose(found.history, all_.history, rtol=1e-6)


def test_a_loss_that_overflows_is_an_error(tiny: mc.Data) -> None:
    deep = [mc.build_model("mlp", tiny, width=(6, 6, 6), seed=s) for s in (0, 1)]
    with pytest.raises(FloatingPointError, match="in cycle 1 with lr = 1e\\+16; a smaller learn"):
        band(*deep, tiny, steps=1, optimizer="sgd", lr=1e16)


def test_weights_that_overflow_are_an_error_of_the_loss(
    pair: list[nn.Module], tiny: mc.Data
) -> None:
    with pytest.raises(FloatingPointError, match="a smaller learning rate"):
        band(*pair, tiny, steps=20, optimizer="sgd", lr=1e30)
