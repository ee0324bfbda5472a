"""Sums of products: matrix products in all their forms."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..context import Call, Rule, Trace
from ..labels import Label, Operand, contract, merge

__all__ = ["RULES", "WHOLE", "product"]


def product(trace: Trace, equation: str, *tensors: Tensor) -> Label:
    """The label of `einsum(equation, *tensors)`."""
    inputs, out = equation.split("->")
    operands = [
        (trace.operand(x), list(t)) for x, t in zip(tensors, inputs.split(","), strict=True)
    ]
    trace.contracted([t for _, t in operands], tensors, [o.label for o, _ in operands])
    return contract(trace.units, operands, list(out))


def _plain(equation: str) -> Rule:
    return lambda trace, call: product(trace, equation, *call.args[:2])


def _added(equation: str) -> Rule:
    """A product with something added: `addmm(c, a, b)` and its kin."""

    def rule(trace: Trace, call: Call) -> Label:
        shape = tuple(call.outputs[0].shape)
        label = product(trace, equation, *call.args[1:3])
        return merge(trace.units, [Operand(shape, label), trace.operand(call.args[0])], shape)

    return rule


def _letters(x: Tensor) -> str:
    return string.ascii_lowercase[: x.ndim]


def _matmul(trace: Trace, call: Call) -> Label:
    """`a @ b` with any number of leading axes, which broadcast."""
    a, b = call.inputs[:2]
    if call.func in (torch.Tensor.__rmatmul__,):
        a, b = b, a
    lead = max(a.ndim, b.ndim, 2) - 2
    batch = string.ascii_uppercase[:lead]
    of_a = batch[lead - (a.ndim - 2) :] + "mk" if a.ndim > 1 else "k"
    of_b = batch[lead - (b.ndim - 2) :] + "kn" if b.ndim > 1 else "k"
    out = batch + ("m" if a.ndim > 1 else "") + ("n" if b.ndim > 1 else "")
    return product(trace, f"{of_a},{of_b}->{out}", a, b)


def _linear(trace: Trace, call: Call) -> Label:
    """`x W^T + b` over the last axis."""
    x, weight = call.args[0], call.arg(1, "weight")
    bias = call.arg(2, "bias")
    lead = string.ascii_uppercase[: x.ndim - 1]
    out = lead + ("o" if weight.ndim > 1 else "")
    label = product(trace, f"{lead}i,{'oi' if weight.ndim > 1 else 'i'}->{out}", x, weight)
    if bias is None:
        return label
    shape = tuple(call.outputs[0].shape)
    return merge(trace.units, [Operand(shape, label), trace.operand(bias)], shape)


def _einsum(trace: Trace, call: Call) -> Label:
    equation, tensors = _equation(call)
    return product(trace, equation, *tensors)


def _equation(call: Call) -> tuple[str, Sequence[Tensor]]:
    """The equation with every letter written out, and the tensors."""
    equation, *tensors = call.args
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = list(tensors[0])
    equation = equation.replace(" ", "")
    inputs, arrow, out = equation.partition("->")
    terms = inputs.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    lengths = [x.ndim - len(t.replace("...", "")) for t, x in zip(terms, tensors, strict=True)]
    longest = max([n for t, n in zip(terms, lengths, strict=True) if "..." in t], default=0)
    dots = "".join(free[:longest])
    terms = [
        t.replace("...", dots[longest - n :] if n else "")
        for t, n in zip(terms, lengths, strict=True)
    ]
    if arrow:
        out = out.replace("...", dots)
    else:
        joined = "".join(terms)
        out = dots + "".join(sorted(c for c in set(joined) - set(dots) if joined.count(c) == 1))
    return f"{','.join(terms)}->{out}", tensors


class _Whole:
    """A rule for a function that is recorded as it is called."""

    def __init__(self, rule: Rule, fits: Callable[[Call], bool]):
        self.rule, self.fits = rule, fits

    def __call__(self, trace: Trace, call: Call) -> Any:
        return self.rule(trace, call)


def _no_letter_twice(call: Call) -> bool:
    """Diagonals (a letter twice in one term) are left to what einsum is made of."""
    if not isinstance(call.args[0], str):
        return False
    terms = _equation(call)[0].partition("->")[0].split(",")
    return all(len(set(t)) == len(t) for t in terms)


def _two_tensors(call: Call) -> bool:
    return len(call.inputs) == 2 and min(x.ndim for x in call.inputs) >= 1


def _dot(trace: Trace, call: Call) -> Label:
    return product(trace, "i,i->", *call.args[:2])


def _bilinear(trace: Trace, call: Call) -> Label:
    """`bilinear(x, y, W, b)`: x^T W_o y + b_o."""
    x, y, weight = call.args[:3]
    lead = string.ascii_uppercase[: x.ndim - 1]
    label = product(trace, f"{lead}i,oij,{lead}j->{lead}o", x, weight, y)
    bias = call.arg(3, "bias")
    if bias is None:
        return label
    shape = tuple(call.outputs[0].shape)
    return merge(trace.units, [Operand(shape, label), trace.operand(bias)], shape)


RULES: dict[str, Rule] = {
    "mm": _plain("mk,kn->mn"),
    "bmm": _plain("bmk,bkn->bmn"),
    "mv": _plain("mk,k->m"),
    "dot": _dot,
    "vdot": _dot,
    "addmm": _added("mk,kn->mn"),
    "addmv": _added("mk,k->m"),
    "addbmm": _added("bmk,bkn->mn"),
    "baddbmm": _added("bmk,bkn->bmn"),
}

_matmul_rule = _Whole(_matmul, _two_tensors)
_einsum_rule = _Whole(_einsum, _no_letter_twice)
_linear_rule = _Whole(_linear, lambda call: len(call.args) > 0)
_bilinear_rule = _Whole(_bilinear, lambda call: len(call.args) >= 3)

WHOLE: dict[Any, tuple[str, _Whole]] = {
    torch.matmul: ("matmul", _matmul_rule),
    torch.Tensor.matmul: ("matmul", _matmul_rule),
    torch.Tensor.__matmul__: ("matmul", _matmul_rule),
    torch.Tensor.__rmatmul__: ("matmul", _matmul_rule),
    torch.einsum: ("einsum", _einsum_rule),
    torch.nn.functional.linear: ("linear", _linear_rule),
    torch.nn.functional.bilinear: ("bilinear", _bilinear_rule),
}
