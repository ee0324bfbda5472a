"""A network with its hidden units in another order."""

from __future__ import annotations

import pandas as pd
import torch
from torch import nn

from .. import weights
from ..errors import expect
from .examples import copied
from .permutations import Permutation
from .spec import PermutationSpec
from .tracing import trace_symmetry

__all__ = ["permute"]


def permute(model: nn.Module, p: Permutation, spec: PermutationSpec | None = None) -> nn.Module:
    """A network with its hidden units in another order: the same function, other weights.

        W'[i, :] = W[p[i], :] where a space is produced,  W'[:, i] = W[:, p[i]] where it is read,

    and in the same way every bias, norm and running statistic of the space.

    Args:
        model: any module; it is not changed.
        p: slot `i` of a space takes unit `p[i]`.
        spec: of the network; traced from it when None.

    Returns:
        A new module, in the same mode, with the same flags.

    Raises:
        IncompatibleError: when spec or permutation are not of this network.
    """
    expect(model, nn.Module, "a torch.nn.Module")
    if spec is None:
        spec = trace_symmetry(model)
    expect(spec, PermutationSpec, "a PermutationSpec, as trace_symmetry gives it")
    moved = spec.apply(weights.of(model), p)
    new = copied(model)
    for parameter in new.parameters():
        parameter.grad = None
    with torch.no_grad():
        for name, tensor in weights.of(new).items():
            tensor.copy_(moved[name])
    if isinstance(getattr(new, "history", None), pd.DataFrame):
        vars(new).pop("history")  # that of another order of the units
    return new
