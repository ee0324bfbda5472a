"""Deep layer aggregation (Yu et al. 2018), for small images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from .adapting import expect_at_least, expect_depth, expect_image, head, not_in_place, parts
from .library import library
from .registry import register

__all__ = ["dla"]


@register("dla")
def dla(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 16,
    depth: Sequence[int] = (1, 2, 2, 1),
) -> dict[str, nn.Module]:
    """Deep layer aggregation for small images: residual blocks whose outputs trees bring together.

    timm's trees, with basic residual blocks, and its initial weights of the convolutions; PyTorch's
    of the linear layer.  The stem is a 3 × 3 convolution, and stride 2 is left only in the last
    three trees, so that images of 32 × 32 pixels become 4 × 4.

    Args:
        shape: `(c, h, w)` of an image whose sides are multiples of 8.
        classes: the number of outputs.
        width: feature maps of the stem and the first level; the other levels have 2, 4, 8, 16 and
            32 times it (512 for 16).
        depth: levels of each of the four trees; a tree of so many levels has `2 ** levels` blocks.

    Raises:
        ValueError: for an image whose sides 8 does not divide, a width below 1, or a depth it
            cannot have.
    """
    expect_image("dla", shape, 8, multiple=8)
    expect_at_least("dla", "width", width, 1)
    depth = expect_depth("dla", depth, 4)
    models = library("timm").models.dla
    maps = [width * 2**i for i in range(6)]
    net = models.DLA(
        (1, 1, *depth), maps, num_classes=classes, in_chans=shape[0], block=models.DlaBasic
    )
    net.base_layer[0] = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
    nn.init.normal_(net.base_layer[0].weight, std=math.sqrt(2 / (9 * width)))
    net.level1[0].stride = (1, 1)
    _without_stride(net.level2)
    layers: dict[str, nn.Module] = {
        **parts(net.base_layer),
        **{f"level{i}": net.get_submodule(f"level{i}") for i in range(6)},
        **head(maps[-1], classes),
    }
    for layer in layers.values():
        not_in_place(layer)
    return layers


def _without_stride(tree: nn.Module) -> None:
    """Let a tree keep the size of its feature maps."""
    for m in tree.modules():
        if isinstance(m, nn.Conv2d):
            m.stride = (1, 1)
        if hasattr(m, "downsample"):
            m.downsample = nn.Identity()
