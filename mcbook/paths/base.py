"""What every path is: weights as a function of `t`, given by control points.

Finding a path is apart from evaluating it.  A path object holds *control points*, plain stacked
tensors, and knows the coefficients `c_i(t)` with which they are mixed:

    θ(t) = Σ_i c_i(t) P_i,    Σ_i c_i(t) = 1,    θ(0) = P_0 = A,    θ(1) = P_last = B.
"""

from __future__ import annotations

import copy
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path as File
from typing import Any, ClassVar, Self

import pandas as pd
import torch
from torch import Tensor, nn

from .. import weights
from ..errors import DamagedFileError, IncompatibleError
from ..saving import describe, read_tensors, rebuild, write_tensors

__all__ = ["Path", "Point", "load_path"]

#: a network, or the weights of one
Point = nn.Module | Mapping[str, Tensor]


class Path(ABC):
    """A path between two networks of one architecture.

    Args:
        a: the network at `t = 0`; its device and dtypes are the path's.
        control_points: for every floating-point tensor of `a`, its values at the control points,
            `[k, *shape]`; the first is A and the last is B.
        knots: the `t` where the path may bend, in [0, 1]; a profile always measures them.

    Attributes:
        control_points: as above.
        knots: as above, a tuple of increasing numbers from 0 to 1.
        history: what a finder noted on its way, a table; None where nothing was searched for.

    Raises:
        IncompatibleError: when a tensor is missing or has the wrong shape.
        ValueError: when weights are NaN or infinite, or the knots do not run from 0 to 1.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type[Path]]] = {}

    def __init_subclass__(cls, kind: str | None = None, **options: Any) -> None:
        """Make a class of paths known by the name it is saved under."""
        super().__init_subclass__(**options)
        if kind is not None:
            cls.kind = kind
            Path._kinds[kind] = cls

    def __init__(
        self, a: nn.Module, control_points: dict[str, Tensor], knots: Sequence[float] = (0.0, 1.0)
    ):
        start = weights.of(a)
        moving = {name: x for name, x in start.items() if x.is_floating_point()}
        weights.check_compatible(moving, {name: p[0] for name, p in control_points.items()})
        control_points = {name: control_points[name] for name in moving}  # in the order of A
        last = len(next(iter(control_points.values()))) - 1
        for i in range(last + 1):
            whose = {0: "A", last: "B"}.get(i, f"control point {i}")
            weights.check_finite({name: p[i] for name, p in control_points.items()}, whose)
        knots = tuple(float(t) for t in knots)
        if knots[0] != 0 or knots[-1] != 1 or any(s >= t for s, t in pairwise(knots)):
            raise ValueError(f"expected increasing knots from 0 to 1, found {list(knots)}")
        self.control_points, self.knots = control_points, knots
        self._fixed = {name: x.clone() for name, x in start.items() if name not in moving}
        self._order = list(start)
        self._template = copy.deepcopy(a).eval()
        vars(self._template).pop("history", None)  # of A alone
        self.history: pd.DataFrame | None = None

    @abstractmethod
    def coefficients(self, t: float) -> Tensor:
        """The `c_i(t)`: float64 `[k]`, summing to one; exact unit vectors at 0 and 1."""

    @abstractmethod
    def coefficient_velocities(self, t: float) -> Tensor:
        """The derivatives `c_i'(t)`: float64 `[k]`, summing to zero."""

    def elevated(self) -> Path:
        """The same curve, at every `t`, with one more control point.

        Raises:
            NotImplementedError: for a kind of paths that has no such form.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot take one more control point")

    def at(self, t: float) -> dict[str, Tensor]:
        """The weights at `t`: parameters and buffers, new tensors, on A's device, of A's dtype.

        Integer buffers (counters) are A's.

        Raises:
            ValueError: for a `t` outside [0, 1], or NaN.
        """
        c = self.coefficients(_checked(t))
        mixed = {name: _mix(c, points) for name, points in self.control_points.items()}
        return self._ordered(mixed)

    def velocity(self, t: float) -> dict[str, Tensor]:
        """The derivative dθ/dt at `t`, for every floating-point tensor.

        Raises:
            ValueError: for a `t` outside [0, 1], or NaN.
        """
        c = self.coefficient_velocities(_checked(t))
        return {name: _mix(c, points) for name, points in self.control_points.items()}

    def model_at(self, t: float) -> nn.Module:
        """A new module with the weights at `t`, in eval mode.

        Raises:
            ValueError: for a `t` outside [0, 1], or NaN.
        """
        model = copy.deepcopy(self._template)
        model.load_state_dict(self.at(t))
        return model

    def save(self, file: str | os.PathLike[str]) -> File:
        """Save the path; `load_path` reads it.

        Returns:
            The path of the file written.
        """
        tensors = {f"points.{name}": x for name, x in self.control_points.items()}
        tensors |= {f"fixed.{name}": x for name, x in self._fixed.items()}
        noted = None if self.history is None else json.loads(self.history.to_json(orient="split"))
        more, numbers = self._more()
        tensors |= {f"more.{name}": x for name, x in more.items()}
        header = {
            "path": self.kind,
            "knots": list(self.knots),
            **describe(self._template),
            "history": noted,
            "more": numbers,
        }
        return write_tensors(file, "path", tensors, header)

    def _more(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """More tensors and numbers that a kind of paths wants saved."""
        return {}, {}

    def _take(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:  # noqa: B027
        """What `_more` gave, from a file; nothing where it gives nothing."""

    @classmethod
    def _restored(
        cls, a: nn.Module, control_points: dict[str, Tensor], knots: Sequence[float]
    ) -> Self:
        """A path read from a file; a class with other arguments overrides this."""
        path = cls.__new__(cls)
        Path.__init__(path, a, control_points, knots)
        return path

    def _ordered(self, moving: dict[str, Tensor]) -> dict[str, Tensor]:
        fixed = self._fixed
        return {
            name: moving[name] if name in moving else fixed[name].clone() for name in self._order
        }

    def __repr__(self) -> str:
        """Kind, number of control points and of weights."""
        count = sum(p[0].numel() for p in self.control_points.values())
        points = len(next(iter(self.control_points.values())))
        return f"{type(self).__name__}(control points={points}, weights={count})"


def load_path(file: str | os.PathLike[str], model: nn.Module | None = None) -> Path:
    """Load a path that `Path.save` saved, on the CPU.

    Args:
        file: what to read.
        model: a module of the endpoints' architecture, needed when `build_model` did not make
            the endpoints; it is not changed.

    Raises:
        FileNotFoundError: when there is no such file.
        DamagedFileError: when the file is not a whole saved path.
        IncompatibleError: when it does not fit `model`, or `model` is needed and missing.
    """
    tensors, header = read_tensors(file, "path")
    if header["path"] not in Path._kinds:
        raise DamagedFileError(
            f"{file}: expected a path of kind {' or '.join(sorted(Path._kinds))}, "
            f"found {header['path']!r}"
        )
    parts: dict[str, dict[str, Tensor]] = {"points": {}, "fixed": {}, "more": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise DamagedFileError(f"{file}: expected tensors of a path, found {name!r}")
        parts[part][rest] = tensor
    start = {name: p[0] for name, p in parts["points"].items()} | parts["fixed"]
    noted, numbers = header.pop("history"), header.pop("more", {})
    a = rebuild(start, {**header, "history": None}, model, str(file))
    path = Path._kinds[header["path"]]._restored(a, parts["points"], header["knots"])
    if noted is not None:
        path.history = pd.DataFrame(noted["data"], columns=noted["columns"])
    path._take(parts["more"], numbers)
    return path


def stack_endpoints(a: nn.Module, b: nn.Module) -> dict[str, Tensor]:
    """The floating-point tensors of two networks, stacked: control points of a straight line.

    Raises:
        IncompatibleError: naming the first tensor that differs.
    """
    start, end = weights.of(a), weights.of(b)
    try:
        weights.check_compatible(start, end)
    except IncompatibleError as error:
        raise IncompatibleError(f"no path joins these networks: {error}") from error
    return {
        name: torch.stack([x, end[name].to(x)])
        for name, x in start.items()
        if x.is_floating_point()
    }


def stack_controls(
    a: nn.Module,
    b: nn.Module,
    bends: int | Sequence[Point],
    knots: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """The floating-point tensors of A, the bends and B, stacked.

    Args:
        a: at the beginning.
        b: at the end.
        bends: in between; or how many, placed on the chord.
        knots: where on the chord, the ends included; evenly spaced when None.

    Raises:
        IncompatibleError: naming the first tensor that differs, and in which bend.
        ValueError: for fewer than one bend.
    """
    ends = stack_endpoints(a, b)
    count = bends if isinstance(bends, int) else len(bends)
    if count < 1:
        raise ValueError(f"expected at least 1 bend, found {count}")
    if isinstance(bends, int):
        inner = knots[1:-1] if knots is not None else [k / (count + 1) for k in range(1, count + 1)]
        return {
            name: torch.stack([p[0], *(torch.lerp(p[0], p[1], t) for t in inner), p[1]])
            for name, p in ends.items()
        }
    given = [weights.of(x) if isinstance(x, nn.Module) else x for x in bends]
    start = {name: p[0] for name, p in ends.items()}
    for i, bend in enumerate(given, 1):
        try:
            weights.check_compatible(
                start, {name: x for name, x in bend.items() if x.is_floating_point()}
            )
        except IncompatibleError as error:
            raise IncompatibleError(f"bend {i} (called B here) does not fit: {error}") from error
    return {
        name: torch.stack([p[0], *(bend[name].to(p) for bend in given), p[1]])
        for name, p in ends.items()
    }


def _checked(t: float) -> float:
    t = float(t)
    if math.isnan(t) or not 0 <= t <= 1:
        raise ValueError(f"expected t in [0, 1], found {t}")
    return t


def _mix(c: Tensor, points: Tensor) -> Tensor:
    """`Σ_i c_i P_i` in the points' dtype, as `S P_j + Σ_i c_i (P_i - P_j)`, `S = Σ_i c_i`.

    `j` has the largest `c`.  Written so, unit vectors pick a point exactly, and where all points
    are equal the path stands still, exactly.  `S` is 1 on a path, and 0 for its velocity.
    """
    j = int(c.argmax())
    nearest = points[j]
    mixed = nearest * round(float(c.sum()))
    for i, ci in enumerate(c.tolist()):
        if ci != 0 and i != j:
            mixed = mixed.add_(points[i] - nearest, alpha=ci)
    return mixed
