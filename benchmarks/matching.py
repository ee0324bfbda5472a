"""Weight matching here and at the peer, on the same pairs of networks, judged by one objective.

Both maximise `⟨A, π(B)⟩` over the parameters.  The permutation that each found is put into B, and
the objective is computed again, in float64, by the one function below.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.threads import one_thread

from .harness import Result, compare
from .peers import GitReBasin, chain_axes, git_re_basin

__all__ = ["compare_matching", "objective", "parameters", "verdict"]

PORT, IDENTITY, FRONTIER = "port, one order", "from the identity", "from the frontier"
#: of an objective: single-precision sums may differ by so much
AGREEMENT = 1e-4

Networks = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Found:
    """What one run on one pair came to.

    Attributes:
        value: the objective.
        steps: how many moves it made.
        visits: how many assignments it solved.
        sweeps: how often it went through all spaces; None where it does not do that.
        fault: what it says of itself and is not so.
    """

    value: float
    steps: int
    visits: int
    sweeps: int | None = None
    fault: str = ""


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters by name, detached: what counts.  Running statistics do not."""
    return {name: p.detach() for name, p in model.named_parameters()}


def objective(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """`⟨A, B⟩` over all tensors of A, in float64."""
    return sum(
        torch.dot(x.double().reshape(-1), b[name].double().reshape(-1)).item()
        for name, x in a.items()
    )


def verdict(claim: str, found: float, least: float) -> str:
    """The line for a target that is no ratio of times."""
    return f"{claim}: {found:.6g} against {least:.6g}, {'met' if found >= least else 'MISSED'}"


class _Port:
    """The peer's side: its own runs, and what they came to."""

    def __init__(self, peer: GitReBasin, pairs: Sequence[Networks]):
        self.peer = peer
        self.spec = peer.spec(chain_axes(pairs[0][0]))
        self.tensors = [(parameters(a), parameters(b)) for a, b in pairs]

    def run(self, place: int, seed: int) -> object:
        return self.peer.match(self.spec, *self.tensors[place], seed)

    def judge(self, place: int, found: object) -> Found:
        a, b = self.tensors[place]
        value = objective(a, self.peer.applied(self.spec, found, b))
        said = objective(a, b) + sum(found.gains)
        fault = _differ("the port's start and gains make", said, value)
        steps = sum(gain > 0 for gain in found.gains)
        return Found(value, steps, len(found.gains), found.sweeps, fault)


class _Ours:
    """This package's side."""

    def __init__(self, pairs: Sequence[Networks], spec: mc.PermutationSpec, **options: object):
        self.pairs, self.spec, self.options = pairs, spec, options

    def run(self, place: int, seed: int) -> object:
        a, b = self.pairs[place]
        found = mc.weight_matching(
            a, b, spec=self.spec, seed=seed, order="random", progress=False, **self.options
        )
        return found.permutation, found.objective, found.facts  # not the network: there are many

    def judge(self, place: int, found: object) -> Found:
        permutation, history, facts = found
        a, b = map(parameters, self.pairs[place])
        moved = self.spec.apply(mc.weights.of(self.pairs[place][1]), permutation)
        value = objective(a, {name: moved[name] for name in b})
        fault = _differ("mc.weight_matching gives", history[-1], value)
        if any(later < earlier for earlier, later in pairwise(history)):
            fault = fault or "mc.weight_matching lets its objective fall"
        return Found(value, len(history) - 1, facts["visits"], fault=fault)


def _differ(claim: str, said: float, value: float) -> str:
    """A fault unless both are one number."""
    if abs(said - value) <= AGREEMENT * max(abs(said), abs(value)):
        return ""
    return f"{claim} an objective of {said:.7g}, and its permutation one of {value:.7g}"


def compare_matching(
    name: str,
    title: str,
    said: str,
    pairs: Sequence[Networks],
    rounds: int,
    clock: str,
    at_once: int,
    orders: int = 0,
    restarts: int = 0,
    faster: float | None = None,
) -> Result:
    """Time the matching of pairs of networks each way, and judge what was found.

    Args:
        name: of the benchmark.
        title: what the networks are.
        said: which images they were trained on.
        pairs: of one architecture, whose layers follow one another.
        rounds: how often each way is timed; the n-th time with the n-th visiting order.
        clock: "wall" or "cpu".
        at_once: how many pairs a way aligns in one round; the next round has the next ones.
        orders: of how many visiting orders the peer's best is looked for; 0 for no such search.
        restarts: with how many runs `mc.weight_matching` is to compare with that; 0 for not.
        faster: how many times faster than the port one run from the frontier should be; None for
            no targets of time at all.

    Returns:
        The result.  The baseline is the port, or where it is absent `mc.weight_matching` from the
        identity, as the port starts.
    """
    spec = mc.trace_symmetry(pairs[0][0])
    best = f"best of {restarts} runs"
    sides: dict[str, _Port | _Ours] = {}
    peer = git_re_basin()
    if peer is not None:
        sides[PORT] = _Port(peer, pairs)
    sides[IDENTITY] = _Ours(pairs, spec, start="identity")
    sides[FRONTIER] = _Ours(pairs, spec, start="frontier")
    if restarts:
        sides[best] = _Ours(pairs, spec, start="frontier", restarts=restarts)
    runs: dict[str, dict[tuple[int, int], object]] = {way: {} for way in sides}

    def way(name: str) -> Callable[[], None]:
        turns = count()

        def run() -> None:
            turn = next(turns)
            for k in range(at_once):
                place = (turn * at_once + k) % len(pairs)
                runs[name][place, turn] = sides[name].run(place, turn)

        return run

    with one_thread():
        for side in sides.values():  # untimed: libraries are loaded at their first use
            side.run(0, 0)
        ways = {name: way(name) for name in sides}
        comparison = compare(ways, next(iter(sides)), rounds, warmups=0, clock=clock)
        found = {
            name: {key: sides[name].judge(key[0], run) for key, run in kept.items()}
            for name, kept in runs.items()
        }
        searched: dict[int, float] = {}
        if peer is not None and orders:
            searched = _search(sides[PORT], found[PORT], orders)
    means = {name: _by_pair(kept) for name, kept in found.items()}
    notes = [
        *_table(pairs, means, searched, orders),
        *(f"{name}: {_effort(list(kept.values()))}" for name, kept in found.items()),
    ]
    targets: dict[str, float] = {}
    if peer is None:
        notes.append(f"without {GitReBasin.REPOSITORY}: --peer FOLDER names a checkout")
    else:
        notes.append(f"the port: {GitReBasin.REPOSITORY}, {GitReBasin.FILE} {peer.version}")
        notes.append(
            verdict(
                "mean objective from the frontier no lower than the port's",
                statistics.mean(means[FRONTIER].values()),
                statistics.mean(means[PORT].values()),
            )
        )
        if faster is not None:
            targets[FRONTIER] = faster
    if searched and restarts:
        if faster is not None:
            targets[best] = 0.5  # no more than the time of two of the port's runs
        notes.append(
            verdict(
                f"mean objective of the best of {restarts} runs no lower than of the port's best "
                f"of {orders} orders",
                statistics.mean(means[best].values()),
                statistics.mean(searched.values()),
            )
        )
    faults = [f.fault for kept in found.values() for f in kept.values() if f.fault]
    shown = len(means[FRONTIER])
    many = f"{shown} pair{'s' * (shown > 1)}, {at_once} a round, on one thread"
    return Result(
        name,
        f"{title}; {many}",
        said,
        comparison,
        targets,
        tuple(notes),
        tuple(dict.fromkeys(faults)),
    )


def _search(port: _Port, found: Mapping[tuple[int, int], Found], orders: int) -> dict[int, float]:
    """For every pair the best objective of the port's first visiting orders."""
    best = {}
    for place in sorted({place for place, _ in found}):
        values = [
            found[place, seed].value
            if (place, seed) in found
            else port.judge(place, port.run(place, seed)).value
            for seed in range(orders)
        ]
        best[place] = max(values)
    return best


def _by_pair(found: Mapping[tuple[int, int], Found]) -> dict[int, float]:
    """For every pair the mean objective of its runs."""
    values: dict[int, list[float]] = {}
    for (place, _), run in sorted(found.items()):
        values.setdefault(place, []).append(run.value)
    return {place: statistics.mean(own) for place, own in values.items()}


def _table(
    pairs: Sequence[Networks],
    means: Mapping[str, Mapping[int, float]],
    searched: Mapping[int, float],
    orders: int,
) -> list[str]:
    """The objectives: a row for each pair, and their mean."""
    places = list(means[FRONTIER])
    start = {k: objective(*map(parameters, pairs[k])) for k in places}
    columns: dict[str, Mapping[int, float]] = {"unaligned": start, **means}
    if searched:
        columns[f"port, best of {orders}"] = searched
    widths = [max(len(head), 10) for head in columns]
    heads = "  ".join(f"{head:>{w}}" for head, w in zip(columns, widths, strict=True))
    rows = [f"{'objective':10}  {heads}"]
    for k in [*places, None]:
        values = (
            statistics.mean(own.values()) if k is None else own[k] for own in columns.values()
        )
        cells = "  ".join(f"{v:{w}.2f}" for v, w in zip(values, widths, strict=True))
        rows.append(f"{'mean' if k is None else f'pair {k + 1}':10}  {cells}")
    return rows


def _effort(runs: Sequence[Found]) -> str:
    """How much was done, on the mean."""
    said = [
        f"{statistics.mean(r.visits for r in runs):.1f} assignments",
        f"{statistics.mean(r.steps for r in runs):.1f} moves",
    ]
    if runs[0].sweeps is not None:
        said.append(f"{statistics.mean(r.sweeps for r in runs):.1f} sweeps")
    return ", ".join(said)
