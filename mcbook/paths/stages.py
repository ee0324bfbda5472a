"""In which order a network's layers lie on the way of the data: the stages of layer-wise paths.

The network runs once.  Where *everything* that the output still depends on is in one tensor, the
data flow can be cut; between two cuts lies a *unit*, which may branch inside: a residual block, an
attention, a tree of convolutions.  No rule knows an architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UnknownNameError
from ..symmetry.context import Call, Rule
from ..symmetry.examples import as_call, check_module, explained, make_example, tensors_in
from ..symmetry.tracing import follow

__all__ = ["check_stages", "flow_stages"]


@dataclass
class _Operation:
    """What one elementary operation read and wrote, by the number of the storage."""

    reads: set[int]
    writes: set[int]
    parameters: list[str]
    shape: tuple[int, ...]


@dataclass
class _Unit:
    """Parameters that lie between two cuts.

    Attributes:
        names: of the parameters, in order of use.
        shape: of what leaves the unit, without the batch axis.
        count: how many units this one was put together from.
        small: whether all of them are vectors: of a norm, or a bias.
    """

    names: list[str]
    shape: tuple[int, ...]
    small: bool
    count: int = 1

    def joined(self, other: _Unit) -> _Unit:
        """This one and the next as one."""
        return _Unit(
            [*self.names, *other.names],
            other.shape,
            self.small and other.small,
            self.count + other.count,
        )


class _Flow:
    """Records which operations lie between the input and the output.

    Tensors that share memory (views, in-place results) are one thing here.
    """

    def __init__(self, model: nn.Module, example: Any):
        self.module = ""
        self.operations: list[_Operation] = []
        self._alive: list[Tensor] = []  # the address of a storage is given again once it is gone
        # by storage: the name, and from where to where, since parameters may share one
        self._parameters: dict[int, list[tuple[str, int, int]]] = {}
        self._made: dict[int, list[str]] = {}  # by storage: what a weight is made of
        self._flowing: set[int] = set()
        self._known: set[str] = set()
        for name, p in model.named_parameters():
            self._parameters.setdefault(_storage(p), []).append((name, *_span(p)))
        for x in tree_leaves(as_call(example)):
            if isinstance(x, Tensor):
                self._alive.append(x)
                self._flowing.add(_storage(x))

    def is_constant(self, tensor: Tensor) -> bool:
        """Nothing has to be kept of what is written over."""
        return False

    def record(self, rule: Rule, name: str, call: Call) -> None:
        """Note what an operation read, and hand on what its results consist of."""
        del rule, name
        self._alive += [*call.inputs, *call.outputs]
        reads = {_storage(x) for x in call.inputs}
        writes = {_storage(x) for x in call.outputs}
        weights = [name for x in call.inputs for name in self._weights_of(x)]
        if not reads & self._flowing:
            for key in writes - self._parameters.keys():
                held = self._made.setdefault(key, [])
                held += [n for n in weights if n not in held]
            return
        self._flowing |= writes
        new = [n for n in dict.fromkeys(weights) if n not in self._known]
        self._known.update(new)
        shape = tuple(call.outputs[0].shape[1:]) if call.outputs else ()
        self.operations.append(_Operation(reads & self._flowing, writes, new, shape))

    def _weights_of(self, tensor: Tensor) -> list[str]:
        """The parameters that a tensor is a part of, or was made of."""
        key, (first, last) = _storage(tensor), _span(tensor)
        parts = self._parameters.get(key, [])
        read = [name for name, begin, end in parts if begin < last and first < end]
        return read + self._made.get(key, [])

    def record_in_place(self, rule: Rule, name: str, call: Call, old: Tensor | None) -> None:
        """The same: the tensor that was written into is read, and its storage is written."""
        self.record(rule, name, call)

    def units(self, outputs: Iterable[Tensor]) -> list[_Unit]:
        """What lies between the cuts, in the order of the data."""
        wanted = {_storage(x) for x in outputs}
        last_read: dict[int, int] = dict.fromkeys(wanted, len(self.operations))
        useful: list[tuple[int, _Operation]] = []
        for i in range(len(self.operations) - 1, -1, -1):
            operation = self.operations[i]
            if operation.writes & wanted:  # others lead nowhere
                wanted |= operation.reads
                useful.append((i, operation))
                for key in operation.reads:
                    last_read.setdefault(key, i)
        useful.reverse()
        units: list[_Unit] = []
        names: list[str] = []
        vectors = True
        born: set[int] = set()
        for i, operation in useful:
            names += operation.parameters
            born |= operation.reads | operation.writes
            live = [key for key in born if last_read.get(key, -1) > i]
            if len(live) == 1 and names:
                units.append(_Unit(names, operation.shape, vectors))
                names = []
        if names:
            units.append(_Unit(names, (), vectors))
        return units


def flow_stages(
    model: nn.Module, example: Any = None, most: int | None = 10
) -> list[tuple[str, ...]]:
    """The parameters of a network, in groups, from the input to the output.

    A tensor `v` of the forward pass is a *cut* if every way from the input to the output leads
    through it.  The parameters used between two neighbouring cuts are a unit: all its branches are
    done before anything behind it begins.  Units of vectors alone (norms, biases) go with the unit
    before them.  While there are more than `most`, the two neighbours that belong together most
    become one: those with the longest common beginning of their modules' names; among them, those
    between which the shape of the data does not change; then, those of the fewest units.

    Sources: Tian, Al-Ars, Kitsak, Hofstee, "Connecting Independently Trained Modes via Layer-Wise
    Connectivity" (2026), whose stages ("follow data flow") are written down for each architecture.
    That they are derived from the network is this package's own.

    Args:
        model: any module whose forward pass runs on one example.  It is not changed.
        example: as `trace_symmetry` takes it; networks made by mcbook need none.
        most: how many groups there may be; None for every unit on its own.

    Returns:
        The names of the parameters (tied ones once), each in exactly one group.  What the forward
        pass does not use is in the last.

    Raises:
        TraceError: when the forward pass fails, or tensors are not ordinary ones; says where.
        ValueError: when an example is needed and missing, or for `most` below 1.
    """
    check_module(model)
    if most is not None and most < 1:
        raise ValueError(f"expected at least 1 stage, found most = {most}")
    example = make_example(model, example)
    flow = _Flow(model, example)
    try:
        out = follow(model, flow, example)
    except Exception as error:
        raise explained(error, flow.module, "", example) from error
    units = flow.units(tensors_in(out))
    dimensions = {name: p.ndim for name, p in model.named_parameters()}
    for unit in units:
        unit.small = all(dimensions[name] < 2 for name in unit.names)
    whole: list[_Unit] = []
    for unit in units:
        if whole and (unit.small or all(u.small for u in whole)):
            whole[-1] = whole[-1].joined(unit)
        else:
            whole.append(unit)
    while most is not None and len(whole) > most:
        i = min(range(len(whole) - 1), key=lambda i: _strangeness(whole[i], whole[i + 1]))
        whole[i : i + 2] = [whole[i].joined(whole[i + 1])]
    used = {name for unit in whole for name in unit.names}
    unused = [name for name in dimensions if name not in used]
    if unused and not whole:
        return [tuple(unused)]
    groups = [tuple(unit.names) for unit in whole]
    groups[-1] += tuple(unused)
    return groups


def check_stages(
    stages: Sequence[Sequence[str]], names: Sequence[str], moved: Iterable[str] | None = None
) -> list[tuple[str, ...]]:
    """Stages written by hand: names of parameters or of modules, as names of parameters.

    Args:
        stages: in their order; a name that stands in two counts in the first.
        names: of all parameters of the network.
        moved: those that must be there; all when None.

    Raises:
        UnknownNameError: for a name of neither a parameter nor a module with parameters.
        ValueError: when parameters that must be there are in no stage, naming them; or for none.
    """
    if isinstance(stages, str) or any(isinstance(stage, str) for stage in stages):
        raise ValueError(
            f"expected stages as a list of lists of names, found {stages!r:.60}; a stage of one "
            f"module is [['conv1'], ...]"
        )
    modules = {".".join(n.split(".")[:k]) for n in names for k in range(1, n.count(".") + 1)}
    seen: set[str] = set()
    groups: list[tuple[str, ...]] = []
    for stage in stages:
        group: list[str] = []
        for wanted in stage:
            if wanted not in names and wanted not in modules:
                raise UnknownNameError("layer in stages", wanted, {*modules, *names})
            group += [
                n
                for n in names
                if (n == wanted or n.startswith(f"{wanted}.")) and n not in seen and n not in group
            ]
        seen.update(group)
        groups.append(tuple(group))
    missing = [name for name in (names if moved is None else moved) if name not in seen]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"expected every layer in some stage, found none for {', '.join(missing[:5])}{more}"
        )
    return groups


def _strangeness(one: _Unit, next_one: _Unit) -> tuple[int, bool, int]:
    """The less, the sooner two neighbours become one stage."""
    paths = [name.split(".")[:-1] for name in (*one.names, *next_one.names)]
    common = 0
    while all(len(p) > common and p[common] == paths[0][common] for p in paths):
        common += 1
    return -common, one.shape != next_one.shape, one.count + next_one.count


def _storage(tensor: Tensor) -> int:
    """The address of the memory a tensor lives in."""
    return tensor.untyped_storage()._cdata


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first entry of its storage that a tensor may read, and one behind the last."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    first = int(tensor.storage_offset())
    return first, first + 1 + sum(int((n - 1) * step) for n, step in steps)
