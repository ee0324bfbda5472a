"""The architectures on which symmetry tracing is tested, and what is known of their groups.

`ZOO`: those of the libraries and of mcbook, each with the numbers that an independent prototype
found.  `EXTRA`: small modules for what those do not have; their numbers are derived by hand.

Counting: `units` are the members of all spaces.  Groups of channels (group norm, grouped
convolution) and attention heads are members of a space of their own, and the channels inside them
are *nested* in it; what follows other units (the 49 columns of a flattened map, the four gates of
an LSTM) is not counted.  `log10` is the order of the group, `Σ log10 n!` over the cells.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from symmetry.modules import (
    NumpyReLU,
    OwnLinear,
    OwnReLU,
    Standardized,
    assigned,
    attention,
    bilinear,
    conv,
    convnext,
    dense,
    einsums,
    encoder,
    gpt,
    head,
    in_place,
    loop,
    maps,
    mixer,
    operator_linear,
    operator_relu,
    outputs_net,
    padded,
    part_frozen,
    recurrent,
    shuffle,
    sinusoids,
    spare_positions,
    squeeze_excitation,
    tied,
    two_activations,
    unet,
    units_net,
    weight_norm,
    with_linear,
)
from torch import Tensor, nn
from torch.nn import functional as F

from mcbook.models import build_from, library

Build = Callable[[], nn.Module]

# initialisations that are drawn: replaced by a cheap one of about the same size
_DRAWN = ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_",
          "xavier_normal_", "xavier_uniform_")  # fmt: skip
_NOISE = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).repeat(2)


@contextlib.contextmanager
def quick_initialisation() -> Iterator[None]:
    """Fixed seeds and cheap draws, `N(0, 2 / fan_in)`: VGG has 134 million weights to draw.

    Entries come from one long random vector, again and again; its length is a prime, so that no
    two rows of a weight are equal.
    """
    start = 0

    def fill(tensor: Tensor, *_: object, **__: object) -> Tensor:
        nonlocal start
        fan_in = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else 1
        period = len(_NOISE) // 2
        noise = _NOISE[start : start + min(tensor.numel(), period)] * math.sqrt(2 / fan_in)
        for part in tensor.detach().view(-1).split(max(1, len(noise))):
            part.copy_(noise[: len(part)])
        start = (start + tensor.numel()) % period
        return tensor

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(0)
        for name in _DRAWN:
            for module in (nn.init, nn.modules.activation):  # the second imports some by name
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, fill))
        yield


@dataclass(frozen=True)
class Case:
    """An architecture, one input, and what is known of its group.

    Attributes:
        make: makes the module; `build` does it quickly, with fixed seeds, in eval mode.
        shape: of one floating-point input without the batch axis.
        spaces: how many spaces of at least two units; None where it is not known.
        units: in all of them.
        log10: the order of the group.
        least_units: so many must be free.
        most_units: more would be wrong.
        example: makes a batch of so many integer inputs, in place of `shape`.
    """

    make: Build
    shape: tuple[int, ...] = ()
    spaces: int | None = None
    units: int | None = None
    log10: float | None = None
    least_units: int = 0
    most_units: int = 0
    example: Callable[[int], Tensor] | None = None

    def build(self) -> nn.Module:
        """The module, always the same; no global random state is changed."""
        with quick_initialisation():
            return self.make().eval()

    def inputs(self, batch: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
        """A batch of inputs, always the same."""
        if self.example is not None:
            return self.example(batch)
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch, *self.shape, generator=generator, dtype=dtype)


# libraries ----------------------------------------------------------------------------------


def _vision(name: str, **options: Any) -> Build:
    return lambda: library("torchvision").models.get_model(
        name, weights=None, num_classes=10, **options
    )


def _timm(name: str) -> Build:
    return lambda: library("timm").create_model(name, pretrained=False, num_classes=10)


def _mcbook(name: str, **options: Any) -> Build:
    return lambda: build_from(
        {"name": name, "shape": (3, 32, 32), "classes": 10, "standardize": True, "options": options}
    )


def _cct() -> nn.Module:
    library("vit_pytorch")
    from vit_pytorch.cct import CCT

    return CCT(
        img_size=32, embedding_dim=128, n_conv_layers=2, kernel_size=3, stride=1, padding=1,
        num_layers=4, num_heads=4, mlp_ratio=2, num_classes=10, positional_embedding="learnable",
    )  # fmt: skip


S32, S64 = (3, 32, 32), (3, 64, 64)
ZOO: dict[str, Case] = {
    "mlp": Case(_mcbook("mlp", width=(512, 512, 512)), S32, 3, 1_536, 3_499.6),
    "lenet5": Case(_mcbook("lenet5"), S32, 4, 226, 341.5),
    "vgg11": Case(_vision("vgg11", init_weights=False), S32, 10, 10_944, 32_023.8),
    "vgg11_bn": Case(_vision("vgg11_bn", init_weights=False), S32, 10, 10_944, 32_023.8),
    "vgg16": Case(_vision("vgg16", init_weights=False), S32, 15, 12_416, 35_168.5),
    "vgg16_bn": Case(_vision("vgg16_bn", init_weights=False), S32, 15, 12_416, 35_168.5),
    "resnet20_conv": Case(_mcbook("resnet20", shortcut="projection"), S32, 12, 448, 551.4),
    "resnet20_padA": Case(_mcbook("resnet20"), S32, 12, 400, 475.6),
    "resnet18": Case(_vision("resnet18"), S32, 12, 2_880, 5_934.5),
    "resnet50": Case(_vision("resnet50"), S32, 37, 11_456, 25_638.3),
    "mobilenet_v2": Case(_vision("mobilenet_v2"), S32, 25, 9_128, 21_116.4),
    "mobilenet_v3_small": Case(_vision("mobilenet_v3_small"), S32, 27, 4_872, 10_226.0),
    "shufflenet_v2_x0_5": Case(_vision("shufflenet_v2_x0_5"), S32, 80, 2_938, 4_884.8),
    "efficientnet_b0": Case(_vision("efficientnet_b0"), S32, 40, 11_404, 27_049.6),
    "regnet_x_400mf": Case(_vision("regnet_x_400mf"), S32, 71, 13_228, 11_788.4),
    "densenet121": Case(_vision("densenet121"), S32, 120, 10_240, 16_536.5),
    "convnext_tiny": Case(_vision("convnext_tiny"), S32, 22, 27_936, 77_559.8),
    "vit_b_16": Case(_vision("vit_b_16", image_size=32), S32, 49, 56_208, 140_226.4),
    "swin_t": Case(_vision("swin_t"), S64, 52, 28_074, 62_662.1),
    "dla34": Case(_timm("dla34"), S64, 25, 5_056, 10_142.3),
    "dla46_c": Case(_timm("dla46_c"), S64, 36, 2_624, 4_079.3),
    "cct": Case(_cct, S32, 18, 2_256, 3_471.4),
}


# small modules ------------------------------------------------------------------------------


def _order(*cells: int) -> float:
    """`Σ log10 n!`: a cell is so many units that can be exchanged freely."""
    return sum(math.lgamma(n + 1) for n in cells) / math.log(10)


def _exactly(
    make: Build, shape: tuple[int, ...], spaces: int, units: int, *cells: int,
    example: Callable[[int], Tensor] | None = None,
) -> Case:  # fmt: skip
    """A case whose group is known; its cells give the order."""
    return Case(make, shape, spaces, units, _order(*cells), units, units, example)


def _tokens(batch: int, length: int = 7, vocabulary: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocabulary, (batch, length), generator=generator)


_S8 = (3, 8, 8)
EXTRA: dict[str, Case] = {
    # the maps of each convolution, and nothing else
    "vgg11_narrow": _exactly(
        _mcbook("vgg11", width=8), S32, 8, 344, 8, 16, 32, 32, 64, 64, 64, 64
    ),
    "vgg16_narrow": _exactly(
        _mcbook("vgg16", width=4, norm=None), S32, 13, 264, 4, 4, 8, 8, *[16] * 3, *[32] * 6
    ),
    "tinyten": _exactly(
        _mcbook("tinyten", width=4), S32, 8, 80, 4, 4, 8, 8, 8, 16, 16, 16
    ),
    # skip and first maps are one, then the low ones, those of the transposed convolution, the mix
    "unet": _exactly(unet, (2, 8, 8), 4, 40, 8, 16, 8, 8),
    # the four gates and the cell of a unit go together
    "lstm": _exactly(lambda: recurrent(nn.LSTM, 1), (4, 5), 1, 6, 6),
    # torch stacks the last states of all layers, whether they are used or not
    "lstm_of_two_layers": _exactly(lambda: recurrent(nn.LSTM, 2), (4, 5), 2, 12, 6, 6),
    "gru": _exactly(lambda: recurrent(nn.GRU, 1), (4, 5), 1, 6, 6),
    # of the 24 maps, the four of one output map go together, in their order
    "pixel_shuffle": _exactly(
        lambda: maps(conv(3, 24), nn.PixelShuffle(2), out=6), _S8, 2, 12, 6, 6
    ),
    # eight units of three pieces each, whose order does not matter
    "maxout": _exactly(
        lambda: units_net(lambda x: x.unflatten(1, (8, 3)).amax(-1), first=24),
        (6,), 3, 37, 8, *[3] * 8, 5,
    ),
    # the same; but `max` also returns which piece it was, so they may be held in their order
    "maxout_with_indices": Case(
        lambda: units_net(lambda x: x.unflatten(1, (8, 3)).max(-1).values, first=24),
        (6,), least_units=13, most_units=37,
    ),
    # a layer that is its own next
    "loop": _exactly(loop, (6,), 1, 12, 12),
    # per layer: 2 heads, their 4 query-key and 4 value dimensions, 16 hidden units
    "encoder": _exactly(
        lambda: encoder(nn.Embedding(11, 8)), (), 9, 76, 8, *[2, 4, 4, 4, 4, 16] * 2,
        example=_tokens,
    ),
    # the input itself lies in the stream
    "encoder_on_features": _exactly(
        lambda: encoder(nn.Identity()), (5, 8), 8, 68, *[2, 4, 4, 4, 4, 16] * 2
    ),
    # the weights that are returned are means over the heads
    "attention_with_weights": _exactly(attention, (), 4, 26, 8, 2, 4, 4, 4, 4, example=_tokens),
    # per layer: 2 groups of keys and values, in each 3 heads, 8 query-key, 8 value dimensions
    "gpt": _exactly(
        gpt, (), 11, 416, 48, *[2, 3, 3, 8, 8, 8, 8, 144] * 2, example=_tokens
    ),
    # two rows that inputs of this length do not read: longer ones tell them apart
    "spare_positions": _exactly(spare_positions, (), 2, 20, 8, 12, example=_tokens),
    "group_norm": _exactly(  # 4 groups of 4
        lambda: nn.Sequential(
            conv(3, 16), nn.GroupNorm(4, 16), nn.ReLU(), conv(16, 24), nn.ReLU(), head(24)
        ),
        _S8, 3, 44, 4, *[4] * 4, 24,
    ),
    "instance_norm": _exactly(
        lambda: maps(conv(3, 8), nn.InstanceNorm2d(8, affine=True), out=8), _S8, 2, 14, 8, 6
    ),
    "rms_norm": _exactly(
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.RMSNorm(8), nn.GELU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
        (6,), 2, 13, 8, 5,
    ),
    # its weights [8, 8, 8] move along channels, not in the image
    "layer_norm_over_all": _exactly(
        lambda: maps(conv(3, 8), nn.LayerNorm([8, 8, 8]), out=8), _S8, 2, 14, 8, 6
    ),
    # 3 groups, into each 4 maps and out of each 4, go together; then 6
    "grouped_shuffled": _exactly(
        lambda: maps(
            conv(3, 12), nn.ReLU(), conv(12, 12, groups=3), shuffle(3), out=12
        ),
        _S8, 4, 33, 3, *[4] * 6, 6,
    ),
    # each map lies in one of 3 groups and one of 4: at most the groups are free, not the maps
    # between; at least what is inside groups before and after
    "grouped_twice": Case(
        lambda: nn.Sequential(
            conv(3, 12), nn.ReLU(), conv(12, 12, groups=3), nn.ReLU(), shuffle(3),
            conv(12, 12, groups=4), nn.ReLU(), head(12),
        ),
        _S8, least_units=24, most_units=43,
    ),
    # the two filters on each of 6 maps can be exchanged
    "depthwise_multiplied": _exactly(
        lambda: maps(conv(3, 6), nn.ReLU(), conv(6, 12, groups=6), out=12),
        _S8, 3, 24, 6, *[2] * 6, 6,
    ),
    "standardized": _exactly(
        lambda: maps(conv(3, 8), nn.ReLU(), Standardized(8, 7, 3), out=7), _S8, 3, 21, 8, 7, 6
    ),
    # 2 groups, into each 4 maps and out of each 4; the columns of a derived weight may have to
    # go together in both groups
    "standardized_grouped": Case(
        lambda: maps(conv(3, 8), nn.ReLU(), Standardized(8, 8, 3, groups=2), out=8),
        _S8, least_units=14, most_units=24,
    ),
    "weight_norm": _exactly(
        lambda: maps(weight_norm(conv(3, 8)), nn.ReLU(), weight_norm(conv(8, 7)), out=7),
        _S8, 3, 21, 8, 7, 6,
    ),
    # the gate's outputs go with the maps
    "squeeze_excitation": _exactly(squeeze_excitation, _S8, 3, 18, 8, 4, 6),
    "dense": _exactly(dense, _S8, 3, 15, 6, 5, 4),
    # four maps of the stream and four new ones around them; seven inside
    "padded_shortcut": _exactly(padded, _S8, 3, 15, 4, 4, 7),
    "convnext": _exactly(convnext, _S8, 2, 24, 8, 16),
    "conv1d": _exactly(
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 8, 3), nn.ReLU(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3),
        ),
        (3, 9), 2, 14, 6, 8,
    ),
    # the last maps are flattened: every unit has 8 columns
    "conv3d": _exactly(
        lambda: nn.Sequential(
            nn.Conv3d(2, 5, 3, padding=1), nn.BatchNorm3d(5), nn.ReLU(), nn.Conv3d(5, 6, 3),
            nn.ReLU(), nn.Flatten(), nn.Linear(48, 3),
        ),
        (2, 4, 4, 4), 2, 11, 5, 6,
    ),
    "prelu": _exactly(lambda: maps(conv(3, 8), nn.PReLU(8), out=8), _S8, 2, 14, 8, 6),
    # 8 of the stream, 10 of the mixing over tokens, 12 of that over channels; no tokens
    "mixer": _exactly(mixer, (4, 5), 3, 30, 8, 10, 12),
    # a constant for every channel holds the stream in place
    "sinusoids_added": _exactly(lambda: sinusoids(False), (4, 5), 1, 12, 12),
    "sinusoids_multiplied": _exactly(lambda: sinusoids(True), (4, 5), 1, 12, 12),
    # the middle weights are [3, 4, ...]: an index for each axis, not one for the 12 pairs
    "einsums": _exactly(einsums, (6,), 4, 20, 8, 3, 4, 5),
    "tied_layers": _exactly(tied, (6,), 1, 10, 10),
    # 8 of one kind, 8 of another
    "two_activations": _exactly(
        lambda: units_net(two_activations, 16, 16), (6,), 3, 21, 8, 8, 5
    ),
    # every unit is tied to its neighbours, so the eight go together: at most one unit, not movable
    "rolled": Case(
        lambda: units_net(lambda x: F.relu(x + x.roll(1, 1))), (6,), log10=_order(5),
        least_units=5, most_units=6,
    ),
    # ranks stay, units would move
    "sorted": _exactly(lambda: units_net(lambda x: x + x.sort(1).values), (6,), 1, 5, 5),
    "fourier": _exactly(lambda: units_net(lambda x: torch.fft.rfft(x).abs(), 5), (6,), 1, 5, 5),
    # slices of one tensor scaled in place: 4 of the stream are one kind, 5 another
    "in_place": _exactly(in_place, (6,), 2, 9, 4, 5),
    # the last 5; the two sixes as well for a trace that follows assignments
    "assigned": Case(assigned, (6,), least_units=5, most_units=17),
    # what is an output stays: 10 before it
    "nested_outputs": _exactly(outputs_net, (6,), 1, 10, 10),
    # whether a parameter is trained does not matter
    "part_frozen": _exactly(part_frozen, (6,), 2, 13, 8, 5),
    # all 18 where `_trilinear` is known or probed; each of them touches it
    "bilinear": Case(bilinear, (6,), least_units=0, most_units=18),
    # the columns go through `_embedding_bag`: 5 surely, 8 more where it is known
    "embedding_bag": Case(
        lambda: nn.Sequential(
            nn.EmbeddingBag(11, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
        example=_tokens, least_units=5, most_units=13,
    ),
    # made of known operations
    "function_relu": _exactly(lambda: units_net(OwnReLU.apply), (6,), 2, 13, 8, 5),
    "function_linear": _exactly(lambda: with_linear(OwnLinear.apply), (6,), 2, 13, 8, 5),
    # operators of their own: frozen, or found out by probing
    "operator_relu": Case(operator_relu, (6,), least_units=5, most_units=13),
    "operator_linear": Case(operator_linear, (6,), least_units=0, most_units=13),
    # the trace loses sight of 8 units; what it makes of them must not pass the verification
    "hidden_in_numpy": Case(
        lambda: units_net(NumpyReLU.apply), (6,), least_units=5, most_units=13
    ),
}  # fmt: skip
