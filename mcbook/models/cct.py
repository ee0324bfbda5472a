"""Compact convolutional transformers (Hassani et al. 2021)."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from .adapting import expect_at_least, expect_fraction, expect_image, not_in_place
from .library import library
from .registry import register

__all__ = ["Position", "SequencePool", "Tokens", "cct2", "cct7"]


class Tokens(nn.Module):
    """Feature maps `[n, d, h, w]` to tokens `[n, h w, d]`: one a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Flatten the pixels, and put the feature maps last."""
        return x.flatten(2).transpose(1, 2)


class Position(nn.Module):
    """Add to every token `[n, tokens, d]` a vector that tells its place.

    Args:
        tokens: how many tokens there are.
        d: their size.
        learned: whether the vectors are weights (initially normal, cut off at two standard
            deviations of 0.2), or sines and cosines that stay as they are.
    """

    embedding: Tensor

    def __init__(self, tokens: int, d: int, learned: bool):
        super().__init__()
        if learned:
            self.embedding = nn.Parameter(torch.zeros(1, tokens, d))
            nn.init.trunc_normal_(self.embedding, std=0.2)
        else:
            i = torch.arange(d)
            angle = torch.arange(tokens)[:, None] / 10000.0 ** (2 * (i // 2) / d)
            self.register_buffer(
                "embedding", torch.where(i % 2 == 0, angle.sin(), angle.cos())[None]
            )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens of the same shape."""
        return x + self.embedding


class SequencePool(nn.Module):
    """The mean of the tokens, weighted by the softmax of a linear function of each.

    Args:
        d: the size of a token.
    """

    def __init__(self, d: int):
        super().__init__()
        self.attention = nn.Linear(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `[n, tokens, d]` to one vector `[n, d]`."""
        return (self.attention(x).softmax(1).transpose(1, 2) @ x).squeeze(1)


@register("cct7")
def cct7(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 256,
    depth: int = 7,
    heads: int = 4,
    convs: int = 1,
    position: str = "learned",
    dropout: float = 0.0,
    attention_dropout: float = 0.1,
    drop_path: float = 0.1,
) -> dict[str, nn.Module]:
    """CCT-7/3×1: one 3 × 3 convolution makes tokens, seven transformer layers work on them.

    The layers and their initial weights are those of vit_pytorch.  The hidden layer of a
    transformer layer has twice the size of a token.  Of images of 32 × 32 pixels, the convolution
    with its max pooling makes 256 tokens.

    Args:
        shape: `(c, h, w)` of an image of at least `2 ** convs` pixels each way.
        classes: the number of outputs.
        width: the size of a token.
        depth: transformer layers.
        heads: of the attention; divides the width.
        convs: 3 × 3 convolutions before the tokens, each with a max pooling of stride 2; those
            before the last have 64 feature maps.
        position: `learned`, `sine` or `none`: what tells a token's place.
        dropout: of tokens and hidden layers, in training.
        attention_dropout: of the attention's weights, in training.
        drop_path: how often a branch is skipped in training: grows with the depth, from 0 in the
            first layer to this in the last (stochastic depth).

    Raises:
        ValueError: for an image that is too small, a size below 1, a width that the heads do not
            divide, an unknown position, or a probability outside [0, 1).
    """
    sizes = {"width": width, "depth": depth, "heads": heads, "convs": convs}
    drops = {"dropout": dropout, "attention_dropout": attention_dropout, "drop_path": drop_path}
    return _cct("cct7", shape, classes, sizes, 2, position, drops)


@register("cct2")
def cct2(
    shape: tuple[int, int, int],
    classes: int,
    width: int = 128,
    depth: int = 2,
    heads: int = 2,
    convs: int = 2,
    position: str = "learned",
    dropout: float = 0.0,
    attention_dropout: float = 0.1,
    drop_path: float = 0.1,
) -> dict[str, nn.Module]:
    """CCT-2/3×2: two 3 × 3 convolutions make tokens, two transformer layers work on them.

    As `cct7`, but the hidden layer of a transformer layer has the size of a token.  Of images of
    32 × 32 pixels, the convolutions make 64 tokens.

    Args:
        shape: `(c, h, w)` of an image of at least `2 ** convs` pixels each way.
        classes: the number of outputs.
        width: the size of a token.
        depth: transformer layers.
        heads: of the attention; divides the width.
        convs: see `cct7`.
        position: `learned`, `sine` or `none`: what tells a token's place.
        dropout: of tokens and hidden layers, in training.
        attention_dropout: of the attention's weights, in training.
        drop_path: see `cct7`.

    Raises:
        ValueError: as for `cct7`.
    """
    sizes = {"width": width, "depth": depth, "heads": heads, "convs": convs}
    drops = {"dropout": dropout, "attention_dropout": attention_dropout, "drop_path": drop_path}
    return _cct("cct2", shape, classes, sizes, 1, position, drops)


def _cct(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    sizes: dict[str, int],
    ratio: int,
    position: str,
    drops: dict[str, float],
) -> dict[str, nn.Module]:
    """The layers of a network whose hidden layers have `ratio` times the size of a token."""
    for option, size in sizes.items():
        expect_at_least(name, option, size, 1)
    for option, p in drops.items():
        expect_fraction(name, option, p)
    width, depth, heads, convs = (sizes[k] for k in ("width", "depth", "heads", "convs"))
    if width % heads:
        raise ValueError(
            f"expected width of {name} to be a multiple of its heads, found {width} and {heads}"
        )
    if position not in ("learned", "sine", "none"):
        raise ValueError(
            f"expected position of {name} to be 'learned', 'sine' or 'none', found {position!r}"
        )
    c, h, w = shape
    expect_image(name, shape, 2**convs)
    library("vit_pytorch")
    theirs: Any = importlib.import_module("vit_pytorch.cct")

    layers: dict[str, nn.Module] = {}
    tokenizer = theirs.Tokenizer(
        3, 1, 1, n_conv_layers=convs, n_input_channels=c, n_output_channels=width,
        activation=nn.ReLU,
    )  # fmt: skip
    for i, (conv, relu, pool) in enumerate(tokenizer.conv_layers, 1):
        layers |= {f"conv{i}": conv, f"relu{i}": relu, f"pool{i}": pool}
        h, w = -(-h // 2), -(-w // 2)
    layers["tokens"] = Tokens()
    if position != "none":
        layers["position"] = Position(h * w, width, position == "learned")
    if drops["dropout"]:
        layers["dropout"] = nn.Dropout(drops["dropout"])
    later: dict[str, nn.Module] = {}
    for i in range(depth):
        later[f"block{i + 1}"] = theirs.TransformerEncoderLayer(
            width, heads, ratio * width, drops["dropout"], drops["attention_dropout"],
            drops["drop_path"] * i / max(1, depth - 1),
        )  # fmt: skip
    later["norm"] = nn.LayerNorm(width)
    later["pool"] = SequencePool(width)
    later["output"] = nn.Linear(width, classes)
    for layer in later.values():
        layer.apply(theirs.TransformerClassifier.init_weight)
    for layer in later.values():
        not_in_place(layer)
    return {**layers, **later}
