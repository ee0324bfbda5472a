"""The lower half of one network, continued by the upper half of another."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from tests import reference
from tests.analysis.test_features import PERMUTABLE, assert_same, digits_pairs, permuted_pair
from tests.analysis.test_observing import Failing, Recurrent, Switch, build, inputs


def labelled(x: Tensor, classes: int = 3) -> mc.Split:
    generator = torch.Generator().manual_seed(2)
    return mc.Split(x, torch.randint(classes, (len(x),), generator=generator))


class Replaced(nn.Module):
    """A network in which one call of a module gives what it is told to give."""

    def __init__(self, model: nn.Module, name: str, turn: int, z: Tensor):
        super().__init__()
        self.model, self.turn, self.z = model, turn, z
        self.count = 0
        model.get_submodule(name).register_forward_hook(self.hook)

    def hook(self, *_: object) -> Tensor | None:
        self.count += 1
        return self.z.clone() if self.count == self.turn else None

    def forward(self, x: Tensor) -> Tensor:
        self.count = 0
        return self.model(x)


def slow(a: nn.Module, b: nn.Module, split: mc.Split, layer: str) -> tuple[float, float]:
    """Loss and accuracy of the stitched network, all features of A kept."""
    name, _, turn = layer.partition(":")
    z = [z for _, __, z in reference.calls(a, split.x, [name])][int(turn or 1) - 1]
    model = Replaced(build_like(b), name, int(turn or 1), z).eval()
    with torch.no_grad():
        logits = model(split.x.double()).tolist()
    losses = [reference.cross_entropy(u, y) for u, y in zip(logits, split.y.tolist(), strict=True)]
    hits = [u.index(max(u)) == y for u, y in zip(logits, split.y.tolist(), strict=True)]
    return sum(losses) / len(losses), sum(hits) / len(hits)


def build_like(model: nn.Module) -> nn.Module:
    """A double-precision copy."""
    return mc.LinearPath(model, model).model_at(0.0).double()


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "residual", "in place", "repeated"])
def test_it_is_b_with_the_features_of_a(name: str) -> None:
    a, b, split = build(name, 0), build(name, 1), labelled(inputs(name, 30))
    found = mc.stitch(a, b, split)
    assert found["layer"].iloc[0] == "images"
    assert found["kind"].iloc[0] == "input"
    for _, row in found.iloc[1:].iterrows():
        # the loss of the fast one is computed in float32
        assert (row["loss"], row["accuracy"]) == pytest.approx(
            slow(a, b, split, row["layer"]), rel=1e-5
        )
    assert found["loss"].std() > 1e-3
    for size in (1, 4, 100):
        assert_same(mc.stitch(a, b, split, batch_size=size), found, 1e-6)


def test_in_place_is_as_out_of_place() -> None:
    split = labelled(inputs("residual", 30))
    tables = [mc.stitch(build(n, 0), build(n, 1), split) for n in ("residual", "in place")]
    assert_same(*tables, 1e-6)


def test_at_the_images_all_is_b_and_at_the_end_all_is_a(
    endpoints: list[nn.Module], normed: list[nn.Module], small: mc.Data
) -> None:
    for a, b in (endpoints[:2], normed[:2]):
        found = mc.stitch(a, b, small.test)
        for row, model in ((found.iloc[0], b), (found.iloc[-1], a)):
            loss, accuracy = mc.evaluate(model, small.test)
            assert row["accuracy"] == accuracy
            assert row["loss"] == pytest.approx(loss, rel=1e-6)


def test_a_network_stitched_with_itself_is_itself(normed: list[nn.Module], small: mc.Data) -> None:
    found = mc.stitch(normed[0], normed[0], small.test)
    assert found["accuracy"].nunique() == 1
    assert found["loss"].max() - found["loss"].min() <= 1e-7


@pytest.mark.parametrize(("name", "options"), PERMUTABLE)
def test_the_order_of_units_does_not_matter(name: str, options: dict, tiny: mc.Data) -> None:
    a, b, pa, pb = permuted_pair(name, tiny, **options)
    split = mc.Split(tiny.test.x.double(), tiny.test.y)
    assert_same(mc.stitch(a, b, split), mc.stitch(pa, pb, split), 1e-6)


@pytest.mark.usefixtures("same_random_state")
def test_measuring_changes_nothing(
    normed: list[nn.Module], tiny: mc.Data, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    compare = [untouched(model) for model in normed[:2]]
    same = tiny.test.x.clone()
    first, again = (mc.stitch(*normed[:2], tiny.test) for _ in range(2))
    for check in compare:
        check()
    assert torch.equal(tiny.test.x, same)
    pd.testing.assert_frame_equal(first, again, check_exact=True)


def test_the_order_on_digits(digits: mc.Data) -> None:
    """Spawned pairs lose almost nothing, matched ones less than independent ones."""
    lost: dict[str, list[pd.Series]] = {}
    for kind, pairs in digits_pairs().items():
        lost[kind] = []
        for a, b in pairs:
            accuracy = mc.stitch(a, b, digits.test).set_index("layer")["accuracy"]
            worse = min(mc.evaluate(model, digits.test)[1] for model in (a, b))
            lost[kind].append(worse - accuracy)
    kinds = ("spawned", "matched", "independent")
    for spawned, matched, independent in zip(*(lost[k] for k in kinds), strict=True):
        assert spawned.max() <= 0.02
        for layer in ("linear1", "relu1", "linear2", "relu2"):
            assert spawned[layer] < matched[layer] + 0.01
            assert matched[layer] < independent[layer] - 0.1
        assert independent["linear1"] > 0.5


# bad input ----------------------------------------------------------------------------------


def test_bad_arguments_are_refused() -> None:
    a, b, split = build("residual", 0), build("residual", 1), labelled(inputs("residual"))
    with pytest.raises(TypeError, match="expected a split, such as data.test, found Tensor"):
        mc.stitch(a, b, split.x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a torch.nn.Module, found LinearPath"):
        mc.stitch(mc.LinearPath(a, b), b, split)  # type: ignore[arg-type]
    with pytest.raises(mc.IncompatibleError, match="of one architecture"):
        mc.stitch(a, build("tied", 0), split)
    with pytest.raises(mc.UnknownNameError, match="unknown layer '2.rlu'; did you mean '2.relu'"):
        mc.stitch(a, b, split, "2.rlu")
    with pytest.raises(ValueError, match="'3.relu' called 2 times"):
        mc.stitch(a, b, split, "3.relu")
    with pytest.raises(ValueError, match="at least one image"):
        mc.stitch(a, b, mc.Split(split.x[:0], split.y[:0]))
    with pytest.raises(ValueError, match="finite inputs"):
        mc.stitch(a, b, mc.Split(split.x * torch.inf, split.y))
    with pytest.raises(ValueError, match=r"logits \[11, more than 7 classes\]"):
        mc.stitch(a, b, mc.Split(split.x, split.y * 0 + 7))
    named = mc.stitch(a, b, split, ["3.relu:2", "2", "4"])
    assert named["layer"].tolist() == ["images", "2", "3.relu:2", "4"]
    assert named["kind"].tolist() == ["input", "other", "activation", "other"]


def test_networks_that_cannot_be_observed_are_refused() -> None:
    x, tokens = inputs("perceptron"), torch.ones(3, 5, 6).double()
    with pytest.raises(TypeError, match="layer 'cell' to put out one tensor, found tuple"):
        mc.stitch(build(Recurrent, 0), build(Recurrent, 1), labelled(tokens), "cell")
    with pytest.raises(RuntimeError, match="what comes next"):
        mc.stitch(build(Failing, 0), build(Failing, 1), labelled(x))
    turned = torch.cat([torch.ones(3, 6), -torch.ones(3, 6)]).double()
    with pytest.raises(ValueError, match="every forward pass to call left as the first one did"):
        mc.stitch(build(Switch, 0), build(Switch, 1), labelled(turned), batch_size=3)
