"""Does a spec hold?  Checked with numbers, in float64, with a control.

A check on a fresh network can pass for the wrong reason: where weights are constant (norm layers,
layer scale) or hardly reach the output, a wrong permutation changes nothing either.  So the check
runs on a copy whose weights and statistics are random, measures the change relative to the spread
of the outputs, and has a control: when one tensor of a space moves *alone*, the outputs must
change.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from .. import weights
from ..errors import IncompatibleError, expect
from .examples import as_call, batch_of, copied, is_one_row, make_example, tensors_in
from .freezing import without
from .group import cells
from .parts import Slots
from .randomising import PERIOD, randomise
from .spec import PermutationSpec

__all__ = ["Verification", "verified", "verify"]

#: The largest change, relative to the spread of the outputs, that rounding explains.
TOLERANCE, TRAIN_TOLERANCE = 1e-10, 1e-8
#: So many times above the error must the control lie.
MARGIN = 1e6
#: How many elements of the group are tried; fewer where the network is large (has more weights):
#: two, and one where every cell has so many units that chance cannot hide a mistake.
TURNS, LARGE, MANY = 4, 5_000_000, 12
#: A change that needs no further tensor to be tried.
ENOUGH = 1e-3
#: How many inputs (statistics of few numbers amplify rounding, and units may be dead on a few);
#: in eval mode fewer where the network is large.
BATCH, FEW = 8, 2


@dataclass(frozen=True)
class Verification:
    """What a check of a spec found.

    Attributes:
        error: the largest change of an output when all spaces are permuted at once, relative to
            the spread of the outputs; eval mode, float64.
        train_error: the same in train mode, where batch norm uses the statistics of the batch;
            NaN for a network without batch norm.
        control: the smallest change, over the spaces, when one tensor of a space moves alone.
        table: a row for each space: `space`, `units`, `nested`, `control`, and `verified`, which is
            `yes`, `no` (its permutation changed the outputs), or `not verifiable` (moving one of
            its tensors alone did not).
        spec: the spec without the spaces that failed.
        precision: `float64`, or the network's own where it cannot run in that.
    """

    error: float
    train_error: float
    control: float
    table: pd.DataFrame
    spec: PermutationSpec
    precision: str = "float64"

    @property
    def passed(self) -> bool:
        """Whether every space is verified."""
        return bool((self.table["verified"] == "yes").all())

    @property
    def failed(self) -> list[str]:
        """The spaces whose permutation changed the outputs."""
        return self.table.loc[self.table["verified"] == "no", "space"].tolist()

    def __repr__(self) -> str:
        """Without the table."""
        counts = self.table["verified"].value_counts().to_dict()
        said = ", ".join(f"{n} {what}" for what, n in counts.items()) or "no spaces"
        return (
            f"Verification({said}; error {self.error:.1e}, train {self.train_error:.1e}, "
            f"control {self.control:.1e})"
        )


def verify(
    spec: PermutationSpec, model: nn.Module, example: Any = None, seed: int = 0
) -> Verification:
    """Check that permuting the units of a spec leaves the network's function unchanged.

    On a float64 copy with random parameters and statistics: permute all spaces at once by a random
    element of the group, then by swaps of two units in each space, then by two more random elements
    (in large networks only as far as small spaces need it), and compare the outputs for random
    inputs, in eval mode and (with batch norm, once) in train mode.  If they differ, each space is
    tried by itself, and those that fail are frozen in the spec that is returned.  Then the control,
    space by space.

    Args:
        spec: the spec.
        model: the network; it is not changed.
        example: as in `trace_symmetry`.
        seed: of the random weights, inputs and permutations.

    Raises:
        IncompatibleError: when the spec is not of this network.
        ValueError: when an example is needed and missing.
    """
    expect(model, nn.Module, "a torch.nn.Module")
    spec.check(weights.of(model))
    check = _Check(spec, model, make_example(model, example), seed)
    failed: dict[str, str] = {}
    errors = check.errors(spec)
    while not check.good(errors) and spec.spaces:
        bad = check.failing(spec, list(spec.spaces)) or list(spec.spaces)  # only together?
        failed |= dict.fromkeys(bad, "no")
        # a failing space inside blocks may be the blocks' fault: these go first
        outer = [n for n in bad if n not in spec.nested] or bad
        spec = without(spec, {spec.space(n): "failed the check" for n in outer})
        errors = check.errors(spec)
    check.lighten()
    rows: list[tuple[str, float, bool, float, str]] = []
    for name, size in spec.spaces.items():
        control = check.control(spec, name)
        good = control > check.margin * max(errors[0], check.rounding)
        rows.append((name, size, name in spec.nested, control, "yes" if good else "not verifiable"))
    rows += [(name, np.nan, False, np.nan, "no") for name in failed if name not in spec.spaces]
    table = pd.DataFrame(rows, columns=["space", "units", "nested", "control", "verified"])
    control = float(table["control"].min()) if len(table) else math.nan
    found = Verification(*errors, control, table, spec, check.precision)
    return replace(found, spec=replace(spec, verification=found))


def verified(spec: PermutationSpec, model: nn.Module, example: Any = None) -> PermutationSpec:
    """The spec with what a check found, without the spaces that failed it."""
    return verify(spec, model, example).spec


class _Check:
    """A random float64 copy of a network, its inputs and its outputs."""

    def __init__(self, spec: PermutationSpec, model: nn.Module, example: Any, seed: int):
        self.seed = seed
        try:
            self._prepare(spec, model, example, torch.float64)
        except (RuntimeError, TypeError, IncompatibleError):
            # its forward pass has constants of another precision
            own = next((p.dtype for p in model.parameters()), torch.float32)
            self._prepare(spec, model, example, own)

    def _prepare(
        self, spec: PermutationSpec, model: nn.Module, example: Any, dtype: torch.dtype
    ) -> None:
        """Make the copy, draw its weights, and run it."""
        self.dtype, self.light = dtype, False
        self.precision = str(dtype).removeprefix("torch.")
        # what rounding does grows with the depth, by the same factor in every precision
        self.rounding = torch.finfo(dtype).eps
        scale = self.rounding / torch.finfo(torch.float64).eps
        self.tolerances = min(TOLERANCE * scale, 1e-2), min(TRAIN_TOLERANCE * scale, 1e-1)
        self.margin = MARGIN if dtype == torch.float64 else 10.0
        # large weights get other values at once: copying theirs would only take time
        large = {
            id(p): nn.Parameter(torch.empty(p.shape, dtype=dtype, device=p.device))
            for name, p in model.named_parameters()
            if name in spec.slots and p.numel() > PERIOD
        }
        self.model = copied(model, large).to(dtype).eval()
        self.model.requires_grad_(False)
        self.norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        self.tensors = {
            name: x
            for name, x in self.model.state_dict(keep_vars=True).items()
            if name not in spec.aliases and isinstance(x, Tensor)
        }
        size = sum(x.numel() for x in self.tensors.values() if isinstance(x, Tensor))
        smallest = min((cells(c.parents, c.size).min() for c in spec.classes), default=0)
        self.turns = TURNS if size < LARGE else 1 if smallest >= MANY else 2
        randomise(self.model, spec, self.tensors, self.seed)
        self.inputs = self._inputs(example)
        self._calibrate()
        self.one, self.few = (
            tree_map(lambda x, like, n=n: x[:n] if is_one_row(like) else x, self.inputs, example)
            for n in (1, BATCH if self.turns == TURNS else FEW)
        )
        self.one_out, self.few_out = self.run(self.one), self.run(self.few)
        self.train_out = self.run(self.inputs, train=True) if self.norms else []

    def _inputs(self, example: Any) -> Any:
        """Several random inputs, or fewer where the network takes no more."""
        for size, like in ((BATCH, False), (2, False), (1, False), (BATCH, True), (1, True)):
            inputs = batch_of(example, size, self.seed, self.dtype, like)
            try:
                with torch.no_grad():
                    args, kwargs = as_call(inputs)
                    out = tensors_in(self.model(*args, **kwargs))
            except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
                failure: Exception | None = error
                continue
            failure = None
            if any(bool(x.isfinite().any()) for x in out if _is_number(x)):
                return inputs
        said = f": {failure}" if failure else ", whose outputs would be finite"
        raise IncompatibleError(f"the network does not run in {self.precision} on random inputs "
                                f"like its example{said}") from failure  # fmt: skip

    @cached_property
    def all_out(self) -> list[Tensor]:
        """The outputs for all inputs; asked for only while no tensor is moved."""
        return self.run(self.inputs)

    def run(self, inputs: Any, train: bool = False) -> list[Tensor]:
        """The outputs; in train mode only batch norm is, and its statistics are put back."""
        args, kwargs = as_call(inputs)
        kept = [(m, copy.deepcopy(m._buffers)) for m in self.norms] if train else []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for norm in self.norms:
                norm.training = train
            try:
                out = self.model(*args, **kwargs)
            finally:
                for norm in self.norms:
                    norm.training = False
                for norm, buffers in kept:
                    for name, x in buffers.items():
                        if x is not None:
                            norm.get_buffer(name).copy_(x)
        return [x.detach().clone() for x in tensors_in(out) if _is_number(x)]

    def _calibrate(self) -> None:
        """Statistics near those of the random weights: else signals fade layer by layer."""
        if not self.norms:
            return
        generator = torch.Generator().manual_seed(self.seed + 1)
        args, kwargs = as_call(self.inputs)
        momenta = [norm.momentum for norm in self.norms]
        with torch.no_grad():
            for norm in self.norms:
                norm.momentum, norm.training = 1.0, True
            try:
                self.model(*args, **kwargs)
            finally:
                for norm, momentum in zip(self.norms, momenta, strict=True):
                    norm.momentum, norm.training = momentum, False
            for norm in self.norms:
                if norm.running_mean is None or norm.running_var is None:
                    continue
                n = len(norm.running_mean)
                shift, scale = (torch.rand(n, generator=generator, dtype=torch.float64)
                                for _ in range(2))  # fmt: skip
                # one value a channel in the batch gives no variance: take 1
                norm.running_var.copy_(
                    torch.where(norm.running_var > 1e-12, norm.running_var, 1.0)
                    * (0.75 + 0.5 * scale).to(norm.running_var)
                )
                spread = norm.running_var.sqrt()
                norm.running_mean.add_((0.2 * shift - 0.1).to(spread) * spread)

    def lighten(self, dtype: torch.dtype = torch.float32) -> None:
        """Go on in another precision: for the control, single is enough and far quicker."""
        self.light = dtype != self.dtype
        self.model.to(dtype)
        self.tensors = {n: self.model.state_dict(keep_vars=True)[n] for n in self.tensors}
        self.one, self.inputs = (
            tree_map(lambda x: x.to(dtype) if _is_number(x) and not x.is_complex() else x, inputs)
            for inputs in (self.one, self.inputs)
        )
        vars(self).pop("all_out", None)
        try:
            self.one_out = self.run(self.one)
        except RuntimeError:  # a network for one precision only
            if self.light:
                self.lighten(self.dtype)

    def good(self, errors: tuple[float, float]) -> bool:
        """Whether changes are no more than rounding."""
        tolerance, train_tolerance = self.tolerances
        error, train_error = errors
        return error <= tolerance and (math.isnan(train_error) or train_error <= train_tolerance)

    def failing(self, spec: PermutationSpec, names: list[str]) -> list[str]:
        """Which of some spaces change the outputs, by halving."""
        if self.good(self.errors(spec, names)):
            return []
        if len(names) == 1:
            return names
        half = len(names) // 2
        return self.failing(spec, names[:half]) + self.failing(spec, names[half:])

    def errors(
        self, spec: PermutationSpec, spaces: Sequence[str] | None = None
    ) -> tuple[float, float]:
        """The relative changes when spaces (all, when None) are permuted: eval, train."""
        error, train = 0.0, 0.0 if self.norms else math.nan
        for turn in range(self.turns if spec.spaces else 0):
            # one element may lie in the true group by chance, where spaces are small
            p = spec.random(self.seed + 7 + turn, spaces, restless=True)
            if turn == 1 and spaces is None:
                p = spec.swaps(self.seed)
            element = spec.element(p)
            with _moved(spec, element, {name: self.tensors[name] for name in spec.slots}):
                error = max(error, _change(self.few_out, self.run(self.few)))
                if self.norms and turn == 0:
                    train = _change(self.train_out, self.run(self.inputs, train=True))
            if not self.good((error, train)):
                break
        return error, train

    def control(self, spec: PermutationSpec, name: str) -> float:
        """The relative change when one tensor of a space moves alone: the smallest tensors first.

        Where a space has one tensor only (the rows of queries and keys in one matrix), the first
        position of every unit moves alone.
        """
        change = self._control(spec, name)
        if change <= ENOUGH and self.light:  # look again, as exactly as there is
            self.lighten(self.dtype)
            change = self._control(spec, name)
        return change

    def _control(self, spec: PermutationSpec, name: str) -> float:
        element = spec.element(spec.random(self.seed + 7, [name], restless=True))
        own = sorted(spec.tensors_of(name), key=lambda tensor: math.prod(spec.shapes[tensor]))
        half = replace(spec, slots={tensor: _first_only(spec.slots[tensor]) for tensor in own})
        tries = [(spec, tensor) for tensor in (own[:3] if len(own) > 1 else [])]
        tries += [(half, tensor) for tensor in own[:2]]
        change = 0.0
        # one input is quick, and enough unless the units happen to be dead on it
        for inputs in (self.one, self.inputs):
            before = self.one_out if inputs is self.one else self.all_out
            for moving, tensor in tries:
                with _moved(moving, element, {tensor: self.tensors[tensor]}):
                    change = max(change, _change(before, self.run(inputs)))
                if change > ENOUGH:
                    return change
        return change


def _first_only(parts: Sequence[Slots]) -> list[Slots]:
    """Only the first position of each unit; the others stay."""
    return [replace(part, units=np.where(part.rank == 0, part.units, -1)) for part in parts]


class _moved:
    """Some tensors with their units permuted, for the length of a `with` block."""

    def __init__(self, spec: PermutationSpec, element: np.ndarray, tensors: Mapping[str, Tensor]):
        self.spec, self.element, self.tensors = spec, element, tensors
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> None:
        for name, x in self.tensors.items():
            self.kept.append((x, x.data))
            x.data = self.spec.moved(name, x.detach(), self.element)

    def __exit__(self, *_: object) -> None:
        for x, data in self.kept:
            x.data = data


def _is_number(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def _change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest difference of two outputs over the spread of the first."""
    found = 0.0
    for x, y in zip(before, after, strict=True):
        if x.numel() == 0:
            continue
        finite = x.isfinite()
        if not torch.equal(finite, y.isfinite()):
            return math.inf
        x, y = x[finite], y[finite]
        if x.numel() == 0:
            continue
        spread = float(x.std()) if x.numel() > 1 else float(x.abs())
        size = float((x - y).abs().max())
        found = max(found, size / spread if spread > 0 else (math.inf if size else 0.0))
    return found if math.isfinite(found) else math.inf
