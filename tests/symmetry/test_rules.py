"""Every rule against the operation itself, in numbers: no architecture is involved.

The operands of one operation are parameters, so that each of their axes has units.  Two questions:

- soundness: for random elements of the group that the rule gives, does the operation take permuted
  operands to its result, permuted as its label says?
- completeness: does that group hold every joint permutation of axes that leaves the operation as it
  is?  These are found by trying (`probing.symmetries`), without rules.  `SMALLER` names the cases
  where a rule is content with less.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from symmetry.operations import CASES, Case
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from mcbook.evaluation import evaluating
from mcbook.symmetry import tracing
from mcbook.symmetry.assembling import solve
from mcbook.symmetry.context import Call, Trace
from mcbook.symmetry.probing import symmetries
from mcbook.symmetry.rules import NAMED
from mcbook.symmetry.spec import PermutationSpec


class Op(nn.Module):
    """A module that is one operation on its own parameters."""

    def __init__(self, case: Case):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.case, self.inputs = case, {}
        for k, shape in enumerate(case.shapes):
            x = torch.randn(shape, dtype=torch.float64, generator=generator)
            if k in case.fixed:
                self.inputs[k] = x
            elif k in case.statistics:
                self.register_buffer(f"x{k}", x.square() + 0.5)
            else:
                self.register_parameter(f"x{k}", nn.Parameter(x, requires_grad=False))

    def operands(self) -> list[Tensor]:
        count = len(self.case.shapes)
        return [self.inputs[k] if k in self.inputs else self.get_tensor(k) for k in range(count)]

    def get_tensor(self, k: int) -> Tensor:
        return getattr(self, f"x{k}")

    def forward(self) -> Any:
        return self.case.run(*self.operands())


def recorded(module: Op) -> tuple[Trace, list[Tensor]]:
    """The trace of one run, as `trace_symmetry` does it but without pinning the results."""
    trace = Trace(module)
    for x in module.inputs.values():
        trace.put(x, trace.label(x))
    dispatch = tracing._Dispatch(trace)
    around = (evaluating(module), tracing._plain_kernels(), torch.random.fork_rng(devices=[]))
    with contextlib.ExitStack() as stack:
        for context in (*around, tracing._Functions(dispatch), dispatch):
            stack.enter_context(context)
        out = module()
    return trace, [x for x in tree_leaves(out) if isinstance(x, Tensor)]


def group_of(module: Op) -> tuple[PermutationSpec, Trace]:
    """The group on operands `x0`, `x1`, ... and results `y0`, `y1`, ... together."""
    trace, results = recorded(module)
    every = nn.Module()
    for k, x in enumerate(module.operands()):
        every.register_buffer(f"x{k}", x.detach().clone())
    for k, y in enumerate(results):
        every.register_buffer(f"y{k}", y.detach().clone())
        trace.weights[f"y{k}"] = (y, trace.label(y))
    return solve(every, trace), trace


def computed(case: Case, operands: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        out = case.run(*(x.detach().clone() for x in operands))
    return [x for x in tree_leaves(out) if isinstance(x, Tensor)]


def agree(x: Tensor, y: Tensor) -> bool:
    if not x.is_floating_point():
        return torch.equal(x, y)
    return torch.allclose(x, y, rtol=0, atol=1e-9 * max(1.0, float(x.abs().max())), equal_nan=True)


def check_soundness(case: Case, spec: PermutationSpec, module: Op) -> None:
    operands = module.operands()
    results = computed(case, operands)
    for seed in range(3):
        element = spec.element(spec.random(seed, restless=True))
        moved = [spec.moved(f"x{k}", x.detach(), element) for k, x in enumerate(operands)]
        for k, (y, new) in enumerate(zip(results, computed(case, moved), strict=True)):
            assert agree(spec.moved(f"y{k}", y, element), new), f"result {k}, {spec.spaces}"


def missing(case: Case, spec: PermutationSpec, module: Op) -> list[tuple[tuple[int, int], ...]]:
    """The joint permutations of axes that the operation allows, and the group does not hold."""
    operands = [x.detach().clone() for x in module.operands()]
    candidates = [
        (k, a)
        for k, x in enumerate(operands)
        for a in range(x.ndim)
        if k not in case.fixed and x.shape[a] > 1
    ]
    found = symmetries(lambda tensors: computed(case, tensors), operands, candidates)
    return [s.axes for s in found if not holds(spec, operands, s.axes)]


def holds(
    spec: PermutationSpec, operands: Sequence[Tensor], axes: tuple[tuple[int, int], ...]
) -> bool:
    """Whether the group holds a cycle and a transposition of some axes together, and no more."""
    n = operands[axes[0][0]].shape[axes[0][1]]
    for order in (torch.arange(n).roll(1), torch.tensor([1, 0, *range(2, n)])):
        vectors: dict[str, Tensor] = {}
        for k, axis in axes:
            (units,) = [p.units for p in spec.slots[f"x{k}"] if p.axes == (axis,)] or [None]
            if units is None or (units < 0).any():
                return False
            place = int((spec.starts <= units[0]).sum()) - 1
            at = torch.from_numpy(units - spec.starts[place])
            if not spec.classes[place].is_space or spec.classes[place].size != n:
                return False
            vector = torch.empty(n, dtype=torch.int64)
            vector[at] = at[order]
            if not torch.equal(vectors.setdefault(spec.classes[place].name, vector), vector):
                return False
        try:
            element = spec.element(spec.complete(vectors))
        except ValueError:  # it tears blocks
            return False
        for i, x in enumerate(operands):
            here = [a for j, a in axes if j == i]
            wanted = x.index_select(here[0], order) if here else x
            if not torch.equal(spec.moved(f"x{i}", x, element), wanted):
                return False
    return True


# the tests ----------------------------------------------------------------------------------

_SLICE = "what is written into a slice of something keeps its place"
_STATISTICS = "running statistics count where the batch's are used, too"
#: Symmetries that are there and that the rules leave out, and why.
SMALLER = {
    "conj": "complex numbers are taken apart by an operation without a rule",
    "copy_ into slices": _SLICE,
    "copy_ over a slice": _SLICE,
    "add_ to a slice": _SLICE,
    "add_ after a view": _SLICE,
    "copy_ after a view": _SLICE,
    "circular 1d": _SLICE,
    "circular 2d": _SLICE,
    "circular 3d": _SLICE,
    "conv2d 1x1": "pixels are pinned whatever the size of the kernel",
    "conv2d, constant filters": "the same: the kernel is one pixel high",
    "conv2d, other filters": "the same",
    "local response norm": "the same, for the windows of a pool",
    "conv2d, grouped, transposed": "frozen as a whole",
    "batch norm, training with statistics": _STATISTICS,
    "batch norm, _native_batch_norm_legit": _STATISTICS,
    "batch norm, _batch_norm_with_update": _STATISTICS,
    "as_strided turned": "memory is not followed",
    "take_along": "rows picked by data keep their places",
}
#: Names that no case reaches, and why.  (torch takes composite operations apart before.)
UNREACHED = {
    "bernoulli": "random: its numbers do not move along with its argument",
    "glu_jvp": "a derivative",
    **dict.fromkeys(
        ["convolution_overrideable", "cudnn_batch_norm", "miopen_batch_norm",
         "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
         "_scaled_dot_product_cudnn_attention",
         "_scaled_dot_product_fused_attention_overrideable"],
        "not on the CPU",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_rule_gives_a_group_that_is_right_and_whole(name: str) -> None:
    module = Op(CASES[name])
    spec, _ = group_of(module)
    check_soundness(CASES[name], spec, module)
    left_out = missing(CASES[name], spec, module)
    assert bool(left_out) == (name in SMALLER), left_out


def walked(x: Tensor, steps: Sequence[tuple[str, int, int]]) -> Tensor:
    """One movement after the other; numbers are taken modulo what there is."""
    for name, i, j in steps:
        if x.ndim == 0 or x.numel() > 100:
            break
        a, n = i % x.ndim, x.shape[i % x.ndim]
        if name == "flatten" and x.ndim > 1:
            x = x.flatten(i % (x.ndim - 1), i % (x.ndim - 1) + 1)
        elif name == "unflatten":
            divisors = [d for d in range(1, n + 1) if n % d == 0]
            d = divisors[j % len(divisors)]
            x = x.unflatten(a, (d, n // d))
        elif name == "transpose":
            x = x.transpose(a, j % x.ndim)
        elif name == "narrow":
            x = x.narrow(a, j % n, n - j % n)
        elif name == "step":
            x = x[(slice(None),) * a + (slice(j % n, None, 2),)]
        elif name == "select":
            x = x.select(a, j % n)
        elif name in ("roll", "repeat_interleave"):
            x = getattr(x, name)(j % 3, a)
        elif name == "flip":
            x = x.flip(a)
        elif name == "expand":
            x = x.unsqueeze(a).expand(*x.shape[:a], 2 + j % 2, *x.shape[a:])
        elif name == "double":
            x = torch.cat([x, x], a)
        elif name == "pad":
            x = F.pad(x, (0, 0) * (x.ndim - 1 - a) + (j % 3, 1))
        elif name == "swap":
            x = torch.cat([x.narrow(a, n // 2, n - n // 2), x.narrow(a, 0, n // 2)], a)
        elif name == "stack":
            x = torch.stack([x, x.flip(a)], a)
        elif name == "add":
            x = x + x.narrow(a, j % n, 1)
        if x.numel() == 0:
            return x.new_zeros(1)
    return x


has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
WORDS = ("flatten", "unflatten", "transpose", "narrow", "step", "select", "roll", "flip", "expand",
         "repeat_interleave", "double", "pad", "swap", "stack", "add")  # fmt: skip
STEPS = st.lists(
    st.tuples(st.sampled_from(WORDS), st.integers(0, 5), st.integers(0, 5)), max_size=6
)


@settings(max_examples=150)
@example([("flatten", 0, 0), ("swap", 0, 0), ("repeat_interleave", 0, 2)], (2, 3))
@example(
    [
        ("unflatten", 0, 2),
        ("stack", 0, 0),
        ("transpose", 0, 2),
        ("unflatten", 1, 1),
        ("unflatten", 0, 0),
        ("transpose", 0, 3),
        ("add", 4, 0),
    ],
    (4,),
)
@example([("stack", 0, 0), ("add", 0, 0), ("add", 0, 1)], (4,))
@given(STEPS, st.sampled_from([(4,), (2, 3), (4, 3), (2, 2, 3), (6, 2)]))
def test_movements_one_after_the_other_carry_the_group_along(
    steps: list[tuple[str, int, int]], shape: tuple[int, ...]
) -> None:
    case = Case(lambda x: walked(x, steps), [shape])
    module = Op(case)
    check_soundness(case, group_of(module)[0], module)


def test_every_rule_is_reached_by_a_case() -> None:
    reached = {name for case in CASES.values() for name in recorded(Op(case))[0].operations}
    left = {
        name
        for name in set(NAMED) - reached
        if not has_kernel(f"aten::{name}", "CompositeImplicitAutograd")
    }
    assert left == set(UNREACHED)


def _unary() -> list[str]:
    """All operations of torch that take one tensor and no more, and are tagged as pointwise."""
    names = []
    for name in dir(torch.ops.aten):
        overload = getattr(getattr(torch.ops.aten, name), "default", None)
        if overload is None or torch.Tag.pointwise not in overload.tags or name.endswith("_"):
            continue
        if has_kernel(f"aten::{name}", "CompositeImplicitAutograd"):
            continue  # torch takes it apart
        needed = [a for a in overload._schema.arguments if not a.has_default_value()]
        if len(needed) == 1 and isinstance(needed[0].type, torch.TensorType):
            names.append(name)
    return names


def test_every_pointwise_operation_of_one_tensor_has_a_rule() -> None:
    names = _unary()
    assert len(names) > 50
    for name in names:
        case = Case(getattr(torch.ops.aten, name), [(5, 4)])
        module = Op(case)
        try:
            computed(case, module.operands())
        except RuntimeError:
            continue  # for whole or complex numbers alone
        spec, trace = group_of(module)
        assert not trace.notes, name
        assert sorted(spec.spaces.values()) == [4, 5], name
        check_soundness(case, spec, module)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMED if "dot_product" in name])
def test_attention_kernels_of_other_devices_take_their_arguments_from_their_places(
    name: str, causal: bool, masked: bool
) -> None:
    """The same facts as from the kernel for the CPU, given the arguments of the schema."""
    given = {"is_causal": causal}
    arguments = getattr(torch.ops.aten, name).default._schema.arguments
    mask = {"attn_mask", "attn_bias"} & {a.name for a in arguments}
    if masked and not mask:
        return  # this kernel takes none
    facts = []
    for kernel in (name, "_scaled_dot_product_flash_attention_for_cpu"):
        module = Op(Case(lambda *_: None, [(1, 3, 4, 5)] * 3 + [(4, 4)] * masked))
        trace, tensors = Trace(module), module.operands()
        given |= dict(zip(("query", "key", "value", "attn_mask"), tensors, strict=False))
        given["attn_bias"] = tensors[3] if masked else None
        places = getattr(torch.ops.aten, kernel).default._schema.arguments
        values = {a.name: given.get(a.name, a.default_value) for a in places}
        args = [values[a.name] for a in places if not a.kwarg_only]
        kwargs = {a.name: values[a.name] for a in places if a.kwarg_only}
        call = Call(None, args, kwargs, tensors[0])
        NAMED[kernel](trace, call)
        units = trace.units
        facts.append((units.count, len(units.ones), len(units.pinned), len(units.blocks)))
    assert facts[0] == facts[1]


def test_what_a_constant_holds_after_a_write_says_nothing_of_before() -> None:
    """With weights of zero the result is zero everywhere; the constant it came from was not."""
    module = Op(Case(lambda x: torch.arange(4.0).double().mul_(x), [(4,)]))
    module.x0.zero_()
    spec, _ = group_of(module)
    assert not spec.spaces
