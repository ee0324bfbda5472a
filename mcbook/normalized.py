"""The networks along a path, with their statistics put right in one of three ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .corrections import Correction
from .errors import UnknownNameError
from .normalization import has_batch_norm, measure_statistics_
from .paths.base import Path
from .repair import Repair

__all__ = ["NORMALIZATIONS", "Normalized", "check_normalization"]

NORMALIZATIONS = ("none", "reset", "repair")


def check_normalization(normalization: str | None, model: nn.Module) -> str:
    """The name of a way; None is `reset` where there is batch norm and `none` elsewhere.

    Raises:
        UnknownNameError: for another name.
    """
    if normalization is None:
        return "reset" if has_batch_norm(model) else "none"
    if normalization not in NORMALIZATIONS:
        raise UnknownNameError("normalization", normalization, NORMALIZATIONS)
    return normalization


class Normalized:
    """The networks along a path.

    Args:
        path: what to walk along.
        normalization: `none` interpolates batch-norm statistics like weights, `reset` measures
            them anew, `repair` corrects every unit (see `mcbook.repair`).
        images: to measure statistics on, on the path's device; `none` needs none.
        precision: what `reset` computes in, `float32` or `bfloat16`; the others take no notice.
    """

    def __init__(self, path: Path, normalization: str, images: Tensor, precision: str = "float32"):
        self._path, self._images, self._precision = path, images, precision
        self._reset = normalization == "reset"
        self._repair = Repair(path, images) if normalization == "repair" else None

    def at(self, t: float) -> tuple[nn.Module, dict[str, Correction]]:
        """A new module in eval mode, and the corrections it has, by layer."""
        if self._repair is not None:
            return self._repair.at(t)
        model = self._path.model_at(t)
        if self._reset:
            with torch.no_grad():
                measure_statistics_(model, self._images, precision=self._precision)
        return model, {}
