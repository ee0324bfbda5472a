"""Attacks stay in their box, leave the network alone and hurt; training against them helps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.checkpoints import epoch_seed
from mcbook.runs import Recipe
from tests.test_training import Killed, everything, kill_at, same


@pytest.fixture(scope="module")
def nets(digits: mc.Data) -> list[nn.Module]:
    """Three trained perceptrons."""
    return [
        mc.train(mc.build_model("mlp", digits, width=(32,), seed=s), digits, 15, seed=s, lr=0.1)
        for s in range(3)
    ]


@pytest.fixture(scope="module")
def hardened(digits: mc.Data) -> list[nn.Module]:
    """The same, trained against an attack."""
    return [
        mc.train(mc.build_model("mlp", digits, width=(32,), seed=s), digits, 15, seed=s, lr=0.1,
                 attack=mc.PGD(0.1, 0.05, steps=3))
        for s in range(3)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def normed_net(small: mc.Data) -> nn.Module:
    """A convolutional network with batch norm, trained a little."""
    return mc.train(mc.build_model("convnet", small, width=3), small, 2, batch_size=32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# the attack ---------------------------------------------------------------------------------


def slow_attack(model: nn.Module, x: Tensor, y: Tensor, attack: mc.PGD, seed: int) -> Tensor:
    """Image by image, pixel by pixel."""
    model = copy.deepcopy(model).eval()
    noise = torch.rand(x.shape, generator=seeded(seed), dtype=x.dtype)
    done = []
    for image, label, u in zip(x, y.tolist(), noise, strict=True):
        original = image.flatten().tolist()
        box = [(max(0.0, p - attack.epsilon), min(1.0, p + attack.epsilon)) for p in original]

        def into(pixels: list[float], box: list[tuple[float, float]] = box) -> list[float]:
            return [min(max(p, low), high) for p, (low, high) in zip(pixels, box, strict=True)]

        pixels = original
        if attack.random_start:
            places = (2 * u.flatten() - 1).tolist()
            pixels = [p + attack.epsilon * v for p, v in zip(original, places, strict=True)]
            pixels = into(pixels)
        for _ in range(attack.steps):
            one = torch.tensor(pixels, dtype=x.dtype).reshape(1, *image.shape).requires_grad_()
            (-torch.log_softmax(model(one), 1)[0, label]).backward()
            slopes = one.grad.flatten().tolist()
            signs = [(g > 0) - (g < 0) for g in slopes]
            pixels = into([p + attack.step * s for p, s in zip(pixels, signs, strict=True)])
        done.append(torch.tensor(pixels, dtype=x.dtype).reshape(image.shape))
    return torch.stack(done)


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize(
    ("epsilon", "step", "steps"), [(0.1, 0.03, 6), (0.3, 0.5, 2), (0.05, 0, 3)]
)
def test_it_is_the_slow_one(
    nets: list[nn.Module], normed_net: nn.Module, tiny: mc.Data,
    epsilon: float, step: float, steps: int, start: bool,
) -> None:  # fmt: skip
    x, y = tiny.test.x[:6].double(), tiny.test.y[:6]
    attack = mc.PGD(epsilon, step, steps, start)
    for net in (nets[0], normed_net):
        model = copy.deepcopy(net).double()
        found = attack.perturb(model, x, y, seeded(4))
        # a mean over the batch, or over one image, has a gradient of the same sign
        torch.testing.assert_close(found, slow_attack(model, x, y, attack, 4), rtol=0, atol=1e-12)


@given(
    epsilon=st.floats(0, 1.5), step=st.floats(0, 2), steps=st.integers(0, 4), start=st.booleans(),
    which=st.integers(0, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_images_stay_in_their_box_and_in_the_range_of_pixels(
    nets: list[nn.Module], normed_net: nn.Module, tiny: mc.Data,
    epsilon: float, step: float, steps: int, start: bool, which: int, seed: int,
) -> None:  # fmt: skip
    model = [nets[0], nets[1], normed_net, copy.deepcopy(normed_net).train()][which]
    x, y = tiny.test.x[:12], tiny.test.y[:12]
    found = mc.PGD(epsilon, step, steps, start).perturb(model, x, y, seeded(seed))
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert float((found - x).abs().max()) <= epsilon + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_in_a_box_of_no_size_nothing_happens(
    normed_net: nn.Module, tiny: mc.Data, training: bool, random_start: bool
) -> None:
    model = copy.deepcopy(normed_net).train(training)
    x, y = tiny.test.x, tiny.test.y
    found = mc.PGD(0, 0.1, 3, random_start).perturb(model, x, y)
    assert torch.equal(found, x)
    assert found.data_ptr() != x.data_ptr()
    assert torch.equal(mc.PGD(0.1, 0.1, 0, random_start=False).perturb(model, x, y), x)
    assert torch.equal(mc.PGD(0.1, 0, 3, random_start=False).perturb(model, x, y), x)


def test_the_random_start_is_uniform_in_the_box(nets: list[nn.Module]) -> None:
    x, y = torch.full((200, 1, 8, 8), 0.5), torch.zeros(200, dtype=torch.int64)
    places = (mc.PGD(0.2, 0.1, steps=0).perturb(nets[0], x, y, seeded(0)) - x) / 0.2
    assert -1 - 1e-5 <= float(places.min()) < -0.99
    assert 0.99 < float(places.max()) <= 1 + 1e-5
    counts = torch.histc(places, 10, -1, 1) / places.numel()
    assert float((counts - 0.1).abs().max()) < 0.015
    assert places.flatten(1).unique(dim=0).shape[0] == 200  # of its own for each image


def test_the_generator_decides(nets: list[nn.Module], tiny: mc.Data) -> None:
    attack, (x, y) = mc.PGD(0.1, 0.02, 2), (tiny.test.x, tiny.test.y)
    first = attack.perturb(nets[0], x, y, seeded(1))
    assert torch.equal(first, attack.perturb(nets[0], x, y, seeded(1)))
    assert not torch.equal(first, attack.perturb(nets[0], x, y, seeded(2)))
    with torch.random.fork_rng():
        torch.manual_seed(1)  # without one, torch's own
        assert torch.equal(first, attack.perturb(nets[0], x, y))
    still = mc.PGD(0.1, 0.02, 2, random_start=False)
    before = torch.get_rng_state()
    torch.testing.assert_close(still.perturb(nets[0], x, y), still.perturb(nets[0], x, y))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_and_the_images_are_left_alone(
    normed_net: nn.Module, tiny: mc.Data, training: bool, untouched: Callable,
    same_random_state: None,
) -> None:  # fmt: skip
    model = copy.deepcopy(normed_net).train(training)
    x, y = tiny.test.x.clone(), tiny.test.y.clone()
    unchanged = untouched(model)
    with torch.no_grad():
        found = mc.PGD(0.1, 0.03).perturb(model, x, y, seeded(0))
    assert mc.PGD(0.1, 0.03).perturb(model, x, y, seeded(0)).equal(found)
    unchanged()
    assert not found.requires_grad
    assert torch.equal(x, tiny.test.x)
    assert torch.equal(y, tiny.test.y)
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.25)  # gradients someone is still adding up
    mc.PGD(0.1, 0.03).perturb(model, x, y, seeded(0))
    assert all((p.grad == 0.25).all() and p.requires_grad for p in model.parameters())


def test_layers_in_training_mode_are_left_alone_in_a_network_in_eval_mode(
    normed_net: nn.Module, tiny: mc.Data, untouched: Callable
) -> None:
    model = copy.deepcopy(normed_net).eval()
    model.norm1.train()
    unchanged = untouched(model)
    mc.PGD(0.1, 0.03).perturb(model, tiny.test.x, tiny.test.y, seeded(0))
    unchanged()


def test_images_of_a_graph_are_taken_out_of_it(nets: list[nn.Module], tiny: mc.Data) -> None:
    attack, x = mc.PGD(0.1, 0.03), tiny.test.x.clone().requires_grad_()
    found = attack.perturb(nets[0], x, tiny.test.y, seeded(0))
    assert torch.equal(found, attack.perturb(nets[0], tiny.test.x, tiny.test.y, seeded(0)))
    assert not found.requires_grad
    assert x.grad is None


def test_what_a_network_stores_is_put_back_when_it_fails(
    tiny: mc.Data, untouched: Callable
) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            self.norm(x)
            raise KeyError

    model = Failing().train()
    unchanged = untouched(model)
    with pytest.raises(KeyError):
        mc.PGD(0.1, 0.03).perturb(model, tiny.test.x, tiny.test.y, seeded(0))
    unchanged()


def test_frozen_networks_are_attacked_as_well(nets: list[nn.Module], tiny: mc.Data) -> None:
    frozen = copy.deepcopy(nets[0]).requires_grad_(False)
    x, y = tiny.test.x, tiny.test.y
    found, plain = (mc.PGD(0.1, 0.03).perturb(m, x, y, seeded(0)) for m in (frozen, nets[0]))
    assert torch.equal(found, plain)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_in_training_mode_the_statistics_are_of_the_batch(
    normed_net: nn.Module, tiny: mc.Data
) -> None:
    model, other = copy.deepcopy(normed_net), copy.deepcopy(normed_net)
    for m in other.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean += torch.linspace(-3, 3, len(m.running_mean))
    attack, (x, y) = mc.PGD(0.1, 0.03), (tiny.test.x, tiny.test.y)
    for training in (True, False):
        found = [attack.perturb(m.train(training), x, y, seeded(0)) for m in (model, other)]
        assert torch.equal(*found) == training


def test_attacks_hurt_and_longer_and_wider_ones_more(
    nets: list[nn.Module], digits: mc.Data
) -> None:
    for net in nets:
        clean = mc.evaluate(net, digits.test)
        losses = [
            mc.robust_evaluate(net, digits.test, mc.PGD(0.1, 0.02, k, random_start=False))[0]
            for k in (0, 1, 3, 8)
        ]
        assert math.isclose(losses[0], clean[0], rel_tol=1e-6)
        assert losses[1] > 1.15 * losses[0]
        assert losses[2] > 1.3 * losses[1]
        assert losses[3] > 1.1 * losses[2]
        wide = [mc.robust_evaluate(net, digits.test, mc.PGD(e, e / 2)) for e in (0.02, 0.05, 0.1)]
        assert clean[0] < wide[0][0] < 0.8 * wide[1][0] < 0.6 * wide[2][0]
        assert clean[1] > wide[1][1] > wide[2][1] + 0.1
        # where the loss is a random place's, it is hardly higher
        noise = mc.robust_evaluate(net, digits.test, mc.PGD(0.1, 0.02, 0))[0]
        assert noise < losses[1]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_what_is_no_attack_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon of an attack to be at least 0, found {value}"):
        mc.PGD(value, 0.1)
    with pytest.raises(ValueError, match=f"step of an attack to be at least 0, found {value}"):
        mc.PGD(0.1, value)
    with pytest.raises(ValueError, match="steps of an attack, found -1"):
        mc.PGD(0.1, 0.1, -1)


@pytest.mark.parametrize(
    ("pixel", "said"), [(-0.5, "-0.5 to"), (1.5, "to 1.5"), (math.nan, "nan"), (255.0, "to 255")]
)
def test_pixels_outside_the_range_are_refused(
    nets: list[nn.Module], tiny: mc.Data, pixel: float, said: str
) -> None:
    x = tiny.test.x.clone()
    x[3, 0, 2, 2] = pixel
    with pytest.raises(ValueError, match=rf"pixels in \[0, 1\] to attack, found .*{said}"):
        mc.PGD(0.1, 0.1).perturb(nets[0], x, tiny.test.y)
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        mc.robust_evaluate(nets[0], mc.Split(x, tiny.test.y), mc.PGD(0.1, 0.1))


# evaluation ---------------------------------------------------------------------------------


def test_robust_evaluate_is_an_attack_and_an_evaluation(
    nets: list[nn.Module], normed_net: nn.Module, tiny: mc.Data, untouched: Callable,
    same_random_state: None,
) -> None:  # fmt: skip
    attack = mc.PGD(0.1, 0.03, 3)
    for net in (nets[0], normed_net, copy.deepcopy(normed_net).train()):
        unchanged = untouched(net)
        x = attack.perturb(copy.deepcopy(net).eval(), tiny.test.x, tiny.test.y, seeded(7))
        loss, accuracy = mc.evaluate(net, mc.Split(x, tiny.test.y))
        found = mc.robust_evaluate(net, tiny.test, attack, seed=7)
        assert math.isclose(found[0], loss, rel_tol=1e-6)
        assert found[1] == accuracy
        assert mc.robust_evaluate(net, tiny.test, attack, seed=8) != found
        unchanged()


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_the_batch_size_does_not_matter(
    normed_net: nn.Module, tiny: mc.Data, batch_size: int
) -> None:
    attack = mc.PGD(0.1, 0.03, 3, random_start=False)
    whole = mc.robust_evaluate(normed_net, tiny.test, attack)
    parts = mc.robust_evaluate(normed_net, tiny.test, attack, batch_size=batch_size)
    assert math.isclose(parts[0], whole[0], rel_tol=1e-4)
    assert parts[1] == whole[1]


def test_other_kinds_of_arguments_are_refused(nets: list[nn.Module], tiny: mc.Data) -> None:
    with pytest.raises(TypeError, match="expected a split"):
        mc.robust_evaluate(nets[0], tiny, mc.PGD(0.1, 0.1))
    with pytest.raises(TypeError, match="expected an attack"):
        mc.robust_evaluate(nets[0], tiny.test, 0.1)
    with pytest.raises(ValueError, match="classes"):
        mc.robust_evaluate(nn.Flatten(2), tiny.test, mc.PGD(0.1, 0.1, 0))


def test_too_few_outputs_are_refused(tiny: mc.Data) -> None:
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="classes"):
        mc.robust_evaluate(three, tiny.test, mc.PGD(0.1, 0.1))


# adversarial training -----------------------------------------------------------------------


def test_training_against_an_attack_makes_robust(
    nets: list[nn.Module], hardened: list[nn.Module], digits: mc.Data
) -> None:
    attack = mc.PGD(0.1, 0.025, 10)  # another one than in training
    for plain, hard in zip(nets, hardened, strict=True):
        before, after = (mc.robust_evaluate(m, digits.test, attack) for m in (plain, hard))
        assert after[0] < 0.75 * before[0]
        assert after[1] > before[1] + 0.08
        assert mc.evaluate(hard, digits.test)[1] > 0.9


def test_an_epoch_of_one_batch_is_plain_training_on_attacked_images(tiny: mc.Data) -> None:
    model = mc.build_model("mlp", tiny, width=(6,))
    attack = mc.PGD(0.2, 0.06, 4, random_start=False)
    x = attack.perturb(model, tiny.train.x, tiny.train.y)
    moved = mc.Data(
        train=mc.Split(x, tiny.train.y), test=tiny.test, classes=tiny.classes, name=tiny.name,
        fingerprint=tiny.fingerprint,
    )  # fmt: skip
    options = {"epochs": 1, "batch_size": 70, "lr": 0.5}
    found, expected = (
        mc.train(model, tiny, attack=attack, **options),
        mc.train(model, moved, **options),
    )
    for name, p in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], p)
    assert math.isclose(found.history["train_loss"][0], expected.history["train_loss"][0])
    assert not same(found, mc.train(model, tiny, **options))


@pytest.mark.parametrize("random_start", [True, False])
def test_in_a_box_of_no_size_training_is_plain(tiny: mc.Data, random_start: bool) -> None:
    """Batch norm stores what it would have without the passes of the attack."""
    model = mc.build_model("convnet", tiny, width=2)
    plain = mc.train(model, tiny, 2, batch_size=16)
    for steps in (0, 2):
        attack = mc.PGD(0, 0.1, steps, random_start)
        assert same(plain, mc.train(model, tiny, 2, batch_size=16, attack=attack))


@pytest.mark.parametrize("stop", [3, 7, 12])
def test_interrupted_and_resumed_is_uninterrupted(
    tiny: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    run = {"epochs": 3, "batch_size": 16, "augment": True, "attack": mc.PGD(0.1, 0.05, 2)}
    whole = mc.train(everything(), tiny, **run)
    with monkeypatch.context() as patch:
        kill_at(patch, stop)
        with pytest.raises(Killed):
            mc.train(everything(), tiny, checkpoint=tmp_path / "run", **run)
    resumed = mc.train(everything(), tiny, checkpoint=tmp_path / "run", **run)
    assert same(whole, resumed)
    assert whole.history.equals(resumed.history)


def test_a_checkpoint_of_another_attack_is_refused(tiny: mc.Data, tmp_path: Path) -> None:
    model, file = mc.build_model("mlp", tiny, width=(4,)), tmp_path / "run"
    trained = mc.train(model, tiny, 1, attack=mc.PGD(0.1, 0.05), checkpoint=file)
    again = mc.train(model, tiny, 1, attack=mc.PGD(0.1, 0.05), checkpoint=file)
    assert same(trained, again)
    for other in (None, mc.PGD(0.1, 0.04), mc.PGD(0.1, 0.05, random_start=False)):
        with pytest.raises(mc.IncompatibleError, match="expected attack = "):
            mc.train(model, tiny, 1, attack=other, checkpoint=file)
    with pytest.raises(TypeError, match="expected an attack"):
        Recipe(attack=0.1)


# curves -------------------------------------------------------------------------------------


@pytest.fixture
def ends(tiny: mc.Data) -> list[nn.Module]:
    return [mc.build_model("mlp", tiny, width=(6,), seed=s) for s in (0, 1)]


def fit(nets: list[nn.Module], data: mc.Data, **options: Any) -> mc.Path:
    return mc.fit_curve(*nets, data, **{"steps": 12, "batch_size": 16, **options})


def curve(path: mc.Path) -> Tensor:
    return torch.cat([p.flatten() for p in path.control_points.values()])


def test_a_curve_is_fitted_to_images_attacked_at_its_point(
    ends: list[nn.Module], tiny: mc.Data
) -> None:
    """A step of gradient descent, from the straight line, by hand."""
    attack = mc.PGD(0.2, 0.06, 3, random_start=False)
    path = fit(ends, tiny, steps=1, batch_size=70, optimizer="sgd", momentum=0.0, lr=1.0,
               schedule="constant", attack=attack)  # fmt: skip
    generator = seeded(epoch_seed(0, 0))
    torch.randperm(70, generator=generator)
    t = float(torch.rand(1, generator=generator, dtype=torch.float64))
    network = mc.LinearPath(*ends).model_at(t)
    x = attack.perturb(network, tiny.train.x, tiny.train.y)
    F.cross_entropy(network(x), tiny.train.y).backward()
    for name, p in network.named_parameters():
        points = path.control_points[name]
        expected = (points[0] + points[2]) / 2 - 2 * t * (1 - t) * p.grad
        torch.testing.assert_close(points[1], expected, rtol=1e-4, atol=1e-6)


def test_an_attack_in_a_box_of_no_size_fits_the_plain_curve(
    ends: list[nn.Module], tiny: mc.Data
) -> None:
    plain = curve(fit(ends, tiny))
    assert torch.equal(curve(fit(ends, tiny, attack=mc.PGD(0, 0.1))), plain)
    assert not torch.equal(curve(fit(ends, tiny, attack=mc.PGD(0.1, 0.1))), plain)


@pytest.mark.parametrize("stop", [2, 3])
def test_an_interrupted_curve_comes_to_the_same(
    ends: list[nn.Module], tiny: mc.Data, tmp_path: Path, stop: int
) -> None:
    seen: list[int] = []

    def watch(_: mc.Path) -> dict[str, float]:
        seen.append(0)
        if len(seen) == stop + 1:
            raise Killed
        return {}

    options = {"every": 3, "attack": mc.PGD(0.1, 0.05, 2)}
    whole = fit(ends, tiny, **options)
    with pytest.raises(Killed):
        fit(ends, tiny, watch=watch, checkpoint=tmp_path / "curve", **options)
    resumed = fit(ends, tiny, checkpoint=tmp_path / "curve", **options)
    assert torch.equal(curve(whole), curve(resumed))
    with pytest.raises(mc.IncompatibleError, match="expected attack = "):
        fit(ends, tiny, checkpoint=tmp_path / "curve", every=3)


def test_the_robust_barrier_of_a_curve_fitted_under_attack_is_lower(
    hardened: list[nn.Module], digits: mc.Data
) -> None:
    attack = mc.PGD(0.1, 0.05, 3)
    for pair in (hardened[:2], hardened[1:]):
        line, bent = (
            mc.robust_profile(path, digits, attack, 9).barrier()
            for path in (
                mc.LinearPath(*pair),
                fit(pair, digits, steps=200, batch_size=64, lr=0.01, attack=attack),
            )
        )
        assert line > 0.15
        assert bent < 0.5 * line
