"""What adapting a library's network to small images takes, whichever network it is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

__all__ = [
    "expect_at_least",
    "expect_depth",
    "expect_fraction",
    "expect_image",
    "expect_width",
    "head",
    "not_in_place",
    "parts",
    "rounded",
    "with_stride",
]


def expect_image(name: str, shape: tuple[int, int, int], least: int, multiple: int = 1) -> None:
    """Refuse an image `(c, h, w)` that is too small, or whose sides `multiple` does not divide.

    Raises:
        ValueError: with what was expected, what was found, and how to resize.
    """
    _, h, w = shape
    hint = f"load_data(..., size={max(least, 32)}) resizes them"
    if min(h, w) < least:
        raise ValueError(
            f"expected images of at least {least} × {least} pixels for {name}, found {h} × {w}; "
            f"{hint}"
        )
    if h % multiple or w % multiple:
        raise ValueError(
            f"expected the sides of an image to be multiples of {multiple} for {name}, "
            f"found {h} × {w}; {hint}"
        )


def expect_at_least(name: str, option: str, value: float, least: float) -> None:
    """Refuse a number below `least`.

    Raises:
        ValueError: with what was expected and what was found.
    """
    if not value >= least:
        raise ValueError(f"expected {option} of {name} to be at least {least}, found {value}")


def expect_width(name: str, width: float) -> None:
    """Refuse a multiplier of widths that is not above 0.

    Raises:
        ValueError: with what was expected and what was found.
    """
    if not width > 0:
        raise ValueError(f"expected width of {name} to be above 0, found {width}")


def expect_fraction(name: str, option: str, value: float) -> None:
    """Refuse a probability outside [0, 1), such as of dropout.

    Raises:
        ValueError: with what was expected and what was found.
    """
    if not 0 <= value < 1:
        raise ValueError(f"expected {option} of {name} to be in [0, 1), found {value}")


def expect_depth(name: str, depth: Sequence[int], stages: int) -> tuple[int, ...]:
    """The blocks in each of `stages` stages, every one at least 1.

    Raises:
        ValueError: with what was expected and what was found.
    """
    found = tuple(depth) if isinstance(depth, Sequence) else (depth,)
    whole = all(isinstance(d, int) and d >= 1 for d in found)
    if len(found) != stages or not whole:
        raise ValueError(
            f"expected depth of {name} to be {stages} whole numbers from 1, found {list(found)}"
        )
    return found


def rounded(maps: float, multiple: int) -> int:
    """The nearest positive multiple that is not below nine tenths of `maps`, as in torchvision."""
    nearest = max(multiple, int(maps + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * maps else nearest + multiple


def not_in_place(module: nn.Module) -> nn.Module:
    """Let activations and dropout inside write new tensors, so that all features can be kept."""
    for m in module.modules():
        if hasattr(m, "inplace"):
            vars(m)["inplace"] = False
    return module


def with_stride(conv: nn.Module, stride: int) -> None:
    """Give a convolution another stride; its weights fit as they are."""
    assert isinstance(conv, nn.Conv2d)
    conv.stride = (stride, stride)


def parts(block: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """A library's convolution, norm and activation, by the names used here."""
    names = {nn.Conv2d: "conv", nn.BatchNorm2d: "norm"}
    return {prefix + names.get(type(m), type(m).__name__.lower()): m for m in block.children()}


def head(features: int, classes: int, dropout: float = 0.0) -> dict[str, nn.Module]:
    """Average over pixels, and one linear layer; dropout before it where there is any."""
    layers: dict[str, nn.Module] = {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    return {**layers, "output": nn.Linear(features, classes)}
