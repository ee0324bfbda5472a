"""Where the tensors of a layer-wise walk are going at a tick, and on which spheres they stay."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .spheres import set_variance_, variance

__all__ = ["Course", "ToModel", "ToOrigin", "ToSpheres", "norm_parameters"]

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


class Course(ABC):
    """A rule of motion for all tensors.

    Attributes:
        conformal: see `ToOrigin`; None elsewhere.
    """

    conformal: str | None = None

    @abstractmethod
    def destination(self, i: int, now: Tensor) -> Tensor:
        """Where tensor `i` is going from where it is."""

    def targets(self, done: Sequence[float]) -> list[float] | None:
        """The variance of each tensor; None where it is free.

        Args:
            done: of each tensor, the part of its way that is behind it, in [0, 1].
        """
        del done
        return None

    def correct_(self, tensors: Sequence[Tensor], done: Sequence[float]) -> None:
        """Bring the tensors to their spheres, in place."""
        if (targets := self.targets(done)) is not None:
            set_variance_(tensors, targets)


class ToModel(Course):
    """To another network.

    Args:
        start: the tensors of A.
        end: those of B.
        sphere: `start` (that of A), `end` (of B), `interpolated`: the deviation `sqrt(v)` goes from
            A's to B's in step with the tensor's way; or `free`, for none.
    """

    def __init__(self, start: Sequence[Tensor], end: Sequence[Tensor], sphere: str):
        self._end, self._free = list(end), sphere == "free"
        at_a, at_b = ([math.sqrt(variance(x)) for x in xs] for xs in (start, end))
        self._from = at_b if sphere == "end" else at_a
        self._to = at_a if sphere == "start" else at_b

    def destination(self, i: int, now: Tensor) -> Tensor:
        """The tensor of B."""
        return self._end[i]

    def targets(self, done: Sequence[float]) -> list[float] | None:
        """`((1 - f) sqrt(v_A) + f sqrt(v_B))²`, unless they are free."""
        if self._free:
            return None
        return [
            ((1 - f) * v + f * w) ** 2 for f, v, w in zip(done, self._from, self._to, strict=True)
        ]


class ToOrigin(Course):
    """To the origin: `W ← (1 - α) W`; norm layers are kept in place, or pushed outward.

    Args:
        tensors: those of A.
        outward: of each tensor, whether it moves away from the origin instead, by the same step: in
            layer norm, so that activations keep their scale although the weights shrink.
        conformal: how the learning rate of a tensor follows its variance: `variance` for
            `η_k = η Var(W_k) / Var(A_k)`, `std` for the root of that, or None.  (In layers whose
            output does not depend on the scale of the weights, the gradient goes with `1 / ‖W‖`, so
            that the first keeps the angle of a step.)
        scaled: of each tensor, whether that applies to it.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        outward: Sequence[bool],
        conformal: str | None,
        scaled: Sequence[bool],
    ):
        self._outward, self._scaled = list(outward), list(scaled)
        self.conformal = conformal
        self._start = [variance(x) for x in tensors]

    def destination(self, i: int, now: Tensor) -> Tensor:
        """The origin, or as far on the other side."""
        return 2 * now if self._outward[i] else torch.zeros_like(now)

    def rates(self, tensors: Sequence[Tensor]) -> list[float]:
        """The factor of each tensor's learning rate."""
        power = {"variance": 1.0, "std": 0.5, None: 0.0}[self.conformal]
        return [
            (variance(x) / v) ** power if scaled and v > 0 else 1.0
            for x, v, scaled in zip(tensors, self._start, self._scaled, strict=True)
        ]


class ToSpheres(Course):
    """Each tensor to the length of B's, `W ‖B_k‖ / ‖W‖`, in whatever direction it points.

    Args:
        end: the tensors of B.
    """

    def __init__(self, end: Sequence[Tensor]):
        self._norms = [float(x.double().norm()) for x in end]

    def destination(self, i: int, now: Tensor) -> Tensor:
        """The tensor, as long as B's."""
        norm = float(now.double().norm())
        return now * (self._norms[i] / norm) if norm > 0 else now


def norm_parameters(model: nn.Module) -> dict[str, str]:
    """The parameters of normalisation layers, and of which kind each is.

    Returns:
        By the parameter's name, the name of the layer's class.
    """
    return {
        f"{prefix}.{name}" if prefix else name: type(module).__name__
        for prefix, module in model.named_modules()
        if isinstance(module, _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
