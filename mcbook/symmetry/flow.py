"""Which tensors of a forward pass depend on the input, and where they meet weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from .context import Call, storage_of
from .rules import contraction, convolution, lookup

__all__ = ["PRODUCTS", "Flow"]

#: matrix products: PyTorch chooses among them by shape and memory
PRODUCTS = {*contraction.RULES, "linear", "matmul"}
# operations in which an activation may meet a weight
_COUNTED = {
    *PRODUCTS,
    *convolution.RULES,
    *lookup.RULES,
    *(name for name, _ in contraction.WHOLE.values()),
}


class Flow:
    """Which tensors depend on the input, and how many counted operations there have been.

    Counted is an operation that can multiply by a weight, or one that no rule knows, when some of
    its arguments depend on the input and some do not.  Other operations are free to differ from
    one batch size or kernel to the next (`contiguous` does nothing to a batch of one).

    Args:
        example: the input.
    """

    def __init__(self, example: Any):
        self.operations: list[tuple[str, str]] = []
        self._depends: dict[int, bool] = {}
        self._held: list[StorageWeakRef] = []
        for x in tree_leaves(example):
            if isinstance(x, Tensor):
                self._set(x, True)

    def _set(self, x: Tensor, depends: bool) -> None:
        number = storage_of(x)
        if number not in self._depends and number != id(x):
            # no other memory gets its number while this lives; the memory itself may go
            self._held.append(StorageWeakRef(x.untyped_storage()))
        self._depends[number] = depends

    def depends(self, x: Tensor) -> bool:
        """Whether a tensor depends on the input."""
        return self._depends.get(storage_of(x), False)

    def among(self, call: Call) -> list[Tensor]:
        """The arguments of an operation that depend on the input."""
        return [x for x in call.inputs if self.depends(x)]

    def count(self, name: str, module: str, call: Call) -> int | None:
        """The number of an operation; None for one that is not counted."""
        if name not in _COUNTED and call.func not in contraction.WHOLE:
            schema = getattr(call.func, "_schema", None)
            if schema is None or schema.name.startswith(("aten::", "prims::")):
                return None
        if not 0 < len(self.among(call)) < len(call.inputs):
            return None
        self.operations.append((name, module))
        return len(self.operations) - 1

    def mark(self, call: Call) -> None:
        """What comes out of an operation depends on the input if something that went in did."""
        depends = bool(self.among(call))
        for x in call.outputs:
            self._set(x, depends)
