"""The one way other libraries' models and data sets are imported."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from ..errors import UnknownNameError

__all__ = ["library"]

_LIBRARIES = ("timm", "torchvision", "vit_pytorch")
_kept: list[torch.library.Library] = []


def library(name: str) -> ModuleType:
    """Import `torchvision`, `timm` or `vit_pytorch`, also beside a torch without CUDA.

    A torchvision built for CUDA refuses to be imported beside a CPU-only torch, because the
    operators it compiled are then missing.  Nothing used here needs them: their schemas are
    declared, and the import is tried again.  Where the import works, nothing is changed.

    Raises:
        UnknownNameError: for another library.
        ModuleNotFoundError: when it is not installed, with the command that installs it.
    """
    if name not in _LIBRARIES:
        raise UnknownNameError("library", name, _LIBRARIES)
    try:
        # timm imports torchvision itself
        _import_torchvision()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is needed here and not installed ({error}): "
            f"pip install {name.replace('_', '-')}"
        ) from error


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        fragment.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        fragment.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(fragment)  # the schemas live as long as this object does
        importlib.import_module("torchvision")
