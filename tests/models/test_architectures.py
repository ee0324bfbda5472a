"""What holds for every architecture made for images of 32 × 32 pixels, and their page."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mcbook as mc
from mcbook.models import build_from

# as small as they can be; tracing takes longest, an operation at a time
SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 2, "depth": (1, 1, 1, 1)},
    "mobilenetv2": {"width": 0.1, "multiple": 2, "last": 8, "depth": (1, 1, 1, 2, 1, 1, 1)},
    "mobilenetv3": {"width": 0.1, "multiple": 2},
    "shufflenetv1": {"width": 0.1, "depth": (1, 2, 1)},
    "shufflenetv2": {"width": 0.1, "depth": (1, 2, 1)},
    "efficientnetb0": {"width": 0.1, "multiple": 2, "depth": 0.3},
    "regnetx200mf": {"width": 0.1, "group": 2, "depth": (1, 1, 2, 1)},
    "dla": {"width": 1, "depth": (1, 2, 1, 1)},
    "cct7": {"width": 8, "depth": 2, "convs": 2},
    "cct2": {"width": 8},
    "densenet": {"growth": 2, "depth": (1, 2, 1, 1)},
}
SIZE = {"efficientnetb0": 16}
PAGE = Path(__file__).parents[2] / "book" / "architectures.md"


def images(name: str, channels: int = 1) -> mc.Data:
    size = SIZE.get(name, 8)
    data = mc.load_data("digits", device="cpu", size=size, channels=channels)
    return data.subset(train=16, test=6)


def blank(name: str, classes: int = 10, **options: Any) -> nn.Module:
    """At full size, without memory."""
    shape = (1, 28, 28) if name == "lenet5" else (3, 32, 32)
    with torch.device("meta"):
        return build_from(
            {"name": name, "shape": shape, "classes": classes, "standardize": False,
             "options": options}
        ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> dict[str, nn.Module]:
    """Each after two steps."""
    out = {}
    for name, options in SMALL.items():
        data = images(name)
        model = mc.build_model(name, data, **options)
        out[name] = mc.train(model, data, 1, batch_size=8, lr=0.01, progress=False)
    return out


@pytest.mark.parametrize("name", SMALL)
def test_training_reaches_every_weight_and_leaves_all_finite(
    name: str, trained: dict[str, nn.Module]
) -> None:
    data = images(name)
    before = mc.build_model(name, data, **SMALL[name])
    before(data.train.x).sum().backward()
    # a weight without a gradient is one that the forward pass leaves out
    assert [key for key, p in before.named_parameters() if p.grad is None] == []
    start, end = before.state_dict(), trained[name].state_dict()
    assert sum(not torch.equal(x, end[key]) for key, x in start.items()) > 0.8 * len(start)
    assert all(torch.isfinite(x).all() for x in end.values())


@pytest.mark.parametrize("name", SMALL)
def test_its_symmetry_is_traced_and_keeps_the_function(
    name: str, trained: dict[str, nn.Module]
) -> None:
    model = trained[name]
    spec = mc.trace_symmetry(model)  # which verifies it
    assert sum(spec.spaces.values()) > 8
    moved = mc.permute(model, spec.random(seed=1), spec).eval()
    x = images(name).test.x
    assert any(
        not torch.equal(p, q) for p, q in zip(moved.parameters(), model.parameters(), strict=True)
    )
    with torch.no_grad():
        out = copy.deepcopy(model).eval()(x)
        assert torch.allclose(moved(x), out, atol=1e-4 * float(out.abs().max()))


@pytest.mark.parametrize("name", SMALL)
def test_it_is_saved_copied_and_profiled(
    name: str, trained: dict[str, nn.Module], tmp_path: Path
) -> None:
    model, data = trained[name], images(name)
    mc.save_model(model, tmp_path / "model.safetensors")
    loaded = mc.load_model(tmp_path / "model.safetensors").eval()
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        assert torch.equal(loaded(data.test.x), copied(data.test.x))
    other = mc.build_model(name, data, seed=1, **SMALL[name])
    path = mc.LinearPath(model, other)
    table = mc.profile(path, data, points=3, progress=False).table
    assert len(table) == 3
    assert table.notna().all(axis=None)


@pytest.mark.parametrize("name", SMALL)
def test_features_are_those_the_layers_gave(name: str, trained: dict[str, nn.Module]) -> None:
    """Nothing written over afterwards, by an activation that works in place."""
    model = copy.deepcopy(trained[name]).eval()
    kept: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    for key, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(
                lambda _, __, out, key=key: kept.append((key, out, out.clone()))
            )
    x = images(name).test.x[:2]
    given = x.clone()
    with torch.no_grad():
        model(x)
    assert torch.equal(x, given)
    changed = {key for key, out, was in kept if not torch.equal(out, was)}
    table = mc.feature_connectivity(model, model, x, alphas=0.5)
    # `relu:1` is the first call of a module that is called twice
    features = {layer.split(":")[0] for layer in table["layer"]}
    assert "output" in features
    # (library blocks do add the shortcut to the last norm's output where it lies)
    assert not changed & features


@pytest.mark.parametrize("name", SMALL)
def test_color_images_and_other_numbers_of_classes_are_taken(name: str) -> None:
    data = images(name, channels=3)
    model = mc.build_model(name, data, **SMALL[name]).eval()
    assert model(data.test.x).shape == (6, 10)
    assert blank(name, classes=100)(torch.zeros(1, 3, 32, 32, device="meta")).shape == (1, 100)


def rows() -> list[list[str]]:
    """The cells of the page's table of sizes."""
    text = PAGE.read_text(encoding="utf-8")
    table = text.split("<!-- sizes -->")[1].split("\n\n")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def differences() -> dict[str, int]:
    """What the page says of the rows whose two numbers are not the same."""
    found = re.findall(
        r"^`(\w+)`, ([\d,]+) (fewer|more)\n: ", PAGE.read_text("utf-8"), re.MULTILINE
    )
    return {name: number(n) * (-1 if way == "fewer" else 1) for name, n, way in found}


def test_the_page_has_a_row_for_each() -> None:
    assert [row[0].strip("`") for row in rows()] == [
        "lenet5", "resnet18", "mobilenetv2", "mobilenetv3", "shufflenetv1", "shufflenetv2",
        "efficientnetb0", "regnetx200mf", "dla", "cct7", "cct2", "densenet", "vgg11", "vgg16",
    ]  # fmt: skip


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0].strip("`"))
def test_the_page_tells_the_sizes(row: list[str]) -> None:
    name = row[0].strip("`")
    model = blank(name)
    parameters = number(row[1])
    assert parameters == sum(p.numel() for p in model.parameters())
    if row[2] != "–":
        assert parameters - number(row[2]) == differences().get(name, 0)
    else:
        assert name not in differences()
    shape = (1, 1, 28, 28) if name == "lenet5" else (1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape, device="meta"))
    # a multiplication and an addition each
    macs = counter.get_total_flops() / 2e6
    assert row[3] == (f"{macs:,.0f}" if macs >= 10 else f"{macs:.2g}")


def test_the_page_tells_the_options() -> None:
    described = mc.describe_models()
    for name in SMALL:
        section = re.search(rf"`{name}\((.*?)\)`", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        assert section, name
        text = " ".join(section[1].split())
        assert text == described[name].split(". Options: ")[1], name
