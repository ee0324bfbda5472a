"""Toward the origin: the laws of shrinking, what is held, and learning rates that follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.checkpoints import epoch_seed
from mcbook.errors import IncompatibleError, UnknownNameError
from mcbook.paths import load_path
from mcbook.paths.layerwise import LayerwisePath


class Normed(nn.Module):
    """A batch norm, a layer norm and an RMS norm between linear layers."""

    def __init__(self, seed: int = 0, last: nn.Module | None = None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.one, self.batch = nn.Linear(64, 6), nn.BatchNorm1d(6)
            self.two, self.layer = nn.Linear(6, 6), nn.LayerNorm(6)
            self.three, self.rms = nn.Linear(6, 6, bias=False), nn.RMSNorm(6)
            self.last = nn.Linear(6, 10)
            for norm in (self.batch, self.layer, self.rms):
                nn.init.uniform_(norm.weight, 0.5, 2)
        self.more = nn.Identity() if last is None else last

    def forward(self, x: Tensor) -> Tensor:
        x = self.batch(self.one(x.flatten(1))).relu()
        x = self.layer(self.two(x)).tanh()
        return self.last(self.more(self.rms(self.three(x))))


def origin(a: nn.Module, data: mc.Data, **options: Any) -> LayerwisePath:
    settings = {"ticks": 8, "step": 0.1, "rounds": (1, 2), "points": 8, "batch_size": 16,
                "progress": False}  # fmt: skip
    return mc.path_to_origin(a, data, **{**settings, **options})


def test_without_retraining_weights_shrink_by_the_step(tiny: mc.Data) -> None:
    a = Normed().double()
    path = origin(a, in_double(tiny), rounds=(0, 0))
    for name, p in a.named_parameters():
        kind = name.split(".")[0]
        factor = {"batch": 1.0, "layer": 1.1, "rms": 1.1}.get(kind, 0.9)
        for tick in range(9):
            expected = factor**tick * p.detach()
            torch.testing.assert_close(
                path.control_points[name][tick], expected, rtol=1e-12, atol=0
            )
        if kind == "batch":
            assert torch.equal(path.control_points[name], p.detach().expand(9, *p.shape))
        if kind in ("batch", "layer", "rms"):
            assert (path.distances[name] == 0).all()
        else:
            norm = float(p.detach().norm())
            assert path.distances[name].tolist() == pytest.approx([norm * 0.9**k for k in range(9)])
    # no distance of a norm is in it
    assert path.log["distance"].tolist() == pytest.approx([0.9**k for k in range(9)], rel=1e-6)
    assert path.targets.isna().all().all()
    assert math.isnan(path.closing)
    assert not path.converged
    assert "nothing was retrained" in path.shortfalls[0]
    assert [n for s in path.stages for n in s] == [
        n for n, _ in a.named_parameters() if not n.startswith("batch")
    ]
    assert path.log["moved"].tolist()[1:] == [len(path.stages[0])] * 8


def in_double(data: mc.Data) -> mc.Data:
    return mc.Data(
        train=mc.Split(data.train.x.double(), data.train.y), test=data.test,
        classes=data.classes, name=data.name, fingerprint=data.fingerprint,
    )  # fmt: skip


def slow_origin(
    a: nn.Module, data: mc.Data, ticks: int, alpha: float, lr: float, power: float
) -> dict[str, Tensor]:
    """One minibatch a tick; rates by variance for weights of linear layers."""
    held = {n: p.detach().clone() for n, p in a.named_parameters()}
    first = {n: float(x.var(correction=0)) for n, x in held.items()}
    order = torch.randperm(
        len(data.train), generator=torch.Generator().manual_seed(epoch_seed(0, 0))
    )
    for tick in range(ticks):
        for name, x in held.items():
            kind = name.split(".")[0]
            if kind != "batch":
                x *= 1 + alpha if kind in ("layer", "rms") else 1 - alpha
        point = {n: x.clone().requires_grad_() for n, x in held.items()}
        chosen = order[16 * tick : 16 * tick + 16]
        a.train()
        logits = torch.func.functional_call(a, point, (data.train.x[chosen],))
        slopes = torch.autograd.grad(
            F.cross_entropy(logits, data.train.y[chosen]), list(point.values())
        )
        for (name, x), slope in zip(held.items(), slopes, strict=True):
            rate = 1.0
            if name in ("one.weight", "two.weight", "three.weight", "last.weight"):
                rate = (float(x.var(correction=0)) / first[name]) ** power
            x -= lr * rate * slope
    return held


@pytest.mark.parametrize(("conformal", "power"), [(None, 0), ("variance", 1), ("std", 0.5)])
def test_it_is_the_slow_one(tiny: mc.Data, conformal: str | None, power: float) -> None:
    data = in_double(tiny)
    path = origin(Normed().double(), data, ticks=4, step=0.2, rounds=(1, 1), lr=0.5, points=4,
                  momentum=0, conformal=conformal)  # fmt: skip
    for name, x in slow_origin(Normed().double(), data, 4, 0.2, 0.5, power).items():
        torch.testing.assert_close(path.control_points[name][-1], x, rtol=1e-4, atol=1e-6)


def test_weights_become_short_while_the_loss_stays_low(
    endpoints: list[nn.Module], digits: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    a = endpoints[0]
    unchanged = untouched(a)
    path = origin(a, digits, ticks=60, step=0.02, rounds=(3, 20), momentum=0.9, batch_size=64,
                  points=10)  # fmt: skip
    unchanged()
    assert path.converged, path
    assert path.relative_distance < 0.9
    assert (path.log["distance"].diff()[1:] < 0.01).all()
    losses = [mc.evaluate(path.model_at(t), digits.train)[0] for t in path.knots]
    assert max(losses) < path.threshold + 0.1
    at = path.at(0)
    assert all(torch.equal(at[n], x) for n, x in a.state_dict().items())
    # the end is the last point of the walk, not A
    assert len(path.knots) == 11
    assert path.tick_at(1.0) == 60
    length = math.sqrt(sum(float(x.square().sum()) for x in path.at(1).values()))
    whole = math.sqrt(sum(float(x.square().sum()) for x in at.values()))
    assert length / whole == pytest.approx(path.relative_distance, rel=1e-5)


def test_it_says_why_it_did_not_converge(endpoints: list[nn.Module], small: mc.Data) -> None:
    a = endpoints[0]
    path = origin(a, small, ticks=12, step=0.3, lr=1e-6, rounds=(1, 2), threshold=0.7)
    assert not path.converged
    assert len(path.shortfalls) == 2
    assert "of the ticks took the most rounds" in path.shortfalls[0]
    assert "the last loss is 2." in path.shortfalls[1]
    assert "above 0.7" in path.shortfalls[1]
    low = origin(a, small, ticks=3, step=1e-6, threshold=0.9)
    assert low.converged
    assert low.threshold == 0.9


def test_stages_leave_batch_norm_out(tiny: mc.Data, tmp_path: Path) -> None:
    a = Normed()
    stages = [["one", "batch"], ["two", "layer", "three", "rms"], ["last"]]
    path = origin(a, tiny, stages=stages, ticks=[2, 2, 4], rounds=(0, 0))
    assert path.stages[0] == ("one.weight", "one.bias")
    assert [len(s) for s in path.stages] == [2, 6, 2]
    for name, still in {"one.weight": 0, "two.weight": 2, "last.bias": 4}.items():
        way = path.distances[name].tolist()
        assert way[still] == way[0]
        assert way[still + 1] < way[0]
    # norms that are held need no stage; all else does
    assert origin(a, tiny, stages=[s[:1] for s in stages] + [["two", "layer", "three", "rms"]],
                  ticks=[1, 1, 1, 1], rounds=(0, 0)).stages == [
        path.stages[0], ("two.weight", "two.bias"), path.stages[2],
        tuple(n for n in path.stages[1] if n[:3] != "two"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="found none for layer.weight"):
        origin(a, tiny, stages=[["one"], ["two", "three", "rms"], ["last"]])
    flow = origin(a, tiny, stages="flow", example=tiny.train.x[:1], rounds=(0, 0))
    assert [s[0] for s in flow.stages] == [
        "one.weight", "two.weight", "three.weight", "last.weight"
    ]  # fmt: skip
    found = load_path(path.save(tmp_path / "path"), a)
    assert isinstance(found, LayerwisePath)
    assert math.isnan(found.closing)
    assert found.log.equals(path.log)
    assert found.shortfalls == path.shortfalls


def test_a_walk_goes_on_and_another_is_refused(tiny: mc.Data, tmp_path: Path) -> None:
    a, file = Normed(), tmp_path / "walk"
    options: dict[str, Any] = {"conformal": "variance", "checkpoint": file}
    whole = origin(a, tiny, **options)
    again = origin(a, tiny, **options)
    assert again.log.equals(whole.log)
    assert all(torch.equal(p, again.control_points[n]) for n, p in whole.control_points.items())
    with pytest.raises(IncompatibleError, match="expected spheres = "):
        origin(a, tiny, **{**options, "conformal": "std"})
    with pytest.raises(IncompatibleError, match="expected legs = "):
        origin(a, tiny, **{**options, "ticks": 9})


@pytest.mark.parametrize(
    ("norm", "name"),
    [(nn.GroupNorm(2, 6), "GroupNorm"), (nn.InstanceNorm1d(6, affine=True), "InstanceNorm1d")],
)
def test_other_norms_are_refused_by_name(tiny: mc.Data, norm: nn.Module, name: str) -> None:
    with pytest.raises(IncompatibleError, match=rf"found {name} \(more.weight\)"):
        origin(Normed(last=norm), tiny)
    # without parameters there is nothing to keep
    plain = nn.GroupNorm(2, 6, affine=False)
    origin(Normed(last=plain), tiny, ticks=2, rounds=(0, 0))


def test_numbers_no_walk_can_use_are_refused(tiny: mc.Data) -> None:
    a = Normed()
    with pytest.raises(UnknownNameError, match="conformal"):
        origin(a, tiny, conformal="var")
    with pytest.raises(ValueError, match="optimizer = 'sgd' for conformal learning rates"):
        origin(a, tiny, conformal="std", optimizer="adam")
    with pytest.raises(ValueError, match="at least A's own loss, .* found 0.5"):
        origin(a, tiny, threshold=0.5)
    for options, words in (
        ({"step": 1.5}, "step in"), ({"rounds": (3, 2)}, "least <= most"),
        ({"points": 0}, "points"),
        ({"images": 0}, "images"), ({"ticks": 1}, "at least 2 ticks"), ({"step": 0}, "above 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            origin(a, tiny, **options)
    with pytest.raises(UnknownNameError, match="field of the recipe"):
        origin(a, tiny, arc_step=0.1)
    with pytest.raises(TypeError, match="data"):
        mc.path_to_origin(a, a)
