"""The plan of a layer-wise walk: which tensors move in which ticks, how far, and where to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UnknownNameError
from .courses import Course
from .stages import check_stages, flow_stages

__all__ = [
    "Leg",
    "Step",
    "check_rounds",
    "checked_step",
    "chosen_stages",
    "growing",
    "schedule",
    "ticks_of",
]

_LEFT = 0.01  # the part of its way that `α` alone leaves a tensor, with the default ticks


@dataclass(frozen=True)
class Step:
    """How far a tensor moves in a tick: `s = α n + β arc + γ ≤ n` on a way of length `n`.

    Args:
        alpha: the part of the way that is left.
        arc: `β`: the part of the arc (see `spheres.arc`) that was left when the leg began.
        fixed: `γ`: a length.
        rule: `sum`, or `max` for `max(α n, β arc + γ)`.
    """

    alpha: float
    arc: float = 0.0
    fixed: float = 0.0
    rule: str = "sum"

    def length(self, way: float, arc_left: float) -> float:
        """How far, on a way that long."""
        moved, steady = self.alpha * way, self.arc * arc_left + self.fixed
        return min(way, moved + steady if self.rule == "sum" else max(moved, steady))

    def done(self, behind: int, total: int) -> float:
        """The part of the way that is behind after some of all ticks, were there nothing but `α`.

        `f = (1 - (1 - α)^k) / (1 - (1 - α)^n)`, and `k / n` for `α = 0`.
        """
        if behind >= total:
            return 1.0
        if not 0 < self.alpha < 1:
            return behind / total
        # 1 - α is 1 for the smallest α
        rate = math.log1p(-self.alpha)
        return math.expm1(behind * rate) / math.expm1(total * rate)


@dataclass(frozen=True)
class Leg:
    """Some ticks in which the same tensors move.

    Args:
        course: where to.
        active: the numbers of the tensors that move.
        ticks: how many.
        phase: legs of one phase are one way: in another, `Step.done` begins anew.
    """

    course: Course
    active: tuple[int, ...]
    ticks: int
    phase: int = 0


def schedule(legs: Sequence[Leg], step: Step, count: int) -> list[list[float]]:
    """For every tick, 0 included, the part of its way that each of `count` tensors has behind it.

    A tensor's way is all its ticks of one phase; one that never moves in a phase has 0 behind it.
    """
    totals: dict[int, list[int]] = {}
    for leg in legs:
        ticks = totals.setdefault(leg.phase, [0] * count)
        for i in leg.active:
            ticks[i] += leg.ticks
    behind = {phase: [0] * count for phase in totals}
    table = [[0.0] * count]
    for leg in legs:
        done, whole = behind[leg.phase], totals[leg.phase]
        for _ in range(leg.ticks):
            for i in leg.active:
                done[i] += 1
            table.append([step.done(k, n) if n else 0.0 for k, n in zip(done, whole, strict=True)])
    return table


def chosen_stages(
    model: nn.Module,
    stages: str | int | Sequence[Sequence[str]],
    names: list[str],
    example: Any,
    needed: Sequence[str] | None = None,
) -> list[tuple[str, ...]]:
    """The stages, of trained tensors only, without empty ones.

    Args:
        model: the network.
        stages: see `layerwise_path`.
        names: of the trained tensors.
        example: one input.
        needed: those that must be in a stage; all of `names` when None.
    """
    needed = names if needed is None else list(needed)
    if stages == "all":
        return [tuple(needed)]
    if isinstance(stages, str) and stages != "flow":
        raise UnknownNameError("order of stages", stages, ("all", "flow"))
    if isinstance(stages, str):
        groups = flow_stages(model, example)
    elif isinstance(stages, int):
        groups = flow_stages(model, example, stages)
    else:
        groups = check_stages(stages, [n for n, _ in model.named_parameters()], needed)
    kept = [tuple(n for n in group if n in needed) for group in groups]
    return [group for group in kept if group]


def growing(groups: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Each group with all before it, in the order of the network."""
    return [tuple(sorted(i for g in groups[: k + 1] for i in g)) for k in range(len(groups))]


def ticks_of(
    ticks: int | Sequence[int] | None, stages: int, way: Step, shrinking: bool = False
) -> list[int]:
    """The ticks of every stage.

    Raises:
        ValueError: for fewer ticks than stages, another number of counts than of stages, or None
            where `α` is 0.
    """
    if ticks is None:
        if not 0 < way.alpha < 1:
            raise ValueError("expected a number of ticks for a step of 0 or 1, found None")
        last = math.ceil(math.log(_LEFT) / math.log(1 - way.alpha))
        return [math.ceil(last / 2)] * (stages - 1) + [last]
    if isinstance(ticks, int):
        shares = stages + 1 + 2 * shrinking
        if ticks < shares:
            raise ValueError(f"expected at least {shares} ticks for {stages} stages, found {ticks}")
        each = ticks // shares
        return [each] * (stages - 1) + [
            ticks - each * (stages - 1) if not shrinking else (ticks - each * (stages - 1)) // 2
        ]
    counts = [int(n) for n in ticks]
    if len(counts) != stages:
        raise ValueError(
            f"expected ticks for each of the {stages} stages, found {len(counts)} numbers"
        )
    if min(counts) < 0 or counts[-1] < 1:
        raise ValueError(
            f"expected ticks of at least 0, and of the last stage at least 1, found {counts}"
        )
    return counts


def check_rounds(rounds: tuple[int, int], points: int, images: int) -> None:
    """Refuse numbers no walk can use.

    Raises:
        ValueError: saying which.
    """
    least, most = rounds
    if not 0 <= least <= most:
        raise ValueError(f"expected rounds (least, most) with 0 <= least <= most, found {rounds}")
    for name, number in {"points": points, "images": images}.items():
        if number < 1:
            raise ValueError(f"expected {name} of at least 1, found {number}")


def checked_step(step: float, arc_step: float, fixed_step: float, rule: str) -> Step:
    """How far a tick goes.

    Raises:
        UnknownNameError: for an unknown rule.
        ValueError: for a part outside [0, 1], a negative length, or no step at all.
    """
    if rule not in ("sum", "max"):
        raise UnknownNameError("rule of the step", rule, ("sum", "max"))
    if not 0 <= step <= 1:
        raise ValueError(f"expected a step in [0, 1], a part of the way left, found {step}")
    for name, value in {"arc_step": arc_step, "fixed_step": fixed_step}.items():
        if not value >= 0 or not math.isfinite(value):
            raise ValueError(f"expected {name} of at least 0, found {value}")
    if not step + arc_step + fixed_step > 0:
        raise ValueError("expected a step above 0, found step = arc_step = fixed_step = 0")
    return Step(step, arc_step, fixed_step, rule)
