"""Mean and spread of numbers that come in batches."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcbook.analysis.running import Ratio, Spread, dots

numbers = st.floats(-1e3, 1e3).map(lambda v: round(v, 6))


@given(st.lists(st.lists(numbers, max_size=5), max_size=6))
def test_the_spread_is_that_of_all_numbers_at_once(batches: list[list[float]]) -> None:
    spread = Spread()
    for batch in batches:
        spread.add(torch.tensor(batch, dtype=torch.float64))
    values = [v for batch in batches for v in batch]
    assert (spread.count, spread.left_out) == (len(values), 0)
    if values:
        assert spread.mean == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-12)
    else:
        assert math.isnan(spread.mean)
    if len(values) > 1:
        assert spread.std == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-9)
    else:
        assert math.isnan(spread.std)


def test_a_small_spread_beside_a_large_mean_is_kept() -> None:
    spread = Spread()
    for sign in (1, -1, 1, -1):
        spread.add(torch.full((25,), 1e8 + sign * 1e-3, dtype=torch.float64))
    assert spread.mean == pytest.approx(1e8, abs=1e-7)
    assert spread.std == pytest.approx(1e-3 * math.sqrt(100 / 99), rel=1e-4)


def test_only_the_valid_count_and_the_others_are_counted() -> None:
    spread = Spread()
    spread.add(torch.tensor([1.0, math.nan, 3.0]), torch.tensor([True, False, True]))
    spread.add(torch.tensor([math.nan]), torch.tensor([False]))
    spread.add(torch.tensor([8.0]))
    assert (spread.count, spread.left_out, spread.mean) == (3, 2, 4.0)
    assert spread.std == pytest.approx(statistics.stdev([1, 3, 8]))


def test_single_precision_is_summed_in_double() -> None:
    spread, ratio = Spread(), Ratio()
    for value in (2.0**24, 1.0, 1.0):
        spread.add(torch.tensor([value]))
        ratio.add(top=torch.tensor([value]))
    assert spread.mean == (2**24 + 2) / 3
    assert ratio.sums["top"] == 2**24 + 2
    ratio.add(pair=torch.tensor([2.0**24, 1.0]))  # their sum is no float32
    assert ratio.sums["pair"] == 2**24 + 1
    spread.add(torch.tensor([2.0**24, 1.0]))
    assert spread.mean == (2 * 2**24 + 3) / 5


def test_quotients_of_sums() -> None:
    ratio = Ratio()
    ratio.add(top=torch.tensor([1.0, 2.0]), one=torch.tensor([[1.0], [3.0]]), other=torch.ones(9))
    ratio.add(top=torch.tensor([3.0]), one=torch.tensor([0.0]), other=torch.zeros(0))
    assert ratio.over("top", "one") == 6 / 4
    assert ratio.over_norms("top", "one", "other") == 6 / math.sqrt(4 * 9)
    ratio.add(nothing=torch.zeros(2))
    assert ratio.over("nothing", "one") == 0
    assert math.isnan(ratio.over("top", "nothing"))
    assert math.isnan(ratio.over_norms("nothing", "one", "nothing"))


def test_rows_are_multiplied_by_rows() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert dots(x, x + 1).tolist() == [0 + 2 + 6, 12 + 20 + 30]
    assert dots(x[:0], x[:0]).tolist() == []
