"""The group against brute force: all permutations of few units, one after the other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from mcbook.symmetry.group import Irregular, cells, complete, log10_order, random_element

Parents = list[list[tuple[int, np.ndarray]]]


def _in(place: int, *block: int) -> tuple[int, np.ndarray]:
    return place, np.array(block)


#: sizes of classes, and the blocks their units lie in
GROUPS: dict[str, tuple[list[int], Parents, int]] = {
    "nothing": ([], [], 1),
    "one unit": ([1], [[]], 1),
    "four units": ([4], [[]], 24),
    "two spaces": ([3, 2], [[], []], 12),
    "pairs": ([2, 4], [[], [_in(0, 0, 0, 1, 1)]], 8),
    "interleaved pairs": ([3, 6], [[], [_in(0, 0, 1, 2, 0, 1, 2)]], 48),
    "triples": ([2, 6], [[], [_in(0, 1, 0, 0, 1, 1, 0)]], 72),
    "followers": ([3, 3], [[], [_in(0, 2, 0, 1)]], 6),
    "several columns a unit": ([2, 6], [[], [_in(0, 0, 0, 0, 1, 1, 1)]], 72),
    "groups of heads": ([2, 4, 4], [[], [_in(0, 0, 0, 1, 1)], [_in(1, 0, 1, 2, 3)]], 8),
    "two kinds in the same blocks": (
        [2, 4, 4], [[], [_in(0, 0, 0, 1, 1)], [_in(0, 0, 1, 0, 1)]], 32,
    ),
    "rows and columns": (
        [2, 3, 6], [[], [], [_in(0, 0, 0, 0, 1, 1, 1), _in(1, 0, 1, 2, 0, 1, 2)]], 12,
    ),
    "rows, columns and copies": (
        [2, 2, 8],
        [[], [], [_in(0, 0, 0, 0, 0, 1, 1, 1, 1), _in(1, 0, 0, 1, 1, 0, 0, 1, 1)]], 64,
    ),
    "three levels": ([2, 4, 8], [[], [_in(0, 0, 0, 1, 1)], [_in(1, 0, 0, 1, 1, 2, 2, 3, 3)]], 128),
}  # fmt: skip
SMALL = [name for name, (sizes, _, _) in GROUPS.items() if sum(sizes) <= 8]


def elements(sizes: Sequence[int], parents: Parents) -> set[tuple[tuple[int, ...], ...]]:
    """All elements: permutations that take units of one block to units of one block."""
    found = set()
    for candidate in itertools.product(*(itertools.permutations(range(n)) for n in sizes)):
        if all(
            block[candidate[place][i]] == candidate[above][block[i]]
            for place, kinds in enumerate(parents)
            for above, block in kinds
            for i in range(sizes[place])
        ):
            found.add(candidate)
    return found


def as_tuples(element: Sequence[np.ndarray]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(p.tolist()) for p in element)


@pytest.mark.parametrize("name", GROUPS)
def test_the_order_is_the_number_written_down(name: str) -> None:
    sizes, parents, order = GROUPS[name]
    assert 10 ** log10_order(sizes, parents) == pytest.approx(order, rel=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_the_order_is_the_number_of_all_elements(name: str) -> None:
    sizes, parents, order = GROUPS[name]
    assert len(elements(sizes, parents)) == order


@pytest.mark.parametrize("name", SMALL)
def test_draws_are_elements_and_reach_all_of_them(name: str) -> None:
    sizes, parents, order = GROUPS[name]
    every = elements(sizes, parents)
    drawn = {as_tuples(random_element(sizes, parents, seed)) for seed in range(12 * order)}
    assert drawn == every


@pytest.mark.parametrize("name", GROUPS)
def test_draws_keep_units_of_one_block_together(name: str) -> None:
    sizes, parents, _ = GROUPS[name]
    for seed in range(20):
        element = random_element(sizes, parents, seed)
        for p, size, kinds in zip(element, sizes, parents, strict=True):
            assert sorted(p.tolist()) == list(range(size))
            for above, block in kinds:
                assert np.array_equal(block[p], element[above][block])


#: chi-square with so many degrees of freedom is above with a chance of 1 in 10,000
BOUNDS = {5: 25.7, 7: 29.9, 11: 37.4, 23: 58.6, 31: 70.2}


@pytest.mark.parametrize("name", ["four units", "pairs", "followers", "two spaces"])
def test_draws_are_uniform(name: str) -> None:
    sizes, parents, order = GROUPS[name]
    draws = 150 * order
    counts = Counter(as_tuples(random_element(sizes, parents, seed)) for seed in range(draws))
    assert len(counts) == order
    assert sum((k - 150) ** 2 / 150 for k in counts.values()) < BOUNDS[order - 1]


def test_draws_on_three_units_are_uniform() -> None:
    counts = Counter(as_tuples(random_element([3], [[]], seed)) for seed in range(3000))
    assert len(counts) == 6
    assert sum((k - 500) ** 2 / 500 for k in counts.values()) < BOUNDS[5]


def test_a_draw_depends_on_seed_and_name() -> None:
    one = random_element([30, 30], [[], []], 0, ["a", "b"])
    other = random_element([30, 30], [[], []], 0, ["b", "a"])
    assert np.array_equal(one[0], other[1])
    assert np.array_equal(one[1], other[0])
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], random_element([30], [[]], 1, ["a"])[0])


@pytest.mark.parametrize("name", GROUPS)
def test_what_is_not_drawn_follows_its_blocks_in_order(name: str) -> None:
    sizes, parents, _ = GROUPS[name]
    for seed, drawn in itertools.product(range(5), [[], *([k] for k in range(len(sizes)))]):
        element = random_element(sizes, parents, seed, drawn=drawn)
        given = {k: element[k] for k in drawn}
        assert as_tuples(complete(sizes, parents, given)) == as_tuples(element)
        if not drawn:
            assert all(np.array_equal(p, np.arange(len(p))) for p in element)


@pytest.mark.parametrize("name", SMALL)
def test_restless_draws_move_something_in_every_space_that_can(name: str) -> None:
    sizes, parents, _ = GROUPS[name]
    spaces = [
        k for k, (size, above) in enumerate(zip(sizes, parents, strict=True))
        if (cells(above, size) > 1).any()
    ]  # fmt: skip
    for seed in range(50):
        element = random_element(sizes, parents, seed, drawn=spaces, restless=True)
        assert all((element[k] != np.arange(sizes[k])).any() for k in spaces)


@pytest.mark.parametrize("name", SMALL)
def test_completing_keeps_the_order_inside_cells(name: str) -> None:
    sizes, parents, _ = GROUPS[name]
    for element in elements(sizes, parents):
        whole = {k: np.array(p) for k, p in enumerate(element)}
        assert as_tuples(complete(sizes, parents, whole)) == element
        roots = {k: p for k, p in whole.items() if not parents[k]}
        completed = complete(sizes, parents, roots)
        assert as_tuples(completed) in elements(sizes, parents)
        for place, kinds in enumerate(parents):
            p = completed[place]
            if not kinds:
                continue
            codes = [tuple(int(block[i]) for _, block in kinds) for i in range(sizes[place])]
            for code in set(codes):
                taken = [int(p[i]) for i in range(sizes[place]) if codes[i] == code]
                assert taken == sorted(taken)


def test_a_vector_that_tears_blocks_is_irregular() -> None:
    sizes, parents, _ = GROUPS["pairs"]
    with pytest.raises(Irregular, match="the cells of class 1 are not alike") as found:
        complete(sizes, parents, {1: np.array([0, 2, 1, 3])})
    assert found.value.place == 1
    with pytest.raises(Irregular):  # the blocks stay, what lies in them does not
        complete(sizes, parents, {0: np.arange(2), 1: np.array([2, 3, 0, 1])})
    with pytest.raises(Irregular):  # the other way round
        complete(sizes, parents, {0: np.array([1, 0]), 1: np.arange(4)})
    assert len(complete(sizes, parents, {0: np.array([1, 0]), 1: np.array([3, 2, 0, 1])})) == 2


def test_torn_rows_and_columns_are_irregular() -> None:
    sizes, parents, _ = GROUPS["rows and columns"]
    every = elements(sizes, parents)
    inside = {element[2] for element in every}
    for p in itertools.permutations(range(6)):
        if p not in inside:
            with pytest.raises(Irregular):
                complete(sizes, parents, {2: np.array(p)})


def test_blocks_of_different_sizes_cannot_change_places() -> None:
    sizes, parents = [2, 3], [[], [_in(0, 0, 0, 1)]]
    with pytest.raises(Irregular) as found:
        complete(sizes, parents, {0: np.array([1, 0])})
    assert found.value.place == 1
    assert cells(parents[1], 3).tolist() == [2, 1]
    assert len(complete(sizes, parents, {1: np.array([1, 0, 2])})) == 2


@pytest.mark.parametrize("name", GROUPS)
def test_cells_are_the_units_with_the_same_blocks(name: str) -> None:
    sizes, parents, _ = GROUPS[name]
    for size, above in zip(sizes, parents, strict=True):
        codes = Counter(tuple(int(block[i]) for _, block in above) for i in range(size))
        assert sorted(cells(above, size).tolist()) == sorted(codes.values())


def test_many_kinds_of_blocks_do_not_overflow() -> None:
    n = 64
    above = [(k, np.arange(n)) for k in range(12)]  # 64^12 > 2^63
    assert cells(above, n).tolist() == [1] * n
    sizes, parents = [n] * 13, [[] for _ in range(12)] + [above]
    order = random_element([n], [[]], 0)[0]
    element = complete(sizes, parents, dict.fromkeys(range(12), order))
    assert np.array_equal(element[12], order)
