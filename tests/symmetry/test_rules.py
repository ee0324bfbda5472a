"""Every rule against the operation itself, in numbers: no architecture is involved.

The operands of one operation are parameters, so that each of their axes has units.  Two questions:

- soundness: for random elements of the group that the rule gives, does the operation take permuted
  operands to its result, permuted as its label says?
- completeness: does that group hold every joint permutation of axes that leaves the operation as it
  is?  These are found by trying (`probing.symmetries`), without rules.  `SMALLER` names the cases
  where a rule is content with less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from mcbook.evaluation import evaluating
from mcbook.symmetry import tracing
from mcbook.symmetry.assembling import solve
from mcbook.symmetry.context import Trace
from mcbook.symmetry.probing import symmetries
from mcbook.symmetry.rules import NAMED
from mcbook.symmetry.spec import PermutationSpec
from tests.symmetry.operations import CASES, Case


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
                self.register_parameter(f"x{k}", nn.Parameter(x))

    def operands(self) -> list[Tensor]:
        count = len(self.case.shapes)
        return [self.inputs[k] if k in self.inputs else getattr(self, f"x{k}") for k in range(count)]

    def forward(self) -> Any:
        return self.case.run(*self.operands())


def recorded(module: Op) -> tuple[Trace, list[Tensor]]:
    """The trace of one run, as `trace_symmetry` does it but without pinning the results."""
    trace = Trace(module)
    for x in module.inputs.values():
        trace.put(x, trace.label(x))
    dispatch = tracing._Dispatch(trace)
    with evaluating(module), tracing._plain_kernels(), torch.random.fork_rng(devices=[]):
        with tracing._Functions(dispatch), dispatch:
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
    k, axis = axes[0]
    (units,) = [part.units for part in spec.slots[f"x{k}"] if part.axes == (axis,)] or [None]
    if units is None or (units < 0).any():
        return False
    place = int((spec.starts <= units[0]).sum()) - 1
    unit_class = spec.classes[place]
    if not unit_class.is_space or unit_class.size != len(units):
        return False
    at = torch.from_numpy(units - spec.starts[place])
    n = len(units)
    for order in (torch.arange(n).roll(1), torch.tensor([1, 0, *range(2, n)])):
        vector = torch.empty(n, dtype=torch.int64)
        vector[at] = at[order]
        try:
            element = spec.element(spec.complete({unit_class.name: vector}))
        except ValueError:  # it tears blocks
            return False
        for i, x in enumerate(operands):
            here = [a for j, a in axes if j == i]
            wanted = x.index_select(here[0], order) if here else x
            if not torch.equal(spec.moved(f"x{i}", x, element), wanted):
                return False
    return True


# the tests ----------------------------------------------------------------------------------

#: Names that no case reaches, and why.
UNREACHED: dict[str, str] = {}
#: Symmetries that are there and that the rules leave out, and why.
SMALLER: dict[str, str] = {}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_gives_a_group_that_is_right_and_whole(name: str) -> None:
    module = Op(CASES[name])
    spec, _ = group_of(module)
    check_soundness(CASES[name], spec, module)
    left_out = missing(CASES[name], spec, module)
    assert bool(left_out) == (name in SMALLER), left_out


def test_every_rule_is_reached_by_a_case() -> None:
    reached = {name for case in CASES.values() for name in recorded(Op(case))[0].operations}
    assert set(NAMED) - reached == set(UNREACHED)
