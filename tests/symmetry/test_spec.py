"""Specs: spaces, permutations that fit them, what is refused, hand-made and saved ones."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from symmetry.zoo import EXTRA
from torch import nn

import mcbook as mc
from mcbook import weights
from mcbook.errors import DamagedFileError, IncompatibleError, UnknownNameError
from mcbook.saving import write_tensors


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.fixture(scope="module")
def plain() -> tuple[nn.Module, mc.PermutationSpec]:
    model = net()
    return model, mc.trace_symmetry(model, torch.randn(1, 4))


@pytest.fixture(scope="module")
def grouped() -> tuple[nn.Module, mc.PermutationSpec]:
    model = EXTRA["group_norm"].build()
    return model, mc.trace_symmetry(model, EXTRA["group_norm"].inputs(1))


def test_sizes_counts_and_order(plain: tuple) -> None:
    _, spec = plain
    assert spec.spaces == {"0": 8, "2": 6}
    assert spec.units == 14
    assert spec.nested == []
    assert math.isclose(spec.log10_order, math.log10(math.factorial(8) * math.factorial(6)))
    assert spec.axis_counts() == (6, 9)
    assert repr(spec).startswith("PermutationSpec(Sequential: 2 spaces, 14 units, order 10^")


def test_group_norm_restricts_channels_to_their_groups(grouped: tuple) -> None:
    model, spec = grouped
    assert spec.spaces == {"0 blocks": 4, "0": 16, "3": 24}
    assert spec.nested == ["0"]
    p = spec.random(0)
    blocks = p["0"].reshape(4, 4) // 4
    assert (blocks == blocks[:, :1]).all()
    assert torch.equal(blocks[:, 0], p["0 blocks"])
    torn = dict(p)
    torn["0"] = torch.arange(16).roll(1)
    with pytest.raises(IncompatibleError, match="keeps the units of '0' together in the blocks of"):
        mc.permute(model, mc.Permutation(torn), spec)


def test_only_named_spaces_are_shuffled(grouped: tuple) -> None:
    _, spec = grouped
    p = spec.random(1, spaces=["0 blocks"])
    assert (p["3"] == torch.arange(24)).all()
    assert (p["0"].reshape(4, 4) % 4 == torch.arange(4)).all()  # in order inside the blocks
    q = spec.random(1, spaces=["0"])
    assert (q["0 blocks"] == torch.arange(4)).all()
    assert (q["0"].reshape(4, 4) // 4 == torch.arange(4)[:, None]).all()
    assert all(len(v) == n for v, n in zip(q.values(), spec.spaces.values(), strict=True))


def test_a_restless_permutation_moves_every_space() -> None:
    case = EXTRA["grouped_shuffled"]
    spec = mc.trace_symmetry(case.build(), case.inputs(1), verify=False)
    for seed in range(30):
        p = spec.random(seed, restless=True)
        assert all((v != torch.arange(len(v))).any() for v in p.values())


def test_what_a_space_draws_does_not_depend_on_the_others(plain: tuple) -> None:
    _, spec = plain
    alone = spec.without("2")
    assert torch.equal(spec.random(5)["0"], alone.random(5)["0"])
    assert spec.random(5) != spec.random(6)


def test_a_partial_permutation_is_completed(grouped: tuple) -> None:
    model, spec = grouped
    p = spec.complete({"0 blocks": [1, 0, 3, 2]})
    assert p["0"].tolist() == [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]
    assert spec.complete({}) == spec.identity()
    same = mc.permute(model, spec.identity(), spec)
    for name, x in weights.of(same).items():
        assert torch.equal(x, weights.of(model)[name])


def test_misfits_are_refused(plain: tuple) -> None:
    model, spec = plain
    with pytest.raises(TypeError, match="expected a Permutation, such as spec.random"):
        mc.permute(model, {"0": torch.arange(8)}, spec)
    with pytest.raises(UnknownNameError, match=r"unknown space '00'; did you mean '0'"):
        spec.complete({"00": torch.arange(8)})
    with pytest.raises(IncompatibleError, match=r"6 units in space '2', found one of 7"):
        spec.complete({"2": torch.arange(7)})
    with pytest.raises(IncompatibleError, match="every space, found none of '2'"):
        mc.permute(model, mc.Permutation({"0": torch.arange(8)}), spec)
    with pytest.raises(ValueError, match="bijection|each once|repeated|twice"):
        spec.complete({"2": [0, 0, 1, 2, 3, 4]})
    with pytest.raises(UnknownNameError, match="unknown space '1'"):
        spec.random(0, spaces=["1"])
    with pytest.raises(UnknownNameError, match="unknown space"):
        spec.without("linear1")


def test_a_spec_of_another_model_is_refused_by_the_first_tensor(plain: tuple) -> None:
    _, spec = plain
    wider = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3))
    shorter = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    longer = net().append(nn.Linear(3, 3))
    p = spec.identity()
    with pytest.raises(IncompatibleError, match=r"0.weight is \[9, 4\] instead of \[8, 4\]"):
        mc.permute(wider, p, spec)
    with pytest.raises(IncompatibleError, match=r"4.weight \[3, 6\] is not there"):
        mc.permute(shorter, p, spec)
    with pytest.raises(IncompatibleError, match=r"it also has 5.weight \[3, 3\]"):
        spec.verify(longer, torch.randn(1, 4))


def test_spaces_can_be_frozen_by_hand(plain: tuple, grouped: tuple) -> None:
    _, spec = plain
    less = spec.without("0")
    assert less.spaces == {"2": 6}
    assert any(f.reason == "frozen by hand" for f in less.frozen)
    assert "frozen by hand" in str(less)
    model, spec = grouped
    inner = spec.without("0")  # the channels hold their groups
    assert inner.spaces == {"3": 24}
    outer = spec.without("0 blocks")  # channels move inside groups that stay
    assert outer.spaces == {"0:0": 4, "0:1": 4, "0:2": 4, "0:3": 4, "3": 24}
    assert outer.verify(model, EXTRA["group_norm"].inputs(1)).passed
    nothing = plain[1].without("0", "2")
    assert nothing.spaces == {}
    assert nothing.log10_order == 0
    assert "no units can be permuted" in str(nothing)
    assert nothing.random(0) == nothing.identity()


def test_an_architecture_without_hidden_units_has_the_trivial_group() -> None:
    model = nn.Linear(4, 3)
    spec = mc.trace_symmetry(model, torch.randn(1, 4))
    assert spec.spaces == {}
    assert spec.verification.passed
    assert torch.equal(mc.permute(model, spec.identity(), spec).weight, model.weight)


# by hand


def test_a_spec_by_hand_equals_the_traced_one() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 7), nn.ReLU(),
        nn.Linear(7, 2),
    )  # fmt: skip
    channel = ["channels"]
    spec = mc.PermutationSpec.from_axes(model, {
        "0.weight": channel, "0.bias": channel, "1.weight": channel, "1.bias": channel,
        "1.running_mean": channel, "1.running_var": channel,
        "4.weight": ["units", ("channels", 4)], "4.bias": ["units"], "6.weight": [None, "units"],
    })  # fmt: skip
    x = torch.randn(1, 3, 4, 4)
    traced = mc.trace_symmetry(model, x)
    assert spec.spaces == {"channels": 5, "units": 7}
    assert list(traced.spaces.values()) == [5, 7]
    assert spec.verify(model, x).passed
    p = spec.random(0)
    q = mc.Permutation({"0": p["channels"], "4": p["units"]})
    by_hand, by_trace = (weights.of(mc.permute(model, *one)) for one in ((p, spec), (q, traced)))
    assert all(torch.equal(by_hand[name], by_trace[name]) for name in by_hand)


def test_concatenations_and_fixed_places_by_hand() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.cat([torch.relu(self.one(x)), x, torch.relu(self.two(x))], 1)
            return self.out(h)

    model = Joined()
    axes = {
        "one.weight": ["a"], "one.bias": ["a"], "two.weight": ["b"], "two.bias": ["b"],
        "out.weight": [None, ["a", 3, "b"]],
    }  # fmt: skip
    spec = mc.PermutationSpec.from_axes(model, axes)
    assert spec.verify(model, torch.randn(1, 3)).passed
    assert spec.spaces == {"a": 4, "b": 5}
    assert mc.trace_symmetry(model, torch.randn(1, 3)).spaces == {"one": 4, "two": 5}


def test_a_wrong_spec_by_hand_is_caught() -> None:
    model = net()
    axes = {"0.weight": ["a"], "0.bias": ["a"], "2.weight": ["b", "a"], "4.weight": [None, "b"]}
    spec = mc.PermutationSpec.from_axes(model, axes)  # 2.bias is forgotten
    found = spec.verify(model, torch.randn(1, 4))
    assert not found.passed
    assert found.failed == ["b"]
    assert found.spec.spaces == {"a": 8}
    assert found.spec.verification.error < 1e-10


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"0.wait": ["a"]}, UnknownNameError, "unknown tensor '0.wait'; did you mean '0.weight'"),
        ({"0.weight": ["a", None, None]}, ValueError, r"at most 2 entries for 0.weight \[8, 4\]"),
        ({"0.weight": "a"}, ValueError, "at most 2 entries"),
        ({"0.weight": [3.5]}, ValueError, r"axis 0 of 0.weight None, 'space', .* found 3.5"),
        ({"0.weight": [("a", 0)]}, ValueError, r"found \('a', 0\)"),
        ({"0.weight": ["a"], "2.weight": [None, "b"], "2.bias": ["b"]}, ValueError,
         r"axis 0 of 2.bias to have 8 positions \('b' has 8 units\), found 6"),
        ({"0.weight": [("a", 3)]}, ValueError, "hold 3 positions for each unit of 'a', found 8"),
        ({"0.weight": [["a", "b"]]}, ValueError, "tells its size, found none for 'a' and 'b'"),
    ],
)  # fmt: skip
def test_bad_entries_by_hand_are_named(axes: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        mc.PermutationSpec.from_axes(net(), axes)


# on disk


@pytest.mark.parametrize("name", ["gpt", "group_norm", "grouped_shuffled", "lstm", "dense"])
def test_a_saved_spec_is_the_same_spec(name: str, tmp_path: Path) -> None:
    case = EXTRA[name]
    model = case.build()
    spec = mc.trace_symmetry(model, case.inputs(1))
    loaded = mc.PermutationSpec.load(spec.save(tmp_path / "spec.safetensors"))
    bare = dataclasses.replace(spec, verification=None)
    assert str(loaded) == str(bare)
    p = spec.random(4)
    assert loaded.random(4) == p
    moved, other = (weights.of(mc.permute(model, p, s)) for s in (spec, loaded))
    assert all(torch.equal(moved[n], other[n]) for n in moved)
    assert loaded.verify(model, case.inputs(1)).passed
    again = loaded.save(tmp_path / "again.safetensors")
    assert again.read_bytes() == (tmp_path / "spec.safetensors").read_bytes()


def test_other_files_are_not_taken_for_specs(tmp_path: Path, plain: tuple) -> None:
    model, spec = plain
    other = mc.save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(DamagedFileError, match="a saved symmetry, found a saved model"):
        mc.PermutationSpec.load(other)
    file = write_tensors(tmp_path / "part.safetensors", "symmetry", {}, {"model": "Sequential"})
    with pytest.raises(DamagedFileError, match="expected a whole spec"):
        mc.PermutationSpec.load(file)
    with pytest.raises(FileNotFoundError):
        mc.PermutationSpec.load(tmp_path / "none")
    assert np.isfinite(spec.log10_order)
