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
from torch.nn.modules.batchnorm import _BatchNorm

from ..evaluation import evaluating
from ..paths.base import Path

__all__ = ["FirstLayer"]

# what the stored outputs of all control points may take
_MEMORY = 512 * 2**20
# more control points would cost more than they save
_MOST = 4
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Input(Exception):
    """Not an error: it carries a layer's input out of the forward pass."""


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

        It applies when the first linear or convolutional layer of a forward pass is called once,
        has no hooks, comes before any batch norm, and sees the same input, bit for bit, at every
        control point; when the stored outputs fit into memory; and when a trial inside the path
        agrees with the network itself.
        """
        count = len(next(iter(path.control_points.values())))
        model = path.model_at(0.0)
        name = _first_layer(model, x[:1])
        if name is None or count > _MOST:
            return None
        models = [model, *(path.model_at(0.0) for _ in range(count - 1))]
        for i, other in enumerate(models):
            point = {key: points[i] for key, points in path.control_points.items()}
            other.load_state_dict(point, strict=False)
        layers = [other.get_submodule(name) for other in models]
        outputs: list[Tensor] = []
        with torch.no_grad():
            for batch in x.split(batch_size):
                z, *others = (_input(other, name, batch) for other in models)
                if any(not torch.equal(z, other) for other in others):
                    return None
                if not outputs:
                    floats = count * layers[0](z[:1]).numel() * len(x)
                    if 4 * floats > _MEMORY:
                        return None
                outputs.append(torch.stack([layer(z) for layer in layers]))
        found = cls(name, outputs)
        return found if found._agrees(path, x[: min(2, batch_size)]) else None

    def replaying(self, model: nn.Module, coefficients: Tensor) -> nn.Module:
        """The model with its first layer replaced by the mixture with these coefficients.

        The other modules are the model's own, not copies.
        """
        self._module.coefficients = [float(c) for c in coefficients]
        return _shell(model, self.name, self._module)

    def turn_to(self, batch: int) -> None:
        """Which batch is about to be passed."""
        self._module.outputs = self.outputs[batch]

    def _agrees(self, path: Path, x: Tensor) -> bool:
        """Whether a replay inside the path gives what the network there gives."""
        t = 0.375
        model = path.model_at(t)
        self._module.outputs = self.outputs[0][:, : len(x)]
        with evaluating(model):
            expected = model(x)
            try:
                found = self.replaying(model, path.coefficients(t))(x)
            except AttributeError:  # the forward pass looks at the layer's own attributes
                return False
        scale = float(expected.abs().max())
        return torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


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


def _first_layer(model: nn.Module, x: Tensor) -> str | None:
    """The name of the first linear or convolutional layer, if it can be replayed."""
    names = {m: name for name, m in model.named_modules() if type(m) in _LAYERS and name}
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    called: list[nn.Module] = []
    handles = [m.register_forward_pre_hook(lambda m, _: called.append(m)) for m in (*names, *norms)]
    try:
        with evaluating(model):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not called or called[0] not in names or called.count(called[0]) > 1:
        return None
    first = called[0]
    return None if first._forward_hooks or first._forward_pre_hooks else names[first]


def _input(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """What the layer `name` is given when the model is given `x`."""

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise _Input(args[0])

    handle = model.get_submodule(name).register_forward_pre_hook(stop)
    try:
        with evaluating(model):
            model(x)
    except _Input as found:
        z: Tensor = found.args[0]
        return z
    finally:
        handle.remove()
    raise AssertionError(f"expected {name} to be called by every forward pass")
