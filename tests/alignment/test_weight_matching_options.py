"""Weight matching: what it depends on and what not, its options, ties, and effort."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from alignment.networks import change, inner, network, pair, planted, spec_of
from scipy.optimize import linear_sum_assignment
from torch import nn

import mcbook as mc
from mcbook import weights

# what it depends on -------------------------------------------------------------------------


def test_statistics_move_and_do_not_count() -> None:
    a, b, spec = pair("mobile")
    al = mc.weight_matching(a, b, spec)
    other = copy.deepcopy(b)
    generator = torch.Generator().manual_seed(0)
    for name, x in other.named_buffers():
        if "running" in name:
            x.copy_(100 * torch.rand(x.shape, generator=generator) + 1)
    again = mc.weight_matching(a, other, spec)
    assert again.permutation == al.permutation
    assert again.objective == al.objective
    moved = 0
    for space in spec.spaces:
        for name in spec.tensors_of(space):
            if "running" in name:
                p, now = al.permutation[space], weights.of(again.model)[name]
                assert torch.equal(now, weights.of(other)[name][p])
                moved += not torch.equal(now, weights.of(other)[name])
    assert moved == sum("running" in name for name, _ in b.named_buffers())


def test_counters_stay() -> None:
    a, b, spec = pair("mobile")
    for i, (_, x) in enumerate(n for n in b.named_buffers() if "num_batches" in n[0]):
        x.fill_(1000 + i)
    al = mc.weight_matching(a, b, spec)
    found = [x for n, x in al.model.named_buffers() if "num_batches" in n]
    assert [int(x) for x in found] == [1000 + i for i in range(len(found))]
    assert len(found) == 10
    assert all(x.dtype == torch.int64 for x in found)


@pytest.mark.usefixtures("same_random_state")
def test_no_global_random_state_is_used_or_changed() -> None:
    a, b, spec = pair("residual")
    first = mc.weight_matching(a, b, spec, restarts=3)
    torch.manual_seed(12345)  # where the fixture began
    second = mc.weight_matching(a, b, spec, restarts=3)
    assert first.permutation == second.permutation
    assert first.objective == second.objective


def test_the_seed_decides() -> None:
    a, b, spec = pair("residual")
    options = {"start": "identity", "restarts": 2}
    first = [mc.weight_matching(a, b, spec, seed=s, **options) for s in range(5)]
    mc.weight_matching(b, a, spec, seed=9)
    second = [mc.weight_matching(a, b, spec, seed=s, **options) for s in reversed(range(5))]
    for x, y in zip(first, reversed(second), strict=True):
        assert x.permutation == y.permutation
        assert x.objective == y.objective
        assert x.facts == y.facts
    assert len({tuple(x.objective) for x in first}) > 1


SCRIPT = """
import json, torch
from alignment.networks import pair
import mcbook as mc
torch.set_num_threads({threads})
found = []
for name in ("residual", "attention_with_weights"):
    a, b, spec = pair(name, 3)
    al = mc.weight_matching(a.float(), b.float(), spec, restarts=2, seed=4)
    found.append([al.objective, [v.tolist() for v in al.permutation.values()]])
assert torch.get_num_threads() == {threads}
print(json.dumps(found))
"""


def test_neither_threads_nor_hash_seeds_matter() -> None:
    here = []
    for name in ("residual", "attention_with_weights"):
        a, b, spec = pair(name, 3)
        al = mc.weight_matching(a.float(), b.float(), spec, restarts=2, seed=4)
        here.append([al.objective, [v.tolist() for v in al.permutation.values()]])
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
    }
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(threads=2)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == here


def test_orders() -> None:
    a, b, spec = pair("residual")
    found = {}
    for order in ("random", "forward", "backward"):
        options = {"order": order, "start": "identity"}
        one, two = (mc.weight_matching(a, b, spec, seed=s, **options) for s in (0, 1))
        # only the random one depends on the seed
        assert (one.objective == two.objective) == (order != "random")
        found[order] = tuple(one.objective)
        assert change("residual", b, one.model) < 1e-10
    assert len(set(found.values())) == 3


def test_forward_begins_at_the_input_and_backward_at_the_output() -> None:
    """One hidden layer settles nothing for the other: where the first step is, one can see."""
    data = mc.load_data("digits", device="cpu")
    a, b = (mc.build_model("mlp", data, width=(9, 8, 7), seed=s).double() for s in range(2))
    spec = mc.trace_symmetry(a, verify=False)
    names = [n for n, _ in a.named_parameters()]
    for order, layer in (("forward", "linear1"), ("backward", "linear3")):
        al = mc.weight_matching(a, b, spec, order=order, start="identity")
        one, two = ({n: x.numpy() for n, x in weights.of(m).items()} for m in (a, b))
        after = {"linear1": "linear2", "linear3": "output"}[layer]
        gain = one[f"{layer}.weight"] @ two[f"{layer}.weight"].T
        gain += one[f"{after}.weight"].T @ two[f"{after}.weight"]
        gain += np.outer(one[f"{layer}.bias"], two[f"{layer}.bias"])
        p = linear_sum_assignment(gain, maximize=True)[1]
        first = mc.permute(b, spec.complete({layer: p}), spec)
        step = weights.dot(weights.of(a), weights.of(first), names)
        assert al.objective[0] == pytest.approx(weights.dot(*map(weights.of, (a, b)), names))
        assert al.objective[1] == pytest.approx(step, rel=1e-10)


def test_starts() -> None:
    a, b, spec = pair("residual")
    p = spec.random(7)
    from_p = mc.weight_matching(a, b, spec, start=p)
    assert from_p.objective[0] == pytest.approx(inner(a, mc.permute(b, p, spec)), rel=1e-10)
    from_identity = mc.weight_matching(a, b, spec, start="identity")
    assert from_identity.objective[0] == pytest.approx(inner(a, b), rel=1e-10)
    same = mc.weight_matching(a, b, spec, start=spec.identity())
    assert same.permutation == from_identity.permutation
    there = mc.weight_matching(a, b, spec, start=from_p)
    assert there.permutation == from_p.permutation
    # to start at p is to match what p makes of B
    after = mc.weight_matching(a, mc.permute(b, p, spec), spec, start="identity")
    assert after.permutation @ p == from_p.permutation


def test_the_frontier_never_starts_below_the_identity() -> None:
    for seed in range(6):
        a, b, spec = pair("residual", seed)
        # B is A but for a little: nowhere is better than the identity
        near = copy.deepcopy(a)
        with torch.no_grad():
            for x, y in zip(near.parameters(), b.parameters(), strict=True):
                x.add_(0.01 * y)
        al = mc.weight_matching(a, near, spec)
        assert al.objective[0] >= al.facts["before"]
        assert al.permutation.is_identity()


def test_restarts_are_never_worse() -> None:
    gained = 0
    for seed in range(4):
        a, b, spec = pair("residual", seed)
        for start in ("frontier", "identity"):
            few = mc.weight_matching(a, b, spec, seed=seed, start=start)
            many = mc.weight_matching(a, b, spec, seed=seed, start=start, restarts=6)
            assert len(many.facts["runs"]) == 6
            assert many.facts["runs"][0] == few.objective[-1]
            assert max(many.facts["runs"]) == many.objective[-1] >= few.objective[-1]
            assert many.objective == sorted(set(many.objective))
            assert many.objective[-1] == pytest.approx(inner(a, many.model), rel=1e-10)
            gained += many.objective[-1] > few.objective[-1]
    assert gained >= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    spec, a = spec_of("lenet5"), network("lenet5", 0)
    b, p = planted(a, spec, 1, 0.1)
    al = mc.weight_matching(a.to(dtype), b.to(dtype), spec)
    assert al.permutation == p
    assert {x.dtype for x in al.model.parameters()} == {dtype}
    mixed = mc.weight_matching(network("lenet5", 0), b, spec)  # A double, B what it was made
    assert mixed.permutation == p
    assert {x.dtype for x in mixed.model.parameters()} == {dtype}


def test_large_and_small_weights() -> None:
    spec, a = spec_of("lenet5"), network("lenet5", 0)
    b, p = planted(a, spec, 1, 0.3)
    for scale in (1e-12, 1e12):
        with torch.no_grad():
            scaled = [copy.deepcopy(m) for m in (a, b)]
            for x in (x for m in scaled for x in m.parameters()):
                x.mul_(scale)
        assert mc.weight_matching(*scaled, spec).permutation == p


def test_memory_layouts_do_not_matter() -> None:
    a, b, spec = pair("resnet20_padA")
    al = mc.weight_matching(a, b, spec)
    other = [copy.deepcopy(m).to(memory_format=torch.channels_last) for m in (a, b)]
    again = mc.weight_matching(*other, spec)
    assert again.permutation == al.permutation
    assert change("resnet20_padA", b, again.model) < 1e-10


def test_nothing_given_changes(untouched: Callable) -> None:
    a, b, spec = pair("mobile")
    a.train()
    b.train()
    b.get_submodule("0").eval()
    next(b.parameters()).requires_grad_(False)
    same = [untouched(m) for m in (a, b)]
    al = mc.weight_matching(a, b, spec, restarts=2)
    for check in same:
        check()
    assert not any(m.training for m in al.model.modules())
    assert [x.requires_grad for x in al.model.parameters()] == [
        x.requires_grad for x in b.parameters()
    ]
    shared = {x.data_ptr() for x in b.parameters()} & {x.data_ptr() for x in al.model.parameters()}
    assert not shared


def test_gradients_may_be_off() -> None:
    a, b, spec = pair("residual")
    expected = mc.weight_matching(a, b, spec).permutation
    with torch.no_grad():
        assert mc.weight_matching(a, b, spec).permutation == expected
    with torch.inference_mode():
        assert mc.weight_matching(a, b, spec).permutation == expected


def test_tied_weights_count_once_and_stay_tied() -> None:
    a, b, spec = pair("tied_words")
    al = mc.weight_matching(a, b, spec)
    assert al.model.out.weight is al.model.words.weight
    assert al.objective[-1] == pytest.approx(inner(a, al.model), rel=1e-12)


def test_a_may_have_let_go_of_a_tie() -> None:
    a, b, _ = pair("tied_words")
    loose = copy.deepcopy(a)
    loose.out.weight = nn.Parameter(loose.out.weight.detach().clone())
    own = mc.trace_symmetry(loose, torch.arange(5)[None], verify=False)
    al = mc.weight_matching(loose, b, own)
    assert change("tied_words", b, al.model) < 1e-10


def test_b_may_have_let_go_of_a_tie() -> None:
    a, b, spec = pair("tied_words")
    loose = copy.deepcopy(b)
    loose.out.weight = nn.Parameter(loose.out.weight.detach().clone())
    al = mc.weight_matching(a, loose, spec)
    assert al.permutation == mc.weight_matching(a, b, spec).permutation
    assert change("tied_words", loose, al.model) < 1e-10


def test_frozen_spaces_stay() -> None:
    a, b, spec = pair("residual")
    held = spec.without("stem")
    al = mc.weight_matching(a, b, held, restarts=2)
    assert "stem" not in al.permutation
    assert torch.equal(al.model.stem.weight, b.stem.weight)
    # the hidden layers do not meet: one assignment each
    for i in range(2):
        gain = sum(
            x.detach() @ y.detach().T
            for x, y in (
                (a.up[i].weight, b.up[i].weight),
                (a.down[i].weight.T, b.down[i].weight.T),
            )
        )
        expected = linear_sum_assignment(gain.numpy(), maximize=True)[1]
        assert np.array_equal(al.permutation[f"up.{i}"].numpy(), expected)
    heads = spec_of("attention_with_weights")
    loose = heads.without("attention.in_proj_weight[0:16] blocks")
    a, b = (network("attention_with_weights", s) for s in range(2))
    al = mc.weight_matching(a, b, loose)
    assert al.permutation.moved > 0
    assert change("attention_with_weights", b, al.model) < 1e-10


# ties ---------------------------------------------------------------------------------------


def test_dead_units_stay_where_all_else_is_in_order() -> None:
    spec, a = spec_of("lenet5"), network("lenet5", 0)
    dead = [3, 17, 40]
    with torch.no_grad():
        a.linear1.weight[dead] = 0
        a.linear1.bias[dead] = 0
        a.linear2.weight[:, dead] = 0
    for start in ("frontier", "identity"):
        assert mc.weight_matching(a, copy.deepcopy(a), spec, start=start).permutation.is_identity()


def test_twins_stay_where_all_else_is_in_order() -> None:
    spec, a = spec_of("lenet5"), network("lenet5", 0)
    with torch.no_grad():
        a.linear1.weight[5] = a.linear1.weight[9]
        a.linear1.bias[5] = a.linear1.bias[9]
        a.linear2.weight[:, 5] = a.linear2.weight[:, 9]
    for start in ("frontier", "identity"):
        assert mc.weight_matching(a, copy.deepcopy(a), spec, start=start).permutation.is_identity()


def test_dead_units_stay_while_others_move() -> None:
    data = mc.load_data("digits", device="cpu")
    dead = [2, 3, 7, 10]
    for seed in range(0, 12, 2):
        a, b = (mc.build_model("mlp", data, width=12, seed=seed + i).double() for i in range(2))
        with torch.no_grad():
            for model in (a, b):
                model.linear1.weight[dead] = 0
                model.linear1.bias[dead] = 0
                model.output.weight[:, dead] = 0
                for x in model.parameters():
                    x.abs_()  # so that a dead unit is the last one wants
        al = mc.weight_matching(a, b)
        assert al.permutation.moved >= 4
        assert al.permutation["linear1"][dead].tolist() == dead


def test_zero_networks_stay() -> None:
    spec, a = spec_of("lenet5"), network("lenet5", 0)
    b = network("lenet5", 1)
    with torch.no_grad():
        for x in b.parameters():
            x.zero_()
    al = mc.weight_matching(a, b, spec, restarts=3)
    assert al.permutation.is_identity()
    assert al.objective == [0.0]


# effort -------------------------------------------------------------------------------------


def test_wide_layers_take_few_visits() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a = nn.Sequential(nn.Linear(8, 700), nn.ReLU(), nn.Linear(700, 700), nn.ReLU(),
                          nn.Linear(700, 3))  # fmt: skip
    spec = mc.trace_symmetry(a, torch.zeros(1, 8), verify=False)
    b, p = planted(a, spec, 0, 0.2)
    al = mc.weight_matching(a, b, spec)
    assert al.permutation == p
    # both settled, both looked at once more
    assert al.facts["visits"] <= 6


def test_spaces_whose_neighbours_did_not_move_are_not_visited_again() -> None:
    data = mc.load_data("digits", device="cpu")
    a = mc.build_model("mlp", data, width=(9, 8, 7, 6), seed=0)
    spec = mc.trace_symmetry(a, verify=False)
    # nothing moves: every space once
    assert mc.weight_matching(a, a, spec, start="identity").facts["visits"] == 4
    # the first moves and nothing else: the second is looked at again if it was looked at before
    b, p = planted(a, spec.without("linear2", "linear3", "linear4"), 0)
    for order, visits in (("forward", 4), ("backward", 5)):
        al = mc.weight_matching(a, b, spec, start="identity", order=order)
        assert al.permutation["linear1"].equal(p["linear1"])
        assert al.permutation["linear2"].equal(torch.arange(8))
        assert al.facts["visits"] == visits
