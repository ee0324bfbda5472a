from __future__ import annotations

import pytest
import torch
from library_networks import build, compare, parameters
from torch import nn

import mcbook as mc
from mcbook.models import library


def test_it_has_as_many_weights_as_the_papers_code() -> None:
    assert parameters("regnetx200mf") == 2_321_946


def test_it_is_torchvisions_with_fewer_strides() -> None:
    models = library("torchvision").models.regnet
    # the design of the 200 million floating point operations, from its four numbers
    design = models.BlockParams.from_init_params(
        depth=13, w_0=24, w_a=36.44, w_m=2.49, group_width=8
    )
    assert (design.depths, design.widths) == ([1, 1, 4, 7], [24, 56, 152, 368])

    def adapt(net: nn.Module) -> None:
        for m in (
            *net.stem,
            *net.trunk_output.block1.modules(),
            *net.trunk_output.block2.modules(),
        ):
            if isinstance(m, nn.Conv2d):
                m.stride = (1, 1)

    def make() -> nn.Module:
        # torchvision gives the first blocks a projection for their stride, which 24 ≠ 64 ≠ 56 need
        return models.RegNet(design, num_classes=10, stem_width=64)

    compare(build("regnetx200mf"), make, adapt)


def test_an_image_becomes_8_by_8() -> None:
    model, x, found = build("regnetx200mf").eval(), torch.rand(1, 3, 32, 32), {}
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            found[name] = tuple(x.shape[1:3])
    assert [found[f"layer{i}"] for i in (1, 2, 3, 4)] == [(24, 32), (56, 32), (152, 16), (368, 8)]


def test_other_widths_keep_whole_groups(tiny: mc.Data) -> None:
    model = mc.build_model("regnetx200mf", tiny, width=0.1, group=4, depth=[1, 2, 1, 1])
    assert len(model.layer2) == 2
    grouped = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    # the stem, then a block of each stage, two of the second
    assert [m.groups for m in grouped] == [1, 1, 1, 1, 4, 9]
    assert all(m.weight.shape[1] == 4 for m in grouped[1:])
    assert model.eval()(tiny.test.x).shape == (30, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width of regnetx200mf to be above 0, found 0"),
        ({"group": 0}, "group of regnetx200mf to be at least 1, found 0"),
        ({"depth": (1, 1, 4)}, r"4 whole numbers from 1, found \[1, 1, 4\]"),
    ],
)
def test_what_it_cannot_take_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("regnetx200mf", **options)


def test_images_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 × 4 pixels for regnet.*, found 3 × 9"):
        build("regnetx200mf", (1, 3, 9))
