from __future__ import annotations

import pytest
import torch
from library_networks import build, compare, parameters
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.models import library
from mcbook.models.shufflenet import ShuffleBlock


def test_v1_has_as_many_weights_as_the_papers_code() -> None:
    assert parameters("shufflenetv1") == 960_706


def test_v1s_stages_double_the_maps_and_halve_the_image_but_the_first() -> None:
    model, x, found = build("shufflenetv1").eval(), torch.rand(1, 3, 32, 32), {}
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            found[name] = tuple(x.shape[1:])
    assert found["conv"] == (24, 32, 32)
    assert found["stage2"] == (144, 32, 32)
    assert found["stage3"] == (288, 16, 16)
    assert found["stage4"] == (576, 8, 8)
    assert [len(model.get_submodule(f"stage{i}")) for i in (2, 3, 4)] == [4, 8, 4]


@pytest.mark.parametrize(("groups", "maps"), [(1, 144), (2, 200), (3, 240), (4, 272), (8, 384)])
def test_more_groups_have_more_maps_as_in_the_paper(groups: int, maps: int) -> None:
    model = build("shufflenetv1", groups=groups, depth=(1, 1, 1))
    # the stem's few maps are not grouped; what is beside them has three quarters of it
    assert model.stage2[0].conv1.weight.shape == (maps // 4, 24, 1, 1)
    assert model.stage3[0].conv1.weight.shape == (maps // 2, maps // groups, 1, 1)
    assert model.stage4[0].conv3.groups == groups
    assert model.output.in_features == 4 * maps


def test_a_block_interleaves_the_groups() -> None:
    block = ShuffleBlock(24, 24, 1, 3, 3).eval()
    seen: dict[str, Tensor] = {}
    block.relu1.register_forward_hook(lambda _, __, out: seen.update(before=out))
    block.conv2.register_forward_pre_hook(lambda _, args: seen.update(after=args[0]))
    with torch.no_grad():
        block(torch.rand(2, 24, 4, 4))
    assert torch.equal(seen["after"], seen["before"][:, [0, 2, 4, 1, 3, 5]])
    theirs = library("torchvision").models.shufflenetv2.channel_shuffle
    assert torch.equal(seen["after"], theirs(seen["before"], 3))


@pytest.mark.parametrize(("maps", "stride"), [(4, 1), (8, 1), (8, 2)])
def test_a_block_that_computes_nothing_carries_its_input(maps: int, stride: int) -> None:
    block = ShuffleBlock(4, maps, stride, 1, 1).eval()
    with torch.no_grad():
        for p in block.parameters():
            p.zero_()
        x = torch.rand(2, 4, 7, 6)
        y = block(x)
    carried = x if stride == 1 else F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    assert torch.allclose(y[:, maps - 4 :], carried)
    assert not y[:, : maps - 4].any()


def test_v2_is_torchvisions_with_another_stem() -> None:
    def adapt(net: nn.Module) -> None:
        net.conv1[0] = nn.Conv2d(3, 24, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()

    def make() -> nn.Module:
        return library("torchvision").models.shufflenet_v2_x1_0(num_classes=10)

    compare(build("shufflenetv2"), make, adapt, new=("conv.weight",))
    # torchvision's count for 1000 classes, with 990 outputs less
    assert parameters("shufflenetv2") == 2_278_604 - 990 * 1025


@pytest.mark.parametrize("name", ["shufflenetv1", "shufflenetv2"])
@pytest.mark.parametrize("width", [0.01, 0.1, 0.5, 1.1])
def test_every_width_runs(tiny: mc.Data, name: str, width: float) -> None:
    model = mc.build_model(name, tiny, width=width, depth=[1, 2, 1]).eval()
    with torch.no_grad():
        assert model(tiny.test.x[:2]).shape == (2, 10)


@pytest.mark.parametrize("groups", [2, 3, 4, 8])
@pytest.mark.parametrize("width", [0.01, 0.3])
def test_every_number_of_groups_runs(tiny: mc.Data, groups: int, width: float) -> None:
    model = mc.build_model("shufflenetv1", tiny, width=width, groups=groups, depth=(1, 2, 1))
    with torch.no_grad():
        assert model.eval()(tiny.test.x[:2]).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shufflenetv1", {"width": 0}, "width of shufflenetv1 to be above 0, found 0"),
        ("shufflenetv1", {"depth": (4, 8)}, r"3 whole numbers from 1, found \[4, 8\]"),
        ("shufflenetv1", {"groups": 5}, r"groups .* out of \[1, 2, 3, 4, 8\], found 5"),
        ("shufflenetv2", {"width": 0}, "width of shufflenetv2 to be above 0, found 0"),
        ("shufflenetv2", {"depth": (4, 0, 4)}, r"from 1, found \[4, 0, 4\]"),
    ],
)
def test_what_they_cannot_take_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_images_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 × 4 pixels for shufflenetv1, found 3 × 3"):
        build("shufflenetv1", (1, 3, 3))
    with pytest.raises(ValueError, match="at least 8 × 8 pixels for shufflenetv2, found 7 × 7"):
        build("shufflenetv2", (1, 7, 7))
