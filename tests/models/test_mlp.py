from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import mcbook as mc


@pytest.mark.parametrize(("width", "units"), [(7, [7]), ((3, 4), [3, 4]), ([2], [2]), ((), [])])
def test_the_layers_are_named_and_sized(tiny: mc.Data, width: object, units: list[int]) -> None:
    model = mc.build_model("mlp", tiny, width=width)
    names = ["flatten"]
    for i in range(1, len(units) + 1):
        names += [f"linear{i}", f"relu{i}"]
    assert [name for name, _ in model.named_children()] == [*names, "output"]
    sizes = [64, *units, 10]
    linears = [m for m in model if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == list(itertools.pairwise(sizes))


def test_it_is_the_formula(tiny: mc.Data) -> None:
    model = mc.build_model("mlp", tiny, width=(6, 5), act="tanh", standardize=True)
    w, x = model.state_dict(), tiny.test.x
    h = ((x - tiny.train.x.mean()) / tiny.train.x.std()).flatten(1)
    for layer in ("linear1", "linear2"):
        h = torch.tanh(h @ w[f"{layer}.weight"].T + w[f"{layer}.bias"])
    expected = h @ w["output.weight"].T + w["output.bias"]
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_options(tiny: mc.Data) -> None:
    model = mc.build_model("mlp", tiny, width=4, norm="layer", bias=False, act="gelu")
    assert [name for name, _ in model.named_children()] == [
        "flatten", "linear1", "norm1", "gelu1", "output",
    ]  # fmt: skip
    assert isinstance(model.norm1, nn.LayerNorm)
    assert model.linear1.bias is None
    assert model.output.bias is None
    normed = mc.build_model("mlp", tiny, width=4, norm="batch")
    assert isinstance(normed.norm1, nn.BatchNorm1d)
