from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook import moments
from mcbook.moments import Gauge, covariances, measure_
from mcbook.normalization import batch_norm_gauges
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


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def one_layer_after_the_other(model: nn.Module, x: Tensor) -> nn.Module:
    """In double precision: for each norm, in the order of first use, a pass over all images."""
    model = copy.deepcopy(model).double().eval()
    order: dict[nn.Module, list[Tensor]] = {}
    handles = [
        norm.register_forward_pre_hook(lambda m, args: order.setdefault(m, []).append(args[0]))
        for norm in norms(model)
    ]
    with torch.no_grad():
        model(x.double())
        for norm in list(order):
            order.clear()
            model(x.double())
            z = torch.cat([part.transpose(0, 1).flatten(1) for part in order[norm]], 1)
            norm.running_mean.copy_(z.mean(1))
            norm.running_var.copy_(z.var(1, correction=0))
    for handle in handles:
        handle.remove()
    return model


class Block(nn.Module):
    """Two convolutions with norms, and a way round them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.convs[0](x)).relu()
        return x + self.norms[1](self.convs[1](y)).relu()


class Residual(nn.Module):
    """Colour images through blocks that become smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(Block(4), Block(4))
        self.pool, self.late, self.never = nn.AvgPool2d(2), Block(4), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.pool(self.blocks(self.stem(x)))).mean((2, 3))


class Again(Residual):
    """Goes through its blocks twice: every norm sees what others made of its own output."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.blocks(self.stem(x))[:, :3])


class Attribute(Residual):
    """Keeps its images in an attribute, until further on."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        return self.late(self.blocks(self.stem(x)) + self.kept.mean(1, keepdim=True)).mean((2, 3))


class Viewed(Residual):
    """Takes no layout but one."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.stem(x))
        return self.late(y.view(len(y), 4, 4, 16)).mean((2, 3))


class Rows(nn.Module):
    """No convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 9), nn.BatchNorm1d(9), nn.ReLU(),
            nn.Linear(9, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.BatchNorm1d(5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


# how often the network is to be run over the images, batch by batch, when there is memory
NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "residual": (Residual, 1),
    "again": (Again, 5),  # after the last of the four that it uses twice, it goes on
    "attribute": (Attribute, 6),
    "view": (Viewed, 1),
    "rows": (Rows, 1),
}


def network(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[kind][0]()
        for norm in norms(model):
            for parameter in norm.parameters():
                nn.init.uniform_(parameter, 0.5, 2)
            norm.running_var.uniform_(0.5, 2)
    return model


def images(count: int) -> Tensor:
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return x * torch.linspace(0.2, 2, count).view(-1, 1, 1, 1)  # batches differ


def assert_same_statistics(found: nn.Module, expected: nn.Module, tolerance: float) -> None:
    for norm, other in zip(norms(found), norms(expected), strict=True):
        for name in ("running_mean", "running_var"):
            x, y = (getattr(one, name).double() for one in (norm, other))
            torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("batch_size", [None, 50, 17, 4])
@pytest.mark.parametrize("memory", ["all", "some", "none"])
def test_batches_together_are_one_layer_after_the_other(
    kind: str, batch_size: int | None, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, threads = network(kind), images(50), threading.enumerate()
    expected = one_layer_after_the_other(model, x)
    if batch_size is None:  # as many images as the cache takes: several batches
        monkeypatch.setattr(moments, "_CACHE", 9 * 4 * 64)
    if memory != "all":  # some: of late layers more batches may wait than of early ones
        share = 25 * 4 * 4 * 64 * 3 if memory == "some" else 1
        monkeypatch.setattr(moments, "_MEMORY", share)
    measure_(model, batch_norm_gauges(model), x, batch_size)
    assert_same_statistics(model, expected, 2e-6)
    if isinstance(model, Residual):
        assert torch.equal(model.never.running_var, network(kind).never.running_var)
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(m.training for m in model.modules())
    assert threading.enumerate() == threads


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_batch_is_computed_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, sizes = network(kind), images(40), []
    plain = type(model).forward

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(type(model), "forward", forward)
    measure_(model, batch_norm_gauges(model), x, 5)
    passes = sum(size for size in sizes if size == 5) / len(x)
    assert passes == NETWORKS[kind][1]
    sizes.clear()
    monkeypatch.setattr(moments, "_MEMORY", 1)
    measure_(model, batch_norm_gauges(model), x, 5)
    used = sum(norm.num_features != 5 for norm in norms(model)) if kind != "rows" else 3
    assert sum(size for size in sizes if size == 5) / len(x) == used


def test_with_memory_for_some_it_is_between(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for waiting in (0, 2, 4, 8):
        model, begun = network("residual"), []
        model.stem.register_forward_pre_hook(lambda *args, begun=begun: begun.append(args))
        monkeypatch.setattr(moments, "_MEMORY", waiting * 5 * 4 * 4 * 64 * 3)
        measure_(model, batch_norm_gauges(model), images(40), 5)
        counts.append(sum(len(args[1][0]) == 5 for args in begun) / 8)
    assert counts[0] == 6
    assert counts[-1] == 1
    # with half of the batches waiting, the other half begins anew four times in the early blocks
    assert counts[2] == 1 + 0.5 * 4
    assert counts == sorted(counts, reverse=True)


def test_the_result_is_the_same_in_every_run() -> None:
    first, again = (network("residual") for _ in range(2))
    for model in (first, again):
        measure_(model, batch_norm_gauges(model), images(50), 7)
    assert_same_statistics(first, again, 0)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_bfloat16_measures_what_the_network_computes_in_bfloat16(batch_size: int | None) -> None:
    x, found, plain = images(40), network("residual"), network("residual")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z = found.stem(x)
    measure_(found, batch_norm_gauges(found), x, batch_size, "bfloat16")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z = found.blocks[0].convs[0](z)
    assert z.dtype == torch.bfloat16
    norm = found.blocks[0].norms[0]
    assert norm.running_mean.dtype == torch.float32
    # of the very numbers in bfloat16, summed in more
    rows = z.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean.double(), rows.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        norm.running_var.double(), rows.var(1, correction=0), rtol=1e-5, atol=0
    )
    measure_(plain, batch_norm_gauges(plain), x, batch_size)
    assert_same_statistics(found, plain, 0.05)
    assert not torch.equal(found.late.norms[1].running_mean, plain.late.norms[1].running_mean)
    assert not torch.is_autocast_enabled("cpu")


def test_an_error_on_the_way_leaves_everything_as_it_was() -> None:
    model, x = network("residual"), images(40)
    x[33] = torch.nan

    def refuse(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.isnan(args[0]).any():
            raise ArithmeticError("not a number")

    handle = model.blocks[1].register_forward_pre_hook(refuse)
    threads = threading.enumerate()
    with pytest.raises(ArithmeticError, match="not a number"):
        measure_(model, batch_norm_gauges(model), x, 4)
    handle.remove()
    assert threading.enumerate() == threads
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(m.training for m in model.modules())
    assert torch.is_grad_enabled()
