from __future__ import annotations

import pytest
import torch
from library_networks import build, compare, parameters
from torch import nn

import mcbook as mc
from mcbook.models import library


def test_it_has_as_many_weights_as_the_papers_code_applies() -> None:
    # theirs has 1088 more: an expansion of the first block that its forward pass leaves out
    assert parameters("efficientnetb0") == 3_599_686 - 1088
    # torchvision's count for 1000 classes, with 990 outputs less
    assert parameters("efficientnetb0", last=True) == 5_288_548 - 990 * 1281


def test_it_is_torchvisions_with_a_stem_of_stride_1() -> None:
    def adapt(net: nn.Module) -> None:
        net.features[0][0].stride = (1, 1)
        net.classifier[0].p = 0.0
        for m in net.modules():
            if hasattr(m, "mode"):
                m.p = 0.0

    def make() -> nn.Module:
        return library("torchvision").models.efficientnet_b0(num_classes=10)

    ours = build("efficientnetb0", last=True, dropout=0.0, drop_connect=0.0)
    compare(ours, make, adapt, new=("output.weight",))
    weight = ours.output.weight.detach()
    # uniform within one over the root of the number of classes, as torchvision's
    assert float(weight.abs().max()) == pytest.approx(10**-0.5, rel=1e-3)
    assert not ours.output.bias.any()


def test_an_image_becomes_four_pixels_in_seven_stages() -> None:
    model, x, found = build("efficientnetb0").eval(), torch.rand(1, 3, 32, 32), {}
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            found[name] = tuple(x.shape[1:3])
    assert [found[f"stage{i}"] for i in range(1, 8)] == [
        (16, 32), (24, 16), (40, 8), (80, 4), (112, 4), (192, 2), (320, 2),
    ]  # fmt: skip


def test_blocks_and_units_are_dropped_in_training_only() -> None:
    sharp = build("efficientnetb0", width=0.1, depth=0.3, dropout=0.0, drop_connect=0.5)
    kept = [m.p for m in sharp.modules() if type(m).__name__ == "StochasticDepth"]
    # from none in the first block on, evenly
    assert kept == pytest.approx([0.5 * i / len(kept) for i in range(len(kept))])
    assert "dropout" not in dict(sharp.named_children())
    assert build("efficientnetb0", width=0.1, dropout=0.3).dropout.p == 0.3
    soft = build("efficientnetb0", width=0.1, multiple=2)
    x = torch.rand(8, 3, 16, 16)
    with torch.no_grad():
        soft.train()
        assert not torch.equal(soft(x), soft(x))
        soft.eval()
        assert torch.equal(soft(x), soft(x))
    still = build("efficientnetb0", width=0.1, dropout=0.0, drop_connect=0.0).train()
    with torch.no_grad():
        assert torch.equal(still(x), still(x))


def test_width_and_depth_shrink_it(tiny: mc.Data) -> None:
    model = build("efficientnetb0", (1, 16, 20), width=0.1, multiple=2, depth=0.5, last=True)
    assert [len(model.get_submodule(f"stage{i}")) for i in range(1, 8)] == [1, 1, 1, 2, 2, 2, 1]
    assert model.last_conv.out_channels == 4 * 32
    assert model.conv.weight.shape == (4, 1, 3, 3)
    assert model.eval()(torch.rand(2, 1, 16, 20)).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width of efficientnetb0 to be above 0, found 0"),
        ({"depth": 0}, "depth of efficientnetb0 to be above 0, found 0"),
        ({"multiple": 0}, "multiple of efficientnetb0 to be at least 1, found 0"),
        ({"dropout": 1.0}, r"dropout of efficientnetb0 to be in \[0, 1\), found 1.0"),
        ({"drop_connect": 2}, r"drop_connect of efficientnetb0 to be in \[0, 1\), found 2"),
    ],
)
def test_what_it_cannot_take_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("efficientnetb0", **options)


def test_images_too_small_are_refused(tiny: mc.Data) -> None:
    with pytest.raises(ValueError, match="at least 16 × 16 pixels for eff.*, found 8 × 8"):
        mc.build_model("efficientnetb0", tiny)
