"""Straight-through: the loss halfway falls, a run goes on where it was stopped."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import batch_norm_statistics, evaluate, mixture
from torch import nn

import mcbook as mc
from mcbook import weights

# the name of the module is that of the function, too
MODULE = importlib.import_module("mcbook.alignment.straight_through")


@pytest.fixture(scope="module")
def data(digits: mc.Data) -> mc.Data:
    return digits.subset(train=120, test=30, seed=2)


@pytest.fixture(scope="module")
def nets(data: mc.Data) -> list[nn.Module]:
    """Two perceptrons, a little trained."""
    return [
        mc.train(mc.build_model("mlp", data, width=(12, 10), seed=s), data, 12, seed=s,
                 lr=0.1, batch_size=16, progress=False)
        for s in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def convnets(data: mc.Data) -> list[nn.Module]:
    return [
        mc.train(mc.build_model("convnet", data, width=4, norm="batch", seed=s), data, 2, seed=s,
                 batch_size=16, progress=False)
        for s in range(2)
    ]  # fmt: skip


def learn(nets: list[nn.Module], data: mc.Data, **options: Any) -> mc.Alignment:
    options = {"epochs": 3, "batch_size": 16, "progress": False} | options
    return mc.straight_through(*nets, data, **options)


def midpoint(a: nn.Module, b: nn.Module, split: mc.Split) -> float:
    """The loss halfway, image by image in double precision, statistics measured."""
    model = copy.deepcopy(a)
    model.load_state_dict(mixture(weights.of(a), weights.of(b), 0.5))
    return evaluate(batch_norm_statistics(model, split.x), split.x, split.y)[0]


# what comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["a", "random"])
def test_the_loss_halfway_is_the_objective_and_never_higher_than_at_the_start(
    nets: list[nn.Module], data: mc.Data, start: str
) -> None:
    for seed in range(2):
        al = learn(nets, data, start=start, optimizer="adam", epochs=6, seed=seed)
        history = al.facts["history"]
        assert list(history["epoch"]) == list(range(7))
        assert al.objective[0] == -history["midpoint_loss"][0]
        assert al.objective[-1] == -history["midpoint_loss"].min()
        assert al.objective == sorted(al.objective)
        assert -al.objective[-1] == pytest.approx(midpoint(nets[0], al.model, data.train), rel=1e-5)
        moved = mc.permute(nets[1], al.permutation)
        assert all(torch.equal(x, weights.of(moved)[n]) for n, x in weights.of(al.model).items())
        assert not al.model.training
        assert al.method == "straight through"


def test_it_finds_what_the_loss_asks_for(nets: list[nn.Module], data: mc.Data) -> None:
    """From a random start the loss halfway falls, and below that of networks as they are."""
    gains = []
    for seed in range(3):
        al = learn(nets, data, start="random", optimizer="adam", epochs=15, seed=seed)
        gains.append(al.objective[-1] - al.objective[0])
        assert -al.objective[-1] < midpoint(*nets, data.train)
    assert np.mean(gains) > 0.05


def test_the_objective_lists_only_what_became_better(nets: list[nn.Module], data: mc.Data) -> None:
    al = learn(nets, data, lr=1e-9)  # nothing moves
    assert len(al.facts["history"]) == 4
    assert len(al.objective) == 1


def test_from_a_it_begins_with_weight_matching(nets: list[nn.Module], data: mc.Data) -> None:
    for seed in range(3):
        al = learn(nets, data, epochs=0, seed=seed)
        expected = mc.weight_matching(*nets, start="identity", seed=seed)
        assert al.permutation == expected.permutation
        assert -al.objective[0] == pytest.approx(
            midpoint(nets[0], expected.model, data.train), rel=1e-5
        )
        assert len(al.facts["history"]) == 1


def test_from_an_alignment_or_permutation_it_goes_on(nets: list[nn.Module], data: mc.Data) -> None:
    matched = mc.weight_matching(*nets, restarts=3)
    for start in (matched, matched.permutation):
        al = learn(nets, data, epochs=0, start=start)
        assert al.permutation == matched.permutation  # a local optimum already
    p = mc.trace_symmetry(nets[0]).random(0)
    al = learn(nets, data, epochs=0, start=p, seed=4)
    assert al.permutation == p  # measured as it is
    al = learn(nets, data, epochs=1, start=p, seed=4)
    assert al.permutation != p


def test_no_worse_than_the_permutation_it_was_given(data: mc.Data) -> None:
    """One that the loss likes and the weights do not."""
    fresh = [mc.build_model("mlp", data, width=(12, 10), seed=s) for s in range(2)]
    given = learn(fresh, data, start="random", optimizer="adam", epochs=10)
    al = learn(fresh, data, epochs=1, start=given)
    assert al.objective[-1] >= given.objective[-1]


def test_a_shuffled_copy_is_put_in_order(nets: list[nn.Module], data: mc.Data) -> None:
    spec = mc.trace_symmetry(nets[0])
    p = spec.random(3)
    al = learn([nets[0], mc.permute(nets[0], p, spec)], data, epochs=1)
    assert al.permutation == p.inverse()
    assert -al.objective[-1] == pytest.approx(mc.evaluate(nets[0], data.train)[0], rel=1e-5)


# batch norm ---------------------------------------------------------------------------------


def test_networks_with_batch_norm(
    convnets: list[nn.Module], data: mc.Data, untouched: Callable
) -> None:
    convnets[0].train()
    same = [untouched(m) for m in convnets]
    al = learn(convnets, data, epochs=2, optimizer="adam")
    for check in same:
        check()
    convnets[0].eval()
    # B's own statistics, moved along; measured anew only for the loss halfway
    moved = weights.of(mc.permute(convnets[1], al.permutation))
    assert all(torch.equal(x, moved[n]) for n, x in weights.of(al.model).items())
    assert -al.objective[-1] == pytest.approx(midpoint(convnets[0], al.model, data.train), rel=1e-3)


def test_statistics_of_the_networks_do_not_count(convnets: list[nn.Module], data: mc.Data) -> None:
    expected = learn(convnets, data, epochs=2)
    other = [copy.deepcopy(m) for m in convnets]
    for model in other:
        for name, x in model.named_buffers():
            if "running" in name:
                x.mul_(3).add_(1)
    again = learn(other, data, epochs=2)
    assert again.permutation == expected.permutation
    assert again.objective == expected.objective


# what it depends on -------------------------------------------------------------------------


@pytest.mark.usefixtures("same_random_state")
def test_nothing_given_changes(nets: list[nn.Module], data: mc.Data, untouched: Callable) -> None:
    x = data.train.x.clone()
    same = [untouched(m) for m in nets]
    learn(nets, data)
    for check in same:
        check()
    assert torch.equal(data.train.x, x)


def test_the_seed_decides(nets: list[nn.Module], data: mc.Data) -> None:
    options = {"start": "random", "optimizer": "adam"}
    first = [learn(nets, data, seed=s, **options) for s in (0, 1)]
    second = [learn(nets, data, seed=s, **options) for s in (1, 0)]
    for x, y in zip(first, reversed(second), strict=True):
        assert x.permutation == y.permutation
        assert x.facts["history"].equals(y.facts["history"])
    assert first[0].permutation != first[1].permutation


def test_other_options_are_other_runs(nets: list[nn.Module], data: mc.Data) -> None:
    base = {"start": "random", "optimizer": "adam", "lr": 0.03}
    changes: list[dict[str, Any]] = [
        {}, {"optimizer": "sgd"}, {"lr": 0.1}, {"schedule": "cosine"}, {"schedule": "onecycle"},
        {"batch_size": 40},
    ]  # fmt: skip
    found = {tuple(learn(nets, data, **{**base, **c}).facts["history"]["midpoint_loss"])
             for c in changes}  # fmt: skip
    assert len(found) == len(changes)
    plain = {"start": "random", "lr": 0.3}
    one, two = (learn(nets, data, momentum=m, **plain) for m in (0.0, 0.9))
    assert not one.facts["history"].equals(two.facts["history"])


def test_tied_and_frozen_weights(data: mc.Data) -> None:
    class Tied(nn.Module):
        def __init__(self, seed: int):
            super().__init__()
            torch.manual_seed(seed)
            self.first, self.both = nn.Linear(64, 9), nn.Linear(9, 9)
            self.again, self.out = nn.Linear(9, 9), nn.Linear(9, 10)
            self.again.weight = self.both.weight
            self.first.requires_grad_(False)
            self.register_buffer("count", torch.arange(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.both(torch.relu(self.first(x.flatten(1)))))
            return self.out(torch.relu(self.again(h)))

    with torch.random.fork_rng(devices=[]):
        models = [Tied(s) for s in range(2)]
    al = learn(models, data, epochs=2, example=data.train.x[:1])
    assert al.model.again.weight is al.model.both.weight
    assert not al.model.first.weight.requires_grad
    assert -al.objective[-1] == pytest.approx(midpoint(models[0], al.model, data.train), rel=1e-5)


# interrupted --------------------------------------------------------------------------------


class Interrupted(Exception):
    """Like Ctrl-C."""


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("start", ["a", "random", "given"])
def test_an_interrupted_run_goes_on_to_the_same_result(
    nets: list[nn.Module], data: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    optimizer: str, start: str,
) -> None:  # fmt: skip
    file = tmp_path / "run.safetensors"
    begin = mc.trace_symmetry(nets[0]).random(0) if start == "given" else start
    options = {"epochs": 4, "optimizer": optimizer, "lr": 0.05, "start": begin}
    whole = learn(nets, data, schedule="cosine", **options)
    real, steps = MODULE._Run.step, 0

    def step(run: Any, *args: Any) -> None:
        nonlocal steps
        steps += 1
        if steps in (13, 30):
            raise Interrupted
        real(run, *args)

    monkeypatch.setattr(MODULE._Run, "step", step)
    for _ in range(2):  # in the second epoch, and again in the third or fourth
        with pytest.raises(Interrupted):
            learn(nets, data, schedule="cosine", checkpoint=file, **options)
    went_on = learn(nets, data, schedule="cosine", checkpoint=file, **options)
    assert steps < 2 * 4 * 8  # it did not begin anew each time
    assert went_on.permutation == whole.permutation
    assert went_on.objective == whole.objective
    assert went_on.facts["history"].equals(whole.facts["history"])
    # and a finished one is there at once
    monkeypatch.setattr(MODULE._Run, "step", None)
    again = learn(nets, data, schedule="cosine", checkpoint=file, **options)
    assert again.permutation == whole.permutation
    assert again.objective == whole.objective


def test_with_batch_norm_too(
    convnets: list[nn.Module], data: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, options = tmp_path / "run", {"epochs": 2, "lr": 0.1}
    whole = learn(convnets, data, **options)
    real = MODULE._Run.finish_epoch

    def finish(run: Any) -> None:
        real(run)
        if run.epoch == 2:
            raise Interrupted

    monkeypatch.setattr(MODULE._Run, "finish_epoch", finish)
    with pytest.raises(Interrupted):
        learn(convnets, data, checkpoint=file, **options)
    monkeypatch.undo()
    went_on = learn(convnets, data, checkpoint=file, **options)
    assert went_on.facts["history"].equals(whole.facts["history"])
    assert went_on.permutation == whole.permutation


def test_checkpoints_of_other_runs_are_refused(
    nets: list[nn.Module], data: mc.Data, tmp_path: Path
) -> None:
    file = tmp_path / "run"
    learn(nets, data, epochs=1, checkpoint=file)
    for name, value in {
        "epochs": 2, "lr": 0.02, "momentum": 0.5, "optimizer": "adam", "schedule": "cosine",
        "batch_size": 17, "start": "random", "seed": 1,
    }.items():  # fmt: skip
        with pytest.raises(mc.IncompatibleError, match=rf"{name.replace('_', ' ')} = .*found"):
            learn(nets, data, **{"epochs": 1, "checkpoint": file, name: value})
    with pytest.raises(mc.IncompatibleError, match=r"a checkpoint of another run: expected data"):
        learn(nets, data.subset(train=100), epochs=1, checkpoint=file)
    other = copy.deepcopy(nets[1])
    with torch.no_grad():
        other.linear1.bias[0] += 1
    with pytest.raises(mc.IncompatibleError, match="a checkpoint of another run"):
        learn([nets[0], other], data, epochs=1, checkpoint=file)
    kept = file.read_bytes()
    learn(nets, data, epochs=1, checkpoint=file)
    assert file.read_bytes() == kept


def test_files_that_are_no_checkpoints_are_refused(
    nets: list[nn.Module], data: mc.Data, tmp_path: Path
) -> None:
    model = mc.save_model(nets[0], tmp_path / "model")
    with pytest.raises(mc.DamagedFileError, match="straight-through run, found a saved model"):
        learn(nets, data, epochs=1, checkpoint=model)
    cut = tmp_path / "cut"
    learn(nets, data, epochs=1, checkpoint=cut)
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(mc.DamagedFileError):
        learn(nets, data, epochs=1, checkpoint=cut)


# what is refused ----------------------------------------------------------------------------

OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"start": "b"}, mc.UnknownNameError, "unknown start 'b'"),
    ({"start": None}, TypeError, "expected a start out of a, random, an Alignment.*NoneType"),
    ({"start": 3}, TypeError, "found int"),
    ({"start": mc.Permutation({"linear1": range(12)})}, mc.IncompatibleError, "every space"),
    ({"optimizer": "sgdd"}, mc.UnknownNameError, "unknown optimizer 'sgdd'; did you mean 'sgd'"),
    ({"schedule": "cosin"}, mc.UnknownNameError, "unknown schedule 'cosin'; did you mean 'cosi"),
    ({"epochs": -1}, ValueError, "expected epochs from 0.*found -1, 16 and 0.01"),
    ({"batch_size": 0}, ValueError, "a batch size from 1.*found 3, 0 and 0.01"),
    ({"lr": 0.0}, ValueError, "a learning rate above 0, found 3, 16 and 0.0"),
    ({"lr": -1.0}, ValueError, "a learning rate above 0"),
    ({"lr": float("nan")}, ValueError, "a learning rate above 0"),
    ({"lr": float("inf")}, ValueError, "a learning rate above 0"),
]


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS)
def test_options(
    nets: list[nn.Module], data: mc.Data, options: dict[str, Any], kind: type[Exception],
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(kind, match=message):
        learn(nets, data, **options)


def test_unknown_schedules_are_refused_even_where_none_is_needed(
    nets: list[nn.Module], data: mc.Data
) -> None:
    with pytest.raises(mc.UnknownNameError, match="unknown schedule"):
        learn(nets, data, schedule="linear", epochs=0)


@pytest.mark.parametrize("wrong", ["digits", None, 3])
def test_something_that_is_no_data(nets: list[nn.Module], wrong: object) -> None:
    with pytest.raises(TypeError, match="expected data, as load_data or data_from_arrays"):
        mc.straight_through(*nets, wrong)


def test_a_split_alone_is_no_data(nets: list[nn.Module], data: mc.Data) -> None:
    with pytest.raises(TypeError, match="expected data.*found Split"):
        mc.straight_through(*nets, data.train)


def test_no_images(nets: list[nn.Module], data: mc.Data) -> None:
    none = dataclasses.replace(data, train=mc.Split(data.train.x[:0], data.train.y[:0]))
    with pytest.raises(ValueError, match="expected at least one training image, found none"):
        learn(nets, none)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_that_diverges_says_so(nets: list[nn.Module], data: mc.Data, optimizer: str) -> None:
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        learn(nets, data, lr=1e40, optimizer=optimizer)


def test_batches_of_one_image_where_batch_norm_needs_more(data: mc.Data) -> None:
    models = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(),
                      nn.Linear(8, 10))
        for _ in range(2)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"expected a batch_size whose last batch"):
        learn(models, data.subset(train=33), example=data.train.x[:1])
