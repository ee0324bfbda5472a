"""PAM: what it depends on, that it goes on where it was stopped, what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from alignment.proximal_runs import Residual, pam, same, trained
from torch import nn

import mcbook as mc
from mcbook.alignment import proximal_run
from mcbook.alignment.relaxation import Relaxation


@pytest.fixture(scope="module")
def data(digits: mc.Data) -> mc.Data:
    return digits.subset(train=120, test=30, seed=2)


@pytest.fixture(scope="module")
def nets(data: mc.Data) -> list[nn.Module]:
    """Two perceptrons."""
    return [trained("mlp", data, s, width=(8, 6)) for s in range(2)]


# what it depends on -------------------------------------------------------------------------


@pytest.mark.usefixtures("same_random_state")
def test_nothing_given_changes(nets: list[nn.Module], data: mc.Data, untouched: Callable) -> None:
    x = data.train.x.clone()
    recipe = {"lr": 0.01}
    before = [untouched(m) for m in nets]
    pam(nets, data, curve_steps=2, curve_recipe=recipe)
    for check in before:
        check()
    assert torch.equal(data.train.x, x)
    assert recipe == {"lr": 0.01}


def test_the_seed_and_the_options_decide(nets: list[nn.Module], data: mc.Data) -> None:
    base = {"seed": 1, "steps": 8, "draws": 4, "lr": 3.0}
    first = pam(nets, data, **base)
    assert same(first, pam(nets, data, **base))
    changes: list[dict[str, Any]] = [
        {"seed": 2}, {"lr": 0.3}, {"optimizer": "adam"}, {"schedule": "constant"},
        {"batch_size": 17}, {"nu": 1.0}, {"draws": 5}, {"points": 4}, {"terms": 1},
        {"start": mc.trace_symmetry(nets[0]).random(5)},
    ]  # fmt: skip
    for change in changes:
        assert not same(first, pam(nets, data, **{**base, **change})), change


def test_a_start_is_gone_on_from(nets: list[nn.Module], data: mc.Data) -> None:
    """From π it is as from the identity with π(B), then after π."""
    p = mc.trace_symmetry(nets[0]).random(0)
    moved = mc.permute(nets[1], p)
    given = pam(nets, data, start=p)
    plain = pam([nets[0], moved], data)
    assert given.objective == plain.objective
    assert given.permutation == plain.permutation @ p
    matched = mc.weight_matching(*nets)
    al = pam(nets, data, start=matched)
    assert al.objective == pam(nets, data, start=matched.permutation).objective


# interrupted --------------------------------------------------------------------------------


class Interrupted(Exception):
    """Like Ctrl-C."""


@pytest.mark.parametrize(("optimizer", "start"), [("sgd", None), ("adam", "given")])
def test_an_interrupted_run_goes_on_to_the_same_result(
    nets: list[nn.Module], data: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    optimizer: str, start: str | None,
) -> None:  # fmt: skip
    begin = mc.trace_symmetry(nets[0]).random(0) if start else None
    options = {
        "optimizer": optimizer, "lr": 0.3, "rounds": 2, "steps": 12, "draws": 3, "curve_steps": 5,
        "start": begin, "seed": 3,
    }  # fmt: skip
    whole = pam(nets, data, **options)
    real, steps = Relaxation.lower, 0

    def lower(self: Any, *args: Any) -> float:
        nonlocal steps
        steps += 1
        if steps in (10, 24):
            raise Interrupted
        return real(self, *args)

    monkeypatch.setattr(Relaxation, "lower", lower)
    file = tmp_path / "run.safetensors"
    for _ in range(2):  # in an epoch of the first round, and of the second
        with pytest.raises(Interrupted):
            pam(nets, data, checkpoint=file, **options)
    went_on = pam(nets, data, checkpoint=file, **options)
    assert steps == 28  # it did not begin anew each time
    assert same(went_on, whole)
    points = (x.facts["path"].control_points for x in (went_on, whole))
    assert all(torch.equal(x, y) for x, y in zip(*(p.values() for p in points), strict=True))
    # and a finished one is there at once
    monkeypatch.setattr(Relaxation, "lower", None)
    monkeypatch.setattr(proximal_run, "fit_curve", None)
    assert same(pam(nets, data, checkpoint=file, **options), whole)


@pytest.mark.parametrize("where", ["choose", "bend", "finish_round"])
def test_interrupted_between_the_steps(
    nets: list[nn.Module], data: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:  # fmt: skip
    options = {"rounds": 2, "curve_steps": 3, "steps": 4, "draws": 3, "curve_recipe": {"lr": 0.01}}
    whole = pam(nets, data, **options)
    for begun in (1, 2):
        file, calls, real = tmp_path / f"run{begun}", 0, getattr(proximal_run.Run, where)

        def stopped(self: Any, *args: Any) -> None:
            nonlocal calls
            calls += 1
            real(self, *args)  # noqa: B023
            if calls == begun:  # noqa: B023
                raise Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(proximal_run.Run, where, stopped)
            with pytest.raises(Interrupted):
                pam(nets, data, checkpoint=file, **options)
        assert same(pam(nets, data, checkpoint=file, **options), whole)


def test_checkpoints_of_other_runs_are_refused(
    nets: list[nn.Module], data: mc.Data, tmp_path: Path
) -> None:
    file = tmp_path / "run"
    options = {"steps": 2, "draws": 1, "curve_steps": 1, "checkpoint": file}
    pam(nets, data, **options)
    kept = file.read_bytes()
    changes = {
        "steps": 3, "lr": 0.02, "optimizer": "adam", "schedule": "constant", "batch_size": 17,
        "draws": 2, "terms": 3, "nu": 5.0, "points": 2, "rounds": 2, "curve_steps": 2,
        "curve_recipe": {"lr": 0.1}, "seed": 1, "start": mc.trace_symmetry(nets[0]).random(0),
    }  # fmt: skip
    for name, value in changes.items():
        with pytest.raises(mc.IncompatibleError, match=rf"another run: expected {name} = .*found"):
            pam(nets, data, **{**options, name: value})
    with pytest.raises(mc.IncompatibleError, match="another run: expected data"):
        pam(nets, data.subset(train=100), **options)
    other = copy.deepcopy(nets[1])
    with torch.no_grad():
        other.linear1.bias[0] += 1
    for pair, name in (([nets[0], other], "B"), ([other, nets[1]], "A")):
        with pytest.raises(mc.IncompatibleError, match=rf"another run: expected {name} ="):
            pam(pair, data, **options)
    assert file.read_bytes() == kept
    model = mc.save_model(nets[0], tmp_path / "model")
    with pytest.raises(mc.DamagedFileError, match="a saved proximal run, found a saved model"):
        pam(nets, data, **{**options, "checkpoint": model})


# what is refused ----------------------------------------------------------------------------

OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"start": "a"}, TypeError, "expected None, an Alignment or a Permutation as start, found str"),
    ({"start": mc.Permutation({"linear1": range(8)})}, mc.IncompatibleError, "every space"),
    ({"start": mc.Permutation({"linear1": range(9)})}, mc.IncompatibleError, "8 units in space"),
    ({"start": mc.Permutation({"conv1": range(8)})}, mc.UnknownNameError, "unknown space 'conv1'"),
    ({"optimizer": "sgdd"}, mc.UnknownNameError, "unknown optimizer 'sgdd'; did you mean 'sgd'"),
    ({"schedule": "cosin"}, mc.UnknownNameError, "unknown schedule 'cosin'; did you mean 'cosi"),
    ({"steps": 0}, ValueError, "expected steps of at least 1, found 0"),
    ({"batch_size": 0}, ValueError, "expected batch_size of at least 1, found 0"),
    ({"terms": 0}, ValueError, "expected terms of at least 1, found 0"),
    ({"points": 0}, ValueError, "expected points of at least 1, found 0"),
    ({"rounds": 0}, ValueError, "expected rounds of at least 1, found 0"),
    ({"draws": -1}, ValueError, "expected draws of at least 0, found -1"),
    ({"curve_steps": -1}, ValueError, "expected curve_steps of at least 0, found -1"),
    ({"seed": -1}, ValueError, "expected seed of at least 0, found -1"),
    ({"lr": 0.0}, ValueError, "a learning rate above 0, found 0.0"),
    ({"lr": math.nan}, ValueError, "a learning rate above 0, found nan"),
    ({"lr": math.inf}, ValueError, "a learning rate above 0, found inf"),
    ({"nu": 0.0}, ValueError, "expected nu above 0, found 0.0"),
    ({"nu": -1.0}, ValueError, "expected nu above 0, found -1.0"),
    ({"nu": math.nan}, ValueError, "expected nu above 0, found nan"),
    ({"curve_recipe": {"lr": 1}}, ValueError, "no curve_recipe where curve_steps is 0"),
    ({"curve_steps": 1, "curve_recipe": {"lrr": 1}}, mc.UnknownNameError, "'lrr'; did you mean"),
]


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS)
def test_options(
    nets: list[nn.Module], data: mc.Data, options: dict[str, Any], kind: type[Exception],
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(kind, match=message):
        pam(nets, data, **options)


def test_what_is_no_data_no_images_and_other_networks(nets: list[nn.Module], data: mc.Data) -> None:
    for wrong in ("digits", None, data.train):
        with pytest.raises(TypeError, match="expected data, as load_data or data_from_arrays"):
            pam(nets, wrong)
    none = dataclasses.replace(data, train=mc.Split(data.train.x[:0], data.train.y[:0]))
    with pytest.raises(ValueError, match="expected at least one training image, found none"):
        pam(nets, none)
    other = mc.build_model("mlp", data, width=(8, 5))
    with pytest.raises(mc.IncompatibleError, match="expected two networks of one architecture"):
        pam([nets[0], other], data)
    with pytest.raises(mc.IncompatibleError, match="tensors of this spec"):
        pam(nets, data, spec=mc.trace_symmetry(other))
    broken = copy.deepcopy(nets[1])
    with torch.no_grad():
        broken.linear1.bias[0] = math.nan
    with pytest.raises(ValueError, match="finite weights"):
        pam([nets[0], broken], data)
    with pytest.raises(ValueError, match="whose last batch has at least two images"):
        pam([Residual(0), Residual(1)], data.subset(train=33), example=data.train.x[:1])


def test_a_run_that_diverges_says_so(nets: list[nn.Module], data: mc.Data) -> None:
    with pytest.raises(FloatingPointError, match="smaller learning rate"):
        pam(nets, data, lr=1e40)
    huge = [copy.deepcopy(m) for m in nets]
    with torch.no_grad():
        for m in huge:
            m.output.weight.mul_(1e30)
            m.linear2.weight.mul_(1e30)
    with pytest.raises(FloatingPointError, match="a finite loss at the start"):
        pam(huge, data)
