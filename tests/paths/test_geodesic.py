"""A search for the shortest path: ends stay, lengths fall, a run goes on where it was stopped."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from information.networks import NETWORKS, Own, beyond
from torch import Tensor, nn

import mcbook as mc
from mcbook import weights
from mcbook.paths.moving import Moving

# the name of the module is that of the function, too
MODULE = importlib.import_module("mcbook.paths.geodesic")


def fit(a: nn.Module, b: nn.Module, data: mc.Data | Tensor, **options: Any) -> mc.Path:
    usual = {"steps": 6, "points": 5, "batch_size": 32, "lr": 0.003, "progress": False}
    return mc.fit_geodesic(a, b, data, **usual | options)


def same(a: mc.Path, b: mc.Path) -> bool:
    return all(torch.equal(p, b.control_points[n]) for n, p in a.control_points.items())


def pair(network: str = "mlp") -> list[nn.Module]:
    return [NETWORKS[network](s) for s in (0, 1)]


def apart(a: nn.Module, b: nn.Module) -> float:
    return weights.distance(weights.of(a), weights.of(b))


# what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("energy", ["hellinger", "jsd", "exact"])
@pytest.mark.parametrize("network", NETWORKS)
def test_ends_are_exact_nothing_is_touched_and_it_gets_shorter(
    network: str, energy: str, tiny: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    a, b = (model.train() for model in pair(network))
    unchanged = [untouched(model) for model in (a, b)]
    x = tiny.train.x.clone()
    path = fit(a, b, tiny, energy=energy, steps=8, every=4)
    for check in unchanged:
        check()
    assert torch.equal(tiny.train.x, x)
    start, end = path.at(0), path.at(1)
    for name, value in weights.of(a).items():
        assert torch.equal(start[name], value), name
        if value.is_floating_point():
            assert torch.equal(end[name], weights.of(b)[name]), name
    lengths = path.history["length"]
    assert lengths.min() < lengths[0]
    assert not any(p.requires_grad for p in path.control_points.values())


@pytest.mark.parametrize("network", ["mlp", "mlp, batch norm"])
@pytest.mark.parametrize("options", [{}, {"optimizer": "sgd", "lr": 1e3}, {"lr": 50.0}])
def test_it_is_the_shortest_that_was_met(
    network: str, options: dict[str, Any], tiny: mc.Data
) -> None:
    path = fit(*pair(network), tiny, **options)
    lengths = path.history["length"]
    # judged on all images here, in another order
    found = mc.fisher_length(path, tiny.train.x, 25)
    assert found == pytest.approx(lengths.min(), rel=1e-4)
    assert found <= lengths[0] * (1 + 1e-6)
    if options:  # steps so large that the start stays the best
        assert lengths[1:].min() > lengths[0]
        line = mc.LinearPath(*pair(network))
        for t in (0.3, 0.5):
            for name, value in line.at(t).items():
                torch.testing.assert_close(path.at(t)[name], value)
    else:
        assert lengths.min() < 0.99 * lengths[0]


def test_it_is_judged_on_fixed_images_at_dense_nodes(tiny: mc.Data) -> None:
    path = fit(*pair(), tiny, images=9, seed=5, points=15)
    chosen = torch.randperm(len(tiny.train), generator=torch.Generator().manual_seed(5))[:9]
    found = mc.fisher_length(path, tiny.train.x[chosen], 29)
    assert found == path.history["length"].min()


def test_between_equal_ends_there_is_nothing_to_do(tiny: mc.Data) -> None:
    for network in NETWORKS:
        a = NETWORKS[network](0)
        for energy in ("hellinger", "exact"):
            path = fit(a, a, tiny, energy=energy)
            assert path.history["step"].tolist() == [0]
            assert path.history["length"].tolist() == [0]
            for name, p in path.control_points.items():
                assert torch.equal(p, weights.of(a)[name].expand_as(p)), name
            found = mc.certify(path, tiny, 5, progress=False)
            assert (found.length, found.bound, found.ratio, found.unevenness) == (0, 0, 1, 0)
            assert not found.table.isna().any().any()


def test_equal_ends_with_a_detour_are_joined_by_nothing(tiny: mc.Data) -> None:
    a = NETWORKS["mlp"](0)
    start = mc.BezierPath(a, a, [beyond(a, a, 0), beyond(a, a, 1)])
    path = fit(a, a, tiny, start=start, steps=60)
    assert path.history["step"].iloc[-1] == 60
    assert path.history["length"].min() < 0.8 * path.history["length"][0]


@pytest.mark.parametrize("kind", ["bezier", "polychain"])
@pytest.mark.parametrize("between", [True, False])
def test_kinds_and_nodes(kind: str, between: bool, tiny: mc.Data) -> None:
    a, b = pair()
    path = fit(a, b, tiny, kind=kind, bends=3, between=between)
    assert path.kind == kind
    assert len(path.control_points["output.weight"]) == 5
    assert path.history["length"].min() < path.history["length"][0]
    # knots are nodes when nothing moves: then `points` says nothing
    other = fit(a, b, tiny, kind=kind, bends=3, between=between, points=9)
    alike = same(path, other)
    assert alike == (kind == "polychain" and not between)
    # the start is even: the last gap is as long as the first
    chain = mc.PolychainPath(a, b, 7)
    gaps = [weights.distance(chain.at(s / 8), chain.at((s + 1) / 8)) for s in (0, 3, 7)]
    assert gaps == pytest.approx([apart(a, b) / 8] * 3, rel=1e-4)


def test_images_alone_will_do_and_labels_say_nothing(tiny: mc.Data) -> None:
    a, b = pair()
    path = fit(a, b, tiny)
    assert same(fit(a, b, tiny.train.x), path)
    others = mc.Split(tiny.train.x, tiny.train.y.flip(0))
    assert not torch.equal(others.y, tiny.train.y)
    assert same(fit(a, b, replace(tiny, train=others)), path)
    assert same(fit(a, b, replace(tiny, test=tiny.train)), path)
    assert not same(fit(a, b, tiny.train.x[1:]), path)


def test_the_seed_decides(tiny: mc.Data) -> None:
    a, b = pair()
    path = fit(a, b, tiny, seed=3)
    again, other = fit(a, b, tiny, seed=3), fit(a, b, tiny, seed=4)
    assert same(path, again)
    assert path.history.equals(again.history)
    assert not same(path, other)


def test_the_history_says_what_was_seen(tiny: mc.Data, tmp_path: Path) -> None:
    a, b = pair()
    path = fit(a, b, tiny, steps=25, watch=lambda p: {"two": 2.0}, schedule="constant", lr=0.01)
    table = path.history
    assert list(table) == ["step", "lr", "energy", "length", "two"]
    assert table["step"].tolist() == [*range(0, 25, 2), 25]
    assert math.isnan(table["energy"][0])
    assert table["lr"].tolist()[1:] == [0.01] * 13
    # the energy is at least the squared length, which it is minimised for
    assert (table["energy"][1:] > 0.8 * table["length"].min() ** 2).all()
    path.save(tmp_path / "path")
    kept = mc.load_path(tmp_path / "path").history
    assert kept["length"].tolist() == pytest.approx(table["length"].tolist(), rel=1e-8)


def test_the_default_step_is_a_share_of_the_way(tiny: mc.Data) -> None:
    a, b = pair()
    way = apart(a, b) / math.sqrt(sum(p.numel() for p in a.parameters()))
    path = fit(a, b, tiny, schedule="constant", lr=None)
    assert path.history["lr"].iloc[-1] == pytest.approx(0.08 * way, rel=1e-6)


# energies -------------------------------------------------------------------------------------


def energy_of(path: mc.Path, x: Tensor, **options: Any) -> float:
    """What one step on all images minimises, at the path."""
    found = fit(
        path.model_at(0), path.model_at(1), x, steps=1, batch_size=len(x), start=path,
        kind=path.kind, bends=len(path.control_points["output.weight"]) - 2, lr=1e-30, **options,
    )  # fmt: skip
    return float(found.history["energy"].iloc[-1])


@pytest.mark.parametrize(
    ("network", "kind"),
    [("mlp", "bezier"), ("mlp", "polychain"), ("convnet, batch norm", "bezier")],
)
def test_the_energies_are_one_on_short_steps(network: str, kind: str, tiny: mc.Data) -> None:
    a, b = pair(network)
    b.load_state_dict(mc.LinearPath(a, b).at(0.4))  # not so far
    bends = [mc.LinearPath(a, b).at(t) for t in (0.4, 0.6)]
    path = {"bezier": mc.BezierPath, "polychain": mc.PolychainPath}[kind](a, b, bends)
    x = tiny.train.x[:20]
    whole = mc.fisher_energy(path, x, 65)
    for energy in ("hellinger", "jsd", "exact"):
        for between in (True, False):
            if kind == "polychain" and not between and energy != "exact":
                continue  # the knots alone
            found = energy_of(path, x, energy=energy, points=33, between=between)
            assert found == pytest.approx(whole, rel=0.08), (energy, between)


def test_the_energies_of_a_chain_are_those_of_its_nodes(tiny: mc.Data) -> None:
    a, b = pair()
    path = mc.PolychainPath(a, b, [beyond(a, b, 0), beyond(a, b, 1)], None)
    x = tiny.train.x
    lps = [mc.log_probabilities(path.model_at(k / 3), x) for k in range(4)]
    hellinger, jsd = 0.0, 0.0
    for lp, lq in pairwise(lps):
        chord = ((lp / 2).exp() - (lq / 2).exp()).square().sum(1)
        hellinger += 3 * float(4 * chord.mean())
        jsd += 3 * 8 * float(mc.js_divergence(lp, lq).mean())
    for energy, slow in (("hellinger", hellinger), ("jsd", jsd)):
        found = energy_of(path, x, energy=energy, between=False)
        assert found == pytest.approx(slow, rel=1e-4)
        ways = sum(
            3 * weights.distance(path.at(k / 3), path.at((k + 1) / 3)) ** 2 for k in range(3)
        )
        damped = energy_of(path, x, energy=energy, between=False, damping=0.01)
        assert damped == pytest.approx(slow + 0.01 * ways, rel=1e-4)


def test_the_damping_of_the_exact_energy_is_the_squared_velocity(tiny: mc.Data) -> None:
    line = mc.BezierPath(*pair())
    x, how = tiny.train.x, {"energy": "exact", "points": 4}
    more = energy_of(line, x, damping=0.5, **how) - energy_of(line, x, **how)
    way = apart(line.model_at(0), line.model_at(1))
    assert more == pytest.approx(0.5 * way**2, rel=1e-3)


def test_damping_shortens_the_way_of_the_weights(tiny: mc.Data) -> None:
    def euclidean(path: mc.Path) -> float:
        points = [path.at(k / 10) for k in range(11)]
        return sum(weights.distance(p, q) for p, q in pairwise(points))

    a, b = pair()
    options = {"steps": 60, "batch_size": 70}
    free = euclidean(fit(a, b, tiny, **options))
    damped = euclidean(fit(a, b, tiny, damping=0.05, **options))
    straight = apart(a, b)
    assert straight <= damped < straight + 0.5 * (free - straight)


def test_the_nodes_move_from_step_to_step_and_not_over_each_other(
    tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    plain = mc.BezierPath.coefficients

    def coefficients(self: mc.BezierPath, t: float) -> Tensor:
        asked.append(t)
        return plain(self, t)

    asked: list[float] = []
    chain = MODULE._Fit._chain

    def watched(self: Any, batch: Tensor, draws: Tensor) -> Tensor:
        asked.clear()
        value = chain(self, batch, draws)
        seen.append(list(asked))
        return value

    monkeypatch.setattr(mc.BezierPath, "coefficients", coefficients)
    monkeypatch.setattr(MODULE._Fit, "_chain", watched)
    fit(*pair(), tiny, points=5, steps=40)
    moves = torch.tensor(seen, dtype=torch.float64) - torch.linspace(0, 1, 5, dtype=torch.float64)
    assert (moves[:, [0, -1]] == 0).all()
    inner = moves[:, 1:-1]
    assert inner.abs().max() <= 1 / 16
    assert inner.min() < -0.05
    assert inner.max() > 0.05
    assert inner[:, 0].unique().numel() == 40
    seen.clear()
    fit(*pair(), tiny, points=5, steps=2, between=False)
    assert seen == [[0, 0.25, 0.5, 0.75, 1]] * 2


# at once, or one after the other --------------------------------------------------------------


@pytest.mark.parametrize("energy", ["hellinger", "exact"])
@pytest.mark.parametrize("network", NETWORKS)
def test_stacked_networks_are_those_one_after_the_other(
    network: str, energy: str, tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"energy": energy, "steps": 3, "optimizer": "sgd", "lr": 0.01}
    stacked = fit(*pair(network), tiny, **options)
    monkeypatch.setattr(MODULE, "_STACKED", 0)
    monkeypatch.setattr(MODULE, "vmap", None)  # is not asked
    single = fit(*pair(network), tiny, **options)
    assert single.history["energy"].tolist()[1:] == pytest.approx(
        stacked.history["energy"].tolist()[1:], rel=1e-4
    )
    for name, p in single.control_points.items():
        torch.testing.assert_close(p, stacked.control_points[name], rtol=1e-4, atol=1e-4)


class Choosy(nn.Module):
    """What cannot be vectorised: it looks at its numbers, and goes one way or the other."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(64, 5), nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x.flatten(1)))
        return self.last(3 * x if float(x.detach().abs().max()) > 0 else x)


def test_what_cannot_be_stacked_is_done_one_after_the_other(tiny: mc.Data) -> None:
    for energy in ("hellinger", "jsd"):
        path = fit(Choosy(0), Choosy(1), tiny, energy=energy)
        assert path.history["length"].min() < path.history["length"][0]
    for model, expected in ((Choosy, False), (Own, True)):
        line = mc.BezierPath(model(0), model(1))
        options = (line, tiny.train.x, None, "", 1, 0, MODULE.checked_recipe({}), 1)
        run = MODULE._Fit(*options)
        run.prepare("hellinger", 5, True, 0.0, 5)
        assert run.stacked is expected


def test_states_are_those_of_the_path(tiny: mc.Data) -> None:
    a, b = pair("own")
    path = mc.BezierPath(a, b, [beyond(a, b, 0), beyond(a, b, 1)])
    moving = Moving(path)
    before = {name: x.clone() for name, x in weights.of(moving.model).items()}
    ts = (0.0, 0.3, 1.0)
    coefficients = torch.stack([path.coefficients(t) for t in ts]).float()
    points = moving.points.requires_grad_(True)
    states = moving.states(coefficients)
    fixed = {n for n, x in path.at(0).items() if not x.is_floating_point()}
    assert set(states) == set(path.at(0)) - fixed
    for i, t in enumerate(ts):
        for name, x in path.at(t).items():
            torch.testing.assert_close(states[name][i], x, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(x, before[n]) for n, x in weights.of(moving.model).items())
    # through a tied weight the gradient comes twice
    total = states["second.weight"].sum() + 2 * states["again.weight"].sum()
    (slope,) = torch.autograd.grad(total, points)
    assert not states["scale"].requires_grad
    expected = 3 * coefficients.sum(0)
    tied = slope[:, slope[0] != 0]
    assert tied.shape[1] == 36
    torch.testing.assert_close(tied, expected[:, None].expand_as(tied))


# batch norm, dropout, what is not trained ------------------------------------------------------


def test_what_is_not_trained_stays_on_the_chord_and_ties_hold(tiny: mc.Data) -> None:
    path = fit(*pair("own"), tiny)
    points = path.control_points
    chord = {name: torch.lerp(p[0], p[-1], 1 / 3) for name, p in points.items()}
    for name in ("third.weight", "fourth.weight", "last.bias", "scale"):
        torch.testing.assert_close(points[name][1], chord[name])
    for name in ("first.weight", "second.weight", "last.weight"):
        assert not torch.allclose(points[name][1], chord[name], atol=1e-4), name
    assert torch.equal(points["second.weight"], points["again.weight"])
    for kind in NETWORKS:
        if "batch norm" in kind:
            points = fit(*pair(kind), tiny).control_points
            name = next(n for n in points if n.endswith("running_mean"))
            torch.testing.assert_close(points[name][1], torch.lerp(*points[name][[0, -1]], 1 / 3))


def test_dropout_does_nothing(tiny: mc.Data) -> None:
    def with_dropout(model: nn.Module, p: float) -> nn.Module:
        return nn.Sequential(nn.Flatten(), *list(model)[1:-1], nn.Dropout(p), model.output).train()

    paths = [fit(*(with_dropout(m, p) for m in pair()), tiny) for p in (0.0, 0.9)]
    assert same(*paths)


def test_a_start_is_gone_on_from(tiny: mc.Data) -> None:
    a, b = pair()
    first = fit(a, b, tiny)
    again = fit(a, b, tiny, start=first)
    assert again.history["length"][0] == pytest.approx(first.history["length"].min(), rel=1e-9)
    assert again.history["length"].min() < again.history["length"][0]
    assert same(fit(a, b, tiny, start=first, lr=1e-30), first)


# interrupted runs -----------------------------------------------------------------------------


class Killed(Exception):
    """What stops a run."""


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "sgd", "augment": True, "energy": "exact"}, {"lr": 5.0}],
    ids=["adam", "sgd", "best long ago"],
)
def test_an_interrupted_run_comes_to_the_same_path(
    tiny: mc.Data, tmp_path: Path, options: dict[str, Any], stop: int
) -> None:
    a, b = pair()
    seen: list[float] = []

    def calm(path: mc.Path) -> dict[str, float]:
        return {"seen": float(path.control_points["output.weight"][1].sum())}

    def watch(path: mc.Path) -> dict[str, float]:
        seen.append(0.0)
        if len(seen) == stop + 1:
            raise Killed
        return calm(path)

    file = tmp_path / "geodesic"
    options = {"steps": 11, "every": 2, **options}
    whole = fit(a, b, tiny, watch=calm, **options)
    with pytest.raises(Killed):
        fit(a, b, tiny, watch=watch, checkpoint=file, **options)
    resumed = fit(a, b, tiny, watch=calm, checkpoint=file, **options)
    assert same(resumed, whole)
    assert resumed.history.equals(whole.history)

    def never(path: mc.Path) -> dict[str, float]:
        raise AssertionError("a finished run goes on")

    finished = fit(a, b, tiny, watch=never, checkpoint=file, **options)
    assert same(finished, whole)
    assert finished.history.equals(whole.history)


def test_a_checkpoint_of_another_run_is_refused(tiny: mc.Data, tmp_path: Path) -> None:
    a, b = pair()
    file = tmp_path / "geodesic"
    fit(a, b, tiny, checkpoint=file)
    for change, said in (
        ({"steps": 7}, "steps = 7, found 6"),
        ({"energy": "jsd"}, "energy = 'jsd', found 'hellinger'"),
        ({"points": 6}, "expected nodes = "),
        ({"between": False}, "between = False, found True"),
        ({"damping": 0.5}, "damping = 0.5, found 0.0"),
        ({"images": 9}, "judged = 9, found 70"),
        ({"kind": "polychain"}, "kind = 'polychain', found 'bezier'"),
        ({"seed": 1}, "seed = 1, found 0"),
        ({"lr": 0.5}, "lr = 0.5"),
        ({"bends": 3}, "expected control points"),
    ):
        with pytest.raises(mc.IncompatibleError, match=said):
            fit(a, b, tiny, checkpoint=file, **change)
    with pytest.raises(mc.IncompatibleError, match="expected control points"):
        fit(a, NETWORKS["mlp"](2), tiny, checkpoint=file)
    with pytest.raises(mc.IncompatibleError, match="expected data = "):
        fit(a, b, tiny.train.x[1:], checkpoint=file)
    curve = tmp_path / "curve"
    mc.fit_curve(a, b, tiny, steps=1, progress=False, checkpoint=curve)
    with pytest.raises(ValueError, match="geodesic"):
        fit(a, b, tiny, checkpoint=curve)


# bad input ------------------------------------------------------------------------------------


def test_bad_input_is_refused(tiny: mc.Data) -> None:
    a, b = pair()
    c = NETWORKS["mlp"](2)
    for options, said in (
        ({"bends": 0}, "at least 1 bend, found 0"),
        ({"steps": 0}, "steps of at least 1, found 0"),
        ({"every": 0}, "every of at least 1, found 0"),
        ({"points": 2}, "points of at least 3, found 2"),
        ({"points": 0}, "points of at least 3, found 0"),
        ({"points": 1, "energy": "exact"}, "points of at least 2, found 1"),
        ({"images": 0}, "images of at least 1, found 0"),
        ({"damping": -0.1}, "a damping of at least 0, found -0.1"),
        ({"damping": math.inf}, "a damping of at least 0, found inf"),
        ({"damping": math.nan}, "a damping of at least 0, found nan"),
        ({"weight_decay": 0.1}, "expected damping, found weight_decay = 0.1"),
        ({"attack": mc.PGD(0.1, 0.1)}, "expected no attack: it needs labels, found attack = PGD"),
        ({"lr": -1}, "learning rate above 0, found -1"),
        ({"batch_size": 0}, "batch size of at least 1, found 0"),
        ({"start": mc.BezierPath(a, b, 3)}, "kind bezier with bends = 2, found kind bezier with 3"),
        ({"start": mc.PolychainPath(a, b, 2)}, "bends = 2, found kind polychain with 2"),
        ({"start": mc.LinearPath(a, b)}, "found kind linear with 0"),
    ):
        with pytest.raises(ValueError, match=said):
            fit(a, b, tiny, **options)
    assert fit(a, b, tiny, points=2, energy="exact", weight_decay=0.0, attack=None).kind == "bezier"
    with pytest.raises(mc.UnknownNameError, match="kind of curve 'bezir'; did you mean 'bezier'"):
        fit(a, b, tiny, kind="bezir")
    with pytest.raises(mc.UnknownNameError, match="energy 'helinger'; did you mean 'hellinger'"):
        fit(a, b, tiny, energy="helinger")
    with pytest.raises(mc.UnknownNameError, match="field of the recipe"):
        fit(a, b, tiny, rate=1)
    with pytest.raises(mc.IncompatibleError, match="from A to B, found other ends"):
        fit(a, b, tiny, start=mc.BezierPath(a, c, 2))
    with pytest.raises(TypeError, match="a path to start from, found Network"):
        fit(a, b, tiny, start=a)
    with pytest.raises(mc.IncompatibleError, match="no path joins these networks"):
        fit(a, NETWORKS["convnet, group norm"](1), tiny)
    with pytest.raises(TypeError, match="expected data, as .* or images, found Split"):
        fit(a, b, tiny.train)
    with pytest.raises(ValueError, match="images to measure lengths on, found none"):
        fit(a, b, tiny.train.x[:0])
    with pytest.raises(ValueError, match="last batch has at least two images"):
        fit(*pair("mlp, batch norm"), tiny, batch_size=69)
    frozen = [model.requires_grad_(False) for model in pair()]
    with pytest.raises(ValueError, match="trainable parameters, found none"):
        fit(*frozen, tiny)


def test_steps_into_nothing_say_so(tiny: mc.Data) -> None:
    with pytest.raises((FloatingPointError, ValueError), match="NaN or infini|learning rate"):
        fit(*pair(), tiny, optimizer="sgd", lr=1e38, steps=20)


# how short ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligned(digits: mc.Data) -> list[tuple[nn.Module, nn.Module]]:
    """Two pairs of perceptrons as the specification trains them, B aligned."""
    nets = [
        mc.train(mc.build_model("mlp", digits, width=(16, 16), seed=s), digits, 60, seed=s,
                 optimizer="adam", lr=1e-3, progress=False)
        for s in range(4)
    ]  # fmt: skip
    return [
        (a, mc.activation_matching(a, b, digits, progress=False).model)
        for a, b in zip(nets[::2], nets[1::2], strict=True)
    ]


def test_it_is_half_as_long_as_the_line_and_has_no_wall(
    aligned: list[tuple[nn.Module, nn.Module]], digits: mc.Data
) -> None:
    for a, b in aligned:
        line = mc.certify(mc.LinearPath(a, b), digits, 25, progress=False)
        path = mc.fit_geodesic(a, b, digits, progress=False)
        found = mc.certify(path, digits, 25, progress=False)
        assert found.bound == line.bound
        assert found.length < 0.5 * line.length
        assert 1 < found.ratio < 4
        assert found.unevenness < line.unevenness
        assert found.error_bound < line.error_bound
        assert found.worst_error < line.worst_error
        assert found.table["loss"].max() < line.table["loss"].max()
        walls = [
            mc.profile(p, digits, 13, splits=("train",), progress=False).barrier("train")
            for p in (path, mc.LinearPath(a, b))
        ]
        assert walls[0] < 0.25 * walls[1]
