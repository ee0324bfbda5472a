"""Architectures by name, one family a file."""

from . import (  # noqa: F401  (each registers its architectures)
    cct,
    convnet,
    densenet,
    dla,
    efficientnet,
    lenet5,
    mlp,
    mobilenet,
    regnet,
    resnet,
    resnet18,
    shufflenet,
    tinyten,
    vgg,
)
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
