from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.viz.layer_map import plot_layer_map
from tests import reference
from tests.analysis.networks import Tied

MEASURED = ["test_loss", "test_accuracy", "distance_a", "distance_b"]
EXACT = 1e-12  # of chords of equal numbers


class Branches(nn.Module):
    """A network of one's own: layers registered out of order, one as a function, one unused."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 10)
        self.idle = nn.Linear(2, 2)
        self.left = nn.Linear(5, 6)
        self.right = nn.Linear(5, 6, bias=False)
        self.stem = nn.utils.parametrizations.weight_norm(nn.Linear(64, 5))
        self.shift = nn.Parameter(torch.randn(6))
        self.register_buffer("scale", torch.rand(5))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.stem(x.flatten(1))) * self.scale
        z = F.linear(z, self.right.weight) * torch.tanh(self.left(z)) + self.shift
        return self.head(z)


class Lone(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def of_ones_own(kind: Callable[[], nn.Module], seed: int, scale: float = 3.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind()
    with torch.no_grad():  # far from 0, so that A and B differ visibly
        for p in model.parameters():
            p.mul_(scale)
    return model


def shuffled(name: str, data: mc.Data, seed: int, **options: object) -> nn.Module:
    """Without training: weights and statistics that are not the initial ones."""
    model = mc.build_model(name, data, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in (*model.parameters(), *model.buffers()):
            if x.is_floating_point():
                x.add_(0.3 * torch.rand(x.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def images(digits: mc.Data) -> mc.Data:
    return digits.subset(train=60, test=40, seed=2)


@pytest.fixture(scope="module")
def large() -> mc.Data:
    return mc.load_data("digits", size=16, device="cpu").subset(train=24, test=16)


@pytest.fixture(scope="module")
def pair(digits: mc.Data) -> tuple[nn.Module, nn.Module]:
    a, b = (
        mc.train(mc.build_model("mlp", digits, width=(12, 11, 10), seed=s), digits, 4, seed=s)
        for s in (0, 1)
    )
    return a, b


@pytest.fixture(scope="module")
def residual(large: mc.Data) -> tuple[nn.Module, nn.Module]:
    a, b = (shuffled("resnet20", large, s, width=4, shortcut="projection") for s in (0, 1))
    return a, b


def equal_tables(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        one.reset_index(drop=True), other.reset_index(drop=True), check_exact=True
    )


# which layers, in which order ---------------------------------------------------------------


def test_layers_are_modules_in_the_order_of_the_data(
    residual: tuple[nn.Module, nn.Module], large: mc.Data
) -> None:
    a, b = residual
    layers = ["conv", "block2_1.conv1", "block2_1.conv2", "block2_1.shortcut.0", "output"]
    found = mc.layer_barriers(
        a, b, large, points=2, splits=("test",), images=4, layers=layers[::-1]
    )
    assert found.layers == layers  # not in the order given, nor that of registration
    order = list(found.tensors)
    # 19 convolutions on the way, 2 beside it, and the read-out; batch norm has no row
    assert len(order) == 22
    assert (order[0], order[-1]) == ("conv", "output")
    assert order.index("block2_1.shortcut.0") == order.index("block2_1.conv2") + 1
    assert set(found.tensors["conv"]) == {
        "conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
    }  # fmt: skip
    assert "block2_1.shortcut.1.running_var" in found.tensors["block2_1.shortcut.0"]
    names = [name for tensors in found.tensors.values() for name in tensors]
    floating = [name for name, x in a.state_dict().items() if x.is_floating_point()]
    assert sorted(names) == sorted(floating)  # each once


def test_networks_of_ones_own_in_the_order_of_use(images: mc.Data) -> None:
    a, b = (of_ones_own(Branches, s) for s in (0, 1))
    found = mc.layer_barriers(a, b, images, points=2, splits=("test",))
    assert found.layers == ["stem", "right", "left", "(network)", "head", "idle"]
    assert found.tensors["stem"] == (
        "stem.bias",
        "stem.parametrizations.weight.original0",
        "stem.parametrizations.weight.original1",
    )
    assert found.tensors["(network)"] == ("shift", "scale")
    rows = found.map().loc["idle"]
    assert rows.nunique() == 1
    assert (found.map().drop("idle").nunique(axis=1) == 2).all()


def test_batch_norm_without_parameters_and_before_every_layer(images: mc.Data) -> None:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5, affine=False),
            nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 10),
        )  # fmt: skip

    a, b = (of_ones_own(make, s) for s in (0, 1))
    found = mc.layer_barriers(a, b, images, points=2, splits=("test",))
    assert found.layers == ["0", "2", "5", "6"]
    assert found.tensors["2"] == ("2.weight", "2.bias", "3.running_mean", "3.running_var")
    assert found.tensors["0"][-1] == "0.running_var"


def test_a_shared_tensor_is_the_first_layers() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, 20, 1, 6), dtype=np.uint8), np.arange(20) % 3
    data = mc.data_from_arrays(x[0], y, x[1], y)

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), Tied())

    a, b = (of_ones_own(make, s) for s in (0, 1))
    found = mc.layer_barriers(a, b, data, "cumulative", points=3)
    assert found.layers == ["1.first", "1.second", "1.output"]
    assert found.tensors["1.first"] == ("1.first.weight", "1.first.bias", "1.second.weight")
    assert found.tensors["1.second"] == ("1.second.bias",)
    whole = mc.profile(mc.LinearPath(a, b), data, 3)
    equal_tables(found.profile("1.output").table, whole.table)
    mixed = mc.LinearPath(a, b).at(0.5)
    half = copy.deepcopy(a)
    half.load_state_dict(a.state_dict() | {n: mixed[n] for n in found.tensors["1.first"]})
    assert found.map().loc["1.first", 0.5] == pytest.approx(mc.evaluate(half, data.test)[0], 1e-5)


# what a row is ------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "row"), [("cumulative", -1), ("cumulative_backward", 0)])
@pytest.mark.parametrize("rest", ["a", "b"])
def test_all_layers_together_are_the_line_exactly(
    pair: tuple[nn.Module, nn.Module], images: mc.Data, mode: str, row: int, rest: str
) -> None:
    found = mc.layer_barriers(*pair, images, mode, points=5, rest=rest)
    whole = mc.profile(mc.LinearPath(*pair), images, 5)
    layer = found.layers[row]
    equal_tables(found.profile(layer).table, whole.table)
    for quantity in ("loss", "accuracy"):
        for chord in ("row", "networks"):
            height = found.barrier("train", quantity, chord)[layer]
            assert height == pytest.approx(whole.barrier("train", quantity), abs=EXACT)
    assert found.profile(layer).average() == pytest.approx(whole.average())


@pytest.mark.parametrize("normalization", [None, "none", "repair"])
def test_all_layers_together_are_the_line_with_batch_norm(
    residual: tuple[nn.Module, nn.Module], large: mc.Data, normalization: str | None
) -> None:
    options = {"points": 3, "splits": ("test",), "normalization": normalization}
    found = mc.layer_barriers(*residual, large, "cumulative", layers="output", **options)
    whole = mc.profile(mc.LinearPath(*residual), large, **options)
    assert found.normalization == whole.normalization == (normalization or "reset")
    equal_tables(found.profile("output").table, whole.table)
    backward = mc.layer_barriers(
        *residual, large, "cumulative_backward", layers=["conv"], **options
    )
    equal_tables(backward.profile("conv").table, whole.table)


def test_a_network_of_one_layer_is_the_line(images: mc.Data) -> None:
    a, b = (of_ones_own(Lone, s) for s in (0, 1))
    found = mc.layer_barriers(a, b, images, points=5)
    assert found.layers == ["layer"]
    whole = mc.profile(mc.LinearPath(a, b), images, 5)
    equal_tables(found.profile("layer").table, whole.table)
    # softmax of a linear layer: convex, so there is no barrier
    assert found.barrier()["layer"] == found.barrier("train")["layer"] == 0
    assert found.map()[0.5]["layer"] < found.map()[[0.0, 1.0]].loc["layer"].mean()


@pytest.mark.parametrize("rest", ["a", "b"])
@pytest.mark.parametrize("mode", ["single", "cumulative", "cumulative_backward"])
def test_rows_are_networks_put_together_by_hand(
    pair: tuple[nn.Module, nn.Module], images: mc.Data, mode: str, rest: str
) -> None:
    a, b = pair
    order = ["linear1", "linear2", "linear3", "output"]
    found = mc.layer_barriers(a, b, images, mode, points=3, rest=rest)
    assert found.layers == order
    assert list(found.table.columns) == ["layer", "t", "train_loss", "train_accuracy", *MEASURED]
    for i, layer in enumerate(order):
        moved = {"single": order[i : i + 1], "cumulative": order[: i + 1]}.get(mode, order[i:])
        for t in (0.0, 0.5, 1.0):
            network = copy.deepcopy(a if rest == "a" else b).double()
            with torch.no_grad():
                for one in moved:
                    for name in ("weight", "bias"):
                        x, y = (getattr(getattr(m, one), name).double() for m in (a, b))
                        getattr(getattr(network, one), name).copy_((1 - t) * x + t * y)
            slow = reference.evaluate(network, images.test.x, images.test.y)
            row = found.profile(layer).table.set_index("t").loc[t]
            assert row["test_loss"] == pytest.approx(slow[0], rel=1e-4)
            assert row["test_accuracy"] == pytest.approx(slow[1])


def test_batch_norm_moves_with_its_layer(normed: list[nn.Module], images: mc.Data) -> None:
    a, b = normed[:2]
    found = mc.layer_barriers(a, b, images, points=2, layers="conv2", normalization="none")
    swapped = copy.deepcopy(a)
    swapped.conv2.load_state_dict(b.conv2.state_dict())
    swapped.norm2.load_state_dict(b.norm2.state_dict())
    assert found.map()[1.0]["conv2"] == pytest.approx(mc.evaluate(swapped, images.test)[0], 1e-5)
    reset = mc.layer_barriers(a, b, images, points=2, layers="conv2")
    again = mc.evaluate(mc.reset_batch_norm(swapped, images.train.x), images.test)[0]
    assert reset.normalization == "reset"
    assert reset.map()[1.0]["conv2"] == pytest.approx(again, rel=1e-4)
    assert abs(again / found.map()[1.0]["conv2"] - 1) > 1e-3


@pytest.mark.parametrize("rest", ["a", "b"])
def test_rows_begin_at_a_or_end_at_b(
    pair: tuple[nn.Module, nn.Module], images: mc.Data, rest: str
) -> None:
    for mode in ("single", "cumulative"):
        found = mc.layer_barriers(*pair, images, mode, points=3, rest=rest)
        fixed, free = (0.0, 1.0) if rest == "a" else (1.0, 0.0)
        loss = found.ends.set_index("t").loc[fixed, "test_loss"]
        expected, _ = mc.evaluate(pair[0 if rest == "a" else 1], images.test)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert (found.map()[fixed] == loss).all()
        assert found.map()[free].nunique() == 4


def test_equal_networks_have_no_barrier_anywhere(
    residual: tuple[nn.Module, nn.Module], images: mc.Data, large: mc.Data, pair: tuple
) -> None:
    for model, data in ((pair[0], images), (residual[0], large)):
        layers = ["output"] if data is large else None
        for mode in ("single", "cumulative"):
            found = mc.layer_barriers(model, model, data, mode, points=3, layers=layers)
            for quantity in ("loss", "accuracy"):
                assert np.ptp(found.map("test", quantity).to_numpy()) == 0
                for chord in ("row", "networks"):
                    assert found.barrier("test", quantity, chord).max() < EXACT


def test_a_layer_of_equal_weights_has_a_flat_row(normed: list[nn.Module], images: mc.Data) -> None:
    a, b = normed[0], copy.deepcopy(normed[1])
    b.conv2.load_state_dict(a.conv2.state_dict())
    b.norm2.load_state_dict(a.norm2.state_dict())
    values = mc.layer_barriers(a, b, images, points=5).map("train")
    assert np.ptp(values.loc["conv2"]) == 0
    assert np.ptp(values.loc["conv1"]) > 0.01
    along = mc.layer_barriers(a, b, images, "cumulative", points=5).map("train")
    np.testing.assert_array_equal(along.loc["conv2"], along.loc["conv1"])


# what is made of the rows -------------------------------------------------------------------


def made_up(losses: list[list[float]], ends: tuple[float, float]) -> mc.LayerBarriers:
    rows = [
        {"layer": name, "t": t, "test_loss": x, "test_accuracy": 1 - x / 10,
         "distance_a": t, "distance_b": 1 - t}
        for name, line in zip("zyx", losses, strict=False)
        for t, x in zip(np.linspace(0, 1, len(line)), line, strict=True)
    ]  # fmt: skip
    both = pd.DataFrame(
        {"t": [0.0, 1.0], "test_loss": ends, "test_accuracy": [1 - x / 10 for x in ends]}
    )
    return mc.LayerBarriers(pd.DataFrame(rows), both, "single", "a", "none", "made up")


def test_excess_and_barrier_of_known_rows() -> None:
    found = made_up([[1, 4, 3], [1, 1, 5]], (1, 2))
    assert found.layers == ["z", "y"]  # the order of the table, not the alphabet's
    np.testing.assert_allclose(found.excess(), [[0, 2, 0], [0, -2, 0]])
    np.testing.assert_allclose(found.excess(chord="networks"), [[0, 2.5, 1], [0, -0.5, 3]])
    np.testing.assert_allclose(
        found.excess(quantity="accuracy", chord="networks"), [[0, 0.25, 0.1], [0, -0.05, 0.3]]
    )
    assert found.barrier().to_dict() == {"z": 2, "y": 0}
    assert found.barrier(chord="networks").to_dict() == {"z": 2.5, "y": 3}
    accuracy = found.barrier("test", "accuracy")
    np.testing.assert_allclose(accuracy, [0.2, 0])
    assert found.barrier().index.name == "layer"
    assert found.profile("z").barrier_at() == 0.5
    for part in ("single on made up", "2 layers, 3 points", "test loss barrier 2 (z)"):
        assert part in repr(found)


def test_a_valley_below_both_networks_is_no_barrier() -> None:
    found = made_up([[1, 0.5, 0.2]], (1, 2))
    assert found.barrier(chord="networks")["z"] == found.barrier()["z"] == 0
    # below the chord everywhere, by rounding or because statistics were measured anew
    assert made_up([[1, 0.5, 0.2]], (1.1, 2)).barrier(chord="networks")["z"] == 0


def test_the_images_of_each_split_and_of_the_statistics(
    normed: list[nn.Module], digits: mc.Data
) -> None:
    few = digits.subset(train=50, test=40)
    a, b = normed[:2]
    options = {"points": 2, "layers": "conv2"}
    some = mc.layer_barriers(a, b, few, images=45, **options)
    by_hand = mc.layer_barriers(a, b, few.subset(45, 40), **options)
    equal_tables(some.table, by_hand.table)
    equal_tables(some.ends, by_hand.ends)
    many = mc.layer_barriers(a, b, few, images=1000, **options)
    np.testing.assert_allclose(
        many.map("train"), mc.layer_barriers(a, b, few, **options).map("train"), rtol=1e-5
    )
    assert (
        some.map("train").iloc[0, 0]
        != mc.layer_barriers(a, b, few, **options).map("train").iloc[0, 0]
    )


def test_rows_do_not_depend_on_which_others_there_are(
    pair: tuple[nn.Module, nn.Module], images: mc.Data
) -> None:
    for mode in ("single", "cumulative", "cumulative_backward"):
        every = mc.layer_barriers(*pair, images, mode, points=3)
        one = mc.layer_barriers(*pair, images, mode, points=3, layers=["linear3"], batch_size=7)
        np.testing.assert_allclose(one.map(), every.map().loc[["linear3"]], rtol=1e-5)


@pytest.mark.usefixtures("same_random_state")
def test_nothing_given_is_changed_and_all_repeats(
    normed: list[nn.Module], images: mc.Data, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    a, b = (copy.deepcopy(m).train(flag) for m, flag in zip(normed, (True, False), strict=False))
    checks = [untouched(m) for m in (a, b)]
    before = images.train.x.clone()
    first, again = (mc.layer_barriers(a, b, images, "cumulative", points=3) for _ in range(2))
    equal_tables(first.table, again.table)
    for check in checks:
        check()
    assert torch.equal(images.train.x, before)


# the figure ---------------------------------------------------------------------------------


def test_the_map_says_its_numbers() -> None:
    found = made_up([[1, 4, 3], [1, 1, 5]], (1, 2))
    figure = found.plot()
    assert figure.html() == plot_layer_map(found, "test", "loss").html()
    assert "Test loss of 2 layers by 3 values of t" in figure.alt
    assert "at t = 0 1.00 in every row; at t = 1 from 3.00 (z) to 5.00 (y)" in figure.alt
    assert "0.00 to 2.00; the highest is that of z" in figure.alt
    assert "max over t of L(t) − ((1 − t) L(0) + t L(1))" in figure.caption
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", figure.html())
    assert {"z", "y", "barrier", "2.00", "0.00", "1.00", "5.00"} <= set(texts)
    assert list(figure.table.columns) == ["layer", "t = 0", "t = 0.5", "t = 1", "barrier"]
    assert figure.table["barrier"].tolist() == [2, 0]
    other = found.plot(quantity="accuracy", chord="networks")
    assert "((1 − t) a(A) + t a(B)) − a(t)" in other.caption
    assert "lower accuracy" in other.caption
    assert "25.0 to 30.0 points; the highest is that of y" in other.alt


def test_the_worse_a_network_the_fuller_its_square() -> None:
    found = made_up([[0, 1, 2], [0, 0, 3]], (0, 3))
    for quantity in ("loss", "accuracy"):
        page = found.plot(quantity=quantity, alt="mine", caption="")
        assert page.alt == "mine"
        squares = re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*opacity:[^"]*)"', page.svg())
        shades = {}
        for d, style in squares:
            opacity = float(re.search(r"opacity:([\d.]+)", style)[1])
            shades[opacity] = shades.get(opacity, 0) + d.count("M")
        counts = [shades[s] for s in sorted(shades)]
        # four shades in the map: 3 times 0, once each 1, 2, 3; and one square of each in the key
        assert counts == [4, 2, 2, 2]


def test_flat_maps_long_names_and_many_layers_are_drawn() -> None:
    flat = made_up([[1, 1, 1], [1, 1, 1]], (1, 1)).plot()
    assert "at t = 1 1.00 in every row" in flat.alt
    many = pd.DataFrame(
        [{"layer": f"blocks.{i}.attention.projection", "t": t, "test_loss": i + t,
          "test_accuracy": 0.5, "distance_a": t, "distance_b": 1 - t}
         for i in range(60) for t in np.linspace(0, 1, 21)]
    )  # fmt: skip
    figure = replace(made_up([[1, 1, 1]], (1, 1)), table=many).plot()
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", figure.html())
    assert {"blocks.0.a…tion.projection", "blocks.59.…tion.projection"} <= set(texts)
    assert len([text for text in texts if text.startswith("blocks")]) == 60
    assert len(figure.html()) < 160_000
    with pytest.raises(ValueError, match="expected finite values of the test loss"):
        made_up([[1, float("nan"), 1]], (1, 1)).plot()


# bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "singel"}, r"unknown mode 'singel'; did you mean 'single'.*cumulative"),
        ({"rest": "c"}, r"unknown rest 'c'.*a, b"),
        ({"layers": ["linear1", "linear9"]}, r"unknown layer 'linear9'.*linear1.*output"),
        ({"splits": ("tset",)}, r"unknown split 'tset'.*'test'"),
        ({"normalization": "rest"}, r"unknown normalization 'rest'.*'reset'"),
    ],
)
def test_unknown_names_offer_the_close_ones(
    pair: tuple[nn.Module, nn.Module], images: mc.Data, options: dict, message: str
) -> None:
    with pytest.raises(mc.UnknownNameError, match=message):
        mc.layer_barriers(*pair, images, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 1}, "at least 2 points, found 1"),
        ({"images": 0}, "at least 1 image, found 0"),
        ({"layers": []}, "at least one layer, found an empty list"),
    ],
)
def test_too_little_is_refused(
    pair: tuple[nn.Module, nn.Module], images: mc.Data, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mc.layer_barriers(*pair, images, **options)


def test_other_architectures_and_other_things_are_refused(
    pair: tuple[nn.Module, nn.Module], images: mc.Data, normed: list[nn.Module]
) -> None:
    a, b = pair
    other = mc.build_model("mlp", images, width=(12, 11, 9))
    with pytest.raises(mc.IncompatibleError, match=r"linear3.weight is \[10, 11\] in A and \[9"):
        mc.layer_barriers(a, other, images)
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, found dict"):
        mc.layer_barriers(a, {}, images)
    with pytest.raises(TypeError, match=r"expected data.*found Tensor"):
        mc.layer_barriers(a, b, images.train.x)
    with pytest.raises(mc.UnknownNameError, match=r"unknown layer 'norm1'"):
        mc.layer_barriers(*normed[:2], images, layers="norm1")
    broken = copy.deepcopy(b)
    with torch.no_grad():
        broken.output.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"1 NaN or infinite entries.*output.bias of B"):
        mc.layer_barriers(a, broken, images)


def test_what_was_not_measured_is_refused_with_what_was() -> None:
    found = made_up([[1, 2, 3]], (1, 3))
    for ask in (found.map, found.excess, found.barrier, found.plot):
        with pytest.raises(mc.UnknownNameError, match=r"'train_loss'.*test_accuracy, test_loss"):
            ask("train")
    with pytest.raises(mc.UnknownNameError, match=r"unknown chord 'ends'.*networks, row"):
        found.barrier(chord="ends")
    with pytest.raises(mc.UnknownNameError, match=r"unknown layer 'w'.*there are: z"):
        found.profile("w")
