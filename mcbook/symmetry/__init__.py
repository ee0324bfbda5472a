"""Permutations of hidden units that leave a network's function unchanged.

| module | what |
|---|---|
| `permutations` | the algebra: compose, invert, apply |
| `tracing` | the symmetry of any module, derived from one run of its forward pass |
| `spec` | the result: which axes of which tensors belong to which space |
| `permuting` | a network with its units in another order |
| `verification` | does a spec hold? checked with numbers, with a control |
| `activations`, `flow`, `replaying` | where units show themselves in a run; what they do there |
| `handmade`, `storage`, `report` | specs written by hand, on disk, and as a table |
| `units`, `labels`, `movement`, `rules`, `probing`, `solving`, `group` | how the trace works |
"""

from .examples import TraceError
from .permutations import Permutation
from .permuting import permute
from .spec import PermutationSpec
from .tracing import trace_symmetry
from .verification import Verification

__all__ = [
    "Permutation",
    "PermutationSpec",
    "TraceError",
    "Verification",
    "permute",
    "trace_symmetry",
]
