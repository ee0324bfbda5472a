from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import mcbook as mc
from mcbook import weights
from mcbook.analysis import profiles
from mcbook.paths import Path
from mcbook.repair import Repair, repair
from tests import reference

LOSSES = st.lists(st.floats(0, 50), min_size=2, max_size=20)


def of_losses(losses: list[float], ts: list[float] | None = None) -> mc.Profile:
    t = np.linspace(0, 1, len(losses)) if ts is None else np.array(ts)
    table = pd.DataFrame({"t": t, "test_loss": losses, "test_accuracy": 1 / (1 + np.array(losses))})
    return mc.Profile(table, "none", "linear", "made up")


# the definition -----------------------------------------------------------------------------


@given(LOSSES)
def test_the_barrier_is_its_definition_and_never_negative(losses: list[float]) -> None:
    prof = of_losses(losses)
    ts = prof.table["t"].tolist()
    assert prof.barrier("test", "loss") >= 0
    assert math.isclose(prof.barrier(), reference.barrier(ts, losses), abs_tol=1e-12)
    shortfall = reference.barrier(ts, [-1 / (1 + x) for x in losses])
    assert prof.barrier("test", "accuracy") >= 0
    assert math.isclose(prof.barrier("test", "accuracy"), shortfall, abs_tol=1e-12)


@given(LOSSES, st.floats(-20, 20), st.floats(-20, 20), st.floats(0.1, 10))
def test_a_line_added_changes_no_barrier_and_a_factor_scales_it(
    losses: list[float], start: float, slope: float, factor: float
) -> None:
    prof = of_losses(losses)
    ts = prof.table["t"].tolist()
    moved = of_losses([factor * x + start + slope * t for x, t in zip(losses, ts, strict=True)])
    assert math.isclose(moved.barrier(), factor * prof.barrier(), abs_tol=1e-9)
    np.testing.assert_allclose(moved.excess(), factor * prof.excess(), atol=1e-9)


@given(LOSSES)
def test_walked_backwards_the_barrier_is_the_same(losses: list[float]) -> None:
    there, back = of_losses(losses), of_losses(losses[::-1])
    assert math.isclose(there.barrier(), back.barrier(), abs_tol=1e-12)


def test_the_barrier_of_known_profiles() -> None:
    ts = [0, 0.25, 0.5, 1]
    bump = of_losses([1, 2, 4, 3], ts)
    np.testing.assert_allclose(bump.chord(), [1, 1.5, 2, 3])
    np.testing.assert_allclose(bump.excess(), [0, 0.5, 2, 0])
    assert (bump.barrier(), bump.barrier_at()) == (2, 0.5)
    assert bump.barrier_at("test", "accuracy") == 0.5
    valley = of_losses([1, 0, 0, 1], ts)
    assert (valley.barrier(), valley.barrier_at()) == (0, 0)
    twice = of_losses([0, 3, 0, 3, 0])
    assert twice.barrier_at() == 0.25


def test_what_was_not_measured_is_refused_with_what_was() -> None:
    prof = of_losses([1, 2])
    for ask in (prof.barrier, prof.barrier_at, prof.chord, prof.excess):
        with pytest.raises(mc.UnknownNameError, match=r"'train_loss'.*test_accuracy, test_loss"):
            ask("train", "loss")
        with pytest.raises(mc.UnknownNameError, match=r"measurement 'test_los'.*'test_loss'"):
            ask("test", "los")
    with pytest.raises(mc.UnknownNameError):
        of_losses([1, 2]).barrier("test", "error")


def test_a_profile_shows_where_and_how_high() -> None:
    shown = repr(of_losses([0, 2.5, 0]))
    for part in ("linear", "made up", "3 points", "test loss barrier 2.5"):
        assert part in shown


# against the slow ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "normalization"),
    [
        ("mlp", {"width": (6, 5)}, None),
        ("mlp", {"width": 6, "standardize": True}, None),
        ("mlp", {"width": 6, "norm": "batch"}, "reset"),
        ("mlp", {"width": 6, "norm": "batch"}, "none"),
        ("convnet", {"width": 2, "depth": 2}, None),
        ("convnet", {"width": 2, "depth": 2}, "none"),
        ("convnet", {"width": 2, "norm": None}, None),
    ],
)
def test_a_profile_is_models_one_by_one_on_images_one_by_one(
    tiny: mc.Data, name: str, options: dict, normalization: str | None
) -> None:
    a, b = (
        mc.train(mc.build_model(name, tiny, seed=s, **options), tiny, 4, seed=s, batch_size=16)
        for s in (0, 1)
    )
    prof = mc.profile(mc.LinearPath(a, b), tiny, 5, normalization=normalization, batch_size=32)
    reset = prof.normalization == "reset"
    assert reset == (mc.has_batch_norm(a) and normalization != "none")
    assert prof.table["t"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    for split in ("train", "test"):
        part = tiny.split(split)
        slow = reference.profile(
            a, b, prof.table["t"].tolist(), part.x, part.y, tiny.train.x if reset else None
        )
        found = prof.table[[f"{split}_loss", f"{split}_accuracy"]].to_numpy()
        np.testing.assert_allclose(found[:, 0], [loss for loss, _ in slow], rtol=1e-4)
        np.testing.assert_allclose(found[:, 1], [accuracy for _, accuracy in slow], atol=1e-9)
        barrier = reference.barrier(prof.table["t"].tolist(), [loss for loss, _ in slow])
        assert math.isclose(prof.barrier(split), barrier, rel_tol=1e-3, abs_tol=1e-4)


def line(endpoints: list[nn.Module]) -> mc.LinearPath:
    return mc.LinearPath(endpoints[0], endpoints[1])


def test_the_ends_are_the_networks_themselves(endpoints: list[nn.Module], digits: mc.Data) -> None:
    prof = mc.profile(line(endpoints), digits, 3)
    for row, model in ((0, endpoints[0]), (-1, endpoints[1])):
        for split in ("train", "test"):
            loss, accuracy = mc.evaluate(model, digits.split(split))
            assert math.isclose(prof.table[f"{split}_loss"].iloc[row], loss, rel_tol=1e-5)
            assert prof.table[f"{split}_accuracy"].iloc[row] == accuracy


def test_distances_from_both_ends(endpoints: list[nn.Module], small: mc.Data) -> None:
    table = mc.profile(line(endpoints), small, 9, splits=("test",)).table
    a, b = (weights.of(m) for m in endpoints[:2])
    whole = weights.distance(a, b)
    np.testing.assert_allclose(table["distance_a"], table["t"] * whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(table["distance_b"], (1 - table["t"]) * whole, rtol=1e-5, atol=1e-5)
    assert table["distance_a"].iloc[0] == table["distance_b"].iloc[-1] == 0


def test_distances_are_of_parameters_not_of_statistics(
    normed: list[nn.Module], small: mc.Data
) -> None:
    a, b = normed[:2]
    table = mc.profile(mc.LinearPath(a, b), small.subset(train=50, test=20), 2).table
    slow = reference.distance(dict(a.named_parameters()), dict(b.named_parameters()))
    assert math.isclose(table["distance_b"].iloc[0], slow, rel_tol=1e-6)


@given(st.integers(1, 400))
def test_the_batch_size_does_not_matter(
    endpoints: list[nn.Module], small: mc.Data, batch_size: int
) -> None:
    whole, parts = (
        mc.profile(line(endpoints), small, 3, batch_size=size).table for size in (2048, batch_size)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_the_grid_is_uniform_and_has_the_knots(
    endpoints: list[nn.Module], tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "_kinds", dict(Path._kinds))

    class Corner(Path, kind="corner"):
        """From A to B and on the way through the third point at t = 0.3."""

        def coefficients(self, t: float) -> Tensor:
            c = [1 - t / 0.3, t / 0.3, 0] if t < 0.3 else [0, (1 - t) / 0.7, (t - 0.3) / 0.7]
            return torch.tensor(c, dtype=torch.float64)

        def coefficient_velocities(self, t: float) -> Tensor:
            c = [-1 / 0.3, 1 / 0.3, 0] if t < 0.3 else [0, -1 / 0.7, 1 / 0.7]
            return torch.tensor(c, dtype=torch.float64)

    a, middle, b = endpoints[:3]
    states = [m.state_dict() for m in (a, middle, b)]
    points = {name: torch.stack([s[name] for s in states]) for name in states[0]}
    prof = mc.profile(Corner(a, points, (0, 0.3, 1)), tiny, 5)
    assert prof.table["t"].tolist() == [0, 0.25, 0.3, 0.5, 0.75, 1]
    assert prof.path_kind == "corner"
    loss, accuracy = mc.evaluate(middle, tiny.test)
    assert math.isclose(prof.table["test_loss"].iloc[2], loss, rel_tol=1e-4)
    assert prof.table["test_accuracy"].iloc[2] == accuracy
    assert len(mc.profile(line(endpoints), tiny).table) == 61


def test_only_the_splits_asked_for(endpoints: list[nn.Module], tiny: mc.Data) -> None:
    prof = mc.profile(line(endpoints), tiny, 2, splits=("train",))
    assert list(prof.table.columns) == [
        "t", "train_loss", "train_accuracy", "distance_a", "distance_b",
    ]  # fmt: skip
    with pytest.raises(mc.UnknownNameError, match="'test_loss'"):
        prof.barrier("test")


def test_statistics_come_from_the_training_images_whatever_is_measured(
    normed: list[nn.Module], small: mc.Data
) -> None:
    path = mc.LinearPath(normed[0], normed[1])
    both = mc.profile(path, small, 3).table
    one = mc.profile(path, small, 3, splits=("test",)).table
    np.testing.assert_array_equal(both["test_loss"], one["test_loss"])
    other = replace(small, train=small.subset(train=40).train)
    assert not np.allclose(mc.profile(path, other, 3).table["test_loss"], one["test_loss"])


def test_more_images_than_enough_are_a_fixed_part(
    normed: list[nn.Module], small: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "_STATISTICS_IMAGES", 100)
    path = mc.LinearPath(normed[0], normed[1])
    torch.manual_seed(1)
    first = mc.profile(path, small, 3).table
    torch.manual_seed(2)
    pd.testing.assert_frame_equal(first, mc.profile(path, small, 3).table, check_exact=True)
    used = profiles.statistics_images(small)
    assert used.shape == (100, 1, 8, 8)
    assert len({tuple(x) for x in used.flatten(1).tolist()}) == 100


@pytest.mark.usefixtures("same_random_state")
def test_a_profile_changes_nothing_and_repeats_to_the_last_bit(
    normed: list[nn.Module], tiny: mc.Data, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    a, b = normed[:2]
    unchanged = [untouched(m) for m in (a, b)]
    path = mc.LinearPath(a, b)
    before = {name: x.clone() for name, x in path.control_points.items()}
    first, again = (mc.profile(path, tiny, 3) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, again.table, check_exact=True)
    for check in unchanged:
        check()
    assert all(torch.equal(x, before[name]) for name, x in path.control_points.items())


def test_low_precision_is_near(endpoints: list[nn.Module], digits: mc.Data) -> None:
    high, low = (
        mc.profile(line(endpoints), digits, 7, precision=p) for p in ("float32", "bfloat16")
    )
    assert not np.array_equal(high.table["test_loss"], low.table["test_loss"])
    np.testing.assert_allclose(
        low.table["test_loss"], high.table["test_loss"], rtol=0.05, atol=0.02
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ("tset",)}, r"unknown split 'tset'.*'test'"),
        ({"normalization": "rest"}, r"unknown normalization 'rest'.*'reset'"),
        ({"precision": "bf16"}, r"unknown precision 'bf16'.*bfloat16, float32"),
    ],
)
def test_unknown_options_offer_the_close_ones(
    endpoints: list[nn.Module], tiny: mc.Data, options: dict, message: str
) -> None:
    with pytest.raises(mc.UnknownNameError, match=message):
        mc.profile(line(endpoints), tiny, **options)


@pytest.mark.parametrize("points", [1, 0, -3])
def test_fewer_than_two_points_are_refused(
    endpoints: list[nn.Module], tiny: mc.Data, points: int
) -> None:
    with pytest.raises(ValueError, match=f"at least 2 points, found {points}"):
        mc.profile(line(endpoints), tiny, points)


# REPAIR -------------------------------------------------------------------------------------


def weight_normed() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 8)), nn.ReLU(), nn.Linear(8, 10))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "options", "replays"),
    [
        ("mlp", {"width": (8, 7)}, True),
        ("mlp", {"width": (8, 7), "bias": False}, True),
        ("mlp", {"width": 8, "standardize": True, "norm": "layer"}, True),
        ("mlp", {"width": 8, "norm": "batch"}, True),
        ("convnet", {"width": 3}, True),
        ("convnet", {"width": 3, "norm": None}, True),
        ("convnet", {"width": 3, "norm": "group"}, True),
        ("weight norm", {}, False),
    ],
)
def test_repaired_profiles_are_repaired_models_one_by_one(
    tiny: mc.Data, name: str, options: dict, replays: bool, precision: str
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = (
            weight_normed() if name == "weight norm" else mc.build_model(name, tiny, s, **options)
            for s in (0, 1)
        )
    with torch.no_grad():  # far from 0, so that a repair is seen
        for p in (*a.parameters(), *b.parameters()):
            p.mul_(3)
    path = mc.LinearPath(a, b)
    assert (profiles.FirstLayer.of(path, tiny.test.x, 32) is not None) == replays
    prof = mc.profile(path, tiny, 5, normalization="repair", batch_size=32, precision=precision)
    assert prof.normalization == "repair"
    near = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 0.02, "atol": 0.02}
    for split in ("train", "test"):
        losses = []
        for t in prof.table["t"]:
            model = repair(path, t, tiny.train.x, fuse=name != "weight norm")
            loss, accuracy = mc.evaluate(model, tiny.split(split))
            row = prof.table[prof.table["t"] == t].iloc[0]
            losses.append(loss)
            if precision == "float32":
                assert math.isclose(row[f"{split}_accuracy"], accuracy, abs_tol=1e-9)
        np.testing.assert_allclose(prof.table[f"{split}_loss"], losses, **near)
    plain = mc.profile(path, tiny, 5).table
    ends = [0, -1]
    np.testing.assert_allclose(
        prof.table["test_loss"].iloc[ends], plain["test_loss"].iloc[ends], **near
    )
    assert not np.allclose(prof.table["test_loss"][1:4], plain["test_loss"][1:4], rtol=0.01)
    for column in ("distance_a", "distance_b"):  # those of the path
        np.testing.assert_array_equal(prof.table[column], plain[column])


def test_both_ends_are_measured_once(
    endpoints: list[nn.Module], tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    plain = Repair._measured_end

    def counting(self: Repair, model: nn.Module) -> object:
        measured.append(model)
        return plain(self, model)

    monkeypatch.setattr(Repair, "_measured_end", counting)
    mc.profile(line(endpoints), tiny, 9, normalization="repair")
    assert len(measured) == 2


def test_repair_measures_on_the_same_training_images_as_the_reset(
    endpoints: list[nn.Module], small: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "_STATISTICS_IMAGES", 100)
    prof = mc.profile(line(endpoints), small, 3, ("test",), normalization="repair")
    model = repair(line(endpoints), 0.5, profiles.statistics_images(small))
    loss, _ = mc.evaluate(model, small.test)
    assert math.isclose(prof.table["test_loss"].iloc[1], loss, rel_tol=1e-4)


# the phenomenon -----------------------------------------------------------------------------


def test_between_networks_of_different_seeds_there_is_a_wall(
    endpoints: list[nn.Module], digits: mc.Data
) -> None:
    for a, b in zip(endpoints[::2], endpoints[1::2], strict=True):
        prof = mc.profile(mc.LinearPath(a, b), digits, 21)
        assert prof.table["test_accuracy"].iloc[[0, -1]].min() > 0.9
        for split in ("train", "test"):
            assert prof.barrier(split, "loss") > 0.3
            assert prof.barrier(split, "accuracy") > 0.1
        assert 0.2 < prof.barrier_at("test") < 0.8


def test_from_a_network_to_itself_there_is_none(
    endpoints: list[nn.Module], digits: mc.Data
) -> None:
    prof = mc.profile(mc.LinearPath(endpoints[0], endpoints[0]), digits, 9)
    assert prof.barrier("test", "loss") < 1e-12
    assert prof.table["test_loss"].nunique() == 1


def test_resetting_the_statistics_lowers_the_wall(normed: list[nn.Module], digits: mc.Data) -> None:
    for a, b in pairwise(normed):
        path = mc.LinearPath(a, b)
        none, reset = (
            mc.profile(path, digits, 9, ("test",), normalization=n) for n in ("none", "reset")
        )
        assert 0.2 < reset.barrier("test", "loss") < 0.75 * none.barrier("test", "loss")


# the length ---------------------------------------------------------------------------------


@given(LOSSES, st.data())
def test_the_average_is_the_trapezoid_rule_along_the_length(
    losses: list[float], draw: st.DataObject
) -> None:
    steps = draw.draw(
        st.lists(st.floats(0.01, 5), min_size=len(losses) - 1, max_size=len(losses) - 1)
    )
    prof = replace(of_losses(losses), arc=np.concatenate([[0.0], np.cumsum(steps)]))
    for what, f in (("loss", losses), ("accuracy", [1 / (1 + x) for x in losses])):
        areas = [h * (y + z) / 2 for h, (y, z) in zip(steps, pairwise(f), strict=True)]
        expected = math.fsum(areas) / math.fsum(steps)
        assert math.isclose(prof.average("test", what), expected, rel_tol=1e-9, abs_tol=1e-12)
        assert min(f) - 1e-9 <= prof.average("test", what) <= max(f) + 1e-9
    assert prof.average() == prof.average("test", "accuracy")


def test_the_average_of_known_profiles() -> None:
    prof = replace(of_losses([0, 4, 2]), arc=np.array([0.0, 1.0, 4.0]))
    assert math.isclose(prof.average("test", "loss"), (2 * 1 + 3 * 3) / 4)
    # on an even grid at constant speed it is the mean over t; ends count half
    even = replace(of_losses([0, 4, 2, 6, 0]), arc=np.linspace(0, 7, 5))
    assert math.isclose(even.average("test", "loss"), (4 + 2 + 6) / 4)
    scaled = replace(even, arc=100 * even.arc)
    assert math.isclose(scaled.average("test", "loss"), even.average("test", "loss"))


@pytest.mark.parametrize("normalization", [None, "repair"])
def test_the_arc_is_the_way_from_point_to_point_over_parameters(
    normed: list[nn.Module], tiny: mc.Data, normalization: str | None
) -> None:
    a, b, c, d = normed
    names = [name for name, _ in a.named_parameters()]
    for path in (mc.LinearPath(a, b), mc.BezierPath(a, b, [c]), mc.PolychainPath(a, b, [d, c])):
        prof = mc.profile(path, tiny, 6, ("test",), normalization=normalization)
        ts = prof.table["t"].tolist()
        steps = [weights.distance(path.at(s), path.at(t), names) for s, t in pairwise(ts)]
        expected = [math.fsum(steps[:i]) for i in range(len(ts))]
        np.testing.assert_allclose(prof.arc, expected, rtol=1e-5)
        assert prof.arc[0] == 0
        f = prof.table["test_accuracy"].tolist()
        areas = [h * (y + z) / 2 for h, (y, z) in zip(steps, pairwise(f), strict=True)]
        assert math.isclose(prof.average(), math.fsum(areas) / expected[-1], rel_tol=1e-5)
        if path.kind == "linear":  # of constant speed
            even = float(np.mean((np.array(f)[1:] + np.array(f)[:-1]) / 2))
            assert math.isclose(prof.average(), even, rel_tol=1e-5)
            np.testing.assert_allclose(prof.arc, prof.table["distance_a"], rtol=1e-5)


def test_what_has_no_length_has_no_average(endpoints: list[nn.Module], tiny: mc.Data) -> None:
    still = mc.profile(mc.LinearPath(endpoints[0], endpoints[0]), tiny, 3)
    with pytest.raises(ValueError, match="length of the path to be above 0, found 0"):
        still.average()
    with pytest.raises(ValueError, match="length of the path to be above 0, found none"):
        of_losses([1, 2]).average()
    prof = replace(of_losses([1, 2]), arc=np.array([0.0, 1.0]))
    with pytest.raises(mc.UnknownNameError, match="'train_accuracy'"):
        prof.average("train")


def test_more_points_between_knots(normed: list[nn.Module], tiny: mc.Data) -> None:
    path = mc.PolychainPath(*normed[:2], bends=1, knots=[0.0, 0.3, 1.0])
    found = mc.profile(path, tiny, points=2, between=3, progress=False)
    inside = [0.3 * k / 4 for k in (1, 2, 3)] + [0.3 + 0.7 * k / 4 for k in (1, 2, 3)]
    assert found.table["t"].tolist() == pytest.approx(sorted([0.0, 0.3, 1.0, *inside]))
    with pytest.raises(ValueError, match="at least 0 points between two knots, found -1"):
        mc.profile(path, tiny, between=-1, progress=False)
