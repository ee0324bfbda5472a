from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import mcbook as mc
from mcbook import moments
from mcbook.corrections import Corrected
from mcbook.paths import Path
from mcbook.repair import Repair, repair
from tests.networks_to_repair import NETWORKS, Network

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def ends(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Two networks of one architecture that are unlike in scale and mean."""
    found = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = make().eval()
            with torch.no_grad():
                for name, x in model.state_dict().items():
                    if x.is_floating_point() and x.ndim > 1:
                        x.mul_(1.5 + seed)
                    elif name.endswith("bias"):
                        x.normal_(0.2 * seed, 0.3)
        found.append(model)
    return found[0], found[1]


def outputs(model: nn.Module, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What the named modules put out, channels last: `[values, c]`, float64."""
    found: dict[str, Tensor] = {}

    def keep(name: str, axis: int, z: Tensor) -> None:
        assert name not in found
        found[name] = z.double().movedim(axis, -1).flatten(0, -2)

    handles = []
    for name in names:
        module = model.get_submodule(name)
        inner = module.module if isinstance(module, Corrected) else module
        axis = -1 if isinstance(inner, nn.Linear) else 1
        handles.append(
            module.register_forward_hook(lambda _m, _a, z, n=name, axis=axis: keep(n, axis, z))
        )
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def moments_of(z: Tensor) -> tuple[Tensor, Tensor]:
    return z.mean(0), z.std(0, correction=0)


# what it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.5, 0.2])
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_channel_has_the_mean_and_deviation_of_the_mixture(
    name: str, fuse: bool, t: float
) -> None:
    network: Network = NETWORKS[name]
    a, b = ends(network.make)
    x = network.inputs(60)
    fixed = repair(mc.LinearPath(a, b), t, x, fuse=fuse)
    assert {n for n, m in fixed.named_modules() if isinstance(m, Corrected)} == (
        set() if fuse else set(network.layers)
    )
    found = outputs(fixed, x, network.layers)
    at_ends = [outputs(mc.reset_batch_norm(m, x), x, network.layers) for m in (a, b)]
    for layer in network.layers:
        (mean_a, std_a), (mean_b, std_b) = (moments_of(z[layer]) for z in at_ends)
        mean, std = moments_of(found[layer])
        scale = float(std_a.mean() + std_b.mean())
        goal = (1 - t) * mean_a + t * mean_b, (1 - t) * std_a + t * std_b
        torch.testing.assert_close(mean, goal[0], rtol=1e-4, atol=1e-4 * scale)
        torch.testing.assert_close(std, goal[1], rtol=1e-4, atol=1e-4 * scale)


def wrapped(a: nn.Module, b: nn.Module, t: float, x: Tensor, layers: Sequence[str]) -> nn.Module:
    """REPAIR as the paper does it: a real batch norm after each layer, whose weight and bias are
    the targets and whose statistics come from a pass in training mode."""
    middle = mc.LinearPath(a, b).model_at(t).double()
    za, zb = (outputs(copy.deepcopy(m).double(), x.double(), layers) for m in (a, b))
    norms = {}
    for name in layers:
        (mean_a, std_a), (mean_b, std_b) = moments_of(za[name]), moments_of(zb[name])
        layer = middle.get_submodule(name)
        kind = nn.BatchNorm1d if isinstance(layer, nn.Linear) else nn.BatchNorm2d
        norm = norms[name] = kind(len(std_a), eps=1e-12, momentum=None).double()
        with torch.no_grad():
            norm.bias.copy_((1 - t) * mean_a + t * mean_b)
            norm.weight.copy_((1 - t) * std_a + t * std_b)
        setattr(middle, name, nn.Sequential(layer, norm))
    middle.eval()
    for norm in norms.values():
        norm.train()
    with torch.no_grad():
        middle(x.double())
        for name, norm in norms.items():
            n = len(za[name])
            norm.running_var.mul_((n - 1) / n)  # batch norm stores the unbiased variance
    return middle.eval()


@pytest.mark.parametrize("t", [0.5, 0.3])
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_fused_it_is_a_batch_norm_after_each_layer(
    digits: mc.Data, endpoints: list[nn.Module], kind: str, t: float
) -> None:
    if kind == "mlp":
        a, b = endpoints[:2]
    else:
        a, b = ends(lambda: mc.build_model("convnet", digits, width=6, norm=None))
    layers = [name for name, m in a.named_modules() if isinstance(m, LAYERS)]
    slow = wrapped(a, b, t, digits.train.x, layers)
    fast = repair(mc.LinearPath(a, b), t, digits.train.x)
    with torch.no_grad():
        expected, found = slow(digits.test.x.double()), fast(digits.test.x).double()
    scale = float(expected.std())
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_fused_and_wrapped_compute_the_same(name: str, closed_form: bool) -> None:
    network: Network = NETWORKS[name]
    a, b = ends(network.make)
    path, x = mc.LinearPath(a, b), network.inputs(60)
    with torch.no_grad():
        fused, separate, where_it_fits = (
            repair(path, 0.4, x, closed_form)(x),
            repair(path, 0.4, x, closed_form, fuse=False)(x),
            Repair(path, x, closed_form).at(0.4)[0](x),
        )
    scale = float(fused.abs().max())
    torch.testing.assert_close(fused, separate, rtol=1e-4, atol=1e-4 * scale)
    torch.testing.assert_close(fused, where_it_fits, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_ends_stay_as_they_are(name: str, closed_form: bool) -> None:
    network: Network = NETWORKS[name]
    nets = ends(network.make)
    x = network.inputs(60)
    for t, net in zip((0.0, 1.0), nets, strict=True):
        fixed = repair(mc.LinearPath(*nets), t, x, closed_form)
        expected = mc.reset_batch_norm(net, x).state_dict()
        for key, value in fixed.state_dict().items():
            goal = expected.get(key, torch.zeros_like(value))  # a bias that the layer had not
            torch.testing.assert_close(value, goal, rtol=1e-6, atol=1e-6)


# the closed form ------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.5, 0.25, 0.8])
@pytest.mark.parametrize("name", ["mlp", "convolutions", "conv1d"])
def test_in_closed_form_scales_follow_from_deviations_and_correlation(name: str, t: float) -> None:
    network: Network = NETWORKS[name]
    a, b = ends(network.make)
    x = network.inputs(60)
    path = mc.LinearPath(a, b)
    plain, fixed = path.model_at(t), repair(path, t, x, closed_form=True)
    za, zb = (outputs(m, x, network.layers) for m in (a, b))
    for layer in network.layers:
        (mean_a, sa), (mean_b, sb) = moments_of(za[layer]), moments_of(zb[layer])
        rho = ((za[layer] - mean_a) * (zb[layer] - mean_b)).mean(0) / (sa * sb)
        variance = ((1 - t) * sa) ** 2 + (t * sb) ** 2 + 2 * t * (1 - t) * rho * sa * sb
        scale = ((1 - t) * sa + t * sb) / variance.sqrt()
        if t == 0.5:
            spec = (sa + sb) / (sa**2 + sb**2 + 2 * rho * sa * sb).sqrt()
            torch.testing.assert_close(scale, spec)
        before, after = (m.get_submodule(layer) for m in (plain, fixed))
        torch.testing.assert_close(
            after.weight.double(),
            before.weight * scale.view(-1, *[1] * (before.weight.ndim - 1)),
            rtol=1e-4, atol=1e-6,
        )  # fmt: skip
        mean = (1 - t) * mean_a + t * mean_b
        torch.testing.assert_close(
            after.bias.double(), mean + (before.bias - mean) * scale, rtol=1e-4, atol=1e-4
        )
        assert float(scale.max()) > 1.02


@pytest.mark.parametrize("name", NETWORKS)
def test_the_closed_form_is_exact_in_the_first_layer(name: str) -> None:
    network: Network = NETWORKS[name]
    a, b = ends(network.make)
    path, x = mc.LinearPath(a, b), network.inputs(60)
    first = network.layers[0] if network.first_is_corrected else None
    measured, closed = (repair(path, 0.3, x, c, layers=first and [first]) for c in (False, True))
    if first is None:  # then the first layer's is batch norm
        norm = next(m for m in measured.modules() if hasattr(m, "running_var"))
        other = next(m for m in closed.modules() if hasattr(m, "running_var"))
        torch.testing.assert_close(norm.running_mean, other.running_mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(norm.running_var, other.running_var, rtol=1e-4, atol=1e-4)
        return
    for x, y in zip(
        measured.get_submodule(first).parameters(),
        closed.get_submodule(first).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_in_closed_form_the_network_between_is_not_run(tiny: mc.Data) -> None:
    class Counting(nn.Module):
        runs = 0

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            Counting.runs += len(x)
            return self.linear(x.flatten(1))

    path = mc.LinearPath(*ends(Counting))
    for closed_form in (True, False):
        made = Repair(path, tiny.train.x, closed_form)
        Counting.runs = 0
        made.at(0.5)
        assert (Counting.runs == 0) == closed_form


@pytest.mark.usefixtures("tiny")
def test_only_a_straight_line_has_a_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "_kinds", dict(Path._kinds))

    class Bent(Path, kind="bent"):
        def coefficients(self, t: float) -> Tensor:
            return torch.tensor([(1 - t) ** 2, 2 * t * (1 - t), t * t], dtype=torch.float64)

        def coefficient_velocities(self, t: float) -> Tensor:
            return torch.tensor([2 * t - 2, 2 - 4 * t, 2 * t], dtype=torch.float64)

    network = NETWORKS["mlp"]
    a, b = ends(network.make)
    points = {n: torch.stack([p, 0.3 * p, b.state_dict()[n]]) for n, p in a.state_dict().items()}
    path, x = Bent(a, points), network.inputs(50)
    with pytest.raises(ValueError, match="straight line for the closed form.* found a bent path"):
        repair(path, 0.5, x, closed_form=True)
    std = outputs(repair(path, 0.5, x), x, ["1"])["1"].std(0, correction=0)
    goal = sum(outputs(m, x, ["1"])["1"].std(0, correction=0) / 2 for m in (a, b))
    torch.testing.assert_close(std, goal, rtol=1e-4, atol=1e-5)


# laws -----------------------------------------------------------------------------------------


@given(
    st.integers(1, 90), st.integers(0, 1000), st.sampled_from(["mlp", "batch norm"]), st.booleans()
)
def test_neither_batch_size_nor_order_matters(
    batch_size: int, seed: int, name: str, closed_form: bool
) -> None:
    network: Network = NETWORKS[name]
    path, x = mc.LinearPath(*ends(network.make)), network.inputs(70)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(seed))
    whole = repair(path, 0.4, x, closed_form).state_dict()
    parts = repair(path, 0.4, x[order], closed_form, batch_size=batch_size).state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-4)


def test_too_little_memory_only_means_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    network: Network = NETWORKS["convolutions"]
    path, x = mc.LinearPath(*ends(network.make)), network.inputs(30)
    for closed_form in (False, True):
        whole = repair(path, 0.4, x, closed_form).state_dict()
        with monkeypatch.context() as patch:
            patch.setattr(moments, "_MEMORY", 1)
            parts = repair(path, 0.4, x, closed_form).state_dict()
        for key, value in whole.items():
            torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("closed_form", [False, True])
def test_with_batch_norm_all_but_the_read_out_is_the_reset(
    normed: list[nn.Module], digits: mc.Data, closed_form: bool
) -> None:
    path, x = mc.LinearPath(*normed[:2]), digits.train.x
    reset = mc.reset_batch_norm(path.model_at(0.5), x).state_dict()
    for output in (False, True):
        fixed = repair(path, 0.5, x, closed_form, output=output).state_dict()
        apart = {key for key, value in reset.items() if not torch.equal(fixed[key], value)}
        statistics = {key for key in reset if "running" in key}
        assert apart - statistics == ({"output.weight", "output.bias"} if output else set())
        assert bool(apart & statistics) == closed_form


@pytest.mark.usefixtures("same_random_state")
def test_it_changes_nothing_and_repeats_to_the_last_bit(
    normed: list[nn.Module], tiny: mc.Data, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    unchanged = [untouched(m) for m in normed[:2]]
    path = mc.LinearPath(*normed[:2])
    before = {name: x.clone() for name, x in path.control_points.items()}
    for options in ({}, {"closed_form": True}, {"fuse": False}):
        first, again = (repair(path, 0.5, tiny.train.x, **options) for _ in range(2))
        assert not first.training
        assert all(
            torch.equal(x, y)
            for x, y in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
        )
        assert all(p.requires_grad and p.grad is None for p in first.parameters())
    for check in unchanged:
        check()
    assert all(torch.equal(x, before[name]) for name, x in path.control_points.items())


def test_what_it_returns_says_how_it_was_made_only_where_that_is_true(
    endpoints: list[nn.Module], tiny: mc.Data, tmp_path: object
) -> None:
    path = mc.LinearPath(*endpoints[:2])
    fused = repair(path, 0.5, tiny.train.x)
    assert list(fused.state_dict()) == list(endpoints[0].state_dict())
    mc.save_model(fused, f"{tmp_path}/fused.safetensors")
    loaded = mc.load_model(f"{tmp_path}/fused.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(tiny.test.x), fused(tiny.test.x))
    apart = repair(path, 0.5, tiny.train.x, fuse=False)
    assert not hasattr(apart, "architecture")
    assert apart.example_shape == (1, 8, 8)


# which layers ---------------------------------------------------------------------------------


def test_layers_can_be_chosen(tiny: mc.Data) -> None:
    a, b = ends(lambda: mc.build_model("mlp", tiny, width=(6, 5)))
    path, x = mc.LinearPath(a, b), tiny.train.x
    plain = path.model_at(0.5).state_dict()

    def changed(**options: object) -> set[str]:
        fixed = repair(path, 0.5, x, **options).state_dict()
        return {key.split(".")[0] for key, value in plain.items() if (fixed[key] != value).any()}

    assert changed() == {"linear1", "linear2", "output"}
    assert changed(output=False) == {"linear1", "linear2"}
    assert changed(layers=["linear2"], output=False) == {"linear2"}
    assert changed(layers=["output", "linear1"], output=False) == {"linear1", "output"}
    assert changed(layers=[]) == set()


def test_outputs_of_blocks_are_corrected_on_request(tiny: mc.Data) -> None:
    a, b = ends(lambda: mc.build_model("resnet20", tiny, width=2))
    path, x = mc.LinearPath(a, b), tiny.train.x
    blocks = [f"block{s}_{i}" for s in (1, 2, 3) for i in (1, 2, 3)]
    with pytest.raises(ValueError, match="it is a BasicBlock, not a linear.*; fuse=False keeps"):
        repair(path, 0.5, x, layers=blocks)
    fixed = repair(path, 0.5, x, layers=[*blocks, "output"], fuse=False)
    found = outputs(fixed, x, [*blocks, "output"])
    za, zb = (outputs(mc.reset_batch_norm(m, x), x, [*blocks, "output"]) for m in (a, b))
    for name, z in found.items():
        for value, at_a, at_b in zip(*map(moments_of, (z, za[name], zb[name])), strict=True):
            torch.testing.assert_close(value, (at_a + at_b) / 2, rtol=1e-3, atol=1e-3)


# units that do not vary -----------------------------------------------------------------------


def test_dead_and_constant_units_do_no_harm(tiny: mc.Data) -> None:
    a, b = ends(lambda: mc.build_model("mlp", tiny, width=(6, 5)))
    with torch.no_grad():
        for model in (a, b):  # constant in both, 0.3 in A and 0.7 in B
            model.linear1.weight[0] = 0
        a.linear1.bias[0], b.linear1.bias[0] = 0.3, 0.7
        b.linear1.weight[1] = -a.linear1.weight[1]  # constant at the midpoint alone
        a.linear1.weight[2] = 0  # constant in A alone
        a.linear2.weight.zero_()  # a whole layer
        b.linear2.weight.zero_()
    x = tiny.train.x
    for closed_form in (False, True):
        fixed = repair(mc.LinearPath(a, b), 0.5, x, closed_form)
        assert all(torch.isfinite(p).all() for p in fixed.parameters())
        z = outputs(fixed, x, ["linear1", "linear2"])
        assert torch.allclose(z["linear1"][:, 0], torch.tensor(0.5).double())
        mean, std = moments_of(z["linear1"])
        means = [moments_of(outputs(m, x, ["linear1"])["linear1"])[0][1] for m in (a, b)]
        assert math.isclose(float(mean[1]), float(sum(means)) / 2, abs_tol=1e-5)
        assert float(std[1]) < 1e-5
        assert not fixed.linear1.weight[1].any()
        goal = float(moments_of(outputs(b, x, ["linear1"])["linear1"])[1][2]) / 2
        assert math.isclose(float(std[2]), goal, rel_tol=1e-4)
        bias = (a.linear2.bias + b.linear2.bias).double() / 2
        torch.testing.assert_close(z["linear2"][0], bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("closed_form", [False, True])
def test_rounding_is_not_taken_for_variance(tiny: mc.Data, closed_form: bool) -> None:
    a = mc.build_model("mlp", tiny, width=50)
    b = copy.deepcopy(a)
    with torch.no_grad():
        for p in b.linear1.parameters():
            p.neg_()
    _, corrections = Repair(mc.LinearPath(a, b), tiny.train.x, closed_form).at(0.5)
    assert torch.equal(corrections["linear1"].scale, torch.ones(50).double())


def test_one_image_gives_means_alone(tiny: mc.Data) -> None:
    a, b = ends(lambda: mc.build_model("mlp", tiny, width=6))
    fixed = repair(mc.LinearPath(a, b), 0.5, tiny.train.x[:1])
    plain = mc.LinearPath(a, b).model_at(0.5)
    assert torch.equal(fixed.linear1.weight, plain.linear1.weight)
    assert all(torch.isfinite(p).all() for p in fixed.parameters())


# bad input ------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_refused(endpoints: list[nn.Module], tiny: mc.Data) -> None:
    path, x = mc.LinearPath(*endpoints[:2]), tiny.train.x
    with pytest.raises(TypeError, match="expected a path.* found Network"):
        repair(endpoints[0], 0.5, x)
    with pytest.raises(TypeError, match="expected training images.* found Data"):
        repair(path, 0.5, tiny)
    with pytest.raises(ValueError, match="at least one image to measure statistics on"):
        repair(path, 0.5, x[:0])
    spoiled = x.clone()
    spoiled[3, 0, 1, :2] = torch.tensor([math.nan, math.inf])
    with pytest.raises(ValueError, match="finite images, found 2 NaN or infinite"):
        repair(path, 0.5, spoiled)
    for t in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"expected t in \[0, 1\], found"):
            repair(path, t, x)
    with pytest.raises(mc.UnknownNameError, match=r"unknown layer 'linear3'.*'linear2'"):
        repair(path, 0.5, x, layers=["linear1", "linear3"])
    with pytest.raises(TypeError, match="expected a list of names of layers, found one: 'linear1'"):
        repair(path, 0.5, x, layers="linear1")
    huge = copy.deepcopy(endpoints[0])
    with torch.no_grad():
        huge.linear1.weight.fill_(1e38)
    with pytest.raises(ValueError, match="expected finite outputs of linear1, found NaN"):
        repair(mc.LinearPath(huge, endpoints[1]), 0.5, x)


class Twice(nn.Module):
    """Calls a layer twice, one never, one that returns a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.loop = nn.Linear(64, 5), nn.Linear(5, 5)
        self.never, self.pair = nn.Linear(5, 5), Pair()

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.flatten(1)).relu()
        return sum(self.pair(self.loop(self.loop(z))))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x * x


def test_layers_that_one_correction_cannot_serve_are_refused(tiny: mc.Data) -> None:
    path, x = mc.LinearPath(*ends(Twice)), tiny.train.x
    for layers in (None, ["loop"]):
        with pytest.raises(ValueError, match="loop to be called once .*, found 2 calls"):
            repair(path, 0.5, x, layers=layers)
    with pytest.raises(ValueError, match="never to be called once .*, found 0 calls"):
        repair(path, 0.5, x, layers=["never"])
    with pytest.raises(ValueError, match="pair to return one tensor.*, found tuple"):
        repair(path, 0.5, x, layers=["pair"], fuse=False)
    fixed = repair(path, 0.5, x, layers=["first"])
    assert torch.equal(fixed.loop.weight, path.model_at(0.5).loop.weight)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[3].weight = model[1].weight
    return model


def normed_weights() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 6)), nn.ReLU(), nn.Linear(6, 4))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4))
    model[1].register_forward_hook(_doubled)
    return model


def _doubled(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return 2 * out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tied, "1 to have plain weights of its own.*, found weights that are also those of 3"),
        (normed_weights, "1 to have plain weights .*it is a ParametrizedLinear"),
        (hooked, "1 to have plain weights .*, found hooks"),
    ],
)
def test_what_does_not_fit_into_the_weights_is_kept_apart(
    tiny: mc.Data, make: Callable[[], nn.Module], message: str
) -> None:
    a, b = ends(make)
    path, x = mc.LinearPath(a, b), tiny.train.x
    with pytest.raises(ValueError, match=message + ".*; fuse=False keeps"):
        repair(path, 0.5, x)
    for fixed in (repair(path, 0.5, x, fuse=False), Repair(path, x).at(0.5)[0]):
        found, za, zb = (outputs(m, x, ["1"])["1"] for m in (fixed, a, b))
        std = (moments_of(za)[1] + moments_of(zb)[1]) / 2
        torch.testing.assert_close(moments_of(found)[1], std, rtol=1e-4, atol=1e-5)


# what it is for -------------------------------------------------------------------------------


def test_it_lowers_the_wall_between_deep_perceptrons(digits: mc.Data) -> None:
    nets = [
        mc.train(mc.build_model("mlp", digits, width=(64,) * 6, seed=s), digits, 20, seed=s)
        for s in range(4)
    ]
    heights: dict[tuple[str, str], list[float]] = {}
    for a, b in pairwise(nets):
        for normalization in ("none", "repair"):
            prof = mc.profile(
                mc.LinearPath(a, b), digits, 7, ("test",), normalization=normalization
            )
            for what in ("loss", "accuracy"):
                heights.setdefault((normalization, what), []).append(prof.barrier("test", what))
    mean = {key: sum(values) / len(values) for key, values in heights.items()}
    assert mean["repair", "loss"] < 0.8 * mean["none", "loss"]
    assert mean["repair", "accuracy"] < 0.7 * mean["none", "accuracy"]


def test_it_lowers_the_wall_between_shallow_perceptrons_by_far(
    endpoints: list[nn.Module], digits: mc.Data
) -> None:
    for a, b in pairwise(endpoints):
        path = mc.LinearPath(a, b)
        plain, _ = mc.evaluate(path.model_at(0.5), digits.test)
        fixed, _ = mc.evaluate(repair(path, 0.5, digits.train.x), digits.test)
        assert fixed < 0.8 * plain
