"""The interval for a mean."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from mcbook.analysis.statistics import interval

numbers = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30)


def test_it_is_students_interval_by_hand():
    # t with 2 degrees of freedom at 0.975 is 4.302652..., s = 1
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert mean - low == pytest.approx(high - mean)


@given(numbers, st.floats(0.5, 0.99))
def test_it_agrees_with_scipys_one_sample_interval(values: list[float], level: float):
    found = interval(values, level)
    expected = stats.t.interval(
        level,
        len(values) - 1,
        loc=np.mean(values),
        scale=max(np.std(values, ddof=1), 1e-300) / math.sqrt(len(values)),
    )
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(numbers)
def test_a_higher_level_gives_a_wider_interval(values: list[float]):
    narrow, wide = interval(values, 0.8), interval(values, 0.95)
    assert wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high


def test_it_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    samples = generator.normal(3.0, 2.0, size=(2000, 5))
    covered = [low <= 3.0 <= high for _, low, high in map(interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_equal_values_leave_no_doubt():
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([], 0.95, "at least two values for an interval, found 0"),
        ([1.0], 0.95, "at least two values for an interval, found 1"),
        ([1.0, math.nan], 0.95, "finite values, found nan"),
        ([1.0, math.inf], 0.95, "finite values, found inf"),
        ([1.0, 2.0], 1.0, "level between 0 and 1, found 1.0"),
        ([1.0, 2.0], 0.0, "level between 0 and 1, found 0.0"),
    ],
)
def test_what_cannot_be_is_refused(values: list[float], level: float, message: str):
    with pytest.raises(ValueError, match=message):
        interval(values, level)
