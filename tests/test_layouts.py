"""Which layout of images a network is given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.layouts import arranged, image_layout


class Views(nn.Module):
    """Takes its maps for a vector, whichever way they lie."""

    def __init__(self, reshape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.reshape = nn.Conv2d(3, 4, 3), reshape

    def forward(self, x: Tensor) -> Tensor:
        return self.reshape(self.conv(x))


def in_memory(z: Tensor) -> Tensor:
    """The numbers in the order they lie in memory: another function in another layout."""
    return z.as_strided((len(z), z[0].numel()), (z[0].numel(), 1))


CASES = {
    "flatten": (Views(lambda z: z.flatten(1)), 3, torch.channels_last),
    "view": (Views(lambda z: z.view(len(z), -1)), 3, torch.contiguous_format),
    "memory": (Views(in_memory), 3, torch.contiguous_format),
    "noise": (Views(torch.rand_like), 3, torch.contiguous_format),
    "two outputs": (Views(lambda z: (z, z)), 3, torch.contiguous_format),
    "no convolution": (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), 3, torch.contiguous_format),
    "one channel": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), 1, torch.contiguous_format),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_channels_last_where_the_network_computes_the_same(
    case: str, count: int, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    model, channels, layout = CASES[case]
    unchanged = untouched(model)
    x = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert image_layout(model, x) == (layout if count else torch.contiguous_format)
    unchanged()


def test_arranging_moves_numbers_and_changes_none() -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    moved = arranged(x, torch.channels_last)
    assert torch.equal(x, moved)
    assert moved.stride() == (60, 1, 15, 3)
    assert arranged(x, torch.contiguous_format) is x
    assert arranged(moved, torch.contiguous_format) is moved


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("normalization", ["reset", "none", "repair"])
def test_a_profile_of_colour_images_is_the_plain_one(precision: str, normalization: str) -> None:
    rng = np.random.default_rng(0)
    data = mc.data_from_arrays(
        *(part for n in (60, 30) for part in (rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8),
                                              np.arange(n) % 4))
    )  # fmt: skip
    a, b = (mc.build_model("convnet", data, width=3, seed=seed) for seed in (0, 1))
    with torch.no_grad():  # far from 0, so that losses differ
        for p in (*a.parameters(), *b.parameters()):
            p.mul_(2)
    path = mc.LinearPath(a, b)
    found = mc.profile(
        path, data, 3, normalization=normalization, precision=precision, batch_size=16
    ).table
    for i, t in enumerate((0.0, 0.5, 1.0)):
        model = path.model_at(t)
        if normalization == "reset":
            model = mc.reset_batch_norm(model, data.train.x)
        if normalization == "repair":
            model = mc.repair(path, t, data.train.x)
        loss, accuracy = mc.evaluate(model, data.test)
        near = {"rel": 1e-5} if precision == "float32" else {"rel": 0.05, "abs": 0.02}
        assert found["test_loss"][i] == pytest.approx(loss, **near)
        if precision == "float32":
            assert found["test_accuracy"][i] == pytest.approx(accuracy)


def test_a_profile_of_colour_images_gives_convolutions_channels_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = mc.data_from_arrays(*[np.zeros((9, 8, 8, 3), dtype=np.uint8), np.arange(9) % 3] * 2)
    seen: list[list[bool]] = []
    plain = nn.Conv2d.forward

    def forward(self: nn.Conv2d, x: Tensor) -> Tensor:
        seen.append([len(x) == 9, x.is_contiguous(memory_format=torch.channels_last)])
        return plain(self, x)

    a, b = (mc.build_model("convnet", data, width=3, seed=seed) for seed in (0, 1))
    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    mc.profile(mc.LinearPath(a, b), data, 2, normalization="none")
    whole = [last for all_images, last in seen if all_images]
    assert whole
    assert all(whole)
