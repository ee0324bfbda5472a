"""Arithmetic on weights: mappings from parameter and buffer names to tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from .errors import IncompatibleError

__all__ = ["check_compatible", "check_finite", "distance", "dot", "interpolate", "of", "ravel"]

Weights = Mapping[str, Tensor]


def of(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a module: every parameter and buffer by name, detached, not copied.

    A tensor that the module uses under two names (tied weights) appears under both.  What is no
    tensor (a module's extra state) is left out.
    """
    return {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
    }


def check_compatible(a: Weights, b: Weights) -> None:
    """Refuse two sets of weights that are not of one architecture.

    Raises:
        IncompatibleError: naming the first tensor, in the order of A, that differs in being
            there, in shape or in kind (floating point or integer).
    """
    for name, tensor in a.items():
        if name not in b:
            raise IncompatibleError(
                f"expected two networks of one architecture, but {name} "
                f"{list(tensor.shape)} of A is not in B"
            )
        if tensor.shape != b[name].shape:
            raise IncompatibleError(
                f"expected two networks of one architecture, but {name} is "
                f"{list(tensor.shape)} in A and {list(b[name].shape)} in B"
            )
        if tensor.is_floating_point() != b[name].is_floating_point():
            raise IncompatibleError(
                f"expected two networks of one architecture, but {name} is "
                f"{tensor.dtype} in A and {b[name].dtype} in B"
            )
    for name, tensor in b.items():
        if name not in a:
            raise IncompatibleError(
                f"expected two networks of one architecture, but {name} "
                f"{list(tensor.shape)} of B is not in A"
            )


def check_finite(weights: Weights, whose: str) -> None:
    """Refuse weights with NaN or infinite entries.

    Args:
        weights: what to look at.
        whose: whose weights they are, for the message.

    Raises:
        ValueError: naming the first such tensor and how many entries are not finite.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise ValueError(
                f"expected finite weights, found {bad} NaN or infinite entries of "
                f"{tensor.numel()} in {name} of {whose}"
            )


def interpolate(a: Weights, b: Weights, t: float) -> dict[str, Tensor]:
    """The point `(1 - t) a + t b` on the line, exactly `a` at 0 and exactly `b` at 1.

    Integer tensors (counters) have no middle: they are A's.  B is brought to A's device and dtype.

    Args:
        a: weights at 0.
        b: weights at 1, with the same names and shapes.
        t: the weight of `b`; any real number.

    Raises:
        IncompatibleError: see `check_compatible`.
    """
    check_compatible(a, b)
    return {
        name: torch.lerp(x, b[name].to(x), t) if x.is_floating_point() else x.clone()
        for name, x in a.items()
    }


def ravel(weights: Weights) -> Tensor:
    """All floating-point entries as one vector, tensors in their order."""
    parts = [tensor.reshape(-1) for tensor in weights.values() if tensor.is_floating_point()]
    if not parts:
        raise ValueError("expected at least one floating-point tensor, found none")
    return torch.cat(parts)


def dot(a: Weights, b: Weights, names: Iterable[str] | None = None) -> float:
    """The inner product `Σ a_i b_i` over floating-point entries, summed in float64.

    Args:
        a: weights.
        b: weights of the same names and shapes.
        names: only these tensors; all when None.

    Raises:
        IncompatibleError: see `check_compatible`.
        KeyError: for a name that is not there.
    """
    return math.fsum(float(torch.dot(x, y)) for x, y in _vectors(a, b, names))


def distance(a: Weights, b: Weights, names: Iterable[str] | None = None) -> float:
    """The Euclidean distance `sqrt(Σ (a_i - b_i)²)` over floating-point entries, in float64.

    Buffers that are given count like parameters; `names` leaves them out (a profile's distances
    are over parameters alone).

    Args:
        a: weights.
        b: weights of the same names and shapes.
        names: only these tensors; all when None.

    Raises:
        IncompatibleError: see `check_compatible`.
        KeyError: for a name that is not there.
    """
    return math.sqrt(math.fsum(float((x - y).square().sum()) for x, y in _vectors(a, b, names)))


def _vectors(
    a: Weights, b: Weights, names: Iterable[str] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The chosen floating-point tensors of both, as float64 vectors on A's devices."""
    check_compatible(a, b)
    for name in a if names is None else names:
        x = a[name]
        if x.is_floating_point():
            yield x.reshape(-1).double(), b[name].reshape(-1).to(x.device).double()
