"""Convolutions: plain, depthwise, grouped and transposed, in any number of dimensions."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..context import Call, Rule, Trace
from ..labels import Axes, Label, Operand, contract, merge, pin_axes
from ..units import Ids, spread
from .unknown import frozen

__all__ = ["RULES"]


def _convolution(trace: Trace, call: Call) -> Label:
    """Channels are contracted as in a matrix product; pixels and the kernel's taps cannot move."""
    x, weight, bias = call.args[:3]
    transposed, groups = bool(call.arg(6, "transposed", False)), int(call.arg(8, "groups", 1))
    of_x = pin_axes(trace.units, trace.label(x), range(2, x.ndim))
    of_w = pin_axes(trace.units, trace.label(weight), range(2, weight.ndim))
    trace.contracted(["ni", "io" if transposed else "oi"], [x, weight], [of_x, of_w])
    if groups == 1:
        shapes = tuple(x.shape[:2]), tuple(weight.shape[:2])
        letters = ["i", "o"] if transposed else ["o", "i"]
        label = contract(
            trace.units,
            [(Operand(shapes[0], of_x), ["n", "i"]), (Operand(shapes[1], of_w), letters)],
            ["n", "o"],
        )
    elif transposed:
        return frozen(trace, call, "grouped transposed convolution")
    else:
        label = _grouped(trace, (x, of_x), (weight, of_w), groups)
    shape = tuple(call.outputs[0].shape[:2])
    operands = [Operand(shape, label)]
    if bias is not None:
        operands.append(trace.operand(bias))
    return merge(trace.units, operands, shape)


def _grouped(
    trace: Trace, x: tuple[Tensor, Label], weight: tuple[Tensor, Label], groups: int
) -> Label:
    """Channels in groups: a group may move as a whole, and channels within it.

    The columns of the weight are different units in every row: row `r` of group `g` reads the
    channels of `g`, in their own order.
    """
    units = trace.units
    (of_x, x_label), (of_w, w_label) = x, weight
    batch: dict[Axes, Ids] = {axes: u for axes, u in x_label.arrays.items() if axes == (0,)}
    inputs = _only(trace, x_label, 1)
    rows = _only(trace, w_label, 0, also=(0, 1))
    m, o = of_x.shape[1] // groups, of_w.shape[0] // groups
    shape = (of_w.shape[0], m)
    group = spread(np.arange(groups), [0], (groups, o))
    if rows is None:
        # constant filters, the same for every channel (blur pooling), are as good as none
        if inputs is not None and not (m == o == 1 and trace.operand(of_w).is_uniform(0)):
            units.pin(inputs)
            inputs = None
        return Label(batch if inputs is None else {**batch, (1,): inputs})
    units.see(rows, role=1)
    columns = w_label.arrays.get((1,))
    if inputs is None:
        if not (of_x.shape[1] == 1 or 1 in x_label.uniform):
            units.pin(rows.reshape(groups, o), group)
            if columns is not None:
                units.pin(columns)
        return Label({**batch, (1,): rows})
    units.see(inputs, role=0)
    inner, outer = inputs.reshape(groups, m), rows.reshape(groups, o)
    if m == o == 1:
        units.one(inputs, rows)
    elif m == 1:
        units.block(outer, spread(inputs, [0], outer.shape))
    else:
        blocks = rows if o == 1 else units.blocks_of(inner, (0,))
        units.block(inner, spread(blocks, [0], inner.shape))
        if o > 1:
            units.block(outer, spread(blocks, [0], outer.shape))
    if m > 1:
        of_row = np.repeat(np.arange(groups), o)
        made = units.composite(shape, [spread(rows, [0], shape), inner[of_row]])
        known = w_label.arrays.get((0, 1))
        fresh = {a: u for a, u in trace.label(of_w).arrays.items() if a != (1,)}
        if known is not None:
            units.one(known, made)
        elif not trace.relabel(of_w, Label({**fresh, (0, 1): made})):
            if columns is None:
                units.pin(inner, spread(np.arange(m), [1], inner.shape))
            else:
                units.block(inner, spread(columns, [1], inner.shape))
    return Label({**batch, (1,): rows})


def _only(trace: Trace, label: Label, axis: int, also: Axes = ()) -> Ids | None:
    """The units on one axis alone; what lies on this and other axes (but `also`) is pinned."""
    for axes, x in label.arrays.items():
        if axis in axes and axes not in ((axis,), also):
            trace.units.pin(x)
    return label.arrays.get((axis,))


RULES: dict[str, Rule] = dict.fromkeys(
    ["convolution", "_convolution", "convolution_overrideable"], _convolution
)
