from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import mcbook as mc
from mcbook import moments
from mcbook.normalization import measure_statistics_
from mcbook.normalized import Normalized
from tests import reference


def network(data: mc.Data, kind: str, seed: int = 0) -> nn.Module:
    """A network with batch norm whose statistics are wrong."""
    options = {"mlp": {"width": (6, 5), "norm": "batch"}, "convnet": {"width": 3},
               "resnet20": {"width": 2, "shortcut": "projection"}}[kind]  # fmt: skip
    model = mc.build_model(kind, data, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if "running" in name or ("norm" in name and x.is_floating_point()):
                x.uniform_(0.5, 2, generator=generator)
    return model


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: x for name, x in model.state_dict().items() if "running" in name}


def assert_statistics(fast: nn.Module, slow: nn.Module, tolerance: float = 1e-4) -> None:
    expected = statistics(slow)
    for name, x in statistics(fast).items():
        torch.testing.assert_close(
            x.double(), expected[name].double(), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
@pytest.mark.parametrize("batch_size", [None, 7, 1])
def test_statistics_are_those_of_the_plain_definition(
    tiny: mc.Data, kind: str, batch_size: int | None
) -> None:
    for seed in range(2):
        model = network(tiny, kind, seed)
        fast = mc.reset_batch_norm(model, tiny.train.x, batch_size)
        assert_statistics(fast, reference.batch_norm_statistics(model, tiny.train.x))


@pytest.mark.parametrize("kind", ["mlp", "convnet", "resnet20"])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_every_normalised_channel_has_mean_0_and_variance_1(
    tiny: mc.Data, kind: str, batch_size: int | None
) -> None:
    model = mc.reset_batch_norm(network(tiny, kind), tiny.train.x, batch_size)
    seen = []

    def look(layer: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        z = ((out - layer.bias.view(1, -1, *[1] * (out.ndim - 2)))
             / layer.weight.view(1, -1, *[1] * (out.ndim - 2)))  # fmt: skip
        variance, mean = torch.var_mean(z, dim=[0, *range(2, z.ndim)], correction=0)
        raw = args[0].var(dim=[0, *range(2, z.ndim)], correction=0)
        seen.append((mean, variance, raw / (raw + layer.eps)))

    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.register_forward_hook(look)
    with torch.no_grad():
        model(tiny.train.x)
    assert seen
    for mean, variance, expected in seen:
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
        torch.testing.assert_close(variance, expected, rtol=1e-3, atol=1e-3)


@given(st.integers(1, 90), st.integers(0, 1000), st.sampled_from(["mlp", "convnet"]))
def test_neither_batch_size_nor_order_matters(
    tiny: mc.Data, batch_size: int, seed: int, kind: str
) -> None:
    model = network(tiny, kind)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(seed))
    whole = mc.reset_batch_norm(model, tiny.train.x)
    assert_statistics(mc.reset_batch_norm(model, tiny.train.x[order], batch_size), whole, 1e-5)


def test_what_training_left_does_not_matter(tiny: mc.Data) -> None:
    first, second = network(tiny, "convnet"), network(tiny, "convnet")
    for x in statistics(second).values():
        x.mul_(100).add_(3)
    a, b = (mc.reset_batch_norm(m, tiny.train.x) for m in (first, second))
    assert all(torch.equal(x, statistics(b)[name]) for name, x in statistics(a).items())
    again = mc.reset_batch_norm(a, tiny.train.x)
    assert all(torch.equal(x, statistics(again)[name]) for name, x in statistics(a).items())


def test_it_is_exact_where_the_mean_dwarfs_the_spread(tiny: mc.Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    x = 1000 + torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = x.double().flatten(1).var(0, correction=0)
    for batch_size in (None, 13):
        found = mc.reset_batch_norm(model, x, batch_size)[1].running_var
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)


def test_dropout_is_off_and_only_statistics_change(
    tiny: mc.Data, same_random_state: None, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4), nn.BatchNorm1d(4))
    model[1].eval()
    unchanged = untouched(model)
    found = mc.reset_batch_norm(model, tiny.train.x)
    unchanged()
    assert not found.training
    assert_statistics(found, reference.batch_norm_statistics(model, tiny.train.x))
    assert torch.equal(found[2].weight, model[2].weight)
    assert torch.equal(found[3].weight, model[3].weight)
    assert found[3].num_batches_tracked == model[3].num_batches_tracked


def test_too_little_memory_only_means_smaller_batches(
    tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(tiny, "convnet")
    whole = mc.reset_batch_norm(model, tiny.train.x)
    monkeypatch.setattr(moments, "_MEMORY", 1)
    assert_statistics(mc.reset_batch_norm(model, tiny.train.x), whole, 1e-5)


def test_colour_images_in_many_batches_are_those_of_the_plain_definition(
    tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels last, and as many batches as the cache asks for."""
    images = tiny.train.x[:40].expand(-1, 3, -1, -1) * torch.tensor([1, 0.5, 0.1]).view(3, 1, 1)
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5),
        nn.ReLU(), nn.Flatten(), nn.Linear(80, 6), nn.BatchNorm1d(6),
    )  # fmt: skip
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    expected = reference.batch_norm_statistics(model, images)
    monkeypatch.setattr(moments, "_CACHE", 7 * 4 * 36)
    assert_statistics(mc.reset_batch_norm(model, images), expected, 2e-6)


def test_along_a_path_statistics_are_measured_in_the_precision_asked_for(
    normed: list[nn.Module], tiny: mc.Data
) -> None:
    path = mc.LinearPath(*normed[:2])
    found = []
    for precision in ("float32", "bfloat16"):
        model, _ = Normalized(path, "reset", tiny.train.x, precision).at(0.5)
        expected = path.model_at(0.5)
        measure_statistics_(expected, tiny.train.x, precision=precision)
        assert_statistics(model, expected, 0)
        found.append(statistics(model))
    assert all(not torch.equal(x, found[1][name]) for name, x in found[0].items())


def test_layers_are_found_wherever_they_are_used(tiny: mc.Data) -> None:
    class Backwards(nn.Module):
        """Uses its layers in another order than it names them, one twice, one never."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.BatchNorm1d(64), nn.BatchNorm1d(64)
            self.never = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x.flatten(1)).relu() * 3 + 1)

    for batch_size in (None, 9):
        found = mc.reset_batch_norm(Backwards(), tiny.train.x, batch_size)
        z = tiny.train.x.flatten(1).double()
        variance, mean = torch.var_mean(z, dim=0, correction=0)
        torch.testing.assert_close(found.first.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        z = ((z - mean) / (variance + 1e-5).sqrt()).relu() * 3 + 1
        torch.testing.assert_close(
            found.last.running_var.double(), z.var(0, correction=0), rtol=1e-4, atol=1e-5
        )
        assert found.never.running_var.tolist() == [1, 1, 1]


def test_without_batch_norm_it_is_a_plain_copy(tiny: mc.Data) -> None:
    model = mc.build_model("convnet", tiny, width=2, norm="group")
    assert not mc.has_batch_norm(model)
    found = mc.reset_batch_norm(model, tiny.train.x)
    assert found is not model
    assert all(torch.equal(x, model.state_dict()[n]) for n, x in found.state_dict().items())


def test_only_layers_that_keep_statistics_count(tiny: mc.Data) -> None:
    assert mc.has_batch_norm(network(tiny, "mlp"))
    assert not mc.has_batch_norm(nn.BatchNorm1d(3, track_running_stats=False))
    assert not mc.has_batch_norm(nn.InstanceNorm2d(3, track_running_stats=True))


def test_no_images_are_refused(tiny: mc.Data) -> None:
    with pytest.raises(ValueError, match="at least one image to measure statistics on"):
        mc.reset_batch_norm(network(tiny, "mlp"), tiny.train.x[:0])


def test_reset_helps_between_networks(normed: list[nn.Module], digits: mc.Data) -> None:
    """What the layer is there for: networks of mixed weights work again."""
    for a, b in itertools.pairwise(normed):
        middle = mc.LinearPath(a, b).model_at(0.5)
        plain, _ = mc.evaluate(middle, digits.test)
        reset, _ = mc.evaluate(mc.reset_batch_norm(middle, digits.train.x), digits.test)
        assert math.isfinite(reset)
        assert reset < plain
