from __future__ import annotations

import pytest
import torch
from library_networks import build
from torch import nn

import mcbook as mc
from mcbook.models import library


def test_it_computes_what_torchvisions_does() -> None:
    theirs = library("torchvision").models.resnet18(num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    ours = build("resnet18").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert sum(p.numel() for p in ours.parameters()) == 11_173_962


def test_its_initial_weights_are_torchvisions() -> None:
    for name, x in build("resnet18").named_parameters():
        if x.dim() == 4:
            # He's standard deviation over the outputs of a convolution
            std = (2 / (x.shape[0] * x.shape[2] * x.shape[3])) ** 0.5
            assert float(x.detach().std()) == pytest.approx(std, rel=0.1), name
            # normal: outside two standard deviations, one in 22
            assert float((x.abs() > 2 * std).float().mean()) == pytest.approx(0.0455, abs=0.015)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", None])
def test_every_norm_runs(tiny: mc.Data, norm: str | None) -> None:
    model = mc.build_model("resnet18", tiny, width=2, depth=[1, 2, 1, 1], norm=norm).eval()
    assert model(tiny.test.x).shape == (30, 10)
    assert len(model.layer2) == 2
    assert mc.has_batch_norm(model) == (norm == "batch")
    assert (model.conv.bias is None) == (norm is not None)


def test_stages_halve_the_image_and_double_the_maps() -> None:
    model = build("resnet18", width=2).eval()
    x, shapes = torch.rand(1, 3, 32, 32), {}
    for name, layer in model.named_children():
        x = layer(x)
        shapes[name] = tuple(x.shape[1:])
    found = [shapes[f"layer{i}"] for i in (1, 2, 3, 4)]
    assert found == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]


def test_what_it_cannot_take_is_refused(tiny: mc.Data) -> None:
    with pytest.raises(ValueError, match="width of resnet18 to be at least 1, found 0"):
        mc.build_model("resnet18", tiny, width=0)
    with pytest.raises(ValueError, match=r"depth of resnet18 .* 4 whole .*, found \[2, 2\]"):
        mc.build_model("resnet18", tiny, depth=(2, 2))
    with pytest.raises(ValueError, match="expected norm to be .* found 'power'"):
        mc.build_model("resnet18", tiny, norm="power")
    with pytest.raises(ValueError, match="at least 8 × 8 pixels for resnet18, found 7 × 8"):
        build("resnet18", (1, 7, 8))
