"""Examples of a network's input, and the errors of running one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import IncompatibleError, expect

__all__ = ["TraceError", "as_call", "batch_of", "check_module", "explained", "make_example"]


class TraceError(IncompatibleError):
    """A network whose forward pass could not be followed."""


def check_module(model: nn.Module) -> None:
    """Refuse what cannot be traced.

    Raises:
        TypeError: for something that is no module.
        TraceError: for tensors on several devices, not yet made (lazy), or not ordinary (sparse,
            quantised, a compiled or scripted module); names the first.
    """
    expect(model, nn.Module, "a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise TraceError(
            f"expected a plain module, found a compiled one ({type(model).__name__}); trace the "
            f"module it was made from"
        )
    devices: dict[str, str] = {}
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(x):
            raise TraceError(
                f"expected weights with shapes, found that {name} has not been initialised; run "
                f"the network once before tracing it"
            )
        if x.layout != torch.strided or x.is_quantized:
            raise TraceError(
                f"expected dense, unquantised weights, found {name} with layout {x.layout} and "
                f"dtype {x.dtype}"
            )
        devices.setdefault(str(x.device), name)
    if len(devices) > 1:
        found = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise TraceError(f"expected all weights on one device, found {found}")


def make_example(model: nn.Module, example: Any) -> Any:
    """The example that was given, or one made from the shape the network carries.

    Raises:
        ValueError: when neither is there.
    """
    if example is not None:
        return example
    shape = getattr(model, "example_shape", None)
    if shape is None:
        raise ValueError(
            f"expected an example of the input, since a {type(model).__name__} does not say what "
            f"it takes: give example=torch.randn(1, 3, 32, 32), for instance, or a tuple or "
            f"dictionary of arguments"
        )
    first = next((x for x in model.parameters()), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *shape, generator=generator)
    return x.to(first)


def as_call(example: Any) -> tuple[tuple, dict[str, Any]]:
    """An example as positional and keyword arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple):
        return example, {}
    return (example,), {}


def batch_of(example: Any, size: int, seed: int, dtype: torch.dtype = torch.float64) -> Any:
    """Random inputs like an example, `size` of them: normal numbers, or numbers out of its own."""
    generator = torch.Generator().manual_seed(seed)

    def like(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim == 0:
            return x
        shape = (size, *x.shape[1:]) if x.shape[0] == 1 else tuple(x.shape)
        if x.is_floating_point():
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            return drawn.to(x.device, dtype)
        if x.dtype == torch.bool:
            return x.expand(shape)
        top = int(x.max()) + 1 if x.numel() else 1
        low = min(0, int(x.min()) if x.numel() else 0)
        return torch.randint(low, top, shape, generator=generator, dtype=x.dtype).to(x.device)

    return tree_map(like, example)


def explained(error: Exception, module: str, operation: str, example: Any) -> TraceError:
    """What went wrong in a forward pass, and what to do about it."""
    shapes = tree_map(lambda x: list(x.shape) if isinstance(x, Tensor) else x, example)
    where = f" in module {module!r}" if module else ""
    after = f", after the operation {operation}" if operation else ""
    return TraceError(
        f"the network could not be run on an example of shape {shapes}{where}{after}: "
        f"{type(error).__name__}: {error}. If it takes something else, give example= (a tensor, or "
        f"a tuple or dictionary of arguments); if its forward pass cannot be followed, write its "
        f"spec by hand with mcbook.PermutationSpec.from_axes"
    )
