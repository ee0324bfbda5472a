from __future__ import annotations

import numpy as np
import pytest
import torch

import mcbook as mc


def blank(*shape: int) -> mc.Data:
    x = np.zeros((2, *shape), np.uint8)
    return mc.data_from_arrays(x, np.arange(2), x, np.arange(2), classes=tuple("0123456789"))


def test_padded_images_of_28_give_the_papers_400_features() -> None:
    # 28 with padding here is 32 without in the paper: 16 maps of 5 × 5 either way
    model = mc.build_model("lenet5", blank(28, 28))
    assert sum(p.numel() for p in model.parameters()) == (
        (25 * 1 + 1) * 6 + (25 * 6 + 1) * 16 + (400 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    )


@pytest.mark.parametrize("shape", [(12, 12), (13, 16), (28, 28), (32, 32, 3)])
@pytest.mark.parametrize("width", [0.1, 1.0, 1.5])
def test_it_takes_images_from_12_pixels_on(shape: tuple[int, ...], width: float) -> None:
    data = blank(*shape)
    with torch.no_grad():
        assert mc.build_model("lenet5", data, width=width)(data.test.x).shape == (2, 10)


def test_smaller_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="12 × 12 .* found 11 × 30"):
        mc.build_model("lenet5", blank(11, 30))
