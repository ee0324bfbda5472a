"""Scaling and shifting the channels of layers: which layers, by how much, and into which weights.

The parts of REPAIR (`repair.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_leaves

from .errors import UnknownNameError
from .evaluation import evaluating
from .moments import Gauge

__all__ = ["Corrected", "Correction", "correctable", "fold_", "unfoldable", "unwrap_", "wrap_"]

# a channel whose variance is below this share of its mean square is constant up to rounding
_CONSTANT = 1e-10
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
# these give every channel by itself a mean and a standard deviation
_NORMS = (_BatchNorm, _InstanceNorm)


class Correction(nn.Module):
    """Scale and shift every channel: `z * scale + shift`.

    Until `settle` has been called with a target set, it gives back what it is given.

    Args:
        name: of the layer whose outputs are corrected, for messages.
        axis: the channels', counted from the end.

    Attributes:
        target: the mean and standard deviation that every channel is to have, float64 `[c]` each;
            None while there is nothing to correct to.
        mean: of every channel as it was measured, `[c]`.
        variance: likewise.
        scale: a buffer, `[c]` once settled.
        shift: likewise.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, name: str, axis: int):
        super().__init__()
        self.name, self.axis = name, axis
        self.target: tuple[Tensor, Tensor] | None = None
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    @property
    def gauge(self) -> Gauge:
        """What measures its input and settles it."""
        return Gauge(self, self.axis, self.settle)

    def settle(self, mean: Tensor, variance: Tensor) -> None:
        """Bring channels of this mean and variance to the target's.

        A channel that is constant up to rounding keeps its scale: it has no deviation that a
        factor could restore.

        Raises:
            ValueError: when the statistics are not finite.
        """
        if not bool((torch.isfinite(mean) & torch.isfinite(variance)).all()):
            raise ValueError(
                f"expected finite outputs of {self.name}, found NaN or infinite ones, which have "
                f"no mean and variance"
            )
        self.mean, self.variance = mean, variance
        if self.target is None:
            return
        goal, deviation = self.target
        m, v = mean.double(), variance.double()
        varies = v > _CONSTANT * (v + m.square())
        self.scale = torch.where(varies, deviation / torch.where(varies, v, 1).sqrt(), 1)
        self.shift = goal - m * self.scale

    def forward(self, z: Tensor) -> Tensor:
        """Correct `z`, in its precision or in float32 where that is more."""
        if self.scale.ndim == 0:
            return z
        shape = [1] * z.ndim
        shape[self.axis] = -1
        precision = torch.promote_types(z.dtype, torch.float32)
        scale, shift = (x.to(precision).view(shape) for x in (self.scale, self.shift))
        return torch.addcmul(shift, z.to(precision), scale).to(z.dtype)


class Corrected(nn.Module):
    """A module and the correction of its output; other attributes are the module's."""

    def __init__(self, module: nn.Module, correction: Correction):
        super().__init__()
        self.module, self.correction = module, correction
        # PyTorch's transformer layers take the weights and go round the module, but for hooks
        self.register_forward_pre_hook(_nothing)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The module's output, corrected."""
        corrected: Tensor = self.correction(self.module(*args, **kwargs))
        return corrected

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def _nothing(*_: object) -> None:
    """A hook without effect."""


def wrap_(model: nn.Module, name: str, correction: Correction) -> None:
    """Put a correction behind the module called `name`, wherever it is registered."""
    module = model.get_submodule(name)
    _replace(model, module, Corrected(module, correction))


def unwrap_(model: nn.Module, name: str) -> nn.Module:
    """Take away what `wrap_` put there; returns the module that it was put behind."""
    corrected = model.get_submodule(name)
    assert isinstance(corrected, Corrected)
    _replace(model, corrected, corrected.module)
    return corrected.module


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is old and parent is not new:
                parent._modules[key] = new


@torch.no_grad()
def fold_(layer: nn.Module, correction: Correction) -> None:
    """Write a correction into the weights of the layer before it.

    Of output channel `c`: `W'_c = scale_c W_c`, `b'_c = scale_c b_c + shift_c`.  A layer without a
    bias gets one.
    """
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    assert weight is not None
    scale, shift = correction.scale, correction.shift
    if isinstance(layer, _TRANSPOSED):
        # [in, out / groups, ...]: the groups lie behind one another along the inputs
        groups = layer.groups
        scales = scale.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).flatten(0, 1)
    else:
        scales = scale.view(-1, 1)
    weight.copy_(weight.double() * scales.view(*scales.shape, *[1] * (weight.ndim - 2)))
    if bias is None:
        layer.bias = nn.Parameter(shift.to(weight.dtype), weight.requires_grad)
    else:
        bias.copy_(bias.double() * scale + shift)


def unfoldable(model: nn.Module, name: str) -> str:
    """What keeps a correction from being folded into the layer called `name`; empty if nothing."""
    layer = model.get_submodule(name)
    if type(layer) not in _LAYERS:
        return f"that it is a {type(layer).__name__}, not a linear or convolutional layer"
    if "weight" not in layer._parameters:
        return "weights that are computed from others"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "hooks"
    own = {id(p) for p in layer.parameters()}
    for other_name, other in model.named_modules():
        if other is not layer and any(id(p) in own for p in other._parameters.values()):
            return f"weights that are also those of {other_name or 'the network'}"
    return ""


def correctable(
    model: nn.Module, x: Tensor, layers: Collection[str] | None, output: bool, fold: bool
) -> dict[str, int]:
    """The layers to correct in the order of the forward pass, each with its channels' axis.

    Args:
        model: any module.
        x: a few images to find out on.
        layers: names of modules; None finds them: the linear and convolutional layers that the
            forward pass calls, but for those whose output goes straight into batch or instance
            norm.
        output: when they are found, whether to take those whose output is the network's.
        fold: whether the corrections must fit into the layers' weights.

    Raises:
        TypeError: when `layers` is one name.
        UnknownNameError: for a module that is not there.
        ValueError: for a layer that is called never or more than once, that does not return one
            tensor, or, with `fold`, that a correction cannot be folded into.
    """
    modules = {name: m for name, m in model.named_modules() if name}
    if layers is None:
        names = [name for name, m in modules.items() if isinstance(m, _LAYERS)]
        uses = _uses(model, {name: modules[name] for name in names}, x)
        chosen = [
            name
            for name, use in uses.items()
            if use.calls and not use.normalized and (output or not use.returned)
        ]
    else:
        if isinstance(layers, str):
            raise TypeError(f"expected a list of names of layers, found one: {layers!r}")
        for name in layers:
            if name not in modules:
                raise UnknownNameError("layer", name, modules)
        uses = _uses(model, {name: modules[name] for name in layers}, x)
        chosen = list(uses)
    for name in chosen:
        if uses[name].calls != 1:
            raise ValueError(
                f"expected {name} to be called once in a forward pass, found {uses[name].calls} "
                f"calls, which one correction cannot serve"
            )
        why = unfoldable(model, name) if fold else ""
        if why:
            raise ValueError(
                f"expected {name} to have plain weights of its own, to fold the correction into "
                f"them, found {why}; fuse=False keeps the correction as a layer of its own"
            )
    return {name: _axis(modules[name], uses[name].axes) for name in chosen}


@dataclass
class _Use:
    """How a forward pass uses a module.

    Attributes:
        calls: how often it is called.
        axes: how many its output has.
        normalized: whether its output goes, unchanged, into a layer that normalises channels.
        returned: whether its output is, unchanged, the network's.
    """

    calls: int = 0
    axes: int = 0
    normalized: bool = False
    returned: bool = False


def _uses(model: nn.Module, modules: dict[str, nn.Module], x: Tensor) -> dict[str, _Use]:
    """How one forward pass uses the modules, in its order; those it does not use come last."""
    uses: dict[str, _Use] = {}
    # what works in place, such as a ReLU, makes another version of the same tensor
    made: dict[str, tuple[Tensor, int]] = {}

    def leave(name: str, out: object) -> None:
        if not isinstance(out, Tensor) or out.ndim < 2:
            found = f"{out.ndim} axes" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"expected {name} to return one tensor [n, c, ...], found {found}")
        use = uses.setdefault(name, _Use())
        use.calls, use.axes = use.calls + 1, out.ndim
        made[name] = out, out._version

    def is_same(name: str, y: object) -> bool:
        out, version = made[name]
        return y is out and out._version == version

    def normalize(args: tuple[Any, ...]) -> None:
        for name in made:
            uses[name].normalized |= any(is_same(name, y) for y in args)

    handles = [
        module.register_forward_hook(lambda _m, _a, out, name=name: leave(name, out))
        for name, module in modules.items()
    ]
    handles += [
        module.register_forward_pre_hook(lambda _, args: normalize(args))
        for module in model.modules()
        if isinstance(module, _NORMS)
    ]
    try:
        with evaluating(model):
            result = model(x)
    finally:
        for handle in handles:
            handle.remove()
    leaves: Iterable[object] = tree_leaves(result)
    for name in made:
        uses[name].returned = any(is_same(name, y) for y in leaves)
    return uses | {name: _Use() for name in modules if name not in uses}


def _axis(layer: nn.Module, axes: int) -> int:
    """The channels' axis, from the end, of an output with so many axes."""
    if isinstance(layer, nn.Linear):
        return -1
    if isinstance(layer, _LAYERS):
        return 1 - layer.weight.ndim
    return -1 if axes == 3 else 1 - axes  # tokens [n, tokens, c], or maps [n, c, ...]
