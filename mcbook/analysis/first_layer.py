"""The first layer of every network along a path, computed once.

A linear or convolutional layer is linear in its weights and bias.  So along a path
`θ(t) = Σ_i c_i(t) P_i` the first layer's output on fixed images is `Σ_i c_i(t) z_i`, with `z_i` its
output at control point `i`: two matrix products, however many points are then measured.  In a
perceptron on images the first layer is about half of the work.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..evaluation import evaluating
from ..paths.base import Path

__all__ = ["FirstLayer"]

# what the stored outputs of all control points may take
_MEMORY = 512 * 2**20


class _Recorder(Exception):
    """Not an error: it carries the first layer's name and input out of the forward pass."""


class FirstLayer:
    """The first layer's outputs at the control points, and a module that mixes them.

    Args:
        name: the layer's name in the model.
        outputs: for each batch, the outputs at the control points, `[k, n, ...]`.
    """

    def __init__(self, name: str, outputs: list[Tensor]):
        self.name, self.outputs = name, outputs
        self._module = _Replay()

    @classmethod
    def of(cls, path: Path, x: Tensor, batch_size: int) -> FirstLayer | None:
        """The first layer of the path's networks on images `x`; None where the idea does not apply.

        It applies when the first linear or convolutional layer a forward pass calls is called once
        and sees the same input, bit for bit, at every control point, and when the stored outputs
        fit into memory.
        """
        count = len(next(iter(path.control_points.values())))
        if count > 4:
            return None
        models = []
        for i in range(count):
            model = path.model_at(0.0)
            model.load_state_dict(
                {name: points[i] for name, points in path.control_points.items()}, strict=False
            )
            models.append(model)
        found = [_first_call(model, x[:2]) for model in models]
        if any(call is None for call in found):
            return None
        names = {call[0] for call in found if call is not None}
        inputs = [call[1] for call in found if call is not None]
        if len(names) > 1 or any(not torch.equal(inputs[0], z) for z in inputs[1:]):
            return None
        name = names.pop()
        if _calls(models[0], name, x[:2]) != 1:
            return None
        layers = [model.get_submodule(name) for model in models]
        with torch.no_grad():
            size = layers[0](inputs[0]).numel() // 2
            if 4 * size * count * len(x) > _MEMORY:
                return None
            outputs = []
            for batch in x.split(batch_size):
                call = _first_call(models[0], batch)
                assert call is not None
                outputs.append(torch.stack([layer(call[1]) for layer in layers]))
        return cls(name, outputs)

    def replaying(self, model: nn.Module, coefficients: Tensor) -> nn.Module:
        """The model with its first layer replaced by the mixture with these coefficients.

        The other modules are the model's own, not copies.
        """
        self._module.coefficients = [float(c) for c in coefficients]
        return _shell(model, self.name, self._module)

    def turn_to(self, batch: int) -> None:
        """Which batch is about to be passed."""
        self._module.outputs = self.outputs[batch]


class _Replay(nn.Module):
    """Gives the mixed outputs instead of computing them."""

    coefficients: list[float]
    outputs: Tensor

    def forward(self, x: Tensor) -> Tensor:
        c = self.coefficients
        if len(c) == 2:  # exact at both ends, as the path itself
            return torch.lerp(self.outputs[0], self.outputs[1], c[1])
        return torch.tensordot(torch.tensor(c).to(self.outputs), self.outputs, dims=1)


def _shell(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Shallow copies of the modules on the way to `name`, where `module` stands instead."""
    shell = copy.copy(model)
    shell._modules = dict(model._modules)
    head, _, rest = name.partition(".")
    child = model._modules[head]
    assert child is not None
    shell._modules[head] = _shell(child, rest, module) if rest else module
    return shell


def _calls(model: nn.Module, name: str, x: Tensor) -> int:
    """How often a forward pass calls the layer `name`."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = model.get_submodule(name).register_forward_pre_hook(count)
    try:
        with evaluating(model):
            model(x)
    finally:
        handle.remove()
    return calls


def _first_call(model: nn.Module, x: Tensor) -> tuple[str, Tensor] | None:
    """The name and input of the first linear or convolutional layer a forward pass calls."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    names = {m: name for name, m in model.named_modules() if type(m) in kinds}
    if not names:
        return None

    def record(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise _Recorder(names[layer], args[0])

    handles = [layer.register_forward_pre_hook(record) for layer in names]
    try:
        with evaluating(model):
            model(x)
    except _Recorder as found:
        name, z = found.args
        return name, z
    finally:
        for handle in handles:
            handle.remove()
    return None
