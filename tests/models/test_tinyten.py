from __future__ import annotations

import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.models import build_from


@pytest.mark.parametrize(("classes", "count"), [(10, 86_778), (100, 92_628)])
def test_it_has_the_papers_parameters(classes: int, count: int) -> None:
    images = mc.load_data("digits", device="cpu", size=32, channels=3).subset(train=4, test=2)
    made = mc.build_model("tinyten", images, standardize=False).architecture
    model = build_from({**made, "classes": classes})
    assert sum(p.numel() for p in model.parameters()) == count


def test_eight_convolutions_from_32_pixels_to_6() -> None:
    images = mc.load_data("digits", device="cpu", size=32, channels=3).subset(train=4, test=2)
    model = mc.build_model("tinyten", images, width=3, standardize=False).eval()
    shapes = []
    x = images.test.x
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                shapes.append(tuple(x.shape[1:]))
    sides = (32, 32, 16, 16, 16, 8, 6, 6)
    assert shapes == [(3 * k, n, n) for k, n in zip((1, 1, 2, 2, 2, 4, 4, 4), sides, strict=True)]


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", None])
def test_every_option_runs(norm: str | None) -> None:
    images = mc.load_data("digits", device="cpu", size=16).subset(train=20, test=10)
    model = mc.build_model("tinyten", images, width=2, norm=norm, act="gelu").eval()
    assert mc.has_batch_norm(model) == (norm == "batch")
    assert model.conv1.bias is not None
    with torch.no_grad():
        assert torch.isfinite(model(images.test.x)).all()


def test_what_it_cannot_take_is_refused() -> None:
    small = mc.load_data("digits", device="cpu").subset(train=4, test=2)
    with pytest.raises(ValueError, match="at least 9 pixels each way for a tinyten, found 8 × 8"):
        mc.build_model("tinyten", small)
    with pytest.raises(ValueError, match="width of a tinyten to be at least 1, found 0"):
        mc.build_model("tinyten", mc.load_data("digits", device="cpu", size=16), width=0)
