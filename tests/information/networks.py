"""Tiny networks of every sort that lengths must be right for, and paths between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import mcbook as mc


class Own(nn.Module):
    """Tied weights, frozen ones, tied frozen ones, buffers that differ, dropout."""

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(64, 6)
            self.second, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
            self.again.weight = self.second.weight
            self.third, self.fourth = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.fourth.weight = self.third.weight
            self.last = nn.Linear(6, 10)
        self.drop = nn.Dropout(0.5)
        self.third.requires_grad_(False)
        self.last.bias.requires_grad_(False)
        self.register_buffer("scale", torch.tensor(3.0 + seed))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x.flatten(1)))
        x = torch.tanh(self.again(torch.tanh(self.second(x))))
        x = self.fourth(torch.tanh(self.third(x)))
        return self.last(self.drop(x) * self.scale)


def _built(kind: str, **options: object) -> Callable[[int], nn.Module]:
    def make(seed: int) -> nn.Module:
        data = mc.load_data("digits", device="cpu").subset(train=20, test=5)
        model = mc.build_model(kind, data, seed=seed, **options)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            model.output.weight.mul_(6)  # predictions that differ
            for name, p in model.named_parameters():
                if "norm" in name:
                    p.add_(0.3 * torch.randn(p.shape, generator=generator))
        return model.eval()

    return make


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": _built("mlp", width=(6, 5)),
    "mlp, batch norm": _built("mlp", width=(6,), norm="batch"),
    "convnet, batch norm": _built("convnet", width=2, depth=2),
    "convnet, group norm": _built("convnet", width=4, depth=2, norm="group"),
    "own": lambda seed: Own(seed).eval(),
}


def beyond(a: nn.Module, b: nn.Module, seed: int) -> dict[str, Tensor]:
    """The middle between two networks, and a good deal on top; what is tied stays so."""
    found = mc.LinearPath(a, b).at(0.5)
    places = {name: x.data_ptr() for name, x in a.state_dict().items()}
    for name, x in found.items():
        if x.is_floating_point() and "running" not in name:
            generator = torch.Generator().manual_seed(seed + 1000 * len(name) + x.numel())
            noise = 0.3 * torch.randn(x.shape, generator=generator).to(x)
            first = next(n for n, place in places.items() if place == places[name])
            found[name] = x + noise if first == name else found[first].clone()
    return found


PATHS: dict[str, Callable[[nn.Module, nn.Module, int], mc.Path]] = {
    "linear": lambda a, b, seed: mc.LinearPath(a, b),
    "bezier": lambda a, b, seed: mc.BezierPath(a, b, [beyond(a, b, seed), beyond(a, b, seed + 1)]),
    "polychain": lambda a, b, seed: mc.PolychainPath(
        a, b, [beyond(a, b, seed), beyond(a, b, seed + 1)], (0, 0.2, 0.65, 1)
    ),
}
