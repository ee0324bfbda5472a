"""Operations on each number by itself, of any arity, with broadcasting."""

from __future__ import annotations

from ..context import SAME, Call, Rule, Trace
from ..labels import Label, merge

__all__ = ["RULES", "constant", "copied", "pointwise", "same"]


def pointwise(trace: Trace, call: Call) -> Label:
    """Units on the same axes are one, those on fewer are blocks, fixed positions pin."""
    operands = [trace.operand(x) for x in call.inputs]
    return merge(trace.units, operands, call.outputs[0].shape)


def same(trace: Trace, call: Call) -> Label:
    """The result is the first argument as it is."""
    return trace.label(call.inputs[0])


def copied(trace: Trace, call: Call) -> Label:
    """`copy_`: the second argument takes the place of the first."""
    target, source = call.args[0], call.args[1]
    if trace.is_shared(target):  # others hold the same memory, under the old units
        trace.pin(target, source)
        return trace.label(target)
    return merge(trace.units, [trace.operand(source)], target.shape)


def constant(trace: Trace, call: Call) -> list[None]:
    """The result takes no more than its shape from the arguments: it is a constant."""
    return [None] * len(call.outputs)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ["clone", "_to_copy", "hardswish", "elu", "gelu", "silu", "mish", "celu", "selu",
         "hardtanh", "hardsigmoid", "leaky_relu", "softplus", "log_sigmoid_forward", "threshold",
         "_prelu_kernel", "where", "masked_fill", "lerp", "addcmul", "addcdiv", "relu", "glu_jvp",
         "nan_to_num", "clamp", "sigmoid", "tanh", "rsub", "pow", "dropout", "bernoulli"],
        pointwise,
    ),
    **dict.fromkeys([*SAME, "_conj", "positive", "lift_fresh_copy"], same),
    "copy": copied,
    **dict.fromkeys(
        ["zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
         "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"],
        constant,
    ),
}  # fmt: skip
