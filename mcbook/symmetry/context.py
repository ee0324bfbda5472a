"""What a rule is given: the trace so far, and one operation with its arguments and result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .labels import Axes, Label, Operand
from .units import Ids, Units

__all__ = ["Call", "Recorder", "Rule", "Trace", "storage_of"]


#: operations whose result is their argument as it is
SAME = ("detach", "alias", "lift_fresh", "lift", "contiguous", "resolve_conj", "resolve_neg")
READ_OUT = (
    "the forward pass reads numbers out of its tensors (item() or the like): this is the symmetry "
    "of the way it took for this example"
)
#: how reports speak of operations
WORDS = {
    **dict.fromkeys(["linear", "addmm", "mm", "bmm", "matmul", "mv", "baddbmm"], "linear layer"),
    **dict.fromkeys(["native_batch_norm", "cudnn_batch_norm"], "batch norm"),
    "native_layer_norm": "layer norm",
    "native_group_norm": "group norm",
    "_fused_rms_norm": "RMS norm",
    "cat": "concatenation",
    "stack": "concatenation",
    "constant_pad_nd": "padding",
    "add": "addition",
    "mul": "multiplication",
    "_softmax": "softmax",
    "view": "reshaping",
    "_unsafe_view": "reshaping",
    "_weight_norm_interface": "weight norm",
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
    "_scaled_dot_product_flash_attention": "attention",
    "_scaled_dot_product_efficient_attention": "attention",
}


class Call:
    """One operation: what it is, what it was given, what came out.

    Attributes:
        func: the operation.
        args: its positional arguments.
        kwargs: its other arguments.
        out: its result.
    """

    def __init__(self, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any):
        self.func, self.args, self.kwargs, self.out = func, tuple(args), dict(kwargs), out

    @cached_property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments, in order."""
        return [x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]

    @cached_property
    def outputs(self) -> list[Tensor]:
        """All tensors of the result, in order."""
        return [x for x in tree_leaves(self.out) if isinstance(x, Tensor)]

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by place or by name."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)


class Recorder(Protocol):
    """What sees the operations of a network while it runs (`tracing.follow`).

    Attributes:
        module: the path of the module that is running; it is told.
    """

    module: str

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor depends neither on weights nor on the input."""

    def record(self, rule: Rule, name: str, call: Call) -> None:
        """An operation has just been computed."""

    def record_in_place(self, rule: Rule, name: str, call: Call, old: Tensor | None) -> None:
        """The same for one that wrote into its first argument, a constant `old` before."""


class Trace:
    """The labels of all tensors while a network runs, and the facts that are noted.

    Attributes:
        units: the facts.
        weights: the tensors of the network that have units: by name, the tensor and its label.
        notes: what a reader should know of this trace.
        vectors: the buffers among the weights that may be statistics, or constants.
        operations: the names of all operations that touched weights or the input, in order.
        module: the path of the module that is running.
    """

    def __init__(self, model: nn.Module):
        self.units = Units()
        self.weights: dict[str, tuple[Tensor, Label]] = {}
        self.notes: list[str] = []
        self.vectors: set[str] = set()
        self.operations: list[str] = []
        self.module = ""
        self._buffers = {id(x): name for name, x in model.named_buffers()}
        self._parameters = {id(x): name for name, x in model.named_parameters()}
        self._labels: dict[int, Label] = {}
        self._used: set[int] = set()
        self._written: set[int] = set()  # storages of constants that were written into
        self._before: dict[int, Tensor] = {}  # constants as they were before they were written into
        self._holders: dict[int, set[int]] = {}  # which tensors share a storage
        self._first: dict[int, int] = {}  # of a tensor that is another as it is (`detach`): which
        self._alive: list[Any] = []  # the number of an object is given again once it is gone
        for name, parameter in model.named_parameters():
            self._own(name, parameter)
        kept = model.state_dict(keep_vars=True)
        for name, buffer in model.named_buffers():
            if name in kept and _goes_with_units(buffer):
                self._own(name, buffer)
                self.vectors.add(name)

    def _own(self, name: str, tensor: Tensor) -> None:
        """Give a weight units, one for each position on each of its axes."""
        fresh: dict[Axes, Ids] = {
            (a,): self.units.fresh([n]) for a, n in enumerate(tensor.shape) if n > 1
        }
        self.weights[name] = (tensor, Label(fresh))
        self.put(tensor, self.weights[name][1])

    def put(self, tensor: Tensor, label: Label) -> None:
        """Say what the label of a tensor is."""
        self._labels[id(tensor)] = label
        self._alive.append(tensor)

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor depends neither on weights nor on the input."""
        return id(tensor) not in self._labels and storage_of(tensor) not in self._written

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is itself a parameter or a statistic."""
        return id(tensor) in self._parameters or id(tensor) in self._buffers

    def label(self, tensor: Tensor) -> Label:
        """The label of a tensor; one without units where nothing is known of it."""
        return self._labels.get(id(tensor), Label())

    def operand(self, tensor: Tensor) -> Operand:
        """A tensor as the algebra of labels takes it."""
        value = self._before.get(id(tensor), tensor) if self.is_constant(tensor) else None
        return Operand(tuple(tensor.shape), self.label(tensor), value)

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    def statistic(self, tensor: Tensor | None) -> None:
        """A buffer turned out to be a running statistic: it moves with its channels."""
        if tensor is not None and self.is_constant(tensor) and id(tensor) in self._buffers:
            self._own(self._buffers[id(tensor)], tensor)

    def relabel(self, tensor: Tensor, label: Label) -> bool:
        """Give a parameter other units, if nothing has used it yet; returns whether it did."""
        if id(tensor) not in self._parameters or id(tensor) in self._used:
            return False
        self.weights[self._parameters[id(tensor)]] = (tensor, label)
        self.put(tensor, label)
        return True

    def pin(self, *tensors: Tensor | None) -> None:
        """Pin every unit of some tensors."""
        for tensor in tensors:
            if tensor is not None:
                for x in self.label(tensor).arrays.values():
                    self.units.pin(x)

    def contracted(
        self, terms: Sequence[Sequence[str]], tensors: Sequence[Tensor], labels: Sequence[Label]
    ) -> None:
        """A rule is about to contract these tensors, with a letter for each of their axes.

        Nothing follows from that for the symmetry; `activations.py` wants to know.
        """

    def record(self, rule: Rule, name: str, call: Call) -> None:
        """Apply a rule to an operation that has just been computed."""
        labels = self._apply(rule, name, call)
        for tensor, label in zip(call.outputs, labels, strict=True):
            if label is None:
                self._alive.append(tensor)
            else:
                self.put(tensor, label)

    def is_shared(self, tensor: Tensor) -> bool:
        """Whether other tensors of the trace hold the same memory."""
        return len(self._holders.get(storage_of(tensor), set()) | {self._one(tensor)}) > 1

    def _one(self, tensor: Tensor) -> int:
        """The number of a tensor, the same for all that are it under another name."""
        return self._first.get(id(tensor), id(tensor))

    def record_in_place(self, rule: Rule, name: str, call: Call, old: Tensor | None) -> None:
        """The same for an operation that wrote its result into its first argument.

        Args:
            rule: of the operation.
            name: of the operation.
            call: the operation.
            old: a copy of the first argument from before, where that is a constant.
        """
        target = call.args[0]
        before, was_constant = self.label(target), self.is_constant(target)
        if old is not None:
            self._before[id(target)] = old
        (label,) = self._apply(rule, name, call)
        self._before.pop(id(target), None)
        if label is None:
            return
        if self.is_shared(target):
            # others look at the same memory: what they know of it has to stay true
            for axes, x in label.arrays.items():
                if axes not in before.arrays:
                    self.units.pin(x)
            label = Label({axes: label.arrays.get(axes, x) for axes, x in before.arrays.items()})
        if was_constant:
            self._written.add(storage_of(target))
        self.put(target, label)
        for other, first in self._first.items():
            if first == self._one(target):
                self._labels[other] = label
        self._labels[self._one(target)] = label

    def _said(self, name: str, inputs: Sequence[Tensor]) -> str:
        """The operation, with what it is for where that can be seen."""
        features = [x for x in inputs if self.label(x) and not self.is_weight(x)]
        if len(features) > 1 and name in ("add", "mul"):
            return {"add": "residual addition", "mul": "gate"}[name]
        return WORDS.get(name, name.strip("_").replace("_", " "))

    def unread(self) -> list[tuple[str, Any]]:
        """Units of weights that no operation touched: rows that this example did not reach."""
        touched = [x for x, _ in self.units.seen] + [x for x, _, _ in self.units.pinned]
        touched += [part for x, y, _ in self.units.ones + self.units.blocks for part in (x, y)]
        mark = np.zeros(self.units.count, bool)
        for x in touched:
            mark[x] = True
        return [
            (name, x[~mark[x]])
            for name, (_, label) in self.weights.items()
            for x in label.arrays.values()
            if not mark[x].all()
        ]

    def _apply(self, rule: Rule, name: str, call: Call) -> list[Label | None]:
        """The labels of the outputs; None for constants."""
        inputs, outputs = call.inputs, call.outputs
        self._alive.append((inputs, outputs))
        if name in SAME:
            self._first[id(outputs[0])] = self._one(inputs[0])
        for x in (*inputs, *outputs):
            self._holders.setdefault(storage_of(x), set()).add(self._one(x))
        if all(self.is_constant(x) and id(x) not in self._buffers for x in inputs):
            return [None] * len(outputs)
        self.operations.append(name)
        self.units.because(self._said(name, inputs), self.module)
        if not outputs:  # a number or a truth value for Python to decide by
            self.pin(*inputs)
            self.note(READ_OUT)
            return []
        found = rule(self, call)
        self._used.update(map(id, inputs))
        labels: list[Label | None]
        labels = [found] * len(outputs) if isinstance(found, Label) else list(found)
        if all(map(self.is_constant, inputs)):  # a buffer is a constant until it is a statistic
            return [None] * len(outputs)
        return labels


Rule = Callable[[Trace, Call], Label | Sequence[Label | None]]


def _goes_with_units(buffer: Tensor) -> bool:
    """Whether a buffer holds a number for each unit, as running statistics do.

    Vectors do (statistics of a norm that is frozen, averages), and what is the same everywhere now
    and may not be later (a mask before pruning).  Tables that vary (sinusoids) are constants.
    """
    if not buffer.is_floating_point() or buffer.numel() < 2:
        return False
    long = [n for n in buffer.shape if n > 1]
    return len(long) == 1 or bool((buffer == buffer.reshape(-1)[0]).all())


def storage_of(tensor: Tensor) -> int:
    """A number for the memory of a tensor, the same for all its views."""
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:  # sparse and the like have none
        return id(tensor)
