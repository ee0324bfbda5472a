"""The benchmark of geodesics: the paper's procedure is the paper's, and what is found is judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import mcbook as mc

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`benchmarks` is a folder of the repository and no part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("MCBOOK_DATA", raising=False)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def some_ends(seed: int = 0) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Two networks that say different things of ten images."""
    generator = torch.Generator().manual_seed(seed)
    ends = []
    for _ in range(2):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
        ends.append(model)
    return *ends, torch.randn(10, 1, 2, 2, generator=generator)


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def summed(chain: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """What the chain minimises, of the package's own divergence."""
    lp = [network(x).log_softmax(1) for network in chain]
    return sum(mc.js_divergence(p, q).mean() for p, q in pairwise(lp))


def test_it_runs_and_leaves_the_random_state_and_the_threads(tmp_path: Path, capsys):
    from benchmarks import geodesic
    from benchmarks.__main__ import main

    state, threads, file = torch.get_rng_state(), torch.get_num_threads(), tmp_path / "out.json"
    most = geodesic._FINDER._STACKED
    assert main(["geodesic", "--smoke", "--json", str(file)]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert most == geodesic._FINDER._STACKED
    (result,) = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert list(result["comparison"]["seconds"]) == [geodesic.PAPER, geodesic.OURS, geodesic.CURVE]
    assert result["comparison"]["baseline"] == geodesic.PAPER
    printed = capsys.readouterr().out
    for split in ("train", "test"):
        for said in (f"Fisher length, {split}", f"length / bound, {split}", f"barrier, {split}"):
            assert said in printed
    assert printed.count("weights stacked: ") == 2


def test_the_chain_begins_evenly_on_the_chord():
    from benchmarks.geodesic import paper_chain

    a, b, x = some_ends()
    chain = [flat(network) for network in paper_chain(a, b, x, networks=6, iterations=0)]
    assert len(chain) == 6
    for i, weights in enumerate(chain):
        assert torch.allclose(weights, torch.lerp(flat(a), flat(b), i / 5), atol=1e-6)


def test_steps_go_down_the_sum_of_the_divergences():
    from benchmarks.geodesic import paper_chain

    a, b, x = some_ends()
    expected = paper_chain(a, b, x, networks=4, iterations=0)
    for _ in range(2):
        for network in expected:
            network.zero_grad()
        summed(expected, x).backward()
        with torch.no_grad():
            for network in expected[1:-1]:
                for p in network.parameters():
                    p.sub_(p.grad, alpha=0.7)
    start = paper_chain(a, b, x, networks=4, iterations=0)
    moved = paper_chain(a, b, x, networks=4, iterations=2, lr=0.7, batch_size=len(x))
    for before, after, should in zip(start, moved, expected, strict=True):
        assert torch.allclose(flat(after), flat(should), atol=1e-6)
        assert (flat(after) - flat(before)).norm() > 1e-2 or before in (start[0], start[-1])


def test_the_ends_stay_and_nothing_given_is_changed():
    from benchmarks.geodesic import paper_chain

    a, b, x = some_ends()
    kept = [flat(a).clone(), flat(b).clone(), x.clone()]
    state = torch.get_rng_state()
    start = paper_chain(a, b, x, networks=4, iterations=0)
    chain = paper_chain(a, b, x, networks=4, iterations=30, lr=0.5, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(flat(chain[0]), flat(a))
    assert torch.equal(flat(chain[-1]), flat(b))
    assert all(torch.equal(x, y) for x, y in zip(kept, [flat(a), flat(b), x], strict=True))
    assert all(p.requires_grad and p.grad is None for p in [*a.parameters(), *b.parameters()])
    assert summed(chain, x).item() < 0.9 * summed(start, x).item()
    again = paper_chain(a, b, x, networks=4, iterations=30, lr=0.5, batch_size=4)
    assert all(torch.equal(flat(p), flat(q)) for p, q in zip(chain, again, strict=True))


def test_every_image_comes_once_an_epoch_and_in_another_order():
    from benchmarks.geodesic import _minibatches

    batches = _minibatches(torch.arange(10), 4, seed=0)
    epochs = [[next(batches) for _ in range(3)] for _ in range(2)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    orders = [torch.cat(epoch).tolist() for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1]


def test_the_divergence_is_finite_where_a_probability_is_nothing():
    from benchmarks.geodesic import _divergence

    lp, lq = (
        torch.tensor(z).log_softmax(0).requires_grad_() for z in ([120.0, -120.0], [-120.0, 120.0])
    )
    found = _divergence(lp, lq)
    found.backward()
    assert found.item() == pytest.approx(0.6931472, abs=1e-6)
    assert all(bool(p.grad.isfinite().all()) for p in (lp, lq))


class Searches:
    """In the place of a pair: searches that cost what they are told to, on a clock of their own."""

    def __init__(self):
        self.a, self.b, self.x = some_ends()
        self.time, self.calls = 0.0, []

    def __call__(self) -> float:
        return self.time

    def _search(self, name: str, seconds: float) -> mc.Path:
        self.calls.append(name)
        self.time += seconds
        return mc.LinearPath(self.a, self.b)

    def paper(self, sizes: object) -> mc.Path:
        return self._search("paper", 40.0)

    def ours(self, sizes: object) -> mc.Path:
        return self._search("ours", 6.0)

    def curve(self, steps: int) -> mc.Path:
        return self._search(f"curve {steps}", 0.02 * steps)


def a_trial(monkeypatch: pytest.MonkeyPatch, rounds: int):
    from benchmarks import geodesic

    x = some_ends()[2]
    split = mc.Split(x, torch.arange(10) % 3)
    data = mc.Data(split, split, ("0", "1", "2"), "ten images", 16 * "0")
    searches = Searches()
    monkeypatch.setattr(geodesic, "_pair", lambda number, data, sizes: searches)
    trial = geodesic._Trial(data, geodesic._SMOKE, "cpu")
    trial.now = searches
    for turn in range(rounds):
        trial.round(turn)
    return trial, searches


def test_the_loss_fitted_curve_gets_the_time_of_the_geodesic(monkeypatch):
    from benchmarks import geodesic

    trial, searches = a_trial(monkeypatch, 2)
    # the first `curve 2` warms up, the next ones tell what a step costs
    assert searches.calls == [
        *("curve 2", "paper", "ours", "curve 2", "curve 300"),
        *("ours", "paper", "curve 2", "curve 300"),
    ]
    assert trial.steps == [300, 300]
    for way, seconds in ((geodesic.PAPER, 40.0), (geodesic.OURS, 6.0), (geodesic.CURVE, 6.0)):
        assert trial.seconds[way] == pytest.approx([seconds, seconds])


def test_what_is_found_is_compared_with_what_should_be(monkeypatch):
    from benchmarks import geodesic

    trial, _ = a_trial(monkeypatch, 2)
    lengths = {"train": {}, "test": {}}
    for split, factor in (("train", 1.0), ("test", 2.0)):
        lengths[split] = {
            geodesic.BOUND: [0.1 * factor, 0.2 * factor],
            geodesic.LINE: [2.0, 2.0],
            geodesic.PAPER: [1.0, 0.8],
            geodesic.OURS: [0.25, 0.5],
            geodesic.CURVE: [0.2, 0.4],
        }
    barriers = {way: [0.5, 0.5] for way in (geodesic.LINE, geodesic.PAPER, geodesic.CURVE)}
    barriers[geodesic.OURS] = [0.0, 0.03]
    monkeypatch.setattr(trial, "lengths", lengths.__getitem__)
    monkeypatch.setattr(trial, "barriers", lambda split: barriers)
    notes, faults = geodesic._found(trial)
    assert not faults
    for line in (
        "times shorter than by the paper's, train: 2.8 (1.6 to 4), at least 2: met",
        "length / loss-fitted curve's, train: 1.25 (1.25 to 1.25), at most 1: MISSED",
        "length / bound, train: 2.5 (2.5 to 2.5), at most 2.5: met",
        "length / bound, test: 1.25 (1.25 to 1.25), at most 2.5: met",
        "barrier, train: 0.015 (0 to 0.03), at most 0.01: MISSED",
        "barrier, test: 0.015 (0 to 0.03), at most 0.02: met",
        "length / line's, train: 0.188 (0.125 to 0.25), at most 0.25: met",
        f"seconds of {geodesic.OURS}: 6 (6 to 6), at most 10: met",
    ):
        assert line in notes
    assert any(note.split() == ["bound", "0.100", "0.200", "0.150"] for note in notes)

    lengths["test"][geodesic.OURS][1] = 0.39  # the bound is 0.4: no path is that short
    _, faults = geodesic._found(trial)
    assert faults == [f"{geodesic.OURS}: a length below the bound, test"]
