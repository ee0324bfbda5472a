"""Adversarial examples: images changed a little so that a network errs, and networks against it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Split
from .errors import expect
from .evaluation import checked_logits, evaluating, score

__all__ = ["PGD", "robust_evaluate"]


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the loss in a box around each image, the attack of Madry et al.

    From a random place in the box, `steps` times, with `L` the cross-entropy and pixels in [0, 1]:

        x' ← clip(x' + step · sign ∇_x' L(θ, x', y)),   clip onto max_i abs(x'_i - x_i) ≤ ε, [0, 1].

    Sources: Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards deep learning models resistant to
    adversarial attacks" (2018), section 2; Tatro et al. (2020) take 5 steps of 2/255 in a box of
    ε = 8/255 on CIFAR.

    Attributes:
        epsilon: ε, half the side of the box, in pixel values.
        step: how far one step goes.
        steps: how many; 0 is the random start alone.
        random_start: begin at a uniform random place of the box instead of at the image.

    Raises:
        ValueError: for an ε or a step below 0, or not finite, or a number of steps below 0.
    """

    epsilon: float
    step: float
    steps: int = 5
    random_start: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no attack."""
        for name in ("epsilon", "step"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"expected {name} of an attack to be at least 0, found {value}")
        if not isinstance(self.steps, Integral) or self.steps < 0:
            raise ValueError(
                f"expected a whole number from 0 of steps of an attack, found {self.steps}"
            )

    def perturb(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The images after the attack.

        The network keeps its mode: in training mode batch norm uses the statistics of the attacked
        batch, but what it stores (and every other buffer) is as before, and so are gradients.

        Args:
            model: what is attacked, with logits as outputs.
            x: images `[n, c, h, w]` with pixels in [0, 1].
            y: their labels, `[n]`.
            generator: of the random start; torch's own when None.

        Returns:
            `[n, c, h, w]`, apart from any graph.

        Raises:
            ValueError: for no images, pixels outside [0, 1], or outputs that are not
                `[n, classes]`.
        """
        x = x.detach()
        if len(x) == 0:
            raise ValueError("expected images to attack, found none")
        low, high = (float(v) for v in x.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"expected pixels in [0, 1] to attack, found {low:g} to {high:g}")
        lower, upper = (x - self.epsilon).clamp_(0, 1), (x + self.epsilon).clamp_(0, 1)
        moved = x.clone()
        if self.random_start:
            noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device="cpu")
            moved += self.epsilon * (2 * noise.to(x.device) - 1)
        moved = torch.clamp(moved, lower, upper)
        with _buffers_kept(model), torch.enable_grad():
            for _ in range(self.steps):
                moved.requires_grad_(True)
                logits = checked_logits(model(moved), y)
                loss = F.cross_entropy(logits.float(), y, reduction="sum")
                (slope,) = torch.autograd.grad(loss, moved)
                moved = torch.clamp(moved.detach() + self.step * slope.sign(), lower, upper)
        return moved.detach()


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put back whatever the passes inside store in the network."""
    learning = any(module.training for module in model.modules())
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()] if learning else []
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def robust_evaluate(
    model: nn.Module, split: Split, attack: PGD, seed: int = 0, batch_size: int = 2048
) -> tuple[float, float]:
    """The mean cross-entropy in nats, and the accuracy, on images attacked one by one.

    The attack sees the network in eval mode.

    Args:
        model: any classifier of images; its flags are restored.
        split: images with pixels in [0, 1], and labels.
        attack: what is done to them.
        seed: of its random starts.
        batch_size: how many images at once.

    Raises:
        TypeError: when `split` is not a Split or `attack` not a PGD.
        ValueError: see `PGD.perturb`, and when the network's outputs are not `[n, classes]`.
    """
    expect(split, Split, "a split, such as data.test")
    expect(attack, PGD, "an attack, such as PGD(epsilon=8 / 255, step=2 / 255)")
    loss, correct = 0.0, 0
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model):
        for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True):
            batch_loss, batch_correct = score(model(attack.perturb(model, x, y, generator)), y)
            loss += batch_loss
            correct += batch_correct
    return loss / len(split), correct / len(split)
