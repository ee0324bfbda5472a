"""The networks along a path, with their statistics put right in one of three ways."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.normalized import NORMALIZATIONS, Normalized, check_normalization
from tests import reference


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return list(x) == list(y) and all(torch.equal(x[name], y[name]) for name in x)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_none_is_the_path(t: float, normed: list[nn.Module], tiny: mc.Data) -> None:
    path = mc.LinearPath(*normed[:2])
    model, corrections = Normalized(path, "none", tiny.train.x).at(t)
    assert same(model, path.model_at(t))
    assert (corrections, model.training) == ({}, False)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_reset_measures_anew_at_the_ends_too(
    t: float, normed: list[nn.Module], tiny: mc.Data
) -> None:
    path = mc.LinearPath(*normed[:2])
    model, corrections = Normalized(path, "reset", tiny.train.x).at(t)
    assert corrections == {}
    assert same(model, mc.reset_batch_norm(path.model_at(t), tiny.train.x))
    slow = reference.batch_norm_statistics(path.model_at(t), tiny.train.x).state_dict()
    for name, x in model.state_dict().items():
        torch.testing.assert_close(x, slow[name].to(x), rtol=1e-4, atol=1e-5)
    assert not same(model, path.model_at(t))
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_repair_is_repair(t: float, endpoints: list[nn.Module], tiny: mc.Data) -> None:
    path = mc.LinearPath(*endpoints[:2])
    model, corrections = Normalized(path, "repair", tiny.train.x).at(t)
    assert same(model, mc.repair(path, t, tiny.train.x))
    assert list(corrections) == ["linear1", "linear2", "output"]
    if t in (0, 1):
        assert same(model, endpoints[int(t)])


@pytest.mark.parametrize("way", NORMALIZATIONS)
@pytest.mark.usefixtures("same_random_state")
def test_every_network_is_new(way: str, normed: list[nn.Module], tiny: mc.Data) -> None:
    path = mc.LinearPath(*normed[:2])
    before = path.model_at(0.5)
    along = Normalized(path, way, tiny.train.x)
    first, again = (along.at(0.5)[0] for _ in range(2))
    assert same(first, again)
    assert not first.training
    with torch.no_grad():
        for x in first.parameters():
            x.zero_()
    assert same(again, along.at(0.5)[0])
    assert same(before, path.model_at(0.5))


def test_the_default_depends_on_batch_norm(
    normed: list[nn.Module], endpoints: list[nn.Module]
) -> None:
    assert check_normalization(None, normed[0]) == "reset"
    assert check_normalization(None, endpoints[0]) == "none"
    assert check_normalization(None, nn.BatchNorm1d(2, track_running_stats=False)) == "none"
    for way in NORMALIZATIONS:
        assert check_normalization(way, endpoints[0]) == way
    for bad in ("repiar", "None", ""):
        with pytest.raises(mc.UnknownNameError, match="unknown normalization.*none, repair, reset"):
            check_normalization(bad, endpoints[0])
    with pytest.raises(mc.UnknownNameError, match="did you mean 'repair'"):
        check_normalization("repiar", endpoints[0])


def test_reset_and_repair_need_images(normed: list[nn.Module], tiny: mc.Data) -> None:
    path = mc.LinearPath(*normed[:2])
    with pytest.raises(ValueError, match="at least one image to measure statistics on"):
        Normalized(path, "repair", tiny.train.x[:0])
    with pytest.raises(ValueError, match="at least one image to measure statistics on"):
        Normalized(path, "reset", tiny.train.x[:0]).at(0.5)
