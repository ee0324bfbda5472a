"""The order of a network's layers: no branch is split, nothing is missed, nothing comes twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import mcbook as mc
from mcbook.errors import UnknownNameError
from mcbook.paths.stages import check_stages, flow_stages
from mcbook.symmetry.examples import TraceError
from tests.reference_walks import segments, without_small


def lin(a: int = 6, b: int = 6) -> nn.Linear:
    return nn.Linear(a, b)


class Branches(nn.Module):
    """A sum of two branches, one of them two layers long; layers named against their order."""

    def __init__(self) -> None:
        super().__init__()
        self.z_stem, self.head = lin(), lin(6, 3)
        self.short, self.a_long2, self.b_long1 = lin(), lin(), lin()

    def forward(self, x: Tensor) -> Tensor:
        x = self.z_stem(x).relu()
        x = self.a_long2(self.b_long1(x).relu()) + self.short(x)
        return self.head(x.relu())


class Dense(nn.Module):
    """Each layer sees all before it; after the join, two plain layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = lin()
        self.layers = nn.ModuleList(lin(6 * k, 6) for k in (1, 2, 3))
        self.norm = nn.BatchNorm1d(24)
        self.transition, self.head = lin(24, 6), lin(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.stem(x)]
        for layer in self.layers:
            seen.append(layer(torch.cat(seen, 1).relu()))
        return self.head(self.transition(self.norm(torch.cat(seen, 1))).relu())


class Grown(Dense):
    """The same, but what was seen so far is one growing tensor: it has everything."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x.relu())], 1)
        return self.head(self.transition(self.norm(x)).relu())


class Tied(nn.Module):
    """The third layer has the weight of the first, and the second runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = lin(), lin(), lin()
        self.three.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.two(self.one(x).relu()).relu()).relu())


class Split(nn.Module):
    """Halves of one tensor go through layers of their own; so do rows of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = lin(6, 8), lin(4, 4), lin(4, 4)
        self.fused = nn.Parameter(torch.randn(12, 8))
        self.head = lin(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, 1)
        x = torch.cat([self.down(a), self.up(b)], 1)
        q, k, v = self.fused.split(4)
        x = F.linear(x, q) * F.linear(x, k) + F.linear(x, v)
        return self.head(x)


class InPlace(nn.Module):
    """Results written over their inputs, and into parts of a prepared tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = lin(), lin(), lin()
        self.left, self.right, self.head = lin(6, 4), lin(6, 4), lin(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.one(x.relu_())
        x = self.two(x).relu_()
        out = x.new_zeros(len(x), 8)
        out[:, :4] = self.left(x)
        out[:, 4:] = self.right(x)
        return self.head(out)


class TwoOutputs(nn.Module):
    """An output on the way: from there on, no tensor has everything the outputs depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.early = lin(), lin(), lin(6, 3)
        self.more, self.late = lin(), lin(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(self.stem(x).relu())
        return self.early(x), self.late(self.more(x.relu()))


class Unused(nn.Module):
    """A layer that does not run, one whose result is thrown away, and one number in between."""

    def __init__(self) -> None:
        super().__init__()
        self.never, self.first, self.thrown, self.second = lin(), lin(), lin(), lin()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.thrown(x)
        return self.second(x * self.scale)


class WeightNorm(nn.Module):
    """A weight that is made of others."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = weight_norm(lin()), weight_norm(lin())

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


class Assembled(nn.Module):
    """A weight put together of two, row by row, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = (nn.Parameter(torch.randn(3, 6)) for _ in range(2))
        self.head = lin()

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.zeros(6, 6)
        weight[:3] = self.upper * 2
        weight[3:] = self.lower
        return self.head(F.linear(x, weight.t()))


class Attention(nn.Module):
    """A position, an attention with a residual, a norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(6), lin(6, 3)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.position = nn.Parameter(torch.randn(1, 4, 6))
        self.stem = lin()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.position
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y)[0]).mean(1))


def wb(*names: str) -> tuple[str, ...]:
    """The weight and the bias of some layers."""
    return tuple(f"{name}.{what}" for name in names for what in ("weight", "bias"))


x = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
# what: the network, an example, its units (as sets: what is inside a unit has no order)
OWN: dict[str, tuple[type[nn.Module], Tensor, list[set[str]]]] = {
    "branches": (Branches, x, [
        {*wb("z_stem")}, {*wb("b_long1", "a_long2", "short")}, {*wb("head")}]),
    "dense": (Dense, x, [
        {*wb("stem")}, {*wb("layers.0", "layers.1", "layers.2", "norm")}, {*wb("transition")},
        {*wb("head")}]),
    "grown": (Grown, x, [
        {*wb("stem")}, {*wb("layers.0")}, {*wb("layers.1")}, {*wb("layers.2", "norm")},
        {*wb("transition")}, {*wb("head")}]),
    # "three.bias" is a vector alone: it goes with the unit before it
    "tied": (Tied, x, [{*wb("one")}, {*wb("two"), "three.bias"}]),
    "split": (Split, x, [{*wb("stem")}, {*wb("up", "down")}, {"fused"}, {*wb("head")}]),
    "in place": (InPlace, x, [
        {*wb("stem")}, {*wb("one")}, {*wb("two")}, {*wb("left", "right")}, {*wb("head")}]),
    "two outputs": (TwoOutputs, x, [
        {*wb("stem")}, {*wb("body")}, {*wb("early", "more", "late")}]),
    "unused": (Unused, x, [
        {*wb("first"), "scale"}, {*wb("second"), *wb("never", "thrown")}]),
    "weight norm": (WeightNorm, x, [
        {f"{k}.{n}" for n in (
            "bias", "parametrizations.weight.original0", "parametrizations.weight.original1")}
        for k in ("one", "two")]),
    "assembled": (Assembled, x, [{"upper", "lower"}, {*wb("head")}]),
    "attention": (Attention, torch.randn(1, 4, 6), [
        {*wb("stem")}, {"position"},
        {*wb("norm"), "attention.in_proj_weight", "attention.in_proj_bias",
         *wb("attention.out_proj")}, {*wb("head")}]),
}  # fmt: skip
LIBRARY: dict[str, dict[str, Any]] = {
    "mlp": {"width": (8, 7, 6), "norm": "batch"},
    "convnet": {"width": 2},
    "resnet20": {"width": 2},
    "vgg11": {"width": 2},
    "lenet5": {"width": 0.2},
}


@pytest.fixture(scope="module")
def coloured(digits: mc.Data) -> mc.Data:
    return mc.load_data("digits", device="cpu", size=32, channels=3).subset(train=20, test=10)


def all_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def check_partition(model: nn.Module, stages: list[tuple[str, ...]]) -> None:
    """Every parameter once; no buffer; no empty stage."""
    flat = [name for stage in stages for name in stage]
    assert sorted(flat) == sorted(all_names(model))
    assert all(stages)


def check_order(model: nn.Module, example: Tensor, stages: list[tuple[str, ...]]) -> None:
    """A layer runs for the first time after every layer of an earlier stage (by hooks)."""
    ran: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            ran.setdefault(name, len(ran))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    model.eval()
    model(example)
    for handle in handles:
        handle.remove()
    latest = -1
    for stage in stages:
        # bare parameters run with the module that holds them, as a whole
        layers = [n.rsplit(".", 1)[0] for n in stage if "." in n and n.count("param") == 0]
        times = [ran[layer] for layer in layers if layer in ran]
        assert not times or min(times) > latest
        latest = max([latest, *times])


@pytest.mark.parametrize("name", OWN)
def test_own_networks_are_cut_where_everything_is_in_one_tensor(
    name: str, untouched: Callable, same_random_state: None
) -> None:
    with torch.random.fork_rng():
        model = OWN[name][0]().train()
    example, expected = OWN[name][1:]
    unchanged = untouched(model)
    stages = flow_stages(model, example, most=None)
    unchanged()
    assert [set(stage) for stage in stages] == expected
    check_partition(model, stages)
    if name not in ("assembled", "attention", "tied", "unused", "weight norm"):
        check_order(model, example, stages)


@pytest.mark.parametrize("name", ["branches", "dense", "grown", "tied", "split", "two outputs"])
def test_the_cuts_are_those_of_the_graph(name: str) -> None:
    model = OWN[name][0]()
    stages = flow_stages(model, OWN[name][1], most=None)
    assert [set(s) for s in stages] == [set(s) for s in without_small(model, segments(model))]


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_is_cut_where_the_graph_is(coloured: mc.Data, name: str) -> None:
    model = mc.build_model(name, coloured, **LIBRARY[name])
    stages = flow_stages(model, most=None)
    assert [set(s) for s in stages] == [set(s) for s in without_small(model, segments(model))]
    check_partition(model, stages)
    example = torch.randn(1, *coloured.shape)
    for most in (None, 7, 4, 2, 1):
        fewer = flow_stages(model, most=most)
        check_partition(model, fewer)
        check_order(model, example, fewer)
        assert len(fewer) == min(most or len(stages), len(stages))
        # units stay whole, in their order: stages are runs of them
        flat = [unit for stage in fewer for unit in _units_of(stage, stages)]
        assert flat == list(range(len(stages)))


def _units_of(stage: tuple[str, ...], units: list[tuple[str, ...]]) -> list[int]:
    found = list(dict.fromkeys(k for n in stage for k, unit in enumerate(units) if n in unit))
    assert sum(len(units[k]) for k in found) == len(stage)
    return found


def test_a_resnet18_has_the_stages_of_the_paper(coloured: mc.Data) -> None:
    model = mc.build_model("resnet18", coloured, width=4)
    groups = flow_stages(model, most=6)
    heads = [{name.split(".")[0] for name in group} for group in groups]
    assert heads == [
        {"conv", "norm"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}, {"output"},
    ]  # fmt: skip
    # and a residual block is never split
    blocks = flow_stages(model, most=None)
    assert len(blocks) == 10
    for stage in blocks:
        assert len({tuple(name.split(".")[:2]) for name in stage if name[:5] == "layer"}) <= 1


def test_neighbours_of_one_module_become_one_first() -> None:
    model = nn.Sequential(
        nn.Sequential(lin(), nn.ReLU(), lin(6, 5)),  # of one module, although the shape changes
        nn.Sequential(lin(5, 5)),
        nn.Sequential(lin(5, 5)),
        nn.Sequential(lin(5, 2)),
    )
    assert flow_stages(model, x, most=4) == [wb("0.0", "0.2"), wb("1.0"), wb("2.0"), wb("3.0")]
    # then those of one shape
    assert flow_stages(model, x, most=3) in (
        [wb("0.0", "0.2", "1.0"), wb("2.0"), wb("3.0")],
        [wb("0.0", "0.2"), wb("1.0", "2.0"), wb("3.0")],
    )
    assert flow_stages(model, x, most=2) == [wb("0.0", "0.2", "1.0", "2.0"), wb("3.0")]
    assert flow_stages(model, x, most=1) == [wb("0.0", "0.2", "1.0", "2.0", "3.0")]


def test_among_equals_those_of_fewest_units_become_one_first() -> None:
    model = nn.Sequential(*(lin() for _ in range(8)))
    found = [len(stage) // 2 for stage in flow_stages(model, x, most=4)]
    assert found == [2, 2, 2, 2]


def test_vectors_go_with_the_unit_before_them() -> None:
    model = nn.Sequential(
        nn.LayerNorm(6), lin(), nn.LayerNorm(6), nn.ReLU(), nn.BatchNorm1d(6), lin(6, 3)
    )
    assert flow_stages(model, x, most=None) == [wb("0", "1", "2", "4"), wb("5")]


def test_weights_that_share_one_memory_are_told_apart() -> None:
    model = nn.Sequential(lin(), nn.ReLU(), lin(), nn.ReLU(), lin(6, 3))
    whole = nn.utils.parameters_to_vector(model.parameters()).detach()
    at = 0
    for p in model.parameters():
        p.data = whole[at : at + p.numel()].view(p.shape)
        at += p.numel()
    assert flow_stages(model, x, most=None) == [wb("0"), wb("2"), wb("4")]


def test_a_network_that_uses_no_parameter_is_one_stage() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.never = lin()

        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    assert flow_stages(Idle(), x) == [wb("never")]


def test_what_cannot_be_followed_is_refused(digits: mc.Data) -> None:
    model = Branches()
    with pytest.raises(ValueError, match="expected an example of the input"):
        flow_stages(model)
    with pytest.raises(TraceError, match="shape \\[1, 5\\] in module 'z_stem'"):
        flow_stages(model, torch.randn(1, 5))
    for most in (0, -1):
        with pytest.raises(ValueError, match=f"at least 1 stage, found most = {most}"):
            flow_stages(model, x, most)
    with pytest.raises(TypeError):
        flow_stages("resnet18", x)


# stages by hand -------------------------------------------------------------------------------

NAMES = ["a.w", "a.b", "ab.w", "block.1.w", "block.10.w", "c"]


def test_modules_and_parameters_stand_for_what_is_below_them() -> None:
    assert check_stages([["a"], ["block.1", "c"], ["ab", "block"]], NAMES) == [
        ("a.w", "a.b"), ("block.1.w", "c"), ("ab.w", "block.10.w"),
    ]  # fmt: skip
    # what stands in two counts in the first, also within one
    assert check_stages([["a.b"], ["a", "a.w", "ab"], ["block", "c", "a"]], NAMES) == [
        ("a.b",), ("a.w", "ab.w"), ("block.1.w", "block.10.w", "c"),
    ]  # fmt: skip


def test_only_what_moves_has_to_be_there() -> None:
    assert check_stages([["a"]], NAMES, ["a.w"]) == [("a.w", "a.b")]
    with pytest.raises(ValueError, match="found none for ab.w, c$"):
        check_stages([["a"]], NAMES, ["ab.w", "a.w", "c"])


def test_stages_that_miss_or_do_not_know_a_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found none for block.1.w, block.10.w, c$"):
        check_stages([["a"], ["ab"]], NAMES)
    with pytest.raises(ValueError, match="n0, n1, n2, n3, n4 and 3 more$"):
        check_stages([], [f"n{k}" for k in range(8)])
    for unknown in ("blocks", "block.2", "a.", "w", ""):
        with pytest.raises(UnknownNameError, match="layer in stages"):
            check_stages([["a", unknown]], NAMES)
    for flat in ("all", ["a", "ab"], [["a"], "ab"]):
        with pytest.raises(ValueError, match="list of lists of names"):
            check_stages(flat, NAMES)  # type: ignore[arg-type]
