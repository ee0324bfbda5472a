"""Distances between predictive distributions: Fisher-Rao and Jensen-Shannon, in stable forms.

All functions take *log-probabilities*, so that a class of probability `1e-100` is as good as any.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import weights
from ..evaluation import evaluating

__all__ = ["fisher_distance", "hellinger_squared", "js_divergence", "log_probabilities"]


def log_probabilities(model: nn.Module, x: Tensor, batch_size: int = 2048) -> Tensor:
    """What a classifier says of some images: `log p(y | x) = z_y - log Σ_k exp z_k`.

    Args:
        model: any classifier; runs in eval mode, its flags are restored.
        x: images, `[n, c, h, w]`, or whatever the classifier takes; brought to its device.
        batch_size: how many images at once; the result does not depend on it.

    Returns:
        `[n, classes]`, float64 (the network itself runs in its own precision).

    Raises:
        ValueError: for no images, or outputs that are not `[n, classes]`.
        FloatingPointError: when the outputs do not give a distribution: NaN, or `+inf`.
    """
    if len(x) == 0:
        raise ValueError("expected at least one image, found none")
    own = next(iter(weights.of(model).values()), x)
    parts = []
    with evaluating(model):
        for batch in x.split(batch_size):
            z = model(batch.to(own.device))
            if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(batch):
                found = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
                raise ValueError(
                    f"expected logits [{len(batch)}, classes] from the network, found {found}"
                )
            parts.append(z.double().log_softmax(1))
    lp = torch.cat(parts)
    bad = int(lp.isnan().any(1).sum())
    if bad:
        raise FloatingPointError(
            f"expected logits that give probabilities, found NaN or infinity for {bad} of "
            f"{len(lp)} images"
        )
    return lp


def hellinger_squared(lp: Tensor, lq: Tensor) -> Tensor:
    """`4 ‖√p - √q‖²`: the squared chord between `2√p` and `2√q` on the sphere of radius 2.

    It is four times what is called the squared Hellinger distance without its factor 1/2, and
    agrees with the squared Fisher-Rao distance up to fourth order in `q - p`.  Its gradient is
    defined everywhere, also where `p = q`.

    Args:
        lp: log-probabilities, `[..., classes]`.
        lq: the same.

    Returns:
        `[...]`, in [0, 8].
    """
    return 4 * ((lp / 2).exp() - (lq / 2).exp()).square().sum(-1)


def fisher_distance(lp: Tensor, lq: Tensor) -> Tensor:
    """The Fisher-Rao distance of distributions over classes, `2 arccos Σ_y √(p_y q_y)`.

    The map `p → 2√p` takes the simplex with the Fisher metric `Σ_y dp_y² / p_y` to a part of the
    sphere of radius 2; the distance is the length of the arc there.  It is computed from the
    chord, `4 arcsin(‖√p - √q‖ / 2)`, since arccos loses half of the digits near 1.

    Args:
        lp: log-probabilities, `[..., classes]`.
        lq: the same.

    Returns:
        `[...]`, in radians on a sphere of radius 2: in [0, π].  Exactly 0 for equal arguments.

    Example:
        >>> import torch
        >>> p, q = torch.tensor([[0.2, 0.8], [0.9, 0.1]], dtype=torch.float64).log()
        >>> round(float(fisher_distance(p, q)), 7)  # π / 2
        1.5707963
    """
    chord = hellinger_squared(lp, lq).sqrt()
    return 4 * torch.asin((chord / 4).clamp(max=math.sqrt(0.5)))


def js_divergence(lp: Tensor, lq: Tensor) -> Tensor:
    """The Jensen-Shannon divergence, `(KL(p ‖ m) + KL(q ‖ m)) / 2` with `m = (p + q) / 2`.

    With `u = (q - p) / (p + q)` it is `Σ_y m_y φ(u_y)`, `φ(u) = u²/2 + u⁴/12 + u⁶/30 + …`: for near
    distributions an eighth of the squared Fisher-Rao distance.  Its square root is
    a metric (Endres and Schindelin 2003).

    Args:
        lp: log-probabilities, `[..., classes]`.
        lq: the same.

    Returns:
        `[...]`, in nats: in [0, log 2].
    """
    # exp(-1000) is 0, and so are p log(p / m) and its gradient: not 0 times -inf
    lp, lq = lp.clamp(min=-1000), lq.clamp(min=-1000)
    # JSD = Σ m φ(u), u = (q - p) / (p + q) = tanh(log(q / p) / 2): no difference of near numbers
    log_odds = lq - lp
    u = (log_odds / 2).tanh()
    near = u.square()
    series = near * (1 / 2 + near * (1 / 12 + near * (1 / 30 + near * (1 / 56 + near / 90))))
    far = math.log(2) + sum(
        x.sigmoid() * torch.nn.functional.logsigmoid(x) for x in (log_odds, -log_odds)
    )
    phi = torch.where(u.abs() < 0.05, series, far)
    return ((lp.exp() + lq.exp()) / 2 * phi).sum(-1)
