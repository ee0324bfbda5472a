"""The permutation slider without a browser: its payload, its errors, its table."""

from __future__ import annotations

import base64
import json
import math
import re
from functools import cache

import numpy as np
import pytest
import torch
import traitlets
from torch import nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.viz.permutation_slider import (
    PermutationSlider,
    permutation_payload,
    permute_mlp,
    random_orders,
)
from mcbook.viz.widget import asset
from tests.viz.slider_cases import digits, trained

WIDTHS = (12, 9)


@cache
def network() -> nn.Module:
    return trained(0, width=WIDTHS)


@cache
def slider() -> PermutationSlider:
    """One that is only read."""
    return PermutationSlider(network(), digits())


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """In double precision, layer by layer."""
    with torch.no_grad():
        h = x.double().flatten(1)
        for name, module in model.named_children():
            if name == "standardize":
                h = (h - module.mean.double().item()) / module.std.double().item()
            elif isinstance(module, nn.Linear):
                h = h @ module.weight.double().T
                h = h if module.bias is None else h + module.bias.double()
            elif isinstance(module, nn.ReLU):
                h = h.clamp(min=0)
        return h


def on_line(orders: list[list[int]], t: float, indices: list[int]) -> tuple[float, float]:
    model = mc.LinearPath(network(), permute_mlp(network(), orders)).model_at(t)
    x, y = digits().test.x[indices], digits().test.y[indices]
    found = logits(model, x)
    return F.cross_entropy(found, y).item(), (found.argmax(1) == y).double().mean().item()


def length(model: nn.Module, orders: list[list[int]]) -> float:
    pairs = zip(model.parameters(), permute_mlp(model, orders).parameters(), strict=True)
    with torch.no_grad():
        return math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in pairs))


def test_slot_i_takes_unit_p_i():
    model = network()
    p, q = random_orders(model, 3)
    other = permute_mlp(model, [p, q])
    for i in range(WIDTHS[0]):
        assert torch.equal(other.linear1.weight[i], model.linear1.weight[p[i]])
        assert other.linear1.bias[i] == model.linear1.bias[p[i]]
        for j in range(WIDTHS[1]):
            assert other.linear2.weight[j, i] == model.linear2.weight[q[j], p[i]]
    for j in range(WIDTHS[1]):
        assert torch.equal(other.output.weight[:, j], model.output.weight[:, q[j]])
    assert torch.equal(other.output.bias, model.output.bias)


@pytest.mark.parametrize("options", [{"bias": False}, {"standardize": True}, {"width": (5, 4, 3)}])
def test_permuting_keeps_the_function_and_the_network(options):
    model = mc.build_model("mlp", digits(), **{"width": (6, 7), **options})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = permute_mlp(model, random_orders(model, 1))
    x = digits().test.x[:50]
    assert torch.allclose(logits(model, x), logits(other, x), rtol=0, atol=1e-12)
    assert not torch.equal(model.linear1.weight, other.linear1.weight)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_orders_come_from_the_seed():
    orders = random_orders(network(), 5)
    assert [sorted(order) for order in orders] == [[*range(n)] for n in WIDTHS]
    assert orders == random_orders(network(), 5) != random_orders(network(), 6)
    assert PermutationSlider(network(), digits(), seed=5).permutation == orders


def test_weights_travel_bit_for_bit():
    payload = slider().payload
    found = np.frombuffer(base64.b64decode(payload["weights"]), "<f4")
    parts = [p.detach().reshape(-1) for p in network().parameters()]
    assert np.array_equal(found, torch.cat(parts).numpy())
    sizes = [tuple(layer.values()) for layer in payload["layers"]]
    assert sizes == [(64, 12, True, True), (12, 9, True, True), (9, 10, False, True)]
    assert payload["moments"] is None
    assert payload["scale"] == float(f"{np.quantile(np.abs(found), 0.98):.2g}")


def test_a_layer_without_bias_says_so():
    model = mc.build_model("mlp", digits(), width=4, bias=False, standardize=True)
    payload = permutation_payload(model, digits())
    assert [layer["bias"] for layer in payload["layers"]] == [False, False]
    assert [len(values) for values in payload["moments"]] == [1, 1]


def test_the_drawn_images_are_the_first_of_every_class():
    y = digits().test.y[slider().indices]
    expected = [int((y == label).nonzero()[0]) for label in range(10)]
    assert slider().payload["shown"] == expected
    some = permutation_payload(network(), digits(), shown=12)["shown"]
    assert some[:10] == expected
    assert some[10:] == [int((y == label).nonzero()[1]) for label in range(2)]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(64, 10), r"PermutationSlider expected a multi-layer .*, found a Linear$"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh()), "found Tanh at '2'$"),
        (nn.Sequential(nn.Flatten()), "found no Linear layer$"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "one hidden layer, found 64-10"),
    ],
)
def test_other_networks_are_refused(model, message):
    with pytest.raises(mc.IncompatibleError, match=message):
        PermutationSlider(model, digits())
    with pytest.raises(mc.IncompatibleError, match=message):
        permute_mlp(model, [])


def test_what_does_not_fit_is_refused():
    with pytest.raises(mc.IncompatibleError, match="from 256 pixels to 10 classes"):
        PermutationSlider(network(), mc.load_data("digits", size=16))
    wide = mc.build_model("mlp", digits(), width=(1200, 1200))
    with pytest.raises(ValueError, match=r"at most 8 MB of network .* found 8\.\d MB"):
        PermutationSlider(wide, digits())
    with pytest.raises(ValueError, match="at least 1 image, found 0"):
        PermutationSlider(network(), digits(), images=0)
    with pytest.raises(ValueError, match="at least 1 image shown, found 0"):
        PermutationSlider(network(), digits(), shown=0)
    with pytest.raises(ValueError, match=r"step in \(0, 0\.02\], found 0\.1"):
        PermutationSlider(network(), digits(), step=0.1)
    with pytest.raises(ValueError, match="'train' or 'test', found 'all'"):
        PermutationSlider(network(), digits(), split="all")


def test_setting_the_permutation_moves_table_and_text():
    one = PermutationSlider(network(), digits())
    before = one.table()
    identity = [[*range(n)] for n in WIDTHS]
    one.permutation = identity
    assert before != one.table()
    assert "distance in weight space 0," in one.table()
    assert "distance 0, no logit changes;" in repr(one)
    for wrong, message in (
        ([identity[0]], "2 lists, one for each hidden layer, found 1"),
        ([identity[0], [0] * 9], "each of 0 to 8 once in the order of hidden layer 2"),
        ([identity[1], identity[0]], "each of 0 to 11 once in the order of hidden layer 1"),
    ):
        with pytest.raises(traitlets.TraitError, match=message):
            one.permutation = wrong
        with pytest.raises(ValueError, match=message):
            permute_mlp(network(), wrong)
    assert one.permutation == identity


def test_table_and_text_are_torch_numbers_and_deterministic():
    table, orders = slider().table(), slider().permutation
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        loss, accuracy = on_line(orders, t, slider().indices)
        shown, percent = re.search(rf'"row">{t:.2f}</th><td>([^<]*)</td><td>(.*) %', table).groups()
        assert float(shown) == pytest.approx(loss, rel=1e-3)
        assert float(percent) == pytest.approx(100 * accuracy, abs=0.051)
    assert f"distance in weight space {length(network(), orders):.4g}," in table
    assert "no logit changes by more than 1e-9 (double precision)" in table
    assert "12! · 9! ≈ 10^14.2 orders" in table
    assert re.match(
        r"PermutationSlider\(64-12-9-10, 200 test images of digits: distance", repr(slider())
    )
    assert slider().to_html() == PermutationSlider(network(), digits()).to_html()


def test_without_the_line_nothing_is_said_of_it():
    one = PermutationSlider(network(), digits(), line=False)
    assert slider().payload == {**one.payload, "line": True}
    assert one.payload["line"] is False
    for text in (one.table(), one.describe(), repr(one)):
        assert not re.search(r"\bt\b|\bline\b|θ|1/2|0\.50", text)
    rows = re.findall(r'"row">([^<]*)</th><td>([^<]*)</td><td>(.*) %', one.table())
    assert [name for name, _, _ in rows] == ["as it was trained", "in another order"]
    loss, accuracy = on_line(one.permutation, 0.0, one.indices)
    for _, shown, percent in rows:
        assert float(shown) == pytest.approx(loss, rel=1e-3)
        assert float(percent) == pytest.approx(100 * accuracy, abs=0.051)
    assert "no logit changes by more than 1e-9 (double precision), distance" in one.table()
    assert one.describe().endswith(f"loss before and after: {loss:.3g}, {loss:.3g}")


def test_few_orders_are_counted_exactly():
    small = PermutationSlider(mc.build_model("mlp", digits(), width=(3, 4)), digits())
    assert "one of 3! · 4! = 144 orders" in small.table()


def test_the_network_may_change_later_and_is_left_alone():
    model = mc.build_model("mlp", digits(), width=4).train()
    one = PermutationSlider(model, digits())
    assert all(module.training for module in model.modules())
    before = one.table()
    with torch.no_grad():
        model.output.weight.zero_()
    one._known = None
    assert one.table() == before


def test_bundle_and_size():
    data, _ = slider()._repr_mimebundle_()
    page = data["text/html"].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\(|fetch\(|innerHTML", page)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert len(page) < 90_000
    state = json.loads(re.search(r'mount\(render, "\w+", (.*)\);', page)[1])
    assert state["permutation"] == slider().permutation
    assert state["t"] == 0.5


def test_the_script_has_one_slider():
    script = PermutationSlider._esm
    assert str(script).count("export default") == 1
    assert "buildNetworkSlider" not in str(script)
    assert "</script" not in str(script)
    assert "</style" not in asset("permutation_slider.css")
