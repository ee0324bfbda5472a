"""What the layers of a network read: the second moments of their inputs.

For a layer with the matrix `W [m, n]` that reads vectors `z [n]`,

    C = E[z zᵀ],    so that    E ‖W z‖² = ‖W C^(1/2)‖².

The mean is over all images, and over all positions (patches, tokens) of each.  It is not centred:
a layer acts on its input, not on the deviation from the mean.  Images pass in batches, products are
added up in float64, and no activation is kept.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import expect
from ..evaluation import evaluating
from .layer_matrices import CONVOLUTIONS, TRANSPOSED, LayerMatrix

__all__ = ["input_moments", "root"]

# what the moments that are measured in one pass over the images may take
_MEMORY = 2**30
# what the patches that are multiplied at once may take
_PATCHES = 64 * 2**20


def input_moments(
    model: nn.Module, layers: Sequence[LayerMatrix], x: Tensor, batch_size: int = 512
) -> Iterator[Tensor]:
    """The second moment of what each layer reads, one after the other.

    Layers whose moments fit into memory together are measured in one pass over the images; only
    those of one such pass exist at a time.

    Args:
        model: any module; it runs in eval mode.
        layers: layers of it, as `find_layers` gives them.
        x: its inputs, `[count, ...]`, on any device.
        batch_size: how many at once; the result does not depend on it.

    Yields:
        For each layer `[g, n, n]`: a block for each of its groups, float64, on the CPU.

    Raises:
        TypeError: when `x` is no tensor.
        ValueError: when it is empty or has entries that are not finite, or a forward pass does not
            call one of the layers.
    """
    expect(x, Tensor, "a tensor of images, such as data.train.x")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"expected at least one image as inputs, found shape {list(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("expected finite inputs, found NaN or infinite entries")
    weight = layers[0].weight
    x = x.to(weight) if x.is_floating_point() else x.to(weight.device)
    part: list[LayerMatrix] = []
    used = 0
    for layer in layers:
        size = 8 * layer.groups * layer.inputs**2
        if part and used + size > _MEMORY:
            yield from _one_pass(model, part, x.split(batch_size))
            part, used = [], 0
        part.append(layer)
        used += size
    yield from _one_pass(model, part, x.split(batch_size))


def root(moments: Tensor) -> Tensor:
    """The symmetric positive semi-definite root `C^(1/2)` of each block, `[g, n, n]`.

    This root and no other: it moves with a permutation, `(P C Pᵀ)^(1/2) = P C^(1/2) Pᵀ`.
    Eigenvalues that are zero up to rounding are taken as zero.
    """
    values, vectors = torch.linalg.eigh(moments)
    least = values[:, -1:] * moments.shape[-1] * torch.finfo(moments.dtype).eps
    values = torch.where(values > least, values, 0.0)
    return (vectors * values.sqrt()[:, None, :]) @ vectors.mT


def _one_pass(
    model: nn.Module, layers: Sequence[LayerMatrix], batches: Sequence[Tensor]
) -> Iterator[Tensor]:
    sums: list[Tensor | None] = [None] * len(layers)
    counts = [0] * len(layers)

    def taker(i: int) -> Callable[[nn.Module, Tensor], None]:
        def take(module: nn.Module, z: Tensor) -> None:
            for rows in _read(module, z):
                known, product = sums[i], rows.mT @ rows
                sums[i] = product if known is None else known.add_(product)
                counts[i] += rows.shape[1]

        return take

    with _watched(layers, [taker(i) for i in range(len(layers))]), evaluating(model):
        for batch in batches:
            model(batch)
    for layer, total, count in zip(layers, sums, counts, strict=True):
        if total is None:
            raise ValueError(
                f"expected a forward pass to call {layer.name}, but it does not, so that nothing "
                f"is known of its inputs; name the layers wanted with layers="
            )
        yield total.cpu() / count


def _read(module: nn.Module, z: Tensor) -> Iterator[Tensor]:
    """The vectors a layer reads from one input, `[g, count, n]` in float64, a part at a time."""
    if isinstance(module, CONVOLUTIONS):
        images = z if z.ndim == len(module.kernel_size) + 2 else z[None]
        per_image = 8 * _patches(module, images[:1]).numel()
        for some in images.split(max(1, _PATCHES // max(1, per_image))):
            yield _patches(module, some).double()
    elif isinstance(module, TRANSPOSED):
        images = z if z.ndim == len(module.kernel_size) + 2 else z[None]
        grouped = images.unflatten(1, (module.groups, -1)).flatten(3)  # [b, g, n, positions]
        yield grouped.permute(1, 0, 3, 2).flatten(1, 2).double()
    else:
        yield z.reshape(1, -1, z.shape[-1]).double()


def _patches(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, z: Tensor) -> Tensor:
    """The patches under the kernel, `[g, images × positions, channels × kernel]`."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    z = F.pad(z, conv._reversed_padding_repeated_twice, mode=mode)
    dims = len(conv.kernel_size)
    for i in range(dims):
        size, dilation = conv.kernel_size[i], conv.dilation[i]
        windows = z.unfold(2 + i, dilation * (size - 1) + 1, conv.stride[i])
        z = windows[..., ::dilation]
    z = z.unflatten(1, (conv.groups, -1))  # [b, g, channels, positions ..., kernel ...]
    positions, kernel = range(3, 3 + dims), range(3 + dims, 3 + 2 * dims)
    z = z.permute(1, 0, *positions, 2, *kernel)
    return z.flatten(2 + dims).flatten(1, 1 + dims)


@contextlib.contextmanager
def _watched(
    layers: Sequence[LayerMatrix], take: Sequence[Callable[[nn.Module, Tensor], None]]
) -> Iterator[None]:
    """Within this context `take[i]` sees everything that layer `i` reads."""
    with contextlib.ExitStack() as stack:
        # encoders that run in one fused kernel call none of their layers
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        for layer, see in zip(layers, take, strict=True):
            for module in layer.modules:
                watched = module if layer.owner is None else layer.owner
                hook = watched.register_forward_pre_hook(_reader(layer, see), with_kwargs=True)
                stack.callback(hook.remove)
        yield


def _reader(
    layer: LayerMatrix, see: Callable[[nn.Module, Tensor], None]
) -> Callable[[nn.Module, tuple, dict[str, Any]], None]:
    """A hook that finds a layer's input among the arguments of a module."""
    if layer.owner is not None:
        # an attention uses its last layer's weight without calling it; with the identity in its
        # place the attention gives that layer's input
        bare = copy.deepcopy(layer.owner).eval()
        size = bare.out_proj.in_features
        bare.out_proj.weight = nn.Parameter(torch.eye(size).to(bare.out_proj.weight))
        bare.out_proj.register_parameter("bias", None)
        return lambda _, args, options: see(layer.modules[0], bare(*args, **options)[0])
    names: tuple[str, ...] = ("input",)
    place = 0
    if isinstance(layer.modules[0], nn.MultiheadAttention):
        names = ("query", "key", "value")
        place = ("q_proj", "k_proj", "v_proj").index(layer.name.rsplit(".")[-1])

    def read(module: nn.Module, args: tuple, options: dict[str, Any]) -> None:
        see(module, args[place] if place < len(args) else options[names[place]])

    return read
