"""Assignments against scipy and against all permutations; blocks against the whole group."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from alignment.networks import NESTED, PLAIN, change, network, spec_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import best_assignment, gained, group_elements
from scipy.optimize import linear_sum_assignment
from symmetry.test_group import GROUPS, Parents

import mcbook as mc
from mcbook.alignment.assignment import Families, assign, best_element
from mcbook.symmetry.group import cells
from mcbook.symmetry.parts import UnitClass

# one assignment -----------------------------------------------------------------------------


def _square(n: int, elements: st.SearchStrategy) -> st.SearchStrategy:
    return arrays(np.float64, (n, n), elements=elements)


FEW = st.integers(1, 6).flatmap(lambda n: _square(n, st.integers(-2, 2).map(float)))
ANY = st.integers(1, 6).flatmap(lambda n: _square(n, st.floats(-1e3, 1e3)))


@given(st.one_of(FEW, ANY))
def test_no_permutation_gains_more(gain: np.ndarray) -> None:
    kept = gain.copy()
    p = assign(gain)
    assert p.dtype == np.int64
    assert sorted(p.tolist()) == list(range(len(gain)))
    # what counts as better is more than 1e-9 n max |gain|
    slack = 2e-9 * len(gain) * np.abs(gain).max()
    assert best_assignment(gain) - gained(gain, p) <= slack
    assert np.array_equal(gain, kept)


@given(FEW)
def test_where_the_identity_is_as_good_nothing_moves(gain: np.ndarray) -> None:
    n = len(gain)
    if gained(gain, range(n)) == best_assignment(gain):
        assert np.array_equal(assign(gain), np.arange(n))


@pytest.mark.parametrize("value", [0.0, -3.0, 1e30])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_equal_gains_leave_all_in_place(n: int, value: float) -> None:
    assert np.array_equal(assign(np.full((n, n), value)), np.arange(n))


def test_what_is_better_by_rounding_only_is_not_better() -> None:
    gain = np.full((5, 5), 100.0)
    gain[0, 1] += 1e-8  # five times 100 times 1e-9 would count
    assert np.array_equal(assign(gain), np.arange(5))
    gain[0, 1] += 1e-5
    assert assign(gain)[0] == 1


def test_one_unit_has_one_place() -> None:
    assert np.array_equal(assign(np.array([[-7.0]])), [0])


SCALES = [1e-30, 1e-3, 1.0, 1e6, 1e30]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "kind", ["gaussian", "negative", "rank one", "of sums", "whole numbers", "near", "nearer"]
)
def test_as_good_as_scipy(kind: str, scale: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    for n in (2, 7, 60):
        rows, columns = rng.normal(size=(2, n, 1))
        gain = {
            "gaussian": rng.normal(size=(n, n)),
            "negative": -rng.random((n, n)),
            "rank one": rows @ columns.T,
            "of sums": rows + columns.T,  # every permutation is the same
            "whole numbers": rng.integers(-2, 3, (n, n)).astype(float),
            # many slots, or nearly all, hold the best unit already
            "near": rng.normal(size=(n, n)) + 2 * np.eye(n),
            "nearer": rng.normal(size=(n, n)) + 5 * np.diag(np.arange(n) % 7 > 0),
        }[kind]
        gain = (scale * gain).astype(dtype)
        exact = gain.astype(np.float64)
        best = exact[linear_sum_assignment(exact, maximize=True)].sum()
        found = exact[np.arange(n), assign(gain)].sum()
        assert best - found <= 2e-9 * n * np.abs(exact).max()


def test_a_constant_for_every_slot_and_unit_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    gain = rng.normal(size=(30, 30))
    shifted = gain + 10 * rng.normal(size=(30, 1)) + 10 * rng.normal(size=30)
    assert np.array_equal(assign(gain), assign(shifted))


def test_planted_diagonals_are_found_in_both_precisions() -> None:
    rng = np.random.default_rng(2)
    p = rng.permutation(200)
    gain = 0.1 * rng.normal(size=(200, 200))
    gain[np.arange(200), p] += 1
    for dtype in (np.float32, np.float64):
        assert np.array_equal(assign(gain.astype(dtype)), p)


@pytest.mark.parametrize("dead", [[5, 6, 7], [2, 4, 6]])
def test_dead_units_stay_while_others_move(dead: list[int]) -> None:
    live = [i for i in range(8) if i not in dead]
    for seed in range(5):
        gain = np.random.default_rng(seed).random((8, 8))
        gain[dead] = gain[:, dead] = 0
        p = assign(gain)
        assert p[dead].tolist() == dead
        best = linear_sum_assignment(gain[np.ix_(live, live)], maximize=True)[1]
        assert p[live].tolist() == [live[j] for j in best]


@pytest.mark.parametrize(
    ("n", "value"),
    [(3, np.nan), *((n, x)
                    for n, x in [(3, np.inf), (3, -np.inf), (1, np.nan), (1, np.inf)])],
)  # fmt: skip
def test_gains_that_are_no_numbers_are_refused(n: int, value: float) -> None:
    gain = np.ones((n, n))
    gain[n // 2, n - 1] = value
    with pytest.raises(ValueError, match="invalid numeric entries|finite"):
        assign(gain)


# blocks -------------------------------------------------------------------------------------


def _toy(sizes: list[int], parents: Parents) -> mc.PermutationSpec:
    """A spec without tensors."""
    classes = [
        UnitClass(f"class {k}", n, tuple(above), bool((cells(above, n) > 1).any()))
        for k, (n, above) in enumerate(zip(sizes, parents, strict=True))
    ]
    return mc.PermutationSpec("Toy", {}, classes, {})


# blocks with three heads, in each of these several rows; and heads of two kinds of rows
_HEADS = np.repeat(np.arange(2), 3)
MORE: dict[str, tuple[list[int], Parents]] = {
    "two kinds of rows in three levels": (
        [2, 4, 8, 4],
        [[], [(0, np.array([0, 0, 1, 1]))], [(1, np.repeat(np.arange(4), 2))],
         [(0, np.array([1, 0, 1, 0]))]],
    ),
    "heads of rows, beside others": (
        [2, 6, 6, 3], [[], [(0, _HEADS)], [(1, np.arange(6)[::-1].copy())], []],
    ),
}  # fmt: skip
TOYS = {name: (sizes, parents) for name, (sizes, parents, order) in GROUPS.items() if order > 1}
# a unit in blocks of two kinds: what a row gains depends on the columns, the best is hard to find
CROSSED = "rows, columns and copies"


def _value(gains: dict[int, np.ndarray], element: list[list[int]]) -> float:
    return sum(gained(gain, element[k]) for k, gain in gains.items())


def _found(spec: mc.PermutationSpec, gains: dict[int, np.ndarray]) -> list[list[int]]:
    whole = spec.element(best_element(spec, gains))
    return [
        (whole[x:y] - x).tolist() for x, y in itertools.pairwise(spec.starts.tolist())
    ]  # fmt: skip


THREE = ["three levels", "two kinds of rows in three levels"]


@pytest.mark.parametrize(
    "name",
    [*TOYS, *MORE],
)
def test_no_element_of_the_group_gains_more(name: str) -> None:
    sizes, parents = {**TOYS, **MORE}[name]
    spec, every = _toy(sizes, parents), group_elements(sizes, parents)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        with_gains = [k for k, c in enumerate(spec.classes) if c.is_space and rng.random() < 0.8]
        gains = {k: rng.normal(size=(sizes[k], sizes[k])) for k in with_gains}
        found = _found(spec, gains)
        assert found in every
        if name != CROSSED:
            assert _value(gains, found) >= max(_value(gains, e) for e in every) - 1e-6


@pytest.mark.parametrize("name", [*TOYS, *MORE])
def test_without_gains_nothing_moves(name: str) -> None:
    sizes, parents = {**TOYS, **MORE}[name]
    spec = _toy(sizes, parents)
    assert best_element(spec, {}).is_identity()
    still = {k: np.eye(n) for k, n in enumerate(sizes) if spec.classes[k].is_space}
    assert best_element(spec, still).is_identity()
    flat = {k: np.zeros((n, n)) for k, n in enumerate(sizes) if spec.classes[k].is_space}
    assert best_element(spec, flat).is_identity()


def test_classes_without_gains_follow_their_blocks_in_order() -> None:
    sizes, parents, _ = GROUPS["triples"]
    spec = _toy(sizes, parents)
    p = best_element(spec, {0: np.array([[0.0, 1.0], [1.0, 0.0]])})
    assert p["class 0"].tolist() == [1, 0]
    assert p == spec.complete({"class 0": [1, 0]})
    # and the other way round: what is inside decides where the blocks go
    blocks = parents[1][0][1]
    inside = np.where(blocks[:, None] != blocks, 1.0, 0.0)
    p = best_element(spec, {1: inside})
    assert p["class 0"].tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_blocks_of_many_units_with_one_planted_element(dtype: type) -> None:
    blocks = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 8))
    sizes, parents = [12, 96, 96], [[], [(0, blocks)], [(0, np.sort(blocks))]]
    spec = _toy(sizes, parents)
    for seed in range(3):
        rng, p = np.random.default_rng(seed), spec.random(seed)
        gains = {}
        for k, size in enumerate(sizes):
            gain = 0.3 * rng.normal(size=(size, size))
            gain[np.arange(size), p[f"class {k}"].numpy()] += 3
            gains[k] = gain.astype(dtype)
        assert best_element(spec, gains) == p


def test_the_families_of_a_spec() -> None:
    spec = spec_of("encoder")  # stream; per layer heads with two kinds of rows, and hidden units
    families = Families(spec)
    assert families.members == [[0], [1, 2, 3], [4], [5, 6, 7], [8]]
    assert families.of == [0, 1, 1, 1, 2, 3, 3, 3, 4]
    assert [families.is_simple(f) for f in range(5)] == [True, False, True, False, True]
    spec = spec_of("lenet5")  # flattened maps: columns that follow are no choice
    families = Families(spec)
    assert all(families.is_simple(f) for f in range(len(families.members)))


def test_blocks_can_be_held_while_their_units_move() -> None:
    sizes, parents, _ = GROUPS["triples"]
    rng = np.random.default_rng(3)
    families = Families(_toy(sizes, parents))
    gains = {0: np.array([[0.0, 9.0], [9.0, 0.0]]), 1: rng.normal(size=(6, 6))}
    assert np.array_equal(families.best(0, gains)[0], [1, 0])
    inside = families.best(0, gains, outer=False)
    blocks = parents[1][0][1]
    assert 0 not in inside
    assert np.array_equal(blocks[inside[1]], blocks)
    for block in range(2):
        at = np.flatnonzero(blocks == block)
        gain = gains[1][np.ix_(at, at)]
        assert gains[1][at, inside[1][at]].sum() == pytest.approx(best_assignment(gain))


@pytest.mark.parametrize("name", [*NESTED, "lenet5", "resnet20_padA", "lstm", "dense"])
def test_elements_preserve_the_function(name: str) -> None:
    spec, model = spec_of(name), network(name, 0)
    rng = np.random.default_rng(0)
    for share in (1.0, 0.5):
        gains = {
            k: rng.normal(size=(c.size, c.size))
            for k, c in enumerate(spec.classes)
            if c.is_space and rng.random() < share
        }
        p = best_element(spec, gains)
        assert p.moved > 0 or not gains
        assert spec.complete(p) == p
        assert change(name, model, mc.permute(model, p, spec)) < 1e-10


@pytest.mark.parametrize("name", ["unet", "loop", "dense", "einsums", *PLAIN[-2:]])
def test_spaces_without_blocks_are_assigned_one_by_one(name: str) -> None:
    spec, rng = spec_of(name), np.random.default_rng(0)
    gains = {k: rng.normal(size=(c.size, c.size)) for k, c in enumerate(spec.classes)}
    p = best_element(spec, {k: g for k, g in gains.items() if spec.classes[k].is_space})
    for k, c in enumerate(spec.classes):
        if c.is_space:
            assert np.array_equal(p[c.name].numpy(), assign(gains[k]))


def test_gains_that_do_not_fit_are_refused() -> None:
    spec = spec_of("group_norm")
    sizes = [c.size for c in spec.classes]
    for shape in ((sizes[1], sizes[1] + 1), (3, 3), (sizes[1],)):
        with pytest.raises(ValueError, match=r"expected gains \[16, 16\] for '0', found \("):
            best_element(spec, {1: np.zeros(shape)})
    for bad in (np.nan, np.inf, -np.inf):
        gain = np.zeros((16, 16))
        gain[3, 4] = bad
        with pytest.raises(ValueError, match="expected finite gains for '0'"):
            best_element(spec, {1: gain})
