"""A profile under attack is every network with an adversary of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.analysis import profiles

ATTACK = mc.PGD(0.1, 0.04, 3)


def walk(path: mc.Path, data: mc.Data, **options: Any) -> mc.Profile:
    return mc.robust_profile(path, data, **{"attack": ATTACK, "points": 3, **options})


@pytest.fixture(scope="module")
def plain(small: mc.Data) -> mc.LinearPath:
    """Between two trained perceptrons."""
    return mc.LinearPath(*(
        mc.train(mc.build_model("mlp", small, width=(16,), seed=s), small, 12, seed=s, lr=0.1)
        for s in (0, 1)
    ))  # fmt: skip


@pytest.fixture(scope="module")
def ends(small: mc.Data) -> list[nn.Module]:
    """Two trained networks with batch norm."""
    return [
        mc.train(mc.build_model("convnet", small, width=3, seed=s), small, 4, seed=s, batch_size=32)
        for s in (0, 1)
    ]


@pytest.fixture
def normed_path(ends: list[nn.Module]) -> mc.LinearPath:
    return mc.LinearPath(*ends)


def attacked(model: nn.Module, part: mc.Split, seed: int, batch_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    batches = [
        ATTACK.perturb(model, part.x[i : i + batch_size], part.y[i : i + batch_size], generator)
        for i in range(0, len(part), batch_size)
    ]
    return torch.cat(batches)


def test_columns_and_grid(plain: mc.LinearPath, tiny: mc.Data) -> None:
    prof = walk(plain, tiny)
    ends = ["distance_a", "distance_b"]
    assert list(prof.table) == ["t", "test_loss", "test_accuracy", *ends]
    assert prof.table["t"].tolist() == [0, 0.5, 1]
    assert (prof.normalization, prof.path_kind, prof.data_name) == ("none", "linear", tiny.name)
    both = walk(plain, tiny, splits=("train", "test"))
    measured = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    assert list(both.table) == ["t", *measured, *ends]
    bent = mc.PolychainPath(
        plain.model_at(0), plain.model_at(1), [plain.model_at(0.2)], (0, 0.3, 1)
    )
    assert walk(bent, tiny).table["t"].tolist() == [0, 0.3, 0.5, 1]
    few = mc.PGD(0.1, 0.1, 0, random_start=False)
    assert len(mc.robust_profile(plain, tiny, few).table) == 25


def test_every_network_has_its_own_adversary(plain: mc.LinearPath, tiny: mc.Data) -> None:
    prof = walk(plain, tiny, points=5, splits=("train", "test"), seed=3)
    for _, row in prof.table.iterrows():
        for split in ("train", "test"):
            loss, accuracy = mc.robust_evaluate(
                plain.model_at(row["t"]), tiny.split(split), ATTACK, seed=3
            )
            assert row[f"{split}_loss"] == pytest.approx(loss, rel=1e-6)
            assert row[f"{split}_accuracy"] == accuracy
    a, b = plain.model_at(0), plain.model_at(1)
    for i, network in ((0, a), (-1, b)):
        found = mc.robust_evaluate(network, tiny.test, ATTACK, 3)
        assert tuple(prof.table[["test_loss", "test_accuracy"]].iloc[i]) == found


@pytest.mark.parametrize("normalization", ["reset", "none"])
def test_an_attack_takes_and_never_gives(
    plain: mc.LinearPath, normed_path: mc.LinearPath, small: mc.Data, normalization: str
) -> None:
    for path in (plain, normed_path):
        options = {"points": 5, "splits": ("test",), "normalization": normalization}
        clean = mc.profile(path, small, **options)
        robust = walk(path, small, **options)
        assert (robust.table["test_accuracy"] <= clean.table["test_accuracy"]).all()
        assert (robust.table["test_loss"] > 1.05 * clean.table["test_loss"]).all()
        assert robust.table["test_accuracy"].iloc[0] < clean.table["test_accuracy"].iloc[0] - 0.05


@pytest.mark.parametrize("normalization", [None, "reset", "none"])
def test_in_a_box_of_no_size_it_is_the_profile(
    plain: mc.LinearPath, normed_path: mc.LinearPath, tiny: mc.Data, normalization: str | None
) -> None:
    for path in (plain, normed_path):
        options = {"points": 4, "splits": ("train", "test"), "normalization": normalization}
        clean = mc.profile(path, tiny, **options)
        for batch_size in (2048, 16):
            found = walk(path, tiny, attack=mc.PGD(0, 0.1, 2), batch_size=batch_size, **options)
            assert found.normalization == clean.normalization
            pd.testing.assert_frame_equal(found.table, clean.table, rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(found.arc, clean.arc)
    assert clean.normalization == (normalization or "reset")


@pytest.mark.parametrize("batch_size", [32, 2048])
def test_statistics_are_those_of_attacked_training_images(
    normed_path: mc.LinearPath, tiny: mc.Data, batch_size: int
) -> None:
    prof = walk(normed_path, tiny, seed=5, batch_size=batch_size)
    assert prof.normalization == "reset"
    for i, t in enumerate(prof.table["t"]):
        clean = mc.reset_batch_norm(normed_path.model_at(t), tiny.train.x)
        model = mc.reset_batch_norm(clean, attacked(clean, tiny.train, 5, batch_size))
        expected = mc.robust_evaluate(model, tiny.test, ATTACK, 5, batch_size)
        found = prof.table[["test_loss", "test_accuracy"]].iloc[i]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        other = mc.robust_evaluate(clean, tiny.test, ATTACK, 5, batch_size)
        assert abs(other[0] - found.iloc[0]) > 1e-3 * other[0]


def test_without_a_reset_networks_are_as_they_lie_on_the_path(
    normed_path: mc.LinearPath, tiny: mc.Data
) -> None:
    prof = walk(normed_path, tiny, normalization="none")
    for i, t in enumerate(prof.table["t"]):
        expected = mc.robust_evaluate(normed_path.model_at(t), tiny.test, ATTACK)
        found = prof.table[["test_loss", "test_accuracy"]].iloc[i]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_statistics_are_of_the_same_images_as_a_profiles(
    normed_path: mc.LinearPath, tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(tiny, train=tiny.subset(train=40).train)
    monkeypatch.setattr(profiles, "_STATISTICS_IMAGES", 40)
    found = walk(normed_path, tiny).table
    monkeypatch.undo()
    pd.testing.assert_frame_equal(found, walk(normed_path, few).table, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found["test_loss"], walk(normed_path, tiny).table["test_loss"])


def test_random_starts_are_the_same_at_every_point(ends: list[nn.Module], tiny: mc.Data) -> None:
    still = mc.LinearPath(ends[0], ends[0])
    assert walk(still, tiny, points=4).table["test_loss"].nunique() == 1
    other = walk(still, tiny, points=4, seed=1).table["test_loss"]
    assert other[0] != walk(still, tiny, points=4).table["test_loss"][0]


@pytest.mark.parametrize("batch_size", [1, 13])
def test_the_batch_size_does_not_matter(
    plain: mc.LinearPath, normed_path: mc.LinearPath, tiny: mc.Data, batch_size: int
) -> None:
    attack = replace(ATTACK, random_start=False)
    for path in (plain, normed_path):
        whole, parts = (
            walk(path, tiny, attack=attack, points=2, batch_size=size).table
            for size in (2048, batch_size)
        )
        pd.testing.assert_frame_equal(parts, whole, rtol=1e-3, atol=1e-5)


def test_a_robust_profile_changes_nothing_and_repeats_to_the_last_bit(
    ends: list[nn.Module], tiny: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    unchanged = [untouched(m) for m in ends]
    path = mc.LinearPath(*ends)
    before = {name: x.clone() for name, x in path.control_points.items()}
    images = tiny.train.x.clone()
    first, again = (walk(path, tiny) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, again.table, check_exact=True)
    for check in unchanged:
        check()
    assert all(torch.equal(x, before[name]) for name, x in path.control_points.items())
    assert torch.equal(tiny.train.x, images)


def test_bad_input_is_refused(plain: mc.LinearPath, tiny: mc.Data) -> None:
    for points in (1, 0):
        with pytest.raises(ValueError, match=f"at least 2 points, found {points}"):
            walk(plain, tiny, points=points)
    with pytest.raises(ValueError, match="reset or none for a robust profile, found repair"):
        walk(plain, tiny, normalization="repair")
    with pytest.raises(mc.UnknownNameError, match="normalization 'rest'"):
        walk(plain, tiny, normalization="rest")
    with pytest.raises(mc.UnknownNameError, match="split 'tset'"):
        walk(plain, tiny, splits=("tset",))
    dark = replace(tiny, test=mc.Split(tiny.test.x - 0.5, tiny.test.y))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\] to attack, found -0.5"):
        walk(plain, dark)
    for arguments, said in (
        ((plain.model_at(0), tiny, ATTACK), "expected a path"),
        ((plain, tiny.test, ATTACK), "expected data"),
        ((plain, tiny, 0.1), "expected an attack"),
    ):
        with pytest.raises(TypeError, match=said):
            mc.robust_profile(*arguments)
