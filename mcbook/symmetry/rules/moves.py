"""Operations that only move numbers: the operation itself says where each came from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..context import Call, Rule, Trace
from ..labels import Label, Operand, merge, rename
from ..movement import concatenate, moved, padded, same_order
from .unknown import frozen

__all__ = ["RULES", "move"]


def move(trace: Trace, call: Call, label: Label | None = None) -> list[Label]:
    """Run the operation on 0, 1, 2, ... in place of the tensor, and read off the result."""
    x = call.args[0]
    label = trace.label(x) if label is None else label
    if not label and not label.uniform:
        return [Label()] * len(call.outputs)
    numbers = torch.arange(x.numel(), dtype=torch.float64, device=x.device).reshape(x.shape)
    found = call.func(numbers, *call.args[1:], **call.kwargs)
    labels = []
    for part in [found] if isinstance(found, Tensor) else list(found):
        trace.units.next_event()  # one part is not another
        labels.append(moved(trace.units, label, x.shape, part.cpu().numpy().astype(np.int64)))
    return labels


def _view(trace: Trace, call: Call) -> list[Label]:
    """Where a view only adds or drops axes of length 1, axes are renamed."""
    x, out = call.args[0], call.outputs[0]
    to = same_order(x.shape, out.shape)
    return move(trace, call) if to is None else [rename(trace.label(x), to)]


def _renaming(new_axes: Callable[[Call, int], list[int]]) -> Rule:
    """A rule for operations that put the axes into another order."""

    def rule(trace: Trace, call: Call) -> list[Label]:
        x = call.args[0]
        order = new_axes(call, x.ndim)
        return [rename(trace.label(x), {old: new for new, old in enumerate(order)})]

    return rule


def _transposed(call: Call, ndim: int) -> list[int]:
    order = list(range(ndim))
    if ndim > 1:
        i, j = (call.args[1] % ndim, call.args[2] % ndim) if len(call.args) > 2 else (0, 1)
        order[i], order[j] = order[j], order[i]
    return order


def _permuted(call: Call, ndim: int) -> list[int]:
    return [axis % ndim for axis in call.args[1]]


def _strided(trace: Trace, call: Call) -> Label:
    """`as_strided` speaks of memory; only where it changes nothing is it followed."""
    x, out = call.args[0], call.outputs[0]
    if x.shape == out.shape and x.storage_offset() == out.storage_offset():
        differ = [a for a in range(x.ndim) if x.shape[a] > 1 and x.stride(a) != out.stride(a)]
        if not differ or not trace.label(x):
            return trace.label(x)
    return frozen(trace, call, "as_strided")


def _cat(trace: Trace, call: Call) -> Label:
    tensors = [x for x in call.args[0] if not (x.ndim == 1 and x.numel() == 0)]
    axis = call.arg(1, "dim", 0) % call.outputs[0].ndim
    operands = [trace.operand(x) for x in tensors]
    return concatenate(trace.units, operands, axis, call.outputs[0].shape)


def _stack(trace: Trace, call: Call) -> Label:
    axis = call.arg(1, "dim", 0) % call.outputs[0].ndim
    operands = []
    for x in call.args[0]:
        new = {a: a + (a >= axis) for a in range(x.ndim)}
        shape = (*x.shape[:axis], 1, *x.shape[axis:])
        value = x.unsqueeze(axis) if trace.is_constant(x) else None
        operands.append(Operand(shape, rename(trace.label(x), new), value))
    return concatenate(trace.units, operands, axis, call.outputs[0].shape)


def _pad(trace: Trace, call: Call) -> Label:
    x = call.args[0]
    return padded(trace.units, trace.label(x), x.shape, call.args[1])


def _glu(trace: Trace, call: Call) -> Label:
    """`a * sigmoid(b)` of the two halves of an axis."""
    x = call.args[0]
    axis = call.arg(1, "dim", -1) % x.ndim
    numbers = np.arange(x.numel()).reshape(tuple(x.shape))
    halves = []
    for half in np.split(numbers, 2, axis):
        trace.units.next_event()
        label = moved(trace.units, trace.label(x), x.shape, half)
        halves.append(Operand(half.shape, label))
    return merge(trace.units, halves, call.outputs[0].shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(["view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze",
                     "squeeze_copy", "unsqueeze_copy", "view_copy"], _view),
    **dict.fromkeys(["t", "transpose", "numpy_T"], _renaming(_transposed)),
    "permute": _renaming(_permuted),
    **dict.fromkeys(["expand", "slice", "select", "split", "split_with_sizes", "unsafe_split",
                     "unsafe_split_with_sizes", "unsafe_chunk", "chunk", "unbind", "roll", "flip",
                     "repeat", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
                     "native_channel_shuffle", "unfold", "diagonal", "rot90", "narrow"], move),
    **dict.fromkeys(["as_strided"], _strided),
    "cat": _cat,
    "glu": _glu,
    "stack": _stack,
    "constant_pad_nd": _pad,
}  # fmt: skip
