"""The network slider without a browser: its payload, its errors, its table."""

from __future__ import annotations

import base64
import re
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.viz.network_slider import NetworkSlider, describe_mlp, network_payload
from tests.viz.slider_cases import digits, line, trained


def decoded(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_weights_travel_bit_for_bit():
    (path,) = network_payload(line(), digits())["paths"]
    assert path["knots"] == [0, 1]
    for text, model in zip(
        path["weights"], (trained(0, width=32), trained(1, width=32)), strict=True
    ):
        expected = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
        assert np.array_equal(decoded(text, "<f4"), expected)


def test_digits_travel_as_bytes_without_loss():
    slider = NetworkSlider(line(), digits(), images=100)
    images = slider.payload["images"]
    assert (images["type"], images["scale"]) == ("uint8", 16)
    x = decoded(images["bits"], "u1").astype(np.float32) / 16
    assert np.array_equal(x, digits().test.x[slider.indices].reshape(-1).numpy())
    labels = decoded(slider.payload["labels"], "u1")
    assert np.array_equal(labels, digits().test.y[slider.indices].numpy())


def test_images_between_the_levels_travel_as_floats():
    data = digits()
    x = data.test.x[:20] * 0.7123
    changed = replace(data, test=replace(data.test, x=x, y=data.test.y[:20]))
    images = network_payload(line(), changed)["images"]
    assert images["type"] == "float32"
    assert np.array_equal(decoded(images["bits"], "<f4"), x.reshape(-1).numpy())


def test_images_are_spread_over_the_split():
    slider = NetworkSlider(line(), digits(), images=100)
    assert len(set(slider.indices)) == 100
    assert slider.indices[0] == 0
    assert slider.indices[-1] == 495
    assert NetworkSlider(line(), digits(), images=10_000).indices == list(range(500))
    assert NetworkSlider(line(), digits(), images=[3, 1]).indices == [3, 1]


def test_the_drawn_images_take_the_classes_in_turn():
    payload = network_payload(line(), digits())
    labels = decoded(payload["labels"], "u1")
    assert [int(labels[i]) for i in payload["shown"]] == [*range(10)] * 2


@pytest.mark.parametrize("images", [0, -3, [], [500], [-1]])
def test_images_that_are_not_there_are_refused(images):
    with pytest.raises(ValueError, match="expected"):
        NetworkSlider(line(), digits(), images=images)


def test_layers_of_an_mlp():
    model = mc.build_model("mlp", digits(), width=(8, 4), standardize=True)
    found = describe_mlp(model)
    assert found["standardize"] == "standardize"
    assert [tuple(layer.values()) for layer in found["layers"]] == [
        ("linear1", 64, 8, True),
        ("linear2", 8, 4, True),
        ("output", 4, 10, False),
    ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(64, 10), "found a Linear"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh()), "found Tanh at '2'"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)), "BatchNorm1d at '2'"),
        (nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3))), "found Conv2d at 'conv'"),
        (nn.Sequential(nn.Linear(64, 8)), "found Linear at '0'"),
        (nn.Sequential(nn.Flatten()), "found no Linear layer"),
    ],
)
def test_other_networks_are_refused_by_the_name_of_the_module(model, message):
    with pytest.raises(mc.IncompatibleError, match=message):
        describe_mlp(model)


def test_a_convolutional_path_is_refused():
    a, b = (mc.build_model("lenet5", mc.load_data("digits", size=32), seed=s) for s in (0, 1))
    with pytest.raises(mc.IncompatibleError, match="found Conv2d at"):
        NetworkSlider(mc.LinearPath(a, b), mc.load_data("digits", size=32))


def test_a_path_that_bends_is_refused():
    class Arc(mc.LinearPath):
        def at(self, t):
            return super().at(t * t)

    arc = Arc(trained(0, width=32), trained(1, width=32))
    with pytest.raises(mc.IncompatibleError, match=r"straight between its knots.*Arc.*linear1"):
        NetworkSlider(arc, digits())


def test_networks_of_two_sizes_are_refused():
    small = mc.LinearPath(*(mc.build_model("mlp", digits(), width=4, seed=s) for s in (0, 1)))
    with pytest.raises(mc.IncompatibleError, match="found 64-32-10 in 'a' and 64-4-10 in 'b'"):
        NetworkSlider({"a": line(), "b": small}, digits())


def test_images_of_another_size_are_refused():
    with pytest.raises(mc.IncompatibleError, match="from 256 pixels to 10 classes"):
        NetworkSlider(line(), mc.load_data("digits", size=16))


def test_what_is_too_large_for_a_page_is_refused():
    wide = mc.LinearPath(
        *(mc.build_model("mlp", digits(), width=(1000, 1000), seed=s) for s in (0, 1))
    )
    with pytest.raises(ValueError, match=r"at most 8 MB .* found 11\.5 MB"):
        NetworkSlider(wide, digits())


def test_no_path_and_unknown_split_are_refused():
    with pytest.raises(ValueError, match="1 to 5 paths on one slider, found 0"):
        NetworkSlider({}, digits())
    with pytest.raises(ValueError, match="'train' or 'test', found 'all'"):
        NetworkSlider(line(), digits(), split="all")


def test_table_and_text_are_torch_numbers_and_deterministic():
    slider = NetworkSlider(line(), digits())
    with torch.no_grad():
        x, y = (part[slider.indices] for part in (digits().test.x, digits().test.y))
        logits = line().model_at(0.5)(x)
        loss = nn.functional.cross_entropy(logits, y).item()
        accuracy = (logits.argmax(1) == y).float().mean().item()
    assert f'"row">0.50</th><td>{loss:#.4g}</td><td>{100 * accuracy:.1f} %</td>' in slider.table()
    assert slider.table().count('<th scope="row">') == 5
    assert re.match(r"NetworkSlider\(64-32-10, 360 test images of digits: loss at t", repr(slider))
    assert slider.to_html() == NetworkSlider(line(), digits()).to_html()


def test_the_ends_have_the_names_they_are_given():
    slider = NetworkSlider(line(), digits(), ends=("A", "π(A)"))
    assert slider.payload["ends"] == ["A", "π(A)"]
    assert "weights (1 − t) A + t π(A)." in slider.table()
    plain = NetworkSlider(line(), digits())
    assert plain.payload["ends"] == ["A", "B"]
    assert "weights (1 − t) A + t B." in plain.table()
    with pytest.raises(ValueError, match="two different names for the ends"):
        NetworkSlider(line(), digits(), ends=("A", "A"))


def test_bundle_and_size():
    data, _ = NetworkSlider(line(), digits())._repr_mimebundle_()
    page = data["text/html"].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\(|fetch\(", page)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert len(page) < 120_000
