from __future__ import annotations

import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.models.resnet import BasicBlock


def test_it_has_the_papers_number_of_weights() -> None:
    data = mc.load_data("digits", device="cpu", size=8, channels=3)
    model = mc.build_model("resnet20", data)
    # He et al. (2016), table 6: 0.27 million
    assert sum(p.numel() for p in model.parameters()) == 269_722
    # 20 layers with weights
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 20


@pytest.mark.parametrize("shortcut", ["identity_pad", "projection"])
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", None])
def test_every_option_runs(tiny: mc.Data, shortcut: str, norm: str | None) -> None:
    model = mc.build_model("resnet20", tiny, width=2, norm=norm, shortcut=shortcut).eval()
    with torch.no_grad():
        assert model(tiny.test.x).shape == (30, 10)
    projections = [
        m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)
    ]
    assert len(projections) == (2 if shortcut == "projection" else 0)
    assert mc.has_batch_norm(model) == (norm == "batch")


@pytest.mark.parametrize(("maps", "stride"), [(3, 1), (5, 2)])
def test_a_block_that_computes_nothing_carries_its_input(maps: int, stride: int) -> None:
    block = BasicBlock(3, maps, stride, None, "identity_pad")
    with torch.no_grad():
        for p in block.parameters():
            p.zero_()
        x = torch.rand(2, 3, 7, 6)
        y = block(x)
    assert y.shape == (2, maps, -(-7 // stride), -(-6 // stride))
    assert torch.equal(y[:, :3], x[:, :, ::stride, ::stride])
    assert not y[:, 3:].any()


def test_each_stage_halves_the_image_and_doubles_the_maps(tiny: mc.Data) -> None:
    model = mc.build_model("resnet20", tiny, width=2).eval()
    shapes = {}
    x = tiny.test.x[:1]
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            shapes[name] = tuple(x.shape[1:])
    for stage, expected in ((1, (2, 8, 8)), (2, (4, 4, 4)), (3, (8, 2, 2))):
        assert all(shapes[f"block{stage}_{i}"] == expected for i in (1, 2, 3))
