"""Two networks' logits, mixed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from tests import reference
from tests.analysis.test_features import (
    PERMUTABLE,
    assert_same,
    digits_pairs,
    drawn,
    mixed,
    permuted_pair,
    relu_net,
)
from tests.analysis.test_observing import Recurrent, build, inputs
from tests.analysis.test_stitching import labelled


def slow_row(a: nn.Module, b: nn.Module, m: nn.Module, split: mc.Split, alpha: float) -> dict:
    """One row, image by image."""
    with torch.no_grad():
        of_a, of_b, own = (n.double().eval()(split.x.double()).tolist() for n in (a, b, m))
    blend = [[(1 - alpha) * p + alpha * q for p, q in zip(u, v, strict=True)]
             for u, v in zip(of_a, of_b, strict=True)]  # fmt: skip

    def judged(logits: list[list[float]]) -> tuple[float, float]:
        pairs = list(zip(logits, split.y.tolist(), strict=True))
        loss = math.fsum(reference.cross_entropy(u, y) for u, y in pairs) / len(pairs)
        return loss, sum(u.index(max(u)) == y for u, y in pairs) / len(pairs)

    flat = [[x for u in logits for x in u] for logits in (own, blend)]
    coef = reference.inner(*flat) / reference.inner(flat[1], flat[1])
    (loss_a, accuracy_a), (loss_b, accuracy_b) = judged(of_a), judged(of_b)
    different = [u.index(max(u)) != v.index(max(v)) for u, v in zip(own, blend, strict=True)]
    loss, accuracy = judged(own)
    blend_loss, blend_accuracy = judged(blend)
    rescaled = judged([[x / coef for x in u] for u in own])[0]
    return {
        "alpha": alpha, "loss": loss, "accuracy": accuracy, "blend_loss": blend_loss,
        "blend_accuracy": blend_accuracy, "chord": (1 - alpha) * loss_a + alpha * loss_b,
        "error_bound": min(1.0, 1 - accuracy_a + 1 - accuracy_b),
        "apart": sum(different) / len(different), "coef": coef,
        "rescaled_loss": rescaled if coef > 0 else math.nan,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["perceptron", "residual", "convolutions", "encoder"])
def test_it_is_what_everything_by_hand_gives(name: str) -> None:
    a, b, split = build(name, 0), build(name, 1), labelled(inputs(name, 40))
    alphas = (0, 0.3, 0.5, 1)
    slow = pd.DataFrame([slow_row(a, b, mixed(a, b, t), split, t) for t in alphas])
    for size in (2048, 7, 1):
        found = mc.logit_blend(a, b, split, alphas, batch_size=size)
        # losses are computed in float32
        exact = ["accuracy", "blend_accuracy", "apart", "coef", "error_bound"]
        assert_same(found[exact], slow[exact].astype(found[exact].dtypes))
        pd.testing.assert_frame_equal(found, slow, check_dtype=False, rtol=1e-5)


@pytest.mark.parametrize("normalization", ["reset", "repair"])
def test_normalized_networks_are_those_made_by_hand(
    normalization: str, normed: list[nn.Module], tiny: mc.Data
) -> None:
    a, b = normed[:2]
    path, images = mc.LinearPath(a, b), tiny.train.x
    found = mc.logit_blend(a, b, tiny.test, 0.4, normalization, images).iloc[0]
    if normalization == "reset":
        of = [mc.reset_batch_norm(path.model_at(t), images) for t in (0, 1, 0.4)]
        default = mc.logit_blend(a, b, tiny.test, 0.4, None, images).iloc[0]
        pd.testing.assert_series_equal(found, default, check_exact=True)
    else:
        of = [mc.repair(path, t, images) for t in (0, 1, 0.4)]
    slow = pd.Series(slow_row(*of, tiny.test, 0.4))
    pd.testing.assert_series_equal(found, slow, check_names=False, rtol=1e-4, atol=1e-5)
    plain = mc.logit_blend(a, b, tiny.test, 0.4).iloc[0]
    assert abs(plain["loss"] - found["loss"]) > 1e-3


# laws ---------------------------------------------------------------------------------------


def assert_lemmas(found: pd.DataFrame) -> None:
    assert (found["blend_loss"] <= found["chord"] + 1e-6).all()
    assert (1 - found["blend_accuracy"] <= found["error_bound"] + 1e-12).all()
    assert (1 - found["accuracy"] <= 1 - found["blend_accuracy"] + found["apart"] + 1e-12).all()
    assert (1 - found["accuracy"] <= found["error_bound"] + found["apart"] + 1e-12).all()


@pytest.mark.parametrize("name", ["perceptron", "residual", "encoder", "lines", "tied"])
def test_the_lemmas_hold_for_any_two_networks(name: str) -> None:
    for seed in range(4):
        a, b = build(name, seed), build(name, seed + 10)
        x = inputs(name, 60)
        with torch.no_grad():
            y = a.eval()(x).argmax(1)  # A never errs
        split = mc.Split(x, y if seed % 2 else labelled(x).y)
        for pair in ((a, b), (b, a)):
            found = mc.logit_blend(*pair, split)
            assert_lemmas(found)
            assert found["alpha"].tolist() == np.linspace(0, 1, 11).tolist()


def test_lemma_1_on_digits(digits: mc.Data) -> None:
    for kind, pairs in digits_pairs().items():
        for a, b in pairs:
            found = mc.logit_blend(a, b, digits.test)
            assert_lemmas(found)
            connection = mc.feature_connectivity(a, b, digits.test.x, 0.5, "output").iloc[0]
            if kind != "independent":
                assert 1 - connection["cos"] <= 0.015
                assert (1 - found["accuracy"] <= found["error_bound"]).all()
            middle = found[found["alpha"] == 0.5].iloc[0]
            assert middle["coef"] == pytest.approx(connection["coef_data"], abs=1e-6)
            if kind == "independent":
                assert (
                    middle["loss"] > middle["chord"] + 0.1
                )  # a barrier, of which the blend has none


def test_at_the_ends_it_is_the_networks(endpoints: list[nn.Module], small: mc.Data) -> None:
    a, b = endpoints[:2]
    found = mc.logit_blend(a, b, small.test, (0, 1))
    for (_, row), model in zip(found.iterrows(), (a, b), strict=True):
        loss, accuracy = mc.evaluate(model, small.test)
        for column in ("loss", "blend_loss", "chord", "rescaled_loss"):
            assert row[column] == pytest.approx(loss, rel=1e-6)
        assert row["accuracy"] == row["blend_accuracy"] == accuracy
        assert row["apart"] == 0
        assert row["coef"] == pytest.approx(1, abs=1e-12)


def test_a_rescaled_pair_loses_by_scale_alone() -> None:
    first, second, x = drawn(8, 6), drawn(3, 8, seed=1), drawn(50, 6, seed=2)
    a, b = relu_net(first, second), relu_net(2 * first, second / 2)
    found = mc.logit_blend(a, b, labelled(x), 0.5).iloc[0]
    assert found["coef"] == pytest.approx(1.125, abs=1e-12)
    assert found["rescaled_loss"] == pytest.approx(found["blend_loss"], rel=1e-6)
    assert abs(found["loss"] - found["blend_loss"]) > 1e-3
    assert found["apart"] == 0


def test_a_coefficient_that_is_not_positive_rescales_nothing() -> None:
    w, v, x = drawn(5, 6), drawn(3, 5, seed=1), drawn(9, 6, seed=2)
    found = mc.logit_blend(relu_net(w, v), relu_net(-w, v), labelled(x), 0.5).iloc[0]
    assert found["coef"] == 0
    assert math.isnan(found["rescaled_loss"])
    nothing = mc.logit_blend(relu_net(w, 0 * v), relu_net(w, 0 * v), labelled(x), 0.5).iloc[0]
    assert nothing[["coef", "rescaled_loss"]].isna().all()
    assert nothing["loss"] == pytest.approx(math.log(3))


@pytest.mark.parametrize(("name", "options"), PERMUTABLE)
def test_the_order_of_units_does_not_matter(name: str, options: dict, tiny: mc.Data) -> None:
    a, b, pa, pb = permuted_pair(name, tiny, **options)
    split = mc.Split(tiny.test.x.double(), tiny.test.y)
    found, other = mc.logit_blend(a, b, split), mc.logit_blend(pa, pb, split)
    exact = ["accuracy", "blend_accuracy", "apart", "coef", "error_bound"]
    assert_same(found[exact], other[exact])
    assert_same(found, other, 1e-6)


@pytest.mark.usefixtures("same_random_state")
def test_measuring_changes_nothing(
    normed: list[nn.Module], tiny: mc.Data, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    compare = [untouched(model) for model in normed[:2]]
    same = tiny.test.x.clone()
    first, again = (mc.logit_blend(*normed[:2], tiny.test, normalization="reset") for _ in range(2))
    for check in compare:
        check()
    assert torch.equal(tiny.test.x, same)
    pd.testing.assert_frame_equal(first, again, check_exact=True)


# bad input ----------------------------------------------------------------------------------


class Maps(nn.Module):
    """Puts out maps, no logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).unflatten(1, (2, 3))


def test_bad_arguments_are_refused() -> None:
    a, b, split = build("perceptron", 0), build("perceptron", 1), labelled(inputs("perceptron"))
    with pytest.raises(TypeError, match="expected a split, such as data.test, found Tensor"):
        mc.logit_blend(a, b, split.x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a torch.nn.Module, found str"):
        mc.logit_blend("a", b, split)  # type: ignore[arg-type]
    with pytest.raises(mc.IncompatibleError, match="of one architecture"):
        mc.logit_blend(a, build(Recurrent, 0), split)
    for alphas, message in ((1.5, "found 1.5"), ([], "found none"), ([-1], "found -1.0")):
        with pytest.raises(ValueError, match=message):
            mc.logit_blend(a, b, split, alphas)
    with pytest.raises(mc.UnknownNameError, match="unknown normalization 'rest'"):
        mc.logit_blend(a, b, split, normalization="rest")
    with pytest.raises(ValueError, match="at least one image"):
        mc.logit_blend(a, b, mc.Split(split.x[:0], split.y[:0]))
    with pytest.raises(ValueError, match="finite inputs"):
        mc.logit_blend(a, b, mc.Split(split.x * torch.nan, split.y))
    with pytest.raises(ValueError, match=r"logits \[11, more than 4 classes\]"):
        mc.logit_blend(a, b, mc.Split(split.x, split.y * 0 + 4))
    with pytest.raises(ValueError, match=r"found \[11, 2, 3\]"):
        mc.logit_blend(build(Maps, 0), build(Maps, 1), split)
