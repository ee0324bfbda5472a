"""What runs keep besides weights: a state of chance, an optimizer's state, who they are."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mcbook as mc
from mcbook.checkpoints import (
    Chance,
    check_identity,
    digest_of,
    epoch_seed,
    optimizer_tensors,
    restore_optimizer_,
)
from mcbook.optimization import make_optimizer
from mcbook.saving import read_tensors, write_tensors

CPU = torch.device("cpu")


# chance -------------------------------------------------------------------------------------


def drawn(chance: Chance, note: bool = True) -> list[float]:
    with chance.taken():
        numbers = torch.rand(3).tolist()
        if note:
            chance.note()
    return numbers


def test_a_run_has_the_numbers_of_its_seed(same_random_state: None) -> None:
    first = drawn(Chance(3, CPU))
    torch.rand(1, generator=torch.Generator())
    assert drawn(Chance(3, CPU)) == first
    assert drawn(Chance(4, CPU)) != first
    with torch.random.fork_rng():
        torch.manual_seed(99)  # what was drawn before has no part in it
        assert drawn(Chance(3, CPU)) == first


def test_what_was_noted_is_gone_on_from(same_random_state: None) -> None:
    with Chance(3, CPU).taken():
        whole = torch.rand(9).tolist()
    parts = Chance(3, CPU)
    assert drawn(parts) + drawn(parts) + drawn(parts) == whole
    forgetful = Chance(3, CPU)
    assert drawn(forgetful, note=False) == drawn(forgetful) == whole[:3]


def test_a_state_can_be_kept_and_given_to_another(same_random_state: None) -> None:
    one, other = Chance(3, CPU), Chance(8, CPU)
    drawn(one)
    state = {name: x.clone() for name, x in one.state.items()}
    assert list(state) == ["cpu"]
    later = drawn(one)
    other.state = state
    assert drawn(other) == later


def test_the_numbers_of_others_go_on_where_they_were() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4).tolist()
    torch.manual_seed(5)
    found = torch.rand(2).tolist()
    chance = Chance(1, CPU)
    drawn(chance)

    def failing() -> None:
        with chance.taken():
            torch.rand(7)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert found + torch.rand(2).tolist() == expected


def test_seeds_of_epochs_are_all_different() -> None:
    seeds = [epoch_seed(seed, epoch) for seed in range(30) for epoch in range(30)]
    assert len(set(seeds)) == 900
    assert all(0 <= s < 2**63 for s in seeds)
    assert min(abs(a - b) for a, b in pairwise(seeds)) > 2**32  # far apart
    assert epoch_seed(4, 7) == epoch_seed(4, 7) != epoch_seed(7, 4)
    torch.Generator().manual_seed(max(seeds))


# digests and identity -----------------------------------------------------------------------


def test_a_digest_is_of_names_and_values() -> None:
    x = torch.arange(48.0).reshape(2, 2, 3, 4)
    digest = digest_of({"a": x, "n": torch.tensor(3)})
    assert len(digest) == 16
    assert int(digest, 16) >= 0
    same = x.clone().contiguous(memory_format=torch.channels_last)
    assert digest_of({"a": same, "n": torch.tensor(3)}) == digest
    nearly = x.clone()
    nearly[1, 1, 2, 3] += 4e-6  # the next number
    for other in (
        {"a": nearly, "n": torch.tensor(3)},
        {"a": x, "n": torch.tensor(4)},
        {"b": x, "n": torch.tensor(3)},
        {"a": x},
    ):
        assert digest_of(other) != digest
    assert digest_of({"a": x.bfloat16()}) != digest_of({"a": x})


def test_another_run_is_refused_by_its_first_difference() -> None:
    expected = {"lr": 0.1, "seed": 0, "attack": None}
    check_identity("run", dict(expected), expected)
    check_identity("run", {**expected, "more": 1}, expected)
    for found, said in (
        ({**expected, "lr": 0.2}, "run is a checkpoint of another run: expected lr = 0.1, found 0"),
        ({**expected, "seed": 1, "attack": {"epsilon": 1}}, "expected seed = 0, found 1"),
        ({"lr": 0.1, "attack": None}, "expected seed = 0, found None"),
        ({**expected, "attack": {"epsilon": 1}}, "attack = None, found {'epsilon': 1}"),
    ):
        with pytest.raises(mc.IncompatibleError, match=said):
            check_identity("run", found, expected)


# optimizers ---------------------------------------------------------------------------------


def parameters() -> list[Tensor]:
    """A kernel in another memory layout, one that never has a gradient, a number, a matrix."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(3, 2, 3, 3, generator=generator)
    return [
        kernel.contiguous(memory_format=torch.channels_last).requires_grad_(),
        torch.ones(5, requires_grad=True),
        torch.tensor(0.7, requires_grad=True),
        torch.randn(4, 3, generator=generator).requires_grad_(),
    ]


def walk(optimizer: torch.optim.Optimizer, trained: list[Tensor], begin: int, end: int) -> None:
    for step in range(begin, end):
        kernel, _, number, matrix = trained
        loss = (kernel.pow(4).sum() * number).cos() + (matrix - step).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "momentum"), [("sgd", 0.9), ("sgd", 0.0), ("adam", 0.0), ("adamw", 0.0)]
)
def test_an_optimizer_goes_on_from_its_tensors(tmp_path: Path, name: str, momentum: float) -> None:
    def make(trained: list[Tensor]) -> torch.optim.Optimizer:
        return make_optimizer(name, trained, 0.05, momentum, 0.01)

    whole = parameters()
    walk(make(whole), whole, 0, 9)
    first = parameters()
    optimizer = make(first)
    walk(optimizer, first, 0, 4)
    before = copy.deepcopy(optimizer.state_dict())
    kept = optimizer_tensors(optimizer)
    assert all(isinstance(x, Tensor) for x in kept.values())
    keys = {"sgd": ["momentum_buffer"] if momentum else []}.get(
        name, ["step", "exp_avg", "exp_avg_sq"]
    )
    assert set(kept) == {f"{i}.{key}" for i in (0, 2, 3) for key in keys}
    write_tensors(tmp_path / "kept", "optimizer", kept, {})
    kept, _ = read_tensors(tmp_path / "kept", "optimizer")
    second = [x.detach().clone().requires_grad_() for x in first]
    restored = make(second)
    restore_optimizer_(restored, kept)
    after = restored.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert set(after["state"]) == ({0, 2, 3} if keys else set())
    for i, state in after["state"].items():
        for key, x in state.items():
            assert torch.equal(x, before["state"][i][key])
            assert x.dtype == before["state"][i][key].dtype
            if x.shape == second[i].shape:
                assert x.stride() == second[i].stride()
    walk(restored, second, 4, 9)
    assert all(torch.equal(x, y) for x, y in zip(second, whole, strict=True))
