"""Architectures by name, one family a file."""

from . import convnet, lenet5, mlp, resnet, tinyten, vgg  # noqa: F401  (each registers its architectures)
from .library import library
from .registry import build_from, build_model, describe_models, list_models, register

__all__ = [
    "build_from",
    "build_model",
    "describe_models",
    "library",
    "list_models",
    "register",
]
