"""Walks between independently trained networks: low all the way, and arriving."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.evaluation import evaluate
from mcbook.paths import load_path
from mcbook.paths.layerwise import LayerwisePath

OPTIONS = {
    "threshold": 0.02, "step": 0.04, "momentum": 0.9, "points": 60, "progress": False,
}  # fmt: skip


def heights(path: mc.Path, data: mc.Data, inside: tuple[float, ...] = ()) -> list[float]:
    """The full training loss at the knots, and at so many places inside every segment."""
    ts = list(path.knots)
    ts += [s + (t - s) * f for s, t in pairwise(path.knots) for f in inside]
    return [evaluate(path.model_at(t), data.train)[0] for t in ts]


def flat(path: mc.Path, tick: int) -> Tensor:
    names = [n for n, _ in path.model_at(0).named_parameters()]
    return torch.cat([path.control_points[n][tick].reshape(-1) for n in names])


@pytest.fixture(scope="module")
def walks(independent: list[nn.Module], digits: mc.Data) -> list[LayerwisePath]:
    return [mc.layerwise_path(*independent[k : k + 2], digits, **OPTIONS) for k in range(4)]


@pytest.fixture(scope="module")
def lines(independent: list[nn.Module], digits: mc.Data) -> list[float]:
    """The barriers of the straight lines."""
    return [
        mc.profile(
            mc.LinearPath(*independent[k : k + 2]), digits, points=11, progress=False
        ).barrier("train")
        for k in range(4)
    ]


def test_the_loss_is_low_where_the_line_is_high(
    walks: list[LayerwisePath], lines: list[float], digits: mc.Data
) -> None:
    found = [max(heights(path, digits, (0.25, 0.5, 0.75))) for path in walks]
    for highest, line in zip(found, lines, strict=True):
        assert line >= 0.3
        assert highest <= 0.06
        assert highest <= 0.2 * line
    # and every pair of seeds finds the same
    assert max(found) <= 1.2 * min(found)


def test_the_walk_arrives(walks: list[LayerwisePath], independent: list[nn.Module]) -> None:
    for path, a, b in zip(walks, independent, independent[1:], strict=False):
        assert path.converged
        assert path.shortfalls == []
        assert path.relative_distance == path.log["distance"].iloc[-1] <= 0.05
        assert (path.distances.iloc[-1] <= 0.05 * path.distances.iloc[0]).all()
        assert path.closing <= path.threshold == 0.02
        for t, net in ((0.0, a), (1.0, b)):
            at = path.at(t)
            assert all(torch.equal(at[n], x) for n, x in net.state_dict().items())


def test_networks_on_the_way_are_as_good(walks: list[LayerwisePath], digits: mc.Data) -> None:
    path = walks[0]
    ends = [evaluate(path.model_at(t), digits.test)[1] for t in (0, 1)]
    for t in path.knots[1:-1:6]:
        assert evaluate(path.model_at(t), digits.test)[1] >= min(ends) - 0.03


def test_variances_are_on_target_at_every_tick(walks: list[LayerwisePath]) -> None:
    for path in walks[:2]:
        assert path.targets.notna().all().all()
        assert ((path.variances / path.targets - 1).abs() <= 1e-4).all().all()
        # the targets go from the spheres of A to those of B, deviations in step with the way
        a, b = (
            {n: float(p.detach().double().var(correction=0)) for n, p in m.named_parameters()}
            for m in (path.model_at(0), path.model_at(1))
        )
        for name in path.targets:
            roots = np.sqrt(path.targets[name].to_numpy())
            assert roots[0] == pytest.approx(math.sqrt(a[name]), rel=1e-6)
            assert roots[-1] == pytest.approx(math.sqrt(b[name]), rel=1e-6)
            steps = np.diff(roots) * np.sign(roots[-1] - roots[0])
            assert (steps >= -1e-12).all()
        # and what the table says is what the points have
        for tick, t in path.log.dropna(subset="t")[["tick", "t"]].itertuples(index=False):
            for name, p in path.model_at(t).named_parameters():
                found = float(p.detach().double().var(correction=0))
                assert found == pytest.approx(path.targets[name][tick], rel=1e-4)


def test_layers_come_closer_stage_by_stage(walks: list[LayerwisePath]) -> None:
    path = walks[0]
    assert [s[0] for s in path.stages] == [
        "linear1.weight", "linear2.weight", "linear3.weight", "output.weight",
    ]  # fmt: skip
    for number in range(1, 5):
        rows = path.log[path.log["stage"] == number]
        ticks = [rows["tick"].iloc[0] - 1, *rows["tick"]]
        active = [n for stage in path.stages[:number] for n in stage]
        assert (rows["moved"] == len(active)).all()
        for name in active:
            way = path.distances[name].loc[ticks].to_numpy()
            assert (np.diff(way) <= 0.05 * way[:-1] + 0.01 * way[0]).all()
            assert way[-1] < 0.75 * way[0] or way[0] < 0.05 * path.distances[name][0]
    assert path.log["distance"].iloc[0] == 1
    whole = np.sqrt((path.distances**2).sum(axis=1))
    np.testing.assert_allclose(path.log["distance"], whole / whole.iloc[0], rtol=1e-6)


def test_steps_are_short_and_the_way_not_too_long(walks: list[LayerwisePath]) -> None:
    for path in walks:
        points = torch.stack([flat(path, k) for k in range(len(path.knots))]).double()
        pieces = points.diff(dim=0).norm(dim=1)
        straight = float((points[0] - points[-1]).norm())
        ticks = path.log.dropna(subset="t")["tick"].diff().max()
        assert float(pieces[:-1].max()) <= 0.05 * straight * ticks
        assert straight <= float(pieces.sum()) <= 2.5 * straight
        # the knots are in proportion to the length
        expected = np.cumsum(pieces.numpy()) / float(pieces.sum())
        np.testing.assert_allclose(path.knots[1:], expected, atol=1e-3)


def test_the_log_tells_the_walk(walks: list[LayerwisePath]) -> None:
    path = walks[0]
    log = path.log
    assert list(log["tick"]) == list(range(len(log)))
    assert list(log.columns) == [
        "tick", "stage", "moved", "rounds", "batches", "at_most", "loss_before", "loss", "distance",
        "t",
    ]  # fmt: skip
    assert (log["rounds"].cumsum() == log["batches"]).all()
    assert log["rounds"][1:].between(5, 50).all()
    assert ((log["loss"] <= 0.02) | log["at_most"])[1:].all()
    known = log.dropna(subset="t")
    assert tuple(known["t"]) == path.knots[:-1]
    assert len(known) == 61
    assert path.history is path.log
    assert "converged" in repr(path)
    assert f"{len(log) - 1} ticks, 62 points" in repr(path)


def test_the_tick_of_a_place(walks: list[LayerwisePath]) -> None:
    path = walks[0]
    ticks = path.log.dropna(subset="t")["tick"].tolist()
    for k, (tick, t) in enumerate(zip(ticks, path.knots, strict=False)):
        assert path.tick_at(t) == tick
        if k:
            gap = t - path.knots[k - 1]
            assert path.tick_at(t - 0.4 * gap) == tick
            assert path.tick_at(t - 0.6 * gap) == ticks[k - 1]
    assert path.tick_at(1.0) == ticks[-1] == len(path.log) - 1
    assert path.tick_at(0.0) == 0


def test_a_saved_walk_is_the_same(walks: list[LayerwisePath], tmp_path: Path) -> None:
    bad = copy.copy(walks[1])
    bad.shortfalls, bad.closing = ["12% of the distance are left", "another"], math.nan
    for path in (walks[0], bad):
        found = load_path(path.save(tmp_path / "walk.safetensors"))
        assert isinstance(found, LayerwisePath)
        for table in ("log", "distances", "variances", "targets"):
            one, two = getattr(found, table), getattr(path, table)
            assert one.equals(two), table
            assert list(one.dtypes) == list(two.dtypes)
            assert one.index.name == two.index.name
            assert list(one.columns) == list(two.columns)
        assert found.history is found.log
        for what in ("stages", "threshold", "shortfalls", "converged", "knots"):
            assert getattr(found, what) == getattr(path, what), what
        assert found.closing == path.closing or math.isnan(found.closing) == math.isnan(
            path.closing
        )
        assert found.relative_distance == path.relative_distance
        assert found.tick_at(0.37) == path.tick_at(0.37)
        assert repr(found) == repr(path)
        for name, p in path.control_points.items():
            assert torch.equal(found.control_points[name], p)
    assert not found.converged
    assert "not converged: 12% of" in repr(found)


def test_with_one_more_point_it_is_a_plain_chain(walks: list[LayerwisePath]) -> None:
    more = walks[0].elevated()
    assert type(more) is mc.PolychainPath
    assert len(more.knots) == 63
    assert "control points=63" in repr(more)
    for t in (0.1, 0.5, 0.9):
        torch.testing.assert_close(more.at(t), walks[0].at(t))


def test_a_walk_to_a_network_that_was_never_trained_fails(
    independent: list[nn.Module], digits: mc.Data
) -> None:
    """The negative control: low loss at the points is made, arriving is not."""
    a = independent[0]
    b = mc.build_model("mlp", digits, width=(64, 64, 64), seed=90)
    with torch.no_grad():
        for p, own in zip(b.parameters(), a.parameters(), strict=True):
            p.sub_(p.mean()).mul_(own.std() / p.std()).add_(own.mean())
    with pytest.warns(UserWarning, match="below B's own loss, .* the walk cannot converge"):
        path = mc.layerwise_path(
            a, b, digits, **{**OPTIONS, "step": 0.1, "rounds": (5, 20), "stages": "all"}
        )
    assert not path.converged
    assert any("closing piece has a loss of" in words for words in path.shortfalls)
    assert path.closing > 1
    # the points were trained until they were low, all the same
    assert min(heights(path, digits)[1:-1]) < 0.2


def test_lenet5_is_connected(digits: mc.Data) -> None:
    data = mc.load_data("digits", device="cpu", size=28).subset(train=500, test=100)
    a, b = (
        mc.train(mc.build_model("lenet5", data, width=0.5, seed=s), data, 20, seed=s, lr=0.003,
                 optimizer="adam", batch_size=50, progress=False)
        for s in (0, 1)
    )  # fmt: skip
    line = mc.profile(mc.LinearPath(a, b), data, points=7, progress=False)
    path = mc.layerwise_path(a, b, data, step=0.06, stages=3, rounds=(3, 30), momentum=0.9,
                             threshold=0.06, batch_size=50, points=20, images=500,
                             progress=False)  # fmt: skip
    assert [{n.split(".")[0] for n in s} for s in path.stages][-1] >= {"output"}
    assert path.converged, path
    highest = max(heights(path, data, (0.5,)))
    assert line.barrier("train") >= 0.3
    assert highest <= 0.2
    assert highest <= 0.2 * line.barrier("train")
