"""The correlation signature: Pearson's correlation, unit by unit, before and after alignment."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.analysis.signature import correlation_signature, path_signature
from tests import reference_analysis


def pair(name: str, data: mc.Data) -> list[nn.Module]:
    """Two networks of random weights whose statistics have seen images, with dead units."""
    options: dict = {
        "mlp": {"width": (9, 7)},
        "convnet": {"width": 4},
        "resnet20": {"width": 2},
    }[name]
    models = [mc.build_model(name, data, seed=s, **options) for s in (0, 1)]
    for seed, model in enumerate(models):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        model.train()
        with torch.no_grad():
            model(data.train.x)
    if name == "mlp":
        for model, unit in zip(models, (3, 5), strict=True):
            model.linear1.bias.data[unit] = -100.0
    return [model.eval() for model in models]


@pytest.fixture(scope="module")
def data(digits: mc.Data) -> dict[str, mc.Data]:
    """Images for every architecture."""
    cut = digits.subset(train=60, test=40)
    large = mc.load_data("digits", size=16, channels=3, device="cpu").subset(train=60, test=40)
    return {"mlp": cut, "convnet": cut, "resnet20": large}


# against the slow version -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [("mlp", "train"), ("mlp", "test"), ("convnet", "test"), ("resnet20", "test")],
)
def test_it_is_numpys_correlation_of_stored_activations(
    data: dict[str, mc.Data], name: str, split: str
) -> None:
    a, b = pair(name, data[name])
    table = correlation_signature(a, b, data[name], split=split)
    slow = reference_analysis.signature(a, b, data[name].split(split).x, table["read_by"])
    np.testing.assert_allclose(table["correlation"], slow, atol=1e-4)
    assert np.ptp(slow) > 0.02
    pd.testing.assert_frame_equal(correlation_signature(a, b, data[name].split(split)), table)


def test_layers_stand_in_forward_order_under_names_of_their_own(data: dict[str, mc.Data]) -> None:
    table = correlation_signature(*pair("mlp", data["mlp"]), data["mlp"])
    assert table["layer"].tolist() == ["linear1", "linear2"]
    assert table["read_by"].tolist() == ["linear2", "output"]
    assert table["units"].tolist() == [9, 7]
    table = correlation_signature(*pair("resnet20", data["resnet20"]), data["resnet20"])
    assert table["layer"].is_unique
    assert table["layer"].tolist()[:4] == [
        "into block1_1.conv1", "block1_1.conv1", "into block1_2.conv1", "block1_2.conv1",
    ]  # fmt: skip
    # every block reads the stream and has units inside, and the output reads the stream too
    assert len(table) == 2 * 9 + 1
    assert table["units"].tolist()[-1] == 8


def test_dead_units_count_nothing_and_are_counted(data: dict[str, mc.Data]) -> None:
    a, b = pair("mlp", data["mlp"])
    first = correlation_signature(a, b, data["mlp"]).iloc[0]
    own = correlation_signature(a, a, data["mlp"]).iloc[0]
    assert (first["dead"], own["dead"]) == (2, 1)
    assert math.isclose(own["correlation"], 8 / 9, rel_tol=1e-6)
    a.linear1.bias.data[5] = -100.0  # dead in both
    assert correlation_signature(a, b, data["mlp"])["dead"].iloc[0] == 2


# laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_a_permuted_network_aligned_back_has_signature_one(
    data: dict[str, mc.Data], name: str
) -> None:
    a, _ = pair(name, data[name])
    spec = mc.trace_symmetry(a)
    moved = mc.permute(a, spec.random(seed=1), spec)
    before = correlation_signature(a, moved, data[name])
    back = mc.activation_matching(a, moved, data[name], progress=False).model
    after = correlation_signature(a, back, data[name])
    living = 1 - after["dead"] / after["units"]
    np.testing.assert_allclose(after["correlation"], living, atol=1e-5)
    assert before["correlation"].mean() < 0.6


def test_positive_affine_changes_of_a_unit_do_not_matter(data: dict[str, mc.Data]) -> None:
    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.LayerNorm(9), nn.Linear(9, 10))

    a, b = build(0), build(1)
    x = data["mlp"].test.x[:1]
    changed = copy.deepcopy(b)
    with torch.no_grad():
        changed[2].weight.copy_(torch.linspace(0.1, 5, 9))
        changed[2].bias.copy_(torch.linspace(-20, 20, 9))
    tables = [correlation_signature(a, m, data["mlp"], example=x) for m in (b, changed)]
    np.testing.assert_allclose(tables[0]["correlation"], tables[1]["correlation"], atol=1e-5)
    with torch.no_grad():
        changed[2].weight.neg_()
    turned = correlation_signature(a, changed, data["mlp"], example=x)
    np.testing.assert_allclose(turned["correlation"], -tables[0]["correlation"], atol=1e-5)


def test_it_is_symmetric_and_within_one(data: dict[str, mc.Data]) -> None:
    for name in ("mlp", "convnet"):
        a, b = pair(name, data[name])
        there, back = (
            correlation_signature(a, b, data[name]),
            correlation_signature(b, a, data[name]),
        )
        np.testing.assert_allclose(there["correlation"], back["correlation"], atol=1e-6)
        assert there["correlation"].abs().max() <= 1


def test_matching_raises_every_layer(endpoints: list[nn.Module], digits: mc.Data) -> None:
    for a, b in zip(endpoints[:4:2], endpoints[1:4:2], strict=True):
        aligned = mc.activation_matching(a, b, digits, images=600, progress=False).model
        before, after = (
            correlation_signature(a, m, digits, images=600, split="train") for m in (b, aligned)
        )
        # on the images that were matched every layer is at its best
        assert (after["correlation"] >= before["correlation"]).all()
        assert (correlation_signature(a, aligned, digits)["correlation"] > 0.3).all()
        assert (before["correlation"] < 0.25).all()


@pytest.mark.parametrize("batch_size", [7, 40])
def test_the_batch_size_does_not_matter(data: dict[str, mc.Data], batch_size: int) -> None:
    a, b = pair("convnet", data["convnet"])
    whole, parts = (
        correlation_signature(a, b, data["convnet"], batch_size=n) for n in (None, batch_size)
    )
    np.testing.assert_allclose(parts["correlation"], whole["correlation"], atol=1e-6)


def test_the_seed_chooses_the_images(data: dict[str, mc.Data]) -> None:
    a, b = pair("mlp", data["mlp"])
    one, same, other = (
        correlation_signature(a, b, data["mlp"], images=20, seed=s) for s in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one, same)
    assert not np.allclose(one["correlation"], other["correlation"], atol=1e-4)


# along a path -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "normalization"), [("mlp", "none"), ("convnet", "reset")])
def test_along_a_path_it_compares_networks_one_by_one(
    data: dict[str, mc.Data], name: str, normalization: str
) -> None:
    a, b = pair(name, data[name])
    path = mc.LinearPath(a, b)
    table = path_signature(path, data[name], (0.3, 0.7), normalization)
    assert table.columns[:4].tolist() == ["layer", "t", "with_a", "with_b"]
    assert table["t"].unique().tolist() == [0.3, 0.7]

    def at(t: float) -> nn.Module:
        model = path.model_at(t)
        return mc.reset_batch_norm(model, data[name].train.x) if normalization == "reset" else model

    for t, part in table.groupby("t"):
        for end, column in ((0.0, "a"), (1.0, "b")):
            single = correlation_signature(at(t), at(end), data[name])
            np.testing.assert_allclose(part[f"with_{column}"], single["correlation"], atol=1e-6)
            assert part[f"dead_with_{column}"].tolist() == single["dead"].tolist()
            assert part["layer"].tolist() == single["layer"].tolist()


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_at_its_ends_a_path_is_its_ends(data: dict[str, mc.Data], name: str) -> None:
    a, b = pair(name, data[name])
    table = path_signature(mc.LinearPath(a, b), data[name], (0.0, 1.0))
    for t, end, other in ((0.0, "a", "b"), (1.0, "b", "a")):
        part = table[table["t"] == t]
        living = 1 - part[f"dead_with_{end}"] / part["units"]
        np.testing.assert_allclose(part[f"with_{end}"], living, atol=1e-6)
        assert (part[f"with_{other}"] < 0.9).all()
    walked_back = path_signature(mc.LinearPath(b, a), data[name], 1.0)
    np.testing.assert_allclose(walked_back["with_a"], table[table["t"] == 0.0]["with_b"], atol=1e-6)


def test_between_aligned_networks_the_middle_resembles_both(
    endpoints: list[nn.Module], digits: mc.Data
) -> None:
    a, b = endpoints[:2]
    aligned = mc.activation_matching(a, b, digits, images=600, progress=False).model
    naive, best = (path_signature(mc.LinearPath(a, m), digits, 0.5) for m in (b, aligned))
    between = correlation_signature(a, aligned, digits)["correlation"].mean()
    for end in ("with_a", "with_b"):
        assert best[end].mean() > between
        assert best[end].mean() > naive[end].mean()


# form ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("same_random_state")
def test_nothing_is_changed(
    data: dict[str, mc.Data], untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    a, b = pair("convnet", data["convnet"])
    a.train()
    unchanged = [untouched(m) for m in (a, b)]
    correlation_signature(a, b, data["convnet"])
    path_signature(mc.LinearPath(a, b), data["convnet"], 0.5)
    for check in unchanged:
        check()


def test_bad_arguments_are_refused(data: dict[str, mc.Data]) -> None:
    a, b = pair("mlp", data["mlp"])
    path = mc.LinearPath(a, b)
    with pytest.raises(TypeError, match=r"torch.nn.Module, found OrderedDict"):
        correlation_signature(a, b.state_dict(), data["mlp"])
    with pytest.raises(TypeError, match="expected data, or a split of it, found Tensor"):
        correlation_signature(a, b, data["mlp"].test.x)
    with pytest.raises(mc.UnknownNameError, match="unknown split 'tset'"):
        correlation_signature(a, b, data["mlp"], split="tset")
    with pytest.raises(mc.IncompatibleError, match="of one architecture"):
        correlation_signature(a, mc.build_model("mlp", data["mlp"], width=(9, 8)), data["mlp"])
    with pytest.raises(ValueError, match="one image for each of 10 classes, found 3"):
        correlation_signature(a, b, data["mlp"], images=3)
    with pytest.raises(TypeError, match="expected a path"):
        path_signature(a, data["mlp"])
    with pytest.raises(TypeError, match="expected data"):
        path_signature(path, data["mlp"].test)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        path_signature(path, data["mlp"], 1.5)
    with pytest.raises(mc.UnknownNameError, match="normalization of a signature 'repair'"):
        path_signature(path, data["mlp"], normalization="repair")
    with pytest.raises(mc.UnknownNameError, match="'rest'; did you mean 'reset'"):
        path_signature(path, data["mlp"], normalization="rest")
