"""Operations one by one, as functions of tensors: the table that the rules are tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """An operation: a function of tensors of these shapes.

    Attributes:
        run: the function; it writes into copies only.
        shapes: of its operands.
        fixed: which operands are no parameters but inputs, whose positions cannot move.
        statistics: which are buffers.
    """

    run: Callable[..., Any]
    shapes: Sequence[Shape]
    fixed: tuple[int, ...] = ()
    statistics: tuple[int, ...] = ()


def op(run: Callable[..., Any], *shapes: Shape, **options: Any) -> Case:
    return Case(run, shapes, **options)


def fold_and_convolve(x: Tensor, w: Tensor, groups: int = 1) -> Tensor:
    return F.conv1d(x.view(2, 4, 5), w, groups=groups)


def scaled(shift: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def viewed_before(z: Tensor, write: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    part = z[:, :2]
    write(z)
    return part, z


def halved(x: Tensor) -> Tensor:
    x[:, :2].mul_(0.5)
    return x


def assigned(z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    z[:, :4] = x
    z[:, 4:] = y
    return z


def assigned_one(x: Tensor, y: Tensor) -> Tensor:
    x[:, 1:3] = y
    return x


def added_one(x: Tensor, y: Tensor) -> Tensor:
    x[:, 1:3] += y
    return x


A, B, IMAGE, SEQ, VOLUME = (5, 4), (3, 5, 4), (2, 6, 5, 4), (2, 4, 7), (1, 3, 4, 6, 5)
MASK = torch.randn(A, generator=torch.Generator().manual_seed(1)) > 0
FOUND = (torch.full((6,), 0.5).double(), torch.full((6,), 2.0).double())
ROWS = torch.tensor([4, 0, 0, 3])
CASES: dict[str, Case] = {
    # each number by itself
    **{name: op(lambda x, f=name: getattr(F, f)(x), A)
       for name in ("relu", "hardswish", "elu", "gelu", "silu", "mish", "celu", "selu", "hardtanh",
                    "hardsigmoid", "leaky_relu", "softplus", "logsigmoid", "dropout", "tanhshrink",
                    "softshrink", "relu6", "softsign")},
    "glu": op(lambda x: F.glu(x, 1), (3, 6)),
    "gated by hand": op(lambda x: F.silu(x[:, :3]) * x[:, 3:], (2, 6)),
    "prelu": op(F.prelu, IMAGE, (6,)),
    "prelu of one": op(F.prelu, IMAGE, (1,)),
    "threshold": op(lambda x: F.threshold(x, 0.1, -1.0), A),
    "clamp": op(lambda x: x.clamp(-0.5, 0.5), A),
    "nan_to_num": op(lambda x: x.nan_to_num(), A),
    "rsub": op(lambda x: 1 - x, A),
    "pow": op(lambda x: x**3, A),
    "power of two": op(lambda x, y: x.abs() ** y, A, (4,)),
    "clone": op(lambda x: x.clone(), A),
    "half and back": op(lambda x: x.to(torch.float16).double(), A),
    "sigmoid": op(torch.sigmoid, A),
    "tanh": op(torch.tanh, A),
    "selu": op(torch.selu, A),
    "detach": op(lambda x: x.detach(), A),
    "alias": op(lambda x: aten.alias(x), A),
    "lift_fresh": op(lambda x: aten.lift_fresh(x), A),
    "lift": op(lambda x: aten.lift(x), A),
    "lift_fresh_copy": op(lambda x: aten.lift_fresh_copy(x), A),
    "conj": op(lambda x: (x + 0j).conj().resolve_conj().real, A),
    "positive": op(lambda x: +x, A),
    "item": op(lambda x: x * x.sum().item(), A),
    "contiguous": op(lambda x: x.transpose(0, 1).contiguous(), A),
    "add": op(torch.add, A, A),
    "add broadcast": op(torch.add, B, (4,)),
    "add over both axes": op(torch.add, (5, 1), (4,)),
    "add an input": op(torch.add, B, A, fixed=(1,)),
    "add an input along one axis": op(torch.add, B, (4,), fixed=(1,)),
    "add a constant along one axis": op(lambda x: x + torch.arange(5)[:, None], B),
    "add the same constant": op(lambda x: x + torch.full((5, 1), 2.0), B),
    "add its transpose": op(lambda x: x + x.T, (4, 4)),
    "add a square": op(torch.add, (4, 4), (4, 4)),
    "add what is turned": op(lambda x, y: x + y.T, (4, 4), (4, 4)),
    "mul": op(torch.mul, B, (3, 5, 1)),
    "div": op(torch.div, B, (5, 1)),
    "where": op(lambda x, y: torch.where(x > 0, x, y), A, A),
    "where, constant": op(lambda x, y: torch.where(MASK, x, y), A, (4,)),
    "masked_fill": op(lambda x: x.masked_fill(MASK, 0.0), A),
    "masked_fill of columns": op(lambda x: x.masked_fill(MASK[0], 0.0), B),
    "lerp": op(torch.lerp, B, A, (4,)),
    "addcmul": op(torch.addcmul, (4,), A, B),
    "addcdiv": op(torch.addcdiv, (4,), A, B),
    "stacked labels": op(lambda x, y, z: (x + y) * z, (5, 1), (4,), A),
    "heads, then added": op(lambda x, y: x.view(2, 3, 4).transpose(0, 1) + y, (6, 4), (4,)),
    # written in place
    "relu_": op(lambda x: x.clone().relu_(), A),
    "add_": op(lambda x, y: x.clone().add_(y), A, (4,)),
    "mul_": op(lambda x, y: x.clone().mul_(y), A, A),
    "mul_ on a slice": op(lambda x: halved(x.clone()), A),
    "fill_": op(lambda x: x.clone().fill_(2.0), A),
    "zero_": op(lambda x: x.clone().zero_(), A),
    "copy_": op(lambda x, y: x.clone().copy_(y), A, (4,)),
    "copy_ into slices": op(lambda x, y: assigned(x.new_zeros(5, 6), x, y), A, (5, 2)),
    "mul_ of a constant": op(lambda x: torch.arange(4.0).double().expand(5, 4).clone().mul_(x), A),
    "add_ after a view": op(lambda x: viewed_before(x.new_zeros(5, 4), lambda z: z.add_(x)), A),
    "copy_ after a view": op(lambda x, y: viewed_before(x.clone(), lambda z: z.copy_(y)), A, A),
    "relu_ after a view": op(lambda x: viewed_before(x.clone(), lambda z: z.relu_()), A),
    "mul_ after a view": op(lambda x, y: viewed_before(x.clone(), lambda z: z.mul_(y)), A, (4,)),
    "copy_ over a slice": op(lambda x, y: assigned_one(x.clone(), y), A, (5, 2)),
    "add_ to a slice": op(lambda x, y: added_one(x.clone(), y), A, (5, 2)),
    "add_ to what is zero": op(lambda x: x.new_zeros(5, 4).add_(x), A),
    "masked_fill_": op(lambda x: x.clone().masked_fill_(MASK, 0.0), A),
    "index_add": op(lambda x, y: x.index_add(0, ROWS, y), A, (4, 4)),
    "scatter_add": op(lambda x, y: x.scatter_add(0, ROWS[:, None].expand(4, 4), y), A, (4, 4)),
    # constants
    **{name: op(lambda x, f=name: getattr(torch, f)(x) + x, A)
       for name in ("zeros_like", "ones_like", "rand_like", "randn_like")},
    **{f"{name} of another shape": op(lambda x, f=name: getattr(x, f)((5, 2)) + x[:, :2], A)
       for name in ("new_zeros", "new_ones")},
    "full_like": op(lambda x: torch.full_like(x, 2.0) * x, A),
    "new_full": op(lambda x: x.new_full((4,), 2.0) * x, A),
    "empty_like": op(lambda x: torch.empty_like(x).fill_(1.0) * x, A),
    "new_empty": op(lambda x: x.new_empty((4,)).fill_(1.0) * x, A),
    "new_empty_strided": op(lambda x: x.new_empty_strided((5, 4), (4, 1)).fill_(1.0) * x, A),
    # what no rule knows
    "trilinear": op(lambda x, y: torch.cdist(x, y), (5, 4), (3, 4)),
    "cross": op(lambda x, y: torch.linalg.cross(x, y), (5, 3), (5, 3)),
    "fft": op(lambda x: torch.fft.rfft(x).abs(), A),
    "renorm": op(lambda x: x.renorm(2, 0, 1.0), A),
    "grid_sample": op(lambda x, y: F.grid_sample(x, y, align_corners=False),
                      (2, 3, 4, 4), (2, 5, 6, 2)),
    # sums of products
    "linear": op(F.linear, (2, 3, 5), (4, 5), (4,)),
    "linear without bias": op(lambda x, w: F.linear(x, w), (2, 5), (4, 5)),
    "linear of an input": op(F.linear, (2, 3, 5), (4, 5), (4,), fixed=(0,)),
    "linear to one": op(F.linear, (2, 3, 5), (1, 5), (1,)),
    "mm": op(aten.mm, (3, 5), A),
    "mm with itself": op(lambda x: x @ x.T, A),
    "bmm": op(aten.bmm, B, (3, 4, 2)),
    "mv": op(aten.mv, A, (4,)),
    "dot": op(torch.dot, (4,), (4,)),
    "vdot": op(torch.vdot, (4,), (4,)),
    "addmm": op(aten.addmm, (2,), A, (4, 2)),
    "addmm of a matrix": op(aten.addmm, (5, 2), A, (4, 2)),
    "addmv": op(aten.addmv, (5,), A, (4,)),
    "addbmm": op(aten.addbmm, (5, 2), B, (3, 4, 2)),
    "baddbmm": op(aten.baddbmm, (3, 5, 2), B, (3, 4, 2)),
    "baddbmm broadcast": op(aten.baddbmm, (5, 1), B, (3, 4, 2)),
    "matmul of vectors": op(torch.matmul, (4,), (4,)),
    "matmul, vector first": op(torch.matmul, (4,), (3, 4, 2)),
    "matmul, vector last": op(torch.matmul, B, (4,)),
    "matmul broadcast": op(torch.matmul, (6, 1, 5, 4), (3, 4, 2)),
    "matmul of an input": op(torch.matmul, (3, 5, 4), (4, 2), fixed=(0,)),
    "rmatmul": op(lambda x, y: torch.Tensor.__rmatmul__(y, x), A, (4, 2)),
    "einsum": op(lambda x, y: torch.einsum("bik,jk->bji", x, y), B, (2, 4)),
    "einsum, implicit": op(lambda x, y: torch.einsum("ij,jk", x, y), A, (4, 2)),
    "einsum, dots": op(lambda x, y: torch.einsum("...i,oi->...o", x, y), B, (2, 4)),
    "einsum of three": op(lambda x, y, z: torch.einsum("ai,bi,ci->abc", [x, y, z]),
                          (2, 4), (3, 4), (5, 4)),
    "einsum, diagonal": op(lambda x: torch.einsum("iij->j", x), (3, 3, 4)),
    "outer": op(torch.outer, (5,), (4,)),
    "bilinear": op(F.bilinear, (2, 5), (2, 4), (3, 5, 4), (3,)),
    # convolutions
    "conv1d": op(lambda x, w, b: F.conv1d(x, w, b, padding=1), (2, 4, 6), (5, 4, 3), (5,)),
    "conv2d": op(lambda x, w, b: F.conv2d(x, w, b, 2, 1), (2, 3, 6, 7), (5, 3, 3, 2), (5,)),
    "conv2d 1x1": op(F.conv2d, (2, 3, 4, 5), (6, 3, 1, 1)),
    "_convolution": op(
        lambda x, w: aten._convolution(
            x, w, None, [1], [0], [1], False, [0], 1, False, False, False, False),
        (2, 4, 6), (5, 4, 3)),
    "conv2d of an input": op(F.conv2d, (2, 3, 6, 6), (5, 3, 3, 3), (5,), fixed=(0,)),
    "conv2d, dilated": op(lambda x, w: F.conv2d(x, w, dilation=2), (1, 3, 6, 6), (5, 3, 2, 2)),
    "conv3d": op(F.conv3d, (1, 2, 4, 3, 3), (3, 2, 2, 2, 2), (3,)),
    "conv2d, transposed": op(lambda x, w, b: F.conv_transpose2d(x, w, b, 2),
                             (2, 3, 4, 5), (3, 6, 2, 2), (6,)),
    "conv1d, transposed": op(F.conv_transpose1d, (2, 3, 4), (3, 5, 2)),
    "conv2d, grouped": op(lambda x, w, b: F.conv2d(x, w, b, groups=3),
                          (2, 6, 4, 5), (12, 2, 3, 3), (12,)),
    "conv2d, a row a group": op(lambda x, w, b: F.conv2d(x, w, b, groups=3),
                                (2, 6, 4, 5), (3, 2, 3, 3), (3,)),
    "conv2d, grouped, input": op(lambda x, w: F.conv2d(x, w, groups=3),
                                 (2, 6, 4, 5), (12, 2, 3, 3), fixed=(0,)),
    "conv2d, grouped, derived": op(lambda x, w: F.conv2d(x, w * 2, groups=3),
                                   (2, 6, 4, 5), (12, 2, 3, 3)),
    "conv2d, depthwise": op(lambda x, w, b: F.conv2d(x, w, b, groups=4),
                            (2, 4, 5, 6), (4, 1, 3, 3), (4,)),
    "conv2d, multiplied": op(lambda x, w, b: F.conv2d(x, w, b, groups=4),
                             (2, 4, 5, 6), (8, 1, 3, 3), (8,)),
    "conv2d, constant filters": op(
        lambda x: F.conv2d(x, torch.tensor([1.0, 2.0, 1.0]).double().expand(4, 1, 1, 3), groups=4),
        (2, 4, 5, 6)),
    "conv2d, other filters": op(
        lambda x: F.conv2d(x, torch.arange(12.0).double().reshape(4, 1, 1, 3), groups=4),
        (2, 4, 5, 6)),
    "conv1d of a fold": op(fold_and_convolve, (8, 5), (6, 4, 3)),
    "conv1d of a fold, depthwise": op(lambda x, w: fold_and_convolve(x, w, 4), (8, 5), (4, 1, 3)),
    "conv1d of a fold, grouped": op(lambda x, w: fold_and_convolve(x, w, 2), (8, 5), (4, 2, 3)),
    "conv1d of an outer sum, depthwise": op(
        lambda x, y, w: F.conv1d((x.view(2, 4) + y)[..., None], w, groups=4),
        (8,), (4,), (4, 1, 1)),
    "conv2d, grouped, transposed": op(lambda x, w: F.conv_transpose2d(x, w, groups=2),
                                      (2, 4, 3, 3), (4, 3, 2, 2)),
    # norms
    "batch norm": op(lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b),
                     IMAGE, (6,), (6,), (6,), (6,), statistics=(1, 2)),
    "batch norm, plain": op(lambda x, m, v: F.batch_norm(x, m, v), (5, 4), (4,), (4,),
                            statistics=(1, 2)),
    "batch norm, training": op(lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
                               IMAGE, (6,), (6,)),
    "batch norm, training with statistics": op(
        lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, True), IMAGE, (6,), (6,), (6,), (6,),
        statistics=(1, 2)),
    "batch norm of fixed statistics": op(
        lambda x, m, v, w: F.batch_norm(x, m, v, w), IMAGE, (6,), (6,), (6,), fixed=(1, 2)),
    "batch norm of a fold": op(
        lambda x, w, b: F.batch_norm(x.view(2, 6, 4), None, None, w, b, True),
        (12, 4), (6,), (6,)),
    **{f"batch norm, {name}": op(lambda x, w, b, f=name: getattr(aten, f)(
           x, w, b, *(y.clone() for y in FOUND), *[True] * (f[-10:] == "norm_legit"), 0.1, 1e-5)[0],
           IMAGE, (6,), (6,))
       for name in ("_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
                    "_batch_norm_with_update", "_batch_norm_no_update")},
    "layer norm": op(lambda x, w, b: F.layer_norm(x, (4,), w, b), B, (4,), (4,)),
    "layer norm, plain": op(lambda x: F.layer_norm(x, (4,)), B),
    "layer norm over two": op(lambda x, w, b: F.layer_norm(x, (5, 4), w, b), B, A, A),
    "rms norm, fused": op(lambda x, w: aten._fused_rms_norm(x, [4], w, 1e-6)[0], B, (4,)),
    "rms norm": op(lambda x, w: F.rms_norm(x, (4,), w), B, (4,)),
    "group norm": op(lambda x, w, b: F.group_norm(x, 3, w, b), IMAGE, (6,), (6,)),
    "group norm of one": op(lambda x, w, b: F.group_norm(x, 1, w, b), IMAGE, (6,), (6,)),
    "group norm of all": op(lambda x, w, b: F.group_norm(x, 6, w, b), IMAGE, (6,), (6,)),
    "instance norm": op(lambda x, w, b: F.instance_norm(x, None, None, w, b), IMAGE, (6,), (6,)),
    "local response norm": op(lambda x: F.local_response_norm(x, 3), IMAGE),
    "normalize": op(lambda x: F.normalize(x, dim=1), B),
    "weight norm": op(lambda v, g: torch._weight_norm(v, g, 0), (5, 4, 3), (5, 1, 1)),
    # reductions and what runs along an axis
    **{name: op(lambda x, f=name: getattr(torch, f)(x, dim=1), B)
       for name in ("sum", "mean", "amax", "amin", "prod", "var", "std", "var_mean", "std_mean",
                    "nansum", "logsumexp", "max", "min", "argmax", "argmin", "median", "mode",
                    "softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "cummax",
                    "cummin", "sort", "argsort", "diff")},
    "sum of all": op(lambda x: x.sum(), B),
    "sum over two, kept": op(lambda x: x.sum((0, -1), keepdim=True), B),
    "max of all": op(lambda x: x.max(), B),
    "max of two": op(lambda x, y: torch.max(x, y), B, (4,)),
    "argmax of all": op(lambda x: x.argmax(), B),
    "any": op(lambda x: (x > 0).any(1), B),
    "all": op(lambda x: (x > 0).all(-1), B),
    "norm": op(lambda x: torch.linalg.vector_norm(x, dim=(0, 2)), B),
    "old norm": op(lambda x: aten.norm(x, 2, [1], True), B),
    "safe softmax": op(lambda x: aten._safe_softmax(x, 1), B),
    "topk": op(lambda x: x.topk(2, 1), B),
    "tril": op(torch.tril, B),
    "triu": op(torch.triu, A),
    "logits": op(lambda x: F.cosine_similarity(x, x.flip(0), 1), B),
    # pooling, interpolation, padding
    "avg_pool1d": op(lambda x: F.avg_pool1d(x, 2), SEQ),
    "adaptive_avg_pool1d": op(lambda x: F.adaptive_avg_pool1d(x, 3), SEQ),
    "max_pool1d": op(lambda x: F.max_pool1d(x, 2), SEQ),
    "avg_pool2d": op(lambda x: F.avg_pool2d(x, 2), IMAGE),
    "max_pool2d": op(lambda x: F.max_pool2d(x, 2, return_indices=True), IMAGE),
    "adaptive_avg_pool2d": op(lambda x: F.adaptive_avg_pool2d(x, 2), IMAGE),
    "global pool": op(lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    "adaptive_max_pool2d": op(lambda x: F.adaptive_max_pool2d(x, 2), IMAGE),
    "avg_pool3d": op(lambda x: F.avg_pool3d(x, 2), VOLUME),
    "max_pool3d": op(lambda x: F.max_pool3d(x, 2), VOLUME),
    "adaptive_avg_pool3d": op(lambda x: F.adaptive_avg_pool3d(x, 2), VOLUME),
    "adaptive_max_pool3d": op(lambda x: F.adaptive_max_pool3d(x, 2), VOLUME),
    **{f"interpolate {mode}": op(lambda x, m=mode: F.interpolate(x, scale_factor=2, mode=m), shape)
       for mode, shape in (("nearest", IMAGE), ("bilinear", IMAGE), ("bicubic", IMAGE),
                           ("nearest-exact", IMAGE), ("linear", SEQ), ("trilinear", VOLUME))},
    **{f"interpolate {mode} {len(shape) - 2}d": op(
           lambda x, m=mode: F.interpolate(x, scale_factor=2, mode=m), shape)
       for mode in ("nearest", "nearest-exact") for shape in (SEQ, VOLUME)},
    **{f"interpolate {mode} smoothly": op(
           lambda x, m=mode: F.interpolate(x, (3, 3), mode=m, antialias=True), IMAGE)
       for mode in ("bilinear", "bicubic")},
    "fractional_max_pool2d": op(
        lambda x: aten.fractional_max_pool2d(x, [2, 2], [2, 2], 0.3 * torch.ones(2, 6, 2).double()),
        IMAGE),
    **{f"{mode} {len(pads) // 2}d": op(lambda x, m=mode, p=pads: F.pad(x, p, m), shape)
       for mode in ("reflect", "replicate", "circular")
       for pads, shape in (((1, 1), SEQ), ((1, 1, 1, 0), IMAGE),
                           ((1, 1, 1, 0, 0, 1), VOLUME))},
    "pad pixels": op(lambda x: F.pad(x, (1, 1, 2, 0)), IMAGE),
    "pad channels": op(lambda x: F.pad(x, (0, 0, 0, 0, 2, 3)), IMAGE),
    "pad by less": op(lambda x: F.pad(x, (0, 0, 0, 0, -2, 3)), IMAGE),
    # movements
    "view": op(lambda x: x.view(3, 20), B),
    "flatten": op(lambda x: x.flatten(), B),
    "unflatten": op(lambda x: x.unflatten(1, (2, 3)), (5, 6)),
    "regroup": op(lambda x: x.reshape(3, 4), (2, 6)),
    "squeeze": op(lambda x: x.unsqueeze(1).squeeze(-1).squeeze(), (5, 4, 1)),
    "view_copy": op(
        lambda x: aten.view_copy(aten.unsqueeze_copy(aten.squeeze_copy(x), 1), [4, 5]), A),
    "reshape_alias": op(lambda x: aten._reshape_alias(x, [4, 5], [5, 1]), A),
    "t": op(lambda x: x.t(), A),
    "transpose": op(lambda x: x.transpose(0, -1), B),
    "permute": op(lambda x: x.permute(2, 0, -2), B),
    "movedim": op(lambda x: x.movedim(0, 2), B),
    "expand": op(lambda x: x[:, None].expand(-1, 3, -1), A),
    "slice": op(lambda x: x[:, 1:4], B),
    "slice by steps": op(lambda x: x[:, ::2], B),
    "select": op(lambda x: x[:, 2], B),
    "narrow": op(lambda x: x.narrow(1, 1, 3), B),
    "split": op(lambda x: x.split(2, 1), B),
    "split with sizes": op(lambda x: x.split([1, 4], 1), B),
    "unsafe split": op(lambda x: torch.unsafe_split(x, 2, 1), B),
    "unsafe chunk": op(lambda x: torch.unsafe_chunk(x, 2, 1), B),
    "unsafe split with sizes": op(lambda x: torch.unsafe_split_with_sizes(x, [1, 4], 1), B),
    "chunk": op(lambda x: x.chunk(2, -1), B),
    "unbind": op(lambda x: x.unbind(1), B),
    "roll": op(lambda x: x.roll(2, 1), B),
    "neighbours, flattened": op(lambda x: (x + 2 * x.roll(1, 0)).flatten(), (4, 3)),
    "flip": op(lambda x: x.flip(1), B),
    "rot90": op(lambda x: x.rot90(1, (1, 2)), B),
    "repeat": op(lambda x: x.repeat(2, 3), A),
    "repeat_interleave": op(lambda x: x.repeat_interleave(2, 1), A),
    "tile after flatten": op(lambda x: x.flatten().repeat(2), (2, 3)),
    "pixel_shuffle": op(lambda x: F.pixel_shuffle(x, 2), (2, 12, 2, 3)),
    "pixel_unshuffle": op(lambda x: F.pixel_unshuffle(x, 2), (2, 3, 2, 4)),
    "channel_shuffle": op(lambda x: F.channel_shuffle(x, 2), IMAGE),
    "native_channel_shuffle": op(lambda x: aten.native_channel_shuffle(x, 2), IMAGE),
    "unfold": op(lambda x: x.unfold(1, 2, 1), B),
    "im2col": op(lambda x: F.unfold(x, 2), (1, 3, 3, 4)),
    "diagonal": op(lambda x: x.diagonal(dim1=1, dim2=2), B),
    "cat": op(lambda x, y: torch.cat([x, y], 1), B, (3, 2, 4)),
    "cat with an input": op(lambda x, y: torch.cat([x, y], 1), B, (3, 2, 4), fixed=(1,)),
    "cat with itself": op(lambda x: torch.cat([x, x], 1), B),
    "stack of two and back": op(lambda x, y: torch.stack([x, y], 1).unbind(1), A, A),
    "chunk a table": op(lambda x, y: [p * y for p in x.chunk(3, 0)], (3, 4), (5, 4)),
    "chunk a vector in half": op(lambda x, y: x[:2] * y + x[2:], (4,), (3, 2)),
    "unbind a table": op(lambda x, y: y * x.unbind(0)[0] + x.unbind(0)[1], (2, 4), (5, 4)),
    "shift and scale": op(lambda x, y: scaled(*x, y), (2, 4), (5, 4)),
    "cat over one": op(lambda x, y: torch.cat([x, y], 1), (5, 1), (5, 1)),
    "stack": op(lambda x, y: torch.stack([x, y], 1), A, A),
    "stack with itself": op(lambda x: torch.stack([x, x], -1), A),
    "as_strided": op(lambda x: x.as_strided((5, 4), (4, 1)), A),
    "as_strided turned": op(lambda x: x.as_strided((4, 5), (1, 4)), A),
    # rows by number
    "embedding": op(lambda w: F.embedding(torch.tensor([[1, 0, 2]]), w), A),
    "embedding_bag": op(lambda w: F.embedding_bag(torch.tensor([[1, 0, 2]]), w), A),
    "embedding_bag, trained": op(
        lambda w: aten._embedding_bag(w, ROWS, torch.tensor([0, 2]))[0], A),
    "embedding_bag, forward": op(
        lambda w: aten._embedding_bag_forward_only(w, ROWS, torch.tensor([0, 2]))[0], A),
    "index": op(lambda x: x[ROWS], A),
    "unsafe_index": op(lambda x: aten._unsafe_index(x, [ROWS]), A),
    "index of two": op(lambda x: x[ROWS, :, torch.tensor([0, 1, 3, 3])], (5, 3, 4)),
    "index, mask": op(lambda x: x[MASK], A),
    "index, data": op(lambda x, y: x[y.abs().long() % 5], A, (3,), fixed=(1,)),
    "index_select": op(lambda x: x.index_select(1, torch.tensor([2, 0, 0])), B),
    "gather": op(lambda x: x.gather(0, torch.tensor([[0, 1, 2, 3], [4, 4, 2, 0]])), A),
    "take_along": op(lambda x, y: x.gather(1, y.argsort(1)), A, A),
    # attention
    "attention": op(F.scaled_dot_product_attention, (2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 7)),
    "attention of equal sizes": op(F.scaled_dot_product_attention, *[(2, 3, 4, 6)] * 3),
    "attention, causal": op(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
                            *[(2, 3, 4, 6)] * 3),
    "attention, masked": op(F.scaled_dot_product_attention, *[(2, 3, 4, 6)] * 3, (3, 4, 4)),
    "attention, masked by data": op(F.scaled_dot_product_attention, *[(2, 3, 4, 6)] * 3, (4, 4),
                                    fixed=(3,)),
    "attention, grouped": op(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (2, 6, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5)),
    "attention of three axes": op(F.scaled_dot_product_attention, *[(3, 4, 6)] * 3),
}  # fmt: skip
