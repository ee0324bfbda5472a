"""Labels: what operations do to them, and that three invariants hold whatever they do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mcbook.symmetry.labels import Label, Operand, contract, joint, merge, pin_axes, reduce, rename
from mcbook.symmetry.movement import concatenate, moved, padded, same_order
from mcbook.symmetry.units import Units, spread

Shape = tuple[int, ...]
SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


def parameter(units: Units, shape: Shape, fixed: Sequence[int] = ()) -> Label:
    """As a parameter has it: units on every axis, but some."""
    return Label({(a,): units.fresh([n]) for a, n in enumerate(shape) if n > 1 and a not in fixed})


def rearranged(units: Units, label: Label, x: torch.Tensor, new: torch.Tensor) -> Label:
    """The label after a movement; `x` holds 0, 1, 2, ..."""
    return moved(units, label, tuple(x.shape), new.numpy())


def numbers(shape: Shape) -> torch.Tensor:
    return torch.arange(int(np.prod(shape))).reshape(shape)


def components(units: Units) -> np.ndarray:
    ones = [np.stack([x, y]) for x, y, _ in units.ones]
    rows, columns = np.concatenate(ones, 1) if ones else np.zeros((2, 0), np.int64)
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(units.count,) * 2)
    return connected_components(links, directed=False)[1]


def check(units: Units, label: Label, shape: Sequence[int]) -> None:
    """The three invariants."""
    one = components(units)
    links = {(one[c], one[p]) for x, y, _ in units.blocks for c, p in zip(x, y, strict=True)}
    for axes, x in label.arrays.items():
        assert axes == tuple(sorted(set(axes)))
        assert x.shape == tuple(shape[a] for a in axes)
        assert min(x.shape) > 1, "axes of length 1 carry nothing"
        assert len(set(x.reshape(-1).tolist())) == x.size, "all units are different"
        for other, y in label.arrays.items():
            if set(axes) < set(other):
                blocks = spread(x, [other.index(a) for a in axes], y.shape)
                pairs = zip(one[y].reshape(-1), one[blocks].reshape(-1), strict=True)
                assert all(p == q or (p, q) in links for p, q in pairs), "nested arrays are linked"
            shared = tuple(sorted(set(axes) & set(other)))
            if shared not in ((), axes, other):
                assert shared in label.arrays, "closed under intersection"


@st.composite
def tensors(draw: st.DrawFn, units: Units, shape: Shape, whole: bool = False) -> Operand:
    """A tensor of a shape (or one that broadcasts to it): a parameter, unflattened, constant."""
    drop = 0 if whole else draw(st.integers(0, len(shape) - 1))
    own = tuple(n if whole else draw(st.sampled_from([1, n])) for n in shape[drop:])
    kind = draw(
        st.sampled_from(["parameter", "joint", "joint", "partly fixed", "input", "constant"])
    )
    if kind == "constant":
        value = draw(st.sampled_from([torch.ones(own), numbers(own).float()]))
        return Operand(own, Label(), value)
    if kind == "input":
        return Operand(own, Label())
    if kind == "joint":
        first = draw(st.integers(0, len(own) - 1))
        last = min(first + draw(st.integers(1, 2)), len(own))
        flat = numbers((*own[:first], int(np.prod(own[first:last])), *own[last:]))
        label = rearranged(units, parameter(units, tuple(flat.shape)), flat, flat.reshape(own))
        return Operand(own, label)
    fixed = draw(st.sets(st.integers(0, len(own) - 1))) if kind == "partly fixed" else set()
    return Operand(own, parameter(units, own, tuple(fixed)))


@settings(max_examples=100)
@given(SHAPES, st.data())
def test_invariants_hold_after_merging_reducing_renaming_pinning(
    shape: Shape, data: st.DataObject
) -> None:
    units = Units()
    given_operands = [data.draw(tensors(units, shape)) for _ in range(data.draw(st.integers(1, 3)))]
    label = merge(units, given_operands, shape)
    check(units, label, shape)
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    kept = [1 if a in axes else n for a, n in enumerate(shape)]
    total = reduce(units, label, sorted(axes))
    check(units, total, kept)
    assert not total.axes & axes
    pinned = pin_axes(units, label, sorted(axes))
    check(units, pinned, shape)
    assert not pinned.axes & axes
    order = data.draw(st.permutations(range(len(shape))))
    turned = rename(label, {a: order[a] for a in range(len(shape))})
    check(units, turned, [shape[order.index(a)] for a in range(len(shape))])
    back = rename(turned, {order[a]: a for a in range(len(shape))})
    assert set(back.arrays) == set(label.arrays)
    assert all(np.array_equal(back.arrays[a], label.arrays[a]) for a in label.arrays)


@given(st.data())
def test_invariants_hold_after_contracting(data: st.DataObject) -> None:
    units, sizes = Units(), dict(zip("abcd", (2, 3, 2, 3), strict=True))
    terms = [data.draw(st.permutations("abcd"))[: data.draw(st.integers(1, 4))] for _ in range(2)]
    operands = []
    for letters in terms:
        shape = tuple(sizes[x] for x in letters)
        operands.append((data.draw(tensors(units, shape, whole=True)), letters))
    present = sorted({x for letters in terms for x in letters})
    out = data.draw(st.permutations(present))[: data.draw(st.integers(0, len(present)))]
    label = contract(units, operands, out)
    check(units, label, [sizes[x] for x in out])


def test_merging_unites_units_on_the_same_axes() -> None:
    units = Units()
    x, y = parameter(units, (2, 3)), parameter(units, (3,))
    label = merge(units, [Operand((2, 3), x), Operand((3,), y)], (2, 3))
    one = components(units)
    assert (one[y.arrays[(0,)]] == one[label.arrays[(1,)]]).all()
    assert len(set(one.tolist())) == 5
    assert not units.pinned


def test_merging_with_fixed_positions_pins_unless_these_are_all_alike() -> None:
    for value, pinned in ((torch.ones(3), False), (torch.arange(3.0), True), (None, True)):
        units = Units()
        label = parameter(units, (2, 3))
        out = merge(units, [Operand((2, 3), label), Operand((3,), Label(), value)], (2, 3))
        assert bool(units.pinned) == pinned
        assert set(out.arrays) == ({(0,)} if pinned else {(0,), (1,)})
    units = Units()
    spread_out = Operand((2, 3), Label(uniform=frozenset({1})))
    out = merge(units, [Operand((2, 3), parameter(units, (2, 3))), spread_out], (2, 3))
    assert set(out.arrays) == {(1,)}


def test_a_sum_over_one_axis_of_joint_units_leaves_their_blocks() -> None:
    units = Units()
    x = Label({(0, 1): units.fresh([2, 3])})
    total = reduce(units, x, [1])
    assert set(total.arrays) == {(0,)}
    again = reduce(units, x, [1])
    assert np.array_equal(again.arrays[(0,)], total.arrays[(0,)])
    assert not reduce(units, x, [0, 1])


def test_units_on_fewer_axes_become_the_blocks_of_those_on_more() -> None:
    units = Units()
    x, y = Label({(0, 1): units.fresh([2, 3])}), parameter(units, (3,))
    label = merge(units, [Operand((2, 3), x), Operand((3,), y)], (2, 3))
    assert set(label.arrays) == {(0, 1), (1,)}
    assert not units.ones
    assert len(units.blocks) == 1
    check(units, label, (2, 3))


def test_crossing_joint_units_get_the_blocks_that_they_share() -> None:
    units = Units()
    x, y = Label({(0, 1): units.fresh([2, 3])}), Label({(1, 2): units.fresh([3, 2])})
    label = merge(units, [Operand((2, 3, 1), x), Operand((1, 3, 2), y)], (2, 3, 2))
    assert set(label.arrays) == {(0, 1), (1, 2), (1,)}
    check(units, label, (2, 3, 2))


def test_one_row_of_what_was_flattened_is_singled_out() -> None:
    units = Units()
    label = parameter(units, (2, 3))
    x = numbers((2, 3))
    flat = rearranged(units, label, x, x.flatten())
    row = rearranged(units, flat, x.flatten(), x[1])
    assert set(row.arrays) == {(0,)}
    assert np.array_equal(row.arrays[(0,)], label.arrays[(1,)])
    assert int(label.arrays[(0,)][1]) in {int(u) for seen, _ in units.seen for u in seen}
    assert int(label.arrays[(0,)][0]) not in {int(u) for seen, _ in units.seen for u in seen}


def test_renaming_drops_what_has_no_place() -> None:
    units = Units()
    label = Label({(0,): units.fresh([2]), (0, 1): units.fresh([2, 3])}, frozenset({2}))
    assert set(rename(label, {0: 4}).arrays) == {(4,)}
    turned = rename(label, {0: 3, 1: 1, 2: 0})
    assert np.array_equal(turned.arrays[(1, 3)], label.arrays[(0, 1)].T)
    assert turned.uniform == {0}


# movements ----------------------------------------------------------------------------------


def made_of(units: Units, unit: int) -> set[int]:
    """What a unit was made of, to the last, with itself."""
    found = {unit}
    for factor in units.factors(np.array([unit])) or []:
        if factor[0] >= 0:
            found |= made_of(units, int(factor[0]))
    return found


def follow(units: Units, old: Label, shape: Shape, new: Label, source: np.ndarray) -> None:
    """Position by position: the units there are those of where it came from, or made of them."""
    for at in np.ndindex(*source.shape):
        was = np.unravel_index(source[at], shape)
        there = {int(x[tuple(was[a] for a in axes)]) for axes, x in old.arrays.items()}
        every = set().union(*(made_of(units, u) for u in there)) if there else set()
        for axes, x in new.arrays.items():
            unit = int(x[tuple(at[a] for a in axes)])
            origin = {u for u in made_of(units, unit) if u < old_count(old)}
            assert unit in every or origin & every, (at, axes)
            assert origin <= every, (at, axes)


def old_count(label: Label) -> int:
    return max((int(x.max()) for x in label.arrays.values()), default=-1) + 1


MOVES = {
    "turned round": lambda x, a, b: x.transpose(a, b),
    "flipped": lambda x, a, b: x.flip(a),
    "rolled": lambda x, a, b: x.roll(1 + b, a),
    "the last": lambda x, a, b: x.narrow(a, x.shape[a] // 2, x.shape[a] - x.shape[a] // 2),
    "one": lambda x, a, b: x.select(a, b % x.shape[a]),
    "flattened": lambda x, a, b: x.flatten(),
    "flattened in part": lambda x, a, b: x.flatten(min(a, b), max(a, b)),
    "twice": lambda x, a, b: torch.cat([x, x], a),
    "each twice": lambda x, a, b: x.repeat_interleave(2, a),
    "spread": lambda x, a, b: x.unsqueeze(a).expand(*x.shape[:a], 3, *x.shape[a:]),
    "picked": lambda x, a, b: x.index_select(a, torch.tensor([b % x.shape[a], 0, 0])),
    "halved": lambda x, a, b: x.reshape(-1, 2) if x.numel() % 2 == 0 else x,
}


@pytest.mark.parametrize("name", MOVES)
@given(shape=SHAPES, data=st.data())
def test_positions_keep_the_units_of_where_they_came_from(
    name: str, shape: Shape, data: st.DataObject
) -> None:
    units = Units()
    label = data.draw(tensors(units, shape, whole=True)).label
    axes = st.integers(0, len(shape) - 1)
    new = MOVES[name](numbers(shape), data.draw(axes), data.draw(axes))
    result = rearranged(units, label, numbers(shape), new)
    check(units, result, tuple(new.shape))
    follow(units, label, shape, result, new.numpy())
    for axis in result.uniform:
        assert (new == new.narrow(axis, 0, 1)).all()
    # what is still there is in the label, or something was said of it
    new_units = {int(u) for x in result.arrays.values() for u in x.reshape(-1)}
    touched = set().union(*(made_of(units, u) for u in new_units))
    touched |= {int(u) for x, _ in units.seen for u in x.reshape(-1)}
    touched |= {int(u) for _, y, _ in units.blocks for u in y}
    for places in zip(*np.unravel_index(np.unique(new.numpy()), shape), strict=True):
        there = {int(x[tuple(places[a] for a in axes)]) for axes, x in label.arrays.items()}
        assert there <= touched


@given(st.lists(st.integers(2, 4), min_size=2, max_size=3).map(tuple), st.booleans())
def test_flattening_and_back_gives_the_very_same_units(shape: Shape, fix: bool) -> None:
    units = Units()
    label = parameter(units, shape, fixed=[1] if fix else [])
    x = numbers(shape)
    flat = rearranged(units, label, x, x.flatten())
    assert set(flat.arrays) == {(0,)}
    back = rearranged(units, flat, x.flatten(), x)
    assert set(back.arrays) == set(label.arrays)
    assert all(np.array_equal(back.arrays[a], label.arrays[a]) for a in label.arrays)


@given(st.lists(st.integers(2, 4), min_size=1, max_size=3), st.integers(0, 1), st.booleans())
def test_concatenating_and_splitting_gives_the_pieces_back(
    lengths: list[int], axis: int, same: bool
) -> None:
    units = Units()
    shapes = [(n, 3) if axis == 0 else (3, n) for n in lengths]
    labels = [parameter(units, shape) for shape in shapes]
    if same and len(set(lengths)) == 1:
        labels = labels[:1] * len(labels)
    whole = (sum(lengths), 3) if axis == 0 else (3, sum(lengths))
    operands = [Operand(shape, label) for shape, label in zip(shapes, labels, strict=True)]
    joined = concatenate(units, operands, axis, whole)
    check(units, joined, whole)
    x = numbers(whole)
    one = components(units)
    for label, piece in zip(labels, x.split(lengths, axis), strict=True):
        found = rearranged(units, joined, x, piece)
        across = found.arrays[(1 - axis,)]
        assert (one[across] == one[label.arrays[(1 - axis,)]]).all()
        if not same:
            assert np.array_equal(found.arrays[(axis,)], label.arrays[(axis,)])


def test_padding_brings_units_of_its_own() -> None:
    units = Units()
    label = parameter(units, (3, 2))
    wide = padded(units, label, (3, 2), [0, 0, 1, 2])
    check(units, wide, (6, 2))
    assert np.array_equal(wide.arrays[(0,)][1:4], label.arrays[(0,)])
    assert np.array_equal(wide.arrays[(1,)], label.arrays[(1,)])
    narrow = padded(units, label, (3, 2), [0, 0, -1, 0])
    assert np.array_equal(narrow.arrays[(0,)], label.arrays[(0,)][1:])


def test_joint_units_are_made_of_those_of_each_axis() -> None:
    units = Units()
    label = parameter(units, (2, 3), fixed=[1])
    both = joint(units, label, [1, 0], (2, 3))
    factors = units.factors(both)
    assert factors is not None
    assert np.array_equal(factors[0], spread(label.arrays[(0,)], [0], (2, 3)))
    assert np.array_equal(factors[1], [[-1, -2, -3]] * 2)
    assert joint(units, Label({(0, 1): both}), [0, 1], (2, 3)) is both


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((2, 3), (2, 1, 3), {0: 0, 1: 2}),
        ((1, 2, 1, 3), (2, 3), {1: 0, 3: 1}),
        ((2, 3), (3, 2), None),
        ((2, 3), (6,), None),
        ((1, 1), (), {}),
    ],
)
def test_views_that_only_add_or_drop_axes_of_length_one(
    old: Shape, new: Shape, expected: dict[int, int] | None
) -> None:
    assert same_order(old, new) == expected
