"""Mean and variance of channels: as exact as double precision, in any layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mcbook.channel_statistics import mean_and_variance, pooled


def definition(z: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    rows = z.double().movedim(axis, 0).flatten(1)
    mean = rows.mean(1)
    return mean, (rows - mean[:, None]).square().mean(1)


def channels_last(z: Tensor) -> Tensor:
    return z.contiguous(memory_format=torch.channels_last)


CASES = {
    "maps": ((40, 5, 16, 16), 1, lambda z: z),
    "maps, channels last": ((40, 5, 16, 16), 1, channels_last),
    "maps from the end": ((40, 5, 16, 16), -3, channels_last),
    "units": ((3000, 7), 1, lambda z: z),
    "a run and a rest": ((129, 3), 1, lambda z: z),
    "less than a run": ((5, 3), -1, lambda z: z),
    "tokens": ((40, 33, 6), -1, lambda z: z),
    "channels before positions": ((40, 6, 33), 1, lambda z: z),
    "an axis between": ((4, 5, 6, 7), 2, lambda z: z),
    "transposed": ((60, 50), 1, lambda z: z.t().contiguous().t()),
    "every second": ((60, 50), 1, lambda z: z[::2, ::2]),
    "single pixels": ((9, 4, 1, 1), 1, channels_last),
    "one value": ((1, 4), 1, lambda z: z),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mean", [0.0, 3.0, -9.0, 1000.0, -1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_it_is_the_definition(case: str, mean: float, dtype: torch.dtype) -> None:
    shape, axis, arrange = CASES[case]
    z = mean + torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = arrange(z.clamp(-6e4, 6e4).to(dtype))
    before = z.clone()
    count, found, variance = mean_and_variance(z, axis)
    expected, expected_variance = definition(z, axis)
    assert torch.equal(z, before)
    assert count == z.numel() // z.shape[axis]
    assert {found.dtype, variance.dtype} == {torch.float64}
    deviation = expected_variance.sqrt() + 1e-12
    assert float(((found - expected).abs() / deviation).max()) < 5e-6
    torch.testing.assert_close(variance, expected_variance, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("case", ["maps", "maps, channels last", "units"])
def test_channels_of_every_kind_side_by_side(case: str) -> None:
    shape, axis, arrange = CASES[case]
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    z[:, 0] = 0.1  # constant: its variance is 0, not what rounding leaves
    z[:, 1] = 0
    z[:, 2] = z[:, 2] * 1e-3 + 1e3
    z[:, 3] *= 1e-12
    _, mean, variance = mean_and_variance(arrange(z), axis)
    expected, expected_variance = definition(z, axis)
    assert variance[:2].tolist() == [0, 0]
    torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance, expected_variance, rtol=3e-6, atol=0)


def test_numbers_that_are_none_stay_in_their_channel() -> None:
    z = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    z[7, 1], z[9, 2] = torch.nan, torch.inf
    _, mean, variance = mean_and_variance(z, 1)
    assert torch.isfinite(variance).tolist() == [True, False, False, True]
    assert torch.isfinite(mean[[0, 3]]).all()


@pytest.mark.parametrize("sizes", [[7], [1, 1], [100, 1, 30], [4] * 20])
def test_parts_together_are_the_whole(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(sum(sizes), 5, generator=generator, dtype=torch.float64) + torch.arange(5)
    z += torch.arange(sum(sizes)).unsqueeze(1)  # parts have means of their own
    count, mean, variance = pooled([mean_and_variance(part, 1) for part in z.split(sizes)])
    expected, expected_variance = definition(z, 1)
    assert count == sum(sizes)
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(variance, expected_variance, rtol=1e-12, atol=1e-12)
