"""A fitted curve: the ends stay, the bend learns, a run goes on where it was stopped."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mcbook as mc
from mcbook import weights
from mcbook.checkpoints import epoch_seed
from mcbook.paths.moving import Moving

# the name of the module is that of the function, too
MODULE = importlib.import_module("mcbook.paths.curve_fitting")


@pytest.fixture(scope="module")
def nets(digits: mc.Data) -> list[nn.Module]:
    """Four pairs of perceptrons as the specification trains them."""
    return [
        mc.train(mc.build_model("mlp", digits, width=(16, 16), seed=s), digits, 60, seed=s,
                 optimizer="adam", lr=1e-3, progress=False)
        for s in range(8)
    ]  # fmt: skip


def fit(a: nn.Module, b: nn.Module, data: mc.Data, **options: Any) -> mc.Path:
    return mc.fit_curve(a, b, data, **{"steps": 6, "batch_size": 16, "progress": False, **options})


def same(a: mc.Path, b: mc.Path) -> bool:
    return all(torch.equal(p, b.control_points[n]) for n, p in a.control_points.items())


def slow_fit(
    a: nn.Module, b: nn.Module, data: mc.Data, steps: int, size: int, lr: float, decay: float
) -> dict[str, torch.Tensor]:
    """One bend, plain SGD without momentum, by automatic differentiation through the curve."""
    ends = [dict(m.named_parameters()) for m in (a, b)]
    bend = {n: ((x + ends[1][n]) / 2).detach().requires_grad_() for n, x in ends[0].items()}
    per_epoch = math.ceil(len(data.train) / size)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed(epoch_seed(0, epoch))
        order = torch.randperm(len(data.train), generator=generator)
        t = float(torch.rand(per_epoch, generator=generator, dtype=torch.float64)[place])
        chosen = order[place * size : (place + 1) * size]
        point = {
            n: (1 - t) ** 2 * x.detach() + 2 * t * (1 - t) * bend[n] + t**2 * ends[1][n].detach()
            for n, x in ends[0].items()
        }
        logits = torch.func.functional_call(a, point, (data.train.x[chosen],))
        loss = F.cross_entropy(logits, data.train.y[chosen])
        loss = loss + decay / 2 * sum(x.square().sum() for x in point.values())
        slopes = torch.autograd.grad(loss, list(bend.values()))
        for x, g in zip(bend.values(), slopes, strict=True):
            x.data -= lr * g
    return {n: x.detach() for n, x in bend.items()}


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_it_is_the_slow_one(tiny: mc.Data, decay: float) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(6, 5), seed=s).double() for s in (0, 1))
    data = mc.Data(
        train=mc.Split(tiny.train.x.double(), tiny.train.y), test=tiny.test,
        classes=tiny.classes, name=tiny.name, fingerprint=tiny.fingerprint,
    )  # fmt: skip
    path = fit(a, b, data, steps=11, optimizer="sgd", momentum=0.0, lr=0.5, schedule="constant",
               weight_decay=decay)  # fmt: skip
    slow = slow_fit(a, b, data, 11, 16, 0.5, decay)
    for name, x in slow.items():
        torch.testing.assert_close(path.control_points[name][1], x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
@pytest.mark.parametrize("bends", [1, 2, 3])
def test_the_gradient_reaches_each_bend_by_its_coefficient(
    tiny: mc.Data, kind: str, bends: int
) -> None:
    nets = [mc.build_model("mlp", tiny, width=(6,), seed=s).double() for s in range(2)]
    before = fit(*nets, tiny_double(tiny), kind=kind, bends=bends, steps=1, lr=1e-30)
    path = fit(*nets, tiny_double(tiny), kind=kind, bends=bends, steps=1, optimizer="sgd", lr=1.0,
               momentum=0.0, schedule="constant")  # fmt: skip
    generator = torch.Generator().manual_seed(epoch_seed(0, 0))
    torch.randperm(len(tiny.train), generator=generator)
    t = float(torch.rand(5, generator=generator, dtype=torch.float64)[0])
    c = path.coefficients(t)
    name = "linear1.weight"
    moves = (path.control_points[name] - before.control_points[name])[1:-1]
    whole = moves.flatten(1).norm(dim=1)
    assert (whole > 0).any()
    direction = moves[int(whole.argmax())] / c[1 + int(whole.argmax())]
    for k in range(bends):
        torch.testing.assert_close(moves[k], c[1 + k] * direction, rtol=1e-6, atol=1e-12)


def tiny_double(tiny: mc.Data) -> mc.Data:
    return mc.Data(
        train=mc.Split(tiny.train.x.double(), tiny.train.y), test=tiny.test,
        classes=tiny.classes, name=tiny.name, fingerprint=tiny.fingerprint,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
def test_ends_are_exact_and_nothing_is_touched(
    normed: list[nn.Module], small: mc.Data, kind: str, untouched: Callable, same_random_state: None
) -> None:
    a, b = normed[:2]
    unchanged = [untouched(m) for m in (a, b)]
    path = fit(a, b, small, kind=kind, bends=2)
    for check in unchanged:
        check()
    assert path.kind == kind
    for name, x in weights.of(a).items():
        assert torch.equal(path.at(0)[name], x)
        if x.is_floating_point():
            assert torch.equal(path.at(1)[name], weights.of(b)[name])
    straight = fit(a, b, small, kind=kind, bends=2, lr=1e-30)
    assert not torch.equal(path.at(0.5)["conv1.weight"], straight.at(0.5)["conv1.weight"])
    # what batch norm stores stays on the chord
    middle = mc.LinearPath(a, b).at(0.5)["norm1.running_mean"]
    torch.testing.assert_close(path.at(0.5)["norm1.running_mean"], middle)


def test_the_wall_is_gone_and_alignment_helps(nets: list[nn.Module], digits: mc.Data) -> None:
    """The specification's numbers: digits, MLP 64-16-16-10, four pairs, training barrier."""

    def barrier(path: mc.Path) -> float:
        return mc.profile(path, digits, splits=("train",), progress=False).barrier("train")

    naive, aligned, bent, bent_aligned = [], [], [], []
    for a, b in zip(nets[::2], nets[1::2], strict=True):
        moved = mc.activation_matching(a, b, digits, progress=False).model
        naive.append(barrier(mc.LinearPath(a, b)))
        aligned.append(barrier(mc.LinearPath(a, moved)))
        options = {"steps": 400, "batch_size": 64, "lr": 0.01}
        bent.append(barrier(fit(a, b, digits, **options)))
        bent_aligned.append(barrier(fit(a, moved, digits, **options)))
    mean = [sum(x) / 4 for x in (naive, aligned, bent, bent_aligned)]
    assert mean[0] > 1
    assert mean[1] < 0.5 * mean[0]
    assert mean[2] < mean[0] / 5
    assert mean[3] < mean[1] / 5
    assert mean[3] <= mean[2]


def test_a_polychain_and_batch_norm_are_fitted_too(
    normed: list[nn.Module], digits: mc.Data
) -> None:
    for kind in ("bezier", "polychain"):
        for a, b in (normed[:2], normed[2:]):
            line = mc.profile(mc.LinearPath(a, b), digits, 11, progress=False)
            path = fit(a, b, digits, kind=kind, steps=150, batch_size=32, lr=0.01)
            found = mc.profile(path, digits, 11, progress=False)
            assert found.barrier("test") < 0.5 * line.barrier("test")
            assert math.isclose(found.table["test_loss"].iloc[0], line.table["test_loss"].iloc[0])


def test_the_seed_decides(tiny: mc.Data) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(5,), seed=s) for s in (0, 1))
    assert same(fit(a, b, tiny, seed=3), fit(a, b, tiny, seed=3))
    assert not same(fit(a, b, tiny, seed=3), fit(a, b, tiny, seed=4))


def test_a_start_is_gone_on_from(tiny: mc.Data) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(5,), seed=s) for s in (0, 1))
    first = fit(a, b, tiny)
    again = fit(a, b, tiny, start=first, lr=1e-30)
    assert same(again, first)
    assert not same(fit(a, b, tiny, start=first), first)


class Killed(Exception):
    """What stops a run."""


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "sgd", "augment": True, "weight_decay": 1e-3}]
)
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_an_interrupted_run_comes_to_the_same_curve(
    tiny: mc.Data, tmp_path: Path, options: dict[str, Any], stop: int
) -> None:
    def net(seed: int) -> nn.Module:
        model = mc.build_model("mlp", tiny, width=(6,), seed=seed)
        return nn.Sequential(*model, nn.Dropout(0.2))  # draws random numbers

    a, b = net(0), net(1)
    seen: list[float] = []

    def calm(path: mc.Path) -> dict[str, float]:
        return {"seen": float(next(iter(path.control_points.values()))[1].sum())}

    def watch(path: mc.Path) -> dict[str, float]:
        seen.append(0.0)
        if len(seen) == stop + 1:
            raise Killed
        return calm(path)

    file = tmp_path / "curve"
    options = {"steps": 13, "every": 3, **options}
    whole = fit(a, b, tiny, watch=calm, **options)
    with pytest.raises(Killed):
        fit(a, b, tiny, watch=watch, checkpoint=file, **options)
    resumed = fit(a, b, tiny, watch=calm, checkpoint=file, **options)
    assert same(resumed, whole)
    assert resumed.history.equals(whole.history)
    finished = fit(a, b, tiny, watch=calm, checkpoint=file, **options)
    assert same(finished, whole)


def test_a_checkpoint_of_another_run_is_refused(tiny: mc.Data, tmp_path: Path) -> None:
    a, b, c = (mc.build_model("mlp", tiny, width=(5,), seed=s) for s in range(3))
    file = tmp_path / "curve"
    fit(a, b, tiny, checkpoint=file)
    for change, said in (
        ({"steps": 7}, "steps = 7, found 6"),
        ({"kind": "polychain"}, "kind = 'polychain', found 'bezier'"),
        ({"seed": 1}, "seed = 1, found 0"),
        ({"lr": 0.5}, "lr = 0.5"),
    ):
        with pytest.raises(mc.IncompatibleError, match=said):
            fit(a, b, tiny, checkpoint=file, **change)
    with pytest.raises(mc.IncompatibleError, match="expected control points"):
        fit(a, c, tiny, checkpoint=file)


def test_the_history_says_what_was_seen(tiny: mc.Data, tmp_path: Path) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(5,), seed=s) for s in (0, 1))
    path = fit(a, b, tiny, steps=8, every=3, watch=lambda p: {"two": 2.0}, lr=0.1,
               schedule="constant")  # fmt: skip
    table = path.history
    assert table["step"].tolist() == [0, 3, 6, 8]
    assert math.isnan(table["loss"][0])
    assert table["loss"][1:].between(0.5, 5).all()
    assert (table["two"] == 2).all()
    assert table["lr"].tolist()[1:] == [0.1] * 3
    path.save(tmp_path / "path")
    loaded = mc.load_path(tmp_path / "path")
    assert loaded.history["step"].tolist() == [0, 3, 6, 8]
    assert math.isnan(loaded.history["loss"][0])
    assert mc.LinearPath(a, b).history is None


def test_tied_frozen_and_other_tensors_follow_the_curve(tiny: mc.Data) -> None:
    class Own(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.first = nn.Linear(64, 64)
                self.again = nn.Linear(64, 64)
                self.again.weight = self.first.weight
                self.last = nn.Linear(64, 10)
            self.last.bias.requires_grad_(False)
            self.register_buffer("scale", torch.tensor(1.0 + seed))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x.flatten(1)).relu()
            return self.last(self.again(x).relu() * self.scale)

    a, b = Own(0), Own(1)
    path = fit(a, b, tiny)
    points = path.control_points
    assert torch.equal(points["first.weight"], points["again.weight"])
    assert not torch.allclose(points["first.weight"][1], points["first.weight"][::2].mean(0))
    for name in ("scale", "last.bias"):
        torch.testing.assert_close(points[name][1], points[name][::2].mean(0))
    moving = Moving(path)
    moving.to(path.coefficients(0.3).float())
    for name, x in path.at(0.3).items():
        torch.testing.assert_close(moving.model.state_dict()[name], x)
    # trained under one t, a frozen tensor is that of the curve there
    assert float(moving.model.scale) == pytest.approx(1.3)


def test_bad_input_is_refused(tiny: mc.Data, normed: list[nn.Module], small: mc.Data) -> None:
    a, b, c = (mc.build_model("mlp", tiny, width=(5,), seed=s) for s in range(3))
    for options, said in (
        ({"bends": 0}, "at least 1 bend, found 0"),
        ({"steps": 0}, "steps of at least 1, found 0"),
        ({"every": 0}, "every of at least 1, found 0"),
        ({"lr": -1}, "learning rate above 0, found -1"),
        ({"batch_size": 0}, "batch size of at least 1, found 0"),
        ({"start": mc.BezierPath(a, b, 2)}, "kind bezier with bends = 1, found kind bezier with 2"),
        ({"start": mc.PolychainPath(a, b)}, "bends = 1, found kind polychain with 1"),
        ({"start": mc.LinearPath(a, b)}, "found kind linear with 0"),
    ):
        with pytest.raises(ValueError, match=said):
            fit(a, b, tiny, **options)
    with pytest.raises(mc.UnknownNameError, match="kind of curve"):
        fit(a, b, tiny, kind="bezir")
    with pytest.raises(mc.UnknownNameError, match="field of the recipe"):
        fit(a, b, tiny, rate=1)
    with pytest.raises(mc.IncompatibleError, match="from A to B, found other ends"):
        fit(a, b, tiny, start=mc.BezierPath(a, c))
    with pytest.raises(mc.IncompatibleError, match="no path joins these networks"):
        fit(a, mc.build_model("mlp", tiny, width=(6,)), tiny)
    with pytest.raises(TypeError, match="expected data"):
        mc.fit_curve(a, b, tiny.train)
    empty = copy.copy(tiny)
    object.__setattr__(empty, "train", mc.Split(tiny.train.x[:0], tiny.train.y[:0]))
    with pytest.raises(ValueError, match="training images to fit a curve on, found none"):
        fit(a, b, empty)
    with pytest.raises(FloatingPointError, match="a smaller learning rate"):
        fit(a, b, tiny, optimizer="sgd", lr=1e30, steps=20)
    mixed = [mc.build_model("mlp", tiny, width=(5,), seed=s) for s in range(2)]
    for model in mixed:
        model.output.double()
    with pytest.raises(ValueError, match="of one type, found float32 and float64"):
        fit(*mixed, tiny)
    frozen = [mc.build_model("mlp", tiny, width=(5,), seed=s).requires_grad_(False) for s in (0, 1)]
    with pytest.raises(ValueError, match="trainable parameters, found none"):
        fit(*frozen, tiny)


def test_a_curve_file_of_another_model_is_refused(tiny: mc.Data, tmp_path: Path) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(5,), seed=s) for s in (0, 1))
    fit(a, b, tiny).save(tmp_path / "path")
    with pytest.raises(
        mc.IncompatibleError, match=r"linear1\.weight is \[6, 64\] in A and \[5, 64\]"
    ):
        mc.load_path(tmp_path / "path", model=mc.build_model("mlp", tiny, width=(6,)))
