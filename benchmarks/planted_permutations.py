"""Planted permutations found again on networks with depthwise and shuffled channels.

A network with random weights, B the same network with its units in a random order and noise on
its weights: of how much of the planted order's objective, `⟨A, π⁻¹(B)⟩`, does weight matching get
hold?  From the identity it gets stuck on such networks; from the frontier it should not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import torch
from torch import nn

import mcbook as mc
from mcbook.threads import one_thread

from .harness import Result, compare
from .matching import objective, parameters

NAME = "planted_permutations"
IDENTITY, FRONTIER = "from the identity", "from the frontier"
MODELS = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5")
NOISES = (0.0, 0.1, 0.5)
#: of an objective, in single precision
_CLOSE = 1e-6


class _Planted(NamedTuple):
    a: nn.Module
    b: nn.Module
    order: mc.Permutation
    spec: mc.PermutationSpec
    value: float


def _network(name: str, seed: int, **options: object) -> nn.Module:
    """A torchvision network with random weights, those of its norms and its biases included."""
    build = getattr(mc.models.library("torchvision").models, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(weights=None, **options)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim < 2:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def _plant(a: nn.Module, spec: mc.PermutationSpec, noise: float, seed: int) -> _Planted:
    """A network, the same one in another order with noise, and what undoing that gives."""
    order = spec.random(seed)
    generator = torch.Generator().manual_seed(seed)
    b = mc.permute(a, order, spec)
    with torch.no_grad():
        for p in b.parameters():
            drawn = torch.randn(p.shape, generator=generator)
            p.add_(noise * (p.std() if p.numel() > 1 else 0.0) * drawn)
    back = mc.permute(b, order.inverse(), spec)
    return _Planted(a, b, order, spec, objective(parameters(a), parameters(back)))


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time the search from each start, and count what it finds.

    Args:
        rounds: how often, each time with other weights, orders and noise.
        smoke: on one network so thin that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result; there is no target for the time.
    """
    models = {"mobilenet_v2": {"width_mult": 0.1}} if smoke else {name: {} for name in MODELS}
    noises = NOISES[-1:] if smoke else NOISES
    example = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with one_thread():
        specs = {
            name: mc.trace_symmetry(_network(name, 0, **options), example)
            for name, options in models.items()
        }
        planted = {
            (name, noise, seed): _plant(_network(name, seed, **models[name]), spec, noise, seed)
            for name, spec in specs.items()
            for noise in noises
            for seed in range(rounds)
        }
        found: dict[str, dict[tuple[str, float, int], mc.Permutation]] = {}

        def way(name: str, start: str) -> Callable[[], None]:
            found[name], turns = {}, count()

            def search() -> None:
                seed = next(turns)
                for key, case in planted.items():
                    if key[2] == seed:
                        a, b, spec = case.a, case.b, case.spec
                        options = {"seed": seed, "start": start, "progress": False}
                        result = mc.weight_matching(a, b, spec=spec, **options)
                        found[name][key] = result.permutation

            return search

        ways = {IDENTITY: way(IDENTITY, "identity"), FRONTIER: way(FRONTIER, "frontier")}
        comparison = compare(ways, IDENTITY, rounds, warmups=0, clock=clock)
        notes = ["share of the planted objective (least), and how often all units came back:"]
        missed = 0
        for name in specs:
            for noise in noises:
                cells = []
                for start in ways:
                    keys = [key for key in found[start] if key[:2] == (name, noise)]
                    judged = [_judged(planted[key], found[start][key]) for key in keys]
                    shares, exact = [j[0] for j in judged], [j[1] for j in judged]
                    cells.append(
                        f"{start} {statistics.mean(shares):.4f} ({min(shares):.4f}), "
                        f"{sum(exact)} of {len(exact)}"
                    )
                    if start == FRONTIER:
                        missed += sum(share < 1 - _CLOSE for share in shares)
                notes.append(f"{name:18} noise {noise:.1f} std: " + "; ".join(cells))
    trials = len(found[FRONTIER])
    notes.append(
        f"planted objective reached from the frontier in all trials: {trials - missed} of "
        f"{trials}, {'MISSED' if missed else 'met'}"
    )
    return Result(
        NAME,
        f"{', '.join(specs)} with planted permutations; {trials} trials on one thread",
        "random weights",
        comparison,
        {},
        tuple(notes),
    )


def _judged(case: _Planted, found: mc.Permutation) -> tuple[float, bool]:
    """Which share of the planted objective was reached, and whether every unit is back."""
    moved = mc.permute(case.b, found, case.spec)
    value = objective(parameters(case.a), parameters(moved))
    return value / case.value, (found @ case.order).is_identity()
