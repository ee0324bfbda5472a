"""What comes back, and what is refused at the door by every method that aligns weights."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from alignment.networks import change, pair
from torch import nn

import mcbook as mc
from mcbook import weights
from mcbook.alignment.alignment import Alignment, aligned, check_networks

# results ------------------------------------------------------------------------------------


def test_an_alignment_is_what_b_becomes(untouched: Callable) -> None:
    _, b, spec = pair("mobile")
    b.train()
    same = untouched(b)
    p = spec.random(0)
    al = aligned(b, p, spec, (1.0, 2.5), "by hand", runs=[2.5])
    same()
    assert isinstance(al, Alignment)
    assert al.permutation == p
    assert al.objective == [1.0, 2.5]
    assert al.facts == {"runs": [2.5]}
    assert al.method == "by hand"
    assert not any(m.training for m in al.model.modules())
    moved = mc.permute(b, p, spec)
    assert all(torch.equal(x, weights.of(moved)[n]) for n, x in weights.of(al.model).items())
    assert change("mobile", b.eval(), al.model) < 1e-10


def test_its_line_says_how_far_it_came() -> None:
    al = mc.Alignment(nn.Linear(2, 2), mc.Permutation({"h": [1, 0, 2]}), [1.0, 2.5], "by hand")
    assert repr(al) == "Alignment(by hand: 2 of 3 units moved, objective 1 → 2.5)"
    assert al.facts == {}


def test_it_cannot_be_changed_and_equals_no_other() -> None:
    al = mc.Alignment(nn.Linear(2, 2), mc.Permutation({"h": [1, 0]}), [1.0], "by hand")
    with pytest.raises(dataclasses.FrozenInstanceError):
        al.method = "other"  # type: ignore[misc]
    assert al != copy.copy(al)


# what is refused ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(digits: mc.Data) -> mc.Data:
    return digits.subset(train=40, test=20)


def mlp(seed: int, width: int | Sequence[int] = (8, 6)) -> nn.Module:
    data = mc.load_data("digits", device="cpu")
    return mc.build_model("mlp", data, width=width, seed=seed)


def _weight_matching(data: mc.Data, models: Sequence[Any], **options: Any) -> Any:
    return mc.weight_matching(*models, **options)


def _many(data: mc.Data, models: Sequence[Any], **options: Any) -> Any:
    return mc.match_many(models, **options)


def _straight_through(data: mc.Data, models: Sequence[Any], **options: Any) -> Any:
    return mc.straight_through(*models, data, epochs=1, progress=False, **options)


METHODS = pytest.mark.parametrize("method", [_weight_matching, _many, _straight_through])


@METHODS
def test_two_networks_of_one_architecture_are_taken(method: Callable, data: mc.Data) -> None:
    result = method(data, [mlp(0), mlp(1)])
    al = result[1] if isinstance(result, list) else result
    assert isinstance(al, Alignment)
    assert al.permutation.moved > 0
    assert not al.model.training


@METHODS
@pytest.mark.parametrize(
    ("b", "message"),
    [
        (lambda: mlp(1, (8, 7)), r"linear2.weight is \[6, 8\] in A and \[7, 8\] in B"),
        (lambda: mlp(1, 8), r"linear2.weight \[6, 8\] of A is not in B"),
        (lambda: mlp(1, (8, 6, 4)), r"output.weight is \[10, 6\] in A and \[10, 4\] in B"),
        (lambda: nn.Linear(3, 2), r"linear1.weight \[8, 64\] of A is not in B"),
    ],
)
def test_other_architectures(
    method: Callable, data: mc.Data, b: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(mc.IncompatibleError, match="expected two networks.*" + message):
        method(data, [mlp(0), b()])


@METHODS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("whose", [0, 1])
def test_weights_that_are_not_finite(
    method: Callable, data: mc.Data, whose: int, value: float
) -> None:
    models = [mlp(0), mlp(1)]
    with torch.no_grad():
        models[whose].linear2.bias[:2] = value
    message = f"found 2 NaN or infinite entries of 6 in linear2.bias of {'AB'[whose]}"
    with pytest.raises(ValueError, match=f"expected finite weights, {message}"):
        method(data, models)


@METHODS
def test_a_spec_of_another_network(method: Callable, data: mc.Data) -> None:
    other = mc.trace_symmetry(mlp(0, (8, 7)))
    with pytest.raises(mc.IncompatibleError, match=r"linear2.weight is \[6, 8\] instead of \[7"):
        method(data, [mlp(0), mlp(1)], spec=other)
    convnet = mc.trace_symmetry(mc.build_model("convnet", data, width=4))
    with pytest.raises(mc.IncompatibleError, match="the tensors of this spec"):
        method(data, [mlp(0), mlp(1)], spec=convnet)


@METHODS
def test_something_that_is_no_spec(method: Callable, data: mc.Data) -> None:
    with pytest.raises(TypeError, match="expected a PermutationSpec.*found str"):
        method(data, [mlp(0), mlp(1)], spec="linear1")


@METHODS
@pytest.mark.parametrize("wrong", [0, 1])
def test_something_that_is_no_network(method: Callable, data: mc.Data, wrong: int) -> None:
    models: list[Any] = [mlp(0), mlp(1)]
    models[wrong] = weights.of(models[wrong])
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, found dict"):
        method(data, models)


@METHODS
def test_networks_without_hidden_units(method: Callable, data: mc.Data) -> None:
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
    with pytest.raises(mc.IncompatibleError, match="hidden units that can be permuted, found none"):
        method(data, models, example=torch.zeros(1, 1, 8, 8))


@METHODS
def test_a_spec_in_which_everything_is_frozen(method: Callable, data: mc.Data) -> None:
    spec = mc.trace_symmetry(mlp(0)).without("linear1", "linear2")
    with pytest.raises(mc.IncompatibleError, match="hidden units that can be permuted, found none"):
        method(data, [mlp(0), mlp(1)], spec=spec)


@METHODS
def test_an_example_is_used_where_the_networks_carry_none(method: Callable, data: mc.Data) -> None:
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
              for _ in range(2)]  # fmt: skip
    method(data, models, example=torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="example"):
        method(data, models)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_networks(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least two networks to align, found {count}"):
        check_networks([mlp(0)][:count], None)
    with pytest.raises(ValueError, match=f"at least two networks to align, found {count}"):
        mc.match_many([mlp(0)][:count])


def test_the_network_that_differs_is_named() -> None:
    models = [mlp(s) for s in range(4)]
    with torch.no_grad():
        models[3].output.bias[0] = torch.nan
    with pytest.raises(ValueError, match="output.bias of D"):
        check_networks(models, None)


def test_constants_that_are_infinite_are_no_weights() -> None:
    """The masks of attention are kept as buffers in many a network."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
            self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = x @ x.transpose(1, 2) + self.mask
            return self.out(torch.relu(self.first(scores.softmax(-1) @ x)))

    mc.weight_matching(Masked(), Masked(), example=torch.zeros(1, 5, 6))


OPTIONS = [
    ({"restarts": 0}, ValueError, "expected at least one run, found restarts = 0"),
    ({"restarts": -3}, ValueError, "expected at least one run, found restarts = -3"),
    ({"order": "backwards"}, mc.UnknownNameError, "unknown order 'backwards'; did you mean 'back"),
    ({"start": "frontal"}, mc.UnknownNameError, "unknown start 'frontal'; did you mean 'frontier"),
    ({"start": None}, TypeError, "expected a start out of frontier, identity.*found NoneType"),
    ({"start": {"linear1": [1, 0]}}, TypeError, "an Alignment or a Permutation, found dict"),
    (
        {"start": mc.Permutation({"linear1": range(8)})}, mc.IncompatibleError,
        "expected a permutation of every space, found none of 'linear2'",
    ),
    (
        {"start": mc.Permutation({"linear1": range(9), "linear2": range(6)})},
        mc.IncompatibleError, "a permutation of 8 units in space 'linear1', found one of 9",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS)
def test_options_of_weight_matching(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        mc.weight_matching(mlp(0), mlp(1), **options)
