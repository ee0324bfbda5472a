from __future__ import annotations

import pytest
import torch
from library_networks import build, compare, parameters
from torch import nn

import mcbook as mc
from mcbook.models import library


def test_it_has_fewer_weights_than_the_papers_code() -> None:
    """Whose trees of two levels have a fifth block, and shortcuts of their own in every block."""
    found = parameters("dla")
    assert found == 15_232_314
    assert 0.9 < found / 16_291_386 < 1


def test_it_is_timms_with_another_stem_and_fewer_strides() -> None:
    models = library("timm").models.dla
    maps = (16, 32, 64, 128, 256, 512)

    def make() -> nn.Module:
        return models.DLA((1, 1, 1, 2, 2, 1), maps, num_classes=10, block=models.DlaBasic)

    def adapt(net: nn.Module) -> None:
        net.base_layer[0] = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        net.level1[0].stride = (1, 1)
        net.level2.tree1.conv1.stride = (1, 1)
        net.level2.downsample = nn.Identity()

    new = ("conv.weight", "output.weight", "output.bias")
    ours = build("dla")
    compare(ours, make, adapt, new=new)
    # timm's normal distribution; PyTorch's own would be uniform, within a third at most of this
    weight = ours.conv.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / 144) ** 0.5, rel=0.15)
    assert float(weight.abs().max()) > 2 * (2 / 144) ** 0.5


def test_an_image_becomes_4_by_4() -> None:
    model, x, found = build("dla", width=2).eval(), torch.rand(1, 3, 32, 32), {}
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            found[name] = tuple(x.shape[1:3])
    assert [found[f"level{i}"] for i in range(6)] == [
        (2, 32), (4, 32), (8, 32), (16, 16), (32, 8), (64, 4),
    ]  # fmt: skip


def test_every_tree_may_have_levels(tiny: mc.Data) -> None:
    for depth in ((2, 1, 1, 1), (3, 1, 2, 1)):
        model = mc.build_model("dla", tiny, width=1, depth=depth).eval()
        blocks = [m for m in model.modules() if type(m).__name__ == "DlaBasic"]
        assert len(blocks) == sum(2**d for d in depth)
        with torch.no_grad():
            assert model(tiny.test.x[:2]).shape == (2, 10)


def test_what_it_cannot_take_is_refused(tiny: mc.Data) -> None:
    with pytest.raises(ValueError, match="width of dla to be at least 1, found 0"):
        mc.build_model("dla", tiny, width=0)
    with pytest.raises(ValueError, match=r"4 whole numbers from 1, found \[1, 2, 2\]"):
        mc.build_model("dla", tiny, depth=(1, 2, 2))
    with pytest.raises(ValueError, match="multiples of 8 for dla, found 28 × 28; .*size=32"):
        build("dla", (1, 28, 28))
    with pytest.raises(ValueError, match="at least 8 × 8 pixels for dla, found 4 × 8"):
        build("dla", (1, 4, 8))
