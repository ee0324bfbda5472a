"""The benchmark of layer-wise walks: the paper's procedure is the paper's, and it is judged."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import mcbook as mc

ROOT = Path(__file__).resolve().parents[1]
EPSILON = 1e-4


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`benchmarks` is a folder of the repository and no part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("MCBOOK_DATA", raising=False)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def some_ends(seed: int = 0) -> tuple[nn.Module, nn.Module, mc.Data]:
    """Two networks of three layers, the last of one bias, and twelve images."""
    generator = torch.Generator().manual_seed(seed)
    ends = []
    for scale in (0.5, 1.5):
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)
        )
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(scale * torch.randn(p.shape, generator=generator) + 0.1)
        ends.append(model.eval())
    x = torch.randn(12, 1, 2, 2, generator=generator)
    train, test = (mc.Split(part, (part.sum((1, 2, 3)) > 0).long()) for part in (x[:8], x[8:]))
    return *ends, mc.Data(train, test, ("0", "1"), "twelve images", 16 * "0")


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def on_sphere(x: torch.Tensor, variance: float) -> torch.Tensor:
    """In double precision, entry by entry."""
    values = [float(v) for v in x.flatten()]
    mean = math.fsum(values) / len(values)
    own = math.fsum((v - mean) ** 2 for v in values) / len(values)
    factor = math.sqrt((variance + EPSILON) / (own + EPSILON))
    return torch.tensor([mean + factor * (v - mean) for v in values]).view(x.shape)


def variance(x: torch.Tensor) -> float:
    return float(x.double().var(unbiased=False))


QUIET = {"lr": 0.0, "rounds": (1, 1), "threshold": 0.0, "batch_size": 8, "points": 1000}


def test_it_runs_and_leaves_the_random_state_and_the_threads(tmp_path: Path, capsys):
    from benchmarks import layerwise
    from benchmarks.__main__ import main

    before, threads, file = torch.get_rng_state(), torch.get_num_threads(), tmp_path / "out.json"
    assert main(["layerwise", "--smoke", "--json", str(file)]) == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    (result,) = json.loads(file.read_text(encoding="utf-8"))["results"]
    ways = [layerwise.PAPER, layerwise.OURS, layerwise.CURVE, layerwise.BAND]
    assert list(result["comparison"]["seconds"]) == ways
    assert result["comparison"]["baseline"] == layerwise.PAPER
    printed = capsys.readouterr().out
    for said in ("highest training loss", "gradients", "distance left", "lowest test accuracy"):
        assert f"\n  {said}  " in printed
    assert "LeNet5 on MNIST: skipped; --mnist runs it" in printed


def test_lenet5_runs_where_it_is_asked_for(capsys):
    from benchmarks.__main__ import main

    assert main(["layerwise", "--smoke", "--mnist"]) == 0
    printed = capsys.readouterr().out
    assert "skipped" not in printed
    assert "LeNet5, one pair, one thread, on random images of the size of mnist" in printed
    assert "its processor seconds: " in printed
    assert ", at most 60: met" in printed
    assert "LeNet5, mc.layerwise_path: " in printed


def test_lenet5_is_refused_without_its_images(tmp_path: Path, monkeypatch, capsys):
    from benchmarks import layerwise
    from benchmarks.__main__ import main

    monkeypatch.setenv("MCBOOK_DATA", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["layerwise", "--mnist"])
    assert f"expected mnist.npz in $MCBOOK_DATA for --mnist, found MCBOOK_DATA='{tmp_path}'" in (
        " ".join(capsys.readouterr().err.split())
    )
    with pytest.raises(FileNotFoundError, match=r"mnist.npz in \$MCBOOK_DATA"):
        layerwise.run(mnist=True)
    (tmp_path / "mnist.npz").touch()
    layerwise.check_mnist()


def test_the_stages_are_those_of_the_data_flow():
    from benchmarks.layerwise import _Sizes
    from benchmarks.paper_walk import layers_of

    data = mc.load_data("digits", device="cpu")
    sizes = _Sizes()
    model = mc.build_model("mlp", data, width=sizes.width, seed=0)
    assert [tuple(layer) for layer in layers_of(model)] == mc.flow_stages(model)
    # as many ticks as leave 1 % of the way; half of them before the last stage
    assert 0.98 ** sizes.ticks[-1] <= 0.01 < 0.98 ** (sizes.ticks[-1] - 1)
    assert sizes.ticks == (sizes.ticks[-1] // 2,) * 3 + (sizes.ticks[-1],)


def test_a_layer_more_moves_in_every_stage_and_all_are_on_the_first_spheres():
    from benchmarks.paper_walk import paper_walk

    a, b, data = some_ends()
    found = paper_walk(a, b, data, (1, 1, 2), step=0.25, **QUIET)
    now, goal = state(a), state(b)
    spheres = {name: variance(x) for name, x in now.items()}
    layers = [("1.weight", "1.bias"), ("3.weight", "3.bias"), ("5.weight", "5.bias")]
    assert len(found.points) == 4
    for point, stages in zip(found.points, (1, 2, 3, 3), strict=True):
        for name in [name for layer in layers[:stages] for name in layer]:
            now[name] = now[name] + 0.25 * (goal[name] - now[name])
        for _ in range(2):
            now = {name: on_sphere(x, spheres[name]) for name, x in now.items()}
        for name, x in state(point).items():
            assert torch.allclose(x, now[name], atol=2e-5), name
            if not any(name in layer for layer in layers[:stages]):
                assert torch.allclose(x, state(a)[name], atol=2e-5)
    distances = [
        math.sqrt(sum(float((x[n] - goal[n]).square().sum()) for n in goal))
        for x in (state(a), state(found.points[-1]))
    ]
    assert found.left == pytest.approx(distances[1] / distances[0], rel=1e-4)
    assert 0.2 < found.left < 0.9


def test_a_tensor_of_one_entry_is_on_no_sphere_and_arrives():
    from benchmarks.paper_walk import paper_walk

    _, _, data = some_ends()
    a, b = (nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.PReLU()) for _ in range(2))
    with torch.no_grad():
        b[2].weight.fill_(0.75)
    found = paper_walk(a, b, data, (1, 1), step=1.0, **QUIET)
    assert found.points[0][2].weight.item() == 0.25
    assert found.points[1][2].weight.item() == 0.75


def test_all_parameters_go_down_the_loss_without_momentum():
    from benchmarks.paper_walk import paper_walk

    a, b, data = some_ends()
    options = {**QUIET, "lr": 0.3, "rounds": (3, 3)}
    found = paper_walk(a, b, data, (1, 0, 0), step=0.5, **options)
    still = paper_walk(a, b, data, (1, 0, 0), step=0.5, **QUIET).points[0]
    model = nn.Sequential(*still)
    for _ in range(3):
        model.zero_grad()
        nn.functional.cross_entropy(model(data.train.x), data.train.y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(p.grad, alpha=0.3)
    for name, x in state(found.points[0]).items():
        moved = on_sphere(state(model)[name], variance(state(a)[name]))
        assert torch.allclose(x, moved, atol=5e-5), name
    assert found.gradients == 3


def test_retraining_stops_at_the_threshold_and_the_last_ones_count():
    from benchmarks.paper_walk import paper_walk

    a, b, data = some_ends()
    low = paper_walk(a, b, data, (2, 1, 1), **{**QUIET, "threshold": 1e3, "rounds": (4, 9)})
    assert (low.gradients, low.at_most) == (16, 0)
    never = paper_walk(a, b, data, (2, 1, 1), **{**QUIET, "threshold": 1e-9, "rounds": (4, 9)})
    assert (never.gradients, never.at_most) == (36, 4)
    some = paper_walk(
        a, b, data, (1, 0, 0), **{**QUIET, "lr": 0.5, "threshold": 0.1, "rounds": (4, 5_000)}
    )
    assert some.at_most == 0
    assert 4 < some.gradients < 5_000


def test_tests_are_taken_after_every_tick_and_timed():
    from benchmarks.paper_walk import paper_walk

    a, b, data = some_ends()
    ticking = iter(range(1_000))
    found = paper_walk(a, b, data, (2, 1, 1), **QUIET, now=lambda: float(next(ticking)))
    assert found.testing == 4.0
    losses = [mc.evaluate(point, data.test)[0] for point in found.points]
    assert found.tests == pytest.approx(losses, rel=1e-5)


def test_points_are_spread_evenly_and_nothing_given_is_changed():
    from benchmarks.paper_walk import paper_walk

    a, b, data = some_ends()
    kept = [state(a), state(b)]
    random = torch.get_rng_state()
    options = {**QUIET, "lr": 0.1, "batch_size": 3, "rounds": (2, 4)}
    every = paper_walk(a, b, data, (4, 4, 2), **options)
    some = paper_walk(a, b, data, (4, 4, 2), **{**options, "points": 5})
    assert torch.equal(torch.get_rng_state(), random)
    assert len(every.points) == 10
    assert len(some.points) == 5
    for point, same in zip(some.points, every.points[1::2], strict=True):
        assert all(torch.equal(x, state(same)[n]) for n, x in state(point).items())
    for model, before in zip((a, b), kept, strict=True):
        assert all(torch.equal(x, before[n]) for n, x in state(model).items())
        assert not model.training
        assert all(p.grad is None for p in model.parameters())
    assert not any(point.training for point in every.points)


def test_every_image_comes_once_an_epoch_and_in_another_order():
    from benchmarks.paper_walk import _minibatches

    batches = _minibatches(mc.Split(torch.arange(10.0), torch.arange(10)), 4, seed=0)
    epochs = [[next(batches) for _ in range(3)] for _ in range(2)]
    assert [len(x) for x, _ in epochs[0]] == [4, 4, 2]
    assert all(torch.equal(x.long(), y) for epoch in epochs for x, y in epoch)
    orders = [torch.cat([y for _, y in epoch]).tolist() for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1]


class Searches:
    """In the place of a pair: searches that cost what they are told to, on a clock of their own."""

    def __init__(self):
        from benchmarks.paper_walk import PaperWalk

        self.a, self.b, self.data = some_ends()
        self.time, self.calls = 0.0, []
        self.walk = PaperWalk([self.a], 400, 3, [0.1], 4.0, 0.05)

    def __call__(self) -> float:
        return self.time

    def _search(self, name: str, seconds: float):
        self.calls.append(name)
        self.time += seconds

    def paper(self, sizes: object, now: object):
        self._search("paper", 40.0)
        return self.walk

    def ours(self, sizes: object) -> mc.Path:
        self._search("ours", 8.0)
        path = mc.LinearPath(self.a, self.b)
        path.log = pd.DataFrame({"batches": [0, 60, 120]})
        path.converged, path.shortfalls, path.relative_distance = True, [], 0.01
        return path

    def curve(self, sizes: object, gradients: int) -> mc.Path:
        self._search(f"curve {gradients}", 5.0)
        return mc.LinearPath(self.a, self.b)

    def band(self, sizes: object, gradients: int) -> tuple[mc.Path, int]:
        self._search(f"band {gradients}", 10.0)
        return mc.LinearPath(self.a, self.b), gradients + 30


def a_trial(monkeypatch: pytest.MonkeyPatch, rounds: int):
    from benchmarks import layerwise

    searches = Searches()
    monkeypatch.setattr(layerwise, "_pair", lambda number, data, sizes: searches)
    trial = layerwise._Trial(searches.data, layerwise._Sizes(), "cpu")
    trial.now = searches
    for turn in range(rounds):
        trial.round(turn)
    return trial, searches


def test_the_curve_and_the_band_get_the_gradients_of_the_walk(monkeypatch):
    from benchmarks import layerwise

    trial, searches = a_trial(monkeypatch, 5)
    assert searches.calls[:4] == ["ours", "paper", "curve 2", "band 12"]  # these warm up
    assert searches.calls[4:12] == [
        *("paper", "ours", "curve 120", "band 120"),
        *("ours", "paper", "curve 120", "band 120"),
    ]
    ways = (layerwise.PAPER, layerwise.OURS, layerwise.CURVE, layerwise.BAND)
    for way, seconds, gradients in zip(ways, (40, 8, 5, 10), (400, 120, 120, 150), strict=True):
        assert trial.seconds[way] == pytest.approx([seconds] * 5)
        assert [g[way] for g in trial.gradients] == [gradients] * 4
    # there are four pairs; the fifth round has the first again
    assert len(trial.pairs) == len(trial.walks) == len(trial.paths) == 4


def test_a_band_counts_the_gradients_of_all_its_pivots():
    from benchmarks import layerwise

    a, b, data = some_ends()
    pair = layerwise._Pair(a, b, data, 0)
    path, gradients = pair.band(layerwise._SMOKE, 24)
    assert list(path.history["cycle"]) == [0, 1, 2, 3, 4]
    assert gradients == 2 * sum(path.history["pivots"].iloc[:-1])
    assert gradients >= 24


def test_what_is_found_is_compared_with_what_should_be(monkeypatch):
    from benchmarks import layerwise

    trial, _ = a_trial(monkeypatch, 2)
    ways = (layerwise.LINE, layerwise.PAPER, layerwise.OURS, layerwise.CURVE, layerwise.BAND)
    seen = {what: {way: [0.5, 0.7] for way in ways} for what in ("loss", "barrier", "accuracy")}
    seen["barrier"][layerwise.LINE] = [0.9, 0.29]
    seen["loss"][layerwise.OURS] = [0.03, 0.05]
    monkeypatch.setattr(trial, "heights", lambda: seen)
    notes, faults = layerwise._found(trial)
    assert not faults
    for line in (
        "barrier of the line, train: 0.29 to 0.9, at least 0.3: MISSED",
        "highest training loss of mc.layerwise_path: 0.03 to 0.05, at most 0.06: met",
        "its distance from the mean of 2 pairs: 0.25 to 0.25, at most 0.2: MISSED",
        "times fewer gradients than the paper's: 3.33 to 3.33",
        "of the paper's seconds, tests: 4.00 to 4.00",
        "ticks that took the most rounds, paper's: 3, 3",
    ):
        assert line in notes
    assert any(
        note.split() == [*layerwise.OURS.split(), "0.0300", "0.0500", "0.0400"] for note in notes
    )
    seen["loss"][layerwise.OURS] = [0.058, 0.061]
    notes, _ = layerwise._found(trial)
    assert (
        "highest training loss of mc.layerwise_path: 0.058 to 0.061, at most 0.06: MISSED" in notes
    )
    assert "its distance from the mean of 2 pairs: 0.0252 to 0.0252, at most 0.2: met" in notes

    trial.paths[1][layerwise.OURS].converged = False
    trial.paths[1][layerwise.OURS].shortfalls = ["20% of the distance are left"]
    with torch.no_grad():
        trial.pairs[0].b[1].bias.add_(1.0)
    _, faults = layerwise._found(trial)
    assert "pair 2: the walk has not converged: ['20% of the distance are left']" in faults
    assert "pair 1: the path is not at its end at t = 1" in faults


def test_a_walk_is_measured_inside_every_piece(monkeypatch):
    from benchmarks import layerwise

    trial, _ = a_trial(monkeypatch, 1)
    a, b, _data = some_ends()
    middle = nn.Sequential(*some_ends(5)[0])
    trial.paths[0][layerwise.OURS] = path = mc.PolychainPath(a, b, [middle], [0.0, 0.9, 1.0])
    places = [0.0, 0.225, 0.45, 0.675, 0.9, 0.925, 0.95, 0.975, 1.0]
    losses = [mc.evaluate(path.model_at(t), trial.data.train)[0] for t in places]
    (found,) = trial.heights()["loss"][layerwise.OURS]
    assert found == pytest.approx(max(losses), rel=1e-5)
