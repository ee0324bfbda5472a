"""The benchmark harness measures what it says, and every benchmark runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

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
        assert "random images" in result["data"]
        assert not result["failures"]
    printed = capsys.readouterr().out
    assert "mc.profile: losses differ by at most" in printed


def test_an_unknown_benchmark_is_refused_with_the_close_names(capsys: pytest.CaptureFixture):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(["profil"])
    assert "unknown benchmark 'profil'; did you mean 'profile'?" in capsys.readouterr().err
