from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook import training, weights
from mcbook.saving import read_tensors
from tests import reference

Untouched = Callable[[nn.Module], Callable[[], None]]

# every part of a run's state is in at least one of these
RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "weight_decay": 0.01},
    "sgd without momentum": {"momentum": 0.0},
    "adam": {"optimizer": "adam", "lr": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
    "cosine": {"schedule": "cosine"},
    "onecycle": {"schedule": "onecycle"},
    "augment": {"augment": True},
    "bfloat16": {"precision": "bfloat16"},
    "channels last": {"channels_last": True},
    "channels last with adam": {"channels_last": True, "optimizer": "adam", "lr": 0.01},
}


def everything(seed: int = 0) -> nn.Module:
    """A network with all that a run must keep: convolution, batch norm, dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64, 10),
        )


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[name], y[name]) for name in x)


class Killed(BaseException):
    """As unstoppable as a signal."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the next run be killed when its bar has advanced so far."""

    class Bomb(training.Bar):
        done = 0

        def advance(self, steps: int = 1, **numbers: float) -> None:
            self.done += steps
            if self.done >= step:
                raise Killed

    monkeypatch.setattr(training, "Bar", Bomb)


# against the slow ---------------------------------------------------------------------------


class Recording(nn.Module):
    """Notes which images it was trained on: pixel 0 of image i is i / 100."""

    def __init__(self, model: nn.Module, log: list[list[int]]):
        super().__init__()
        self.model, self.__dict__["log"] = model, log

    def __deepcopy__(self, memo: dict) -> Recording:
        with torch.no_grad():
            model = nn.Sequential(*[type(m)(m.in_features, m.out_features)
                                    if isinstance(m, nn.Linear) else type(m)()
                                    for m in self.model])  # fmt: skip
            model.load_state_dict(self.model.state_dict())
        return Recording(model, self.__dict__["log"])

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.__dict__["log"].append([round(100 * float(v)) for v in x[:, 0, 0, 0]])
        return self.model(x)


def numbered(count: int = 21) -> mc.Data:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 101, (count, 3, 3), dtype=np.uint8)
    x[:, 0, 0] = np.arange(count)
    y = rng.integers(0, 4, count)
    return mc.data_from_arrays(x, y, x[:3], y[:3], classes=tuple("abcd"), white=100)


def recorded(data: mc.Data, **options: Any) -> tuple[list[list[int]], nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4))
    log: list[list[int]] = []
    trained = mc.train(Recording(model, log), data, **options)
    return log, model, trained.model


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_training_is_the_plain_loop(name: str) -> None:
    data = numbered()
    lr = 0.1 if name == "sgd" else 0.01
    log, start, trained = recorded(
        data, epochs=4, optimizer=name, lr=lr, momentum=0.8, weight_decay=0.05, batch_size=8
    )
    step = {
        "sgd": reference.sgd(lr, 0.8, 0.05),
        "adam": reference.adam(lr, 0.05, apart=False),
        "adamw": reference.adam(lr, 0.05, apart=True),
    }[name]
    batches = [(data.train.x[chosen], data.train.y[chosen]) for chosen in log]
    slow = reference.train_mlp(start.state_dict(), batches, step)
    for key, value in trained.state_dict().items():
        np.testing.assert_allclose(value.numpy(), slow[key], rtol=1e-3, atol=2e-5)


def test_the_schedule_is_followed_step_by_step() -> None:
    data = numbered()
    log, start, trained = recorded(
        data, epochs=3, lr=0.3, momentum=0.0, batch_size=8, schedule="cosine"
    )
    w = {name: x.double().numpy() for name, x in start.state_dict().items()}
    for k, chosen in enumerate(log):
        rate = reference.learning_rate("cosine", 0.3, k, 9)
        tensors = {name: torch.from_numpy(x) for name, x in w.items()}
        batch = [(data.train.x[chosen], data.train.y[chosen])]
        w = reference.train_mlp(tensors, batch, reference.sgd(rate, 0, 0))
    for key, value in trained.state_dict().items():
        np.testing.assert_allclose(value.numpy(), w[key], rtol=1e-3, atol=2e-5)


def test_an_epoch_has_every_image_once_and_its_own_order() -> None:
    data = numbered()
    log, _, _ = recorded(data, epochs=3, batch_size=8)
    assert [len(batch) for batch in log] == [8, 8, 5] * 3
    epochs = [list(chain(*log[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    other = chain(*recorded(data, epochs=1, batch_size=8, seed=1)[0])
    orders = {tuple(order) for order in [*epochs, other, range(21)]}
    assert len(orders) == 5


def test_fractions_of_an_epoch_are_whole_steps() -> None:
    for epochs, steps in ((0, 0), (1 / 3, 1), (0.5, 2), (1.7, 5), (2.34, 7)):
        log, _, _ = recorded(numbered(), epochs=epochs, batch_size=8)
        assert len(log) == steps


def test_history_is_what_an_evaluation_finds(tiny: mc.Data) -> None:
    model = mc.train(mc.build_model("mlp", tiny, width=8), tiny, 3.5, batch_size=16, lr=0.1)
    assert list(model.history.columns) == [
        "epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy",
    ]  # fmt: skip
    assert model.history["epoch"].tolist() == [1, 2, 3, 3.6]
    assert model.history["lr"].tolist() == [0.1] * 4
    loss, accuracy = reference.evaluate(model, tiny.test.x, tiny.test.y)
    assert math.isclose(model.history["test_loss"].iloc[-1], loss, rel_tol=1e-5)
    assert model.history["test_accuracy"].iloc[-1] == accuracy


def test_train_loss_is_the_mean_over_images_as_seen(tiny: mc.Data) -> None:
    # with so small a rate that the network stands still
    model = mc.build_model("mlp", tiny, width=8)
    trained = mc.train(model, tiny, 1, batch_size=16, lr=1e-12)
    loss, accuracy = reference.evaluate(model, tiny.train.x, tiny.train.y)
    assert math.isclose(trained.history["train_loss"].iloc[0], loss, rel_tol=1e-5)
    assert math.isclose(trained.history["train_accuracy"].iloc[0], accuracy, rel_tol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_perceptron_learns_the_digits(digits: mc.Data, seed: int) -> None:
    model = mc.train(mc.build_model("mlp", digits, width=64, seed=seed), digits, 15, seed=seed)
    assert model.history["test_accuracy"].iloc[-1] >= 0.93
    assert model.history["train_loss"].iloc[-1] < 0.2 * model.history["train_loss"].iloc[0]


# one seed, one result -----------------------------------------------------------------------


@pytest.mark.usefixtures("same_random_state")
@pytest.mark.parametrize("recipe", RECIPES)
def test_one_seed_gives_one_network_to_the_last_bit(tiny: mc.Data, recipe: str) -> None:
    options = {"batch_size": 16, **RECIPES[recipe]}
    first = mc.train(everything(), tiny, 2, seed=3, **options)
    with torch.random.fork_rng():
        torch.manual_seed(99)  # whatever happened before
        torch.rand(17)
        again = mc.train(everything(), tiny, 2, seed=3, **options)
    assert same(first, again)
    pd.testing.assert_frame_equal(first.history, again.history, check_exact=True)
    assert not same(first, mc.train(everything(), tiny, 2, seed=4, **options))


@pytest.mark.usefixtures("same_random_state")
@pytest.mark.parametrize("recipe", ["adamw", "augment", "channels last"])
def test_the_model_given_is_not_changed(tiny: mc.Data, untouched: Untouched, recipe: str) -> None:
    model = everything().train()
    model[1].eval()
    unchanged = untouched(model)
    trained = mc.train(model, tiny, 1, **RECIPES[recipe])
    unchanged()
    assert trained is not model
    assert not any(m.training for m in trained.modules())
    assert all(p.grad is None for p in trained.parameters())
    assert trained.example_shape == tiny.shape
    assert not same(trained, model)


def test_training_goes_on_from_the_weights_given(tiny: mc.Data) -> None:
    model = everything()
    assert same(mc.train(model, tiny, 0), model)
    assert len(mc.train(model, tiny, 0).history) == 0
    assert mc.train(mc.build_model("mlp", tiny, width=2), tiny, 0).architecture["name"] == "mlp"


def test_frozen_parameters_stay(tiny: mc.Data) -> None:
    model = everything()
    model[0].weight.requires_grad_(False)
    trained = mc.train(model, tiny, 1, optimizer="adamw", weight_decay=0.1)
    assert torch.equal(trained[0].weight, model[0].weight)
    assert not trained[0].weight.requires_grad
    assert not torch.equal(trained[3].weight, model[3].weight)


def test_layout_and_precision_change_the_numbers_only_a_little(tiny: mc.Data) -> None:
    plain, last, low = (
        mc.train(everything(), tiny, 1, lr=0.01, **options)
        for options in ({}, {"channels_last": True}, {"precision": "bfloat16"})
    )
    size = weights.distance(weights.of(plain), weights.of(everything()))
    assert weights.distance(weights.of(plain), weights.of(last)) < 1e-3 * size
    assert 0 < weights.distance(weights.of(plain), weights.of(low)) < 0.5 * size
    assert last[0].weight.is_contiguous()


# interrupted and resumed --------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_interrupted_and_resumed_is_uninterrupted(
    tiny: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    # 5 steps an epoch: killed within the second, then within the third epoch
    run: dict[str, Any] = {"epochs": 3.4, "seed": 2, "batch_size": 16, **RECIPES[recipe]}
    whole = mc.train(everything(), tiny, **run)
    file = tmp_path / "run.safetensors"
    for moment in (8, 6):
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            with pytest.raises(Killed):
                mc.train(everything(), tiny, checkpoint=file, **run)
    _, header = read_tensors(file, "training")
    assert header["step"] == 10
    with torch.random.fork_rng():
        torch.manual_seed(7)
        resumed = mc.train(everything(), tiny, checkpoint=file, **run)
    assert same(whole, resumed)
    pd.testing.assert_frame_equal(whole.history, resumed.history, check_exact=True)


def test_a_checkpoint_changes_nothing_and_a_finished_run_is_returned(
    tiny: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run"
    plain = mc.train(everything(), tiny, 2)
    assert same(plain, mc.train(everything(), tiny, 2, checkpoint=file))
    kill_at(monkeypatch, 1)  # not a step more is taken
    again = mc.train(everything(), tiny, 2, checkpoint=file)
    assert same(plain, again)
    pd.testing.assert_frame_equal(plain.history, again.history, check_exact=True)
    assert os.listdir(tmp_path) == ["run"]


def test_a_killed_process_resumes_to_the_same_weights(tiny: mc.Data, tmp_path: Path) -> None:
    file = tmp_path / "run"
    child = """
import sys, time
import torch
import mcbook as mc
from tests.test_training import everything
torch.set_num_threads(1)
data = mc.load_data("digits", device="cpu").subset(train=70, test=30, seed=1)
model = everything()
model.register_forward_hook(lambda *_: time.sleep(0.01))
mc.train(model, data, 12, lr=0.1, batch_size=16, augment=True, checkpoint=sys.argv[1])
"""
    root = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", child, str(file)], cwd=root)
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    _, header = read_tensors(file, "training")
    assert 0 < header["step"] < 60
    run: dict[str, Any] = {"epochs": 12, "lr": 0.1, "batch_size": 16, "augment": True}
    resumed = mc.train(everything(), tiny, checkpoint=file, **run)
    assert same(resumed, mc.train(everything(), tiny, **run))


# spawn --------------------------------------------------------------------------------------

SPAWN: dict[str, Any] = {"epochs": 3, "lr": 0.05, "batch_size": 16, "augment": True}


@pytest.mark.parametrize("shared", [0, 0.6, 1, 1.5, 3])
def test_the_first_copy_is_plain_training(tiny: mc.Data, shared: float) -> None:
    first, second = mc.spawn(everything(), tiny, shared, seeds=(4, 5), **SPAWN)
    plain = mc.train(everything(), tiny, seed=4, **SPAWN)
    assert same(first, plain)
    pd.testing.assert_frame_equal(first.history, plain.history, check_exact=True)
    assert same(first, second) == (shared == 3)
    together = int(shared)
    pd.testing.assert_frame_equal(
        first.history[:together], second.history[:together], check_exact=True
    )


@pytest.mark.parametrize("recipe", ["sgd", "adam", "channels last"])
def test_sharing_nothing_is_training_apart(tiny: mc.Data, recipe: str) -> None:
    options = {"batch_size": 16, **RECIPES[recipe]}
    copies = mc.spawn(everything(), tiny, 0, epochs=2, seeds=(3, 1, 2), **options)
    for copied, seed in zip(copies, (3, 1, 2), strict=True):
        assert same(copied, mc.train(everything(), tiny, 2, seed=seed, **options))


@pytest.mark.usefixtures("same_random_state")
def test_spawn_changes_no_model_and_copies_are_apart(tiny: mc.Data, untouched: Untouched) -> None:
    model = everything()
    unchanged = untouched(model)
    a, b = mc.spawn(model, tiny, 1, seeds=(0, 0), **SPAWN)
    unchanged()
    assert same(a, b)
    with torch.no_grad():
        a[0].weight.zero_()
    assert not same(a, b)


def test_the_longer_together_the_nearer(digits: mc.Data) -> None:
    model = mc.build_model("mlp", digits, width=16)
    gaps = []
    for shared in (0, 4, 7.5, 8):
        a, b = mc.spawn(model, digits, shared, epochs=8, lr=0.1)
        gaps.append(weights.distance(weights.of(a), weights.of(b)))
    assert gaps[0] > 1.3 * gaps[1]
    assert gaps[1] > 1.3 * gaps[2]
    assert gaps[2] > gaps[3] == 0


@pytest.mark.parametrize("recipe", ["sgd", "adamw", "channels last"])
@pytest.mark.parametrize("moment", [2, 9, 18])
def test_spawn_killed_anywhere_resumes(
    tiny: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, moment: int
) -> None:
    # 7 shared steps, then 8 for each copy
    run: dict[str, Any] = {"shared_epochs": 1.4, "epochs": 3, "batch_size": 16, **RECIPES[recipe]}
    whole = mc.spawn(everything(), tiny, **run)
    with monkeypatch.context() as patch:
        kill_at(patch, moment)
        with pytest.raises(Killed):
            mc.spawn(everything(), tiny, checkpoint=tmp_path / "run.st", **run)
    for _ in range(2):  # resumed, then finished
        resumed = mc.spawn(everything(), tiny, checkpoint=tmp_path / "run.st", **run)
        assert all(same(a, b) for a, b in zip(whole, resumed, strict=True))
    assert sorted(os.listdir(tmp_path)) == ["run-0.st", "run-1.st", "run-shared.st"]


@pytest.mark.parametrize("shared", [0, 0.5, 1, 3])
def test_a_checkpoint_of_another_fork_is_refused(
    tiny: mc.Data, tmp_path: Path, shared: float
) -> None:
    mc.spawn(everything(), tiny, 2, checkpoint=tmp_path / "run", **SPAWN)
    with pytest.raises(mc.IncompatibleError, match="checkpoint of another run"):
        mc.spawn(everything(), tiny, shared, checkpoint=tmp_path / "run", **SPAWN)


def test_a_checkpoint_of_another_copy_is_refused(tiny: mc.Data, tmp_path: Path) -> None:
    mc.spawn(everything(), tiny, 1, seeds=(0, 1), checkpoint=tmp_path / "run", **SPAWN)
    with pytest.raises(mc.IncompatibleError, match="expected seed = 2, found 1"):
        mc.spawn(everything(), tiny, 1, seeds=(0, 2), checkpoint=tmp_path / "run", **SPAWN)


# bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "expected seed = 1, found 0"),
        ({"epochs": 3}, "expected epochs = 3, found 2"),
        ({"lr": 0.1}, "expected lr = 0.1, found 0.05"),
        ({"optimizer": "adam"}, "expected optimizer = 'adam', found 'sgd'"),
        ({"augment": True}, "expected augment = True, found False"),
        ({"model": everything(1)}, "expected initial weights = "),
        ({"data": None}, "expected data = "),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_the_difference(
    tiny: mc.Data, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    run: dict[str, Any] = {"model": everything(), "data": tiny, "epochs": 2, "seed": 0}
    file = tmp_path / "run"
    mc.train(**run, checkpoint=file)
    kept = file.read_bytes()
    other = {**run, **change}
    if other["data"] is None:
        other["data"] = tiny.with_label_noise(0.1)
    with pytest.raises(mc.IncompatibleError, match=said) as caught:
        mc.train(**other, checkpoint=file)
    assert str(file) in str(caught.value)
    assert file.read_bytes() == kept


def test_a_damaged_checkpoint_is_named(tiny: mc.Data, tmp_path: Path) -> None:
    file = tmp_path / "run"
    mc.train(everything(), tiny, 1, checkpoint=file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(mc.DamagedFileError, match=str(file)):
        mc.train(everything(), tiny, 1, checkpoint=file)


def test_unknown_names_in_a_recipe_offer_the_close_ones(tiny: mc.Data) -> None:
    for recipe, said in (
        ({"learning_rte": 1}, "unknown field of the recipe 'learning_rte'"),
        ({"moment": 0.5}, r"unknown field of the recipe 'moment'.*'momentum'"),
        ({"optimizer": "sdg"}, r"unknown optimizer 'sdg'.*'sgd'"),
        ({"schedule": "linear"}, r"unknown schedule 'linear'.*constant, cosine, onecycle"),
        ({"precision": "float16"}, r"unknown precision 'float16'.*'bfloat16'"),
    ):
        with pytest.raises(mc.UnknownNameError, match=said):
            mc.train(everything(), tiny, 1, **recipe)
        with pytest.raises(mc.UnknownNameError, match=said):
            mc.spawn(everything(), tiny, 1, 2, **recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf},
        {"batch_size": 0}, {"epochs": -1}, {"epochs": math.nan},
    ],
)  # fmt: skip
def test_numbers_no_run_can_use_are_refused(tiny: mc.Data, recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a"):
        mc.train(everything(), tiny, **{"epochs": 1, **recipe})


@pytest.mark.parametrize("shared", [-0.5, 2.5, math.nan])
def test_a_shared_part_outside_the_whole_is_refused(tiny: mc.Data, shared: float) -> None:
    with pytest.raises(ValueError, match="between 0 and epochs = 2, found"):
        mc.spawn(everything(), tiny, shared, 2)


def test_no_seeds_are_refused(tiny: mc.Data) -> None:
    with pytest.raises(ValueError, match="at least one seed, found none"):
        mc.spawn(everything(), tiny, 1, 2, seeds=())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tiny: mc.Data, bad: float) -> None:
    model = everything()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"1 NaN or infinite entries of 144 in 3\.weight"):
        mc.train(model, tiny, 1)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("batch_size", [16, 70])
def test_a_loss_that_is_no_longer_finite_is_an_error(
    tiny: mc.Data, tmp_path: Path, epochs: int, batch_size: int
) -> None:
    model = mc.build_model("mlp", tiny, width=8)
    file = tmp_path / "run"
    with pytest.raises(FloatingPointError, match="lr = 1e[+]38; a smaller learning rate"):
        mc.train(model, tiny, epochs, lr=1e38, batch_size=batch_size, checkpoint=file)
    assert not file.exists()  # nothing broken is kept


def test_a_last_batch_of_one_image_is_no_trap_for_batch_norm(digits: mc.Data) -> None:
    # 1297 = 81 · 16 + 1: batch norm has no statistics of one vector
    model = mc.build_model("mlp", digits, width=4, norm="batch")
    some = digits.subset(train=33, test=10)
    try:
        mc.train(model, some, 1, batch_size=16)
    except ValueError as error:
        assert "batch_size" in str(error)  # noqa: PT017  (either it works, or it says why not)
