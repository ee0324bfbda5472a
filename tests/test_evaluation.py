from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import mcbook as mc
from mcbook.evaluation import evaluating, score
from tests import reference


def network(data: mc.Data, seed: int = 0) -> nn.Module:
    model = mc.build_model("mlp", data, width=8, norm="batch", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for buffer in (model.norm1.running_mean, model.norm1.running_var):
        buffer.uniform_(0.5, 2, generator=generator)
    return model


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_accuracy_are_those_of_single_images(tiny: mc.Data, seed: int) -> None:
    model = network(tiny, seed)
    loss, accuracy = mc.evaluate(model, tiny.test)
    slow_loss, slow_accuracy = reference.evaluate(model, tiny.test.x, tiny.test.y)
    assert math.isclose(loss, slow_loss, rel_tol=1e-5)
    assert accuracy == slow_accuracy


@given(st.integers(1, 80))
def test_the_batch_size_does_not_matter(tiny: mc.Data, batch_size: int) -> None:
    model = network(tiny)
    loss, accuracy = mc.evaluate(model, tiny.train, batch_size=batch_size)
    whole_loss, whole_accuracy = mc.evaluate(model, tiny.train)
    assert math.isclose(loss, whole_loss, rel_tol=1e-5)
    assert accuracy == whole_accuracy


@pytest.mark.usefixtures("same_random_state")
def test_the_model_is_left_as_it_was(
    tiny: mc.Data, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    model = network(tiny)
    model.norm1.eval()  # one layer frozen in a model that trains
    unchanged = untouched(model)
    mc.evaluate(model, tiny.test)
    unchanged()


def test_flags_come_back_after_an_error_too() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[1].eval()

    def fail() -> None:
        with evaluating(model):
            assert not model.training
            assert not torch.is_grad_enabled()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(2, 12), st.floats(0.1, 50))
def test_score_is_the_sum_of_cross_entropies(
    seed: int, count: int, classes: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=generator)
    y = torch.randint(classes, (count,), generator=generator)
    loss, correct = score(logits, y)
    rows, labels = logits.tolist(), y.tolist()
    slow = math.fsum(reference.cross_entropy(z, k) for z, k in zip(rows, labels, strict=True))
    assert math.isclose(loss, slow, rel_tol=1e-5, abs_tol=1e-5)
    assert correct == sum(z[k] == max(z) for z, k in zip(rows, labels, strict=True))


def test_score_of_low_precision_logits_is_computed_in_float32() -> None:
    logits = torch.tensor([[100.0, 0.0]], dtype=torch.bfloat16).repeat(1000, 1)
    loss, correct = score(logits, torch.ones(1000, dtype=torch.int64))
    assert math.isclose(loss, 100_000, rel_tol=1e-6)
    assert correct == 0
