"""Facts a module carries beside its weights."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["annotate"]


def annotate(module: nn.Module, **facts: Any) -> None:
    """Let a module carry plain facts, such as `history`, that are neither weights nor modules.

    They are ordinary attributes, copied with the module; going round `nn.Module.__setattr__`
    keeps them out of everything PyTorch does with parameters and submodules.
    """
    vars(module).update(facts)
