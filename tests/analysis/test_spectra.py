"""Singular values and how far singular vectors agree."""

from __future__ import annotations

import copy
import doctest
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import nn

import mcbook as mc
from mcbook import weights
from mcbook.analysis import spectra
from mcbook.analysis.input_moments import input_moments
from mcbook.analysis.layer_matrices import find_layers
from mcbook.analysis.spectra import low_rank, singular_alignment, singular_values, stable_rank
from tests import reference
from tests.analysis.networks import NETWORKS, Tied, build, inputs

GAMMAS = (0.0, 0.1, 0.3, 0.6, 1.0)


def scaled(model: nn.Module, factor: float) -> nn.Module:
    new = copy.deepcopy(model)
    for layer in find_layers(new):
        layer.replace_(factor * layer.matrix())
    return new


def slow_alignment(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], gamma: float
) -> tuple[float, list[float]]:
    above, below, layers = [], [], []
    for blocks_a, blocks_b in zip(a, b, strict=True):
        overlap, _, count_a, count_b = reference.singular_sums(blocks_a, blocks_b, gamma)
        above.append(overlap)
        below.append(math.sqrt(count_a * count_b))
        layers.append(above[-1] / below[-1])
    return math.fsum(above) / math.fsum(below), layers


# the definition -----------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_sum_over_all_pairs_of_singular_vectors(name: str, gamma: float) -> None:
    for seed in (0, 10):
        a, b = build(name, seed), build(name, seed + 1)
        blocks = [[layer.matrix().numpy() for layer in find_layers(m)] for m in (a, b)]
        slow, layers = slow_alignment(*blocks, gamma)
        found = singular_alignment(a, b, gamma)
        assert float(found) == found.overall == pytest.approx(slow, rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(found.layers["r"], layers, rtol=1e-9, atol=1e-12)
        assert found.layers["layer"].tolist() == [layer.name for layer in find_layers(a)]


def weighted(blocks: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """`W C^(1/2)`, with scipy's root."""
    return np.stack([w @ sqrtm(c).real for w, c in zip(blocks, moments, strict=True)])


@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.parametrize("name", ["convolutions", "separate attention", "tied"])
def test_with_inputs_it_is_that_of_the_weighted_matrices(name: str, gamma: float) -> None:
    x = inputs(name, 60).double()
    models = [build(name, seed).double() for seed in (3, 4)]
    blocks = []
    for model in models:
        layers = find_layers(model)
        pairs = zip(layers, input_moments(model, layers, x), strict=True)
        blocks.append([weighted(layer.matrix().numpy(), c.numpy()) for layer, c in pairs])
    slow, layers = slow_alignment(*blocks, gamma)
    found = singular_alignment(*models, gamma, inputs=x)
    assert found.overall == pytest.approx(slow, rel=1e-6, abs=1e-8)
    np.testing.assert_allclose(found.layers["r"], layers, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_aligned_with_itself_and_with_multiples(name: str, weighted: bool) -> None:
    x = inputs(name, 40) if weighted else None
    a = build(name, 0)
    for gamma in GAMMAS:
        assert singular_alignment(a, a, gamma, x).overall == pytest.approx(1, abs=1e-9)
    found = singular_alignment(a, scaled(a, 3.0)).layers
    np.testing.assert_allclose(found["r"], 1, atol=1e-6)
    np.testing.assert_allclose(singular_alignment(a, scaled(a, -3.0)).layers["r"], -1, atol=1e-6)


@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 1000), st.floats(0, 1))
def test_it_is_bounded_and_symmetric(name: str, seed: int, gamma: float) -> None:
    a, b = build(name, seed), build(name, seed + 1)
    there, back = singular_alignment(a, b, gamma), singular_alignment(b, a, gamma)
    assert there.layers["r"].abs().max() <= 1 + 1e-12
    assert abs(there.overall) <= 1 + 1e-12
    assert back.overall == pytest.approx(there.overall, abs=1e-12)
    counts = there.layers[["count_a", "count_b"]]
    np.testing.assert_array_equal(counts, back.layers[["count_b", "count_a"]])


def test_another_gamma_needs_no_new_vectors(endpoints: list[nn.Module], tiny: mc.Data) -> None:
    for x in (None, tiny.train.x):
        first = singular_alignment(endpoints[0], endpoints[1], 0.3, x)
        for gamma in GAMMAS:
            anew = singular_alignment(endpoints[0], endpoints[1], gamma, x)
            assert first.at(gamma).overall == anew.overall
            assert first.at(gamma).gamma == gamma
            assert first.at(gamma).layers.equals(anew.layers)
    with pytest.raises(ValueError, match="expected gamma in .0, 1., found 2"):
        first.at(2)


def test_some_layers_are_those_layers(endpoints: list[nn.Module]) -> None:
    whole = singular_alignment(endpoints[0], endpoints[1]).layers.set_index("layer")
    some = singular_alignment(endpoints[0], endpoints[1], layers=["output", "linear1"])
    assert some.layers["layer"].tolist() == ["linear1", "output"]
    expected = whole.loc[["linear1", "output"]]
    np.testing.assert_array_equal(some.layers.set_index("layer"), expected)
    n = np.sqrt(expected["count_a"] * expected["count_b"]).sum()
    assert some.overall == pytest.approx(expected["overlap"].sum() / n)


def test_it_says_what_it_is(endpoints: list[nn.Module]) -> None:
    found = singular_alignment(endpoints[0], endpoints[1])
    r = found.layers.set_index("layer")["r"]
    assert repr(found) == (
        f"SingularAlignment(R = {float(found):.3f} at gamma = 0.3; 3 layers: "
        f"{r.min():.3f} in {r.idxmin()} to {r.max():.3f} in {r.idxmax()})"
    )
    assert repr(singular_alignment(endpoints[0], endpoints[0], layers="output")) == (
        "SingularAlignment(R = 1.000 at gamma = 0.3; one layer)"
    )


# permutations -------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["endpoints", "normed"])
def test_permuting_both_networks_changes_nothing(
    which: str, tiny: mc.Data, request: pytest.FixtureRequest
) -> None:
    a, b = (m.double() for m in map(copy.deepcopy, request.getfixturevalue(which)[:2]))
    spec = mc.trace_symmetry(a)
    x = tiny.train.x.double()
    for seed in range(3):
        p = spec.random(seed)
        moved = mc.permute(a, p, spec), mc.permute(b, p, spec)
        for gamma, inputs_ in ((0.0, None), (0.3, None), (0.3, x)):
            before = singular_alignment(a, b, gamma, inputs_)
            after = singular_alignment(*moved, gamma, inputs_)
            np.testing.assert_allclose(after.layers["r"], before.layers["r"], atol=1e-6)


@pytest.mark.parametrize("which", ["endpoints", "normed"])
def test_a_shuffled_copy_is_not_aligned_until_it_is_put_back(
    which: str, tiny: mc.Data, request: pytest.FixtureRequest
) -> None:
    for seed, a in enumerate(request.getfixturevalue(which)[:3]):
        spec = mc.trace_symmetry(a)
        p = spec.random(seed, restless=True)
        moved = mc.permute(a, p, spec)
        back = mc.permute(moved, p.inverse(), spec)
        for gamma in (0.0, 0.3):
            assert abs(singular_alignment(a, moved, gamma).overall) < 0.5
            assert singular_alignment(a, back, gamma).overall == pytest.approx(1, abs=1e-9)
        weighted = (singular_alignment(a, m, inputs=tiny.train.x).overall for m in (moved, back))
        assert next(weighted) < 0.7
        assert next(weighted) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("which", ["endpoints", "normed"])
def test_permutations_keep_singular_values(which: str, request: pytest.FixtureRequest) -> None:
    for seed, a in enumerate(request.getfixturevalue(which)[:3]):
        moved = mc.permute(a, mc.trace_symmetry(a).random(seed))
        before, after = singular_values(a), singular_values(moved)
        np.testing.assert_allclose(after["value"], before["value"], atol=1e-10)


def test_inside_groups_too() -> None:
    """A grouped convolution's flattened kernel as one matrix would change its singular values."""
    torch.manual_seed(0)
    a = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 3),
    ).double()  # fmt: skip
    spec = mc.trace_symmetry(a, torch.randn(1, 2, 8, 8, dtype=torch.float64))
    for seed in range(3):
        moved = mc.permute(a, spec.random(seed), spec)
        flat = [np.linalg.svd(m[2].weight.detach().flatten(1).numpy())[1] for m in (a, moved)]
        assert not np.allclose(*flat, atol=1e-3)
        np.testing.assert_allclose(
            singular_values(moved)["value"], singular_values(a)["value"], atol=1e-10
        )


# what it is on trained networks -------------------------------------------------------------


def test_networks_of_other_seeds_have_the_values_and_not_the_vectors(
    endpoints: list[nn.Module],
) -> None:
    for a, b in zip(endpoints[::2], endpoints[1::2], strict=True):
        values = [singular_values(m)["value"] for m in (a, b)]
        assert np.corrcoef(*values)[0, 1] > 0.95
        assert abs(singular_alignment(a, b).overall) < 0.35


# singular values ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_of_values(name: str) -> None:
    model = build(name, 0)
    table = singular_values(model)
    assert list(table.columns) == ["layer", "index", "value", "relative"]
    for layer in find_layers(model):
        rows = table[table["layer"] == layer.name]
        slow = [triple[0] for triple in reference.singular_triples(layer.matrix().numpy())]
        np.testing.assert_allclose(rows["value"], slow, rtol=1e-10)
        np.testing.assert_allclose(rows["relative"], np.array(slow) / slow[0], rtol=1e-10)
        assert rows["index"].tolist() == list(range(len(slow)))


@pytest.mark.parametrize("name", NETWORKS)
def test_energy_is_the_share_of_the_inputs_along_a_vector(name: str) -> None:
    model, x = build(name, 0), inputs(name)
    table = singular_values(model, x)
    layers = find_layers(model)
    for layer, c in zip(layers, input_moments(model, layers, x), strict=True):
        total = sum(float(np.trace(block)) for block in c)
        slow = [
            float(np.array(v) @ c[block].numpy() @ np.array(v)) / total
            for _, block, _, v in reference.singular_triples(layer.matrix().numpy())
        ]
        found = table.loc[table["layer"] == layer.name, "energy"]
        np.testing.assert_allclose(found, slow, rtol=1e-6, atol=1e-12)
        if layer.matrix().shape[1] >= layer.inputs:  # the vectors span everything
            assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_stable_rank_is_its_formula(name: str) -> None:
    model = build(name, 0)
    found = stable_rank(model)
    assert found.name == "stable_rank"
    assert list(found.index) == [layer.name for layer in find_layers(model)]
    for layer in find_layers(model):
        blocks = layer.matrix().numpy()
        largest = max(np.linalg.norm(block, 2) for block in blocks)
        assert found[layer.name] == pytest.approx(float((blocks**2).sum()) / largest**2)


def test_the_stable_rank_counts_directions() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    nn.init.orthogonal_(model[0].weight)
    with torch.no_grad():
        model[1].weight.copy_(torch.outer(torch.arange(1.0, 4), torch.ones(4)))
        model[2].weight.zero_()
    found = stable_rank(model)
    assert found.iloc[:2].tolist() == pytest.approx([4, 1], rel=1e-6)
    assert math.isnan(found.iloc[2])
    assert singular_values(model)["relative"].isna().sum() == 2


# low rank -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_chosen_triples_are_left(name: str) -> None:
    model = build(name, 0).double()
    for keep, indices in (
        (2, {0, 1}),
        (slice(1, None), set(range(1, 1000))),
        (slice(None, -1), None),
        (range(1, 3), {1, 2}),
        ([0, 2, 500], {0, 2, 500}),
        (np.int64(1), {0}),
    ):
        for layer, low in zip(find_layers(model), find_layers(low_rank(model, keep)), strict=True):
            blocks = layer.matrix().numpy()
            triples = reference.singular_triples(blocks)
            kept = set(range(len(triples) - 1)) if indices is None else indices
            slow = np.zeros_like(blocks)
            for i, (s, block, u, v) in enumerate(triples):
                if i in kept:
                    slow[block] += s * np.outer(u, v)
            np.testing.assert_allclose(low.matrix(), slow, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_part_and_the_rest_are_the_whole(name: str) -> None:
    model = build(name, 0)
    parts = [low_rank(model, keep) for keep in (2, slice(2, None))]
    for layer, *others in zip(*(find_layers(m) for m in (model, *parts)), strict=True):
        torch.testing.assert_close(
            others[0].weight + others[1].weight, layer.weight, rtol=1e-5, atol=1e-6
        )
    model.double()  # so that rounding hides nothing
    whole = low_rank(model, 1000).state_dict()
    assert all(torch.equal(x, whole[key]) for key, x in model.state_dict().items())


def test_norms_stay_and_biases_go_where_told(normed: list[nn.Module]) -> None:
    model = copy.deepcopy(normed[0])
    assert "history" in vars(model)
    for layer in (model.output, model.norm1):
        nn.init.constant_(layer.bias, 2.0)
    kept, gone = low_rank(model, 3), low_rank(model, 3, biases=False)
    assert not hasattr(kept, "history")
    for new in (kept, gone):
        for key, x in model.state_dict().items():
            if not key.startswith(("conv", "output")):
                assert torch.equal(x, new.state_dict()[key]), key
        assert np.linalg.matrix_rank(new.conv2.weight.detach().flatten(1)) == 3
    assert torch.equal(kept.output.bias, model.output.bias)
    assert gone.output.bias.abs().max() == 0
    attention = low_rank(build("attention", 0), 3, biases=False).attention
    assert attention.in_proj_bias.abs().max() == attention.out_proj.bias.abs().max() == 0


def test_the_large_triples_are_the_function(endpoints: list[nn.Module], digits: mc.Data) -> None:
    for model in endpoints[:3]:
        whole, large, small = (
            mc.evaluate(m, digits.test)[1]
            for m in (model, low_rank(model, 10), low_rank(model, slice(10, None)))
        )
        assert large > whole - 0.1
        assert small < 0.3


# zeros --------------------------------------------------------------------------------------


def test_a_layer_of_zeros_says_nothing_and_dead_units_little(endpoints: list[nn.Module]) -> None:
    a, b = (copy.deepcopy(m) for m in endpoints[:2])
    with torch.no_grad():
        a.linear2.weight.zero_()
        b.linear1.weight[:3] = 0
    found = singular_alignment(a, b, 0.0)
    rows = found.layers.set_index("layer")
    assert rows.loc["linear2", ["count_a", "count_b"]].tolist() == [0, 16]
    assert math.isnan(rows.loc["linear2", "r"])
    assert rows.loc["linear1", ["count_a", "count_b"]].tolist() == [16, 13]
    n = math.sqrt(16 * 13) + 10
    expected = (rows.loc["linear1", "overlap"] + rows.loc["output", "overlap"]) / n
    assert found.overall == pytest.approx(expected)
    assert singular_alignment(b, b, 0.0).overall == pytest.approx(1)
    assert "3 layers" in repr(found)


def test_networks_of_zeros_are_refused() -> None:
    a = build("tied", 0)
    with pytest.raises(ValueError, match="a layer whose weights are not zero in either"):
        singular_alignment(a, scaled(a, 0.0))


# bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan, math.inf])
def test_a_gamma_that_is_no_share_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"expected gamma in .0, 1., found {gamma}"):
        singular_alignment(Tied(), Tied(), gamma)


def test_networks_that_do_not_fit_are_refused(tiny: mc.Data) -> None:
    a = mc.build_model("mlp", tiny, width=8)
    with pytest.raises(mc.IncompatibleError, match=r"linear1.weight is \[8, 64\] in A and \[9, 64"):
        singular_alignment(a, mc.build_model("mlp", tiny, width=9))
    with pytest.raises(mc.IncompatibleError, match=r"output.weight is \[10, 8\] in A and \[10, 10"):
        singular_alignment(a, mc.build_model("mlp", tiny, width=(8, 10)))
    with pytest.raises(TypeError, match="expected a torch.nn.Module, found Data"):
        singular_alignment(a, tiny)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a tensor of images.*found Data"):
        singular_alignment(a, a, inputs=tiny)  # type: ignore[arg-type]
    with pytest.raises(mc.UnknownNameError, match="'linear1'"):
        singular_alignment(a, a, layers=["linaer1"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    a, b = Tied(), Tied()
    with torch.no_grad():
        b.output.weight[0, 1] = bad
    with pytest.raises(ValueError, match="1 NaN or infinite entries of 18 in output.weight of B"):
        singular_alignment(a, b)
    for function in (singular_values, stable_rank, lambda m: low_rank(m, 1)):
        with pytest.raises(ValueError, match="in output.weight of this network"):
            function(b)


def test_networks_without_matrices_are_refused() -> None:
    norm = nn.BatchNorm1d(3)
    for function in (singular_values, stable_rank, lambda m: low_rank(m, 1)):
        with pytest.raises(ValueError, match="at least one linear or convolutional layer"):
            function(norm)


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (0, ValueError, "at least 1 singular triple, found 0"),
        (-2, ValueError, "at least 1 singular triple, found -2"),
        ([0, -1], ValueError, "indices from 0, found -1"),
        (2.5, TypeError, "a number, a slice, a range or a sequence of indices, found float"),
        (True, TypeError, "found bool"),
        (None, TypeError, "found NoneType"),
    ],
)
def test_a_choice_that_is_none_is_refused(keep: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        low_rank(Tied(), keep)  # type: ignore[arg-type]


def test_a_weight_that_is_computed_cannot_be_replaced() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    assert len(singular_values(model)) == 3
    with pytest.raises(mc.IncompatibleError, match="weight of 0 to be a parameter.*computed"):
        low_rank(model, 1)


# nothing is changed -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("same_random_state")
def test_looking_changes_nothing(
    name: str, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    a, b, x = build(name, 0), build(name, 1), inputs(name)
    b.eval()
    compare = [untouched(m) for m in (a, b)]
    first, again = (singular_alignment(a, b, inputs=x) for _ in range(2))
    assert first.overall == again.overall
    singular_values(a, x)
    low = low_rank(a, 1, biases=False)
    assert low.training
    assert not low_rank(b, 1).training
    for check in compare:
        check()
    weights.check_compatible(weights.of(a), weights.of(low))


def test_its_example_runs() -> None:
    done = doctest.testmod(spectra)
    assert (done.failed, done.attempted) == (0, 3)
