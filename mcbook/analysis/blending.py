"""Two networks' logits, mixed: the network that linear connectivity of features promises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..data import Split
from ..errors import expect
from ..evaluation import evaluating, score
from ..normalized import Normalized, check_normalization
from ..paths.linear import LinearPath
from .layer_matrices import check_pair
from .observing import checked_alphas, checked_inputs

__all__ = ["logit_blend"]


def logit_blend(
    a: nn.Module,
    b: nn.Module,
    split: Split,
    alphas: float | Sequence[float] = tuple(np.linspace(0, 1, 11).tolist()),
    normalization: str | None = "none",
    statistics: Tensor | None = None,
    batch_size: int = 2048,
) -> pd.DataFrame:
    r"""Compare the network between A and B with the blend of A's and B's logits.

    The blend of the logits,
    :math:`\bar f = (1 - \alpha)\, f(\theta_A; x) + \alpha\, f(\theta_B; x)`, is what the network
    at :math:`\theta_\alpha` puts out if features connect linearly at the last layer.
    Three things hold for *any* two networks:

    - the blend errs only where A or B errs, so that its error is at most
      :math:`e_A + e_B` (lemma 1 of Zhou et al. 2023: for, if a class has the largest logit in both,
      so is their mixture);
    - cross-entropy is convex in the logits, so that the blend's loss is at most
      :math:`(1 - \alpha) L_A + \alpha L_B`: it has no barrier;
    - the network's error is at most that of the blend plus `apart`, the share of images on which
      the two predict different classes, so that it is at most :math:`e_A + e_B +` `apart`.

    A blend that is scaled by a positive number predicts the same; the loss does depend on scale.
    `rescaled_loss` is the network's loss after its logits are divided by the coefficient
    :math:`\langle f_\alpha, \bar f \rangle / \lVert \bar f \rVert^2` over all images: what is left
    of a barrier if the scale of the logits is put right.

    Args:
        a: the network A, a classifier.
        b: the network B, of the same architecture.
        split: images and labels, `data.test` for instance.
        alphas: the weights of B, in [0, 1].
        normalization: see `feature_connectivity`.
        statistics: see `feature_connectivity`.
        batch_size: how many images at once; the results do not depend on it, up to rounding.

    Returns:
        A row for each alpha: `alpha`; `loss` and `accuracy` of the network; `blend_loss` and
        `blend_accuracy`; `chord`, :math:`(1 - \alpha) L_A + \alpha L_B`; `error_bound`,
        :math:`\min(1, e_A + e_B)`; `apart`; `coef`, and `rescaled_loss` (NaN where the coefficient
        is not positive).

    Raises:
        TypeError: when `split` is no Split or a network no module.
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for an unknown normalization.
        ValueError: for an alpha outside [0, 1], no images, or outputs that are not `[n, classes]`.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> table = mc.logit_blend(a, b, data.test)
        >>> bool((table["blend_loss"] <= table["chord"] + 1e-6).all())
        True
    """
    expect(split, Split, "a split, such as data.test")
    check_pair(a, b)
    numbers = checked_alphas(alphas)
    path = LinearPath(a, b)
    template = path.model_at(0.0)
    x = checked_inputs(template, split.x)
    y = split.y.to(x.device)
    normalization = check_normalization(normalization, template)
    images = x if statistics is None else checked_inputs(template, statistics)
    along = Normalized(path, normalization, images)

    def logits(alpha: float) -> Tensor:
        with evaluating(along.at(alpha)[0]) as model:
            parts = [model(batch) for batch in x.split(batch_size)]
        score(parts[0], y[: len(parts[0])])  # refuses what are no logits
        return torch.cat(parts)

    def measured(z: Tensor) -> tuple[float, float]:
        loss, correct = score(z, y)
        return loss / len(y), correct / len(y)

    of_a, of_b = logits(0.0), logits(1.0)
    (loss_a, accuracy_a), (loss_b, accuracy_b) = measured(of_a), measured(of_b)
    rows = []
    for alpha in numbers:
        m, t = logits(alpha).double(), torch.lerp(of_a.double(), of_b.double(), alpha)
        (loss, accuracy), (blend_loss, blend_accuracy) = measured(m), measured(t)
        squares = float(t.square().sum())
        coef = float((m * t).sum()) / squares if squares > 0 else float("nan")
        rows.append(
            {
                "alpha": alpha,
                "loss": loss,
                "accuracy": accuracy,
                "blend_loss": blend_loss,
                "blend_accuracy": blend_accuracy,
                "chord": (1 - alpha) * loss_a + alpha * loss_b,
                "error_bound": min(1.0, 2 - accuracy_a - accuracy_b),
                "apart": float((m.argmax(1) != t.argmax(1)).double().mean()),
                "coef": coef,
                "rescaled_loss": measured(m / coef)[0] if coef > 0 else float("nan"),
            }
        )
    return pd.DataFrame(rows)
