from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mcbook as mc
from mcbook.models import build_from, register, registry

ALL = {
    "mlp": {"width": 5},
    "lenet5": {"width": 0.5},
    "convnet": {"width": 2},
    "resnet20": {"width": 1},
    "tinyten": {"width": 2},
    "vgg11": {"width": 2},
    "vgg16": {"width": 2},
    "resnet18": {"width": 1},
    "mobilenetv2": {"width": 0.1, "multiple": 2, "last": 8},
    "mobilenetv3": {"width": 0.1, "multiple": 2},
    "shufflenetv1": {"width": 0.1},
    "shufflenetv2": {"width": 0.1},
    "efficientnetb0": {"width": 0.1, "depth": 0.3, "multiple": 2, "dropout": 0.0},
    "regnetx200mf": {"width": 0.1, "group": 2},
    "dla": {"width": 1},
    "cct2": {"width": 4},
    "cct7": {"width": 4},
    "densenet": {"depth": (1, 1, 2, 1), "growth": 2},
}


@pytest.fixture(scope="module")
def large(digits: mc.Data) -> mc.Data:
    return mc.load_data("digits", device="cpu", size=12).subset(train=20, test=10)


@pytest.fixture(scope="module")
def fitting(large: mc.Data) -> Callable[[str], mc.Data]:
    """Images that an architecture can take."""
    larger = mc.load_data("digits", device="cpu", size=32).subset(train=20, test=10)
    return lambda name: larger if name.startswith(("vgg", "dla", "efficientnet")) else large


def test_these_are_all() -> None:
    assert mc.list_models() == sorted(ALL)
    described = mc.describe_models()
    assert list(described) == mc.list_models()
    assert "width=(128, 128)" in described["mlp"]
    assert all("\n" not in line and ". Options: " in line for line in described.values())


@pytest.mark.usefixtures("same_random_state")
@pytest.mark.parametrize("name", ALL)
def test_weights_follow_from_the_seed_alone(fitting: Callable, name: str) -> None:
    data = fitting(name)
    first, again, other = (mc.build_model(name, data, seed=s, **ALL[name]) for s in (0, 0, 1))
    x, y, z = (m.state_dict() for m in (first, again, other))
    assert all(torch.equal(x[key], y[key]) for key in x)
    assert not all(torch.equal(x[key], z[key]) for key in x)
    assert first.training


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("standardize", [False, True])
def test_a_network_carries_its_shape_and_how_it_was_made(
    fitting: Callable, name: str, standardize: bool
) -> None:
    data = fitting(name)
    model = mc.build_model(name, data, seed=3, standardize=standardize, **ALL[name])
    assert model.example_shape == data.shape
    assert model.architecture["name"] == name
    assert model.architecture["classes"] == 10
    assert model(torch.rand(2, *model.example_shape)).shape == (2, 10)
    made = build_from(model.architecture, seed=3)
    assert {n: x.shape for n, x in made.state_dict().items()} == {
        n: x.shape for n, x in model.state_dict().items()
    }
    assert made.architecture == model.architecture
    for key, x in made.named_parameters():
        assert torch.equal(x, model.get_parameter(key))


def test_weights_are_pytorchs_own(large: mc.Data) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        first, last = torch.nn.Linear(144, 5), torch.nn.Linear(5, 10)
    model = mc.build_model("mlp", large, seed=4, width=5)
    assert torch.equal(model.linear1.weight, first.weight)
    assert torch.equal(model.output.bias, last.bias)


def test_standardize_takes_the_training_images_and_travels(large: mc.Data) -> None:
    model = mc.build_model("mlp", large, standardize=True, width=3)
    out = model.standardize(large.train.x)
    assert abs(float(out.mean())) < 1e-5
    assert abs(float(out.std()) - 1) < 1e-5
    assert {"standardize.mean", "standardize.std"} <= set(model.state_dict())
    assert not any("standardize" in name for name, _ in model.named_parameters())
    assert "standardize.mean" not in mc.build_model("mlp", large, width=3).state_dict()


def test_unknown_names_offer_the_close_ones(large: mc.Data) -> None:
    with pytest.raises(mc.UnknownNameError, match=r"unknown model 'resnet'.*'resnet20'"):
        mc.build_model("resnet", large)
    with pytest.raises(mc.UnknownNameError, match=r"unknown option of mlp 'widht'.*'width'"):
        mc.build_model("mlp", large, widht=3)
    with pytest.raises(mc.UnknownNameError, match=r"unknown option of mlp 'standardise'.*'stand"):
        mc.build_model("mlp", large, standardise=True)
    with pytest.raises(mc.UnknownNameError, match="unknown option of mlp 'classes'"):
        mc.build_model("mlp", large, classes=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"width": 0}, r"width of an mlp to be a whole number from 1, found \[0\]"),
        ("mlp", {"width": (5, -1)}, r"found \[5, -1\]"),
        ("mlp", {"act": "step"}, r"activation out of \[.*'relu'.*\], found 'step'"),
        ("mlp", {"norm": "group"}, "None, 'batch' or 'layer', found 'group'"),
        ("convnet", {"width": 0}, "at least 1, found 0 and 3"),
        ("convnet", {"depth": 0}, "at least 1, found 16 and 0"),
        ("convnet", {"depth": 5}, "at least 16 pixels each way .* depth 5, found 12 × 12"),
        ("convnet", {"norm": "power"}, "expected norm to be .* found 'power'"),
        ("convnet", {"act": "step"}, "found 'step'"),
        ("lenet5", {"width": 0}, "width to be at least 0.1 for lenet5, found 0"),
        ("lenet5", {"act": "step"}, "found 'step'"),
        ("resnet20", {"width": 0}, "at least 1, found 0"),
        ("resnet20", {"shortcut": "none"}, "'identity_pad' or 'projection', found 'none'"),
        ("resnet20", {"norm": "power"}, "expected norm to be .* found 'power'"),
    ],
)
def test_what_an_architecture_cannot_take_is_refused(
    large: mc.Data, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mc.build_model(name, large, **options)


def test_images_too_small_are_refused_with_both_sizes(digits: mc.Data) -> None:
    with pytest.raises(ValueError, match=r"at least 12 × 12 .*lenet5, found 8 × 8; .*size=28"):
        mc.build_model("lenet5", digits)
    with pytest.raises(ValueError, match="at least 4 × 4 for resnet20, found 3 × 3"):
        mc.build_model("resnet20", mc.load_data("digits", device="cpu", size=3))
    for name in ("vgg11", "vgg16"):
        with pytest.raises(ValueError, match=f"32 × 32 pixels for {name}, found 8 × 8; .*size=32"):
            mc.build_model(name, digits)


def test_a_new_architecture_is_a_function(tiny: mc.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))

    @register("linear")
    def linear(shape: tuple, classes: int, bias: bool = True) -> dict[str, torch.nn.Module]:
        """One layer."""
        return {"flatten": torch.nn.Flatten(), "output": torch.nn.Linear(64, classes, bias)}

    assert "linear" in mc.list_models()
    assert mc.describe_models()["linear"] == "One layer. Options: bias=True"
    assert mc.build_model("linear", tiny, bias=False)(tiny.test.x).shape == (30, 10)
    with pytest.raises(ValueError, match="'linear' is registered"):
        register("linear")(linear)
