"""The registry: an architecture is a function from an image shape to a module.

Adding one is adding a file that calls `register`; nothing else knows its name.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..data import Data
from ..errors import UnknownNameError
from .layers import Standardize

__all__ = ["Network", "build_from", "build_model", "describe_models", "list_models", "register"]

Builder = Callable[..., dict[str, nn.Module]]
_BUILDERS: dict[str, Builder] = {}


class Network(nn.Sequential):
    """A stack of named layers that knows what it takes and how it was made.

    Attributes:
        example_shape: `(c, h, w)` of one input.
        architecture: what `build_from` needs to make such a network again.
    """

    example_shape: tuple[int, ...]
    architecture: dict[str, Any]


def register(name: str) -> Callable[[Builder], Builder]:
    """Decorate a function `(shape, classes, **options)` to make it known by `name`.

    `shape` is the `(c, h, w)` of one image and `classes` the number of outputs.  The function
    returns the layers by name, in the order in which they are applied; their names become the
    first part of every tensor's name.  It raises ValueError for a shape or option it cannot take,
    saying what it expected.
    """

    def keep(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ValueError(f"expected a new name, but a model called {name!r} is registered")
        _BUILDERS[name] = builder
        return builder

    return keep


def list_models() -> list[str]:
    """The names `build_model` knows."""
    return sorted(_BUILDERS)


def describe_models() -> dict[str, str]:
    """For every architecture, what it is and the options it takes: one line each."""
    return {
        name: f"{(inspect.getdoc(builder) or '').splitlines()[0]} Options: "
        + ", ".join(f"{key}={value!r}" for key, value in _options(builder).items())
        for name, builder in sorted(_BUILDERS.items())
    }


def build_model(name: str, data: Data, seed: int = 0, **options: Any) -> Network:
    """A new network for `data`, with PyTorch's initial weights drawn from `seed`.

    Args:
        name: the architecture; `list_models()` has the names, `describe_models()` the options.
        data: gives the image shape, the number of classes and the device.
        seed: of the initial weights; the same seed gives the same weights on every device.
        **options: of the architecture, and for all of them `standardize=True`: subtract the
            training images' mean and divide by their standard deviation, per channel, inside the
            network (so that it travels with the weights).

    Returns:
        The module, on the data's device, in training mode.  It carries `.example_shape`, the
        `(c, h, w)` of one input, and `.architecture`, from which `build_from` makes it again.

    Raises:
        UnknownNameError: for an unknown architecture or option; offers the close ones.
        ValueError: for a size or option the architecture cannot take.
    """
    standardize = options.pop("standardize", False)
    architecture = {
        "name": name,
        "shape": list(data.shape),
        "classes": len(data.classes),
        "standardize": bool(standardize),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
    }
    model = build_from(architecture, seed=seed)
    if standardize:
        x = data.train.x
        model.get_submodule("standardize").load_state_dict(
            {"mean": x.mean((0, 2, 3)).cpu(), "std": x.std((0, 2, 3)).clamp_min(1e-6).cpu()}
        )
    return model.to(data.train.x.device)


def build_from(architecture: dict[str, Any], seed: int = 0) -> Network:
    """The module an `.architecture` describes, with initial weights drawn from `seed`, on the CPU.

    Raises:
        UnknownNameError: for an unknown architecture or option; offers the close ones.
        ValueError: for a size or option the architecture cannot take.
    """
    name, options = architecture["name"], dict(architecture["options"])
    if name not in _BUILDERS:
        raise UnknownNameError("model", name, _BUILDERS)
    builder = _BUILDERS[name]
    for option in options:
        if option not in _options(builder):
            raise UnknownNameError(f"option of {name}", option, [*_options(builder), "standardize"])
    shape: Sequence[int] = architecture["shape"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = builder(tuple(shape), architecture["classes"], **options)
    if architecture["standardize"]:
        layers = {"standardize": Standardize(shape[0]), **layers}
    model = Network(OrderedDict(layers))
    model.example_shape = tuple(shape)
    model.architecture = architecture
    return model


def _options(builder: Builder) -> dict[str, Any]:
    parameters = list(inspect.signature(builder).parameters.values())[2:]
    return {parameter.name: parameter.default for parameter in parameters}
