"""Timing several ways of doing one thing against a named baseline.

All ways run in one process, in turns: each round runs every way once, and the
next round starts with another way.  Whatever else the machine does meets all
of them alike, so the *ratio* within a round says more than any time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["CLOCKS", "Comparison", "Ratio", "Result", "compare", "has_amx", "machine_line"]

#: "wall" is what one waits; "cpu" is what all threads of the process work,
#: and says more where other programs compete for the cores
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Ratio(NamedTuple):
    """How many times faster than the baseline.

    Attributes:
        median: of the rounds.
        low: of the worst round.
        high: of the best round.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The times of several ways, round by round.

    Attributes:
        seconds: for every way, its time in each round.
        baseline: the way all others are compared with.
    """

    seconds: Mapping[str, tuple[float, ...]]
    baseline: str

    def median(self, way: str) -> float:
        """The median time of a way, in seconds."""
        return statistics.median(self.seconds[way])

    def ratio(self, way: str) -> Ratio:
        """The baseline's time over the way's time in the same round."""
        pairs = zip(self.seconds[self.baseline], self.seconds[way], strict=True)
        ratios = [base / time for base, time in pairs]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def compare(
    ways: Mapping[str, Callable[[], object]],
    baseline: str,
    rounds: int = 5,
    warmups: int = 1,
    clock: str = "wall",
    now: Callable[[], float] | None = None,
) -> Comparison:
    """Time every way in every round.

    Args:
        ways: what to run, by name.
        baseline: the name of the way to compare with.
        rounds: how often each way is timed.
        warmups: how often each way runs before, untimed.
        clock: "wall" or "cpu".
        now: a clock of one's own.

    Returns:
        The times.

    Raises:
        ValueError: if the baseline is not among the ways, the clock is
            unknown, or there is no round.
    """
    if baseline not in ways:
        raise ValueError(f"expected a baseline among {list(ways)}, found {baseline!r}")
    if clock not in CLOCKS:
        raise ValueError(f"expected a clock among {list(CLOCKS)}, found {clock!r}")
    if rounds < 1 or warmups < 0:
        raise ValueError(f"expected at least one round, found {rounds} after {warmups} warm-ups")
    now = now or CLOCKS[clock]
    names = list(ways)
    for _ in range(warmups):
        for name in names:
            ways[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = now()
            ways[name]()
            seconds[name].append(now() - start)
    return Comparison({name: tuple(times) for name, times in seconds.items()}, baseline)


@dataclass(frozen=True)
class Result:
    """What one benchmark found.

    Attributes:
        name: of the benchmark.
        title: what was timed, with its sizes.
        data: which images: real ones, or random ones of that size.
        comparison: the times.
        targets: the ratio that a way should reach; ways without one are there
            to be seen.
        notes: further findings, such as how well results agree.
        failures: findings that are not as they should be.
    """

    name: str
    title: str
    data: str
    comparison: Comparison
    targets: Mapping[str, float]
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = field(default=())

    def met(self, way: str) -> bool:
        """Whether a way with a target reached it."""
        return self.comparison.ratio(way).median >= self.targets[way]

    def table(self) -> str:
        """The result as text."""
        names = list(self.comparison.seconds)
        width = max(map(len, names))
        lines = [f"{self.name}: {self.title}", f"  data: {self.data}"]
        lines.append(f"  {'':{width}}  median s   times faster")
        for name in names:
            row = f"  {name:{width}}  {self.comparison.median(name):8.3f}"
            if name == self.comparison.baseline:
                row += "   (baseline)"
            else:
                ratio = self.comparison.ratio(name)
                row += f"   {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
            if name in self.targets:
                verdict = "met" if self.met(name) else "MISSED"
                row += f", target {self.targets[name]:g}: {verdict}"
            lines.append(row)
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  NOT AS EXPECTED: {failure}" for failure in self.failures]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The result as plain dictionaries, lists and numbers."""
        facts = asdict(self)
        facts["median_seconds"] = {n: self.comparison.median(n) for n in self.comparison.seconds}
        facts["ratios"] = {n: self.comparison.ratio(n)._asdict() for n in self.comparison.seconds}
        facts["met"] = {name: self.met(name) for name in self.targets}
        return facts


def has_amx(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (AMX).

    Args:
        cpuinfo: where Linux lists the processor's abilities.

    Returns:
        False also where that cannot be told.
    """
    file = Path(cpuinfo)
    return file.exists() and "amx_bf16" in file.read_text(encoding="utf-8").split()


def machine_line() -> str:
    """One line about the machine and the versions."""
    from mcbook.provenance import machine

    facts = machine()
    amx = "with AMX" if has_amx() else "no AMX seen"
    return (
        f"{facts['cpu']} ({amx}), {facts['threads']} threads, device {facts['device']}; "
        f"python {facts['python']}, torch {facts['torch']}, {facts['platform']}"
    )
