"""The mean of several networks' probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import mcbook as mc
from mcbook.ensembling import ensemble, path_ensemble
from tests import reference_analysis


class Says(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, *logits: float):
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def several(data: mc.Data, count: int = 3) -> list[nn.Module]:
    """Networks of random weights and of several architectures."""
    kinds = ["mlp", "convnet", "mlp", "mlp", "convnet"]
    models = [mc.build_model(kinds[s], data, width=5 + s, seed=s) for s in range(count)]
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                p.mul_(3)
    return models


def pair(name: str, data: mc.Data) -> list[nn.Module]:
    """Two networks of one architecture, with statistics that have seen images."""
    models = [mc.build_model(name, data, width=6, seed=s) for s in (0, 1)]
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                p.mul_(2)
            model.train()
            model(data.train.x[:30])
            model.eval()
    return models


def test_it_is_the_mean_image_by_image(tiny: mc.Data) -> None:
    models = several(tiny)
    for split in (tiny.train, tiny.test):
        loss, accuracy = ensemble(models, split)
        expected = reference_analysis.ensemble(models, split.x, split.y)
        assert math.isclose(loss, expected[0], rel_tol=1e-5)
        assert math.isclose(accuracy, expected[1], abs_tol=1e-9)


def test_by_hand(tiny: mc.Data) -> None:
    # probabilities 0.8, 0.2 and 0.1, 0.9 for the first two of ten classes
    models = [Says(math.log(p), math.log(1 - p), *[-1000.0] * 8) for p in (0.8, 0.1)]
    y = torch.tensor([0, 1, 0, 0])
    loss, accuracy = ensemble(models, mc.Split(tiny.test.x[:4], y))
    assert math.isclose(loss, -(3 * math.log(0.45) + math.log(0.55)) / 4, rel_tol=1e-6)
    assert accuracy == 0.25


def test_one_network_is_evaluate(small: mc.Data) -> None:
    for model in several(small, 2):
        for split in (small.train, small.test):
            loss, accuracy = ensemble([model], split)
            expected = mc.evaluate(model, split)
            assert math.isclose(loss, expected[0], rel_tol=1e-6)
            assert math.isclose(accuracy, expected[1], abs_tol=1e-12)
            again = ensemble([model] * 4, split)
            assert math.isclose(again[0], loss, rel_tol=1e-9)
            assert again[1] == accuracy


@given(st.permutations(range(5)))
def test_the_order_is_irrelevant(tiny: mc.Data, order: list[int]) -> None:
    models = several(tiny, 5)
    plain, mixed = ensemble(models, tiny.test), ensemble([models[i] for i in order], tiny.test)
    assert math.isclose(plain[0], mixed[0], rel_tol=1e-12)
    assert plain[1] == mixed[1]


@pytest.mark.parametrize("count", [2, 5])
def test_its_loss_is_never_above_the_mean_loss(small: mc.Data, count: int) -> None:
    for models in (pair("mlp", small), several(small, count)):
        for split in (small.train, small.test):
            losses = [mc.evaluate(m, split)[0] for m in models]
            loss, _ = ensemble(models, split)
            # networks that differ gain something
            assert loss < math.fsum(losses) / len(losses) - 1e-3
            assert loss > 0


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(tiny: mc.Data, batch_size: int) -> None:
    models = several(tiny)
    whole, parts = (ensemble(models, tiny.test, n) for n in (2048, batch_size))
    assert math.isclose(whole[0], parts[0], rel_tol=1e-5)
    assert whole[1] == parts[1]


def test_probabilities_too_small_for_floats_still_count(tiny: mc.Data) -> None:
    models = [Says(0.0, *[1000.0] * 9), Says(0.0, *[2000.0] * 9)]
    loss, _ = ensemble(models, mc.Split(tiny.test.x[:1], torch.tensor([0])))
    assert math.isclose(loss, 1000 + math.log(9) + math.log(2), rel_tol=1e-6)


# along a path -------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["none", "reset", None])
def test_points_of_a_path_are_networks_with_their_own_statistics(
    tiny: mc.Data, normalization: str | None
) -> None:
    path = mc.LinearPath(*pair("convnet", tiny))
    models = [path.model_at(t) for t in (0.0, 0.4, 1.0)]
    if normalization != "none":
        models = [mc.reset_batch_norm(m, tiny.train.x) for m in models]
    for split in ("train", "test"):
        found = path_ensemble(path, tiny, (0, 0.4, 1), split, normalization)
        expected = ensemble(models, tiny.split(split))
        assert math.isclose(found[0], expected[0], rel_tol=1e-5)
        assert math.isclose(found[1], expected[1], abs_tol=1e-9)


def test_one_point_is_the_profile_there(tiny: mc.Data) -> None:
    path = mc.LinearPath(*pair("mlp", tiny))
    row = mc.profile(path, tiny, 3).table.iloc[1]
    loss, accuracy = path_ensemble(path, tiny, 0.5)
    assert math.isclose(loss, row["test_loss"], rel_tol=1e-5)
    assert math.isclose(accuracy, row["test_accuracy"], abs_tol=1e-9)
    repaired = mc.profile(path, tiny, 3, normalization="repair").table.iloc[1]
    loss, _ = path_ensemble(path, tiny, (0.5,), normalization="repair")
    assert math.isclose(loss, repaired["test_loss"], rel_tol=1e-4)
    assert not math.isclose(loss, row["test_loss"], rel_tol=1e-2)


# form ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("same_random_state")
def test_nothing_is_changed(
    tiny: mc.Data, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    with torch.random.fork_rng():
        dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    models = [*pair("convnet", tiny), dropping]
    unchanged = [untouched(m) for m in models]
    assert ensemble(models, tiny.test) == ensemble(models, tiny.test)
    path_ensemble(mc.LinearPath(*models[:2]), tiny)
    for check in unchanged:
        check()


def test_bad_arguments_are_refused(tiny: mc.Data) -> None:
    a, b = pair("mlp", tiny)
    with pytest.raises(ValueError, match="at least one network, found none"):
        ensemble([], tiny.test)
    with pytest.raises(TypeError, match="several networks in a list, found one Network"):
        ensemble(a, tiny.test)
    with pytest.raises(TypeError, match=r"torch.nn.Module, found OrderedDict"):
        ensemble([a, b.state_dict()], tiny.test)
    with pytest.raises(TypeError, match="expected a split"):
        ensemble([a, b], tiny)
    with pytest.raises(mc.IncompatibleError, match="10 in the first and 11 in number 2"):
        ensemble([a, Says(*[0.0] * 11)], tiny.test)
    with pytest.raises(ValueError, match=r"more than 9 classes.*found \[30, 3\]"):
        ensemble([a, Says(0.0, 0.0, 0.0)], tiny.test)
    path = mc.LinearPath(a, b)
    with pytest.raises(TypeError, match="expected a path"):
        path_ensemble(a, tiny)
    with pytest.raises(TypeError, match="expected data"):
        path_ensemble(path, tiny.test)
    for at in ((), (0.5, 1.1), (math.nan,)):
        with pytest.raises(ValueError, match=r"at least one t, each in \[0, 1\]"):
            path_ensemble(path, tiny, at)
    with pytest.raises(mc.UnknownNameError, match="unknown split 'tset'"):
        path_ensemble(path, tiny, split="tset")
    with pytest.raises(mc.UnknownNameError, match="'rest'; did you mean 'reset'"):
        path_ensemble(path, tiny, normalization="rest")
