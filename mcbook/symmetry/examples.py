"""Examples of a network's input, and the errors of running one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

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
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            raise TraceError(
                f"expected a plain module, found a compiled one ({name or type(model).__name__}); "
                f"trace the module it was made from"
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
        if x.is_meta:
            raise TraceError(f"expected weights with values, found {name} on the device meta")
        devices.setdefault(str(x.device), name)
    if len(devices) > 1:
        found = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise TraceError(f"expected all weights on one device, found {found}")


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy of a network.

    Raises:
        IncompatibleError: when it holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(model, memo or {})
    except (RuntimeError, TypeError) as error:
        raise IncompatibleError(
            f"expected a network that copy.deepcopy can copy, found a {type(model).__name__} that "
            f"holds something else (stored activations, a lock, a file): {error}"
        ) from error


def tensors_in(value: Any, depth: int = 4) -> list[Tensor]:
    """All tensors in what a network returned: in tuples, dictionaries, data classes, objects.

    Raises:
        TraceError: when there is none.
    """
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif depth and hasattr(leaf, "__dict__") and not isinstance(leaf, (type, nn.Module)):
            for part in vars(leaf).values():
                found += tensors_in(part, depth - 1) if part is not None else []
    return found


def make_example(model: nn.Module, example: Any) -> Any:
    """The example that was given, or one made from the shape the network carries.

    Raises:
        ValueError: when neither is there.
    """
    if example is not None:
        for x in tree_leaves(example):
            if isinstance(x, Tensor) and x.numel() == 0:
                raise ValueError(
                    f"expected an example with at least one input, found shape {list(x.shape)}"
                )
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


def is_one_row(x: Any) -> bool:
    """Whether an argument has a batch axis of length 1, which can be made longer."""
    return isinstance(x, Tensor) and x.ndim > 0 and x.shape[0] == 1


def batch_of(
    example: Any, size: int, seed: int, dtype: torch.dtype = torch.float64, near: bool = False
) -> Any:
    """Random inputs like an example, `size` of them: normal numbers, or numbers out of its own.

    Args:
        example: one input; only arguments with a first axis of length 1 are made longer.
        size: how many.
        seed: decides them.
        dtype: of the floating-point ones.
        near: numbers near those of the example, for networks that do not take any.
    """
    generator = torch.Generator().manual_seed(seed)

    def like(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim == 0:
            return x
        shape = (size, *x.shape[1:]) if is_one_row(x) else tuple(x.shape)
        if near:
            x = x.expand(shape)
            if x.is_floating_point():
                noise = torch.rand(shape, generator=generator, dtype=torch.float64).to(x.device)
                return (x.double() * (1 + 0.05 * noise)).to(dtype)
            return x.clone()
        if x.is_complex():
            pair = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
            return torch.view_as_complex(pair).to(x.device)
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
    shapes = tree_map(lambda x: list(x.shape) if hasattr(x, "shape") else type(x), example)
    where = f" in module {module!r}" if module else ""
    after = f", after the operation {operation}" if operation else ""
    return TraceError(
        f"the network could not be run on an example of shape {shapes}{where}{after}: "
        f"{type(error).__name__}: {error}. If it takes something else, give example= (a tensor, or "
        f"a tuple or dictionary of arguments); if its forward pass cannot be followed, write its "
        f"spec by hand with mcbook.PermutationSpec.from_axes"
    )
