"""Normalisations: batch, layer, group, RMS norm and weight norm (instance norm is batch norm)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..context import Call, Rule, Trace
from ..labels import Label, Operand, merge, reduce
from ..units import spread

__all__ = ["RULES"]


def _along(trace: Trace, x: Operand, axis: int, vectors: Sequence[Tensor | None]) -> Label:
    """A tensor combined, number by number, with vectors along one of its axes."""
    lifted = [x]
    for vector in vectors:
        if vector is not None:
            operand = trace.operand(vector)
            shape = (*operand.shape, *(1,) * (len(x.shape) - axis - 1))
            value = None if operand.value is None else operand.value.reshape(shape)
            lifted.append(Operand(shape, operand.label, value))
    return merge(trace.units, lifted, x.shape)


def _batch(trace: Trace, call: Call) -> list[Label]:
    """Each channel with statistics of its own: mean, variance, weight, bias move with it.

    In train mode the statistics are sums over all other axes, to which order does not matter.
    """
    x, weight, bias, mean, variance = call.args[:5]
    trace.statistic(mean)
    trace.statistic(variance)
    label = _along(trace, trace.operand(x), 1, [weight, bias, mean, variance])
    return [label, *[Label()] * (len(call.outputs) - 1)]


def _layer(trace: Trace, call: Call) -> list[Label]:
    """Mean and variance (or mean square) are sums over the last axes."""
    x, shape = call.args[0], call.args[1]
    last = range(x.ndim - len(shape), x.ndim)
    operand = trace.operand(x)
    total = reduce(trace.units, operand.label, last)
    kept = tuple(1 if a in last else n for a, n in enumerate(x.shape))
    affine = [trace.operand(v) for v in call.args[2:4] if isinstance(v, Tensor)]
    label = merge(trace.units, [operand, Operand(kept, total), *affine], x.shape)
    return [label, *[Label()] * (len(call.outputs) - 1)]


def _group(trace: Trace, call: Call) -> list[Label]:
    """Each group with statistics of its own: channels move within groups, groups as a whole."""
    x, weight, bias = call.args[:3]
    groups = int(call.args[6])
    units = trace.units
    label = trace.label(x)
    for axes, channels in label.arrays.items():
        if 1 not in axes:
            continue
        units.see(channels, role=12)
        if 1 < groups < x.shape[1]:
            if axes != (1,):
                units.pin(channels)
                continue
            inner = channels.reshape(groups, -1)
            units.block(inner, spread(units.blocks_of(inner, (0,)), [0], inner.shape))
    out = _along(trace, trace.operand(x), 1, [weight, bias])
    return [out, *[Label()] * (len(call.outputs) - 1)]


def _weight_norm(trace: Trace, call: Call) -> list[Label]:
    """`g v / |v|`, with a length for every slice along one axis."""
    v, g = call.args[:2]
    dim = int(call.arg(2, "dim", 0)) % v.ndim
    operand = trace.operand(v)
    others = [a for a in range(v.ndim) if a != dim]
    total = reduce(trace.units, operand.label, others)
    kept = tuple(n if a == dim else 1 for a, n in enumerate(v.shape))
    label = merge(trace.units, [operand, Operand(kept, total), trace.operand(g)], v.shape)
    norm = Label() if g.ndim != v.ndim else total
    return [label, norm][: len(call.outputs)]


def _rms(trace: Trace, call: Call) -> list[Label]:
    return _layer(trace, call)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
         "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_with_update",
         "_batch_norm_no_update"], _batch,
    ),
    "native_layer_norm": _layer,
    "_fused_rms_norm": _rms,
    "native_group_norm": _group,
    "_weight_norm_interface": _weight_norm,
}  # fmt: skip
