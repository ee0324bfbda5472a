"""The facts a trace writes down: units, blocks, pins, composites."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcbook.symmetry.units import Reason, Units, mix, spread

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@given(st.lists(SHAPES, max_size=5))
def test_fresh_units_are_all_different(shapes: list[tuple[int, ...]]) -> None:
    units = Units()
    made = [units.fresh(shape) for shape in shapes]
    assert [x.shape for x in made] == shapes
    flat = [int(u) for x in made for u in x.reshape(-1)]
    assert flat == list(range(units.count))


def test_fresh_units_for_no_axis_are_one_unit() -> None:
    assert Units().fresh([]).shape == ()
    assert Units().fresh([3, 0]).size == 0


def test_what_is_one_is_written_down_once_and_with_its_reason() -> None:
    units = Units()
    x, y = units.fresh([3]), units.fresh([3])
    units.one(x, x)
    units.one(x, x.copy())
    assert not units.ones
    units.because("residual addition", "block.0")
    units.one(x, y)
    ((a, b, reason),) = units.ones
    assert (a.tolist(), b.tolist()) == (x.tolist(), y.tolist())
    assert units.reasons[reason] == Reason("residual addition", "block.0")
    assert str(units.reasons[reason]) == "residual addition in block.0"
    assert str(Reason("output", "")) == "output"


@given(SHAPES, st.data())
def test_blocks_are_pairs_unit_by_unit(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    units = Units()
    x, y = units.fresh(shape), units.fresh([shape[axis]])
    for _ in range(2):  # the second says nothing new
        units.block(x, spread(y, [axis], shape))
    ((child, parent, _),) = units.blocks
    found = dict(zip(child.tolist(), parent.tolist(), strict=True))
    assert found == {int(x[at]): int(y[at[axis]]) for at in np.ndindex(*shape)}


@given(SHAPES, st.data())
def test_blocks_of_slices_are_made_once(shape: tuple[int, ...], data: st.DataObject) -> None:
    kept = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    units = Units()
    x = units.fresh(shape)
    blocks = units.blocks_of(x, kept)
    assert blocks.shape == tuple(shape[a] for a in kept)
    assert len(set(blocks.reshape(-1).tolist())) == blocks.size
    count = units.count
    assert np.array_equal(units.blocks_of(x.copy(), kept), blocks)
    assert units.count == count
    ((child, parent, _),) = units.blocks
    found = dict(zip(child.tolist(), parent.tolist(), strict=True))
    assert found == {
        int(x[at]): int(blocks[tuple(at[a] for a in kept)]) for at in np.ndindex(*shape)
    }


@given(SHAPES)
def test_pinned_units_have_a_colour_each(shape: tuple[int, ...]) -> None:
    units = Units()
    x = units.fresh(shape)
    units.pin(x)
    ((pinned, colours, _),) = units.pinned
    assert pinned.tolist() == x.reshape(-1).tolist()
    assert len(set(colours.tolist())) == x.size


def test_units_pinned_to_the_same_position_have_the_same_colour() -> None:
    units = Units()
    x = units.fresh([2, 3])
    units.pin(x, np.arange(3))  # broadcast: the column counts
    units.pin(x, np.arange(2)[:, None])
    (_, columns, _), (_, rows, _) = units.pinned
    columns, rows = columns.reshape(2, 3), rows.reshape(2, 3)
    assert (columns == columns[0]).all()
    assert (rows == rows[:, :1]).all()
    assert len(set(columns[0].tolist()) | set(rows[:, 0].tolist())) == 5  # two pins are two events


def test_pins_that_come_again_are_told_apart() -> None:
    units = Units()
    x = units.fresh([4])
    units.pin(x)
    units.pin(x)
    assert not set(units.pinned[0][1].tolist()) & set(units.pinned[1][1].tolist())


def test_what_is_seen_in_one_event_and_role_has_one_colour() -> None:
    units = Units()
    x = units.fresh([6])
    units.because("add", "")
    units.see(x[:2])
    units.see(x[2:4])
    units.see(x[4:], role=1)
    units.because("add", "")
    units.see(x[:2])
    colours = [colour for _, colour in units.seen]
    assert colours[0] == colours[1]
    assert len(set(colours)) == 3
    assert units.reasons[1:] == [Reason("add", "")]  # one after the other: kept once


def test_composites_know_what_they_are_made_of() -> None:
    units = Units()
    rows, columns = units.fresh([2]), units.fresh([3])
    factors = [spread(rows, [0], (2, 3)), spread(columns, [1], (2, 3))]
    made = units.composite((2, 3), factors)
    assert np.array_equal(units.composite((2, 3), [f.copy() for f in factors]), made)
    assert units.count == 2 + 3 + 6
    for part in (made, made[:, 1:], made.T, made[1], made.reshape(-1)[[4, 0]]):
        found = units.factors(part)
        assert found is not None
        for u, row, column in zip(*(z.reshape(-1) for z in (part, *found)), strict=True):
            i, j = np.argwhere(made == u)[0]
            assert (row, column) == (rows[i], columns[j])
    pairs = {(int(c), int(p)) for x, y, _ in units.blocks for c, p in zip(x, y, strict=True)}
    assert pairs == {
        (int(made[i, j]), int(p))
        for i, j in itertools.product(range(2), range(3))
        for p in (rows[i], columns[j])
    }


def test_composites_of_fixed_positions_are_pinned_to_these() -> None:
    units = Units()
    rows = units.fresh([2])
    places = -1 - spread(np.arange(3), [1], (2, 3))
    made = units.composite((2, 3), [spread(rows, [0], (2, 3)), places])
    ((pinned, colours, _),) = units.pinned
    assert pinned.tolist() == made.reshape(-1).tolist()
    colours = colours.reshape(2, 3)
    assert (colours == colours[0]).all()
    assert len(set(colours[0].tolist())) == 3


def test_copies_are_different_units_that_may_change_places() -> None:
    units = Units()
    x = units.fresh([2])
    twice = np.stack([x, x], 1)
    made = units.composite((2, 2), [twice], copies=np.array([[0, 1], [0, 1]]))
    assert len(set(made.reshape(-1).tolist())) == 4
    assert not units.pinned
    found = units.factors(made)
    assert found is not None
    assert np.array_equal(found[0], twice)
    assert np.array_equal(found[1], [[-1, -2], [-1, -2]])


def test_units_that_are_made_of_nothing_have_no_factors() -> None:
    units = Units()
    plain = units.fresh([3])
    assert units.factors(plain) is None
    made = units.composite((2, 2), [spread(units.fresh([2]), [0], (2, 2)), np.full((2, 2), -1)])
    later = units.fresh([3])
    assert units.factors(later) is None
    assert units.factors(plain) is None
    assert units.factors(np.r_[made[0], later]) is None


@given(SHAPES, st.data())
def test_spreading_repeats_along_the_other_axes(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    x = np.arange(int(np.prod([shape[a] for a in axes]))).reshape([shape[a] for a in axes])
    found = spread(x, axes, shape)
    assert found.shape == shape
    assert all(found[at] == x[tuple(at[a] for a in axes)] for at in np.ndindex(*shape))
    with pytest.raises(ValueError, match="zip"):
        spread(x, [*axes, 0], shape)


def test_mixed_colours_are_different_and_tell_multisets_apart() -> None:
    numbers = np.arange(10_000)
    assert mix(numbers).dtype == np.uint64
    assert len(np.unique(mix(numbers))) == len(numbers)
    assert len(np.unique(np.r_[mix(numbers), mix(numbers, 1), mix(numbers, 2**40)])) == 30_000
    assert np.array_equal(mix(numbers, 7), mix(numbers.copy(), 7))
    assert int(mix(5)) == int(mix(np.array(5)))
    pairs = itertools.combinations_with_replacement(range(40), 2)
    sums = {(int(mix(i)) + int(mix(j))) % 2**64 for i, j in pairs}
    assert len(sums) == 40 * 41 // 2
