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


A, B, IMAGE, SEQ = (5, 4), (3, 5, 4), (2, 6, 5, 4), (2, 4, 7)
MASK = torch.randn(A, generator=torch.Generator().manual_seed(1)) > 0
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
    "detach": op(lambda x: x.detach(), A),
    "alias": op(lambda x: aten.alias(x), A),
    "lift_fresh": op(lambda x: aten.lift_fresh(x), A),
    "conj": op(lambda x: (x + 0j).conj().resolve_conj().real, A),
    "positive": op(lambda x: +x, A),
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
    "copy_ over a slice": op(lambda x, y: assigned_one(x.clone(), y), A, (5, 2)),
    "add_ to a slice": op(lambda x, y: added_one(x.clone(), y), A, (5, 2)),
    "add_ to what is zero": op(lambda x: x.new_zeros(5, 4).add_(x), A),
    "masked_fill_": op(lambda x: x.clone().masked_fill_(MASK, 0.0), A),
    "index_add": op(lambda x, y: x.index_add(0, ROWS, y), A, (4, 4)),
    "scatter_add": op(lambda x, y: x.scatter_add(0, ROWS[:, None].expand(4, 4), y), A, (4, 4)),
    # constants
    **{name: op(lambda x, f=name: getattr(torch, f)(x) + x, A)
       for name in ("zeros_like", "ones_like")},
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
    "conv2d, grouped, transposed": op(lambda x, w: F.conv_transpose2d(x, w, groups=2),
                                      (2, 4, 3, 3), (4, 3, 2, 2)),
    # norms
    "batch norm": op(lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b),
                     IMAGE, (6,), (6,), (6,), (6,), statistics=(1, 2)),
    "batch norm, plain": op(lambda x, m, v: F.batch_norm(x, m, v), (5, 4), (4,), (4,),
                            statistics=(1, 2)),
    "batch norm, training": op(lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
                               IMAGE, (6,), (6,)),
    "batch norm with update": op(
        lambda x, w, b, m, v: aten._batch_norm_with_update(x, w, b, m.clone(), v.clone(), 0.1, 1e-5)[0],
        IMAGE, (6,), (6,), (6,), (6,)),
    "layer norm": op(lambda x, w, b: F.layer_norm(x, (4,), w, b), B, (4,), (4,)),
    "layer norm, plain": op(lambda x: F.layer_norm(x, (4,)), B),
    "layer norm over two": op(lambda x, w, b: F.layer_norm(x, (5, 4), w, b), B, A, A),
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
    "avg_pool3d": op(lambda x: F.avg_pool3d(x, 2), (1, 2, 4, 2, 3)),
    "max_pool3d": op(lambda x: F.max_pool3d(x, 2), (1, 2, 4, 2, 3)),
    "adaptive_avg_pool3d": op(lambda x: F.adaptive_avg_pool3d(x, 2), (1, 3, 4, 2, 3)),
    "adaptive_max_pool3d": op(lambda x: F.adaptive_max_pool3d(x, 2), (1, 3, 4, 2, 3)),
    **{f"interpolate {mode}": op(lambda x, m=mode: F.interpolate(x, scale_factor=2, mode=m), shape)
       for mode, shape in (("nearest", IMAGE), ("bilinear", IMAGE), ("bicubic", IMAGE),
                           ("nearest-exact", IMAGE), ("linear", SEQ), ("trilinear", (1, 3, 2, 4, 2)))},
    **{f"{mode} {len(pads) // 2}d": op(lambda x, m=mode, p=pads: F.pad(x, p, m), shape)
       for mode in ("reflect", "replicate", "circular")
       for pads, shape in (((1, 1), SEQ), ((1, 1, 1, 0), IMAGE),
                           ((1, 1, 1, 0, 0, 1), (1, 3, 2, 4, 2)))},
    "pad pixels": op(lambda x: F.pad(x, (1, 1, 2, 0)), IMAGE),
    "pad channels": op(lambda x: F.pad(x, (0, 0, 0, 0, 2, 3)), IMAGE),
    "pad by less": op(lambda x: F.pad(x, (0, 0, 0, 0, -2, 3)), IMAGE),
    # movements
    "view": op(lambda x: x.view(3, 20), B),
    "flatten": op(lambda x: x.flatten(), B),
    "unflatten": op(lambda x: x.unflatten(1, (2, 3)), (5, 6)),
    "regroup": op(lambda x: x.reshape(3, 4), (2, 6)),
    "squeeze": op(lambda x: x.unsqueeze(1).squeeze(-1).squeeze(), (5, 4, 1)),
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
    "flip": op(lambda x: x.flip(1), B),
    "rot90": op(lambda x: x.rot90(1, (1, 2)), B),
    "repeat": op(lambda x: x.repeat(2, 3), A),
    "repeat_interleave": op(lambda x: x.repeat_interleave(2, 1), A),
    "tile after flatten": op(lambda x: x.flatten().repeat(2), (2, 3)),
    "pixel_shuffle": op(lambda x: F.pixel_shuffle(x, 2), (2, 12, 2, 3)),
    "pixel_unshuffle": op(lambda x: F.pixel_unshuffle(x, 2), (2, 3, 2, 4)),
    "channel_shuffle": op(lambda x: F.channel_shuffle(x, 2), IMAGE),
    "unfold": op(lambda x: x.unfold(1, 2, 1), B),
    "im2col": op(lambda x: F.unfold(x, 2), (1, 3, 3, 4)),
    "diagonal": op(lambda x: x.diagonal(dim1=1, dim2=2), B),
    "cat": op(lambda x, y: torch.cat([x, y], 1), B, (3, 2, 4)),
    "cat with an input": op(lambda x, y: torch.cat([x, y], 1), B, (3, 2, 4), fixed=(1,)),
    "cat with itself": op(lambda x: torch.cat([x, x], 1), B),
    "cat over one": op(lambda x, y: torch.cat([x, y], 1), (5, 1), (5, 1)),
    "stack": op(lambda x, y: torch.stack([x, y], 1), A, A),
    "stack with itself": op(lambda x: torch.stack([x, x], -1), A),
    "as_strided": op(lambda x: x.as_strided((5, 4), (4, 1)), A),
    "as_strided turned": op(lambda x: x.as_strided((4, 5), (1, 4)), A),
    # rows by number
    "embedding": op(lambda w: F.embedding(torch.tensor([[1, 0, 2]]), w), A),
    "embedding_bag": op(lambda w: F.embedding_bag(torch.tensor([[1, 0, 2]]), w), A),
    "index": op(lambda x: x[ROWS], A),
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
