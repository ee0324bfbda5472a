"""The inner product of two weights as a sum over pairs of singular triples."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook import weights
from mcbook.analysis import singular_products as module
from mcbook.analysis.layer_matrices import find_layers
from mcbook.analysis.singular_products import singular_products
from tests import reference
from tests.analysis.networks import NETWORKS, Tied, build

PAIRS = [(name, seed) for name in NETWORKS for seed in (0, 10)]


def blocks_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {layer.name: layer.matrix().numpy() for layer in find_layers(model)}


@pytest.mark.parametrize(("name", "seed"), PAIRS)
def test_the_sum_over_pairs_of_triples_is_the_inner_product(name: str, seed: int) -> None:
    """Theorem 4.1 of Ito et al. (2025), layer by layer: with loops, and with entries."""
    a, b = build(name, seed), build(name, seed + 1)
    found = singular_products(a, b)
    blocks_a, blocks_b = blocks_of(a), blocks_of(b)
    assert list(found) == list(blocks_a)
    for layer, products in found.items():
        _, slow, *_ = reference.singular_sums(blocks_a[layer], blocks_b[layer], 0.0)
        entries = math.fsum((blocks_a[layer] * blocks_b[layer]).ravel().tolist())
        assert products.inner == pytest.approx(slow, rel=1e-8, abs=1e-12)
        assert products.inner == pytest.approx(entries, rel=1e-8, abs=1e-12)
        for found_values, blocks in (
            (products.values_a, blocks_a[layer]),
            (products.values_b, blocks_b[layer]),
        ):
            slow_values = [triple[0] for triple in reference.singular_triples(blocks)]
            np.testing.assert_allclose(found_values, slow_values, rtol=1e-10)


def test_it_is_what_distance_and_matching_are_made_of(endpoints: list[nn.Module]) -> None:
    for a, b in zip(endpoints[::2], endpoints[1::2], strict=True):
        names = [f"{layer.name}.weight" for layer in find_layers(a)]
        inner = sum(x.inner for x in singular_products(a, b).values())
        assert inner == pytest.approx(weights.dot(weights.of(a), weights.of(b), names), rel=1e-8)
        squares = [sum(x.inner for x in singular_products(one, one).values()) for one in (a, b)]
        distance = weights.distance(weights.of(a), weights.of(b), names)
        assert math.sqrt(sum(squares) - 2 * inner) == pytest.approx(distance, rel=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_terms_are_those_of_truncated_weights(name: str) -> None:
    a, b = build(name, 0), build(name, 1)
    for layer, products in singular_products(a, b).items():
        table = products.cumulated()
        assert table["k"].tolist() == list(range(1, len(products.values_a) + 1))
        norms = math.prod(np.linalg.norm(blocks_of(x)[layer]) for x in (a, b))
        for k in {1, 2, len(table)}:
            parts = []
            for blocks in (blocks_of(a)[layer], blocks_of(b)[layer]):
                part = np.zeros_like(blocks)
                for s, block, u, v in reference.singular_triples(blocks)[:k]:
                    part[block] += s * np.outer(u, v)
                parts.append(part)
            row = table.iloc[k - 1]
            inner = float((parts[0] * parts[1]).sum())
            assert row["inner"] == pytest.approx(inner, rel=1e-8, abs=1e-12)
            assert row["cosine"] == pytest.approx(inner / norms, rel=1e-8, abs=1e-12)
            assert row["share"] == pytest.approx(inner / products.inner, rel=1e-8, abs=1e-9)
        assert table["share"].iloc[-1] == pytest.approx(1)


def test_a_network_with_itself_has_its_squares_on_the_diagonal(normed: list[nn.Module]) -> None:
    for products in singular_products(normed[0], normed[0]).values():
        expected = np.diag(products.values_a**2)
        np.testing.assert_allclose(products.terms, expected, atol=1e-9 * expected.max())
        assert products.cumulated()["cosine"].iloc[-1] == pytest.approx(1)


def test_with_inputs_it_is_the_inner_product_of_the_weighted_matrices(
    endpoints: list[nn.Module], tiny: mc.Data
) -> None:
    """On the first layer both read the same: `<W_a C^(1/2), W_b C^(1/2)> = E[W_a z · W_b z]`."""
    a, b = endpoints[:2]
    products = singular_products(a, b, tiny.train.x, ["linear1"])["linear1"]
    z = tiny.train.x.flatten(1)
    outputs = [z @ model.linear1.weight.detach().T for model in (a, b)]
    expected = float((outputs[0] * outputs[1]).sum(1).mean())
    assert products.inner == pytest.approx(expected, rel=1e-4)


def test_values_that_are_zero_up_to_rounding_are_not_counted() -> None:
    torch.manual_seed(0)
    a, b = Tied(), Tied()
    with torch.no_grad():
        a.first.weight.copy_(torch.randn(6, 2) @ torch.randn(2, 6))
        b.first.weight[3] = 0
    products = singular_products(a, b)["first"]
    assert products.ranks == products.counts(0.0) == (2, 5)
    assert products.counts(1.0) == (1, 1)


def test_it_says_what_it_is(endpoints: list[nn.Module]) -> None:
    found = singular_products(endpoints[0], endpoints[1], layers="output")
    assert repr(found["output"]).startswith("SingularProducts(output, 10 triples, ")


def test_its_example_runs() -> None:
    done = doctest.testmod(module)
    assert (done.failed, done.attempted) == (0, 5)
