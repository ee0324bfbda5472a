"""A walk tick by tick: as the slow one, the same when interrupted, bounded, and without traces."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook import weights
from mcbook.checkpoints import epoch_seed
from mcbook.errors import IncompatibleError
from mcbook.paths import walking
from mcbook.paths.layerwise import LayerwisePath
from mcbook.paths.walking import Walk
from tests.reference_walks import Walker, length, mean_and_variance

STAGES = [["linear1"], ["linear2"], ["output"]]


class Odd(nn.Module):
    """Dropout, batch norm, tied weights, a frozen tensor, buffers of floats and counts."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.norm = nn.Linear(64, 6), nn.BatchNorm1d(6)
            self.second, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
            self.last = nn.Linear(6, 10)
        self.again.weight = self.second.weight
        self.drop = nn.Dropout(0.2)
        self.last.bias.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(1.0 + seed))
        self.register_buffer("count", torch.tensor([7 + seed, 9 * seed]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(x.flatten(1))).relu())
        return self.last(self.again(self.second(x).relu()).relu() * self.scale)


EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture
def pair(tiny: mc.Data) -> list[nn.Module]:
    return [mc.build_model("mlp", tiny, width=(6, 5), seed=s) for s in (0, 1)]


@pytest.fixture(scope="module")
def trained(tiny: mc.Data) -> dict[str | None, list[nn.Module]]:
    """Perceptrons that know their seventy digits, by their norm."""
    return {
        norm: [
            mc.train(mc.build_model("mlp", tiny, width=(6, 5), norm=norm, seed=s), tiny, 60,
                     seed=s, optimizer="adam", lr=0.02, batch_size=16, progress=False)
            for s in (0, 2)
        ]
        for norm in (None, "batch")
    }  # fmt: skip


@pytest.fixture
def odd() -> list[nn.Module]:
    return [Odd(0), Odd(1)]


def walk(a: nn.Module, b: nn.Module, data: mc.Data, **options: Any) -> LayerwisePath:
    settings = {"ticks": [2, 2, 4], "stages": STAGES, "step": 0.2, "rounds": (2, 3), "points": 8,
                "images": 40, "batch_size": 16, "progress": False}  # fmt: skip
    return mc.layerwise_path(a, b, data, **{**settings, **options})


ODD = {"stages": [["first", "norm"], ["second"], ["again", "last"]]}


def same(one: LayerwisePath, two: LayerwisePath) -> None:
    """To the last bit, log and all."""
    assert list(one.control_points) == list(two.control_points)
    for name, p in one.control_points.items():
        assert torch.equal(p, two.control_points[name]), name
    assert one.knots == two.knots
    for table in ("log", "distances", "variances", "targets"):
        found, other = getattr(one, table), getattr(two, table)
        assert list(found.columns) == list(other.columns)
        assert found.equals(other), table
        assert list(found.dtypes) == list(other.dtypes), table
    for what in ("stages", "threshold", "shortfalls"):
        assert getattr(one, what) == getattr(two, what)
    assert one.closing == two.closing or (math.isnan(one.closing) and math.isnan(two.closing))


# the slow one ---------------------------------------------------------------------------------


def in_double(data: mc.Data) -> mc.Data:
    return mc.Data(
        train=mc.Split(data.train.x.double(), data.train.y), test=data.test,
        classes=data.classes, name=data.name, fingerprint=data.fingerprint,
    )  # fmt: skip


def batches(count: int, size: int, seed: int) -> Iterator[list[int]]:
    for epoch in itertools.count():
        generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        order = torch.randperm(count, generator=generator).tolist()
        yield from (order[k : k + size] for k in range(0, count, size))


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9, "lr": 0.05, "seed": 3},
    "a threshold": {"rounds": (2, 6), "lr": 0.05, "step": 0.1},
    "one round": {"rounds": (0, 3), "lr": 0.1},
    "no retraining": {"rounds": (0, 0)},
    "start": {"sphere": "start", "step": 0.3},
    "free": {"sphere": "free"},
    "shrink": {"sphere": "shrink", "shrunk": 0.6},
    "arc": {"step": 0.05, "arc_step": 0.1},
    "only arc": {"step": 0.0, "arc_step": 0.15},
    "shrink by arc": {"step": 0.05, "arc_step": 0.1, "sphere": "shrink", "shrunk": 0.6},
    "fixed": {"step": 0.05, "fixed_step": 0.3},
    "the greater": {"step": 0.1, "arc_step": 0.03, "fixed_step": 0.08, "rule": "max"},
    "batch norm": {"norm": "batch"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:the threshold:UserWarning")
def test_it_is_the_slow_one(
    tiny: mc.Data, trained: dict[str | None, list[nn.Module]], case: str
) -> None:
    options = dict(CASES[case])
    norm, shrunk = options.pop("norm", None), options.pop("shrunk", 1.0)
    a, b = (copy.deepcopy(m).double() for m in trained[norm])
    with torch.no_grad():
        for p in b.parameters():
            p.mul_(shrunk)
    data = in_double(tiny)
    stages = STAGES if norm is None else [["linear1", "norm1"], ["linear2", "norm2"], ["output"]]
    # above the loss of A: now and then more than the least rounds are needed
    base = {
        "threshold": 0.6,
        "lr": 0.02,
        "momentum": 0.0,
        "rounds": (2, 3),
        "step": 0.2,
        "stages": stages,
    }
    settings = {**base, **options}
    total = 8 if settings.get("sphere") != "shrink" else 12
    path = walk(a, b, data, points=total, **settings)
    slow = Walker(
        a, b, data.train.x, data.train.y, batches(70, 16, settings.get("seed", 0)),
        [[n for n, _ in a.named_parameters() if n.split(".")[0] in stage] for stage in stages],
        [2, 2, 4], settings["step"], settings.get("arc_step", 0), settings.get("fixed_step", 0),
        settings.get("rule") == "max", settings.get("sphere", "interpolated"),
        settings["rounds"], settings["threshold"], settings["lr"], settings["momentum"],
    ).walk()  # fmt: skip
    assert len(slow.points) == total == len(path.log) - 1
    assert path.log["rounds"].tolist()[1:] == slow.rounds
    assert path.log["batches"].tolist()[1:] == list(itertools.accumulate(slow.rounds))
    for column, expected in {"loss_before": slow.before, "loss": slow.loss}.items():
        found = path.log[column].tolist()[1:]
        assert found == pytest.approx(expected, rel=1e-5, nan_ok=True), column
    for tick, point in enumerate(slow.points, 1):
        for name, x in point.items():
            if x.is_floating_point():
                found = path.control_points[name][tick]
                torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-6)
        for name, p in b.named_parameters():
            assert path.distances[name][tick] == pytest.approx(
                length(point[name] - p.detach()), rel=1e-4, abs=1e-6
            )
            assert path.variances[name][tick] == pytest.approx(
                mean_and_variance(point[name])[1], rel=1e-4, abs=1e-9
            )


def test_the_slow_ones_cover_stops_at_all_places(
    tiny: mc.Data, trained: dict[str | None, list[nn.Module]]
) -> None:
    path = walk(*trained[None], tiny, threshold=0.6, momentum=0, **CASES["a threshold"])
    assert {2, 6} < set(path.log["rounds"][1:])


# rounds and threshold -------------------------------------------------------------------------


def test_rounds_stay_in_their_bounds_and_stop_at_the_threshold(
    tiny: mc.Data, trained: dict[str | None, list[nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    slope = Walk._slope

    def noted(self: Walk) -> float:
        assert self.model.training
        assert all(m.training for m in self.model.modules())
        seen.append(slope(self))
        return seen[-1]

    monkeypatch.setattr(Walk, "_slope", noted)
    path = walk(
        *trained[None], tiny, threshold=0.6, lr=0.05, rounds=(2, 5), ticks=[4, 4, 8], step=0.1,
        momentum=0,
    )  # fmt: skip
    at = 0
    for row in path.log.iloc[1:].itertuples():
        losses = seen[at : at + row.rounds]
        at += row.rounds
        assert row.batches == at
        assert 2 <= row.rounds <= 5
        assert row.loss_before == losses[0]
        assert row.loss == pytest.approx(sum(losses[-2:]) / 2, rel=1e-12)
        assert row.at_most == (row.loss > 0.6)
        assert row.rounds == 5 or not row.at_most
        # it went on only because the threshold was not reached
        for k in range(2, row.rounds):
            assert sum(losses[k - 2 : k]) / 2 > 0.6
    assert at == len(seen)
    assert path.log["at_most"].any()
    assert not path.log["at_most"].all()
    assert path.log["rounds"].iloc[0] == path.log["batches"].iloc[0] == 0


def test_the_least_rounds_are_taken_where_the_loss_is_low_at_once(
    tiny: mc.Data, pair: list[nn.Module]
) -> None:
    path = walk(*pair, tiny, threshold=100.0, rounds=(3, 9))
    assert (path.log["rounds"][1:] == 3).all()
    assert not path.log["at_most"].any()


def test_without_retraining_the_walk_is_geometry(tiny: mc.Data) -> None:
    """All at once, equal spheres, no means: on the arc between A and B, and never turning back."""
    a, b = (mc.build_model("mlp", tiny, width=(6, 5), seed=s).double() for s in (0, 1))
    with torch.no_grad():
        for p in [*a.parameters(), *b.parameters()]:
            p.sub_(p.mean()).div_(p.std(correction=0)).mul_(0.3)
    path = walk(a, b, in_double(tiny), stages="all", ticks=20, rounds=(0, 0), points=20)
    for name, p in a.named_parameters():
        start, end = p.detach().flatten(), dict(b.named_parameters())[name].detach().flatten()
        basis = torch.linalg.qr(torch.stack([start, end], 1))[0]
        angles = []
        for point in path.control_points[name][:-1].flatten(1):
            torch.testing.assert_close(basis @ (basis.T @ point), point, rtol=1e-9, atol=1e-12)
            assert float(point.norm()) == pytest.approx(float(start.norm()), rel=1e-9)
            angles.append(float((point @ end) / point.norm() / end.norm()))
        assert all(x < y for x, y in itertools.pairwise(angles))
    assert (path.log["batches"] == 0).all()
    assert path.log["loss"][1:].isna().all()
    assert not path.converged
    assert any("nothing was retrained" in words for words in path.shortfalls)


def test_what_does_not_move_yet_only_learns(tiny: mc.Data, pair: list[nn.Module]) -> None:
    path = walk(*pair, tiny, rounds=(0, 0), sphere="start", ticks=[2, 3, 3])
    a = dict(pair[0].named_parameters())
    for stage, last_still in (("linear1", 0), ("linear2", 2), ("output", 5)):
        for name in (f"{stage}.weight", f"{stage}.bias"):
            points = path.control_points[name]
            for tick in range(9):
                torch.testing.assert_close(points[tick], a[name].detach()) if (
                    tick <= last_still
                ) else None
                assert (path.distances[name][tick] < path.distances[name][0]) == (tick > last_still)
    assert path.log["stage"].tolist() == [0, 1, 1, 2, 2, 2, 3, 3, 3]
    assert path.log["moved"].tolist() == [0, 2, 2, 4, 4, 4, 6, 6, 6]


def test_a_long_step_arrives_exactly_and_stays(tiny: mc.Data, pair: list[nn.Module]) -> None:
    for options in ({"step": 0.0, "fixed_step": 100.0}, {"step": 1.0, "arc_step": 1.0}):
        path = walk(*pair, tiny, rounds=(0, 0), stages="all", ticks=3, points=3, **options)
        for name, p in pair[1].named_parameters():
            # the spheres in between hold it back; on the last tick it is on that of B
            torch.testing.assert_close(path.control_points[name][3], p.detach())
        assert path.relative_distance < 1e-6
        free = walk(*pair, tiny, rounds=(0, 0), stages="all", ticks=2, sphere="free", **options)
        for name, p in pair[1].named_parameters():
            # to the last bit
            assert torch.equal(free.control_points[name][1], p.detach())
            assert torch.equal(free.control_points[name][2], p.detach())
    net = pair[0]
    path = walk(net, net, tiny, rounds=(0, 0))
    for name, p in net.named_parameters():
        torch.testing.assert_close(path.control_points[name], p.detach().expand(10, *p.shape))
    assert path.relative_distance == 0


# interruption ---------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the walk fail in the tick `at`, once; a checkpoint is kept after every tick."""
    note, armed = Walk._note, [True]

    def failing(self: Walk, *args: Any) -> None:
        note(self, *args)
        if armed[0] and self.tick == at:
            armed[0] = False
            raise KeyboardInterrupt

    monkeypatch.setattr(Walk, "_note", failing)
    monkeypatch.setattr(walking, "_PATIENCE", -1.0)


RESUMED: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "lr": 1e-3},
    "arc": {"step": 0.02, "arc_step": 0.1, "points": 3},
    "shrink": {"sphere": "shrink", "momentum": 0.5},
    "augmented": {"augment": True},
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("at", [1, 3, 6])
def test_an_interrupted_walk_goes_on_bit_for_bit(
    tiny: mc.Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str, at: int
) -> None:
    options = {**ODD, **RESUMED[case], "threshold": 30.0, "rounds": (2, 2)}
    a, b = Odd(0), Odd(1)
    if case == "shrink":
        with torch.no_grad():
            for p in b.parameters():
                p.mul_(0.7)
    with monkeypatch.context() as patch:
        whole = walk(a, b, tiny, **options)
        file = tmp_path / "walk.safetensors"
        interrupt(patch, at)
        with pytest.raises(KeyboardInterrupt):
            walk(a, b, tiny, checkpoint=file, **options)
        assert file.exists() == (at > 1)
        torch.manual_seed(99)  # what was drawn in between is nothing to it
        torch.rand(3)
        taken: list[int] = []
        take = Walk._take

        def counted(self: Walk, leg: Any) -> None:
            take(self, leg)
            taken.append(self.tick)

        patch.setattr(Walk, "_take", counted)
        same(walk(a, b, tiny, checkpoint=file, **options), whole)
        # only what was left, from a place within an epoch of five minibatches
        assert taken == list(range(at, len(whole.log)))
        taken.clear()
        same(walk(a, b, tiny, checkpoint=file, **options), whole)
        assert taken == []


def test_a_walk_is_kept_at_the_end_though_it_was_short(
    tiny: mc.Data, pair: list[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    keep = Walk._keep

    def counted(self: Walk, file: Any) -> None:
        keep(self, file)
        kept.append(self.tick)

    monkeypatch.setattr(Walk, "_keep", counted)
    file = tmp_path / "walk"
    whole = walk(*pair, tiny, checkpoint=file)
    assert kept == [8]  # none in between: it did not take long
    same(walk(*pair, tiny, checkpoint=file), whole)
    assert kept == [8]


def test_checkpoints_of_another_walk_are_refused(
    tiny: mc.Data, digits: mc.Data, pair: list[nn.Module], tmp_path: Path
) -> None:
    a, b = pair
    file = tmp_path / "walk"
    base: dict[str, Any] = {"threshold": 3.0}
    walk(a, b, tiny, checkpoint=file, **base)
    walk(a, b, tiny, checkpoint=file, images=30, **base)  # measured afterwards
    third = mc.build_model("mlp", tiny, width=(6, 5), seed=2)
    for what, options in {
        "lr": {"lr": 0.02}, "momentum": {"momentum": 0.1}, "alpha": {"step": 0.21},
        "arc": {"arc_step": 0.1}, "fixed": {"fixed_step": 0.1},
        "rule": {"rule": "max"}, "legs": {"ticks": [2, 3, 3]}, "rounds": {"rounds": (2, 4)},
        "threshold": {"threshold": 3.1}, "points": {"points": 4}, "seed": {"seed": 1},
        "spheres": {"sphere": "start"}, "batch_size": {"batch_size": 8},
        "augment": {"augment": True},
    }.items():  # fmt: skip
        with pytest.raises(IncompatibleError, match=f"another run: expected {what} ="):
            walk(a, b, tiny, checkpoint=file, **{**base, **options})
    with pytest.raises(IncompatibleError, match="expected legs ="):
        walk(a, b, tiny, checkpoint=file, stages=STAGES[::-1], **base)
    with pytest.raises(IncompatibleError, match="expected data ="):
        walk(a, b, digits.subset(train=70, test=30, seed=2), checkpoint=file, **base)
    for nets in ((a, third), (third, b)):
        with pytest.raises(IncompatibleError, match="expected control points ="):
            walk(*nets, tiny, checkpoint=file, **base)


# determinism, traces --------------------------------------------------------------------------


def test_the_seed_decides_everything(tiny: mc.Data, odd: list[nn.Module]) -> None:
    one = walk(*odd, tiny, **ODD)
    torch.manual_seed(77)
    same(walk(*odd, tiny, **ODD), one)
    other = walk(*odd, tiny, seed=1, **ODD)
    assert other.log["loss"].tolist()[1:] != one.log["loss"].tolist()[1:]


def test_nothing_is_touched(
    tiny: mc.Data, odd: list[nn.Module], untouched: Callable, same_random_state: None
) -> None:
    a, b = odd
    a.train(), b.eval()
    unchanged = [untouched(m) for m in odd]
    x, y = tiny.train.x.clone(), tiny.train.y.clone()
    path = walk(a, b, tiny, example=EXAMPLE, stages="flow", ticks=None, step=0.9)
    for check in unchanged:
        check()
    assert torch.equal(tiny.train.x, x)
    assert torch.equal(tiny.train.y, y)
    # nor is the path what A, B or another path hold
    for p in path.control_points.values():
        p.zero_()
    for check in unchanged:
        check()


def test_what_is_not_trained_goes_straight_and_counts_stay(
    tiny: mc.Data, odd: list[nn.Module]
) -> None:
    a, b = odd
    path = walk(a, b, tiny, **ODD)
    start, end = weights.of(a), weights.of(b)
    for name in ("scale", "last.bias"):
        for tick in range(9):
            expected = torch.lerp(start[name], end[name], tick / 8)
            torch.testing.assert_close(path.control_points[name][tick], expected)
        assert name not in path.distances
    for t in (0, 0.3, path.knots[4], 1):
        assert torch.equal(path.at(t)["count"], start["count"])
        assert torch.equal(path.at(t)["norm.num_batches_tracked"], torch.tensor(0))
    p = path.control_points
    assert torch.equal(p["second.weight"], p["again.weight"])
    assert "again.weight" not in path.distances
    assert "second.weight" in path.distances
    # the statistics are those of retraining: finite, and new at every tick
    for name in ("norm.running_mean", "norm.running_var"):
        assert p[name].isfinite().all()
        assert (p[name][1:9].diff(dim=0).abs().amax(1) > 0).all()


@pytest.mark.parametrize("points", [1, 3, 8, 100])
def test_so_many_points_are_recorded(tiny: mc.Data, pair: list[nn.Module], points: int) -> None:
    path = walk(*pair, tiny, points=points)
    kept = {1: [8], 3: [3, 6, 8]}.get(points, list(range(1, 9)))
    assert path.log.dropna(subset="t")["tick"].tolist() == [0, *kept]
    assert len(path.knots) == len(kept) + 2
    every = walk(*pair, tiny)
    for name, p in path.control_points.items():
        assert torch.equal(p, every.control_points[name][[0, *kept, 9]])


# what goes wrong ------------------------------------------------------------------------------


def test_a_walk_that_diverges_says_where(
    tiny: mc.Data, pair: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FloatingPointError, match="weights became NaN or infinite in tick 1 with"):
        walk(*pair, tiny, lr=1e39, rounds=(1, 1))
    losses = iter([1.0, 1.0, 1.0, 1.0, math.nan])
    monkeypatch.setattr(Walk, "_slope", lambda self: next(losses))
    with pytest.raises(FloatingPointError, match="loss became nan in tick 3 with lr = 0.02"):
        walk(*pair, tiny, lr=0.02, rounds=(2, 2))


def test_a_last_batch_of_one_image_is_refused_with_batch_norm(
    digits: mc.Data, odd: list[nn.Module]
) -> None:
    with pytest.raises(ValueError, match="batch"):
        walk(*odd, digits.subset(train=33, test=9), **ODD)
