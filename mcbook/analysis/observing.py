"""What the modules of a network read and put out in a forward pass, call by call.

A *call* is one use of one module in a forward pass.  Most modules are called once, and a call goes
by the module's name; the calls of a module that is used several times (the one ReLU of a residual
block, say) are told apart as `relu:1`, `relu:2`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import weights
from ..errors import UnknownNameError, expect
from ..evaluation import evaluating
from .layer_matrices import CONVOLUTIONS, TRANSPOSED

__all__ = [
    "Call",
    "batches_of",
    "checked_alphas",
    "checked_inputs",
    "features_of",
    "find_calls",
    "has_plain_forward",
    "observe",
    "passed",
]

# an attention's output is a tuple and no activation, though PyTorch keeps it among them
_ACTIVATIONS = tuple(
    kind
    for name in nn.modules.activation.__all__
    if (kind := getattr(nn.modules.activation, name)) is not nn.MultiheadAttention
)
_LINEAR = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
_WITHOUT_EFFECT = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)
# what the features of A and B that are held at once may take
_MEMORY = 256 * 2**20
_MOST_AT_ONCE = 512

See = Callable[[int, Tensor, Tensor], "Tensor | None"]


@dataclass(frozen=True)
class Call:
    """One use of a module in a forward pass.

    Attributes:
        name: the module's, with `:1`, `:2`, ... behind it if it is called several times.
        module: the module's name.
        turn: which of its calls this is, from 1.
        turns: how often it is called.
        kind: `linear` (convolutions included), `activation` or `other`.
        read: how many numbers it reads for one sample.
        put_out: how many it puts out.
    """

    name: str
    module: str
    turn: int
    turns: int
    kind: str
    read: int
    put_out: int


def checked_alphas(alphas: float | Iterable[float]) -> list[float]:
    """The alphas as a list, each once.

    Raises:
        ValueError: when there are none, or one is outside [0, 1].
    """
    # a number of any library, or several
    values = np.atleast_1d(np.asarray(alphas, dtype=float)).tolist()
    numbers: list[float] = list(dict.fromkeys(values))
    if not numbers:
        raise ValueError("expected at least one alpha, found none")
    for alpha in numbers:
        if not 0 <= alpha <= 1:
            raise ValueError(f"expected alphas in [0, 1], the weight of B, found {alpha}")
    return numbers


def checked_inputs(model: nn.Module, x: Tensor) -> Tensor:
    """The inputs on the model's device and in its precision.

    Raises:
        TypeError: when `x` is no tensor.
        ValueError: when it is empty or not finite.
    """
    expect(x, Tensor, "a tensor of images, such as data.test.x")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"expected at least one image as inputs, found shape {list(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("expected finite inputs, found NaN or infinite entries")
    floating = [p for p in weights.of(model).values() if p.is_floating_point()]
    if not floating:
        return x
    return x.to(floating[0]) if x.is_floating_point() else x.to(floating[0].device)


def find_calls(
    model: nn.Module, x: Tensor, layers: Iterable[str] | None, kinds: Sequence[str]
) -> list[Call]:
    """The calls to look at, in the order of the forward pass.

    Args:
        model: any module; it runs once, on the first samples.
        x: its inputs, `[count, ...]`.
        layers: names of modules, or of single calls of modules.  None: all of `kinds`.
        kinds: of `linear`, `activation` and `other`; the last are all modules without children
            that are neither, have an effect in eval mode (norms, pooling), and make one tensor
            from one tensor of numbers.

    Raises:
        TypeError: for something that is no module, or a module that does not put out one tensor.
        UnknownNameError: for a name that is not there; offers the close ones.
        ValueError: when there is nothing to look at, a named module is not called or is called
            several times, or its output has no sample axis in front.
    """
    expect(model, nn.Module, "a torch.nn.Module")
    named = {n: m for n, m in model.named_modules(remove_duplicate=False) if n}
    if layers is None:
        chosen = {n: m for n, m in named.items() if _kind(m) in kinds and "parametriz" not in n}
    else:
        layers = [layers] if isinstance(layers, str) else list(layers)
        chosen = {name: _named(named, name) for name in layers}
    modules = {module: _name_of(named, module) for module in chosen.values()}
    # two samples: a network may squeeze away the axis of a single one
    calls = _probe(model, modules, x[:2], lenient=layers is None)
    if layers is not None:
        calls = _wanted(layers, modules, named, calls)
    if not calls:
        what = " or ".join(kinds)
        raise ValueError(
            f"expected a forward pass of this {type(model).__name__} to call modules of kind "
            f"{what}, found none; name the modules wanted with layers= (functions such as F.relu "
            f"are no modules and cannot be seen)"
        )
    return calls


def batches_of(
    x: Tensor, calls: Sequence[Call], batch_size: int | None, inputs: bool = False
) -> tuple[Tensor, ...]:
    """The inputs in batches; by default so large that what is held of A and B fits into memory.

    Raises:
        ValueError: for a batch size below 1.
    """
    if batch_size is None:
        size = sum(call.put_out + call.read * inputs for call in calls) * 8 * 2  # float64, A and B
        batch_size = int(min(_MOST_AT_ONCE, max(1, _MEMORY // max(1, size))))
    if batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1, found {batch_size}")
    return x.split(batch_size)


def has_plain_forward(module: nn.Module) -> bool:
    """Whether a linear layer or convolution computes what PyTorch's does."""
    return any(type(module).forward is kind.forward for kind in _LINEAR)


def observe(
    model: nn.Module, calls: Sequence[Call], x: Tensor, see: See, inputs: bool = False
) -> Tensor:
    """One forward pass in eval mode in which `see` is shown every call.

    Args:
        model: any module; its flags are restored and its hooks removed, whatever happens.
        calls: what to show.
        x: the inputs of the network, `[count, ...]`.
        see: gets the number of the call, its input and its output.  The output may be overwritten
            in the rest of the pass: what is to be kept must be copied.  If it returns a tensor,
            that takes the place of the output.
        inputs: whether the calls' inputs are wanted: copies, made before the module runs, which
            may work in place.  Each call must then read one tensor and nothing else.

    Returns:
        The network's output.

    Raises:
        TypeError: see `inputs`.
        ValueError: when the pass does not make these calls.
    """
    numbers = {(call.module, call.turn): i for i, call in enumerate(calls)}
    most = {call.module: call.turns for call in calls}
    seen: set[int] = set()
    turns: dict[str, int] = {}
    read: dict[str, Tensor] = {}

    def before(name: str, _: nn.Module, args: tuple, options: dict[str, Any]) -> None:
        turns[name] = turns.get(name, 0) + 1
        if turns[name] > most[name]:
            raise _otherwise(name)
        if inputs:
            read[name] = _only(name, args, options).clone()

    def after(name: str, _: nn.Module, __: tuple, output: Any) -> Tensor | None:
        i = numbers.get((name, turns[name]))
        if i is None:
            return None
        seen.add(i)
        z = _one_tensor(name, output, len(x))
        return see(i, read.pop(name) if inputs else z, z)

    with _hooked(model, dict.fromkeys(call.module for call in calls), before, after):
        result: Tensor = model(x)
    if len(seen) < len(calls):
        raise _otherwise(next(call.name for i, call in enumerate(calls) if i not in seen))
    return result


def features_of(model: nn.Module, calls: Sequence[Call], x: Tensor) -> list[Tensor]:
    """Every call's output on a batch, flattened to `[n, d]`: copies."""
    kept: dict[int, Tensor] = {}

    def keep(i: int, _: Tensor, z: Tensor) -> None:
        kept[i] = z.flatten(1).clone()

    observe(model, calls, x, keep)
    return [kept[i] for i in range(len(calls))]


def passed(model: nn.Module, calls: Sequence[Call], x: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Every call's input and output on a batch, copies in the shapes they have."""
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(i: int, z: Tensor, output: Tensor) -> None:
        kept[i] = z, output.clone()

    observe(model, calls, x, keep, inputs=True)
    return kept


def _otherwise(name: str) -> ValueError:
    return ValueError(
        f"expected every forward pass to call {name} as the first one did, found one that does "
        f"not: networks whose way depends on the input cannot be compared layer by layer"
    )


def _kind(module: nn.Module) -> str:
    if isinstance(module, _LINEAR):
        return "linear"
    if isinstance(module, _ACTIVATIONS):
        return "activation"
    if next(module.children(), None) is None and not isinstance(module, _WITHOUT_EFFECT):
        return "other"
    return ""


def _named(named: dict[str, nn.Module], name: str) -> nn.Module:
    for there in (name, str(name).rpartition(":")[0]):
        if there in named:
            return named[there]
    raise UnknownNameError("layer", name, named)


def _name_of(named: dict[str, nn.Module], module: nn.Module) -> str:
    return next(name for name, other in named.items() if other is module)


def _probe(model: nn.Module, modules: dict[nn.Module, str], x: Tensor, lenient: bool) -> list[Call]:
    """All calls of these modules in their order; `lenient` leaves out others that do not fit."""
    found: list[tuple[nn.Module, int, int]] = []
    read: dict[str, int] = {}
    unfit: set[nn.Module] = set()

    def before(name: str, module: nn.Module, args: tuple, options: dict[str, Any]) -> None:
        try:
            read[name] = _only(name, args, options).numel()
        except TypeError:
            # only a matter where inputs are wanted
            read[name] = 0
            if lenient and _kind(module) == "other":
                unfit.add(module)

    def after(name: str, module: nn.Module, _: tuple, output: Any) -> None:
        try:
            found.append((module, read[name], _one_tensor(name, output, len(x)).numel()))
        except (TypeError, ValueError):
            if not (lenient and _kind(module) == "other"):
                raise
            unfit.add(module)

    with _hooked(model, modules.values(), before, after):
        model(x)
    found = [call for call in found if call[0] not in unfit]
    turns: dict[nn.Module, int] = {}
    total: dict[nn.Module, int] = {}
    for module, *_ in found:
        total[module] = total.get(module, 0) + 1
    calls = []
    for module, inputs, outputs in found:
        turn = turns[module] = turns.get(module, 0) + 1
        name = modules[module] if total[module] == 1 else f"{modules[module]}:{turn}"
        sizes = inputs // len(x), outputs // len(x)
        kind = _kind(module) or "other"
        calls.append(Call(name, modules[module], turn, total[module], kind, *sizes))
    return calls


def _wanted(
    layers: Sequence[str],
    modules: dict[nn.Module, str],
    named: dict[str, nn.Module],
    calls: Sequence[Call],
) -> list[Call]:
    """Those of the calls that were asked for."""
    there = {call.name: call for call in calls}
    kept = set()
    for name in layers:
        module = modules[_named(named, name)]
        several = [call.name for call in calls if call.module == module]
        if not several:
            raise ValueError(
                f"expected a forward pass to call the layer {name!r}, but it does not; name "
                f"another one"
            )
        canonical = module if name in named else f"{module}:{name.rpartition(':')[2]}"
        if canonical in there:
            kept.add(canonical)
        elif canonical == module:
            raise ValueError(
                f"expected a layer that is called once in a forward pass, found {name!r} called "
                f"{len(several)} times: name one of its calls, {', '.join(several)}"
            )
        else:
            raise UnknownNameError("call of a layer", name, several)
    return [call for call in calls if call.name in kept]


def _only(name: str, args: tuple, options: dict[str, Any]) -> Tensor:
    """The one tensor that a call is given."""
    values = (*args, *options.values())
    if len(values) != 1 or not isinstance(values[0], Tensor) or not values[0].is_floating_point():
        raise TypeError(
            f"expected the layer {name!r} to read one tensor of floating-point numbers and nothing "
            f"else, found {', '.join(_told(value) for value in values) or 'nothing'}"
        )
    return values[0]


def _told(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _one_tensor(name: str, output: Any, count: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"expected the layer {name!r} to put out one tensor, found {type(output).__name__}; "
            f"name a module inside it or after it"
        )
    if output.ndim < 2 or len(output) != count:
        raise ValueError(
            f"expected features [{count} samples, ...] from the layer {name!r}, found shape "
            f"{list(output.shape)}: the first axis must be that of the samples"
        )
    return output


@contextlib.contextmanager
def _hooked(
    model: nn.Module, names: Iterable[str], before: Callable, after: Callable
) -> Iterator[None]:
    """Within this context, in eval mode, the named modules call `before` and `after`."""
    with contextlib.ExitStack() as stack:
        # encoders that run in one fused kernel call none of their layers
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        for name in names:
            module = model.get_submodule(name)
            for hook in (
                module.register_forward_pre_hook(_bound(before, name), with_kwargs=True),
                module.register_forward_hook(_bound(after, name)),
            ):
                stack.callback(hook.remove)
        stack.enter_context(evaluating(model))
        yield


def _bound(hook: Callable, name: str) -> Callable:
    return lambda *arguments: hook(name, *arguments)
