"""Pairs of networks with random weights, of every architecture that is odd in some way."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from symmetry.modules import Net, drawn
from symmetry.zoo import EXTRA, ZOO, Case
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.symmetry.group import cells

# architectures ------------------------------------------------------------------------------


class Residual(nn.Module):
    """Blocks of one hidden layer on a stream; Gaussian weights, no biases."""

    def __init__(self, blocks: int, stream: int, hidden: int, inputs: int, outputs: int = 10):
        super().__init__()
        self.stem = nn.Linear(inputs, stream, bias=False)
        self.up = nn.ModuleList(nn.Linear(stream, hidden, bias=False) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(hidden, stream, bias=False) for _ in range(blocks))
        self.out = nn.Linear(stream, outputs, bias=False)
        for x in self.parameters():
            nn.init.normal_(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.relu(up(x)))
        return self.out(x)


class Inverted(nn.Module):
    """An inverted residual block: expanded, filtered channel by channel, projected."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(hidden), nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.project, self.norm3 = nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.norm1(self.expand(x)))
        return x + self.norm3(self.project(F.relu6(self.norm2(self.depthwise(y)))))


def mobile(channels: int = 12, hidden: int = 36, blocks: int = 3) -> nn.Module:
    stem = [nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*stem, *(Inverted(channels, hidden) for _ in range(blocks)), *head)


def grid() -> nn.Module:
    """Units `[3, 4]` whose rows and columns are spaces, read by a layer of their 12 products."""

    def run(m: Net, x: Tensor) -> Tensor:
        x = F.relu(torch.einsum("ni,hdi->nhd", x, m.first))
        return m.out(F.relu(m.second(x.flatten(1))))

    return Net(run, first=drawn(3, 4, 6), second=nn.Linear(12, 5), out=nn.Linear(5, 3))


def twice_the_same() -> nn.Module:
    """The same units read twice by one layer, straight and squashed."""

    def run(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.first(x))
        return m.out(F.relu(m.second(torch.cat([h, torch.tanh(h), x], 1))))

    first, second = nn.Linear(6, 8), nn.Linear(22, 5)
    return Net(run, first=first, second=second, out=nn.Linear(5, 3))


def groups_of_groups() -> nn.Module:
    """Twelve channels in four groups, and these in two."""
    return nn.Sequential(
        nn.Linear(6, 12), nn.GroupNorm(2, 12), nn.GroupNorm(4, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def tied_words() -> nn.Module:
    """Words in, words out, by one matrix."""

    def run(m: Net, x: Tensor) -> Tensor:
        h = m.words(x)
        return m.out(h + m.down(F.relu(m.up(h))))

    words, out = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
    out.weight = words.weight
    return Net(run, words=words, up=nn.Linear(8, 6), down=nn.Linear(6, 8), out=out)


OWN: dict[str, Case] = {
    "residual": Case(lambda: Residual(2, 12, 16, 5), (5,)),
    "mobile": Case(mobile, (3, 8, 8)),
    "grid": Case(grid, (6,)),
    "twice_the_same": Case(twice_the_same, (6,)),
    "groups_of_groups": Case(groups_of_groups, (6,)),
    "tied_words": Case(tied_words, example=EXTRA["gpt"].example),
}
CASES = {**ZOO, **EXTRA, **OWN}

#: where units stand on one axis of a tensor each, and none lie in others
PLAIN = ["lenet5", "unet", "lstm", "gru", "loop", "tied_layers", "dense", "padded_shortcut",
         "squeeze_excitation", "convnext", "mixer", "conv3d", "einsums", "two_activations",
         "in_place", "weight_norm", "bilinear", "residual", "mobile", "twice_the_same",
         "tied_words", "resnet20_padA", "resnet20_conv"]  # fmt: skip
#: where blocks move with what lies in them
NESTED = ["attention_with_weights", "encoder", "gpt", "maxout", "group_norm", "grouped_shuffled",
          "grouped_twice", "depthwise_multiplied", "standardized_grouped", "groups_of_groups",
          "grid"]  # fmt: skip
#: where a tensor has one space on two axes: what a move gains is no sum over its units
TWICE = ["lstm", "gru", "loop", "tied_layers", "in_place"]


@lru_cache(maxsize=64)
def _original(name: str) -> tuple[nn.Module, mc.PermutationSpec]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CASES[name].build().double()
    example = CASES[name].inputs(1, torch.float64)
    return model, mc.trace_symmetry(model, example, verify=False)


def spec_of(name: str) -> mc.PermutationSpec:
    return _original(name)[1]


def network(name: str, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The architecture with random weights and statistics of its own, in eval mode."""
    model = copy.deepcopy(_original(name)[0])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, x in model.named_parameters():
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x.copy_(noise / math.sqrt(x[0].numel()) if x.ndim > 1 else 0.5 * noise)
            if x.ndim == 1 and "weight" in key:
                x.add_(1)
        for key, x in model.named_buffers():
            if "running" in key:
                noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
                x.copy_(noise.square() + 0.5 if "var" in key else noise)
    return model.to(dtype).eval()


def pair(name: str, seed: int = 0) -> tuple[nn.Module, nn.Module, mc.PermutationSpec]:
    """Two networks, and their spec."""
    return network(name, 2 * seed), network(name, 2 * seed + 1), spec_of(name)


@lru_cache
def trained(seed: int) -> nn.Module:
    """Digits, 64-128-128-10: Adam 1e-3, 60 epochs, batches of 64, pixels in [0, 1]."""
    data = mc.load_data("digits", device="cpu")
    model = mc.build_model("mlp", data, width=(128, 128), standardize=False, seed=seed)
    recipe = {"optimizer": "adam", "lr": 1e-3, "batch_size": 64}
    return mc.train(model, data, 60, seed=seed, progress=False, **recipe)


# what is compared ---------------------------------------------------------------------------


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters, each once, in float64."""
    return {name: x.detach().double() for name, x in model.named_parameters()}


def inner(a: nn.Module, b: nn.Module) -> float:
    """`⟨A, B⟩` over parameters."""
    other = parameters(b)
    return math.fsum(float((x * other[name]).sum()) for name, x in parameters(a).items())


def planted(
    a: nn.Module, spec: mc.PermutationSpec, seed: int, noise: float = 0.0
) -> tuple[nn.Module, mc.Permutation]:
    """A with its units shuffled, and noise in units of every tensor's standard deviation.

    Returns:
        The network, and the permutation that undoes the shuffle.
    """
    p = spec.random(seed, restless=True)
    b = mc.permute(a, p, spec)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in b.parameters():
            drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
            x.add_(noise * x.std(correction=0) * drawn)
    return b, p.inverse()


def swaps(spec: mc.PermutationSpec, space: str) -> list[mc.Permutation]:
    """Every exchange of two units of a space; what lies in them goes along."""
    c = spec.classes[spec.space(space)]
    blocks = [tuple(int(block[i]) for _, block in c.parents) for i in range(c.size)]
    found = []
    for i in range(c.size):
        for j in range(i):
            if blocks[i] == blocks[j]:
                vector = np.arange(c.size)
                vector[[i, j]] = j, i
                found.append(spec.complete({space: vector}))
    return found


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All tensors that a network returns."""
    with torch.no_grad():
        y = model(x)
    return [t for t in (y if isinstance(y, Sequence) else [y]) if isinstance(t, Tensor)]


def change(name: str, before: nn.Module, after: nn.Module) -> float:
    """The largest change of an output, relative to the spread of the outputs."""
    x = CASES[name].inputs(4, torch.float64)
    return max(
        float((y - z).abs().max() / y.std())
        for y, z in zip(outputs(before, x), outputs(after, x), strict=True)
    )


def has_choice(spec: mc.PermutationSpec, k: int) -> bool:
    """Whether some units of a class can be exchanged."""
    c = spec.classes[k]
    return bool((cells(c.parents, c.size) > 1).any())
