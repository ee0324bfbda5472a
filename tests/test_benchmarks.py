"""The benchmark harness measures what it says, and every benchmark runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import count
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


class Clock:
    """Time that passes only where a way lets it pass."""

    def __init__(self):
        self.time = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.time

    def way(self, name: str, *seconds: float) -> Callable[[], None]:
        turns = count()

        def run() -> None:
            self.calls.append(name)
            self.time += seconds[next(turns) % len(seconds)]

        return run


def test_ratios_are_taken_within_a_round():
    from benchmarks.harness import compare

    clock = Clock()
    ways = {"slow": clock.way("slow", 10, 20, 40), "fast": clock.way("fast", 5, 8, 10)}
    found = compare(ways, "slow", rounds=3, warmups=0, now=clock)
    assert found.seconds == {"slow": (10, 20, 40), "fast": (5, 8, 10)}
    assert found.median("slow") == 20
    assert found.median("fast") == 8
    assert found.ratio("fast") == (2.5, 2.0, 4.0)
    assert found.ratio("slow") == (1.0, 1.0, 1.0)


def test_ways_take_turns_at_being_first():
    from benchmarks.harness import compare

    clock = Clock()
    compare({n: clock.way(n, 1) for n in "abc"}, "a", rounds=3, warmups=1, now=clock)
    assert "".join(clock.calls) == "abc" + "abc" + "bca" + "cab"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "c"}, r"a baseline among \['a'\], found 'c'"),
        ({"baseline": "a", "clock": "sun"}, r"a clock among \['wall', 'cpu'\], found 'sun'"),
        ({"baseline": "a", "rounds": 0}, "at least one round, found 0"),
    ],
)
def test_what_cannot_be_timed_is_refused(options: dict, message: str):
    from benchmarks.harness import compare

    with pytest.raises(ValueError, match=message):
        compare({"a": lambda: None}, **options)


def test_a_result_says_what_was_reached():
    from benchmarks.harness import Comparison, Result

    comparison = Comparison({"usual": (3.0, 3.0), "ours": (1.0, 1.5), "other": (1.0, 1.0)}, "usual")
    targets = {"ours": 2.4, "other": 4.0}
    result = Result("name", "title", "digits", comparison, targets, ("a note",), ("a fault",))
    assert result.met("ours")
    assert not result.met("other")
    table = result.table()
    assert "(baseline)" in table
    assert "2.50 (2.00 to 3.00), target 2.4: met" in table
    assert "3.00 (3.00 to 3.00), target 4: MISSED" in table
    assert "NOT AS EXPECTED: a fault" in table
    facts = json.loads(json.dumps(result.as_json()))
    assert facts["ratios"]["ours"]["median"] == 2.5
    assert facts["met"] == {"ours": True, "other": False}


def test_amx_is_told_by_the_list_of_abilities(tmp_path: Path):
    from benchmarks.harness import has_amx

    file = tmp_path / "cpuinfo"
    assert not has_amx(file)
    file.write_text("flags : fpu avx512f amx_tile\n", encoding="utf-8")
    assert not has_amx(file)
    file.write_text("flags : fpu amx_bf16 amx_tile\n", encoding="utf-8")
    assert has_amx(file)


@pytest.mark.usefixtures("offline")
def test_every_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture):
    from benchmarks.__main__ import BENCHMARKS, main

    file = tmp_path / "out.json"
    assert main(["--smoke", "--json", str(file)]) == 0
    facts = json.loads(file.read_text(encoding="utf-8"))
    assert [result["name"] for result in facts["results"]] == list(BENCHMARKS)
    assert set(BENCHMARKS) == {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if "NAME = " in path.read_text()
    }
    for result in facts["results"]:
        assert all(seconds[0] > 0 for seconds in result["comparison"]["seconds"].values())
        assert result["data"].startswith("random ")
        assert not result["failures"]
    printed = capsys.readouterr().out
    assert "mc.profile: losses differ by at most" in printed
    assert "without themrzmaster/git-re-basin-pytorch: --peer FOLDER" in printed
    assert "planted objective reached from the frontier in all trials: 1 of 1, met" in printed


def test_an_unknown_benchmark_is_refused_with_the_close_names(capsys: pytest.CaptureFixture):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(["profil"])
    assert (
        "unknown benchmark 'profil'; did you mean 'profile' or 'curve_profile'?"
        in capsys.readouterr().err
    )


# a stand-in for the peer: the same three functions, the identity, and what it says it gained
_STAND_IN = """
import torch

def permutation_spec_from_axes_to_perm(axes_to_perm):
    return axes_to_perm

def weight_matching(spec, params_a, params_b):
    sizes = {p: len(params_a[n]) for n, axes in spec.items() for p in axes[:1] if p}
    order = torch.randperm(len(sizes))
    for sweep in range(2):
        for i in order:
            print(f"{sweep}/{list(sizes)[i]}: {torch.tensor(GAIN)}")
    return {p: torch.Tensor(range(n)) for p, n in sizes.items()}

def apply_permutation(spec, found, params):
    assert all((p == torch.arange(len(p))).all() for p in found.values())
    return dict(params)
"""


def _checkout(folder: Path, gain: float) -> Path:
    file = folder / "utils" / "weight_matching.py"
    file.parent.mkdir()
    file.write_text(_STAND_IN.replace("GAIN", str(gain)), encoding="utf-8")
    return folder


def test_a_peer_runs_from_the_folder_of_its_checkout(tmp_path: Path, capsys: pytest.CaptureFixture):
    from benchmarks.__main__ import main

    state = torch.get_rng_state()
    folder = str(_checkout(tmp_path, 0.0))
    assert main(["weight_matching", "--smoke", "--peer", folder]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    printed = capsys.readouterr().out
    assert "port, one order" in printed
    assert "6.0 assignments, 0.0 moves, 2.0 sweeps" in printed
    assert "0/linear" not in printed  # what the peer prints is not shown
    assert "mean objective from the frontier no lower than the port's" in printed
    assert "no lower than of the port's best of 2 orders" in printed
    assert "MISSED" not in printed


def test_a_peer_whose_gains_are_not_those_of_its_permutation_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    from benchmarks.__main__ import main

    assert main(["weight_matching", "--smoke", "--peer", str(_checkout(tmp_path, 3.0))]) == 1
    assert "NOT AS EXPECTED: the port's start and gains make" in capsys.readouterr().out


def test_a_folder_without_the_peer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(["weight_matching", "--smoke", "--peer", str(tmp_path)])
    assert "found no utils/weight_matching.py" in capsys.readouterr().err
    _checkout(tmp_path, 0.0)
    file = tmp_path / "utils" / "weight_matching.py"
    file.write_text(file.read_text().replace("def apply", "def other"), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["weight_matching", "--smoke", "--peer", str(tmp_path)])
    assert "found no apply_permutation in" in capsys.readouterr().err


def test_the_peer_is_told_of_parameters_only_and_of_no_outputs():
    from benchmarks.peers import chain_axes

    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    )
    assert chain_axes(model) == {
        "0.weight": ("0", None, None, None),
        "1.weight": ("0",),
        "1.bias": ("0",),
        "4.weight": (None, "0"),
        "4.bias": (None,),
    }


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(3, 4), nn.LayerNorm(4)], r"found 1 \(LayerNorm\)"),
        ([nn.Linear(3, 4), nn.Linear(8, 2)], "expected 1 to take the 4 units .* found 8"),
    ],
)
def test_the_peer_is_given_no_network_it_would_get_wrong(layers: list, message: str):
    from benchmarks.peers import chain_axes

    with pytest.raises(mc.IncompatibleError, match=message):
        chain_axes(nn.Sequential(*layers))


def test_the_objective_is_computed_once_for_all_in_float64():
    from benchmarks.matching import objective, parameters

    a, b = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    with torch.no_grad():
        b[1].running_mean += 100  # a statistic does not count
    expected = sum(
        (p.double() * q.double()).sum().item()
        for p, q in zip(a.parameters(), b.parameters(), strict=True)
    )
    assert objective(parameters(a), parameters(b)) == pytest.approx(expected, rel=1e-12)
    scale = {"w": torch.tensor([1.0, 1e8, -1e8])}
    assert objective(scale, {"w": torch.tensor([1.0, 1.0, 1.0])}) == 1.0


def test_targets_of_quality_are_met_or_missed():
    from benchmarks.matching import verdict

    assert verdict("claim", 2.0, 2.0) == "claim: 2 against 2, met"
    assert verdict("claim", 1.99, 2.0) == "claim: 1.99 against 2, MISSED"
