"""The residual networks of He et al. (2016) for small images, section 4.2."""

from __future__ import annotations

from torch import Tensor, nn

from .layers import Shortcut, norm2d
from .registry import register

__all__ = ["BasicBlock", "resnet20"]


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions around which the input is carried: `relu(f(x) + shortcut(x))`.

    Args:
        maps_in: feature maps of the input.
        maps_out: feature maps of the output.
        stride: of the first convolution.
        norm: see `norm2d`.
        shortcut: `identity_pad` (option A: subsample, pad with zeros) or `projection` (option B:
            1 × 1 convolution with norm) where the shape changes.
    """

    def __init__(self, maps_in: int, maps_out: int, stride: int, norm: str | None, shortcut: str):
        super().__init__()
        bias = norm is None
        self.conv1 = nn.Conv2d(maps_in, maps_out, 3, stride, padding=1, bias=bias)
        self.norm1 = norm2d(norm, maps_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(maps_out, maps_out, 3, padding=1, bias=bias)
        self.norm2 = norm2d(norm, maps_out)
        self.shortcut: nn.Module
        if stride == 1 and maps_in == maps_out:
            self.shortcut = nn.Identity()
        elif shortcut == "identity_pad":
            self.shortcut = Shortcut(maps_out - maps_in, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(maps_in, maps_out, 1, stride, bias=bias), norm2d(norm, maps_out)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Images `[n, maps_in, h, w]` to `[n, maps_out, ceil(h / stride), ceil(w / stride)]`."""
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


@register("resnet20")
def resnet20(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 16,
    norm: str | None = "batch",
    shortcut: str = "identity_pad",
) -> dict[str, nn.Module]:
    """ResNet-20: one convolution, nine residual blocks in three stages, one linear layer.

    Args:
        shape: `(c, h, w)` of an image of at least 4 × 4 pixels; 32 × 32 in the paper.
        classes: the number of outputs.
        width: feature maps of the first stage (16 in the paper); the stages have 1, 2, 4 times it.
        norm: `batch`, `group`, `layer`, `instance` or None.
        shortcut: `identity_pad` (the paper's option A) or `projection` (option B).

    Raises:
        ValueError: for an image that is too small, a width below 1, or an unknown shortcut.
    """
    c, h, w = shape
    if min(h, w) < 4:
        raise ValueError(f"expected images of at least 4 × 4 for resnet20, found {h} × {w}")
    if width < 1:
        raise ValueError(f"expected the width of resnet20 to be at least 1, found {width}")
    if shortcut not in ("identity_pad", "projection"):
        raise ValueError(
            f"expected shortcut to be 'identity_pad' or 'projection', found {shortcut!r}"
        )
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(c, width, 3, padding=1, bias=norm is None),
        "norm": norm2d(norm, width),
        "relu": nn.ReLU(),
    }
    maps = width
    for stage in (1, 2, 3):
        for i in (1, 2, 3):
            maps_out = width * 2 ** (stage - 1)
            stride = 2 if stage > 1 and i == 1 else 1
            layers[f"block{stage}_{i}"] = BasicBlock(maps, maps_out, stride, norm, shortcut)
            maps = maps_out
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(maps, classes)
    return layers
