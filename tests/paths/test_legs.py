"""The plan of a walk: how far, how often, in what order; and where the tensors are going."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import mcbook as mc
from mcbook.errors import UnknownNameError
from mcbook.paths.courses import ToModel, ToOrigin, ToSpheres, norm_parameters
from mcbook.paths.legs import (
    Leg,
    Step,
    check_rounds,
    checked_step,
    chosen_stages,
    growing,
    schedule,
    ticks_of,
)
from mcbook.paths.spheres import variance

# how far --------------------------------------------------------------------------------------

part = st.floats(0, 1)


@given(part, st.floats(0, 3), st.floats(0, 3), st.floats(0, 10), st.floats(0, 10))
def test_a_step_is_what_the_formula_says_and_never_beyond(
    alpha: float, beta: float, gamma: float, way: float, arc: float
) -> None:
    added = Step(alpha, beta, gamma).length(way, arc)
    greater = Step(alpha, beta, gamma, "max").length(way, arc)
    assert added == pytest.approx(min(way, alpha * way + beta * arc + gamma))
    assert greater == pytest.approx(min(way, max(alpha * way, beta * arc + gamma)))
    assert 0 <= greater <= added <= way


@given(st.floats(0, 1), st.integers(1, 500))
@example(1e-20, 3)
def test_what_is_behind_grows_from_0_to_1(alpha: float, total: int) -> None:
    found = [Step(alpha).done(k, total) for k in range(total + 1)]
    assert found[0] == 0
    assert found[-1] == 1
    assert all(a <= b for a, b in itertools.pairwise(found))
    assert Step(alpha).done(total + 3, total) == 1.0


def test_what_is_behind_follows_the_step() -> None:
    """Walking `α` of what is left, the parts of the whole way are those."""
    left, found = 1.0, []
    for _ in range(12):
        left *= 1 - 0.3
        found.append(1 - left)
    way = Step(0.3)
    for k, part_behind in enumerate(found, 1):
        assert way.done(k, 12) == pytest.approx(part_behind / found[-1], rel=1e-12)
    assert Step(0.0, 0.1).done(3, 12) == Step(1.0).done(3, 12) == 0.25


def test_numbers_no_step_can_have_are_refused() -> None:
    assert checked_step(0.1, 0.2, 0.3, "max") == Step(0.1, 0.2, 0.3, "max")
    checked_step(0.0, 0.0, 0.1, "sum"), checked_step(1.0, 0.0, 0.0, "sum")
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"step in \[0, 1\]"):
            checked_step(bad, 0.1, 0.1, "sum")
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="arc_step of at least 0"):
            checked_step(0.1, bad, 0, "sum")
        with pytest.raises(ValueError, match="fixed_step of at least 0"):
            checked_step(0.1, 0, bad, "sum")
    with pytest.raises(ValueError, match="a step above 0, found step = arc_step = fixed_step = 0"):
        checked_step(0, 0, 0, "sum")
    with pytest.raises(UnknownNameError, match="rule of the step"):
        checked_step(0.1, 0, 0, "mean")


# how often ------------------------------------------------------------------------------------


def test_ticks_that_are_not_given_leave_one_percent() -> None:
    for alpha in (0.005, 0.02, 0.3):
        counts = ticks_of(None, 4, Step(alpha))
        assert len(counts) == 4
        assert len(set(counts[:3])) == 1
        assert (1 - alpha) ** counts[-1] <= 0.01 < (1 - alpha) ** (counts[-1] - 1)
        assert counts[0] == math.ceil(counts[-1] / 2)
    assert len(ticks_of(None, 1, Step(0.02))) == 1
    for alpha in (0.0, 1.0):
        with pytest.raises(ValueError, match="a number of ticks for a step of 0 or 1, found None"):
            ticks_of(None, 2, Step(alpha, 0.1))


@given(st.integers(1, 9), st.integers(0, 200))
def test_ticks_in_all_are_all_of_them(stages: int, more: int) -> None:
    way = Step(0.1)
    counts = ticks_of(stages + 1 + more, stages, way)
    assert sum(counts) == stages + 1 + more
    assert len(counts) == stages
    assert len(set(counts[:-1])) <= 1
    assert min(counts) >= 1
    if stages > 1:
        assert 2 * counts[0] <= counts[-1] < 3 * counts[0] + stages  # two shares
    inward = ticks_of(stages + 3 + more, stages, way, True)
    assert sum(inward) + inward[-1] in (stages + 3 + more, stages + 2 + more)
    assert inward[0] * (stages + 3) <= stages + 3 + more or stages == 1
    with pytest.raises(ValueError, match=f"at least {stages + 1} ticks for {stages} stages"):
        ticks_of(stages, stages, way)
    with pytest.raises(ValueError, match=f"at least {stages + 3} ticks for {stages} stages"):
        ticks_of(stages + 2, stages, way, True)


def test_ticks_of_each_stage() -> None:
    assert ticks_of([3, 0, 2], 3, Step(0.1)) == [3, 0, 2]
    for bad in ([3, 2], [1, 1, 1, 1], []):
        with pytest.raises(ValueError, match=f"each of the 3 stages, found {len(bad)} numbers"):
            ticks_of(bad, 3, Step(0.1))
    for bad in ([3, -1, 2], [3, 3, 0]):
        with pytest.raises(ValueError, match="of the last stage at least 1"):
            ticks_of(bad, 3, Step(0.1))


def test_rounds_points_and_images_are_checked() -> None:
    check_rounds((0, 0), 1, 1), check_rounds((2, 2), 1, 1)
    for bad in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="0 <= least <= most"):
            check_rounds(bad, 1, 1)
    with pytest.raises(ValueError, match="points of at least 1, found 0"):
        check_rounds((1, 2), 0, 1)
    with pytest.raises(ValueError, match="images of at least 1, found 0"):
        check_rounds((1, 2), 1, 0)


# in what order --------------------------------------------------------------------------------


def test_stages_grow() -> None:
    assert growing([[4, 2], [0], [3, 1]]) == [(2, 4), (0, 2, 4), (0, 1, 2, 3, 4)]


def test_the_schedule_counts_the_ticks_of_each_tensor() -> None:
    course, way = ToSpheres([]), Step(0.0, 0.1)  # equal parts
    legs = [
        Leg(course, (0, 1), 1), Leg(course, (1,), 2, 1), Leg(course, (0, 1), 2, 1),
    ]  # fmt: skip
    assert schedule(legs, way, 3) == [
        [0, 0, 0],
        [1, 1, 0],
        [0, 0.25, 0], [0, 0.5, 0],  # another phase: anew
        [0.5, 0.75, 0], [1, 1, 0],
    ]  # fmt: skip


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.floats(0.01, 0.99))
def test_every_tensor_is_done_at_the_end(ticks: list[int], alpha: float) -> None:
    ticks[-1] += 1
    active = growing([[k] for k in range(len(ticks))])
    legs = [Leg(ToSpheres([]), who, n) for who, n in zip(active, ticks, strict=True)]
    table = schedule(legs, Step(alpha), len(ticks))
    assert len(table) == sum(ticks) + 1
    assert table[-1] == [1.0] * len(ticks)
    for row, after in itertools.pairwise(table):
        assert all(x <= y for x, y in zip(row, after, strict=True))
        # who began earlier is never behind
        assert all(x >= y for x, y in itertools.pairwise(after))


class Net(nn.Module):
    """One frozen layer between two trained ones."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.mid, self.first = nn.Linear(3, 2), nn.Linear(3, 3), nn.Linear(4, 3)
        self.mid.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mid(self.first(x)))


def test_stages_are_of_what_is_trained() -> None:
    net, example = Net(), torch.zeros(1, 4)
    names = ["last.weight", "last.bias", "first.weight", "first.bias"]
    first, last = ("first.weight", "first.bias"), ("last.weight", "last.bias")
    assert chosen_stages(net, "all", names, None) == [tuple(names)]
    assert chosen_stages(net, "flow", names, example) == [first, last]  # none for what is frozen
    assert chosen_stages(net, 1, names, example) == [(*first, *last)]
    assert chosen_stages(net, [["last", "mid"], ["first"]], names, None) == [last, first]
    assert chosen_stages(net, [["last"], ["mid"], ["first"]], names, None) == [last, first]
    assert chosen_stages(net, "all", names, None, names[:1]) == [("last.weight",)]
    assert chosen_stages(net, "flow", names, example, names[:3]) == [("first.weight",), last]
    with pytest.raises(ValueError, match="found none for first.weight, first.bias"):
        chosen_stages(net, [["last"], ["mid"]], names, None)
    with pytest.raises(UnknownNameError, match="order of stages"):
        chosen_stages(net, "flows", names, example)
    with pytest.raises(ValueError, match="at least 1 stage"):
        chosen_stages(net, 0, names, example)


# where to -------------------------------------------------------------------------------------


def tensors(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(*shape, generator=generator) for shape in ((4, 5), (7,), (1,))]


def test_to_a_network() -> None:
    a, b = tensors(0), tensors(1, 3.0)
    for sphere, share in {"start": (0, 0), "end": (1, 1), "interpolated": (0, 1)}.items():
        course = ToModel(a, b, sphere)
        assert all(course.destination(i, a[i]) is b[i] for i in range(3))
        for done in ([0.0, 0.0, 0.0], [0.25, 0.5, 0.5], [1.0, 1.0, 1.0]):
            for f, v, x, y in zip(done, course.targets(done), a, b, strict=True):
                g = share[0] + (share[1] - share[0]) * f
                root = (1 - g) * math.sqrt(variance(x)) + g * math.sqrt(variance(y))
                assert v == pytest.approx(root**2, rel=1e-12)
        moved = [x.clone() for x in a]
        course.correct_(moved, [0.5] * 3)
        assert [variance(x) for x in moved] == pytest.approx(course.targets([0.5] * 3), rel=1e-5)
        assert torch.equal(moved[2], a[2])  # one entry


def test_to_the_origin() -> None:
    a = tensors(0)
    course = ToOrigin(a, [False, True, False], "variance", [True, False, True])
    assert not course.destination(0, a[0]).any()
    assert torch.equal(course.destination(1, a[1]), 2 * a[1])
    assert course.targets([0.5] * 3) is None
    moved = [0.5 * x for x in a]
    before = [x.clone() for x in moved]
    course.correct_(moved, [0.5] * 3)
    assert all(torch.equal(x, y) for x, y in zip(moved, before, strict=True))
    # η Var(W) / Var(A), for what it applies to and has a variance
    assert course.rates(moved) == pytest.approx([0.25, 1, 1], rel=1e-6)
    assert course.rates(a) == [1, 1, 1]
    assert ToOrigin(a, [False] * 3, "std", [True] * 3).rates(moved) == pytest.approx(
        [0.5, 0.5, 1], rel=1e-6
    )
    assert ToOrigin(a, [False] * 3, None, [True] * 3).rates(moved) == [1, 1, 1]


def test_to_the_spheres_of_a_network() -> None:
    a, b = tensors(0), tensors(1, 3.0)
    course = ToSpheres(b)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        goal = course.destination(i, x)
        assert float(goal.norm()) == pytest.approx(float(y.norm()), rel=1e-6)
        assert float((goal * x).sum()) == pytest.approx(float(goal.norm() * x.norm()), rel=1e-6)
    zero = torch.zeros(4, 5)
    assert torch.equal(course.destination(0, zero), zero)
    assert course.targets([0.5] * 3) is None
    assert course.conformal is None


def test_parameters_of_norms_are_known_by_their_layer(digits: mc.Data) -> None:
    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))
            self.rms, self.groups = nn.RMSNorm(4), nn.GroupNorm(2, 4)
            self.plain = nn.BatchNorm1d(4, affine=False)
            self.instance = nn.InstanceNorm1d(4, affine=True)

    found: dict[str, Any] = norm_parameters(Everything())
    assert found == {
        **dict.fromkeys(("inner.1.weight", "inner.1.bias"), "BatchNorm1d"),
        **dict.fromkeys(("inner.2.weight", "inner.2.bias"), "LayerNorm"),
        **dict.fromkeys(("groups.weight", "groups.bias"), "GroupNorm"),
        **dict.fromkeys(("instance.weight", "instance.bias"), "InstanceNorm1d"),
        "rms.weight": "RMSNorm",
    }
    assert set(norm_parameters(nn.BatchNorm2d(3))) == {"weight", "bias"}
