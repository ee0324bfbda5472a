"""Sums, means, maxima and the like over axes; and what runs along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..context import Call, Rule, Trace
from ..labels import Label, Operand, merge, pin_axes, reduce, rename

__all__ = ["RULES", "axes_of", "drop_axes", "normalised"]


def axes_of(given: Any, ndim: int) -> list[int]:
    """Axes as an operation was given them (None or nothing: all), counted from the front."""
    if given is None or (isinstance(given, Sequence) and len(given) == 0):
        return list(range(ndim))
    axes = given if isinstance(given, Sequence) else [given]
    return sorted({axis % max(ndim, 1) for axis in axes})


def drop_axes(label: Label, axes: Sequence[int], ndim: int) -> Label:
    """The label without some axes on which it has no units."""
    kept = [axis for axis in range(ndim) if axis not in set(axes)]
    return rename(label, {axis: i for i, axis in enumerate(kept)})


def _reduction(trace: Trace, call: Call) -> list[Label]:
    """Order does not matter to it: units inside the axes vanish, blocks stay."""
    x = call.args[0]
    given = call.arg(1, "dim")
    if isinstance(given, (bool, float)) or not isinstance(given, (int, list, tuple, type(None))):
        given = None  # an overload without axes: all
    label = reduce(trace.units, trace.label(x), axes_of(given, x.ndim))
    if call.outputs[0].ndim != x.ndim:
        label = drop_axes(label, axes_of(given, x.ndim), x.ndim)
    return [label] * len(call.outputs)


def _norm(trace: Trace, call: Call) -> Label:
    """`linalg_vector_norm(x, ord, dim)`, `norm(x, p, dim)`."""
    x = call.args[0]
    axes = axes_of(call.arg(2, "dim"), x.ndim)
    label = reduce(trace.units, trace.label(x), axes)
    return label if call.outputs[0].ndim == x.ndim else drop_axes(label, axes, x.ndim)


def _positions(trace: Trace, call: Call) -> list[Label]:
    """The result speaks of positions on an axis (`argmax`), so these cannot move."""
    x = call.args[0]
    axes = axes_of(call.arg(1, "dim"), x.ndim)
    label = pin_axes(trace.units, trace.label(x), axes)
    if call.outputs[0].ndim != x.ndim:
        label = drop_axes(label, axes, x.ndim)
    return [label] * len(call.outputs)


def _values_and_positions(trace: Trace, call: Call) -> list[Label]:
    """`max` and `min` over one axis also return positions; of one tensor or two they do not."""
    if len(call.outputs) > 1:
        return _positions(trace, call)
    if len(call.inputs) > 1:
        operands = [trace.operand(x) for x in call.inputs]
        return [merge(trace.units, operands, call.outputs[0].shape)]
    return _reduction(trace, call)


def normalised(trace: Trace, label: Label, shape: Sequence[int], axes: Sequence[int]) -> Label:
    """The label of a tensor divided by a quantity of its own along some axes (softmax, norms)."""
    total = reduce(trace.units, label, axes)
    kept = tuple(1 if a in set(axes) else n for a, n in enumerate(shape))
    return merge(trace.units, [Operand(tuple(shape), label), Operand(kept, total)], shape)


def _softmax(trace: Trace, call: Call) -> Label:
    x = call.args[0]
    return normalised(trace, trace.label(x), x.shape, axes_of(call.args[1], x.ndim))


def _along(trace: Trace, call: Call) -> list[Label]:
    """Order along an axis matters to it (`cumsum`, `sort`): the axis cannot move."""
    x = call.args[0]
    axes = axes_of(call.arg(1, "dim", -1), x.ndim)
    return [pin_axes(trace.units, trace.label(x), axes)] * len(call.outputs)


def _triangle(trace: Trace, call: Call) -> Label:
    """`tril`, `triu`: the last two axes cannot move."""
    x = call.args[0]
    return pin_axes(trace.units, trace.label(x), [x.ndim - 2, x.ndim - 1])


RULES: dict[str, Rule] = {
    **dict.fromkeys(["sum", "mean", "amax", "amin", "prod", "logsumexp", "any", "all", "var",
                     "std", "var_mean", "std_mean", "nansum"], _reduction),
    **dict.fromkeys(["linalg_vector_norm", "norm"], _norm),
    **dict.fromkeys(["max", "min"], _values_and_positions),
    **dict.fromkeys(["argmax", "argmin", "median", "mode"], _positions),
    **dict.fromkeys(["_softmax", "_log_softmax", "_safe_softmax"], _softmax),
    **dict.fromkeys(["cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"], _along),
    **dict.fromkeys(["tril", "triu"], _triangle),
}  # fmt: skip
