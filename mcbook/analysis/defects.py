"""Where the features of the mixed network leave the mixture of the features, module by module.

This is theorem 1 of Zhou et al. (2023) with its remainder: what each module adds to the difference,
and what it inherits.  (Ours.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from ..normalized import Normalized, check_normalization
from ..paths.linear import LinearPath
from ..progress import Bar
from .layer_matrices import check_pair
from .observing import (
    batches_of,
    checked_alphas,
    checked_inputs,
    features_of,
    find_calls,
    passed,
)
from .running import Ratio, dots

__all__ = ["feature_defects"]


def feature_defects(
    a: nn.Module,
    b: nn.Module,
    x: Tensor,
    alphas: float | Sequence[float] = 0.5,
    layers: str | Iterable[str] | None = None,
    normalization: str | None = "none",
    statistics: Tensor | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Split the difference between network and mixture into what a module makes and inherits.

    A module with weights :math:`\theta` maps :math:`h` to :math:`F(\theta; h)`.  With
    :math:`h_A, h_B` and :math:`z_A, z_B` what it reads and puts out in A and in B, their mixtures
    :math:`\bar h = (1 - \alpha) h_A + \alpha h_B` and :math:`\bar z` likewise, and
    :math:`h_\alpha, z_\alpha` what it reads and puts out in the network with the weights
    :math:`\theta_\alpha`,

    .. math::

        \underbrace{z_\alpha - \bar z}_{\text{total}} =
        \underbrace{F(\theta_\alpha; h_\alpha) - F(\theta_\alpha; \bar h)}_{\text{inherited}} +
        \underbrace{F(\theta_\alpha; \bar h) - \bar z}_{\text{made here}} .

    What a linear layer or convolution makes is the failure of commutativity,
    :math:`-\alpha (1 - \alpha) (W_A - W_B)(h_A - h_B)`; what an activation makes is the failure of
    weak additivity, :math:`\phi(\bar h) - \bar z`.  If nobody makes anything, and all nonlinear
    steps are modules, nothing is inherited, and the features are those of the mixture in every
    layer: theorem 1 of Zhou et al.
    Norms and pooling are modules like others here.

    Args:
        a: the network A.
        b: the network B, of the same architecture.
        x: the inputs, `[n, ...]`.
        alphas: the weights of B, in [0, 1].
        layers: names of modules that read one tensor, or of single calls of them.  By default all
            modules without children that make one tensor from one tensor of numbers, but those
            without effect (dropout, flattening, identity).
        normalization: see `feature_connectivity`.  `none` or `reset` only.
        statistics: see `feature_connectivity`.
        batch_size: how many samples at once; the results do not depend on it, up to rounding.
        progress: whether to show a bar.

    Returns:
        A row for each layer in the order of the forward pass, and each alpha: `layer`, `kind`,
        `alpha`; `total`, `made` and `inherited`, root mean squares over all samples relative to
        that of the mixture :math:`\bar z`; `angle`, the cosine between made and inherited, so that
        `total² = made² + inherited² + 2 angle · made · inherited`.  NaN where that is nothing by
        nothing: the angle where nothing is made, for instance.

    Raises:
        TypeError: see `feature_connectivity`.
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for a layer that is not there; offers the close ones.
        ValueError: see `feature_connectivity`; for `repair`, whose corrections belong to the mixed
            network alone.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> table = mc.feature_defects(a, b, data.test.x).set_index("layer")
        >>> bool(table.loc["linear1", "total"] < 1e-6)  # it reads the same images in both
        True
    """
    check_pair(a, b)
    numbers = checked_alphas(alphas)
    path = LinearPath(a, b)
    template = path.model_at(0.0)
    x = checked_inputs(template, x)
    normalization = check_normalization(normalization, template)
    if normalization == "repair":
        raise ValueError("expected normalization 'none' or 'reset', found 'repair'")
    images = x if statistics is None else checked_inputs(template, statistics)
    along = Normalized(path, normalization, images)
    start, end = along.at(0.0)[0], along.at(1.0)[0]
    between = [along.at(alpha)[0] for alpha in numbers]
    calls = find_calls(start, x, layers, ("linear", "activation", "other"))
    found = [[_Defect(alpha) for alpha in numbers] for _ in calls]
    batches = batches_of(x, calls, batch_size, inputs=True)
    with Bar(len(batches), "defects", progress) as bar:
        for batch in batches:
            one, other = (passed(model, calls, batch) for model in (start, end))
            for column, model in enumerate(between):
                own = features_of(model, calls, batch)
                # after the pass: a module run on its own would call the hooks of those in it
                for i, call in enumerate(calls):
                    module = model.get_submodule(call.module)
                    found[i][column].add(module, one[i], other[i], own[i])
            bar.advance()
    return pd.DataFrame(
        {"layer": call.name, "kind": call.kind, **defect.row(call.name)}
        for call, several in zip(calls, found, strict=True)
        for defect in several
    )


class _Defect:
    """What is known of one module at one alpha."""

    def __init__(self, alpha: float):
        self.alpha = alpha
        self.whole = Ratio()

    def add(
        self,
        module: nn.Module,
        a: tuple[Tensor, Tensor],
        b: tuple[Tensor, Tensor],
        z: Tensor,
    ) -> None:
        """See a batch: what it reads and puts out in A and B, and its own output, `[n, d]`."""
        (h_a, z_a), (h_b, z_b) = a, b
        with torch.no_grad():
            # forward, since hooks are for real passes
            alone = module.forward(torch.lerp(h_a, h_b, self.alpha)).flatten(1).double()
        mixture = torch.lerp(z_a.double(), z_b.double(), self.alpha).flatten(1)
        own = z.double()
        made, inherited, total = alone - mixture, own - alone, own - mixture
        self.whole.add(
            tt=dots(total, total),
            mm=dots(made, made),
            ii=dots(inherited, inherited),
            mi=dots(made, inherited),
            zz=dots(mixture, mixture),
        )

    def row(self, layer: str) -> dict[str, float]:
        """The columns of the table."""
        self.whole.check_finite(layer)
        return {
            "alpha": self.alpha,
            "total": self.whole.over("tt", "zz") ** 0.5,
            "made": self.whole.over("mm", "zz") ** 0.5,
            "inherited": self.whole.over("ii", "zz") ** 0.5,
            "angle": self.whole.over_norms("mi", "mm", "ii"),
        }
