from __future__ import annotations

import pytest
import torch
from torch import nn

import mcbook as mc


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_blocks_double_in_width_and_halve_the_image(tiny: mc.Data, depth: int) -> None:
    model = mc.build_model("convnet", tiny, width=2, depth=depth)
    maps = [m.out_channels for m in model if isinstance(m, nn.Conv2d)]
    assert maps == [2 * 2**i for i in range(depth)]
    assert sum(isinstance(m, nn.MaxPool2d) for m in model) == depth - 1
    x = tiny.test.x[:3]
    for name, layer in model.named_children():
        if name == "average":
            assert x.shape == (3, maps[-1], 8 // 2 ** (depth - 1), 8 // 2 ** (depth - 1))
        x = layer(x)
    assert x.shape == (3, 10)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance", None])
def test_convolutions_have_a_bias_where_no_norm_has_one(tiny: mc.Data, norm: str | None) -> None:
    model = mc.build_model("convnet", tiny, width=4, norm=norm)
    assert (model.conv1.bias is None) == (norm is not None)
    assert mc.has_batch_norm(model) == (norm == "batch")
    assert hasattr(model, "norm1") == (norm is not None)
    with torch.no_grad():
        assert model.eval()(tiny.test.x).shape == (30, 10)


def test_images_need_not_be_square() -> None:
    import numpy as np

    x = np.zeros((2, 4, 9, 3), np.uint8)
    data = mc.data_from_arrays(x, np.arange(2), x, np.arange(2))
    assert mc.build_model("convnet", data, width=2).eval()(data.test.x).shape == (2, 2)
