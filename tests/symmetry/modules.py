"""Small modules for what the architectures of the libraries do not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(shape)))


def conv(c: int, out: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c, out, k, padding=k // 2, **options)


def head(maps: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, 3))


def maps(*layers: nn.Module, out: int) -> nn.Module:
    """Layers on `[n, c, h, w]`, a ReLU, a 3 × 3 convolution to 6 maps, a ReLU, the mean, a head."""
    return nn.Sequential(*layers, nn.ReLU(), conv(out, 6), nn.ReLU(), head(6))


# convolutions


def unet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        skip = F.relu(m.first(x))
        low = F.relu(m.low(F.max_pool2d(skip, 2)))
        y = F.relu(m.mix(torch.cat([skip, m.up(low)], 1)))
        return m.out(F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False))

    up = nn.ConvTranspose2d(16, 8, 2, stride=2)
    return Net(run, first=conv(2, 8), low=conv(8, 16), up=up, mix=conv(16, 8), out=conv(8, 2))


class Standardized(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 (weight standardisation)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


def shuffle(groups: int) -> nn.Module:
    return Net(lambda _, x: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2))


def squeeze_excitation() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = F.relu(m.conv(x))
        gate = m.up(F.relu(m.down(y.mean((2, 3), keepdim=True))))
        return m.rest(y * torch.sigmoid(gate))

    rest = nn.Sequential(conv(8, 6), nn.ReLU(), head(6))
    return Net(run, conv=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), rest=rest)


def dense() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.first(x)
        y = torch.cat([y, m.second(F.relu(m.norm1(y)))], 1)
        y = torch.cat([y, m.third(F.relu(m.norm2(y)))], 1)
        return m.head(F.relu(y))

    return Net(
        run, first=conv(3, 6), norm1=nn.BatchNorm2d(6), second=conv(6, 5),
        norm2=nn.BatchNorm2d(11), third=conv(11, 4), head=head(15),
    )  # fmt: skip


def padded() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(m.first(x))
        y = m.conv2(F.relu(m.conv1(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return m.head(F.relu(y))

    conv1 = nn.Conv2d(4, 7, 3, stride=2, padding=1)
    return Net(run, first=conv(3, 4), conv1=conv1, conv2=conv(7, 8), head=head(8))


def convnext() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.norm0(m.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
        y = m.scale * m.contract(F.gelu(m.expand(y)))
        x = x + y.permute(0, 3, 1, 2)
        return m.head(m.norm1(x.mean((2, 3))))

    return Net(
        run, stem=nn.Conv2d(3, 8, 2, stride=2), norm0=nn.LayerNorm(8), norm=nn.LayerNorm(8),
        depthwise=conv(8, 8, 7, groups=8), expand=nn.Linear(8, 16), contract=nn.Linear(16, 8),
        scale=nn.Parameter(torch.full((8,), 1e-6)), norm1=nn.LayerNorm(8), head=nn.Linear(8, 3),
    )  # fmt: skip


# tokens


def recurrent(kind: type[nn.RNNBase], layers: int) -> nn.Module:
    net = kind(5, 6, num_layers=layers, batch_first=True)
    return Net(lambda m, x: m.head(m.net(x)[0][:, -1]), net=net, head=nn.Linear(6, 3))


def encoder(embedding: nn.Module) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Net(
        lambda m, x: m.head(m.encoder(m.embedding(x)).mean(1)),
        embedding=embedding, encoder=encoder, head=nn.Linear(8, 3),
    )  # fmt: skip


def attention() -> nn.Module:
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


def gpt() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.embedding(x) + m.positions.weight[: x.shape[1]]
        return F.linear(m.norm(m.blocks(y)), m.embedding.weight)

    return Net(
        run, embedding=nn.Embedding(11, 48), positions=nn.Embedding(7, 48), norm=nn.RMSNorm(48),
        blocks=nn.Sequential(GPTBlock(48, 6, 2, 144), GPTBlock(48, 6, 2, 144)),
    )  # fmt: skip


def spare_positions() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.embedding(x) + m.positions[: x.shape[1]]
        return m.head((y + m.down(F.relu(m.up(y)))).mean(1))

    parts = {"up": nn.Linear(8, 12), "down": nn.Linear(12, 8), "head": nn.Linear(8, 3)}
    return Net(run, embedding=nn.Embedding(11, 8), positions=drawn(9, 8), **parts)


def mixer() -> nn.Module:
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


def sinusoids(scaled: bool) -> nn.Module:
    """A table of constants on the stream, added or multiplied."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x * m.table if scaled else x + m.table
        return m.head((x + m.down(F.relu(m.up(x)))).mean(1))

    table = torch.sin(torch.arange(1, 5)[:, None] / 100 ** (torch.arange(8) / 8))
    parts = {"stem": nn.Linear(5, 8), "up": nn.Linear(8, 12), "down": nn.Linear(12, 8)}
    return Net(run, table=table, head=nn.Linear(8, 3), **parts)


# layers of units, `[n, 6]` to `[n, 3]`


def units_net(act: Callable[[Tensor], Tensor], between: int = 8, first: int = 8) -> nn.Module:
    """`first` units, what is looked at, `between` units into 5 units more, the outputs."""
    return Net(
        lambda m, x: m.out(F.relu(m.second(act(m.first(x))))),
        first=nn.Linear(6, first), second=nn.Linear(between, 5), out=nn.Linear(5, 3),
    )  # fmt: skip


def loop() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        h, steps = m.first(x), 0
        while steps < 5 and float(h.detach().square().mean()) > 0.01:
            h, steps = torch.tanh(m.again(h)), steps + 1
        return m.out(h if steps > 1 else F.relu(h))

    return Net(run, first=nn.Linear(6, 12), again=nn.Linear(12, 12), out=nn.Linear(12, 3))


def einsums() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(torch.einsum("ni,oi->no", x, m.a))
        x = F.relu(torch.einsum("ni,hdi->nhd", x, m.b))
        return m.out(F.relu(torch.einsum("nhd,hdo->no", x, m.c)))

    return Net(run, a=drawn(8, 6), b=drawn(3, 4, 8), c=drawn(3, 4, 5), out=nn.Linear(5, 3))


def tied() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.out(F.relu(m.both(F.relu(m.both(F.relu(m.first(x)))))))

    return Net(run, first=nn.Linear(6, 10), both=nn.Linear(10, 10), out=nn.Linear(10, 3))


def two_activations(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([F.relu(a), torch.tanh(b)], 1)


def in_place() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x).relu_()
        y = m.second(x)
        y.add_(x)
        y.relu_()
        y[:, :4].mul_(2.0)
        return m.out(y)

    return Net(run, first=nn.Linear(6, 9), second=nn.Linear(9, 9), out=nn.Linear(9, 3))


def assigned() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x.new_zeros(len(x), 12)
        y[:, :6] = m.a(x)
        y[:, 6:] = m.b(x)
        return m.rest(F.relu(y))

    rest = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    return Net(run, a=nn.Linear(6, 6), b=nn.Linear(6, 6), rest=rest)


def outputs_net() -> nn.Module:
    def run(m: Any, x: Tensor) -> dict[str, Any]:
        h = F.relu(m.first(x))
        seen = F.relu(m.second(h))
        return {"logits": m.out(seen), "more": (seen, [m.aside(h)]), "size": 3, "none": None}

    first, second, aside = nn.Linear(6, 10), nn.Linear(10, 7), nn.Linear(10, 2)
    return Net(run, first=first, second=second, aside=aside, out=nn.Linear(7, 3))


def part_frozen() -> nn.Module:
    model = units_net(F.relu)
    model.get_submodule("first").requires_grad_(False)
    model.get_parameter("second.bias").requires_grad_(False)
    return model


def bilinear() -> nn.Module:
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


def operator(schema: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function as an operator of its own, whose inside no trace sees; declared once."""
    name = schema.split("(")[0]
    if not hasattr(torch.ops.mcbook_zoo, name):
        _operators.append(torch.library.Library("mcbook_zoo", "FRAGMENT"))
        _operators[-1].define(schema)
        _operators[-1].impl(name, function, "CPU")
    return getattr(torch.ops.mcbook_zoo, name)


def operator_relu() -> nn.Module:
    return units_net(operator("relu(Tensor x) -> Tensor", lambda x: x.clamp(min=0)))


def operator_linear() -> nn.Module:
    linear = operator("linear(Tensor x, Tensor weight) -> Tensor", lambda x, w: x @ w.T)
    return with_linear(linear)


def with_linear(linear: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    return Net(
        lambda m, x: m.out(F.relu(linear(F.relu(m.first(x)), m.weight))),
        first=nn.Linear(6, 8), weight=drawn(5, 8), out=nn.Linear(5, 3),
    )  # fmt: skip


weight_norm = nn.utils.parametrizations.weight_norm
