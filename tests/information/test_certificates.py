"""The bound that no path beats, and what a length guarantees."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from information.networks import NETWORKS, PATHS
from reference_geodesics import (
    Table,
    bernoulli_distance,
    categorical_distance,
    coin,
    great_circle,
    rows,
    said,
    table_distance,
)
from torch import Tensor, nn

import mcbook as mc


def small_data(count: int = 15) -> mc.Data:
    return mc.load_data("digits", device="cpu").subset(train=count, test=10)


def labelled(x: Tensor, y: Tensor, classes: int) -> mc.Data:
    part = mc.Split(x, y)
    names = tuple(map(str, range(classes)))
    return mc.Data(train=part, test=part, classes=names, name="own", fingerprint="own")


# bounds ---------------------------------------------------------------------------------------


def test_the_bounds_are_those_of_the_slow_ones() -> None:
    x = small_data().train.x
    a, b = NETWORKS["mlp"](0), NETWORKS["convnet, group norm"](1)  # two architectures
    p, q = said(a, None, x), said(b, None, x)
    assert mc.fisher_lower_bound(a, b, x) == pytest.approx(table_distance(p, q), rel=1e-4)
    assert mc.fisher_lower_bound(a, b, x) == mc.fisher_lower_bound(b, a, x)
    # the root of the mean square is the largest of the three bounds there are
    far = [categorical_distance(u, v) for u, v in zip(p, q, strict=True)]
    overlap = np.mean([math.cos(d / 2) for d in far])
    assert np.mean(far) <= 2 * math.acos(overlap) <= mc.fisher_lower_bound(a, b, x) + 1e-5
    assert mc.js_lower_bound(a, b, x) < mc.fisher_lower_bound(a, b, x) / math.sqrt(8)


@pytest.mark.parametrize("network", [n for n in NETWORKS if n != "own"])
def test_no_permutation_of_b_changes_the_bounds(network: str) -> None:
    x, (a, b) = small_data().train.x, (NETWORKS[network](s) for s in (0, 1))
    spec = mc.trace_symmetry(b)
    for seed in (0, 1):
        moved = mc.permute(b, spec.random(seed=seed), spec)
        for bound in (mc.fisher_lower_bound, mc.js_lower_bound):
            assert bound(a, moved, x) == pytest.approx(bound(a, b, x), rel=1e-4)


def test_other_numbers_of_classes_have_no_bound() -> None:
    x = small_data().train.x
    a = NETWORKS["mlp"](0)
    b = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    for bound in (mc.fisher_lower_bound, mc.js_lower_bound):
        with pytest.raises(mc.IncompatibleError, match="number of classes, found 10 and 7"):
            bound(a, b, x)
        with pytest.raises(ValueError, match="at least one image, found none"):
            bound(a, a, x[:0])


# certificates ---------------------------------------------------------------------------------


def slow_angles(rows_: list[list[float]], y: list[int]) -> list[float]:
    return [math.acos(min(1.0, math.sqrt(p[k]))) for p, k in zip(rows_, y, strict=True)]


@pytest.mark.parametrize("kind", PATHS)
def test_it_is_the_slow_one(kind: str) -> None:
    data = small_data()
    a, b = (NETWORKS["mlp"](s) for s in (0, 1))
    path = PATHS[kind](a, b, 0)
    found = mc.certify(path, data, 6, split="test", progress=False)
    nodes = sorted({*np.linspace(0, 1, 6).tolist(), *path.knots})
    x, y = data.test.x, data.test.y.tolist()
    speech = [said(a, path.at(t), x) for t in nodes]
    assert found.table["t"].tolist() == nodes
    assert found.split == "test"
    n = len(y)
    for name, row in (
        ("loss", [np.mean([-math.log(p[k]) for p, k in zip(s, y, strict=True)]) for s in speech]),
        ("error", [np.mean([1 - p[k] for p, k in zip(s, y, strict=True)]) for s in speech]),
        (
            "accuracy",
            [np.mean([p.index(max(p)) == k for p, k in zip(s, y, strict=True)]) for s in speech],
        ),
    ):
        assert found.table[name].tolist() == pytest.approx(row, rel=1e-4), name
    steps = np.array(
        [
            [categorical_distance(p, q) for p, q in zip(s, t, strict=True)]
            for s, t in pairwise(speech)
        ]
    )
    squares, gaps = (steps**2).mean(1), np.diff(nodes)
    arc = [0.0, *np.cumsum(np.sqrt(squares))]
    assert found.table["arc"].tolist() == pytest.approx(arc, rel=1e-4)
    assert found.length == found.table["arc"].iloc[-1]
    assert found.length == pytest.approx(mc.fisher_length(path, x, 6), rel=1e-12)
    assert found.energy == pytest.approx((squares / gaps).sum(), rel=1e-4)
    assert found.energy == pytest.approx(mc.fisher_energy(path, x, 6), rel=1e-12)
    assert found.lengths == pytest.approx(steps.sum(0), rel=1e-3)
    far = [categorical_distance(p, q) for p, q in zip(speech[0], speech[-1], strict=True)]
    assert found.distances == pytest.approx(np.array(far), rel=1e-3)
    assert found.bound == pytest.approx(mc.fisher_lower_bound(a, b, x), rel=1e-12)
    assert found.ratio == pytest.approx(found.length / found.bound, rel=1e-12)
    starts, stops = slow_angles(speech[0], y), slow_angles(speech[-1], y)
    whole = steps.sum(0)
    angles = [(starts[i] + stops[i]) / 2 + whole[i] / 4 for i in range(n)]
    bound = np.mean([math.sin(min(math.pi / 2, angle)) ** 2 for angle in angles])
    assert found.error_bound == pytest.approx(bound, rel=1e-4)
    assert found.certified_accuracy == np.mean([angle < math.pi / 4 for angle in angles])
    near = []
    for k in range(len(nodes)):
        behind = steps[:k].sum(0)
        ahead = steps[k:].sum(0)
        near.append(
            np.mean(
                [
                    math.sin(min(math.pi / 2, starts[i] + behind[i] / 2, stops[i] + ahead[i] / 2))
                    ** 2
                    for i in range(n)
                ]
            )
        )
    assert found.table["error_bound"].tolist() == pytest.approx(near, rel=1e-4)
    speeds = found.speeds
    assert speeds["t"].tolist() == pytest.approx([(s + t) / 2 for s, t in pairwise(nodes)])
    assert speeds["speed"].tolist() == pytest.approx(np.diff(arc) / gaps, rel=1e-4)
    mean = np.average(speeds["speed"], weights=gaps)
    spread = math.sqrt(np.average((speeds["speed"] - mean) ** 2, weights=gaps))
    assert found.unevenness == pytest.approx(spread / mean, rel=1e-3)


def lawful(found: mc.Certificate) -> None:
    table = found.table
    assert found.worst_error == table["error"].max()
    assert found.worst_error <= found.error_bound + 1e-9
    assert (table["error"] <= table["error_bound"] + 1e-9).all()
    assert table["error_bound"].max() <= found.error_bound + 1e-12
    assert found.certified_accuracy <= table["accuracy"].min()
    assert (found.lengths >= found.distances - 1e-9).all()
    assert found.length >= found.bound - 1e-9
    assert found.length**2 <= found.energy + 1e-9
    assert found.ratio >= 1 - 1e-9
    assert table["arc"].is_monotonic_increasing
    assert table["arc"].iloc[-1] == found.length


@settings(max_examples=60)
@given(
    logits=st.integers(0, 10**6),
    scale=st.floats(0.1, 8),
    bends=st.integers(0, 3),
    points=st.integers(2, 9),
    sure=st.floats(0, 12),
)
def test_errors_never_exceed_what_the_length_allows(
    logits: int, scale: float, bends: int, points: int, sure: float
) -> None:
    """Over random tables: from ends that know nothing to ends that are sure."""
    n, classes = 6, 3
    generator = torch.Generator().manual_seed(logits)
    y = torch.randint(classes, (n,), generator=generator)
    z = scale * torch.randn(bends + 2, n, classes, generator=generator, dtype=torch.float64)
    for end in (z[0], z[-1]):
        end[torch.arange(n), y] += sure
    a, *between, b = (Table(row) for row in z)
    path = mc.BezierPath(a, b, between) if bends else mc.LinearPath(a, b)
    data = labelled(rows(n), y, classes)
    lawful(mc.certify(path, data, points, progress=False))


def test_some_inputs_are_certified_and_the_rest_is_not() -> None:
    """Short ways between sure ends; so that the test above is not about 0 alone."""
    y = torch.tensor([0, 0, 1, 1])
    z = torch.tensor([[4.0, 0], [3.0, 0], [0, 4.0], [0.1, 0]], dtype=torch.float64)
    path = mc.LinearPath(Table(z), Table(z * 1.3))
    found = mc.certify(path, labelled(rows(4), y, 2), 9, progress=False)
    lawful(found)
    assert found.certified_accuracy == 0.75 == found.table["accuracy"].min()
    # nearly tight on a way that does not turn
    assert found.error_bound < 1.05 * found.worst_error
    assert "75.0% certified" in repr(found)
    assert "train: length" in repr(found)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_are_lawful_too(
    network: str, untouched: Callable, same_random_state: None
) -> None:
    a, b = (NETWORKS[network](s).train() for s in (0, 1))
    unchanged = [untouched(model) for model in (a, b)]
    path, data = PATHS["bezier"](a, b, 0), small_data(40)
    for split in ("train", "test"):
        whole = mc.certify(path, data, 7, split=split, progress=False)
        lawful(whole)
        parts = mc.certify(path, data, 7, split=split, batch_size=9, progress=False)
        assert parts.length == pytest.approx(whole.length, rel=1e-3)
        assert parts.error_bound == pytest.approx(whole.error_bound, rel=1e-3)
    for check in unchanged:
        check()
    # statistics are always those of training images
    if "batch norm" in network:
        way = mc.fisher_length(path, data.test.x, 7, "reset", data.train.x)
        assert whole.length == pytest.approx(way, rel=1e-9)
        assert abs(whole.length / mc.fisher_length(path, data.test.x, 7) - 1) > 1e-4


def test_a_path_at_constant_speed_is_even() -> None:
    a, b, count = 0.2, 0.9, 8
    stops = [great_circle([1 - a, a], [1 - b, b], k / count)[1] for k in range(1, count)]
    path = mc.PolychainPath(coin(a), coin(b), [coin(p) for p in stops])
    data = labelled(rows(1), torch.tensor([1]), 2)
    found = mc.certify(path, data, count + 1, progress=False)
    assert found.unevenness < 1e-6
    assert found.length == pytest.approx(bernoulli_distance(a, b), abs=1e-12)
    assert found.ratio == pytest.approx(1, abs=1e-12)
    assert found.energy == pytest.approx(found.length**2, rel=1e-12)
    assert found.speeds["speed"].tolist() == pytest.approx([found.length] * count, rel=1e-9)
    line = mc.certify(mc.LinearPath(coin(a), coin(b)), data, count + 1, progress=False)
    assert line.unevenness > 0.05
    assert line.length == pytest.approx(found.length, abs=1e-12)
    lawful(found)


def test_a_path_that_stands_still_and_one_that_comes_back() -> None:
    a, c = coin(0.2), coin(0.7)
    data = labelled(rows(1), torch.tensor([1]), 2)
    still = mc.certify(mc.LinearPath(a, a), data, 5, progress=False)
    assert (still.length, still.bound, still.energy, still.unevenness) == (0, 0, 0, 0)
    assert still.ratio == 1
    assert not still.table.isna().any().any()
    assert (still.speeds["speed"] == 0).all()
    assert still.error_bound == pytest.approx(0.8, abs=1e-12)
    there = mc.certify(mc.PolychainPath(a, a, [c]), data, 5, progress=False)
    assert there.bound == 0
    assert there.length == pytest.approx(2 * bernoulli_distance(0.2, 0.7), abs=1e-9)
    assert there.ratio == math.inf
    assert "ratio inf" in repr(there)


def test_sure_networks_have_exact_small_errors() -> None:
    """1 - p is not rounded to 0, nor is the angle."""
    z = torch.tensor([[45.0, 0]], dtype=torch.float64)
    path = mc.LinearPath(Table(z), Table(z))
    found = mc.certify(path, labelled(rows(1), torch.tensor([0]), 2), 3, progress=False)
    assert found.worst_error == pytest.approx(math.exp(-45), rel=1e-6)
    assert found.error_bound == pytest.approx(math.exp(-45), rel=1e-6)
    assert found.certified_accuracy == 1


def test_bad_input_is_refused() -> None:
    data = small_data()
    path = PATHS["linear"](NETWORKS["mlp"](0), NETWORKS["mlp"](1), 0)
    with pytest.raises(TypeError, match=r"a path, such as LinearPath\(a, b\), found Network"):
        mc.certify(path.model_at(0), data)
    with pytest.raises(TypeError, match="expected data, as load_data .* found Split"):
        mc.certify(path, data.train)
    with pytest.raises(mc.UnknownNameError, match="unknown split 'tests'"):
        mc.certify(path, data, split="tests")
    with pytest.raises(mc.UnknownNameError, match="unknown normalization 'rest'"):
        mc.certify(path, data, normalization="rest")
    with pytest.raises(ValueError, match="at least 2 points, found 1"):
        mc.certify(path, data, 1)
    empty = copy.copy(data)
    object.__setattr__(empty, "test", mc.Split(data.test.x[:0], data.test.y[:0]))
    with pytest.raises(ValueError, match="at least one image, found none"):
        mc.certify(path, empty, split="test", progress=False)
