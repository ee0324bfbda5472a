"""Attention kernels: two matrix products around a softmax, in one operation."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..context import Call, Rule, Trace
from ..labels import Label, Operand, contract, merge, pin_axes
from ..movement import moved
from .reductions import normalised

__all__ = ["RULES"]


def _attention(mask_place: int | None, causal_place: int | None) -> Rule:
    """A rule for one of the kernels; they differ in where mask and causality stand."""

    def rule(trace: Trace, call: Call) -> list[Label]:
        q, k, v = call.args[:3]
        mask = call.kwargs.get("attn_mask", call.kwargs.get("attn_bias"))
        if mask_place is not None and len(call.args) > mask_place:
            mask = call.args[mask_place]
        causal = call.kwargs.get("is_causal", False)
        if causal_place is not None and len(call.args) > causal_place:
            causal = call.args[causal_place]
        label = attention(trace, q, k, v, mask if isinstance(mask, Tensor) else None, bool(causal))
        return [label, *[Label()] * (len(call.outputs) - 1)]

    return rule


def attention(
    trace: Trace, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool
) -> Label:
    """`softmax(q k^T + mask) v`, over `[..., heads, length, d]`."""
    units = trace.units
    lead = [f"b{i}" for i in range(q.ndim - 2)]
    of_q = trace.operand(q)
    of_k, of_v = (_repeated(trace, x, q.shape[-3]) if q.ndim > 3 else trace.operand(x)
                  for x in (k, v))  # fmt: skip
    scores = contract(units, [(of_q, [*lead, "l", "e"]), (of_k, [*lead, "s", "e"])],
                      [*lead, "l", "s"])  # fmt: skip
    shape = (*q.shape[:-1], k.shape[-2])
    if causal:
        scores = pin_axes(units, scores, [len(shape) - 2, len(shape) - 1])
    if mask is not None:
        scores = merge(units, [Operand(shape, scores), trace.operand(mask)], shape)
    scores = normalised(trace, scores, shape, [len(shape) - 1])
    return contract(
        units,
        [(Operand(shape, scores), [*lead, "l", "s"]), (of_v, [*lead, "s", "f"])],
        [*lead, "l", "f"],
    )


def _repeated(trace: Trace, x: Tensor, heads: int) -> Operand:
    """Keys and values of grouped queries: each head serves several heads of queries."""
    operand = trace.operand(x)
    if x.shape[-3] in (1, heads):
        return operand
    index = np.arange(x.numel()).reshape(x.shape)
    index = np.repeat(index, heads // x.shape[-3], axis=-3)
    return Operand(index.shape, moved(trace.units, operand.label, x.shape, index))


RULES: dict[str, Rule] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention(None, 4),
    "_scaled_dot_product_flash_attention": _attention(None, 4),
    "_scaled_dot_product_efficient_attention": _attention(3, 6),
    "_scaled_dot_product_cudnn_attention": _attention(3, 6),
    "_scaled_dot_product_fused_attention_overrideable": _attention(3, 5),
}
