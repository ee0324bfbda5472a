from __future__ import annotations

import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.models import library


@pytest.fixture(scope="module")
def images() -> mc.Data:
    return mc.load_data("digits", device="cpu", size=32, channels=3).subset(train=20, test=10)


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_its_convolutions_are_the_papers(images: mc.Data, name: str) -> None:
    model = mc.build_model(name, images)
    with torch.device("meta"):
        theirs = library("torchvision").models.get_model(f"{name}_bn").features

    def stages(net: nn.Module) -> list[str]:
        return [
            f"conv {tuple(m.weight.shape)}" if isinstance(m, nn.Conv2d) else type(m).__name__
            for m in net.modules()
            if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.ReLU | nn.MaxPool2d)
        ]

    assert stages(model) == stages(theirs)
    assert sum(isinstance(m, nn.Linear) for m in model.modules()) == 1


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", None])
def test_every_option_runs(images: mc.Data, name: str, norm: str | None) -> None:
    model = mc.build_model(name, images, width=2, norm=norm, act="gelu").eval()
    assert (model.conv1.bias is None) == (norm is not None)
    assert mc.has_batch_norm(model) == (norm == "batch")
    with torch.no_grad():
        out = model(images.test.x)
    assert out.shape == (10, 10)
    assert torch.isfinite(out).all()


def test_each_stage_ends_with_half_the_image(images: mc.Data) -> None:
    model = mc.build_model("vgg11", images, width=3).eval()
    shapes = {}
    x = images.test.x[:1]
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            shapes[name] = tuple(x.shape[1:])
    pools = [shapes[f"pool{i}"] for i in range(1, 6)]
    assert pools == [(3, 16, 16), (6, 8, 8), (12, 4, 4), (24, 2, 2), (24, 1, 1)]
    # of 32 × 32 pixels one is left, so that the average is nothing but a change of shape
    assert shapes["flatten"] == (24,)


def test_larger_images_and_others_than_squares_are_taken() -> None:
    import numpy as np

    x = np.zeros((2, 70, 33, 3), np.uint8)
    data = mc.data_from_arrays(x, np.arange(2), x, np.arange(2))
    assert mc.build_model("vgg11", data, width=1).eval()(data.test.x).shape == (2, 2)


def test_sizes_it_cannot_take_are_refused(images: mc.Data) -> None:
    with pytest.raises(ValueError, match="the width of vgg16 to be at least 1, found 0"):
        mc.build_model("vgg16", images, width=0)
    with pytest.raises(ValueError, match="expected norm to be .* found 'power'"):
        mc.build_model("vgg11", images, norm="power")
    flat = mc.load_data("digits", device="cpu", size=31)
    with pytest.raises(ValueError, match="at least 32 × 32 pixels for vgg11, found 31 × 31"):
        mc.build_model("vgg11", flat)


def test_it_learns() -> None:
    data = mc.load_data("digits", device="cpu", size=32).subset(train=400, test=200)
    model = mc.train(mc.build_model("vgg11", data, width=4), data, 5, batch_size=32)
    assert mc.evaluate(model, data.test)[1] > 0.5
