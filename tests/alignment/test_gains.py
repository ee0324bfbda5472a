"""What a move gains, against permuted networks; what is kept, against what is made anew."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from alignment.networks import (
    NESTED,
    PLAIN,
    TWICE,
    has_choice,
    inner,
    network,
    pair,
    parameters,
    spec_of,
    tied_words,
)
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import mcbook as mc
from mcbook import weights
from mcbook.alignment.gains import Pair, compared
from mcbook.alignment.weight_matching import permutation_of


def make(name: str, seed: int = 0) -> tuple[nn.Module, nn.Module, mc.PermutationSpec, Pair]:
    a, b, spec = pair(name, seed)
    return a, b, spec, Pair(spec, compared(a, spec), compared(b, spec))


def alone(spec: mc.PermutationSpec, k: int, seed: int) -> np.ndarray:
    """A random move of the units of one space, for every unit the one that takes its place."""
    return spec.element(spec.random(seed, [spec.classes[k].name]))


def own(spec: mc.PermutationSpec, k: int, element: np.ndarray) -> np.ndarray:
    """The part of one class."""
    start, end = spec.starts[k : k + 2]
    return element[start:end] - start


def spaces(spec: mc.PermutationSpec) -> list[int]:
    return [k for k, c in enumerate(spec.classes) if c.is_space and has_choice(spec, k)]


# what counts --------------------------------------------------------------------------------


def test_parameters_count_each_once_and_statistics_do_not() -> None:
    model, spec = network("mobile", 0), spec_of("mobile")
    assert list(compared(model, spec)) == [name for name, _ in model.named_parameters()]
    assert any("running_var" in name for name in weights.of(model))
    model, spec = tied_words(), spec_of("tied_words")
    assert model.out.weight is model.words.weight
    assert spec.aliases == {"out.weight": "words.weight"}
    assert list(compared(model, spec)) == [name for name, _ in model.named_parameters()]


class Counting(nn.Module):
    """A parameter of whole numbers, and one of no units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.count = nn.Parameter(torch.arange(8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.out(torch.relu(self.first(x)))


def test_whole_numbers_do_not_count_and_weights_without_units_do() -> None:
    model = Counting()
    spec = mc.trace_symmetry(model, torch.zeros(1, 6), verify=False)
    assert "count" not in compared(model, spec)
    assert "scale" in compared(model, spec)
    twins = Pair(spec, compared(model, spec), compared(copy.deepcopy(model), spec))
    floats = [x for x in model.parameters() if x.is_floating_point()]
    expected = sum(float(x.detach().double().square().sum()) for x in floats)
    assert twins.objective == pytest.approx(expected, rel=1e-12)


# gains --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [x for x in [*PLAIN, *NESTED] if x not in TWICE])
def test_gains_are_what_the_objective_gains(name: str) -> None:
    a, b, spec, both = make(name)
    here = spec.random(0)
    both.put(spec.element(here))
    now = inner(a, mc.permute(b, here, spec))
    assert both.objective == pytest.approx(now, rel=1e-12)
    for k in spaces(spec)[:6]:
        gain = both.gain(k)
        assert gain is not None
        for seed in range(2):
            q = alone(spec, k, seed)
            p = permutation_of(spec, both.element[q])
            true = inner(a, mc.permute(b, p, spec)) - now
            found = gain[np.arange(len(gain)), own(spec, k, q)].sum() - np.trace(gain)
            assert found == pytest.approx(true, abs=1e-9)


def test_the_gains_of_a_perceptron_are_the_formula(digits: mc.Data) -> None:
    a, b = (mc.build_model("mlp", digits, width=(7, 6, 5), seed=s).double() for s in range(2))
    spec = mc.trace_symmetry(a)
    both = Pair(spec, compared(a, spec), compared(b, spec))
    p = spec.random(1)
    both.put(spec.element(p))
    of_a, of_b = ({n: x.numpy() for n, x in weights.of(m).items()} for m in (a, b))
    layers = ["linear1", "linear2", "linear3", "output"]
    turn = {layer: np.eye(len(of_a[f"{layer}.bias"])) for layer in layers}
    for layer in layers[:-1]:
        turn[layer] = turn[layer][p[layer].numpy()]  # P[i, p(i)] = 1
    turn["images"] = np.eye(of_a["linear1.weight"].shape[1])
    for before, layer, after in zip(["images", *layers], layers[:-1], layers[1:], strict=False):
        w, v = f"{layer}.weight", f"{after}.weight"
        expected = (
            of_a[w] @ turn[before] @ of_b[w].T
            + of_a[v].T @ turn[after] @ of_b[v]
            + np.outer(of_a[f"{layer}.bias"], of_b[f"{layer}.bias"])
        )
        gain = both.gain(spec.space(layer))
        assert gain is not None
        np.testing.assert_allclose(gain, expected @ turn[layer].T, atol=1e-12)
        found = gain.trace()
        moved = parameters(mc.permute(b, p, spec))
        touched = [w, v, f"{layer}.bias"]
        true = sum(float((parameters(a)[n] * moved[n]).sum()) for n in touched)
        assert found == pytest.approx(true, rel=1e-12)


@pytest.mark.parametrize("name", TWICE)
def test_where_a_space_stands_twice_on_a_tensor_gains_are_those_of_one_axis_at_a_time(
    name: str,
) -> None:
    """The derivative of a quadratic form: `⟨A, P B Qᵀ⟩` with one of the two held."""
    a, b, spec, both = make(name)
    for k in spaces(spec):
        if k not in both.depends_on([k]):
            continue
        gain = both.gain(k)
        assert gain is not None
        q = own(spec, k, alone(spec, k, 0))
        expected = 0.0
        for key, x in parameters(a).items():
            y = parameters(b)[key]
            for part in spec.slots[key]:
                flat = part.units.reshape(-1)
                element = np.arange(int(spec.starts[-1]))
                element[spec.starts[k] : spec.starts[k + 1]] = q + spec.starts[k]
                at = np.isin(flat, np.arange(spec.starts[k], spec.starts[k + 1]))
                if not at.any():
                    continue
                assert len(part.axes) == 1
                moved = y.index_select(part.axes[0], torch.from_numpy(part.source(element)))
                moved, x_ = (t.movedim(part.axes[0], 0)[at] for t in (moved, x))
                expected += float((x_ * moved).sum())
        assert gain[np.arange(len(q)), q].sum() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["gpt", "grouped_shuffled", "resnet20_padA", "lstm", "grid"])
def test_what_depends_on_what_goes_both_ways(name: str) -> None:
    spec, both = spec_of(name), make(name)[3]
    for k, j in itertools.product(range(len(spec.classes)), repeat=2):
        # blocks and what lies in them are not told apart: they move together
        if not spec.classes[k].parents and not spec.classes[j].parents:
            assert (j in both.depends_on([k])) == (k in both.depends_on([j])), (j, k)


# what is kept -------------------------------------------------------------------------------


def same_as_anew(both: Pair, a: nn.Module, b: nn.Module) -> None:
    """Gains, weights and objective of a pair are those of one that was made for where it is."""
    spec = both.spec
    anew = Pair(spec, compared(a, spec), compared(b, spec))
    anew.put(both.element)
    assert both.objective == pytest.approx(anew.objective, rel=1e-12, abs=1e-10)
    moved = mc.permute(b, permutation_of(spec, both.element), spec)
    for name, x in both.permuted.items():
        assert torch.equal(x, weights.of(moved)[name])
    for k in spaces(spec):
        np.testing.assert_allclose(both.gain(k), anew.gain(k), atol=1e-9)


BLOCKS = ["attention_with_weights", "encoder", "gpt", "group_norm", "grouped_shuffled",
          "grouped_twice", "depthwise_multiplied", "standardized_grouped",
          "groups_of_groups"]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *["lenet5", "padded_shortcut", "lstm", "twice_the_same", "grid", "maxout"],
        *BLOCKS,
    ],
)
@settings(max_examples=4, phases=[Phase.generate])
@given(st.lists(st.tuples(st.integers(0, 2**16), st.booleans()), min_size=1, max_size=6))
def test_what_is_kept_stays_right_after_any_moves(name: str, moves: list[tuple[int, bool]]) -> None:
    a, b, spec, both = make(name)
    for k in spaces(spec):
        both.gain(k)
    for seed, look in moves:
        k = spaces(spec)[seed % len(spaces(spec))]
        family = [k]  # it, what it lies in, and what lies in these
        for _ in spec.classes:
            for j, c in enumerate(spec.classes):
                above = [p for p, _ in c.parents]
                if j in family or any(p in family for p in above):
                    family = sorted({*family, j, *above})
        both.try_move(family, alone(spec, k, seed), -math.inf)
        if look:
            for j in spaces(spec):
                both.gain(j)
    same_as_anew(both, a, b)


@pytest.mark.parametrize("name", ["lenet5", "encoder", "lstm"])
def test_other_weights_in_the_place_of_a(name: str) -> None:
    _, b, spec, both = make(name)
    both.put(spec.element(spec.random(4)))
    for k in spaces(spec):
        both.gain(k)
        both.evidence(k, range(len(spec.classes)))
    other = network(name, 77)
    element = both.element.copy()
    both.compare_with(compared(other, spec))
    assert np.array_equal(both.element, element)
    same_as_anew(both, other, b)
    anew = Pair(spec, compared(other, spec), compared(b, spec))
    for k in spaces(spec):
        every = range(len(spec.classes))
        assert both.evidence(k, every) == pytest.approx(anew.evidence(k, every), rel=1e-9)


def test_moves_are_made_if_they_gain_enough() -> None:
    a, b, spec, both = make("lenet5")
    k = spaces(spec)[0]
    before, place = both.objective, both.element.copy()
    true = {}
    for seed in range(20):
        q = alone(spec, k, seed)
        true[seed] = inner(a, mc.permute(b, permutation_of(spec, q), spec)) - before
    up, down = max(true, key=true.__getitem__), min(true, key=true.__getitem__)
    assert true[up] > 0 > true[down]
    assert not both.try_move([k], alone(spec, k, down), 0.0)
    assert not both.try_move([k], alone(spec, k, up), true[up] + 1e-6)
    assert both.objective == before
    assert np.array_equal(both.element, place)
    assert both.try_move([k], alone(spec, k, up), true[up] - 1e-6)
    assert both.objective == pytest.approx(before + true[up], rel=1e-12)
    assert both.try_move([k], alone(spec, k, down), -math.inf)
    # slot i takes the unit that was in slot q[i]
    assert np.array_equal(both.element, alone(spec, k, up)[alone(spec, k, down)])


@pytest.mark.parametrize("name", ["lenet5", "encoder", "mobile"])
def test_nothing_that_is_given_changes(name: str) -> None:
    a, b, spec = pair(name)
    given = [compared(model, spec) for model in (a, b)]
    copies = [{n: x.clone() for n, x in w.items()} for w in given]
    both = Pair(spec, *given)
    for k in spaces(spec):
        gain = both.gain(k)
        assert gain is not None
        gain += 1  # what is handed out is the caller's
        both.try_move([k], alone(spec, k, k), -math.inf) if not spec.classes[k].parents else None
    both.put(spec.element(spec.random(1)))
    for w, copied in zip(given, copies, strict=True):
        assert all(torch.equal(w[n], x) for n, x in copied.items())


# the frontier -------------------------------------------------------------------------------


def test_settled_restricts_to_tensors_whose_other_spaces_are_settled() -> None:
    a, b, spec, both = make("lenet5")  # conv1, conv2, linear1, linear2
    names = list(spec.spaces)
    k = spec.space(names[1])
    of_space = {name: set(spec.tensors_of(name)) for name in names}
    for settled in itertools.chain.from_iterable(
        itertools.combinations(range(4), n) for n in range(5)
    ):
        there = {names[i] for i in settled}
        tensors = [
            t for t in of_space[names[1]]
            if all(t not in of_space[name] or name in there for name in names if name != names[1])
        ]  # fmt: skip
        gain = both.gain(k, settled)
        assert gain is not None  # the bias has no other
        q = alone(spec, k, 5)
        moved = parameters(mc.permute(b, permutation_of(spec, q), spec))
        true = sum(float((parameters(a)[n] * moved[n]).sum()) for n in tensors)
        found = gain[np.arange(len(gain)), own(spec, k, q)].sum()
        assert found == pytest.approx(true, abs=1e-9)
    assert np.array_equal(both.gain(k, range(4)), both.gain(k))


def test_nothing_counts_where_no_other_space_is_settled() -> None:
    _, _, spec, both = make("residual")  # no biases: hidden units stand beside the stream only
    hidden = spec.space("up.0")
    assert both.gain(hidden, [hidden]) is None
    assert both.evidence(hidden, [hidden]) == 0
    assert both.gain(hidden, [spec.space("stem")]) is not None


def test_a_space_that_stands_twice_does_not_vouch_for_itself() -> None:
    _, _, spec, both = make("loop")  # again.weight has it on both axes
    first = spec.space("first")
    free, twice = both.gain(first, []), both.gain(first, [first])
    assert free is not None
    assert twice is not None
    assert not np.allclose(free, twice)
    assert both.evidence(first, []) < both.evidence(first, [first])


@pytest.mark.parametrize("name", ["lenet5", "encoder", "residual", "grouped_shuffled"])
def test_evidence_is_the_spread_of_the_units(name: str) -> None:
    a, b, spec, both = make(name)
    every = range(len(spec.classes))
    for k in spaces(spec):
        here = both.evidence(k, every)
        assert here > 0
        assert both.evidence(k, []) <= here
    scaled = {n: 3 * x for n, x in compared(b, spec).items()}
    other = Pair(spec, compared(a, spec), scaled)
    shuffled = compared(mc.permute(b, spec.random(3), spec), spec)
    third = Pair(spec, compared(a, spec), shuffled)
    for k in spaces(spec):
        if not spec.classes[k].parents and name != "grouped_shuffled":
            assert other.evidence(k, every) == pytest.approx(3 * both.evidence(k, every))
            if name != "encoder":  # what lies in blocks has another order there
                assert third.evidence(k, every) == pytest.approx(both.evidence(k, every))


def test_units_that_are_all_alike_are_no_evidence() -> None:
    a, b, spec = pair("residual")
    with torch.no_grad():
        for model in (a, b):
            model.stem.weight.copy_(model.stem.weight.mean(0).expand_as(model.stem.weight))
    both = Pair(spec, compared(a, spec), compared(b, spec))
    stem = spec.space("stem")
    out = 10  # the network's outputs are settled: out.weight counts as well
    assert a.out.weight.shape[0] == out
    with torch.no_grad():
        for model in (a, b):
            model.out.weight.copy_(model.out.weight.mean(1, keepdim=True).expand(out, 12))
    both = Pair(spec, compared(a, spec), compared(b, spec))
    assert both.evidence(stem, []) == pytest.approx(0, abs=1e-12)


# by hand ------------------------------------------------------------------------------------


def test_a_spec_by_hand_with_repeats_fixed_places_and_concatenation() -> None:
    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.v = nn.Linear(5, 6), nn.Linear(6, 19)
            self.w = nn.Parameter(torch.randn(19, 9, 2))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a, b = Free().double(), Free().double()
    spec = mc.PermutationSpec.from_axes(
        a,
        {
            "u.weight": ["h"],
            "u.bias": ["h"],
            "v.weight": [["g", ("h", 2), 1, "g"], "h"],
            "v.bias": [["g", ("h", 2), 1, "g"]],
            "w": [["g", ("h", 2), 1, "g"], [3, "h"]],
        },
    )
    assert spec.spaces == {"h": 6, "g": 3}
    both = Pair(spec, compared(a, spec), compared(b, spec))
    before = inner(a, b)
    g = spec.space("g")
    for seed in range(3):
        q = alone(spec, g, seed)
        gain = both.gain(g)
        assert gain is not None
        moved = spec.apply(weights.of(b), permutation_of(spec, q))
        true = sum(float((parameters(a)[n] * moved[n]).sum()) for n in parameters(a)) - before
        found = gain[np.arange(len(gain)), own(spec, g, q)].sum() - np.trace(gain)
        assert found == pytest.approx(true, abs=1e-9)
    assert spec.space("h") in both.depends_on([spec.space("h")])
