from __future__ import annotations

import copy
import doctest
import itertools
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mcbook as mc
from mcbook.saving import write_tensors
from mcbook.symmetry import permutations
from mcbook.symmetry.permutations import Permutation

NAMES = ("a", "layer1.0 (out)", "β", "")


@st.composite
def several(draw: st.DrawFn, count: int) -> list[Permutation]:
    """So many permutations of the same spaces, as lists drawn by hypothesis."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    sizes = {name: draw(st.integers(1, 7)) for name in names}
    return [
        Permutation({name: draw(st.permutations(range(n))) for name, n in sizes.items()})
        for _ in range(count)
    ]


def lists(p: Permutation) -> dict[str, list[int]]:
    return {name: vector.tolist() for name, vector in p.items()}


def power(p: Permutation, k: int) -> Permutation:
    product = Permutation.identity(p.sizes)
    for _ in range(k):
        product = p @ product
    return product


# the group ----------------------------------------------------------------------------------


@given(several(3))
def test_composition_is_associative(three: list[Permutation]) -> None:
    p, q, r = three
    assert (p @ q) @ r == p @ (q @ r)


@given(several(1))
def test_the_identity_is_neutral(one: list[Permutation]) -> None:
    (p,) = one
    e = Permutation.identity(p.sizes)
    assert e @ p == p
    assert p @ e == p
    assert e.is_identity()
    assert e.moved == 0
    assert e.order == 1
    assert p.is_identity() == (p == e)


@given(several(2))
def test_the_inverse_undoes_and_turns_products_round(two: list[Permutation]) -> None:
    p, q = two
    e = Permutation.identity(p.sizes)
    assert p @ p.inverse() == e
    assert p.inverse() @ p == e
    assert p.inverse().inverse() == p
    assert (q @ p).inverse() == p.inverse() @ q.inverse()


@given(several(2))
def test_composition_slot_by_slot(two: list[Permutation]) -> None:
    p, q = two
    for name, n in p.sizes.items():
        assert (q @ p)[name].tolist() == [int(p[name][int(q[name][i])]) for i in range(n)]


@given(several(2))
def test_matrices_are_a_representation(two: list[Permutation]) -> None:
    p, q = two
    for name, n in p.sizes.items():
        matrix = p.matrix(name)
        entries = [[float(int(p[name][i]) == j) for j in range(n)] for i in range(n)]
        assert matrix.tolist() == entries
        assert torch.equal((q @ p).matrix(name), q.matrix(name) @ matrix)
        assert torch.equal(p.inverse().matrix(name), matrix.T)
        assert torch.equal(p.matrix(name, torch.int32), matrix.int())


@given(several(1), st.integers(0, 2), st.booleans())
def test_applying_is_the_product_with_the_matrix(
    one: list[Permutation], axis: int, from_the_end: bool
) -> None:
    (p,) = one
    for name, n in p.sizes.items():
        shape = [2, 3, 4]
        shape[axis] = n
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        before = x.clone()
        moved = p.apply(x, axis - 3 if from_the_end else axis, name)
        product = torch.tensordot(p.matrix(name, torch.float64), x, dims=([1], [axis]))
        assert torch.equal(moved, product.movedim(0, axis))
        assert torch.equal(x, before)
        assert moved.data_ptr() != x.data_ptr()


@given(several(2))
def test_applying_one_after_the_other_is_applying_the_product(two: list[Permutation]) -> None:
    p, q = two
    for name, n in p.sizes.items():
        x = torch.arange(2 * n).reshape(2, n)
        assert torch.equal(q.apply(p.apply(x, 1, name), 1, name), (q @ p).apply(x, 1, name))


@given(several(1))
def test_counts_of_what_is_moved(one: list[Permutation]) -> None:
    (p,) = one
    fixed = p.fixed_points()
    assert list(fixed) == list(p)
    for name, n in p.sizes.items():
        assert fixed[name].dtype == torch.int64
        assert fixed[name].tolist() == [i for i in range(n) if int(p[name][i]) == i]
    assert p.moved == sum(n - len(fixed[name]) for name, n in p.sizes.items())


@given(several(1))
def test_cycles_say_all_and_give_the_order(one: list[Permutation]) -> None:
    (p,) = one
    for name, n in p.sizes.items():
        vector = list(range(n))
        for cycle in p.cycles(name):
            assert len(cycle) > 1
            assert cycle[0] == min(cycle)
            for i, j in itertools.pairwise((*cycle, cycle[0])):
                vector[i] = j
        assert vector == p[name].tolist()
        firsts = [cycle[0] for cycle in p.cycles(name)]
        assert firsts == sorted(firsts)
    assert type(p.order) is int
    assert power(p, p.order).is_identity()
    assert not any(power(p, k).is_identity() for k in range(1, p.order))


def test_an_order_too_large_for_trying() -> None:
    primes, start, vector = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53), 0, []
    for length in primes:
        vector += [start + (i + 1) % length for i in range(length)]
        start += length
    assert Permutation({"u": vector}).order == math.prod(primes) > 2**63


@given(several(1), st.data())
def test_restricted_to_some_spaces(one: list[Permutation], data: st.DataObject) -> None:
    (p,) = one
    names = data.draw(st.sets(st.sampled_from(list(p)))) if p else set()
    some = p.restricted(names)
    assert list(some) == list(p)
    for name, n in p.sizes.items():
        assert some[name].tolist() == (p[name].tolist() if name in names else list(range(n)))
    rest = p.restricted(name for name in p if name not in names)
    assert some @ rest == rest @ some == p
    assert p.restricted(p) == p


# drawing at random --------------------------------------------------------------------------


@pytest.mark.usefixtures("same_random_state")
def test_a_draw_depends_on_seed_name_and_size_alone() -> None:
    p = Permutation.random({"a": 50, "b": 50}, seed=3)
    assert p == Permutation.random({"b": 50, "a": 50}, seed=np.int64(3))
    assert not torch.equal(p["a"], p["b"])
    more = Permutation.random({"c": 9, "a": 50, "b": 7}, seed=3)
    assert torch.equal(more["a"], p["a"])
    for seed in (4, -3, 2**70):
        assert p != Permutation.random({"a": 50, "b": 50}, seed)


def test_draws_stay_the_same_from_release_to_release() -> None:
    assert lists(Permutation.random({"u": 8, "v": 3}, 0)) == {
        "u": [4, 2, 7, 0, 3, 5, 1, 6],
        "v": [2, 0, 1],
    }


def test_draws_are_uniform_on_the_permutations_of_three() -> None:
    draws = 6000
    spaces = {f"space {i}": 3 for i in range(100)}
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for seed in range(draws // 100):
        for vector in lists(Permutation.random(spaces, seed)).values():
            counts[tuple(vector)] += 1
    chi_square = sum((k - draws / 6) ** 2 / (draws / 6) for k in counts.values())
    assert chi_square < 20.5  # five degrees of freedom: above with a chance of 1 in 1000


def test_draws_of_two_spaces_are_independent() -> None:
    counts = dict.fromkeys(itertools.product((0, 1), repeat=2), 0)
    for seed in range(2000):
        p = Permutation.random({"a": 2, "b": 2}, seed)
        counts[int(p["a"][0]), int(p["b"][0])] += 1
    assert sum((k - 500) ** 2 / 500 for k in counts.values()) < 16.3  # as above, of three degrees


# a mapping ----------------------------------------------------------------------------------


def test_it_is_a_mapping_in_the_order_given() -> None:
    p = Permutation({"b": [1, 0], "a": [0]})
    assert list(p) == ["b", "a"]
    assert len(p) == 2
    assert "a" in p
    assert "c" not in p
    assert p.get("c") is None
    assert p.sizes == {"b": 2, "a": 1}
    assert repr(p) == "Permutation(spaces=2, units=3, moved=2)"
    with pytest.raises(KeyError, match="unknown space 'bb'; did you mean 'b'"):
        p["bb"]


def test_equality_is_by_content_whatever_the_order() -> None:
    p = Permutation({"b": [1, 0], "a": [0]})
    assert p == Permutation({"a": [0], "b": [1, 0]})
    assert p != Permutation({"b": [0, 1], "a": [0]})
    assert p != Permutation({"b": [1, 0]})
    assert p != Permutation({"b": [1, 0], "a": [0, 1]})
    assert p != {"b": [1, 0], "a": [0]}
    assert Permutation({}) == Permutation.identity({})
    with pytest.raises(TypeError, match="unhashable"):
        hash(p)


def test_nothing_outside_reaches_the_inside() -> None:
    for vector in (torch.tensor([1, 0]), np.array([1, 0]), [1, 0]):
        p = Permutation({"u": vector})
        vector[0] = 0
        p["u"][0] = 0
        next(iter(p.values()))[0] = 0
        assert p["u"].tolist() == [1, 0]
    for twin in (Permutation(p), copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert twin == p


@pytest.mark.parametrize(
    "vector",
    [
        (2, 0, 1),
        torch.tensor([2, 0, 1], dtype=torch.int16),
        torch.tensor([2.0, 0.0, 1.0], dtype=torch.bfloat16),
        torch.tensor([2.0, 0.0, 1.0], requires_grad=True),
        np.array([2, 0, 1], dtype=np.uint64),
        np.array([1, 0, 2])[::-1],
        np.array([2.0, -0.0, 1.0]),
        range(3),
    ],
    ids=repr,
)
def test_what_is_taken_as_a_vector(vector: Any) -> None:
    p = Permutation({"u": vector})
    assert p["u"].dtype == torch.int64
    assert p["u"].device.type == "cpu"
    assert not p["u"].requires_grad
    assert p["u"].tolist() == list(map(int, vector))


def test_apply_keeps_dtype_and_lets_gradients_through() -> None:
    p = Permutation({"u": [2, 0, 1]})
    for dtype in (torch.bool, torch.int8, torch.float16, torch.complex64):
        assert p.apply(torch.ones(3, dtype=dtype), 0, "u").dtype == dtype
    x = torch.arange(3.0, requires_grad=True)
    (p.apply(x, 0, "u") * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 3, 1]


def test_the_example_in_the_docstring_runs() -> None:
    done = doctest.testmod(permutations)
    assert done.attempted
    assert not done.failed


# on disk ------------------------------------------------------------------------------------


def test_saved_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    for sizes in ({"z": 5, "a (out)": 300, "β": 1}, {}):
        p = Permutation.random(sizes, 0)
        assert p.save(file) == file
        again = Permutation.load(file)
        assert again == p
        assert list(again) == list(p)


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    with pytest.raises(FileNotFoundError):
        Permutation.load(file)
    write_tensors(file, "path", {"u": torch.arange(3)}, {})
    with pytest.raises(mc.DamagedFileError, match="expected a saved permutation, found a saved pa"):
        Permutation.load(file)
    write_tensors(file, "permutation", {"u": torch.zeros(3)}, {"spaces": ["u"]})
    with pytest.raises(mc.DamagedFileError, match="each of 0 ... 2 once for space 'u'"):
        Permutation.load(file)
    write_tensors(file, "permutation", {"u": torch.arange(3)}, {})
    with pytest.raises(mc.DamagedFileError, match="expected a permutation"):
        Permutation.load(file)
    file.write_bytes(b"\x80not a permutation")
    with pytest.raises(mc.DamagedFileError, match="found a pickle"):
        Permutation.load(file)


# bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "error", "said"),
    [
        ([0, 2, 2], ValueError, r"0 ... 2 once for space 'u', found missing \[1\], repeated \[2\]"),
        ([1, 2, 3], ValueError, r"missing \[0\], repeated \[\], out of place \[3\]"),
        ([0, -1], ValueError, r"out of place \[-1\]"),
        ([0.0, 0.5], ValueError, r"missing \[1\], repeated \[\], out of place \[0.5\]"),
        ([0.0, math.nan], ValueError, r"out of place \[nan\]"),
        ([0.0, math.inf], ValueError, r"out of place \[inf\]"),
        ([0, 2**62], ValueError, r"out of place \[4611686018427387904\]"),
        ([0, 2**80], TypeError, "whole numbers for space 'u', found object"),
        (np.array([0, 2**63 + 5], dtype=np.uint64), ValueError, "9223372036854775813"),
        ([7] * 9, ValueError, r"missing \[0, 1, 2, 3, 4\], repeated \[7\]"),
        ([True, False], TypeError, "whole numbers for space 'u', found bool"),
        (torch.tensor([False, True]), TypeError, "found bool"),
        (torch.zeros(1, dtype=torch.complex64), TypeError, "found complex64"),
        (["0", "1"], TypeError, "found <U1"),
        ([None], TypeError, "found object"),
        ([], ValueError, r"expected a vector for space 'u', found \[0\] numbers"),
        (3, ValueError, r"found \[\] numbers"),
        ("10", ValueError, r"found \[\] numbers"),
        (torch.eye(2), ValueError, r"found \[2, 2\] numbers"),
        ([[0], [1, 2]], ValueError, "expected one vector for space 'u'"),
    ],
)
def test_what_is_no_bijection_is_refused(vector: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Permutation({"fine": [0], "u": vector})


def test_what_is_no_mapping_from_names_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a mapping from the names of spaces"):
        Permutation([[0, 1]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected the name of a space, found int"):
        Permutation({0: [0, 1]})  # type: ignore[dict-item]


@pytest.mark.parametrize("make", [Permutation.identity, lambda s: Permutation.random(s, 0)])
@pytest.mark.parametrize("n", [0, -1, 2.0, "3", None])
def test_sizes_that_are_none_are_refused(make: Callable[[Any], Permutation], n: Any) -> None:
    with pytest.raises(ValueError, match="a whole number from 1 of units in space 'u', found "):
        make({"fine": 2, "u": n})


def test_a_seed_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a whole number as seed, found float"):
        Permutation.random({"u": 2}, 1.5)  # type: ignore[arg-type]


def test_permutations_of_other_spaces_do_not_compose() -> None:
    p = Permutation({"a": [0, 1], "b": [0]})
    for q, said in (
        (Permutation({"a": [0, 1]}), "'b' with 1 units on the left and no on the right"),
        (Permutation({"a": [0, 1], "b": [0], "c": [0]}), "'c' with no units on the left and 1"),
        (Permutation({"a": [0], "b": [0]}), "'a' with 2 units on the left and 1 on the right"),
    ):
        with pytest.raises(mc.IncompatibleError, match=said):
            p @ q
    for other in (3, [0, 1], None):
        with pytest.raises(TypeError, match="unsupported operand"):
            p @ other  # type: ignore[operator]


def test_a_tensor_that_does_not_fit_is_refused() -> None:
    p = Permutation({"u": [1, 0, 2]})
    with pytest.raises(mc.IncompatibleError, match=r"3 units of 'u' on axis -2 of \[4, 3\]"):
        p.apply(torch.zeros(4, 3), -2, "u")
    for axis in (2, -3):
        with pytest.raises(ValueError, match=rf"an axis of a tensor \[4, 3\], found {axis}"):
            p.apply(torch.zeros(4, 3), axis, "u")
    with pytest.raises(ValueError, match=r"an axis of a tensor \[\], found 0"):
        p.apply(torch.tensor(1.0), 0, "u")
    with pytest.raises(TypeError, match="expected a tensor, found list"):
        p.apply([1, 2, 3], 0, "u")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ask",
    [
        lambda p: p.cycles("hiden"),
        lambda p: p.matrix("hiden"),
        lambda p: p.apply(torch.zeros(2), 0, "hiden"),
        lambda p: p.restricted(["hiden"]),
    ],
)
def test_an_unknown_space_offers_the_close_ones(ask: Callable[[Permutation], Any]) -> None:
    with pytest.raises(mc.UnknownNameError, match="unknown space 'hiden'; did you mean 'hidden'"):
        ask(Permutation({"hidden": [1, 0]}))


def test_one_name_is_not_several() -> None:
    with pytest.raises(TypeError, match=r"several names of spaces, as \['u'\], found one string"):
        Permutation({"u": [0]}).restricted("u")
