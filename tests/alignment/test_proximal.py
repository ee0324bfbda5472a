"""PAM: the loss along the curve falls, B computes what it did, a run goes on where it stopped."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from alignment.networks import planted
from alignment.proximal_runs import Residual, along, fitted, flat, grouped, pam, same, trained
from alignment.test_birkhoff import projected
from reference import batch_norm_statistics, evaluate, mixture
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook import weights
from mcbook.alignment import proximal_alternating


@pytest.fixture(scope="module")
def data(digits: mc.Data) -> mc.Data:
    return digits.subset(train=120, test=30, seed=2)


@pytest.fixture(scope="module")
def nets(data: mc.Data) -> list[nn.Module]:
    """Two perceptrons."""
    return [trained("mlp", data, s, width=(8, 6)) for s in range(2)]


@pytest.fixture(scope="module")
def convnets(data: mc.Data) -> list[nn.Module]:
    return [trained("convnet", data, s, width=4, depth=2, norm="batch") for s in range(2)]


# what comes back ----------------------------------------------------------------------------


def test_the_losses_are_those_along_the_line(nets: list[nn.Module], data: mc.Data) -> None:
    for seed in range(2):
        al = pam(nets, data, seed=seed)
        losses = al.facts["losses"]
        assert list(losses["candidate"]) == [
            "old",
            "hungarian",
            *(f"draw {i}" for i in range(1, 7)),
        ]
        assert (losses["round"] == 1).all()
        assert al.objective[0] == -losses["loss"][0]
        assert al.objective[-1] == -losses["loss"].min()
        assert al.facts["rounded_loss"] == losses["loss"][1]
        assert -al.objective[0] == pytest.approx(along(*nets, data.train, 3), rel=1e-5)
        assert -al.objective[-1] == pytest.approx(along(nets[0], al.model, data.train, 3), rel=1e-5)
        history = al.facts["history"]
        assert list(history["step"]) == list(range(1, 21))
        assert history["t"].between(0, 1).all()
        assert history["t"].nunique() == 20
        assert (al.method, al.model.training) == ("proximal alternating", False)
        assert "path" not in al.facts


def test_the_matrices_and_their_loss(nets: list[nn.Module], data: mc.Data) -> None:
    """The soft loss is that of the line to `P_out W P_inᵀ`."""
    start = mc.trace_symmetry(nets[0]).random(1)
    al = pam(nets, data, start=start, lr=0.3)
    one, two = (al.facts["matrices"][n] for n in start)
    for p in (one, two):
        assert mc.alignment.birkhoff.is_doubly_stochastic(p, 0.02)
        assert not mc.alignment.birkhoff.is_doubly_stochastic(p.round(), 0.02) or p.max() < 1
    soft = copy.deepcopy(nets[1])
    w = weights.of(soft)
    with torch.no_grad():
        w["linear1.weight"].copy_(one @ w["linear1.weight"])
        w["linear1.bias"].copy_(one @ w["linear1.bias"])
        w["linear2.weight"].copy_(two @ w["linear2.weight"] @ one.T)
        w["linear2.bias"].copy_(two @ w["linear2.bias"])
        w["output.weight"].copy_(w["output.weight"] @ two.T)
    # before they are measured they are brought a little nearer to the doubly stochastic ones
    assert al.facts["soft_loss"] == pytest.approx(along(nets[0], soft, data.train, 3), rel=0.02)


def by_hand(
    a: nn.Module, b: nn.Module, data: mc.Data, ts: list[float], lr: float, nu: float
) -> tuple[list[float], list[Tensor]]:
    """The steps for a perceptron on all images, from the identity, in double precision."""
    wa, wb = ({n: x.double() for n, x in weights.of(m).items()} for m in (a, b))
    x, y = data.train.x.double().flatten(1), data.train.y
    p = [torch.eye(len(wb[f"linear{i}.bias"]), dtype=torch.float64) for i in (1, 2)]
    old, losses = [m.clone() for m in p], []
    for t in ts:
        one, two = (m.requires_grad_() for m in p)
        moved = {
            "linear1.weight": one @ wb["linear1.weight"],
            "linear1.bias": one @ wb["linear1.bias"],
            "linear2.weight": two @ wb["linear2.weight"] @ one.T,
            "linear2.bias": two @ wb["linear2.bias"],
            "output.weight": wb["output.weight"] @ two.T,
            "output.bias": wb["output.bias"],
        }
        w = {n: (1 - t) * wa[n] + t * m for n, m in moved.items()}
        h = torch.relu(x @ w["linear1.weight"].T + w["linear1.bias"])
        h = torch.relu(h @ w["linear2.weight"].T + w["linear2.bias"])
        loss = F.cross_entropy(h @ w["output.weight"].T + w["output.bias"], y)
        losses.append(float(loss.detach()))
        slopes = torch.autograd.grad(loss, [one, two])
        p = []
        for m, g, o in zip((one, two), slopes, old, strict=True):
            m = (m.detach() - lr * g + lr / nu * o) / (1 + lr / nu)
            p.append(torch.tensor(projected(m.tolist(), 20), dtype=torch.float64))
    return losses, p


@pytest.mark.parametrize("nu", [1000.0, 2.0, math.inf])
def test_the_steps_are_those_of_the_definition(data: mc.Data, nu: float) -> None:
    pair = [trained("mlp", data, s, width=(4, 3), standardize=False).double() for s in range(2)]
    double = dataclasses.replace(data, train=mc.Split(data.train.x.double(), data.train.y))
    options = {"steps": 4, "batch_size": 120, "lr": 2.0, "schedule": "constant", "nu": nu}
    al = pam(pair, double, **options)
    losses, p = by_hand(*pair, double, list(al.facts["history"]["t"]), 2.0, nu)
    assert list(al.facts["history"]["loss"]) == pytest.approx(losses, rel=1e-6)
    for found, expected in zip(al.facts["matrices"].values(), p, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-6)
        assert (found - torch.eye(len(found))).abs().max() > 0.01


def test_the_function_of_b_stays(nets: list[nn.Module], data: mc.Data) -> None:
    al = pam(nets, data, lr=2.0, steps=60)
    assert al.permutation.moved > 0
    moved = weights.of(mc.permute(nets[1], al.permutation))
    assert all(torch.equal(x, moved[n]) for n, x in weights.of(al.model).items())
    with torch.no_grad():
        assert torch.allclose(nets[1](data.test.x), al.model(data.test.x), atol=1e-4)


# never worse --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["identity", "matched"])
def test_never_worse_than_the_start(nets: list[nn.Module], data: mc.Data, start: str) -> None:
    begin = None if start == "identity" else mc.activation_matching(*nets, data, progress=False)
    for seed, lr in itertools.product(range(2), (0.5, 5.0)):
        al = pam(nets, data, start=begin, seed=seed, lr=lr, rounds=2, steps=8)
        assert al.objective == sorted(al.objective)
        assert len(set(al.objective)) == len(al.objective)
        least = al.facts["losses"].groupby("round")["loss"].min()
        assert al.objective[-1] == -least.iloc[-1]
        assert least.iloc[1] <= least.iloc[0] <= -al.objective[0]


def test_the_old_permutation_stays_where_every_candidate_is_worse(
    nets: list[nn.Module], data: mc.Data
) -> None:
    """Of a shuffled copy only the way back gives A itself, all along the line."""
    p = mc.trace_symmetry(nets[0]).random(3)
    pair = [nets[0], mc.permute(nets[0], p)]
    for seed in range(3):
        al = pam(pair, data, start=p.inverse(), lr=5.0, schedule="constant", seed=seed, rounds=2)
        losses = al.facts["losses"]
        others = losses["loss"][losses["candidate"] != "old"]
        assert (others >= losses["loss"][0]).all()
        assert (others > 1.1 * losses["loss"][0]).mean() > 0.5
        assert al.permutation == p.inverse()
        # that of the second round is the same number, not that of a candidate
        assert losses["loss"][losses["candidate"] == "old"].nunique() == 1
        assert al.objective == [-losses["loss"][0]]
        assert -al.objective[0] == pytest.approx(mc.evaluate(nets[0], data.train)[0], rel=1e-5)


def test_without_draws_there_is_the_hungarian_candidate_alone(
    nets: list[nn.Module], data: mc.Data
) -> None:
    al = pam(nets, data, draws=0)
    assert list(al.facts["losses"]["candidate"]) == ["old", "hungarian"]


def test_one_term_draws_the_permutation_of_the_largest_coefficient(
    nets: list[nn.Module], data: mc.Data
) -> None:
    drawn = pam(nets, data, terms=1).facts["losses"]["loss"][2:]
    assert drawn.nunique() == 1
    many = pam(nets, data, draws=12, lr=3.0, schedule="constant").facts["losses"]["loss"][2:]
    assert many.nunique() > 5


# architectures ------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [flat, Residual, grouped])
def test_any_architecture(build: Callable[[int], nn.Module], data: mc.Data) -> None:
    with torch.random.fork_rng(devices=[]):
        pair = [fitted(build(s), data, s) for s in range(2)]
    spec = mc.trace_symmetry(pair[0], data.train.x[:1])
    al = pam(pair, data, spec=spec, steps=40)
    assert -al.objective[0] == pytest.approx(along(*pair, data.train, 3), rel=1e-4)
    assert -al.objective[-1] == pytest.approx(along(pair[0], al.model, data.train, 3), rel=1e-4)
    assert al.objective[-1] > al.objective[0]
    with torch.no_grad():
        assert torch.allclose(pair[1].eval()(data.test.x), al.model(data.test.x), atol=1e-4)
    blocks = ["1 blocks"] if build is grouped else []
    assert al.facts["fixed"] == blocks
    assert set(al.facts["matrices"]) == set(spec.spaces) - set(blocks)
    for n, p in al.facts["matrices"].items():
        assert p.shape == (spec.spaces[n], spec.spaces[n])
    if build is grouped:
        p, stays = al.facts["matrices"]["1"], al.permutation["1 blocks"]
        assert torch.equal(stays, torch.arange(2))
        assert (p[:4, 4:].abs().sum(), p[4:, :4].abs().sum()) == (0, 0)
        assert (p[:4, :4] - torch.eye(4)).abs().max() > 0.01


def test_networks_with_batch_norm(
    convnets: list[nn.Module], data: mc.Data, untouched: Callable
) -> None:
    convnets[0].train()
    before = [untouched(m) for m in convnets]
    al = pam(convnets, data, curve_steps=5)
    for check in before:
        check()
    convnets[0].eval()
    # B's own statistics, moved along; measured anew only for the losses
    moved = weights.of(mc.permute(convnets[1], al.permutation))
    assert all(torch.equal(x, moved[n]) for n, x in weights.of(al.model).items())
    assert -al.objective[0] == pytest.approx(along(*convnets, data.train, 3), rel=1e-3)
    # the first loss is seen with the statistics of its batch
    al = pam(convnets, data, steps=1, batch_size=120, draws=0)
    t = al.facts["history"]["t"][0]
    middle = copy.deepcopy(convnets[0])
    middle.load_state_dict(mixture(*(weights.of(m) for m in convnets), t))
    expected = evaluate(batch_norm_statistics(middle, data.train.x), data.train.x, data.train.y)[0]
    assert al.facts["history"]["loss"][0] == pytest.approx(expected, rel=1e-3)


def test_statistics_of_the_networks_do_not_count(convnets: list[nn.Module], data: mc.Data) -> None:
    other = [copy.deepcopy(m) for m in convnets]
    for model in other:
        for name, x in model.named_buffers():
            if "running" in name:
                x.mul_(3).add_(1)
    assert same(pam(convnets, data, rounds=2), pam(other, data, rounds=2))


# levels -------------------------------------------------------------------------------------


def test_a_shuffled_noisy_copy_comes_nearer(nets: list[nn.Module], data: mc.Data) -> None:
    spec = mc.trace_symmetry(nets[0])
    for seed in range(2):
        b, _ = planted(nets[0], spec, seed, noise=0.05)
        al = pam([nets[0], b], data, steps=150, draws=16, seed=seed)
        ends = (mc.evaluate(nets[0], data.train)[0] + mc.evaluate(b, data.train)[0]) / 2
        # at least half of what lies between the line and its ends goes
        assert -al.objective[-1] - ends < 0.5 * (-al.objective[0] - ends)


@pytest.fixture(scope="module")
def pairs(digits: mc.Data) -> list[list[nn.Module]]:
    """64-16-16-10, Adam 1e-3, in two pairs."""
    recipe = {"optimizer": "adam", "lr": 1e-3, "batch_size": 64, "progress": False}
    models = [
        mc.train(
            mc.build_model("mlp", digits, width=(16, 16), standardize=False, seed=s), digits, 25,
            seed=s, **recipe,
        )
        for s in range(4)
    ]  # fmt: skip
    return [models[:2], models[2:]]


def test_on_digits_the_loss_along_the_line_falls_far(
    pairs: list[list[nn.Module]], digits: mc.Data
) -> None:
    left, paper = [], []
    for a, b in pairs:
        ends = (mc.evaluate(a, digits.train)[0] + mc.evaluate(b, digits.train)[0]) / 2
        options = {"points": 5, "draws": 8, "progress": False}
        al = proximal_alternating(a, b, digits, steps=300, **options)
        left.append((-al.objective[-1] - ends) / (-al.objective[0] - ends))
        options |= {"steps": 60, "lr": 0.05, "schedule": "constant"}
        al = proximal_alternating(a, b, digits, **options)
        paper.append((-al.objective[-1] - ends) / (-al.objective[0] - ends))
    assert np.mean(left) < 0.5
    # what the defaults are for: the paper's rate comes less far in few steps
    assert np.mean(left) < np.mean(paper) <= 1


def test_on_digits_it_goes_on_from_an_alignment(
    pairs: list[list[nn.Module]], digits: mc.Data
) -> None:
    (a, b), _ = pairs
    matched = mc.activation_matching(a, b, digits, progress=False)
    al = proximal_alternating(
        a, b, digits, steps=200, start=matched, points=5, draws=16, progress=False
    )
    unaligned = proximal_alternating(a, b, digits, steps=1, points=5, draws=0, progress=False)
    assert al.objective[0] > unaligned.objective[0]
    if len(al.objective) == 1:
        assert al.permutation == matched.permutation


# curves -------------------------------------------------------------------------------------


def test_the_curve_is_fitted_and_the_next_round_is_along_it(
    nets: list[nn.Module], data: mc.Data
) -> None:
    options = {"curve_steps": 60, "batch_size": 120, "curve_recipe": {"lr": 0.02}}
    one = pam(nets, data, **options)
    losses = one.facts["losses"]
    assert list(losses["candidate"])[-1] == "curve"
    assert losses["loss"].iloc[-1] < losses["loss"][:-1].min()
    path = one.facts["path"]
    assert isinstance(path, mc.BezierPath)
    assert all(torch.equal(x, weights.of(nets[0])[n]) for n, x in path.at(0).items())
    assert all(torch.equal(x, weights.of(one.model)[n]) for n, x in path.at(1).items())
    bend = {n: p[1].double() for n, p in path.control_points.items()}
    found = along(nets[0], one.model, data.train, 3, bend)
    assert -one.objective[-1] == pytest.approx(found, rel=1e-4)
    # the second round begins on that curve, with the bend's offset and no change of B
    two = pam(nets, data, rounds=2, **options)
    history = two.facts["history"]
    second = history[history["round"] == 2].iloc[0]
    expected = evaluate(path.model_at(second["t"]), data.train.x, data.train.y)[0]
    assert second["loss"] == pytest.approx(expected, rel=1e-4)
    assert history["t"].nunique() == 40
    old = two.facts["losses"].query("round == 2 and candidate == 'old'")["loss"].item()
    assert old == losses["loss"].iloc[-1]
    assert two.objective[: len(one.objective)] == one.objective
    # candidates are moved along with the bend's offset from their own midpoint
    bend = {n: p[1].double() for n, p in two.facts["path"].control_points.items()}
    found = along(nets[0], two.model, data.train, 3, bend)
    assert -two.objective[-1] == pytest.approx(found, rel=1e-4)


def test_a_bend_that_is_worse_is_not_kept(nets: list[nn.Module], data: mc.Data) -> None:
    al = pam(nets, data, curve_steps=3, curve_recipe={"lr": 50.0, "optimizer": "sgd"}, rounds=2)
    losses = al.facts["losses"]
    assert (losses["loss"][losses["candidate"] == "curve"] > -al.objective[-1]).all()
    chord = mc.LinearPath(nets[0], al.model).at(0.5)
    for n, p in al.facts["path"].control_points.items():
        assert torch.allclose(p[1], chord[n], atol=1e-6)


def test_tied_weights_on_a_curve(data: mc.Data) -> None:
    class Tied(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            torch.manual_seed(seed)
            self.first, self.both = nn.Linear(64, 7), nn.Linear(7, 7)
            self.again, self.out = nn.Linear(7, 7), nn.Linear(7, 10)
            self.again.weight = self.both.weight

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.both(F.relu(self.first(x.flatten(1)))))
            return self.out(F.relu(self.again(h)))

    with torch.random.fork_rng(devices=[]):
        pair = [fitted(Tied(s), data, s) for s in range(2)]
    al = pam(pair, data, curve_steps=30, rounds=2, example=data.train.x[:1])
    assert al.model.again.weight is al.model.both.weight
    points = al.facts["path"].control_points
    assert torch.equal(points["again.weight"], points["both.weight"])
    bend = {n: p[1].double() for n, p in points.items()}
    found = along(pair[0], al.model, data.train, 3, bend)
    assert -al.objective[-1] == pytest.approx(found, rel=1e-4)
