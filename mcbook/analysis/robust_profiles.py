"""The profile of a path under attack: what an adversary leaves of the networks along it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..data import Data, Split
from ..errors import expect
from ..normalization import measure_statistics_
from ..normalized import Normalized, check_normalization
from ..paths.base import Path
from ..progress import Bar
from ..robustness import PGD, robust_evaluate
from .profiles import Profile, arc_of, spreads_of, statistics_split

__all__ = ["robust_profile"]


def robust_profile(
    path: Path,
    data: Data,
    attack: PGD,
    points: int = 25,
    splits: Sequence[str] = ("test",),
    normalization: str | None = None,
    seed: int = 0,
    batch_size: int = 2048,
    progress: bool = True,
) -> Profile:
    """Loss and accuracy along a path on images attacked anew at every point.

    Every network on the path has an adversary of its own.  The barrier of the profile is the
    *robust loss barrier* of Zhao et al., "Bridging mode connectivity in loss landscapes and
    adversarial robustness" (2020).  With `reset` the batch-norm statistics are measured on
    training images attacked at that point, too, as Tatro et al. (2020) evaluate: first on clean
    ones, so that there is a network to attack, then on what the attack makes of them.

    Args:
        path: what to walk along.
        data: images with pixels in [0, 1]; brought to the path's device if they are elsewhere.
        attack: what is done to them.
        points: of the uniform grid on [0, 1]; the path's knots are added to it.
        splits: `train`, `test` or both.
        normalization: `reset` or `none`; None is `reset` where there is batch norm.
        seed: of the attack's random starts, the same at every point.
        batch_size: how many images at once.
        progress: whether to show a bar.

    Returns:
        A profile whose losses and accuracies are those under attack.

    Raises:
        TypeError: when an argument is of another kind.
        UnknownNameError: for an unknown split or normalization.
        ValueError: for fewer than 2 points, `repair`, or pixels outside [0, 1].
    """
    expect(path, Path, "a path, such as LinearPath(a, b)")
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    expect(attack, PGD, "an attack, such as PGD(epsilon=8 / 255, step=2 / 255)")
    if points < 2:
        raise ValueError(f"expected at least 2 points, found {points}")
    model = path.model_at(0.0)
    normalization = check_normalization(normalization, model)
    if normalization == "repair":
        raise ValueError("expected normalization reset or none for a robust profile, found repair")
    data = data.to(next(iter(path.control_points.values())).device)
    chosen = {split: data.split(split) for split in splits}
    grid = sorted({*np.linspace(0, 1, points).tolist(), *path.knots})
    spreads = spreads_of(path, [name for name, _ in model.named_parameters()])
    seen = statistics_split(data)
    networks = Normalized(path, normalization, seen.x)
    rows = []
    with Bar(len(grid), "robust profile", progress) as bar:
        for t in grid:
            model, _ = networks.at(t)
            if normalization == "reset":
                measure_statistics_(model, _attacked(model, seen, attack, seed, batch_size))
            row = {"t": t}
            for split, part in chosen.items():
                found = robust_evaluate(model, part, attack, seed, batch_size)
                row[f"{split}_loss"], row[f"{split}_accuracy"] = found
            c = path.coefficients(t).numpy()
            for end, spread in zip("ab", spreads, strict=True):
                row[f"distance_{end}"] = float(np.sqrt(max(0.0, c @ spread @ c)))
            rows.append(row)
            bar.advance()
    arc = arc_of(np.stack([path.coefficients(t).numpy() for t in grid]), spreads[0])
    return Profile(pd.DataFrame(rows), normalization, path.kind, data.name, arc)


def _attacked(model: nn.Module, part: Split, attack: PGD, seed: int, batch_size: int) -> Tensor:
    """What the attack makes of some images."""
    generator = torch.Generator().manual_seed(seed)
    batches = zip(part.x.split(batch_size), part.y.split(batch_size), strict=True)
    return torch.cat([attack.perturb(model, x, y, generator) for x, y in batches])
