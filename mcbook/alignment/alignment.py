"""What every method of alignment returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import weights
from ..errors import IncompatibleError, expect
from ..symmetry.permutations import Permutation
from ..symmetry.permuting import permute
from ..symmetry.spec import PermutationSpec
from ..symmetry.tracing import trace_symmetry

__all__ = ["Alignment", "aligned", "check_networks"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """B with its hidden units reordered to resemble A: the same function, other weights.

    Attributes:
        model: π(B), a new module in eval mode.
        permutation: slot `i` of a space takes unit `p[i]` of B.
        objective: what the method maximises, first where it started, then after each accepted step.
        method: its name.
        facts: what else the method has to say, by name.
    """

    model: nn.Module
    permutation: Permutation
    objective: list[float]
    method: str
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The method, what moved, and how far the objective came."""
        p = self.permutation
        return (
            f"Alignment({self.method}: {p.moved} of {sum(p.sizes.values())} units moved, "
            f"objective {self.objective[0]:.4g} → {self.objective[-1]:.4g})"
        )


def aligned(
    b: nn.Module,
    p: Permutation,
    spec: PermutationSpec,
    objective: Sequence[float],
    method: str,
    **facts: Any,
) -> Alignment:
    """The alignment with this permutation of B."""
    return Alignment(permute(b, p, spec).eval(), p, list(objective), method, facts)


def check_networks(
    models: Sequence[nn.Module], spec: PermutationSpec | None, example: Any = None
) -> PermutationSpec:
    """The spec of some networks that are to be aligned; refuses what cannot be.

    Args:
        models: at least two networks of one architecture.
        spec: of that architecture; traced from the first network when None.
        example: an input for the trace.

    Raises:
        TypeError: for something that is no module, or no spec.
        ValueError: for fewer than two networks, or weights that are not finite.
        IncompatibleError: for networks of different architectures, or a spec of another one.
    """
    if len(models) < 2:
        raise ValueError(f"expected at least two networks to align, found {len(models)}")
    for model in models:
        expect(model, nn.Module, "a torch.nn.Module")
    names = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    first = weights.of(models[0])
    for i, model in enumerate(models):
        own = weights.of(model)
        if i:
            weights.check_compatible(first, own)
        # constants may be infinite: the masks of attention are
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        counted = {n: x for n, x in own.items() if n in parameters or (spec and n in spec.slots)}
        weights.check_finite(counted, names[i] if i < len(names) else f"network {i}")
    if spec is None:
        spec = trace_symmetry(models[0], example)
    expect(spec, PermutationSpec, "a PermutationSpec, as trace_symmetry gives it")
    spec.check(first)
    if not spec.spaces:
        raise IncompatibleError(
            f"expected a network with hidden units that can be permuted, found none in "
            f"{spec.model}; str(spec) says why"
        )
    return spec


def one_device(models: Sequence[nn.Module]) -> torch.device:
    """The device of the first network's weights: where the others' are brought."""
    return next(iter(weights.of(models[0]).values())).device
