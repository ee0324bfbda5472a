"""Several networks at once: no anchor, and no worse than with one."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from alignment.networks import change, inner, network, pair, planted, spec_of, trained
from torch import nn

import mcbook as mc
from mcbook import weights


def three(name: str, count: int = 3) -> tuple[list[nn.Module], mc.PermutationSpec]:
    return [network(name, 10 + s) for s in range(count)], spec_of(name)


def over_pairs(models: list[nn.Module]) -> float:
    return math.fsum(inner(a, b) for a, b in itertools.combinations(models, 2))


@pytest.mark.parametrize(
    "name", ["lenet5", "residual", "mobile", "attention_with_weights", "grouped_shuffled", "lstm"]
)
def test_laws(name: str) -> None:
    models, spec = three(name)
    found = mc.match_many(models, spec)
    assert len(found) == 3
    for model, al in zip(models, found, strict=True):
        assert al.objective == found[0].objective
        assert al.method == "matching many"
        assert change(name, model, al.model) < 1e-10
        moved = weights.of(mc.permute(model, al.permutation, spec))
        assert all(torch.equal(x, moved[n]) for n, x in weights.of(al.model).items())
    objective = found[0].objective
    assert objective == sorted(objective)
    assert objective[-1] == pytest.approx(over_pairs([al.model for al in found]), rel=1e-10)
    assert objective[-1] > over_pairs(models)
    # the first stays as it is
    assert found[0].permutation.is_identity()
    assert all(torch.equal(x, weights.of(models[0])[n])
               for n, x in weights.of(found[0].model).items())  # fmt: skip


@pytest.mark.parametrize("name", ["lenet5", "residual", "mobile"])
def test_none_can_be_matched_better_with_the_mean_of_the_others(name: str) -> None:
    models, spec = three(name, 4)
    found = mc.match_many(models, spec)
    for i, al in enumerate(found):
        others = [x.model for x in found[:i] + found[i + 1 :]]
        mean = copy.deepcopy(others[0])
        with torch.no_grad():
            for x, *rest in zip(*(m.parameters() for m in [mean, *others]), strict=True):
                x.copy_(torch.stack(rest).mean(0))
        again = mc.weight_matching(mean, al.model, spec, start="identity")
        assert again.permutation.is_identity()


def test_no_worse_than_any_of_them_as_the_anchor() -> None:
    """As much of the sum over pairs as with everything matched to one network."""
    for name in ("lenet5", "residual"):
        models, spec = three(name)
        found = mc.match_many(models, spec)
        for anchor in models:
            moved = [m if m is anchor else mc.weight_matching(anchor, m, spec).model
                     for m in models]  # fmt: skip
            assert found[0].objective[-1] >= over_pairs(moved)


def test_trained_networks_come_near_each_other(digits: mc.Data) -> None:
    models = [trained(s) for s in range(3)]
    found = mc.match_many(models)
    anchored = [models[0], *(mc.weight_matching(models[0], m).model for m in models[1:])]
    assert found[0].objective[-1] >= over_pairs(anchored)
    middle = copy.deepcopy(models[0])
    losses = []
    for several in (models, anchored, [al.model for al in found]):
        with torch.no_grad():
            for x, *rest in zip(*(m.parameters() for m in [middle, *several]), strict=True):
                x.copy_(torch.stack(rest).mean(0))
        losses.append(mc.evaluate(middle, digits.test)[0])
    ends = float(np.mean([mc.evaluate(m, digits.test)[0] for m in models]))
    assert losses[0] > ends + 0.2
    assert losses[2] < ends + 0.1
    assert losses[2] < losses[1]


@pytest.mark.parametrize("name", ["lenet5", "residual"])
def test_copies_of_one_network_are_put_in_one_order(name: str) -> None:
    spec, a = spec_of(name), network(name, 0)
    copies = [a, *(planted(a, spec, seed, 0.2)[0] for seed in (1, 2, 3))]
    back = [planted(a, spec, seed, 0.2)[1] for seed in (1, 2, 3)]
    found = mc.match_many(copies, spec)
    assert [al.permutation for al in found[1:]] == back
    turned = mc.match_many([copies[2], copies[0], copies[3], copies[1]], spec)
    first = back[1].inverse()  # all in the order of the one that comes first
    assert turned[1].permutation == first
    assert turned[2].permutation == first @ back[2]
    assert turned[3].permutation == first @ back[0]


@pytest.mark.parametrize("name", ["lenet5", "mobile"])
def test_two_are_matched_as_by_weight_matching(name: str) -> None:
    a, b, spec = pair(name)
    al = mc.weight_matching(a, b, spec)
    one, two = mc.match_many([a, b], spec)
    assert two.objective[-1] == pytest.approx(inner(one.model, two.model), rel=1e-10)
    assert two.objective[-1] == pytest.approx(al.objective[-1], rel=0.03)
    # from there weight matching goes nowhere
    assert mc.weight_matching(a, b, spec, start=two).permutation == two.permutation


def test_the_seed_decides_and_the_order_of_calls_does_not() -> None:
    models, spec = three("residual")
    first = [mc.match_many(models, spec, seed=s) for s in range(3)]
    second = [mc.match_many(models, spec, seed=s) for s in reversed(range(3))]
    for x, y in zip(first, reversed(second), strict=True):
        assert [al.permutation for al in x] == [al.permutation for al in y]
        assert x[0].objective == y[0].objective


@pytest.mark.usefixtures("same_random_state")
def test_nothing_given_changes(untouched: Callable) -> None:
    models, spec = three("mobile")
    models[1].train()
    same = [untouched(m) for m in models]
    found = mc.match_many(models, spec)
    for check in same:
        check()
    assert not any(m.training for al in found for m in al.model.modules())
    held = {x.data_ptr() for m in models for x in m.parameters()}
    assert not held & {x.data_ptr() for al in found for x in al.model.parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_objective_rises_in_other_precisions_too(dtype: torch.dtype) -> None:
    models, spec = three("residual", 4)
    models = [m.to(dtype) for m in models]
    for seed in range(4):
        found = mc.match_many(models, spec, seed=seed)
        assert found[0].objective == sorted(found[0].objective)
        assert found[0].objective[-1] == pytest.approx(
            over_pairs([al.model for al in found]), rel=1e-6
        )


def test_statistics_do_not_count() -> None:
    models, spec = three("mobile")
    expected = [al.permutation for al in mc.match_many(models, spec)]
    for name, x in models[1].named_buffers():
        if "running" in name:
            x.copy_(1 + 50 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0)))
    assert [al.permutation for al in mc.match_many(models, spec)] == expected


def test_several_in_any_collection() -> None:
    models, spec = three("residual")
    expected = [al.permutation for al in mc.match_many(models, spec)]
    assert [al.permutation for al in mc.match_many(tuple(models), spec)] == expected
    assert [al.permutation for al in mc.match_many((m for m in models), spec)] == expected


def test_all_alike_stay() -> None:
    spec, a = spec_of("lenet5"), network("lenet5", 0)
    found = mc.match_many([copy.deepcopy(a) for _ in range(4)], spec)
    assert all(al.permutation.is_identity() for al in found)
    assert found[0].objective == pytest.approx([6 * inner(a, a)])
