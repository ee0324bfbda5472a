"""A network anywhere on a path: where it stands, its gradient, and the path it leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook import weights
from mcbook.paths.moving import Moving


class Own(nn.Module):
    """Tied weights, a frozen tensor, a buffer that differs, batch norm, a layer never used."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(64, 8)
            self.norm = nn.BatchNorm1d(8)
            self.second = nn.Linear(8, 8)
            self.again = nn.Linear(8, 8)
            self.again.weight = self.second.weight
            self.last = nn.Linear(8, 10)
            self.unused = nn.Linear(2, 2)
            self.norm.running_mean += torch.randn(8)
        self.last.bias.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(1.0 + seed))
        self.register_buffer("constant", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x.flatten(1))).relu()
        x = self.again(self.second(x).relu()).relu()
        return self.last(x * self.scale / self.constant)


@pytest.fixture
def path() -> mc.PolychainPath:
    return mc.PolychainPath(Own(0), Own(3), [Own(1), Own(2)], (0, 0.2, 0.7, 1))


TRAINED = [
    "first.weight", "first.bias", "norm.weight", "norm.bias", "second.weight", "second.bias",
    "again.bias", "last.weight", "unused.weight", "unused.bias",
]  # fmt: skip


def test_the_points_are_the_trained_parameters(path: mc.PolychainPath) -> None:
    moving = Moving(path)
    for i, knot in enumerate(path.knots):
        at = path.at(knot)
        assert torch.equal(moving.points[i], torch.cat([at[name].reshape(-1) for name in TRAINED]))
    assert all(m.training for m in moving.model.modules())


@pytest.mark.parametrize("t", [0.0, 0.1, 0.2, 0.55, 1.0])
def test_the_network_stands_where_it_is_put(path: mc.PolychainPath, t: float) -> None:
    moving = Moving(path)
    moving.to(path.coefficients(0.9).float())  # it was elsewhere before
    moving.to(path.coefficients(t).float())
    at, found = path.at(t), weights.of(moving.model)
    for name, x in at.items():
        if name.startswith("norm.running") or name.endswith("tracked"):
            assert torch.equal(found[name], path.at(0)[name]), name  # not used in training mode
        else:
            torch.testing.assert_close(found[name], x, rtol=1e-5, atol=1e-7)
    if t in path.knots:
        assert torch.equal(moving.point, moving.points[path.knots.index(t)])
    assert torch.equal(moving.point[: 8 * 64].view(8, 64), moving.model.first.weight)


def test_a_slope_is_the_gradient_there_and_is_taken_away(
    path: mc.PolychainPath, tiny: mc.Data
) -> None:
    x, y = tiny.train.x[:20], tiny.train.y[:20]
    moving = Moving(path)
    for t in (0.3, 0.8):
        moving.to(path.coefficients(t).float())
        F.cross_entropy(moving.model(x), y).backward()
        slope = moving.slope()
        network = path.model_at(t).train()
        F.cross_entropy(network(x), y).backward()
        named = dict(network.named_parameters())
        grads = [
            torch.zeros_like(named[n]) if named[n].grad is None else named[n].grad for n in TRAINED
        ]
        torch.testing.assert_close(
            slope, torch.cat([g.reshape(-1) for g in grads]), rtol=1e-3, atol=1e-6
        )
        assert slope.norm() > 0.01
        assert all(p.grad is None for p in moving.model.parameters())
    assert not moving.slope().any()


def test_unmoved_points_are_the_same_path(path: mc.PolychainPath) -> None:
    moving = Moving(path)
    moving.to(path.coefficients(0.4).float())
    again = moving.current()
    assert (again.kind, again.knots) == (path.kind, path.knots)
    assert list(again.control_points) == list(path.control_points)
    for name, p in path.control_points.items():
        assert torch.equal(again.control_points[name], p), name
        assert again.control_points[name].data_ptr() != p.data_ptr()


def test_moved_points_are_another_path(path: mc.PolychainPath) -> None:
    before = {name: p.clone() for name, p in path.control_points.items()}
    moving = Moving(path)
    moving.points[1] += 1
    found = moving.current()
    kept = {name: p.clone() for name, p in found.control_points.items()}
    moving.points[1:3] += 1  # later moves are not this path's
    for name, p in before.items():
        assert torch.equal(path.control_points[name], p)
        new = found.control_points[name]
        assert torch.equal(new, kept[name])
        trained = name in TRAINED or name == "again.weight"
        assert torch.equal(new[1], p[1] + 1 if trained else p[1]), name
        assert torch.equal(new[[0, 2, 3]], p[[0, 2, 3]]), name
    assert found.knots == path.knots
    assert torch.equal(found.control_points["second.weight"], found.control_points["again.weight"])


def test_at_other_knots_what_is_not_trained_is_on_the_chord(path: mc.PolychainPath) -> None:
    moving = Moving(path)
    knots = [0.0, 0.4, 0.5, 1.0]
    found = moving.current(knots)
    assert found.knots == tuple(knots)
    for name, p in path.control_points.items():
        new = found.control_points[name]
        if name in TRAINED or name == "again.weight":
            assert torch.equal(new, p), name
        else:
            for i, t in enumerate(knots):
                torch.testing.assert_close(new[i], (1 - t) * p[0] + t * p[-1])
            assert torch.equal(new[[0, -1]], p[[0, -1]])


def test_networks_and_paths_are_left_alone(
    tiny: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    def one_tensor(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))

    for a, b in ((one_tensor(0), one_tensor(1)), (Own(0), Own(1))):
        a.train()
        unchanged = [untouched(m) for m in (a, b)]
        path = mc.BezierPath(a, b)
        before = {name: p.clone() for name, p in path.control_points.items()}
        moving = Moving(path)
        moving.to(path.coefficients(0.3).float())
        moving.model(tiny.train.x[:9]).sum().backward()
        moving.points.zero_()
        for check in unchanged:
            check()
        for name, p in path.control_points.items():
            assert torch.equal(p, before[name])
            assert torch.equal(path.model_at(0).state_dict()[name], before[name][0])


def test_networks_that_cannot_move_are_refused() -> None:
    frozen = [Own(s).requires_grad_(False) for s in (0, 1)]
    with pytest.raises(ValueError, match="trainable parameters, found none"):
        Moving(mc.LinearPath(*frozen))
    mixed = [Own(s) for s in (0, 1)]
    for model in mixed:
        model.last.double()
    with pytest.raises(ValueError, match="of one type, found float32 and float64"):
        Moving(mc.LinearPath(*mixed))
    for model in mixed:
        model.last.requires_grad_(False)
    Moving(mc.LinearPath(*mixed))  # only what moves must be of one type
