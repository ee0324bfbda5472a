from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcbook import UnknownNameError
from mcbook.optimization import OPTIMIZERS, SCHEDULES, learning_rate, make_optimizer
from tests import reference

STEPS = st.integers(1, 500).flatmap(
    lambda total: st.tuples(st.integers(0, total - 1), st.just(total))
)


@given(st.sampled_from(SCHEDULES), st.floats(1e-6, 10), STEPS)
def test_the_rate_is_the_formula_and_never_leaves_0_lr(
    schedule: str, lr: float, steps: tuple[int, int]
) -> None:
    step, total = steps
    rate = learning_rate(schedule, lr, step, total)
    assert 0 <= rate <= lr * (1 + 1e-12)
    expected = reference.learning_rate(schedule, lr, step, total)
    assert math.isclose(rate, expected, rel_tol=1e-9, abs_tol=1e-12 * lr)


@given(st.integers(2, 300))
def test_cosine_falls_from_lr_towards_0(total: int) -> None:
    rates = [learning_rate("cosine", 0.3, step, total) for step in range(total)]
    assert rates[0] == 0.3
    assert all(late < early for early, late in itertools.pairwise(rates))
    assert rates[-1] <= 0.3 * (math.pi / total) ** 2


@given(st.integers(10, 300))
def test_onecycle_rises_for_three_tenths_then_falls(total: int) -> None:
    rates = [learning_rate("onecycle", 0.3, step, total) for step in range(total)]
    assert math.isclose(rates[0], 0.3 / 25)
    top = int(np.argmax(rates))
    assert abs(top - 0.3 * total) <= 1
    assert all(np.diff(rates[: top + 1]) > 0)
    assert all(np.diff(rates[top:]) < 0)


def test_unknown_names_offer_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'cosin'.*'cosine'"):
        learning_rate("cosin", 0.1, 0, 10)
    with pytest.raises(UnknownNameError, match=r"unknown optimizer 'adm'.*'adam'"):
        make_optimizer("adm", [nn.Parameter(torch.ones(1))], 0.1, 0.9, 0.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_optimizers_are_their_formulas(name: str, decay: float, momentum: float) -> None:
    start = torch.linspace(-1, 1, 5, dtype=torch.float64)
    target = torch.linspace(2, -2, 5, dtype=torch.float64)
    curvature = torch.linspace(0.1, 1, 5, dtype=torch.float64)
    w = nn.Parameter(start.clone())
    optimizer = make_optimizer(name, [w], 0.05, momentum, decay)
    slow = {"w": start.numpy().copy()}
    step = {
        "sgd": reference.sgd(0.05, momentum, decay),
        "adam": reference.adam(0.05, decay, apart=False),
        "adamw": reference.adam(0.05, decay, apart=True),
    }[name]
    state: dict = {}
    for _ in range(20):
        optimizer.zero_grad()
        (w - target).pow(2).mul(curvature).sum().backward()
        step(slow, {"w": 2 * curvature.numpy() * (slow["w"] - target.numpy())}, state)
        optimizer.step()
    np.testing.assert_allclose(w.detach().numpy(), slow["w"], rtol=1e-9, atol=1e-12)
