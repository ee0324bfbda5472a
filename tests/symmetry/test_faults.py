"""The check of a spec catches mistakes: faults put into the tracing on purpose, and what it says.

Every fault is one that would go unseen without a check: the trace runs through, and its spec looks
like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from symmetry.modules import Net
from symmetry.zoo import EXTRA, ZOO, Case
from torch import Tensor, nn
from torch.nn import functional as F

from mcbook.symmetry import rules
from mcbook.symmetry.context import Call, Trace
from mcbook.symmetry.labels import Label, merge
from mcbook.symmetry.rules.pointwise import pointwise
from mcbook.symmetry.spec import PermutationSpec, Slots, UnitClass
from mcbook.symmetry.tracing import trace_symmetry
from mcbook.symmetry.units import Units
from mcbook.symmetry.verification import Verification, verify

Patch = pytest.MonkeyPatch


def case_of(name: str) -> Case:
    """A network by name, on small images."""
    return EXTRA[name] if name in EXTRA else replace(ZOO[name], shape=(3, 12, 12))


def caught(case: Case, fault: Callable[[Patch], None]) -> Verification:
    """Trace with a fault, check without it: the check says no, and what it leaves holds."""
    model, x = case.build(), case.inputs()
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        spec = trace_symmetry(model, x, verify=False)
    return refused(spec, model, x)


def refused(spec: PermutationSpec, model: nn.Module, x: Any) -> Verification:
    """What a check that says no found; the spec it leaves passes, with another seed too."""
    found = verify(spec, model, x)
    assert found.failed
    assert not found.passed
    assert not set(found.failed) & set(found.spec.spaces)
    assert set(found.spec.spaces) == set(found.table.query("verified != 'no'")["space"])
    assert found.error <= 1e-10
    again = verify(found.spec, model, x, seed=1)
    assert not again.failed
    assert again.error <= 1e-10
    return found


def every(n: int, method: str) -> Callable[[Patch], None]:
    """Every n-th call of a method of `Units` is forgotten; of all when n is 1."""

    def fault(patch: Patch) -> None:
        right, calls = getattr(Units, method), [0]

        def forgetful(self: Units, *args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            return None if calls[0] % n == 0 else right(self, *args, **kwargs)

        patch.setattr(Units, method, forgetful)

    return fault


def declared(name: str, rule: Callable[[Trace, Call], Any]) -> Callable[[Patch], None]:
    """An operation has this rule."""
    return lambda patch: patch.setitem(rules.NAMED, name, rule)


def same_for_all(trace: Trace, call: Call) -> list[Label]:
    """The label of the argument for every result: wrong for what looks along an axis."""
    return [trace.label(call.args[0])] * len(call.outputs)


def addition_without_union(trace: Trace, call: Call) -> Label:
    """Of two sides of an addition, only the first counts."""
    x, *others = call.inputs
    if others and trace.label(x) and all(trace.label(y) for y in others):
        return merge(trace.units, [trace.operand(x)], call.outputs[0].shape)
    return pointwise(trace, call)


def no_pins(patch: Patch) -> None:
    """Nothing is held in place."""
    patch.setattr(Units, "pin", lambda *_, **__: None)


def outputs_are_not_pinned(patch: Patch) -> None:
    patch.setattr(Trace, "pin", lambda *_: None)


def joined_in_reverse(patch: Patch) -> None:
    """The pieces of a concatenation in the wrong order."""

    def reverse(trace: Trace, call: Call) -> Label:
        turned = Call(call.func, (call.args[0][::-1], *call.args[1:]), call.kwargs, call.out)
        return right(trace, turned)

    right = rules.NAMED["cat"]
    patch.setitem(rules.NAMED, "cat", reverse)


def nothing_is_seen(patch: Patch) -> None:
    """Which units an operation touched is forgotten."""
    patch.setattr(Units, "see", lambda *_, **__: None)


FAULTS: dict[str, tuple[str, Callable[[Patch], None]]] = {
    "blocks of group norm": ("group_norm", every(1, "block")),
    "blocks of heads": ("encoder", every(1, "block")),
    "blocks of heads that share keys": ("gpt", every(1, "block")),
    "blocks of flattened maps": ("conv3d", every(1, "block")),
    "blocks of grouped convolutions": ("grouped_shuffled", every(1, "block")),
    "every third block": ("gpt", every(3, "block")),
    "every seventh union": ("resnet20_padA", every(7, "one")),
    "every seventh union, projections": ("resnet20_conv", every(7, "one")),
    "every fifth union, transformer": ("gpt", every(5, "one")),
    "every second union, concatenations": ("dense", every(2, "one")),
    "all unions": ("convnext", every(1, "one")),
    "sort, as if pointwise": ("sorted", declared("sort", same_for_all)),
    "roll, as if pointwise": ("rolled", declared("roll", same_for_all)),
    "additions that unite nothing": ("resnet20_padA", declared("add", addition_without_union)),
    "additions in a transformer": ("encoder", declared("add", addition_without_union)),
    "reversed concatenation": ("dense", joined_in_reverse),
    "no pins": ("sinusoids_added", no_pins),
    "outputs not pinned": ("lstm", outputs_are_not_pinned),
    "tokens not pinned": ("mixer", no_pins),
    "nothing seen": ("two_activations", nothing_is_seen),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_tracing_is_caught(fault: str) -> None:
    name, put = FAULTS[fault]
    caught(case_of(name), put)


@pytest.mark.parametrize("name", sorted({name for name, _ in FAULTS.values()}))
def test_without_a_fault_the_same_networks_pass(name: str) -> None:
    case = case_of(name)
    model = case.build()
    spec = trace_symmetry(model, case.inputs(), verify=False)
    found = verify(spec, model, case.inputs(), seed=1)
    assert found.passed
    assert not found.failed
    assert found.spec.spaces == spec.spaces


# faults in a spec ---------------------------------------------------------------------------


def small() -> tuple[nn.Module, Tensor, PermutationSpec]:
    """Two convolutions with batch norm, so that statistics count."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
        ).eval()  # fmt: skip
    x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return model, x, trace_symmetry(model, x, verify=False)


@pytest.mark.parametrize("name", ["gpt", "grouped_shuffled", "depthwise_multiplied", "maxout"])
def test_what_is_left_after_freezing_any_space_holds(name: str) -> None:
    model, x = EXTRA[name].build(), EXTRA[name].inputs()
    spec = trace_symmetry(model, x, verify=False)
    for space in spec.spaces:
        less = spec.without(space)
        assert space not in less.spaces
        assert less.log10_order < spec.log10_order
        assert not verify(less, model, x).failed, space


def moved_slots(spec: PermutationSpec, change: dict[str, list[Slots]]) -> PermutationSpec:
    return replace(spec, slots={**spec.slots, **change})


@pytest.mark.parametrize(
    "left_out", ["1.running_mean", "1.running_var", "1.weight", "1.bias", "0.bias", "3.bias"]
)
def test_a_tensor_that_does_not_move_along_is_caught(left_out: str) -> None:
    model, x, spec = small()
    found = refused(moved_slots(spec, {left_out: []}), model, x)
    assert found.failed == ["3" if left_out == "3.bias" else "0"]
    assert list(found.spec.spaces) == (["0"] if left_out == "3.bias" else ["3"])


def test_an_axis_taken_for_another_is_caught() -> None:
    model, x, spec = small()
    turned = [
        replace(part, axes=tuple(1 - a if a < 2 else a for a in part.axes))
        for part in spec.slots["3.weight"]
    ]
    assert set(refused(moved_slots(spec, {"3.weight": turned}), model, x).failed) == {"0", "3"}


def test_positions_of_a_unit_in_another_order_are_caught() -> None:
    case = EXTRA["conv3d"]
    model, x = case.build(), case.inputs()
    spec = trace_symmetry(model, x, verify=False)
    name = next(n for n, shape in spec.shapes.items() if shape == (3, 48))
    shuffled = []
    for part in spec.slots[name]:
        units = part.units.copy()
        if part.axes == (1,):
            units = np.roll(units, 1)
        shuffled.append(replace(part, units=units))
    refused(moved_slots(spec, {name: shuffled}), model, x)


def test_a_stale_pin_leaves_a_space_behind_that_is_caught() -> None:
    """Outputs whose units were put down as free, as if the head were a hidden layer."""
    model, x, spec = small()
    start = int(spec.starts[-1])
    head = UnitClass("8", 3)
    units = start + np.arange(3)
    free = {
        name: [Slots((0,), units, np.zeros(3, np.int64))]
        + [p for p in spec.slots[name] if 0 not in p.axes]
        for name in ("8.weight", "8.bias")
    }
    stale = replace(moved_slots(spec, free), classes=[*spec.classes, head])
    assert refused(stale, model, x).failed == ["8"]


def test_two_spaces_taken_for_one_are_caught() -> None:
    model, x, spec = small()
    both = [c for c in spec.classes if c.is_space]
    assert [c.size for c in both] == [6, 6]
    start = int(spec.starts[1])
    slots = {
        name: [replace(p, units=np.where(p.units >= 0, (p.units - start) % 12, -1)) for p in parts]
        for name, parts in spec.slots.items()
    }
    refused(replace(spec, classes=[replace(both[0], size=12)], slots=slots), model, x)


# the control --------------------------------------------------------------------------------


def branched(scale: float) -> tuple[nn.Module, Tensor]:
    """A branch that counts so much."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.first(x))
        return m.out(h) + scale * m.side_out(torch.tanh(m.side(x)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net(
            run, first=nn.Linear(4, 8), out=nn.Linear(8, 3), side=nn.Linear(4, 5),
            side_out=nn.Linear(5, 3),
        ).eval()  # fmt: skip
    return model, torch.randn(1, 4, generator=torch.Generator().manual_seed(1))


def verdicts(found: Verification) -> dict[str, str]:
    return dict(zip(found.table["space"], found.table["verified"], strict=True))


def test_a_branch_that_does_not_count_is_not_verifiable() -> None:
    model, x = branched(0.0)
    found = verify(trace_symmetry(model, x, verify=False), model, x)
    assert verdicts(found) == {"first": "yes", "side": "not verifiable"}
    assert not found.passed
    assert not found.failed
    assert found.control == 0.0
    assert verdicts(verify(trace_symmetry(model, x, verify=False), branched(1.0)[0], x)) == {
        "first": "yes", "side": "yes",
    }  # fmt: skip


def test_a_branch_that_hardly_counts_is_verified() -> None:
    model, x = branched(1e-6)
    found = verify(trace_symmetry(model, x, verify=False), model, x)
    assert found.passed
    assert 0 < found.control < 1e-4


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_a_wrong_space_is_not_hidden_by_units_that_are_dead_on_some_inputs(hidden: int) -> None:
    """Two columns of a weight alone: no change where the units before or after are silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 2)
        ).eval()
    x = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    spec = trace_symmetry(model, x, verify=False)
    nothing: dict[str, list[Slots]] = {name: [] for name in spec.slots}
    for first in range(7):
        units = np.full(8, -1)
        units[first : first + 2] = (0, 1)
        columns = {"2.weight": [Slots((1,), units, np.zeros(8, np.int64))]}
        wrong = replace(spec, classes=[UnitClass("columns", 2)], slots={**nothing, **columns})
        for seed in range(4):
            assert verdicts(verify(wrong, model, x, seed=seed))["columns"] != "yes", (first, seed)


def test_a_space_that_moves_nothing_that_matters_is_not_verifiable() -> None:
    model, x, spec = small()
    idle = UnitClass("idle", 4)
    found = verify(replace(spec, classes=[*spec.classes, idle]), model, x)
    assert verdicts(found) == {"0": "yes", "3": "yes", "idle": "not verifiable"}
    assert found.control == 0.0


def test_a_spec_without_spaces_passes_and_says_nothing() -> None:
    model, x, spec = small()
    found = verify(spec.without(*spec.spaces), model, x)
    assert found.passed
    assert len(found.table) == 0
    assert math.isnan(found.control)
    assert (found.error, found.train_error) == (0.0, 0.0)


def test_statistics_of_the_batch_are_checked_in_train_mode() -> None:
    model, x, spec = small()
    assert verify(spec, model, x).train_error <= 1e-8
    plain, inputs = branched(1.0)
    assert math.isnan(
        verify(trace_symmetry(plain, inputs, verify=False), plain, inputs).train_error
    )


# what a check leaves as it was ----------------------------------------------------------------


@pytest.mark.usefixtures("same_random_state")
@pytest.mark.parametrize("name", ["group_norm", "conv1d", "encoder", "weight_norm"])
@pytest.mark.parametrize("training", [False, True])
def test_a_check_leaves_everything_as_it_was(
    name: str, training: bool, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    model, x = EXTRA[name].build().train(training), EXTRA[name].inputs()
    if training:
        next(model.children()).eval()
    before = x.clone()
    compare = untouched(model)
    verify(trace_symmetry(model, x, verify=False), model, x)
    with pytest.MonkeyPatch.context() as patch:
        every(3, "block")(patch)
        every(5, "one")(patch)
        wrong = trace_symmetry(model, x, verify=False)
    verify(wrong, model, x)
    compare()
    assert torch.equal(x, before)
    assert all(p.requires_grad for p in model.parameters())


def test_a_check_gives_the_same_again_and_depends_on_the_seed() -> None:
    model, x, spec = small()
    one, other = verify(spec, model, x, seed=3), verify(spec, model, x, seed=3)
    assert one.table.equals(other.table)
    assert (one.error, one.train_error) == (other.error, other.train_error)
    assert not one.table.equals(verify(spec, model, x, seed=4).table)
