"""Batch norm as a function of its input alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from information.networks import NETWORKS
from torch import nn
from torch.func import functional_call

import mcbook as mc
from mcbook.batch_statistics import with_batch_statistics

NORMED = ["mlp, batch norm", "convnet, batch norm"]


@pytest.mark.parametrize("network", NORMED)
def test_it_computes_what_re_estimated_statistics_compute(
    network: str, tiny: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    model, x = NETWORKS[network](0).train(), tiny.train.x[:20]
    unchanged = untouched(model)
    own = with_batch_statistics(model)
    unchanged()
    assert not any(m.training for m in own.modules())
    with torch.no_grad():
        said, slow = own(x), mc.reset_batch_norm(model, x)(x)
        torch.testing.assert_close(said, slow, rtol=1e-4, atol=1e-4)
        # of this batch, and of no other: nothing is stored
        torch.testing.assert_close(
            own(x[:7]), mc.reset_batch_norm(model, x[:7])(x[:7]), rtol=1e-4, atol=1e-4
        )
        assert torch.equal(own(x), said)
    assert not mc.has_batch_norm(own)
    assert not [name for name in own.state_dict() if "running" in name or "tracked" in name]
    stored = {"running_mean", "running_var", "num_batches_tracked"}
    before = {n for n in model.state_dict() if n.rpartition(".")[2] not in stored}
    assert set(own.state_dict()) == before


def test_mean_and_variance_move_with_the_weights(tiny: mc.Data) -> None:
    """The gradient is the finite difference of the whole; a constant before the norm has none."""
    x = tiny.train.x[:9].double()
    model = with_batch_statistics(NETWORKS["mlp, batch norm"](0).double())
    state = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(model, values, (x,)).square().mean()

    slopes = dict(zip(state, torch.autograd.grad(loss(state), list(state.values())), strict=True))
    assert slopes["linear1.bias"].abs().max() < 1e-12
    assert slopes["linear1.weight"].abs().max() > 1e-3
    direction = torch.randn(6, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h, name = 1e-6, "linear1.weight"
    with torch.no_grad():
        ends = [loss(state | {name: state[name] + s * direction}) for s in (-h, h)]
    slope = float((slopes[name] * direction).sum())
    assert float(ends[1] - ends[0]) / (2 * h) == pytest.approx(slope, rel=1e-5)


def test_other_layers_are_left_as_they_are(tiny: mc.Data) -> None:
    x = tiny.train.x[:9]
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(64, 4), nn.LayerNorm(4))
    own = with_batch_statistics(model)
    with torch.no_grad():
        assert torch.equal(own(x), model.eval()(x))
    assert list(own.state_dict()) == list(model.state_dict())
