"""One rule an operation, none an architecture.

A rule takes the trace and one operation (`context.Call`) and returns the label of its result, or
one for each of its results.  `rule_for` finds it: by name, else as a pointwise operation by the tag
that PyTorch gives these, else as a movement of numbers, else `unknown.unknown`.
"""

from __future__ import annotations

from typing import Any

import torch

from ..context import Rule
from . import (
    attention,
    contraction,
    convolution,
    lookup,
    moves,
    norms,
    pointwise,
    pooling,
    reductions,
    unknown,
)

__all__ = ["WHOLE", "rule_for"]

NAMED: dict[str, Rule] = {
    **pointwise.RULES,
    **reductions.RULES,
    **contraction.RULES,
    **convolution.RULES,
    **norms.RULES,
    **attention.RULES,
    **pooling.RULES,
    **moves.RULES,
    **lookup.RULES,
    **unknown.RULES,
}
#: functions that are recorded as they are called, not as what they are made of
WHOLE = contraction.WHOLE


def rule_for(func: Any, name: str) -> Rule:
    """The rule of an elementary operation.

    Args:
        func: the operation, an overload of `torch.ops`.
        name: its name, without `aten::` and without the `_` of one that works in place.
    """
    if name in NAMED and func._schema.name.startswith("aten::"):
        return NAMED[name]
    if _is_pointwise(func, name):
        return pointwise.pointwise
    return unknown.unknown


def _is_pointwise(func: Any, name: str) -> bool:
    if torch.Tag.pointwise in func.tags:
        return True
    # some that work in place lack the tag their other form has
    other = getattr(torch.ops.aten, name, None)
    overload = getattr(other, func._overloadname, None) if other is not None else None
    return overload is not None and torch.Tag.pointwise in overload.tags
