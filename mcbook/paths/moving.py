"""A network that stands anywhere on a path: how finders compute losses and gradients there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import weights
from .base import Path

__all__ = ["Moving"]


class Moving:
    """A network in training mode that can be put at any mixture of a path's control points.

    All trained parameters of a control point are one row of a matrix, and those of the network are
    views of one vector: the network at `t` is one product of the coefficients with the matrix, and
    its gradient is one vector, too.

    Args:
        path: whose control points.

    Attributes:
        path: the same.
        model: the network; its weights are those of the last `to`.
        points: the trained parameters of the control points, `[k, n]`.
        point: where the network is, `[n]`.

    Raises:
        ValueError: for no trainable parameters, or trainable parameters of several types.
    """

    def __init__(self, path: Path):
        self.path = path
        self.model = path.model_at(0.0).train()
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("expected a network with trainable parameters, found none")
        types = {p.dtype for p in named.values()}
        if len(types) > 1:
            found = " and ".join(sorted(str(t).removeprefix("torch.") for t in types))
            raise ValueError(f"expected trainable parameters of one type, found {found}")
        self._named, self._parameters = list(named), list(named.values())
        self._sizes = [p.numel() for p in self._parameters]
        count = len(next(iter(path.control_points.values())))
        self.points = torch.cat(
            [path.control_points[name].reshape(count, -1) for name in named], dim=1
        )
        self.point = torch.empty_like(self.points[0])
        for p, part in zip(self._parameters, self.views(self.point), strict=True):
            p.data = part
        self._names = self._trained_names()
        self._others = self._following()

    def to(self, coefficients: Tensor) -> None:
        """Put the network at `Σ_i c_i P_i`.

        Args:
            coefficients: `[k]`, of the type and on the device of the points.
        """
        torch.mv(self.points.t(), coefficients, out=self.point)
        for name, x in self._others.items():
            p = self.path.control_points[name]
            x.copy_(torch.tensordot(coefficients.to(p), p, 1))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters of the network, tied ones once."""
        return list(self._parameters)

    @property
    def names(self) -> list[str]:
        """Their names, in the same order; of tied ones the first."""
        return list(self._named)

    def views(self, vector: Tensor) -> list[Tensor]:
        """A vector of all trained parameters, `[n]`, as one tensor each; they share its memory."""
        parts = vector.split(self._sizes)
        return [x.view(p.shape) for x, p in zip(parts, self._parameters, strict=True)]

    def others_to(self, t: float) -> None:
        """Put what is not trained but differs between the ends on the chord at `t`."""
        for name, x in self._others.items():
            p = self.path.control_points[name]
            x.copy_(torch.lerp(p[0], p[-1], t))

    def states(self, coefficients: Tensor) -> dict[str, Tensor]:
        """What the network is at several mixtures at once, for `torch.func.functional_call`.

        It can be differentiated with respect to `points`, and does not move the network.

        Args:
            coefficients: `[m, k]`, of the type and on the device of the points.

        Returns:
            By name, `[m, *shape]`: the trained parameters (tied ones under each of their names),
            and what else follows the path.
        """
        mixed = (coefficients @ self.points).split(self._sizes, dim=1)
        m = len(coefficients)
        states = {name: mixed[i].reshape(m, *self._parameters[i].shape) for name, i in self._names}
        for name in self._others:
            p = self.path.control_points[name]
            states[name] = torch.tensordot(coefficients.to(p), p, 1)
        return states

    def slope(self) -> Tensor:
        """The gradient that the last backward pass left, as one vector, `[n]`; taken away."""
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        for p in self._parameters:
            p.grad = None
        return torch.cat([g.reshape(-1) for g in slopes])

    def current(self, knots: Sequence[float] | None = None) -> Path:
        """The path through the points as they are now.

        Args:
            knots: where its control points are reached, if elsewhere than on `path`; what is not
                trained is then put on the chord there.
        """
        points = {name: p.clone() for name, p in self.path.control_points.items()}
        if knots is not None:
            for p in points.values():
                p[1:-1] = torch.stack([torch.lerp(p[0], p[-1], t) for t in knots[1:-1]])
        rows = self.points.split(self._sizes, dim=1)
        for name, i in self._names:
            points[name] = rows[i].reshape(points[name].shape).clone()
        return self.path._restored(self.path._template, points, knots or self.path.knots)

    def _trained_names(self) -> list[tuple[str, int]]:
        """The tensors that are trained, with the number of their parameter.

        Tied weights stand under each of their names.
        """
        numbers = {id(p): i for i, p in enumerate(self._parameters)}
        return [
            (name, numbers[id(x)])
            for name, x in self.model.state_dict(keep_vars=True).items()
            if id(x) in numbers
        ]

    def _following(self) -> dict[str, Tensor]:
        """What is not trained but differs between the control points: it follows the path.

        What batch norm stores is left out: in training mode it is not used.
        """
        stored = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in self.model.named_modules()
            if isinstance(module, _BatchNorm)
            for name, _ in module.named_buffers(recurse=False)
        }
        left_out = stored | {name for name, _ in self._names}
        points = self.path.control_points
        return {
            name: x
            for name, x in weights.of(self.model).items()
            if name in points
            and name not in left_out
            and bool((points[name] != points[name][0]).any())
        }
