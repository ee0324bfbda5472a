"""Permutations relaxed to doubly stochastic matrices, trained on the loss, and rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .. import weights
from ..checkpoints import optimizer_tensors, restore_optimizer_
from ..optimization import make_optimizer
from ..symmetry.permutations import Permutation
from ..symmetry.permuting import permute
from ..symmetry.spec import PermutationSpec
from .birkhoff import birkhoff, project_doubly_stochastic
from .soft import SoftAction

__all__ = ["Relaxation"]

# before they are rounded the matrices are brought nearer to the doubly stochastic ones
_ROUNDS = 200


class Relaxation:
    """One doubly stochastic matrix for each space, in the place of a permutation of B.

    The matrices act on B as it stands; at first they change nothing.

    Args:
        a: the network at the curve's other end.
        spec: of both.

    Attributes:
        fixed: the tensors of A that are on the curve: all of floating point, each once, but for
            what batch norm stores (batches see their own statistics).
        soft: how the matrices act.
        matrices: by size, `{n: [m, n, n]}`.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, a: nn.Module, spec: PermutationSpec):
        stored = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in a.named_modules()
            if isinstance(module, _BatchNorm)
            for name, _ in module.named_buffers(recurse=False)
        }
        self.fixed = {
            name: x.clone()
            for name, x in weights.of(a).items()
            if x.is_floating_point() and name not in spec.aliases and name not in stored
        }
        like = next(iter(self.fixed.values()))
        self.soft = SoftAction(spec, list(self.fixed), like.device)
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._still = self.soft.identity(dtype, like.device)
        # batches see their own statistics; everything else is as when a network is used
        self._model = permute(a, spec.identity(), spec).eval()
        for module in self._model.modules():
            if isinstance(module, _BatchNorm):
                module.train()

    def begin(self, b: nn.Module, optimizer: str, lr: float) -> None:
        """Matrices that change nothing, for B as it stands."""
        own = weights.of(b)
        self._moving = {name: own[name].to(x) for name, x in self.fixed.items()}
        self.matrices = {n: x.clone().requires_grad_() for n, x in self._still.items()}
        self.optimizer = make_optimizer(optimizer, self.matrices.values(), lr, 0.0, 0.0)

    def lower(
        self, t: float, x: Tensor, y: Tensor, rate: float, nu: float, offset: Mapping[str, Tensor]
    ) -> float:
        """One step: against the gradient, towards no change, and back to where P has to be.

        Args:
            t: where on the curve.
            x: images.
            y: their labels.
            rate: the learning rate.
            nu: P is pulled with weight `rate / nu` towards the matrices of the beginning.
            offset: of the curve's bend from the midpoint; empty for the line.

        Returns:
            The loss before the step.

        Raises:
            FloatingPointError: when the loss or P is NaN or infinite.
        """
        theta = {}
        for name, moved in self.soft.act(self._moving, self.matrices).items():
            theta[name] = torch.lerp(self.fixed[name], moved, t)
            if name in offset:
                theta[name] = theta[name] + 2 * t * (1 - t) * offset[name]
        loss = F.cross_entropy(functional_call(self._model, theta, (x,)).float(), y)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        pull = rate / nu
        with torch.no_grad():
            for n, p in self.matrices.items():
                p.copy_(project_doubly_stochastic((p + pull * self._still[n]) / (1 + pull)))
        finite = all(bool(torch.isfinite(p).all()) for p in self.matrices.values())
        if not finite or not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss became {loss.item()}, or P NaN or infinite; a smaller learning rate "
                f"may help"
            )
        return loss.item()

    def put_into(self, model: nn.Module) -> None:
        """Give a copy of B the weights that B has after the matrices."""
        own = weights.of(model)
        final = {n: p.to(self.matrices[n]) for n, p in self._final().items()}
        for name, x in self.soft.act(self._moving, final).items():
            own[name].copy_(x)

    def candidates(self, draws: int, terms: int, seed: list[int]) -> list[tuple[str, Permutation]]:
        """Permutations near the matrices, by name; those of the beginning are to follow them.

        Args:
            draws: how many are random.
            terms: the largest terms of each decomposition that are drawn from.
            seed: of the draws.
        """
        final = {n: p.cpu() for n, p in self._final().items()}
        nearest = {n: [linear_sum_assignment(-p)[1] for p in ps.numpy()] for n, ps in final.items()}
        found = [("hungarian", self.soft.permutation(nearest))]
        if not draws:
            return found
        sums = {n: [birkhoff(p, terms) for p in ps] for n, ps in final.items()}
        chance = np.random.default_rng(seed)
        for i in range(draws):
            drawn = {n: [_drawn(x, chance) for x in xs] for n, xs in sums.items()}
            found.append((f"draw {i + 1}", self.soft.permutation(drawn)))
        return found

    def _final(self) -> dict[int, Tensor]:
        """The matrices in float64, as nearly doubly stochastic as they are to be rounded."""
        return {
            n: project_doubly_stochastic(p.detach().double(), _ROUNDS)
            for n, p in self.matrices.items()
        }

    def of_spaces(self) -> dict[str, Tensor]:
        """For every space its matrix `[n, n]`, on the CPU."""
        stacks = {n: p.detach() for n, p in self.matrices.items()}
        return {name: p.cpu() for name, p in self.soft.of_spaces(stacks).items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything its future depends on but B, by name."""
        tensors = {f"matrix.{n}": p for n, p in self.matrices.items()}
        kept = optimizer_tensors(self.optimizer)
        return {**tensors, **{f"optimizer.{name}": x for name, x in kept.items()}}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go to where `tensors` were taken, after `begin`."""
        with torch.no_grad():
            for n, p in self.matrices.items():
                p.copy_(tensors[f"matrix.{n}"])
        kept = {n: x for n, x in tensors.items() if n.startswith("optimizer.")}
        restore_optimizer_(
            self.optimizer, {n.removeprefix("optimizer."): x for n, x in kept.items()}
        )


def _drawn(terms: list[tuple[float, Tensor]], chance: np.random.Generator) -> np.ndarray:
    """A permutation by its coefficient."""
    i = chance.choice(len(terms), p=[c for c, _ in terms])
    vector: np.ndarray = terms[i][1].numpy()
    return vector
