"""Toward the origin: how short can the weights become while the loss stays low?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..data import Data
from ..errors import IncompatibleError, UnknownNameError, expect
from ..training import checked_recipe
from .courses import ToOrigin, norm_parameters
from .layerwise import DEFAULTS, LayerwisePath, chain_of, too_many_rounds
from .legs import Leg, check_rounds, checked_step, chosen_stages, growing, ticks_of
from .linear import LinearPath
from .moving import Moving
from .retraining import checked_threshold, own_loss
from .walking import Walk

__all__ = ["path_to_origin"]

_HELD = ("BatchNorm", "SyncBatchNorm", "LazyBatchNorm")
_OUTWARD = ("LayerNorm", "RMSNorm")


def path_to_origin(
    a: nn.Module,
    data: Data,
    ticks: int | Sequence[int] = 400,
    step: float = 0.005,
    stages: str | int | Sequence[Sequence[str]] = "all",
    threshold: float | None = None,
    rounds: tuple[int, int] = (5, 50),
    conformal: str | None = None,
    points: int = 100,
    images: int = 2_000,
    example: Any = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **recipe: Any,
) -> LayerwisePath:
    """Walk from A toward the origin, `W ← (1 - α) W`, and retrain after every step.

    As `layerwise_path`, without spheres: the variances are to shrink.  The parameters of batch norm
    are not moved; those of layer norm and RMS norm are moved away from the origin by the same step,
    `W ← (1 + α) W`, so that activations keep their scale.

    Sources: Tian, Al-Ars, Kitsak, Hofstee (2026), model to origin, and "AngleConformal" learning
    rates.

    Args:
        a: the network to start from.  It is not changed.
        data: the training images are used.
        ticks: see `layerwise_path`; without retraining, `(1 - α)^ticks` of the weights would be
            left.
        step: `α`.
        stages: see `layerwise_path`; all at once by default.
        threshold: see `layerwise_path`; by default from A's loss alone.
        rounds: see `layerwise_path`.
        conformal: how the learning rate of a weight follows its variance: `variance` for `η_k = η
            Var(W_k) / Var(A_k)`, `std` for the root of that, None for constant.  With SGD alone.
        points: see `layerwise_path`.
        images: how many training images A's loss is measured on.
        example: see `layerwise_path`.
        seed: of the order of the images, of augmentation and dropout.
        progress: whether to show a bar.
        checkpoint: see `layerwise_path`.
        **recipe: see `layerwise_path`.

    Returns:
        The path from A to the last point, with the log.  `converged` says that at most half of the
        ticks took the most rounds and that the last loss is at most the threshold.

    Raises:
        IncompatibleError: for layers whose parameters are normalised otherwise (group norm,
            instance norm), naming the first; or for the checkpoint of another run.
        UnknownNameError: for unknown names in stages, or an unknown `conformal`.
        ValueError: as `layerwise_path`, and for `conformal` with another optimizer than SGD.
    """
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    way = checked_step(step, 0.0, 0.0, "sum")
    settings = checked_recipe({**DEFAULTS, **recipe})
    check_rounds(rounds, points, images)
    if conformal not in (None, "variance", "std"):
        raise UnknownNameError("conformal", conformal, ("variance", "std"))
    if conformal is not None and settings.optimizer != "sgd":
        raise ValueError(
            f"expected optimizer = 'sgd' for conformal learning rates, found {settings.optimizer!r}"
        )
    norms = norm_parameters(a)
    for name, kind in norms.items():
        if not kind.startswith(_HELD) and kind not in _OUTWARD:
            raise IncompatibleError(
                f"expected batch norm, layer norm or none on the way to the origin, found {kind} "
                f"({name}): its weights keep the scale that the others lose"
            )
    chord = LinearPath(a, a)
    data = data.to(next(iter(chord.control_points.values())).device)
    moving = Moving(chord)
    tensors = moving.views(moving.points[0])
    held = {name for name, kind in norms.items() if kind.startswith(_HELD)}
    needed = [name for name in moving.names if name not in held]
    groups = chosen_stages(a, stages, moving.names, example, needed)
    counts = ticks_of(ticks, len(groups), way)
    loss = own_loss(chord.model_at(0.0), data, settings, images, seed)
    threshold = checked_threshold(threshold, loss, None)
    numbers = {name: i for i, name in enumerate(moving.names)}
    outward = [norms.get(name) in _OUTWARD for name in moving.names]
    scaled = ["weight" in name and name not in norms for name in moving.names]
    course = ToOrigin(tensors, outward, conformal, scaled)
    active = growing([[numbers[name] for name in group] for group in groups])
    legs = [Leg(course, who, n) for who, n in zip(active, counts, strict=True) if n]
    goals: list[Tensor | None] = [
        None if name in norms else x.new_zeros(x.shape)
        for name, x in zip(moving.names, tensors, strict=True)
    ]
    walk = Walk(moving, legs, goals, way, data, rounds, threshold, settings, seed, points)
    walk.run(loss, progress, checkpoint)
    path = chain_of(walk, chord, groups, None)
    path.shortfalls = too_many_rounds(path)
    if path.log["batches"].iloc[-1] == 0:
        path.shortfalls.append("nothing was retrained, so that no loss on the way is known")
    elif (last := float(path.log["loss"].iloc[-1])) > path.threshold:
        path.shortfalls.append(f"the last loss is {last:.3g}, above {path.threshold:.3g}")
    return path
