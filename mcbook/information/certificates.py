"""What a length proves: no path can be shorter than the bound, and errors along it are bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..analysis.profiles import statistics_images
from ..data import Data
from ..errors import IncompatibleError, expect
from ..normalization import has_batch_norm, reset_batch_norm
from ..normalized import check_normalization
from ..paths.base import Path
from ..progress import Bar
from .distances import fisher_distance, js_divergence, log_probabilities
from .fisher import nodes_of, said_along

__all__ = ["Certificate", "certify", "fisher_lower_bound", "js_lower_bound"]


def fisher_lower_bound(a: nn.Module, b: nn.Module, x: Tensor, batch_size: int = 2048) -> float:
    """The least Fisher-Rao length that any path from A to B can have.

        LB = √( E_x[ d(p_A(x), p_B(x))² ] ),    d(p, q) = 2 arccos Σ_y √(p_y q_y).

    Each input's distribution has to travel at least `d`, whatever happens to the weights; the mean
    over inputs is inside of the root, as in the length, and Minkowski's inequality does the rest.
    The bound depends on the two functions alone: no permutation of B's units changes it, and the
    two networks need not even have the same architecture.

    Args:
        a: a network.
        b: another.
        x: the inputs of the mean, `[n, c, h, w]`.
        batch_size: how many images at once.

    Returns:
        The bound, in the unit of `fisher_length`; at most π.  Batch-norm statistics are
        re-estimated on `x`, as `fisher_length` does it.

    Raises:
        IncompatibleError: when the networks have different numbers of classes.
        ValueError: for no images.
        FloatingPointError: when a network gives NaN.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a = mc.build_model("mlp", data, seed=0)
        >>> mc.fisher_lower_bound(a, a, data.test.x)
        0.0
    """
    lp, lq = _both(a, b, x, batch_size)
    return math.sqrt(float(fisher_distance(lp, lq).square().mean()))


def js_lower_bound(a: nn.Module, b: nn.Module, x: Tensor, batch_size: int = 2048) -> float:
    """The least `js_length` that any path can have: `√( E_x JSD(p_A(x), p_B(x)) )`.

    It holds since the root of the mean is a metric, as `√JSD` is (Endres and Schindelin 2003).

    Args and errors: as for `fisher_lower_bound`.
    """
    lp, lq = _both(a, b, x, batch_size)
    return math.sqrt(float(js_divergence(lp, lq).mean()))


def _both(a: nn.Module, b: nn.Module, x: Tensor, batch_size: int) -> list[Tensor]:
    said = []
    for model in (a, b):
        if has_batch_norm(model):
            model = reset_batch_norm(model, x)
        said.append(log_probabilities(model, x, batch_size))
    if said[0].shape != said[1].shape:
        raise IncompatibleError(
            f"expected networks with the same number of classes, found {said[0].shape[1]} and "
            f"{said[1].shape[1]}"
        )
    return said


@dataclass(frozen=True, eq=False)
class Certificate:
    """The length of a path, at most how far from the shortest it is, and what it guarantees.

    With `L_x` the length of the path of one input's distribution, `y` its label, and the angles
    `ψ_A(x) = arccos √p_A(y | x)` and `ψ_B(x)`, every network on the path, at its nodes, has

        E_x[ 1 - p_t(y | x) ]  ≤  E_x sin²( min(π/2, (ψ_A + ψ_B) / 2 + L_x / 4) ).

    The distribution at `t` lies within `s / 2` of A's, as an angle, and within `(L_x - s) / 2` of
    B's, if `s` of the length is behind it; the angle to the label's corner is at most the smaller
    of `ψ_A + s / 2` and `ψ_B + (L_x - s) / 2`, and the smaller of two numbers is at most their
    mean.

    Attributes:
        table: a row for each node `t`: `arc`, the Fisher length so far; `loss` (mean
            cross-entropy, nats), `error` (`E_x[1 - p(y | x)]`), `accuracy`; `error_bound`, the
            bound on `error` from the lengths before and behind `t`.
        length: the Fisher-Rao length of the path.
        bound: the least any path between its ends can have.
        energy: `Σ_i E_x d_i² / (t_{i+1} - t_i)`, at least the square of the length.
        lengths: `L_x` of every input, `[n]`.
        distances: `d(p_A(x), p_B(x))` of every input, `[n]`: never above `lengths`.
        error_bound: the right side above.
        certified_accuracy: the share of inputs of which the lengths alone prove that *every*
            network on the path classifies them correctly: `(ψ_A + ψ_B) / 2 + L_x / 4 < π / 4`, so
            that `p_t(y | x) > 1/2`.
        split: which images.
    """

    table: pd.DataFrame
    length: float
    bound: float
    energy: float
    lengths: np.ndarray
    distances: np.ndarray
    error_bound: float
    certified_accuracy: float
    split: str

    @property
    def ratio(self) -> float:
        """`length / bound`: at least 1; 1 for a path no other can beat, and for no way to go."""
        if self.bound == 0:
            return 1.0 if self.length == 0 else math.inf
        return self.length / self.bound

    @property
    def speeds(self) -> pd.DataFrame:
        """The mean speed between neighbouring nodes: columns `t` (the middle) and `speed`."""
        t, arc = self.table["t"].to_numpy(), self.table["arc"].to_numpy()
        return pd.DataFrame({"t": (t[1:] + t[:-1]) / 2, "speed": np.diff(arc) / np.diff(t)})

    @property
    def unevenness(self) -> float:
        """The coefficient of variation of the speed over `t`, `√(E[v²] - E[v]²) / E[v]`.

        0 at constant speed, and for a path that stands still.
        """
        if self.length == 0:
            return 0.0
        return math.sqrt(max(0.0, self.energy - self.length**2)) / self.length

    @property
    def worst_error(self) -> float:
        """The largest `error` of a node: what `error_bound` bounds."""
        return float(self.table["error"].max())

    def __repr__(self) -> str:
        """Length, bound, ratio and the two guarantees."""
        return (
            f"Certificate({self.split}: length {self.length:.3g}, bound {self.bound:.3g}, ratio "
            f"{self.ratio:.3g}; error along the path at most {self.error_bound:.3g}, found "
            f"{self.worst_error:.3g}; {self.certified_accuracy:.1%} certified)"
        )


def certify(
    path: Path,
    data: Data,
    points: int = 61,
    split: str = "train",
    normalization: str | None = None,
    batch_size: int = 2048,
    progress: bool = True,
) -> Certificate:
    """Measure the Fisher length of a path, its lower bound, and what the length guarantees.

    Args:
        path: any path.
        data: whose images and labels; brought to the path's device if they are elsewhere.
        points: of the uniform grid on [0, 1]; the path's knots are added to it.
        split: `train` or `test`.
        normalization: what to do with batch-norm statistics: see `mcbook.profile`.
        batch_size: how many images at once; the result does not depend on it.
        progress: whether to show a bar.

    Returns:
        See `Certificate`; all in float64, but for the networks themselves.

    Raises:
        TypeError: when `path` is not a Path or `data` not a Data.
        UnknownNameError: for an unknown split or normalization.
        ValueError: for fewer than 2 points, or no images.
        FloatingPointError: when a network on the path gives NaN.
    """
    nodes = nodes_of(path, points)
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    part = data.split(split)
    check_normalization(normalization, path.model_at(0.0))
    y = part.y
    said = said_along(path, part.x, nodes, normalization, statistics_images(data), batch_size)
    steps: list[Tensor] = []
    ends: list[Tensor] = []
    rows: list[dict[str, float]] = []
    with Bar(len(nodes), "certificate", progress) as bar:
        for lp in said:
            y = y.to(lp.device)
            if ends:
                steps.append(fisher_distance(ends[-1], lp))
            ends = [*ends[:1], lp]
            own = lp.gather(1, y[:, None])[:, 0]
            rows.append(
                {
                    "loss": float(-own.mean()),
                    "error": float(-own.expm1().mean()),  # 1 - p, exact for small errors
                    "accuracy": float((lp.argmax(1) == y).double().mean()),
                }
            )
            bar.advance()
    return _certified(nodes, torch.stack(steps), rows, (ends[0], ends[-1]), y, split)


def _certified(
    nodes: Sequence[float],
    steps: Tensor,
    rows: list[dict[str, float]],
    ends: tuple[Tensor, Tensor],
    y: Tensor,
    split: str,
) -> Certificate:
    """The certificate, from the distance of every input in every step, `[nodes - 1, n]`."""
    squares = steps.square().mean(1)
    gaps = torch.tensor(nodes, dtype=torch.float64).diff().to(squares)
    arc = torch.cat([squares.new_zeros(1), squares.sqrt().cumsum(0)])
    behind = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])  # s of every input
    lengths = behind[-1]
    right_angle = math.pi / 2
    psi_a, psi_b = (_angle(lp, y) for lp in ends)
    near = torch.minimum(psi_a + behind / 2, psi_b + (lengths - behind) / 2)
    angle = (psi_a + psi_b) / 2 + lengths / 4
    table = pd.DataFrame(rows)
    table.insert(0, "t", nodes)
    table.insert(1, "arc", arc.tolist())
    table["error_bound"] = near.clamp(max=right_angle).sin().square().mean(1).tolist()
    distances = fisher_distance(*ends)
    return Certificate(
        table=table,
        length=float(arc[-1]),
        bound=math.sqrt(float(distances.square().mean())),
        energy=float((squares / gaps).sum()),
        lengths=lengths.cpu().numpy(),
        distances=distances.cpu().numpy(),
        error_bound=float(angle.clamp(max=right_angle).sin().square().mean()),
        certified_accuracy=float((angle < math.pi / 4).double().mean()),
        split=split,
    )


def _angle(lp: Tensor, y: Tensor) -> Tensor:
    """`arccos √p_y`, as `arcsin √(1 - p_y)`: exact for a `p_y` near 1."""
    error = -lp.gather(1, y[:, None])[:, 0].expm1()
    return error.clamp(0, 1).sqrt().asin()
