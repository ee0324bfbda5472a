"""Every architecture of the zoo derives the group that is known of it, and verifies."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from symmetry.zoo import EXTRA, ZOO, Case
from torch import Tensor, nn

import mcbook as mc

# what may be frozen in a convolutional network: the input's channels and the classes
CONVOLUTIONAL = [
    "lenet5", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet20_conv", "resnet20_padA",
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
    "regnet_x_400mf", "densenet121", "convnext_tiny", "dla34", "dla46_c",
]  # fmt: skip
# the share of axes that the prototype's table gives as free
TABLE = {
    "mlp": 0.75, "lenet5": 0.80, "vgg11": 0.909, "vgg11_bn": 0.954, "vgg16": 0.938,
    "vgg16_bn": 0.970, "resnet20_conv": 0.977, "resnet20_padA": 0.974, "resnet18": 0.976,
    "resnet50": 0.991, "mobilenet_v2": 0.99, "mobilenet_v3_small": 0.988,
    "shufflenet_v2_x0_5": 0.988, "efficientnet_b0": 0.992, "regnet_x_400mf": 0.993,
    "densenet121": 0.996, "convnext_tiny": 0.987, "vit_b_16": 0.98, "swin_t": 0.937,
    "dla34": 0.987, "dla46_c": 0.99, "cct": 0.944,
}  # fmt: skip


@pytest.fixture(scope="module")
def traced() -> Callable[[str], mc.PermutationSpec]:
    """The verified spec of a case, made when first asked for; the networks are not kept."""
    made: dict[str, mc.PermutationSpec] = {}

    def get(name: str) -> mc.PermutationSpec:
        if name not in made:
            case = ZOO.get(name) or EXTRA[name]
            made[name] = mc.trace_symmetry(case.build(), case.inputs(1))
        return made[name]

    return get


def fits(spec: mc.PermutationSpec, case: Case) -> None:
    if case.spaces is not None:
        assert len(spec.spaces) == case.spaces
    if case.units is not None:
        assert spec.units == case.units
    if case.log10 is not None:
        assert math.isclose(spec.log10_order, case.log10, abs_tol=0.06)
    assert case.least_units <= spec.units
    assert not case.most_units or spec.units <= case.most_units


@pytest.mark.parametrize("name", ZOO)
def test_a_known_architecture_has_the_known_group_and_it_holds(traced: Callable, name: str) -> None:
    spec = traced(name)
    fits(spec, ZOO[name])
    assert spec.axes_free >= TABLE[name] - 0.0006
    found = spec.verification
    assert found.passed, found.table[found.table["verified"] != "yes"]
    assert found.error <= 1e-10
    assert math.isnan(found.train_error) or found.train_error <= 1e-8
    assert found.control > 1e6 * found.error
    assert spec.notes == []  # no operation had to be guessed


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_of_a_convolutional_network_only_pixels_and_classes_are_frozen(
    traced: Callable, name: str
) -> None:
    spec = traced(name)
    first = next(n for n, shape in spec.shapes.items() if len(shape) == 4)
    last = list(spec.shapes)[-2:]
    assert {(f.tensor, f.axis) for f in spec.frozen} == {(first, 1), *((n, 0) for n in last)}


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "cct"])
def test_of_a_transformer_hidden_units_and_heads_are_free(traced: Callable, name: str) -> None:
    spec = traced(name)
    blocks = {"vit_b_16": 12, "swin_t": 12, "cct": 4}[name]
    # in every block: heads, what is inside them (twice), and the units of the feed-forward layer
    assert len(spec.nested) == 2 * blocks
    nested = [c for c in spec.classes if c.name in spec.nested]
    heads = {above for c in nested for above, _ in c.parents}
    assert len(heads) == blocks
    assert all(spec.classes[k].is_space for k in heads)
    hidden = [n for n in spec.spaces if "mlp.0" in n or n.endswith("linear1")]
    assert len(hidden) == blocks


def test_of_a_densenet_every_growth_segment_is_a_space(traced: Callable) -> None:
    spec = traced("densenet121")
    grown = [n for n in spec.spaces if n.endswith("conv2")]
    assert len(grown) == 6 + 12 + 24 + 16
    assert all(spec.spaces[n] == 32 for n in grown)


@pytest.mark.parametrize("name", [n for n in EXTRA if n != "hidden_in_numpy"])
def test_a_small_module_has_the_group_derived_by_hand_and_it_holds(
    traced: Callable, name: str
) -> None:
    spec = traced(name)
    fits(spec, EXTRA[name])
    assert spec.verification.passed, spec.verification.table


def test_what_is_hidden_from_the_trace_is_caught_by_the_check(traced: Callable) -> None:
    spec = traced("hidden_in_numpy")
    assert list(spec.spaces) == ["second"]
    assert spec.verification.failed == ["first"]
    assert "failed and frozen: first" in str(spec)
    assert any(f.reason == "failed the check" for f in spec.frozen)


@pytest.mark.parametrize(
    ("name", "batch"), [("resnet20_padA", 3), ("mobilenet_v3_small", 2), ("densenet121", 2)]
)
def test_the_group_does_not_depend_on_the_batch(name: str, batch: int) -> None:
    case = ZOO[name]
    spec = mc.trace_symmetry(case.build(), case.inputs(batch), verify=False)
    fits(spec, case)


@pytest.mark.usefixtures("same_random_state")
def test_the_network_is_left_as_it_was(untouched: Callable) -> None:
    model = EXTRA["dense"].build().train()
    model[0].eval() if isinstance(model, nn.Sequential) else None
    same = untouched(model)
    mc.trace_symmetry(model, EXTRA["dense"].inputs(1))
    same()
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled


def test_a_trace_is_the_same_every_time() -> None:
    case = EXTRA["gpt"]
    first, again = (mc.trace_symmetry(case.build(), case.inputs(1)) for _ in range(2))
    assert str(first) == str(again)
    assert first.random(3) == again.random(3)


def test_arguments_may_be_a_tuple_or_a_dictionary() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.out = nn.Linear(4, 6), nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, *, y: Tensor | None = None) -> Tensor:
            h = self.left(x)
            return self.out(torch.relu(h if y is None else h + self.right(y)))

    model = Two()
    x, y = torch.randn(1, 4), torch.randn(1, 5)
    assert mc.trace_symmetry(model, {"x": x, "y": y}).spaces == {"left": 6}
    assert mc.trace_symmetry(model, (x,)).spaces == {"left": 6}
    assert mc.trace_symmetry(model, x).spaces == {"left": 6}


def test_double_and_half_precision_networks_are_traced() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype)
        spec = mc.trace_symmetry(model, torch.randn(1, 4, dtype=dtype))
        assert spec.spaces == {"0": 6}
        assert spec.verification.passed
