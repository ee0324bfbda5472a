"""Options of layer-wise walks: spheres, thresholds, bad input, and each reason for failure."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.errors import IncompatibleError, UnknownNameError
from mcbook.evaluation import evaluate
from mcbook.paths.layerwise import LayerwisePath, _shortfalls
from mcbook.paths.retraining import checked_threshold, own_loss
from mcbook.training import checked_recipe


def walk(a: nn.Module, b: nn.Module, data: mc.Data, **options: Any) -> LayerwisePath:
    settings = {"ticks": 8, "stages": "all", "step": 0.2, "rounds": (1, 2), "points": 8,
                "images": 100, "batch_size": 50, "progress": False}  # fmt: skip
    return mc.layerwise_path(a, b, data, **{**settings, **options})


def length(net: nn.Module) -> float:
    return math.sqrt(sum(float(p.detach().square().sum()) for p in net.parameters()))


@pytest.fixture(scope="module")
def shrunken(digits: mc.Data) -> nn.Module:
    """Trained with weight decay: on smaller spheres."""
    return mc.train(
        mc.build_model("mlp", digits, width=(64, 64, 64), seed=11), digits, 60, seed=11, lr=0.05,
        momentum=0.9, batch_size=64, weight_decay=5e-3, progress=False,
    )  # fmt: skip


# spheres --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sphere", ["interpolated", "shrink"])
def test_networks_on_different_spheres_are_connected(
    independent: list[nn.Module], shrunken: nn.Module, digits: mc.Data, sphere: str
) -> None:
    a, b = independent[0], shrunken
    assert length(a) > 1.3 * length(b)
    line = mc.profile(mc.LinearPath(a, b), digits, points=11, progress=False).barrier("train")
    path = walk(a, b, digits, sphere=sphere, ticks=None, step=0.05, rounds=(5, 30), momentum=0.9,
                points=40, batch_size=128, threshold=0.12, images=2000)  # fmt: skip
    assert path.converged, path
    inside = [(s + t) / 2 for s, t in zip(path.knots, path.knots[1:], strict=False)]
    highest = max(evaluate(path.model_at(t), digits.train)[0] for t in (*path.knots, *inside))
    assert line > 0.5
    assert highest <= 0.15
    last = {n: p[-2] for n, p in path.control_points.items()}
    for name, p in b.named_parameters():
        found = float(last[name].double().var(correction=0))
        assert found == pytest.approx(float(p.detach().double().var(correction=0)), rel=1e-4)
        assert torch.equal(path.control_points[name][-1], p.detach())
        assert float(last[name].norm()) == pytest.approx(float(p.detach().norm()), rel=0.05)
    if sphere == "shrink":
        half = len(path.log) // 2
        assert path.targets.iloc[: half + 1].isna().all().all()
        assert path.targets.iloc[half + 1 :].notna().all().all()
        goal = dict(b.named_parameters())
        for name, x in path.control_points.items():
            # halfway every tensor has the length of B's, and still points where it did
            now = x[20]
            assert float(now.norm()) == pytest.approx(float(goal[name].detach().norm()), rel=0.1)
        assert path.distances.iloc[half].sum() > 0.5 * path.distances.iloc[0].sum()


def test_on_the_spheres_of_a_one_does_not_reach_b(
    independent: list[nn.Module], shrunken: nn.Module, digits: mc.Data
) -> None:
    path = walk(independent[0], shrunken, digits, sphere="start", ticks=30, step=0.1, momentum=0.9)
    assert not path.converged
    assert path.relative_distance > 0.2
    assert any("of the distance are left" in words for words in path.shortfalls)
    targets = path.targets
    assert ((targets / targets.iloc[0] - 1).abs() < 1e-12).all().all()
    assert ((path.variances / targets - 1).abs() <= 1e-4).all().all()


def test_without_spheres_variances_fall_on_the_way(
    independent: list[nn.Module], digits: mc.Data
) -> None:
    a, b = independent[:2]
    options: dict[str, Any] = {"ticks": 8, "step": 0.2, "rounds": (0, 0)}
    free = walk(a, b, digits, sphere="free", **options)
    assert free.targets.isna().all().all()
    least = free.variances[["linear1.weight", "linear2.weight", "linear3.weight"]].min()
    assert (least < 0.7 * free.variances[least.index].iloc[0]).all()
    # the straight line, without retraining
    for _name, p in free.control_points.items():
        torch.testing.assert_close(p[3], torch.lerp(p[0], p[-1], 1 - 0.8**3))


def test_outward_is_refused(
    independent: list[nn.Module], shrunken: nn.Module, digits: mc.Data
) -> None:
    with pytest.raises(ValueError, match=r"A of longer weights than B .* walk from B to A"):
        walk(shrunken, independent[0], digits, sphere="shrink")


@pytest.mark.parametrize("ticks", [12, 13, [2, 3, 4]])
def test_shrinking_has_all_its_ticks(tiny: mc.Data, ticks: Any) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(6, 5), seed=s) for s in (0, 1))
    with torch.no_grad():
        for p in b.parameters():
            p.mul_(0.5)
    stages = [["linear1"], ["linear2"], ["output"]]
    path = walk(a, b, tiny, sphere="shrink", ticks=ticks, stages=stages, rounds=(0, 0))
    assert len(path.log) - 1 == (ticks if isinstance(ticks, int) else 2 + 3 + 4 + 4)
    # first all, then stage by stage
    assert list(dict.fromkeys(path.log["moved"][1:])) == [6, 2, 4]
    assert path.log["stage"].max() == 4


def test_tensors_without_variance_are_left_free(tiny: mc.Data) -> None:
    """New batch norms have weights of one: no sphere, no target, no NaN."""
    a, b = (mc.build_model("mlp", tiny, width=(6,), norm="batch", seed=s).train() for s in (0, 1))
    for sphere in ("start", "interpolated"):
        path = walk(a, b, tiny, sphere=sphere, batch_size=16)
        assert path.targets[["norm1.weight", "norm1.bias"]].isna().all().all()
        others = [n for n in path.targets if "norm" not in n]
        assert ((path.variances[others] / path.targets[others] - 1).abs() < 1e-4).all().all()
        assert (path.variances["norm1.weight"][1:] > 0).all()  # retraining moved them
        assert all(p.isfinite().all() for p in path.control_points.values())


# thresholds -----------------------------------------------------------------------------------


def test_thresholds(endpoints: list[nn.Module], digits: mc.Data) -> None:
    assert checked_threshold(None, 0.2, 0.1) == pytest.approx(0.42)
    assert checked_threshold(None, 0.1, 0.2) == pytest.approx(0.42)
    assert checked_threshold(None, 0.2, None) == pytest.approx(0.42)
    assert checked_threshold(None, 0.01, 1.0, guessing=2.3) == pytest.approx(2.02)
    # two networks that know nothing are as good as each other
    assert checked_threshold(None, 2.2, 2.3, guessing=2.3) == pytest.approx(4.62)
    with pytest.warns(UserWarning, match="below B's own loss, 2.3"):
        assert checked_threshold(None, 0.01, 2.3, guessing=2.3) == pytest.approx(0.04)
    assert checked_threshold(0.2, 0.2, 0.2) == 0.2
    assert checked_threshold(0.3, 0.2, None) == 0.3
    for bad in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="threshold above 0"):
            checked_threshold(bad, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"A's own loss, 0.2 as .*, found 0.19"):
        checked_threshold(0.19, 0.2, 0.1)
    with pytest.warns(UserWarning, match="0.15 is below B's own loss, 0.2 "):
        assert checked_threshold(0.15, 0.1, 0.2) == 0.15


def test_a_threshold_below_the_loss_of_a_is_refused_at_once(
    endpoints: list[nn.Module], digits: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcbook.paths.walking import Walk

    def never(self: Walk, *args: Any) -> None:
        raise AssertionError("it walked")

    monkeypatch.setattr(Walk, "run", never)
    with pytest.raises(ValueError, match="A's own loss"):
        walk(*endpoints[:2], digits, threshold=1e-4)


def test_below_the_loss_of_b_one_cannot_arrive(endpoints: list[nn.Module], digits: mc.Data) -> None:
    b = mc.build_model("mlp", digits, width=(16, 16), seed=50)
    with pytest.warns(UserWarning, match="below B's own loss, 2.3") as caught:
        path = walk(endpoints[0], b, digits, threshold=1.0, ticks=10)
    assert caught[0].filename == __file__  # it points at who called
    assert path.closing >= 2.2
    assert path.shortfalls[-1] == f"the closing piece has a loss of {path.closing:.3g}, above 1"
    assert not path.converged


def test_the_default_threshold_is_of_the_worse_end(
    endpoints: list[nn.Module], digits: mc.Data
) -> None:
    recipe = checked_recipe({"batch_size": 50})
    losses = [own_loss(m, digits, recipe, 100, 0) for m in endpoints[:2]]
    split = digits.subset(train=100).train
    assert losses == pytest.approx([evaluate(m, split)[0] for m in endpoints[:2]], rel=1e-5)
    path = walk(*endpoints[:2], digits, ticks=2)
    losses = [own_loss(path.model_at(t), digits, recipe, 100, 0) for t in (0, 1)]
    assert path.threshold == pytest.approx(2 * max(losses) + 0.02)
    assert path.log["loss"].iloc[0] == losses[0]


def test_the_own_loss_is_as_retraining_sees_it(
    normed: list[nn.Module], digits: mc.Data, same_random_state: None
) -> None:
    net, part = normed[0], digits.subset(train=100).train
    recipe = checked_recipe({"batch_size": 33})
    found = own_loss(net, digits, recipe, 100, 0)  # batches of 33, 33, 33; one image is left out
    twin, total = copy.deepcopy(net).train(), 0.0
    for k in range(3):
        x, y = part.x[33 * k : 33 * k + 33], part.y[33 * k : 33 * k + 33]
        total += float(nn.functional.cross_entropy(twin(x), y).detach()) / 3
    assert found == pytest.approx(total, rel=1e-5)
    shifted = checked_recipe({"batch_size": 33, "augment": True})
    assert own_loss(net, digits, shifted, 100, 0) > 1.5 * found
    assert own_loss(net, digits, shifted, 100, 0) == own_loss(net, digits, shifted, 100, 0)


# why it has not converged ---------------------------------------------------------------------


def made(**facts: Any) -> Any:
    """A walk with nothing to complain of, but for what is told."""
    share = facts.pop("share", 0.5)
    log = pd.DataFrame({
        "at_most": [False, *[True] * round(10 * share), *[False] * round(10 - 10 * share)],
        "batches": [0, *range(facts.pop("first", 5), 15)][:11],
    })  # fmt: skip
    base = {"log": log, "relative_distance": 0.05, "closing": 0.3, "threshold": 0.3}
    return SimpleNamespace(**{**base, **facts})


def test_each_criterion_alone_is_enough() -> None:
    assert _shortfalls(made()) == []
    (words,) = _shortfalls(made(share=0.6))
    assert words == "60% of the ticks took the most rounds"
    (words,) = _shortfalls(made(relative_distance=0.051))
    assert words == "5.1% of the distance are left"
    (words,) = _shortfalls(made(closing=0.31))
    assert words == "the closing piece has a loss of 0.31, above 0.3"
    assert len(_shortfalls(made(closing=math.nan))) == 1
    still = made()
    still.log["batches"] = 0
    (words,) = _shortfalls(still)
    assert words == "nothing was retrained, so that no loss on the way is known"
    assert len(_shortfalls(made(share=1, relative_distance=1, closing=9))) == 3


def test_walks_that_fail_for_one_reason_each(endpoints: list[nn.Module], digits: mc.Data) -> None:
    a, b = endpoints[:2]
    short = walk(a, b, digits, ticks=3, step=0.05, threshold=2.0)
    assert len(short.shortfalls) == 1
    assert "of the distance are left" in short.shortfalls[0]
    slow = walk(a, b, digits, ticks=25, lr=1e-6, threshold=0.2, rounds=(1, 2),
                stages=[["linear1"], ["linear2"], ["output"]])  # fmt: skip
    assert slow.log["at_most"][1:].mean() > 0.5
    assert len(slow.shortfalls) == 1
    assert "took the most rounds" in slow.shortfalls[0]
    assert walk(a, b, digits, ticks=25, threshold=3.0).converged


@pytest.mark.parametrize("ticks", [3, 20])
def test_the_closing_piece_is_measured_with_statistics_of_its_own(
    normed: list[nn.Module], digits: mc.Data, ticks: int
) -> None:
    a, b = normed[:2]
    path = walk(a, b, digits, ticks=ticks, rounds=(1, 1), images=200)
    part = digits.subset(train=200).train
    last = path.model_at(path.knots[-2])
    line = mc.LinearPath(last, b)
    found = []
    for k in range(11):
        net = line.model_at(k / 10)
        _measured(net, part.x)
        found.append(evaluate(net, part)[0])
    # far from B it is high in between; near, at B itself
    if ticks == 3:
        assert max(found) > 1.2 * max(found[0], found[-1])
    else:
        assert max(found) == found[-1] > 1.03 * max(found[:6])
    assert path.closing == pytest.approx(max(found), rel=5e-3)


def _measured(net: nn.Module, x: Tensor) -> None:
    """Batch-norm statistics over all images at once, layer by layer."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats()
            m.momentum = None
    net.train()
    with torch.no_grad():
        net(x)
    net.eval()


# bad input ------------------------------------------------------------------------------------


def test_bad_input_is_named(endpoints: list[nn.Module], digits: mc.Data) -> None:
    a, b = endpoints[:2]
    with pytest.raises(UnknownNameError, match="layer in stages.*linear9.*linear1"):
        walk(a, b, digits, stages=[["linear1"], ["linear9"], ["output"]])
    with pytest.raises(
        ValueError, match="every layer in some stage, found none for linear2.weight"
    ):
        walk(a, b, digits, stages=[["linear1"], ["output"]])
    with pytest.raises(UnknownNameError, match="order of stages"):
        walk(a, b, digits, stages="forward")
    with pytest.raises(UnknownNameError, match="sphere.*interp"):
        walk(a, b, digits, sphere="interp")
    with pytest.raises(UnknownNameError, match="rule"):
        walk(a, b, digits, rule="min")
    with pytest.raises(UnknownNameError, match="field of the recipe"):
        walk(a, b, digits, learning_rate=0.1)
    with pytest.raises(IncompatibleError, match="linear2.weight"):
        walk(a, mc.build_model("mlp", digits, width=(16, 17)), digits)
    with pytest.raises(TypeError, match="data, as load_data"):
        walk(a, b, digits.train)  # type: ignore[arg-type]
    plain = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
    with pytest.raises(ValueError, match="expected an example of the input"):
        walk(*plain, digits, stages="flow")
    for options, words in (
        ({"step": -0.1}, r"step in \[0, 1\]"), ({"arc_step": -1}, "arc_step"),
        ({"rounds": (5, 4)}, "least <= most"), ({"points": 0}, "points"),
        ({"images": 0}, "images"), ({"ticks": 1}, "at least 2 ticks for 1 stages"),
        ({"ticks": [3, 3]}, "each of the 1 stages"), ({"step": 0, "ticks": None}, "above 0"),
        ({"stages": 0}, "at least 1 stage"), ({"lr": -1}, "learning rate"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            walk(a, b, digits, **options)


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_other_norms_walk_too(tiny: mc.Data, kind: str) -> None:
    def net(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            norm = nn.LayerNorm(6) if kind == "layer" else nn.GroupNorm(2, 6)
            found = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), norm, nn.ReLU(), nn.Linear(6, 10))
            nn.init.uniform_(norm.weight, 0.5, 2)
        return found

    a, b = net(0), net(1)
    path = walk(a, b, tiny, stages="flow", example=tiny.train.x[:1], ticks=5, batch_size=16)
    assert path.stages == [
        ("1.weight", "1.bias", "2.weight", "2.bias"), ("4.weight", "4.bias")
    ]  # fmt: skip
    assert (path.distances["2.weight"].diff()[1:] < 0.01).all()
    assert path.log["distance"].iloc[-1] < 0.7


def test_stages_and_ticks_by_default(endpoints: list[nn.Module], digits: mc.Data) -> None:
    path = mc.layerwise_path(*endpoints[:2], digits, step=0.3, rounds=(0, 0), progress=False)
    assert [s[0].split(".")[0] for s in path.stages] == ["linear1", "linear2", "output"]
    last = math.ceil(math.log(0.01) / math.log(0.7))
    each = math.ceil(last / 2)
    assert path.log["stage"].value_counts().sort_index().tolist() == [1, each, each, last]
    assert len(path.knots) == min(100, 2 * each + last) + 2
    fewer = walk(*endpoints[:2], digits, stages=2)
    assert len(fewer.stages) == 2
