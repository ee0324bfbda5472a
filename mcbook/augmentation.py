"""Augmentation of a batch on its device: mirror, and shift after padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["flip_and_crop"]


def flip_and_crop(x: Tensor, padding: int = 4) -> Tensor:
    """Mirror half of the images left to right and shift each by up to `padding` pixels.

    The standard augmentation of CIFAR-10 (He et al. 2016, section 4.2), a random crop of the
    zero-padded image, drawn independently for every image from PyTorch's global generator.

    Args:
        x: images `[n, c, h, w]`.
        padding: pixels of zeros on each side.

    Returns:
        Images of the same shape.
    """
    n, _, h, w = x.shape
    dy, dx = torch.randint(0, 2 * padding + 1, (2, n), device=x.device)
    flip = torch.rand(n, device=x.device) < 0.5
    rows = dy[:, None] + torch.arange(h, device=x.device)
    columns = torch.arange(w, device=x.device).expand(n, w)
    columns = dx[:, None] + torch.where(flip[:, None], w - 1 - columns, columns)
    padded = F.pad(x, (padding, padding, padding, padding)).permute(0, 2, 3, 1)
    images = torch.arange(n, device=x.device)
    picked = padded[images[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
