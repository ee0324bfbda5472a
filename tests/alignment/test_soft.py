"""Matrices in the place of permutations: they do what those do, and mean values of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from alignment.networks import NESTED, PLAIN, network, spec_of
from torch import nn

import mcbook as mc
from mcbook import weights
from mcbook.alignment.soft import SoftAction

CPU = torch.device("cpu")


def moving(model: nn.Module, spec: mc.PermutationSpec) -> dict[str, torch.Tensor]:
    """The tensors of floating point, each once."""
    own = weights.of(model)
    return {n: x for n, x in own.items() if x.is_floating_point() and n not in spec.aliases}


def drawn(soft: SoftAction, seed: int) -> mc.Permutation:
    generator = np.random.default_rng(seed)
    return soft.permutation(
        {n: [generator.permutation(n) for _ in range(m)] for n, m in soft.counts.items()}
    )


@pytest.mark.parametrize("name", PLAIN + NESTED)
def test_the_matrix_of_a_permutation_is_that_permutation(name: str) -> None:
    spec, model = spec_of(name), network(name, 1)
    tensors = moving(model, spec)
    soft = SoftAction(spec, list(tensors), CPU)
    for seed in range(3):
        p = drawn(soft, seed)
        moved = weights.of(mc.permute(model, p, spec))
        acted = soft.act(tensors, soft.matrices_of(p, torch.float64))
        assert list(acted) == list(tensors)
        assert all(torch.equal(x, moved[n]) for n, x in acted.items())
        assert any(not torch.equal(x, tensors[n]) for n, x in acted.items())
    stays = soft.act(tensors, soft.identity(torch.float64, CPU))
    assert all(torch.equal(x, tensors[n]) and x is not tensors[n] for n, x in stays.items())


@pytest.mark.parametrize("name", PLAIN + NESTED)
def test_units_move_in_their_blocks_and_the_blocks_of_spaces_stay(name: str) -> None:
    spec = spec_of(name)
    soft = SoftAction(spec, list(spec.slots), CPU)
    assert sorted(soft.spaces + soft.fixed) == sorted(spec.spaces)
    assert bool(soft.fixed) == any(
        spec.classes[k].is_space
        for n in spec.nested
        for k, _ in spec.classes[spec.space(n)].parents
    )
    for seed in range(5):
        p = drawn(soft, seed)
        spec.element(p)  # of the group
        assert not any((p[n] != torch.arange(len(p[n]))).any() for n in soft.fixed)
    # every exchange of two units inside their blocks is among what can be drawn
    exchanges = sum(m * n * (n - 1) // 2 for n, m in soft.counts.items())
    found = 0
    for space in soft.spaces:
        c = spec.classes[spec.space(space)]
        blocks = list(zip(*(block for _, block in c.parents), strict=True)) or [()] * c.size
        found += sum(x == y for x, y in itertools.combinations(map(tuple, blocks), 2))
    assert exchanges == found


@pytest.mark.parametrize("name", ["lenet5", "dense", "unet", "mixer", "group_norm", "maxout",
                                  "depthwise_multiplied", "grid"])  # fmt: skip
def test_means_of_permutations_act_as_the_mean_over_all_of_them(name: str) -> None:
    """The action is linear in the matrix of each space that a tensor has on one axis."""
    spec, model = spec_of(name), network(name, 2)
    tensors = moving(model, spec)
    soft = SoftAction(spec, list(tensors), CPU)
    p, q = drawn(soft, 0), drawn(soft, 1)
    c = 0.3
    both = [soft.matrices_of(x, torch.float64) for x in (p, q)]
    acted = soft.act(tensors, {n: c * x + (1 - c) * both[1][n] for n, x in both[0].items()})
    expected = {n: torch.zeros_like(x) for n, x in tensors.items()}
    for choice in itertools.product([0, 1], repeat=len(soft.spaces)):
        mix = spec.complete({s: (p, q)[i][s] for s, i in zip(soft.spaces, choice, strict=True)})
        share = float(np.prod([(c, 1 - c)[i] for i in choice]))
        for n, x in spec.apply(weights.of(model), mix).items():
            if n in expected:
                expected[n] += share * x
    for n, x in acted.items():
        assert torch.allclose(x, expected[n], rtol=0, atol=1e-12), n


def test_the_formula_of_a_perceptron_and_of_a_flattened_map(digits: mc.Data) -> None:
    generator = torch.Generator().manual_seed(0)
    model = mc.build_model("mlp", digits, width=(5, 4), seed=0)
    spec = mc.trace_symmetry(model)
    tensors = moving(model, spec)
    soft = SoftAction(spec, list(tensors), CPU)
    p = {n: torch.rand(m, n, n, generator=generator) for n, m in soft.counts.items()}
    one, two = p[5][0], p[4][0]
    acted = soft.act(tensors, p)
    w = weights.of(model)
    expected = {
        "linear1.weight": one @ w["linear1.weight"],
        "linear1.bias": one @ w["linear1.bias"],
        "linear2.weight": two @ w["linear2.weight"] @ one.T,
        "linear2.bias": two @ w["linear2.bias"],
        "output.weight": w["output.weight"] @ two.T,
        "output.bias": w["output.bias"],
    }
    for n, x in expected.items():
        assert torch.allclose(acted[n], x, atol=1e-6), n
    assert {n: x.shape for n, x in soft.of_spaces(p).items()} == {
        n: (k, k) for n, k in spec.spaces.items()
    }

    flat = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4))
    spec = mc.trace_symmetry(flat, digits.train.x[:1])
    tensors = moving(flat, spec)
    soft = SoftAction(spec, list(tensors), CPU)
    m = torch.rand(1, 3, 3, generator=generator)
    acted = soft.act(tensors, {3: m})
    w = tensors["3.weight"].view(4, 3, 36)
    assert torch.allclose(
        acted["3.weight"].view(4, 3, 36), torch.einsum("ij,ojs->ois", m[0], w), atol=1e-6
    )
    w = tensors["0.weight"]
    assert torch.allclose(acted["0.weight"], torch.einsum("ij,jchw->ichw", m[0], w), atol=1e-6)


@pytest.mark.parametrize("name", ["lenet5", "gpt", "grid", "lstm"])
def test_gradients_reach_every_matrix(name: str) -> None:
    spec, model = spec_of(name), network(name, 1)
    tensors = moving(model, spec)
    soft = SoftAction(spec, list(tensors), CPU)
    p = {n: x.requires_grad_() for n, x in soft.identity(torch.float64, CPU).items()}
    sum(x.square().sum() for x in soft.act(tensors, p).values()).backward()
    for x in p.values():
        assert (x.grad.abs().amax((1, 2)) > 0).all()
