from __future__ import annotations

import copy

import pytest
import torch

import mcbook as mc
from mcbook.progress import Bar
from mcbook.runs import Recipe, Run
from tests.test_training import everything, same

RECIPE = Recipe(optimizer="adam", lr=0.01, batch_size=16, augment=True)


def half_way(data: mc.Data, seed: int = 3) -> Run:
    run = Run(everything(), data, 3, seed, RECIPE)
    run.advance(7, Bar(0, ""), None)
    return run


def assert_same_state(a: Run, b: Run) -> None:
    assert same(a.model, b.model)
    assert (a.step, a.seen, a.rows) == (b.step, b.seen, b.rows)
    x, y = a.optimizer.state_dict(), b.optimizer.state_dict()
    assert x["param_groups"] == y["param_groups"]
    assert list(x["state"]) == list(y["state"])
    for index, state in x["state"].items():
        for key, value in state.items():
            assert torch.equal(value, y["state"][index][key]), key


def test_a_fork_has_the_weights_and_the_optimizer_of_the_run(tiny: mc.Data) -> None:
    run = half_way(tiny)
    for seed in (3, 8):
        fork = run.fork(seed)
        assert fork.step == 7
        assert_same_state(run, fork)
        assert torch.equal(run.random.state["cpu"], fork.random.state["cpu"]) == (seed == 3)


def test_a_fork_goes_its_own_way(tiny: mc.Data) -> None:
    run, twin = half_way(tiny), half_way(tiny)
    for seed in (3, 8):
        run.fork(seed).advance(12, Bar(0, ""), None)
    assert_same_state(run, twin)


@pytest.mark.parametrize(("shared", "step"), [(0, 0), (0.3, 2), (0.5, 2), (1, 5), (1.3, 6)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_spawned_copies_part_with_equal_weights_and_optimizers(
    shared: float, step: int, optimizer: str, tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five steps an epoch: the fork is at the nearest whole step."""
    forks: list[Run] = []
    plain = Run.fork

    def fork(run: Run, seed: int) -> Run:
        copied = plain(run, seed)
        forks.append(copy.deepcopy(copied))  # before it goes its own way
        return copied

    monkeypatch.setattr(Run, "fork", fork)
    recipe = {"optimizer": optimizer, "lr": 0.01, "batch_size": 16, "augment": True}
    spawned = mc.spawn(everything(), tiny, shared, 2, seeds=(3, 8), **recipe)
    first, second = forks
    assert first.step == second.step == step
    assert_same_state(first, second)
    assert same(first.model, everything()) == (step == 0)
    assert (len(first.optimizer.state_dict()["state"]) > 0) == (step > 0)
    plainly = Run(everything(), tiny, 2, 3, Recipe(**recipe))
    plainly.advance(step, Bar(0, ""), None)
    assert_same_state(plainly, second)
    assert not same(*spawned)


def test_the_steps_may_be_taken_in_any_portions(tiny: mc.Data) -> None:
    whole, parts = (Run(everything(), tiny, 3, 0, RECIPE) for _ in range(2))
    whole.advance(whole.total, Bar(0, ""), None)
    for until in (1, 4, 5, 11, 15):
        parts.advance(until, Bar(0, ""), None)
    assert same(whole.result(), parts.result())


def test_the_identity_names_all_that_matters(tiny: mc.Data) -> None:
    identity = Run(everything(), tiny, 3, 0, RECIPE).identity()
    assert {"optimizer", "lr", "batch_size", "epochs", "seed", "data"} <= set(identity)
    assert identity["data"] == tiny.fingerprint
    assert identity == Run(everything(), tiny, 3, 0, RECIPE).identity()
    changed = Run(everything(1), tiny, 3, 0, RECIPE).identity()
    assert changed["initial weights"] != identity["initial weights"]


@pytest.mark.parametrize("epochs", [0.5, 3])
def test_a_run_has_whole_steps(tiny: mc.Data, epochs: float) -> None:
    run = Run(everything(), tiny, epochs, 0, RECIPE)
    assert run.steps_per_epoch == 5
    assert run.total == round(5 * epochs)
