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

import numpy as np
import torch
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


class Net(nn.Module):
    """A module from its parts and its forward pass, a function of itself and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: nn.Module | Tensor):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def _drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(shape)))


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


def _conv(c: int, out: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c, out, k, padding=k // 2, **options)


def _head(maps: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, 3))


def _maps(*layers: nn.Module, out: int) -> nn.Module:
    """Layers on `[n, c, h, w]`, a ReLU, a 3 × 3 convolution to 6 maps, a ReLU, the mean, a head."""
    return nn.Sequential(*layers, nn.ReLU(), _conv(out, 6), nn.ReLU(), _head(6))


# convolutions


def _unet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        skip = F.relu(m.first(x))
        low = F.relu(m.low(F.max_pool2d(skip, 2)))
        y = F.relu(m.mix(torch.cat([skip, m.up(low)], 1)))
        return m.out(F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False))

    up = nn.ConvTranspose2d(16, 8, 2, stride=2)
    return Net(run, first=_conv(2, 8), low=_conv(8, 16), up=up, mix=_conv(16, 8), out=_conv(8, 2))


class Standardized(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 (weight standardisation)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


def _shuffle(groups: int) -> nn.Module:
    return Net(lambda _, x: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2))


def _squeeze_excitation() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = F.relu(m.conv(x))
        gate = m.up(F.relu(m.down(y.mean((2, 3), keepdim=True))))
        return m.rest(y * torch.sigmoid(gate))

    rest = nn.Sequential(_conv(8, 6), nn.ReLU(), _head(6))
    return Net(run, conv=_conv(3, 8), down=_conv(8, 4, 1), up=_conv(4, 8, 1), rest=rest)


def _dense() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.first(x)
        y = torch.cat([y, m.second(F.relu(m.norm1(y)))], 1)
        y = torch.cat([y, m.third(F.relu(m.norm2(y)))], 1)
        return m.head(F.relu(y))

    return Net(
        run, first=_conv(3, 6), norm1=nn.BatchNorm2d(6), second=_conv(6, 5),
        norm2=nn.BatchNorm2d(11), third=_conv(11, 4), head=_head(15),
    )  # fmt: skip


def _padded() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(m.first(x))
        y = m.conv2(F.relu(m.conv1(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return m.head(F.relu(y))

    conv1 = nn.Conv2d(4, 7, 3, stride=2, padding=1)
    return Net(run, first=_conv(3, 4), conv1=conv1, conv2=_conv(7, 8), head=_head(8))


def _convnext() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.norm0(m.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
        y = m.scale * m.contract(F.gelu(m.expand(y)))
        x = x + y.permute(0, 3, 1, 2)
        return m.head(m.norm1(x.mean((2, 3))))

    return Net(
        run, stem=nn.Conv2d(3, 8, 2, stride=2), norm0=nn.LayerNorm(8), norm=nn.LayerNorm(8),
        depthwise=_conv(8, 8, 7, groups=8), expand=nn.Linear(8, 16), contract=nn.Linear(16, 8),
        scale=nn.Parameter(torch.full((8,), 1e-6)), norm1=nn.LayerNorm(8), head=nn.Linear(8, 3),
    )  # fmt: skip


# tokens


def _recurrent(kind: type[nn.RNNBase], layers: int) -> nn.Module:
    net = kind(5, 6, num_layers=layers, batch_first=True)
    return Net(lambda m, x: m.head(m.net(x)[0][:, -1]), net=net, head=nn.Linear(6, 3))


def _encoder(embedding: nn.Module) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Net(
        lambda m, x: m.head(m.encoder(m.embedding(x)).mean(1)),
        embedding=embedding, encoder=encoder, head=nn.Linear(8, 3),
    )  # fmt: skip


def _attention() -> nn.Module:
    def run(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = m.embedding(x)
        y, weights = m.attention(x, x, x, need_weights=True)
        return m.head((x + y).mean(1)), weights

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    return Net(run, embedding=nn.Embedding(11, 8), attention=attention, head=nn.Linear(8, 3))


class GPTBlock(nn.Module):
    """Causal attention whose heads share keys and values in groups, then SwiGLU, both pre-norm."""

    def __init__(self, d: int, heads: int, groups: int, hidden: int):
        super().__init__()
        self.heads, self.groups, per = heads, groups, d // heads
        self.norm1, self.norm2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.q, self.o = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.kv = nn.Linear(d, 2 * groups * per, bias=False)
        self.gate_up, self.down = nn.Linear(d, 2 * hidden), nn.Linear(hidden, d)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q = self.q(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(y).chunk(2, -1)
        k, v = (
            z.unflatten(-1, (self.groups, -1))
            .transpose(1, 2)
            .repeat_interleave(self.heads // self.groups, 1)
            for z in (k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def _gpt() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.embedding(x) + m.positions.weight[: x.shape[1]]
        return F.linear(m.norm(m.blocks(y)), m.embedding.weight)

    return Net(
        run, embedding=nn.Embedding(11, 48), positions=nn.Embedding(7, 48), norm=nn.RMSNorm(48),
        blocks=nn.Sequential(GPTBlock(48, 6, 2, 144), GPTBlock(48, 6, 2, 144)),
    )  # fmt: skip


def _spare_positions() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.embedding(x) + m.positions[: x.shape[1]]
        return m.head((y + m.down(F.relu(m.up(y)))).mean(1))

    parts = {"up": nn.Linear(8, 12), "down": nn.Linear(12, 8), "head": nn.Linear(8, 3)}
    return Net(run, embedding=nn.Embedding(11, 8), positions=_drawn(9, 8), **parts)


def _mixer() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.tokens(m.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + m.channels(m.norm2(x))
        return m.head(x.mean(1))

    def mlp(size: int, hidden: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size))

    return Net(
        run, stem=nn.Linear(5, 8), norm1=nn.LayerNorm(8), tokens=mlp(4, 10),
        norm2=nn.LayerNorm(8), channels=mlp(8, 12), head=nn.Linear(8, 3),
    )  # fmt: skip


def _sinusoids(scaled: bool) -> nn.Module:
    """A table of constants on the stream, added or multiplied."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x * m.table if scaled else x + m.table
        return m.head((x + m.down(F.relu(m.up(x)))).mean(1))

    table = torch.sin(torch.arange(1, 5)[:, None] / 100 ** (torch.arange(8) / 8))
    parts = {"stem": nn.Linear(5, 8), "up": nn.Linear(8, 12), "down": nn.Linear(12, 8)}
    return Net(run, table=table, head=nn.Linear(8, 3), **parts)


# layers of units, `[n, 6]` to `[n, 3]`


def _units(act: Callable[[Tensor], Tensor], between: int = 8, first: int = 8) -> nn.Module:
    """`first` units, what is looked at, `between` units into 5 units more, the outputs."""
    return Net(
        lambda m, x: m.out(F.relu(m.second(act(m.first(x))))),
        first=nn.Linear(6, first), second=nn.Linear(between, 5), out=nn.Linear(5, 3),
    )  # fmt: skip


def _loop() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        h, steps = m.first(x), 0
        while steps < 5 and float(h.detach().square().mean()) > 0.01:
            h, steps = torch.tanh(m.again(h)), steps + 1
        return m.out(h if steps > 1 else F.relu(h))

    return Net(run, first=nn.Linear(6, 12), again=nn.Linear(12, 12), out=nn.Linear(12, 3))


def _einsums() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(torch.einsum("ni,oi->no", x, m.a))
        x = F.relu(torch.einsum("ni,hdi->nhd", x, m.b))
        return m.out(F.relu(torch.einsum("nhd,hdo->no", x, m.c)))

    return Net(run, a=_drawn(8, 6), b=_drawn(3, 4, 8), c=_drawn(3, 4, 5), out=nn.Linear(5, 3))


def _tied() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.out(F.relu(m.both(F.relu(m.both(F.relu(m.first(x)))))))

    return Net(run, first=nn.Linear(6, 10), both=nn.Linear(10, 10), out=nn.Linear(10, 3))


def _two_activations(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([F.relu(a), torch.tanh(b)], 1)


def _in_place() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x).relu_()
        y = m.second(x)
        y.add_(x)
        y.relu_()
        y[:, :4].mul_(2.0)
        return m.out(y)

    return Net(run, first=nn.Linear(6, 9), second=nn.Linear(9, 9), out=nn.Linear(9, 3))


def _assigned() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x.new_zeros(len(x), 12)
        y[:, :6] = m.a(x)
        y[:, 6:] = m.b(x)
        return m.rest(F.relu(y))

    rest = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    return Net(run, a=nn.Linear(6, 6), b=nn.Linear(6, 6), rest=rest)


def _outputs() -> nn.Module:
    def run(m: Any, x: Tensor) -> dict[str, Any]:
        h = F.relu(m.first(x))
        seen = F.relu(m.second(h))
        return {"logits": m.out(seen), "more": (seen, [m.aside(h)]), "size": 3, "none": None}

    first, second, aside = nn.Linear(6, 10), nn.Linear(10, 7), nn.Linear(10, 2)
    return Net(run, first=first, second=second, aside=aside, out=nn.Linear(7, 3))


def _part_frozen() -> nn.Module:
    model = _units(F.relu)
    model.get_submodule("first").requires_grad_(False)
    model.get_parameter("second.bias").requires_grad_(False)
    return model


def _bilinear() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.out(F.relu(m.both(F.relu(m.a(x)), torch.tanh(m.b(x)))))

    a, b, both = nn.Linear(6, 6), nn.Linear(6, 5), nn.Bilinear(6, 5, 7)
    return Net(run, a=a, b=b, both=both, out=nn.Linear(7, 3))


# operations that the trace does not know


class OwnReLU(torch.autograd.Function):
    """ReLU, by torch inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise NotImplementedError


class OwnLinear(OwnReLU):
    """A linear map, by torch inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.T


class NumpyReLU(OwnReLU):
    """ReLU where no trace sees it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(np.maximum(x.detach().numpy(), 0))


_operators: list[torch.library.Library] = []


def _operator(schema: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function as an operator of its own, whose inside no trace sees; declared once."""
    name = schema.split("(")[0]
    if not hasattr(torch.ops.mcbook_zoo, name):
        _operators.append(torch.library.Library("mcbook_zoo", "FRAGMENT"))
        _operators[-1].define(schema)
        _operators[-1].impl(name, function, "CPU")
    return getattr(torch.ops.mcbook_zoo, name)


def _operator_relu() -> nn.Module:
    return _units(_operator("relu(Tensor x) -> Tensor", lambda x: x.clamp(min=0)))


def _operator_linear() -> nn.Module:
    linear = _operator("linear(Tensor x, Tensor weight) -> Tensor", lambda x, w: x @ w.T)
    return _with_linear(linear)


def _with_linear(linear: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    return Net(
        lambda m, x: m.out(F.relu(linear(F.relu(m.first(x)), m.weight))),
        first=nn.Linear(6, 8), weight=_drawn(5, 8), out=nn.Linear(5, 3),
    )  # fmt: skip


_weight_norm = nn.utils.parametrizations.weight_norm
_S8 = (3, 8, 8)
EXTRA: dict[str, Case] = {
    # skip and first maps are one, then the low ones, those of the transposed convolution, the mix
    "unet": _exactly(_unet, (2, 8, 8), 4, 40, 8, 16, 8, 8),
    # the four gates and the cell of a unit go together
    "lstm": _exactly(lambda: _recurrent(nn.LSTM, 1), (4, 5), 1, 6, 6),
    # torch stacks the last states of all layers, whether they are used or not
    "lstm_of_two_layers": _exactly(lambda: _recurrent(nn.LSTM, 2), (4, 5), 2, 12, 6, 6),
    "gru": _exactly(lambda: _recurrent(nn.GRU, 1), (4, 5), 1, 6, 6),
    # of the 24 maps, the four of one output map go together, in their order
    "pixel_shuffle": _exactly(
        lambda: _maps(_conv(3, 24), nn.PixelShuffle(2), out=6), _S8, 2, 12, 6, 6
    ),
    # eight units of three pieces each, whose order does not matter
    "maxout": _exactly(
        lambda: _units(lambda x: x.unflatten(1, (8, 3)).amax(-1), first=24),
        (6,), 3, 37, 8, *[3] * 8, 5,
    ),
    # the same; but `max` also returns which piece it was, so they may be held in their order
    "maxout_with_indices": Case(
        lambda: _units(lambda x: x.unflatten(1, (8, 3)).max(-1).values, first=24),
        (6,), least_units=13, most_units=37,
    ),
    # a layer that is its own next
    "loop": _exactly(_loop, (6,), 1, 12, 12),
    # per layer: 2 heads, their 4 query-key and 4 value dimensions, 16 hidden units
    "encoder": _exactly(
        lambda: _encoder(nn.Embedding(11, 8)), (), 9, 76, 8, *[2, 4, 4, 4, 4, 16] * 2,
        example=_tokens,
    ),
    # the input itself lies in the stream
    "encoder_on_features": _exactly(
        lambda: _encoder(nn.Identity()), (5, 8), 8, 68, *[2, 4, 4, 4, 4, 16] * 2
    ),
    # the weights that are returned are means over the heads
    "attention_with_weights": _exactly(_attention, (), 4, 26, 8, 2, 4, 4, 4, 4, example=_tokens),
    # per layer: 2 groups of keys and values, in each 3 heads, 8 query-key, 8 value dimensions
    "gpt": _exactly(
        _gpt, (), 11, 416, 48, *[2, 3, 3, 8, 8, 8, 8, 144] * 2, example=_tokens
    ),
    # two rows that inputs of this length do not read: longer ones tell them apart
    "spare_positions": _exactly(_spare_positions, (), 2, 20, 8, 12, example=_tokens),
    "group_norm": _exactly(  # 4 groups of 4
        lambda: nn.Sequential(
            _conv(3, 16), nn.GroupNorm(4, 16), nn.ReLU(), _conv(16, 24), nn.ReLU(), _head(24)
        ),
        _S8, 3, 44, 4, *[4] * 4, 24,
    ),
    "instance_norm": _exactly(
        lambda: _maps(_conv(3, 8), nn.InstanceNorm2d(8, affine=True), out=8), _S8, 2, 14, 8, 6
    ),
    "rms_norm": _exactly(
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.RMSNorm(8), nn.GELU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
        (6,), 2, 13, 8, 5,
    ),
    # its weights [8, 8, 8] move along channels, not in the image
    "layer_norm_over_all": _exactly(
        lambda: _maps(_conv(3, 8), nn.LayerNorm([8, 8, 8]), out=8), _S8, 2, 14, 8, 6
    ),
    # 3 groups, into each 4 maps and out of each 4, go together; then 6
    "grouped_shuffled": _exactly(
        lambda: _maps(
            _conv(3, 12), nn.ReLU(), _conv(12, 12, groups=3), _shuffle(3), out=12
        ),
        _S8, 4, 33, 3, *[4] * 6, 6,
    ),
    # each map lies in one of 3 groups and one of 4: at most the groups are free, not the maps
    # between; at least what is inside groups before and after
    "grouped_twice": Case(
        lambda: nn.Sequential(
            _conv(3, 12), nn.ReLU(), _conv(12, 12, groups=3), nn.ReLU(), _shuffle(3),
            _conv(12, 12, groups=4), nn.ReLU(), _head(12),
        ),
        _S8, least_units=24, most_units=43,
    ),
    # the two filters on each of 6 maps can be exchanged
    "depthwise_multiplied": _exactly(
        lambda: _maps(_conv(3, 6), nn.ReLU(), _conv(6, 12, groups=6), out=12),
        _S8, 3, 24, 6, *[2] * 6, 6,
    ),
    "standardized": _exactly(
        lambda: _maps(_conv(3, 8), nn.ReLU(), Standardized(8, 7, 3), out=7), _S8, 3, 21, 8, 7, 6
    ),
    # 2 groups, into each 4 maps and out of each 4; the columns of a derived weight may have to
    # go together in both groups
    "standardized_grouped": Case(
        lambda: _maps(_conv(3, 8), nn.ReLU(), Standardized(8, 8, 3, groups=2), out=8),
        _S8, least_units=14, most_units=24,
    ),
    "weight_norm": _exactly(
        lambda: _maps(_weight_norm(_conv(3, 8)), nn.ReLU(), _weight_norm(_conv(8, 7)), out=7),
        _S8, 3, 21, 8, 7, 6,
    ),
    # the gate's outputs go with the maps
    "squeeze_excitation": _exactly(_squeeze_excitation, _S8, 3, 18, 8, 4, 6),
    "dense": _exactly(_dense, _S8, 3, 15, 6, 5, 4),
    # four maps of the stream and four new ones around them; seven inside
    "padded_shortcut": _exactly(_padded, _S8, 3, 15, 4, 4, 7),
    "convnext": _exactly(_convnext, _S8, 2, 24, 8, 16),
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
    "prelu": _exactly(lambda: _maps(_conv(3, 8), nn.PReLU(8), out=8), _S8, 2, 14, 8, 6),
    # 8 of the stream, 10 of the mixing over tokens, 12 of that over channels; no tokens
    "mixer": _exactly(_mixer, (4, 5), 3, 30, 8, 10, 12),
    # a constant for every channel holds the stream in place
    "sinusoids_added": _exactly(lambda: _sinusoids(False), (4, 5), 1, 12, 12),
    "sinusoids_multiplied": _exactly(lambda: _sinusoids(True), (4, 5), 1, 12, 12),
    # the middle weights are [3, 4, ...]: an index for each axis, not one for the 12 pairs
    "einsums": _exactly(_einsums, (6,), 4, 20, 8, 3, 4, 5),
    "tied_layers": _exactly(_tied, (6,), 1, 10, 10),
    # 8 of one kind, 8 of another
    "two_activations": _exactly(
        lambda: _units(_two_activations, 16, 16), (6,), 3, 21, 8, 8, 5
    ),
    # every unit is tied to its neighbours, so the eight go together: at most one unit, not movable
    "rolled": Case(
        lambda: _units(lambda x: F.relu(x + x.roll(1, 1))), (6,), log10=_order(5),
        least_units=5, most_units=6,
    ),
    # ranks stay, units would move
    "sorted": _exactly(lambda: _units(lambda x: x + x.sort(1).values), (6,), 1, 5, 5),
    "fourier": _exactly(lambda: _units(lambda x: torch.fft.rfft(x).abs(), 5), (6,), 1, 5, 5),
    # slices of one tensor scaled in place: 4 of the stream are one kind, 5 another
    "in_place": _exactly(_in_place, (6,), 2, 9, 4, 5),
    # the last 5; the two sixes as well for a trace that follows assignments
    "assigned": Case(_assigned, (6,), least_units=5, most_units=17),
    # what is an output stays: 10 before it
    "nested_outputs": _exactly(_outputs, (6,), 1, 10, 10),
    # whether a parameter is trained does not matter
    "part_frozen": _exactly(_part_frozen, (6,), 2, 13, 8, 5),
    # all 18 where `_trilinear` is known or probed; each of them touches it
    "bilinear": Case(_bilinear, (6,), least_units=0, most_units=18),
    # the columns go through `_embedding_bag`: 5 surely, 8 more where it is known
    "embedding_bag": Case(
        lambda: nn.Sequential(
            nn.EmbeddingBag(11, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
        example=_tokens, least_units=5, most_units=13,
    ),
    # made of known operations
    "function_relu": _exactly(lambda: _units(OwnReLU.apply), (6,), 2, 13, 8, 5),
    "function_linear": _exactly(lambda: _with_linear(OwnLinear.apply), (6,), 2, 13, 8, 5),
    # operators of their own: frozen, or found out by probing
    "operator_relu": Case(_operator_relu, (6,), least_units=5, most_units=13),
    "operator_linear": Case(_operator_linear, (6,), least_units=0, most_units=13),
    # the trace loses sight of 8 units; what it makes of them must not pass the verification
    "hidden_in_numpy": Case(
        lambda: _units(NumpyReLU.apply), (6,), least_units=5, most_units=13
    ),
}  # fmt: skip
