"""Training a network, and training several that share their beginning."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from .data import Data
from .errors import UnknownNameError
from .progress import Bar
from .runs import Recipe, Run

__all__ = ["spawn", "train"]


def train(
    model: nn.Module,
    data: Data,
    epochs: float = 30,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **recipe: Any,
) -> nn.Module:
    """Train a copy of a network on the cross-entropy of the training images.

    Args:
        model: where to start; it is not changed.
        data: what to train on, and to test on after each epoch.
        epochs: passes over the training images; fractions are rounded to whole steps.
        seed: of the order of the images, of augmentation and of dropout.
        progress: whether to show a bar.
        checkpoint: a file that keeps the run after every epoch.  If it is there, the run goes on
            from it; a finished run is returned as it is.
        **recipe: see `Recipe`.

    Returns:
        A new module in eval mode, with `.history`: a table with a row for each epoch (`epoch`,
        `lr` at its end, `train_loss` and `train_accuracy` as seen while training, `test_loss` and
        `test_accuracy` after it).

    Raises:
        UnknownNameError: for an unknown field, optimizer, schedule or precision of the recipe.
        IncompatibleError: when the checkpoint is of another run, naming the first difference.
        FloatingPointError: when the loss becomes NaN or infinite.
        ValueError: for numbers no run can use, or starting weights that are not finite.
    """
    run = Run(model, data, epochs, seed, checked_recipe(recipe))
    if checkpoint is not None:
        run.resume(checkpoint)
    with Bar(run.total - run.step, "training", progress) as bar:
        run.advance(run.total, bar, checkpoint)
    return run.result()


def spawn(
    model: nn.Module,
    data: Data,
    shared_epochs: float,
    epochs: float = 30,
    seeds: Sequence[int] = (0, 1),
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    **recipe: Any,
) -> tuple[nn.Module, ...]:
    """Train one network for a while, then let copies of it part ways (Frankle et al. 2020).

    The shared part is a run with `seeds[0]`.  At the fork each copy takes the weights *and* the
    optimizer's state, and goes on with the order of its own seed.  So the first network returned
    is exactly `train(model, data, epochs, seeds[0], ...)`, and with `shared_epochs=0` each one is
    exactly `train` with its seed.

    Args:
        model: where to start; it is not changed.
        data: what to train on.
        shared_epochs: how long to train together; fractions of an epoch are whole steps.
        epochs: how long to train in all.
        seeds: one a copy.
        progress: whether to show a bar.
        checkpoint: a file name; the shared part and each copy keep a file beside it, named
            `<stem>-shared`, `<stem>-0`, `<stem>-1`, ...
        **recipe: see `Recipe`.

    Returns:
        One new module a seed, in eval mode.

    Raises:
        ValueError: when the shared part is longer than the whole; and see `train`.
    """
    if not 0 <= shared_epochs <= epochs:
        raise ValueError(
            f"expected shared_epochs between 0 and epochs = {epochs}, found {shared_epochs}"
        )
    if len(seeds) < 1:
        raise ValueError("expected at least one seed, found none")

    def file(part: object) -> Path | None:
        if checkpoint is None:
            return None
        whole = Path(checkpoint)
        return whole.with_name(f"{whole.stem}-{part}{whole.suffix}")

    run = Run(model, data, epochs, seeds[0], checked_recipe(recipe))
    fork = run.shared = round(shared_epochs * run.steps_per_epoch)
    results = []
    with Bar(fork + len(seeds) * (run.total - fork), "training", progress) as bar:
        run.resume(file("shared"))
        bar.advance(run.step)
        run.advance(fork, bar, file("shared"))
        for i, seed in enumerate(seeds):
            copied = run.fork(seed)
            copied.resume(file(i))
            bar.advance(copied.step - fork)
            copied.advance(copied.total, bar, file(i))
            results.append(copied.result())
    return tuple(results)


def checked_recipe(options: Mapping[str, Any]) -> Recipe:
    """A recipe from its fields by name.

    Raises:
        UnknownNameError: for an unknown field; offers the close ones.
    """
    known = [field.name for field in fields(Recipe)]
    for name in options:
        if name not in known:
            raise UnknownNameError("field of the recipe", name, known)
    return Recipe(**options)
