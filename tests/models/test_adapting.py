from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from mcbook.models import adapting, library


@pytest.mark.parametrize("maps", [0.3, 3.2, 6, 11.9, 12, 21.6, 100, 115.9, 1280])
@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_widths_are_rounded_as_in_torchvision(maps: float, multiple: int) -> None:
    theirs = library("torchvision").models.mobilenetv2._make_divisible
    found = adapting.rounded(maps, multiple)
    assert found == theirs(maps, multiple)
    assert found % multiple == 0
    assert found >= 0.9 * maps


def test_nothing_inside_works_in_place_afterwards() -> None:
    net = nn.Sequential(nn.Sequential(nn.ReLU(inplace=True)), nn.Dropout(0.5, inplace=True))
    adapting.not_in_place(net)
    x = torch.tensor([-1.0])
    net(x)
    assert x.item() == -1


def test_parts_are_named_by_what_they_do() -> None:
    block = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Hardswish())
    found = adapting.parts(block, "last_")
    assert list(found) == ["last_conv", "last_norm", "last_hardswish"]
    assert list(found.values()) == list(block)


def test_images_are_refused_with_what_was_expected_and_found() -> None:
    adapting.expect_image("net", (1, 8, 16), 8, multiple=8)
    with pytest.raises(ValueError, match="at least 8 × 8 pixels for net, found 9 × 7; .*size=32"):
        adapting.expect_image("net", (1, 9, 7), 8)
    with pytest.raises(ValueError, match="multiples of 8 for net, found 16 × 28; .*size=32"):
        adapting.expect_image("net", (1, 16, 28), 8, multiple=8)
    with pytest.raises(ValueError, match="at least 64 × 64 .*size=64"):
        adapting.expect_image("net", (1, 32, 32), 64)


def test_numbers_are_refused_with_what_was_expected_and_found() -> None:
    adapting.expect_at_least("net", "depth", 1, 1)
    adapting.expect_width("net", 0.01)
    adapting.expect_fraction("net", "dropout", 0)
    assert adapting.expect_depth("net", [1, 2], 2) == (1, 2)
    with pytest.raises(ValueError, match="expected depth of net to be at least 1, found 0"):
        adapting.expect_at_least("net", "depth", 0, 1)
    for width in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"width of net to be above 0, found {width}"):
            adapting.expect_width("net", width)
    for p in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"dropout of net to be in \[0, 1\), found {p}"):
            adapting.expect_fraction("net", "dropout", p)
    for depth, found in (((1, 2), [1, 2]), ((1, 0, 1), [1, 0, 1]), ((1, 1, 1.5), [1, 1, 1.5])):
        message = re.escape(f"depth of net to be 3 whole numbers from 1, found {found}")
        with pytest.raises(ValueError, match=message):
            adapting.expect_depth("net", depth, 3)
    with pytest.raises(ValueError, match=r"3 whole numbers from 1, found \[2\]"):
        adapting.expect_depth("net", 2, 3)  # type: ignore[arg-type]
