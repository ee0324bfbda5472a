from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.analysis import first_layer, profiles
from mcbook.analysis.first_layer import FirstLayer
from mcbook.paths import Path


class Net(nn.Module):
    """A perceptron whose parts the tests arrange in their own ways."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(64, 64)
            self.second = nn.Linear(64, 10)
            self.scale = nn.Parameter(torch.rand(1) + 0.5)
            self.norm = nn.BatchNorm1d(64, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)).relu())


class Deep(Net):
    """The first layer is deep inside."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.body = nn.Sequential(nn.ModuleDict({"in": nn.Sequential(nn.Linear(64, 5))}))
        self.other = nn.Linear(5, 64)
        with torch.no_grad():
            for p in [*self.body.parameters(), *self.other.parameters()]:
                p.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.other(self.body[0]["in"](x.flatten(1)).tanh()).relu())


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.first(x.flatten(1)).relu()).relu())


class Scaled(Net):
    """What the first layer sees depends on the weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scale)


class Symmetric(Net):
    """As above, but at both ends the first layer sees the same."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        with torch.no_grad():
            self.scale.fill_(1.0 if seed else -1.0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scale.abs())


class NormFirst(Net):
    """What the first layer sees depends on the statistics, which a profile measures anew."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x.flatten(1)))


class OwnWeight(Net):
    """Uses the first layer's weight outside of it too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second((self.first(x.flatten(1)).relu() @ self.first.weight).tanh())


class Tied(Net):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.again = nn.Linear(64, 64)
        self.again.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.again(self.first(x.flatten(1)).relu()).relu())


class Aliased(Net):
    """The first layer has two names."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.alias = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.alias(x.flatten(1)).relu())


class Hooked(Net):
    """The first layer is not linear, for a hook changes its output."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.first.register_forward_hook(lambda layer, args, out: out.square())


class Functional(Net):
    """The layer called first is not the first that computes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.linear(x.flatten(1), self.first.weight).relu())


def weight_normed(seed: int) -> nn.Module:
    net = Net(seed)
    nn.utils.parametrizations.weight_norm(net.first)
    return net


CASES: dict[str, Callable[[int], nn.Module]] = {
    "plain": Net,
    "deep": Deep,
    "twice": Twice,
    "scaled": Scaled,
    "symmetric": Symmetric,
    "norm first": NormFirst,
    "own weight": OwnWeight,
    "tied": Tied,
    "aliased": Aliased,
    "hooked": Hooked,
    "functional": Functional,
    "weight norm": weight_normed,
}


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, profiles are measured without the shortcut."""
    return lambda: monkeypatch.setattr(FirstLayer, "of", lambda *_: None)


def assert_no_difference(path: Path, data: mc.Data, off: Callable[[], None]) -> None:
    fast = mc.profile(path, data, 5, batch_size=32).table
    off()
    plain = mc.profile(path, data, 5, batch_size=32).table
    np.testing.assert_allclose(fast, plain, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_profiles_do_not_differ_whatever_the_network(
    tiny: mc.Data, off: Callable[[], None], case: str
) -> None:
    assert_no_difference(mc.LinearPath(CASES[case](0), CASES[case](1)), tiny, off)


@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet20"])
def test_profiles_of_the_books_networks_do_not_differ(
    tiny: mc.Data, off: Callable[[], None], name: str
) -> None:
    options = {"width": (9, 8)} if name == "mlp" else {"width": 2}
    a, b = (mc.build_model(name, tiny, seed=s, standardize=True, **options) for s in (0, 1))
    path = mc.LinearPath(a, b)
    assert FirstLayer.of(path, tiny.test.x, 2048) is not None
    assert_no_difference(path, tiny, off)


def test_images_that_show_nothing_hide_nothing(tiny: mc.Data, off: Callable[[], None]) -> None:
    # on black images a scale makes no difference, on the others it does
    x = tiny.test.x.clone()
    x[:20] = 0
    data = replace(tiny, test=replace(tiny.test, x=x))
    assert_no_difference(mc.LinearPath(Scaled(0), Scaled(1)), data, off)


@pytest.mark.parametrize("case", ["plain", "deep", "tied"])
def test_it_applies_where_it_can(tiny: mc.Data, case: str) -> None:
    path = mc.LinearPath(CASES[case](0), CASES[case](1))
    assert FirstLayer.of(path, tiny.test.x, 2048) is not None


@pytest.mark.parametrize(
    "case", ["twice", "scaled", "symmetric", "own weight", "hooked", "functional", "weight norm"]
)
def test_it_declines_where_it_must(tiny: mc.Data, case: str) -> None:
    path = mc.LinearPath(CASES[case](0), CASES[case](1))
    assert FirstLayer.of(path, tiny.test.x, 2048) is None


def test_it_declines_networks_without_linear_layers(tiny: mc.Data) -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(10))

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None] * self.w

    assert FirstLayer.of(mc.LinearPath(Pool(), Pool()), tiny.test.x, 2048) is None


def test_it_declines_what_does_not_fit_into_memory(
    tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mc.LinearPath(Net(0), Net(1))
    needed = 4 * 64 * 2 * len(tiny.test)  # bytes, units, control points, images
    for count in (len(tiny.test), 1):
        monkeypatch.setattr(first_layer, "_MEMORY", needed * count // len(tiny.test))
        assert FirstLayer.of(path, tiny.test.x[:count], 2048) is not None
        monkeypatch.setattr(first_layer, "_MEMORY", needed * count // len(tiny.test) - 1)
        assert FirstLayer.of(path, tiny.test.x[:count], 2048) is None


def chain(count: int) -> type[Path]:
    """Paths with `count` control points: Bernstein polynomials."""
    from math import comb

    class Curve(Path, kind=f"curve{count}"):
        def coefficients(self, t: float) -> Tensor:
            n = count - 1
            c = [comb(n, i) * t**i * (1 - t) ** (n - i) for i in range(count)]
            return torch.tensor(c, dtype=torch.float64)

        def coefficient_velocities(self, t: float) -> Tensor:
            raise NotImplementedError

    return Curve


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_curves_have_it_up_to_four_control_points(
    tiny: mc.Data, off: Callable[[], None], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(Path, "_kinds", dict(Path._kinds))
    states = [Net(s).state_dict() for s in range(count)]
    points = {
        name: torch.stack([s[name] for s in states])
        for name, x in states[0].items()
        if x.is_floating_point()
    }
    path = chain(count)(Net(0), points)
    assert (FirstLayer.of(path, tiny.test.x, 2048) is None) == (count > 4)
    assert_no_difference(path, tiny, off)


def test_it_is_used_and_spares_the_first_layer(
    tiny: mc.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of first-layer passes does not grow with the number of points."""
    calls = 0
    forward = nn.Linear.forward

    def count(layer: nn.Linear, x: Tensor) -> Tensor:
        nonlocal calls
        calls += layer.in_features == 64 and layer.out_features == 64
        return forward(layer, x)

    monkeypatch.setattr(nn.Linear, "forward", count)
    path = mc.LinearPath(Net(0), Net(1))
    numbers = []
    for points in (3, 30):
        calls = 0
        mc.profile(path, tiny, points, normalization="none")
        numbers.append(calls)
    assert numbers[0] == numbers[1] > 0
    assert profiles.FirstLayer is FirstLayer


@pytest.mark.usefixtures("same_random_state")
def test_nothing_is_left_behind(
    tiny: mc.Data, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    a, b = Net(0), Net(1)
    checks = [untouched(m) for m in (a, b)]
    path = mc.LinearPath(a, b)
    first = FirstLayer.of(path, tiny.test.x, 8)
    assert first is not None
    model = path.model_at(0.5)
    unchanged = untouched(model)
    replayed = first.replaying(model, path.coefficients(0.5))
    for i, x in enumerate(tiny.test.x.split(8)):
        first.turn_to(i)
        with torch.no_grad():
            torch.testing.assert_close(replayed(x), model(x), rtol=1e-5, atol=1e-6)
    for check in (*checks, unchanged):
        check()
