from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.moments import Gauge, covariances, measure_
from mcbook.repair import repair


class Shared(nn.Module):
    """One batch norm on two branches."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.left, self.right = nn.Linear(64, 3), nn.Linear(64, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.norm(self.left(x)) + self.norm(self.right(x))

    def inputs(self, x: Tensor) -> Tensor:
        """All that the norm sees, `[2 n, 3]`, float64."""
        with torch.no_grad():
            return torch.cat([self.left(x.flatten(1)), self.right(x.flatten(1))]).double()


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_layer_used_twice_has_the_statistics_of_all_it_is_given(
    tiny: mc.Data, batch_size: int | None
) -> None:
    model, x = Shared(), tiny.train.x
    found = mc.reset_batch_norm(model, x, batch_size)
    variance, mean = torch.var_mean(model.inputs(x), 0, correction=0)
    torch.testing.assert_close(found.norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_covariances_are_those_of_the_definition(tiny: mc.Data, batch_size: int | None) -> None:
    models, x = (Shared(0), Shared(1)), tiny.train.x
    z = [model.inputs(x) for model in models]
    gauges = [Gauge(model.norm, 1, lambda *_: None) for model in models]
    means = [values.mean(0) for values in z]
    (found,) = covariances(models, [tuple(gauges)], [tuple(means)], x, batch_size)
    products = (z[0] - means[0]) * (z[1] - means[1])
    torch.testing.assert_close(found, products.mean(0), rtol=1e-6, atol=1e-9)
    assert covariances(models, [], [], x) == []


def test_in_closed_form_batch_norm_takes_mean_and_variance_from_the_ends(tiny: mc.Data) -> None:
    a, b = Shared(0), Shared(1)
    path, x = mc.LinearPath(a, b), tiny.train.x
    measured, closed = (repair(path, 0.3, x, c).norm for c in (False, True))
    # what the shared norm is given is linear in the weights: the closed form is exact
    torch.testing.assert_close(measured.running_mean, closed.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(measured.running_var, closed.running_var, rtol=1e-4, atol=1e-5)


def test_layers_that_are_not_used_keep_what_they_have(tiny: mc.Data) -> None:
    model, stored = Shared(), []
    unused = Gauge(nn.Identity(), -1, lambda *moments: stored.append(moments))
    measure_(model, [unused], tiny.train.x)
    assert not stored
    measure_(model, [], tiny.train.x[:0])  # nothing to measure needs no images
    with pytest.raises(ValueError, match="at least one image"):
        measure_(model, [unused], tiny.train.x[:0])
