from __future__ import annotations

import pytest
import torch
from library_networks import build, compare, parameters
from torch import nn

import mcbook as mc
from mcbook.models import library


def test_it_has_121_layers_and_the_weights_of_the_papers_code() -> None:
    # 128 more: the norm after the stem, which theirs leaves out
    assert parameters("densenet") == 6_956_298 + 128
    with torch.device("meta"):
        model = build("densenet")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 121


def test_it_is_torchvisions_with_another_stem() -> None:
    def make() -> nn.Module:
        return library("torchvision").models.DenseNet(8, (2, 3, 4, 2), 16, num_classes=10)

    def adapt(net: nn.Module) -> None:
        net.features.conv0 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        net.features.pool0 = nn.Identity()

    ours = build("densenet", depth=(2, 3, 4, 2), growth=8)
    compare(ours, make, adapt, new=("conv.weight",))
    assert float(ours.conv.weight.detach().std()) == pytest.approx((2 / 27) ** 0.5, rel=0.15)


def test_blocks_add_the_growth_and_transitions_halve() -> None:
    model = build("densenet", depth=(1, 2, 1, 1), growth=4).eval()
    x, found = torch.rand(1, 3, 32, 32), {}
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            found[name] = tuple(x.shape[1:3])
    assert [v for k, v in found.items() if k.startswith(("conv", "block", "transition"))] == [
        (8, 32), (12, 32), (6, 16), (14, 16), (7, 8), (11, 8), (5, 4), (9, 4),
    ]  # fmt: skip


def test_what_it_cannot_take_is_refused(tiny: mc.Data) -> None:
    with pytest.raises(ValueError, match="growth of densenet to be at least 1, found 0"):
        mc.build_model("densenet", tiny, growth=0)
    with pytest.raises(ValueError, match=r"4 whole numbers from 1, found \[2, 2, 2\]"):
        mc.build_model("densenet", tiny, depth=(2, 2, 2))
    with pytest.raises(ValueError, match="at least 8 × 8 pixels for densenet, found 7 × 8"):
        build("densenet", (1, 7, 8))
