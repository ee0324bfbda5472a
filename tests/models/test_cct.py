from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from library_networks import build, parameters
from torch import nn

import mcbook as mc
from mcbook.models import library
from mcbook.models.cct import Position, SequencePool


def theirs(**options: Any) -> nn.Module:
    library("vit_pytorch")
    make = importlib.import_module("vit_pytorch.cct").CCT
    return make(
        img_size=32, kernel_size=3, stride=1, padding=1, num_classes=10, **options
    )  # fmt: skip


def test_it_has_as_many_weights_as_the_papers_code() -> None:
    assert parameters("cct7") == 3_760_139
    # sines and cosines are no weights
    assert parameters("cct7", position="sine") == 3_760_139 - 256 * 256


@pytest.mark.parametrize(
    ("name", "convs", "depth", "heads", "width", "ratio"),
    [("cct7", 1, 7, 4, 256, 2), ("cct2", 2, 2, 2, 128, 1)],
)
@pytest.mark.parametrize("position", ["learned", "sine"])
def test_it_computes_what_vit_pytorchs_does(
    name: str, convs: int, depth: int, heads: int, width: int, ratio: int, position: str
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = theirs(
            embedding_dim=width, n_conv_layers=convs, num_layers=depth, num_heads=heads,
            mlp_ratio=ratio, positional_embedding={"learned": "learnable"}.get(position, position),
        ).eval()  # fmt: skip
        x = torch.rand(2, 3, 32, 32)
    ours = build(name, position=position).eval()
    state = ours.state_dict()
    renamed = {
        "classifier.positional_emb": state["position.embedding"],
        "classifier.attention_pool.weight": state["pool.attention.weight"],
        "classifier.attention_pool.bias": state["pool.attention.bias"],
        "classifier.norm.weight": state["norm.weight"],
        "classifier.norm.bias": state["norm.bias"],
        "classifier.fc.weight": state["output.weight"],
        "classifier.fc.bias": state["output.bias"],
    }
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part.startswith("block"):
            renamed[f"classifier.blocks.{int(part[5:]) - 1}.{rest}"] = value
        elif part.startswith("conv"):
            renamed[f"tokenizer.conv_layers.{int(part[4:]) - 1}.0.{rest}"] = value
    if position == "sine":
        found = reference.state_dict()["classifier.positional_emb"]
        assert torch.allclose(found, state["position.embedding"], atol=1e-4)
        assert not list(ours.position.parameters())
    reference.load_state_dict(renamed)
    with torch.no_grad():
        y = ours(x)
        assert torch.allclose(y, reference(x), atol=1e-4 * float(y.abs().max()))
    dropped = [m.drop_prob for m in ours.modules() if type(m).__name__ == "DropPath"]
    assert dropped == pytest.approx(
        [m.drop_prob for m in reference.modules() if type(m).__name__ == "DropPath"]
    )


def test_its_initial_weights_are_vit_pytorchs() -> None:
    model = build("cct7")
    for name, x in model.named_parameters():
        std, x = float(x.detach().std()) if x.numel() > 1 else 0.0, x.detach()
        if "norm" in name:
            assert torch.equal(x, torch.full_like(x, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not x.any()
        elif name == "position.embedding":
            assert std == pytest.approx(0.2, rel=0.05)
        elif name.startswith("conv"):
            assert std == pytest.approx((2 / 27) ** 0.5, rel=0.05)
        else:
            assert std == pytest.approx(0.02, rel=0.15), name


def test_the_pool_is_a_weighted_mean_of_the_tokens() -> None:
    pool = SequencePool(3)
    x = torch.rand(2, 5, 3)
    with torch.no_grad():
        score = x @ pool.attention.weight[0] + pool.attention.bias
        weights = score.exp() / score.exp().sum(1, keepdim=True)
        expected = torch.stack([sum(weights[n, i] * x[n, i] for i in range(5)) for n in range(2)])
        assert torch.allclose(pool(x), expected, atol=1e-6)
        pool.attention.weight.zero_()
        assert torch.allclose(pool(x), x.mean(1), atol=1e-6)


def test_positions_are_told_apart() -> None:
    x = torch.zeros(2, 6, 4)
    for learned in (True, False):
        y = Position(6, 4, learned)(x).detach()
        assert torch.equal(y[0], y[1])
        assert len({tuple(token) for token in y[0].tolist()}) == 6
    # sine and cosine of the place, and of a hundredth of it
    i = torch.arange(6)
    expected = torch.stack([i.sin(), i.cos(), (i / 100).sin(), (i / 100).cos()], 1)
    assert torch.allclose(y[0], expected, atol=1e-6)


def test_dropout_and_drop_path_are_for_training() -> None:
    def moves(**options: Any) -> bool:
        model = build("cct2", (1, 8, 8), width=8, **options).train()
        x = torch.rand(4, 1, 8, 8)
        with torch.no_grad():
            same = torch.equal(model(x), model(x))
            model.eval()
            assert torch.equal(model(x), model(x))
        return not same

    off = {"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0}
    assert not moves(**off)
    for option in off:
        assert moves(**{**off, option: 0.5}), option


def test_every_option_runs(tiny: mc.Data) -> None:
    for options in (
        {"width": 12, "heads": 3, "depth": 1, "convs": 3},
        {"width": 4, "heads": 1, "position": "none"},
        {"width": 4, "position": "sine", "dropout": 0.1},
    ):
        model = mc.build_model("cct2", tiny, **options)
        assert model(tiny.test.x).shape == (30, 10)
        blocks = [name for name, _ in model.named_children() if name.startswith("block")]
        assert len(blocks) == options.get("depth", 2)


@pytest.mark.parametrize("name", ["cct2", "cct7"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width of {} to be at least 1, found 0"),
        ({"depth": 0}, "depth of {} to be at least 1, found 0"),
        ({"heads": 0}, "heads of {} to be at least 1, found 0"),
        ({"convs": 0}, "convs of {} to be at least 1, found 0"),
        ({"width": 10, "heads": 4}, "width of {} to be a multiple of its heads, found 10 and 4"),
        ({"position": "cosine"}, "position of {} to be 'learned', .*, found 'cosine'"),
        ({"dropout": 1}, r"dropout of {} to be in \[0, 1\), found 1"),
        ({"attention_dropout": -1}, r"attention_dropout of {} to be in \[0, 1\), found -1"),
        ({"drop_path": 1}, r"drop_path of {} to be in \[0, 1\), found 1"),
        ({"convs": 6}, "at least 64 × 64 pixels for {}, found 32 × 32; .*size=64"),
    ],
)
def test_what_they_cannot_take_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{}", name)):
        build(name, **options)
