"""The linear maps of a network, layer by layer, as matrices.

A layer's weight is brought to `[g, m, n]`: `g` blocks on the diagonal of one matrix, each of `m`
outputs and `n` inputs.

| layer | blocks | outputs | inputs |
|---|---|---|---|
| linear | 1 | its units | the units it reads |
| convolution | its groups | the channels of a group | a patch: channels × kernel |
| transposed convolution | its groups | channels × kernel | the channels of a group |
| multi-head attention: queries, keys, values | 1 | their dimensions | those they read |

So a convolution is the map from one patch to one pixel (Ito et al. 2025 flatten kernels in the
same way), and a permutation of units multiplies each of these matrices by permutation matrices from
the left and from the right: that is why groups are blocks.  Other matrices are left out: those of
norms, embeddings and recurrent cells, and parameters that a module of one's own keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import weights
from ..errors import IncompatibleError, UnknownNameError, expect

__all__ = ["CONVOLUTIONS", "TRANSPOSED", "LayerMatrix", "check_pair", "find_layers"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, eq=False)
class LayerMatrix:
    """One linear map of a network.

    Attributes:
        name: of the module; for the three maps of an attention with `.q_proj`, ... behind it.
        modules: the modules that use this weight, more than one when it is tied.
        attribute: under which the first of them has it.
        rows: which part of the weight along its first axis; all when None.
        owner: the attention whose output projection this is, if it is one.
    """

    name: str
    modules: tuple[nn.Module, ...]
    attribute: str = "weight"
    rows: slice | None = None
    owner: nn.MultiheadAttention | None = None

    @property
    def groups(self) -> int:
        """The number of blocks."""
        return getattr(self.modules[0], "groups", 1)

    @property
    def weight(self) -> Tensor:
        """The tensor the module has: of a packed weight this layer's rows."""
        tensor = getattr(self.modules[0], self.attribute).detach()
        return tensor if self.rows is None else tensor[self.rows]

    @property
    def inputs(self) -> int:
        """How many inputs a block has, `n`."""
        weight = self.weight
        if isinstance(self.modules[0], TRANSPOSED):
            return weight.shape[0] // self.groups
        return weight[0].numel()

    def matrix(self) -> Tensor:
        """The blocks, `[g, m, n]`, float64, on the CPU."""
        weight = self.weight.cpu().double()
        blocks = weight.reshape(self.groups, weight.shape[0] // self.groups, -1)
        return blocks.mT if isinstance(self.modules[0], TRANSPOSED) else blocks

    def replace_(self, blocks: Tensor) -> None:
        """Put a matrix of this form into the module, for a model one owns.

        Raises:
            IncompatibleError: when the weight is not a parameter of its own but computed from
                others.
        """
        module = self.modules[0]
        if not isinstance(module._parameters.get(self.attribute), nn.Parameter):
            raise IncompatibleError(
                f"expected the weight of {self.name} to be a parameter, found one that is computed "
                f"from others (weight or spectral norm, pruning); make it plain first, with "
                f"torch.nn.utils.parametrize.remove_parametrizations, for instance"
            )
        if isinstance(module, TRANSPOSED):
            blocks = blocks.mT
        with torch.no_grad():
            self.weight.copy_(blocks.reshape(self.weight.shape))


def find_layers(model: nn.Module, names: Iterable[str] | None = None) -> list[LayerMatrix]:
    """The linear maps of a network, in the order of its modules; a tied weight once.

    Args:
        model: any module.
        names: only these, by the names of their modules; all when None.

    Raises:
        TypeError: for something that is no module.
        UnknownNameError: for a name that is no layer with a matrix; offers the close ones.
        ValueError: when there are no such layers, or a weight is not there yet (lazy modules).
    """
    expect(model, nn.Module, "a torch.nn.Module")
    found: dict[object, LayerMatrix] = {}
    owners: dict[nn.Module, nn.MultiheadAttention] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            owners[module.out_proj] = module
            parts = _attention(name, module)
        elif isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)):
            parts = [LayerMatrix(name or "weight", (module,), owner=owners.get(module))]
        else:
            continue
        for part in parts:
            if nn.parameter.is_lazy(getattr(module, part.attribute)):
                raise ValueError(
                    f"expected weights with shapes, found that {part.name} has not been "
                    f"initialised; run the network once before"
                )
            # a computed weight is another tensor each time it is asked for
            plain = module._parameters.get(part.attribute)
            key = part.name if plain is None else (id(plain), str(part.rows))
            first = found.get(key, part)
            users = dict.fromkeys((*first.modules, module))
            found[key] = LayerMatrix(
                first.name, tuple(users), first.attribute, first.rows, first.owner
            )
    layers = list(found.values())
    if not layers:
        raise ValueError(
            f"expected a network with at least one linear or convolutional layer, found none in "
            f"this {type(model).__name__}"
        )
    if names is None:
        return layers
    known = {layer.name: layer for layer in layers}
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in known:
            raise UnknownNameError("layer", name, known)
    if not names:
        raise ValueError("expected at least one layer, found an empty list")
    return [layer for layer in layers if layer.name in names]


def _attention(name: str, module: nn.MultiheadAttention) -> list[LayerMatrix]:
    """The three maps in front of an attention, packed into one tensor or not."""
    prefix = f"{name}." if name else ""
    if module.in_proj_weight is None:
        return [
            LayerMatrix(f"{prefix}{part}", (module,), f"{part}_weight") for part in _PROJECTIONS
        ]
    d = module.embed_dim
    return [
        LayerMatrix(f"{prefix}{part}", (module,), "in_proj_weight", slice(i * d, (i + 1) * d))
        for i, part in enumerate(_PROJECTIONS)
    ]


def check_pair(a: nn.Module, b: nn.Module) -> None:
    """Refuse two networks that cannot be compared.

    Raises:
        TypeError: for something that is no module.
        IncompatibleError: when they are not of one architecture; names the first tensor.
        ValueError: when weights are NaN or infinite; names the first tensor.
    """
    for model in (a, b):
        expect(model, nn.Module, "a torch.nn.Module")
    weights.check_compatible(weights.of(a), weights.of(b))
    for model, whose in ((a, "A"), (b, "B")):
        weights.check_finite(weights.of(model), whose)
