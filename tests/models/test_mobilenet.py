from __future__ import annotations

from functools import partial

import pytest
import torch
from library_networks import build, compare, parameters
from torch import nn

import mcbook as mc
from mcbook.models import library


def sizes(model: nn.Module, side: int = 32) -> dict[str, tuple[int, int]]:
    """Feature maps and side of the image after each layer."""
    x, found = torch.rand(1, 3, side, side), {}
    with torch.no_grad():
        for name, layer in model.eval().named_children():
            x = layer(x)
            if x.dim() == 4:
                found[name] = (x.shape[1], x.shape[2])
    return found


def test_v2_has_as_many_weights_as_the_papers_code() -> None:
    assert parameters("mobilenetv2") == 2_237_770
    # torchvision's count for 1000 classes, with 990 outputs less
    assert parameters("mobilenetv2", expand_first=False) == 3_504_872 - 990 * 1281


def test_v2_is_torchvisions_with_strides_where_the_maps_become_64_and_160() -> None:
    def adapt(net: nn.Module) -> None:
        for i in (0, 2, 4):
            for m in net.features[i].modules():
                if isinstance(m, nn.Conv2d):
                    m.stride = (1, 1)

    make = partial(library("torchvision").models.mobilenet_v2, num_classes=10, dropout=0.0)
    compare(build("mobilenetv2", expand_first=False), make, adapt)
    found = sizes(build("mobilenetv2"))
    assert [found[f"stage{i}"] for i in range(1, 8)] == [
        (16, 32), (24, 32), (32, 32), (64, 16), (96, 16), (160, 8), (320, 8),
    ]  # fmt: skip
    assert found["last_conv"] == (1280, 8)


def test_v2_takes_sizes(tiny: mc.Data) -> None:
    options = {"width": 0.1, "multiple": 2, "last": 12, "depth": [1, 1, 2, 1, 1, 1, 1]}
    model = mc.build_model("mobilenetv2", tiny, dropout=0.3, **options)
    assert len(model.stage3) == 2
    assert model.last_conv.weight.shape == (12, 32, 1, 1)
    assert model.output.weight.shape == (10, 12)
    assert float(model.output.weight.detach().std()) == pytest.approx(0.01, rel=0.4)
    assert model.dropout.p == 0.3
    assert model.eval()(tiny.test.x).shape == (30, 10)
    wide = build("mobilenetv2", width=1.5, depth=(1,) * 7)
    assert wide.last_conv.out_channels == 1920


def test_the_first_block_expands_as_the_others_do() -> None:
    block = build("mobilenetv2", width=0.25, depth=(1,) * 7).stage1[0]
    kinds = [tuple(m.weight.shape) for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert kinds == [(8, 8, 1, 1), (8, 1, 3, 3), (8, 8, 1, 1)]


@pytest.mark.parametrize(("size", "total"), [("small", 2_542_856), ("large", 5_483_032)])
def test_v3_has_as_many_weights_as_torchvisions(size: str, total: int) -> None:
    last = 1024 if size == "small" else 1280
    assert parameters("mobilenetv3", size=size) == total - 990 * (last + 1)


@pytest.mark.parametrize(("size", "strided"), [("small", (1, 2)), ("large", (2, 4))])
def test_v3_is_torchvisions_with_the_last_two_strides(size: str, strided: tuple) -> None:
    def adapt(net: nn.Module) -> None:
        for i in (0, *strided):
            for m in net.features[i].modules():
                if isinstance(m, nn.Conv2d):
                    m.stride = (1, 1)
        if size == "small":
            # 8 feature maps to 8: once it has stride 1, its input is carried around it
            net.features[1].use_res_connect = True

    make = partial(
        library("torchvision").models.get_model,
        f"mobilenet_v3_{size}", num_classes=10, width_mult=0.5, dropout=0.0,
    )  # fmt: skip
    compare(build("mobilenetv3", width=0.5, size=size), make, adapt)


def test_v3s_statistics_follow_in_few_steps() -> None:
    norms = [m for m in build("mobilenetv3", width=0.25).modules() if hasattr(m, "running_mean")]
    assert norms
    assert all((m.momentum, m.eps) == (0.1, 0.001) for m in norms)


def test_each_stage_of_v3_ends_before_a_smaller_image_or_the_last_layers() -> None:
    for size, expected in (
        ("small", [(16, 32), (24, 32), (48, 16), (96, 8)]),
        ("large", [(16, 32), (24, 32), (40, 32), (112, 16), (160, 8)]),
    ):
        found = sizes(build("mobilenetv3", size=size))
        assert [v for k, v in found.items() if k.startswith("stage")] == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenetv2", {"width": 0}, "width of mobilenetv2 to be above 0, found 0"),
        ("mobilenetv2", {"depth": (1, 2)}, r"7 whole numbers from 1, found \[1, 2\]"),
        ("mobilenetv2", {"multiple": 0}, "multiple of mobilenetv2 to be at least 1, found 0"),
        ("mobilenetv2", {"last": 0}, "last of mobilenetv2 to be at least 1, found 0"),
        ("mobilenetv2", {"dropout": 1}, r"dropout of mobilenetv2 to be in \[0, 1\), found 1"),
        ("mobilenetv3", {"width": -1}, "width of mobilenetv3 to be above 0, found -1"),
        ("mobilenetv3", {"multiple": 0}, "multiple of mobilenetv3 to be at least 1, found 0"),
        ("mobilenetv3", {"size": "tiny"}, "size of mobilenetv3 .* or 'large', found 'tiny'"),
        ("mobilenetv3", {"dropout": -1}, r"dropout of mobilenetv3 .*, found -1"),
    ],
)
def test_what_they_cannot_take_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv3"])
def test_images_too_small_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"at least 4 × 4 pixels for {name}, found 4 × 3"):
        build(name, (1, 4, 3))
