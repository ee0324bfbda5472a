"""A permuted network computes the same function with other weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from symmetry.zoo import EXTRA, ZOO
from torch import nn

import mcbook as mc
from mcbook import weights

SMALL = ["lenet5", "resnet20_padA", "resnet20_conv", "shufflenet_v2_x0_5", "cct", "dla46_c"]
NESTED = ["gpt", "encoder", "group_norm", "grouped_shuffled", "maxout", "lstm", "two_activations"]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random norms and statistics too: fresh ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if x.is_floating_point() and x.ndim == 1:
                noise = torch.rand(x.shape, generator=generator, dtype=x.dtype)
                x.copy_(0.5 + noise if "var" in name or "weight" in name else noise - 0.5)
    return model


@pytest.mark.parametrize("name", SMALL + NESTED)
def test_outputs_stay_and_weights_move(name: str) -> None:
    case = ZOO.get(name) or EXTRA[name]
    model = randomised(case.build())
    spec = mc.trace_symmetry(model, case.inputs(1, torch.float64), verify=False)
    x = case.inputs(4, torch.float64)
    with torch.no_grad():
        before = model(x)
        for seed in range(3):
            moved = mc.permute(model, spec.random(seed), spec)
            after = moved(x)
            assert torch.allclose(before, after, rtol=0, atol=1e-10 * float(before.std()))
            assert weights.distance(weights.of(model), weights.of(moved)) > 1


@pytest.fixture(scope="module")
def network(digits: mc.Data) -> tuple[nn.Module, mc.PermutationSpec]:
    model = randomised(mc.build_model("convnet", digits, width=6, norm="batch")).eval()
    return model, mc.trace_symmetry(model)


@given(st.integers(0, 100), st.integers(0, 100))
def test_permuting_twice_is_permuting_by_the_product(
    network: tuple[nn.Module, mc.PermutationSpec], i: int, j: int
) -> None:
    model, spec = network
    p, q = spec.random(i), spec.random(j)
    twice = mc.permute(mc.permute(model, p, spec), q, spec)
    once = mc.permute(model, q @ p, spec)
    back = mc.permute(mc.permute(model, p, spec), p.inverse(), spec)
    for name, x in weights.of(twice).items():
        assert torch.equal(x, weights.of(once)[name])
        assert torch.equal(weights.of(back)[name], weights.of(model)[name])


def test_the_convention_is_that_slot_i_takes_unit_p_i(digits: mc.Data) -> None:
    model = mc.build_model("mlp", digits, width=(5, 4))
    spec = mc.trace_symmetry(model)
    p = spec.random(1)
    moved = mc.permute(model, p)  # traced by itself
    one, two = p["linear1"], p["linear2"]
    assert torch.equal(moved.linear1.weight, model.linear1.weight[one])
    assert torch.equal(moved.linear1.bias, model.linear1.bias[one])
    assert torch.equal(moved.linear2.weight, model.linear2.weight[two][:, one])
    assert torch.equal(moved.output.weight, model.output.weight[:, two])
    assert torch.equal(moved.output.bias, model.output.bias)


@pytest.mark.usefixtures("same_random_state")
def test_a_new_module_is_made_and_the_old_one_stays(digits: mc.Data, untouched: Callable) -> None:
    model = mc.build_model("convnet", digits, width=4)
    model.conv1.weight.requires_grad_(False)
    spec = mc.trace_symmetry(model)
    same = untouched(model)
    moved = mc.permute(model, spec.random(0), spec)
    same()
    assert moved is not model
    assert moved.example_shape == model.example_shape
    assert moved.architecture == model.architecture
    assert moved.training
    assert [p.requires_grad for p in moved.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in moved.parameters()}
    assert not shared


class Tied(nn.Module):
    """Words in, words out, by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden = nn.Embedding(11, 8), nn.Linear(8, 6)
        self.back, self.out = nn.Linear(6, 8), nn.Linear(8, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.words(x)
        return self.out(h + self.back(torch.relu(self.hidden(h))))


def test_tied_weights_move_once_and_stay_tied() -> None:
    model = Tied()
    tokens = torch.arange(5)[None]
    spec = mc.trace_symmetry(model, tokens)
    assert spec.spaces == {"back": 8, "hidden": 6}
    assert spec.aliases == {"out.weight": "words.weight"}
    assert spec.verification.passed
    moved = mc.permute(model, spec.random(0), spec)
    assert moved.out.weight is moved.words.weight
    assert torch.allclose(model(tokens), moved(tokens), atol=1e-5)


def test_a_permuted_network_can_be_permuted_saved_and_loaded(
    digits: mc.Data, tmp_path: pytest.TempPathFactory
) -> None:
    model = mc.build_model("mlp", digits, width=(5, 4))
    moved = mc.permute(model, mc.trace_symmetry(model).random(0))
    file = mc.save_model(moved, tmp_path / "moved.safetensors")
    loaded = mc.load_model(file)
    assert mc.trace_symmetry(loaded).spaces == {"linear1": 5, "linear2": 4}
    assert torch.equal(loaded.linear1.weight, moved.linear1.weight)


def test_the_straight_line_to_a_permuted_self_is_a_path(digits: mc.Data) -> None:
    model = mc.build_model("resnet20", digits, width=4)
    moved = mc.permute(model, mc.trace_symmetry(model).random(0))
    path = mc.LinearPath(model, moved)
    assert torch.equal(path.at(1.0)["conv.weight"], moved.conv.weight)
