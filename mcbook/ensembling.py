"""Several networks that answer together: the mean of their probabilities.

With `p_m(y | x)` the softmax of network `m`'s logits, `M` networks predict

    p(y | x) = 1/M Σ_m p_m(y | x),

and their loss is the mean of `-log p(y | x)`.  The logarithm is concave, so that by Jensen's
inequality it is never above the mean of their losses, on any images.

Garipov, Izmailov, Podoprikhin, Vetrov and Wilson (2018), "Loss surfaces, mode connectivity, and
fast ensembling of DNNs", section 5, ensemble networks that lie near a path of low loss;
Lakshminarayanan, Pritzel and Blundell (2017), "Simple and scalable predictive uncertainty
estimation using deep ensembles", networks of several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import weights
from .analysis.profiles import statistics_images
from .data import Data, Split
from .errors import IncompatibleError, expect
from .evaluation import evaluating, score
from .normalized import Normalized, check_normalization
from .paths.base import Path

__all__ = ["ensemble", "path_ensemble"]


def ensemble(
    models: Iterable[nn.Module], split: Split, batch_size: int = 2048
) -> tuple[float, float]:
    """The loss and accuracy of the mean of several networks' probabilities.

    Args:
        models: classifiers of the same images and classes, of one architecture or several; in eval
            mode while they are looked at, one after the other.
        split: images and labels; brought to the networks' devices if they are elsewhere.
        batch_size: how many images at once; the result does not depend on it.

    Returns:
        The mean cross-entropy in nats and the accuracy in [0, 1] of the mean probabilities.

    Raises:
        TypeError: when `models` are no modules or `split` is no Split.
        IncompatibleError: when the networks have different numbers of classes.
        ValueError: for no networks, or outputs that are not `[n, classes]`.

    Example:
        >>> import mcbook as mc
        >>> from mcbook.ensembling import ensemble
        >>> data = mc.load_data("digits", device="cpu")
        >>> models = [mc.build_model("mlp", data, width=w) for w in (8, 16)]
        >>> loss, accuracy = ensemble(models, data.test)
        >>> loss <= sum(mc.evaluate(m, data.test)[0] for m in models) / 2
        True
    """
    expect(split, Split, "a split, such as data.test")
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        raise TypeError(f"expected several networks in a list, found one {type(models).__name__}")
    total: Tensor | None = None
    count = 0
    for model in models:
        expect(model, nn.Module, "a torch.nn.Module")
        found = _log_probabilities(model, split, batch_size)
        if total is not None and found.shape != total.shape:
            raise IncompatibleError(
                f"expected networks of the same classes, found {total.shape[1]} in the first and "
                f"{found.shape[1]} in number {count + 1}"
            )
        # sums of probabilities, as logarithms: the smallest ones decide the loss
        total = found if total is None else torch.logaddexp(total, found.to(total.device))
        count += 1
    if total is None:
        raise ValueError("expected at least one network, found none")
    y = split.y.to(total.device)
    loss = math.log(count) - float(total.gather(1, y[:, None]).mean())
    return loss, float((total.argmax(1) == y).double().mean())


def path_ensemble(
    path: Path,
    data: Data,
    at: float | Iterable[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    split: str = "test",
    normalization: str | None = None,
    batch_size: int = 2048,
) -> tuple[float, float]:
    """The loss and accuracy of the mean of the probabilities of networks along a path.

    Args:
        path: what the networks are on.
        data: what to look at; brought to the path's device if it is elsewhere.
        at: the `t` of the networks, in [0, 1].
        split: `train` or `test`.
        normalization: what to do with batch-norm statistics in each of them, both ends included:
            see `profile`.
        batch_size: how many images at once; the result does not depend on it.

    Returns:
        The mean cross-entropy in nats and the accuracy in [0, 1].

    Raises:
        TypeError: when `path` is not a Path or `data` not a Data.
        UnknownNameError: for an unknown split or normalization.
        ValueError: for no `t`, or one outside [0, 1].
    """
    expect(path, Path, "a path, such as LinearPath(a, b)")
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    places = [float(t) for t in (at if isinstance(at, Iterable) else [at])]
    if not places or not all(0 <= t <= 1 for t in places):
        raise ValueError(f"expected at least one t, each in [0, 1], found {places}")
    normalization = check_normalization(normalization, path.model_at(0.0))
    data = data.to(next(iter(path.control_points.values())).device)
    part = data.split(split)
    along = Normalized(path, normalization, statistics_images(data))
    return ensemble((along.at(t)[0] for t in places), part, batch_size)


def _log_probabilities(model: nn.Module, split: Split, batch_size: int) -> Tensor:
    """`log p(y | x)` of every image and class, `[n, classes]`, float64."""
    own = next(iter(weights.of(model).values()), split.x)
    parts = []
    with evaluating(model):
        for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True):
            logits = model(x.to(own.device))
            score(logits, y.to(own.device))  # refuses what are no logits
            parts.append(logits.float().double().log_softmax(1))
    return torch.cat(parts)
