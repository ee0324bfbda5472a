"""Paths through weight space: their evaluation, and the methods that find them."""

from .base import Path, load_path
from .bezier import BezierPath
from .linear import LinearPath
from .polychain import PolychainPath

__all__ = ["BezierPath", "LinearPath", "Path", "PolychainPath", "load_path"]
