"""Aligning networks: the hidden units of B reordered to resemble those of A."""

from .activation_matching import activation_matching
from .alignment import Alignment
from .many_models import match_many
from .proximal import proximal_alternating
from .straight_through import straight_through
from .weight_matching import weight_matching

__all__ = [
    "Alignment",
    "activation_matching",
    "match_many",
    "proximal_alternating",
    "straight_through",
    "weight_matching",
]
