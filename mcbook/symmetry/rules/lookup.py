"""Rows picked by number: embeddings and indexing."""

from __future__ import annotations

import torch
from torch import Tensor

from ..context import Call, Rule, Trace
from ..labels import Label, pin_axes, rename
from .moves import move

__all__ = ["RULES"]


def _embedding(trace: Trace, call: Call) -> Label:
    """Rows are picked by the data and cannot move; columns can."""
    weight, index = call.args[:2]
    trace.pin(index)
    label = pin_axes(trace.units, trace.label(weight), [0])
    return rename(label, {1: index.ndim})


def _embedding_bag(trace: Trace, call: Call) -> list[Label]:
    weight = call.args[0]
    trace.pin(*call.inputs[1:])
    label = pin_axes(trace.units, trace.label(weight), [0])
    return [Label(label.arrays), *[Label()] * (len(call.outputs) - 1)]


def _index(trace: Trace, call: Call) -> list[Label]:
    """`x[i, j, ...]`: numbers that depend on the data pin the axes they pick from."""
    x, indices = call.args[0], call.args[1]
    picked = []
    axis = 0
    for index in indices:
        wide = 1
        if isinstance(index, Tensor):
            trace.pin(index)
            if index.dtype in (torch.bool, torch.uint8):  # a mask speaks of all its axes
                wide = index.ndim
            if not trace.is_constant(index):
                picked += list(range(axis, axis + wide))
        axis += wide
    return move(trace, call, pin_axes(trace.units, trace.label(x), picked))


def _along(trace: Trace, call: Call) -> list[Label]:
    """`index_select`, `gather`: the axis is the second argument, the numbers are the third."""
    x, dim, index = call.args[:3]
    trace.pin(index)
    fixed = [] if trace.is_constant(index) else [dim % x.ndim]
    return move(trace, call, pin_axes(trace.units, trace.label(x), fixed))


RULES: dict[str, Rule] = {
    "embedding": _embedding,
    **dict.fromkeys(["_embedding_bag", "_embedding_bag_forward_only"], _embedding_bag),
    **dict.fromkeys(["index", "_unsafe_index"], _index),
    **dict.fromkeys(["index_select", "gather"], _along),
}
