"""Paths through weight space: their evaluation, and the methods that find them."""

from .base import Path, load_path
from .linear import LinearPath

__all__ = ["LinearPath", "Path", "load_path"]
