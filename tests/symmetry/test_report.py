"""`str(spec)` is a table that a student can read."""

from __future__ import annotations

import pytest
import torch
from symmetry.zoo import EXTRA, ZOO
from torch import nn

import mcbook as mc


def spec_of(name: str, verify: bool = True) -> mc.PermutationSpec:
    case = ZOO.get(name) or EXTRA[name]
    return mc.trace_symmetry(case.build(), case.inputs(1), verify=verify)


def test_the_table_of_a_small_perceptron_says_everything(digits: mc.Data) -> None:
    text = str(mc.trace_symmetry(mc.build_model("mlp", digits, width=(32, 16))))
    lines = text.splitlines()
    assert lines[0] == "Permutation symmetry of Network"
    assert lines[1] == "  2 spaces with 48 units: 10^48.7 orders compute the same function"
    assert lines[2].startswith("  units can move on 6 of 9 axes of the weights")
    assert lines[3].startswith("  verified in float64: outputs change by ")
    assert "linear1     32  linear1 (out), linear2 (in)  linear layer ×2" in lines
    assert "linear2     16  linear2 (out), output (in)   linear layer ×2" in lines
    assert "output.weight (all 10 rows), output.bias (all 10 entries): an output" in text
    assert "linear1.weight (all 64 columns): meets the input" in text


def test_every_space_and_every_frozen_axis_is_named() -> None:
    for name in ("dense", "gpt", "squeeze_excitation", "convnext", "encoder"):
        spec = spec_of(name)
        text = " ".join(str(spec).split())
        for space, size in spec.spaces.items():
            assert f"{space} {size}" in text
        for one in spec.frozen[:3]:
            assert one.tensor in text


def test_why_units_are_tied_is_said() -> None:
    table = spec_of("resnet20_padA", verify=False).table().set_index("space")
    assert "residual addition ×9" in table.loc["conv", "tied by"]
    assert "batch norm" in table.loc["conv", "tied by"]
    assert table.loc["block2_1.conv2[16:32]", "acts on"].startswith("block2_1.conv2 (out)[16:32]")
    table = spec_of("squeeze_excitation").table().set_index("space")
    assert "gate" in table.loc["conv", "tied by"]
    table = spec_of("lenet5").table().set_index("space")
    assert "linear1 (in) ×36" in table.loc["conv2", "acts on"]
    assert "flattening" in table.loc["conv2", "tied by"]


def test_blocks_are_described() -> None:
    table = spec_of("group_norm").table().set_index("space")
    assert table.loc["0", "structure"] == "4 in each of 4 blocks"
    assert table.loc["0 blocks", "structure"] == "blocks"
    assert table.loc["0 blocks", "tied by"] == "blocks of group norm"
    assert table.loc["3", "structure"] == ""


def test_what_was_not_checked_or_not_verifiable_is_said() -> None:
    assert "not verified yet: spec.verify(model)" in str(spec_of("dense", verify=False))

    class Muted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(4, 8), nn.Linear(4, 6), nn.Linear(14, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.cat([torch.relu(self.one(x)), 0 * torch.relu(self.two(x))], 1)
            return self.out(h)

    spec = mc.trace_symmetry(Muted(), torch.randn(1, 4))
    assert "not verifiable (the outputs hardly depend on them): two" in str(spec)
    assert not spec.verification.passed


@pytest.mark.parametrize("name", ["dense", "gpt", "vit_b_16"])
def test_lines_are_not_too_long(name: str) -> None:
    spec = spec_of(name, verify=False)
    longest = max(len(space) for space in spec.spaces)
    assert max(map(len, str(spec).splitlines())) <= max(110, longest + 125)
