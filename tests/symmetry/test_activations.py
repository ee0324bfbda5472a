"""Sites: every unit is found where the label says, in every architecture, and nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from symmetry.modules import Net, attention, einsums, gpt, recurrent, tied, units_net
from symmetry.zoo import EXTRA, ZOO, Case
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.symmetry.activations import Site, Sites, Standing, find_sites
from mcbook.symmetry.replaying import fits, replay

# the trace loses sight of these units, and with them of what reads them
BLIND = {"hidden_in_numpy"}
SMALL = ["lenet5", "resnet20_conv", "resnet20_padA", "cct"]


def captured(
    model: nn.Module, sites: Sites, x: Any, libraries: bool = False
) -> list[tuple[Site, Tensor]]:
    found: list[tuple[Site, Tensor]] = []
    replay(model, sites, x, lambda site, y: found.append((site, y.clone())), libraries)
    return found


def space_of(spec: mc.PermutationSpec, s: Standing) -> str:
    classes = set((np.searchsorted(spec.starts, s.units[s.units >= 0], side="right") - 1).tolist())
    assert len(classes) == 1
    return spec.classes[classes.pop()].name


def numbers(x: Tensor, s: Standing) -> Tensor:
    """What stands at each position of each unit, `[units, positions, all else]`."""
    units, rank = s.units.reshape(-1), s.rank.reshape(-1)
    order = [i for i in np.lexsort((rank, units)).tolist() if units[i] >= 0]
    flat = x.movedim(s.axes, list(range(len(s.axes)))).reshape(len(units), -1)
    return flat[order].reshape(len(np.unique(units[order])), -1, flat.shape[1])


def means(x: Tensor, s: Standing) -> Tensor:
    """The mean over the positions of each unit, and over the axes whose order is not known."""
    return numbers(x.mean(s.others, keepdim=True) if s.others else x, s).mean(1)


def case_of(name: str) -> Case:
    return {**ZOO, **EXTRA, **OWN}[name]


def crossed() -> nn.Module:
    """Two units of two positions each, which correspond crosswise: 0 to 3 and 2 to 1."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(m.first(x))
        return m.out(x[:, [0, 3]] + x[:, [2, 1]]) + m.aside(x)

    return Net(run, first=nn.Linear(6, 4), out=nn.Linear(2, 3), aside=nn.Linear(4, 3))


OWN = {"crossed": Case(crossed, (6,))}


@pytest.mark.parametrize("name", [*SMALL, *EXTRA, *OWN])
def test_at_every_site_the_units_of_a_permuted_network_are_permuted(name: str) -> None:
    case = case_of(name)
    model = case.build().double()
    example, x = case.inputs(1, torch.float64), case.inputs(3, torch.float64)
    spec = mc.trace_symmetry(model, example, verify=False)
    sites = find_sites(model, spec, example)
    if name in BLIND:
        return
    assert sites.unseen == ()
    p = spec.random(seed=3)
    element = spec.element(p)
    pairs = zip(captured(model, sites, x), captured(mc.permute(model, p, spec), sites, x),
                strict=True)  # fmt: skip
    compared = set()
    for (site, before), (same, after) in pairs:
        assert site is same
        for s in site.slots:
            compared.add(space_of(spec, s))
            units = np.unique(s.units[s.units >= 0])
            place = torch.from_numpy(np.searchsorted(units, element[units]))
            read = [means] if s.mixed or s.others else [means, numbers]
            for reading in read:
                old, new = reading(before, s), reading(after, s)
                torch.testing.assert_close(new, old[place], rtol=1e-9, atol=1e-9)
    assert compared <= set(spec.spaces)


def test_what_a_perceptron_shows_is_what_its_next_layer_reads() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    x = torch.randn(4, 6)
    spec = mc.trace_symmetry(model, x[:1])
    sites = find_sites(model, spec, x[:1])
    assert [str(site) for site in sites] == ["read by linear in 2", "read by linear in 4"]
    assert [site.slots[0].axes for site in sites] == [(1,), (1,)]
    assert [site.slots[0].units.tolist() for site in sites] == [[*range(8)], [*range(8, 13)]]
    expected = [model[:2](x), model[:4](x)]
    for (_, seen), wanted in zip(captured(model, sites, x), expected, strict=True):
        torch.testing.assert_close(seen, wanted)


def test_the_members_of_a_residual_stream_are_read_after_every_block() -> None:
    model = ZOO["resnet20_conv"].build()
    spec = mc.trace_symmetry(model, torch.randn(1, 3, 32, 32), verify=False)
    read = [(site.module, space_of(spec, site.slots[0]))
            for site in find_sites(model, spec, torch.randn(1, 3, 32, 32))]  # fmt: skip
    first = [module for module, space in read if space == "conv"]
    assert first == ["block1_1.conv1", "block1_2.conv1", "block1_3.conv1", "block2_1.conv1"]
    last = [module for module, space in read if space == "block3_1.conv2"]
    assert last == ["block3_2.conv1", "block3_3.conv1", "output"]
    inside = [module for module, space in read if space == "block2_2.conv1"]
    assert inside == ["block2_2.conv2"]


def test_queries_and_keys_are_seen_where_they_are_made_and_a_tensor_read_thrice_is_one_site() -> (
    None
):
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.norm(m.stem(x))
        q, k, v = m.q(y), m.k(y), m.v(y)
        return m.out(y + torch.softmax(q @ k.transpose(1, 2), -1) @ v)

    parts = {name: nn.Linear(8, 8) for name in ("q", "k", "v")}
    model = Net(run, stem=nn.Linear(5, 8), norm=nn.LayerNorm(8), **parts, out=nn.Linear(8, 3))
    example = torch.randn(1, 4, 5)
    spec = mc.trace_symmetry(model, example)
    assert spec.spaces == {"stem": 8, "q": 8}
    found = [
        (str(site), space_of(spec, site.slots[0])) for site in find_sites(model, spec, example)
    ]
    assert found == [
        ("read by linear in q", "stem"), ("made by linear in q", "q"),
        ("made by linear in k", "q"), ("read by linear in out", "stem"),
    ]  # fmt: skip


def test_steps_through_the_same_weights_are_one_member() -> None:
    for make, expected in ((lambda: recurrent(nn.LSTM, 1), 2), (tied, 2)):
        model = make().eval()
        example = torch.randn(1, 4, 5) if expected and make is not tied else torch.randn(1, 6)
        spec = mc.trace_symmetry(model, example, verify=False)
        sites = find_sites(model, spec, example)
        assert len({site.member for site in sites}) == expected < len(sites)


def test_only_axes_that_the_weight_has_too_are_read() -> None:
    case = EXTRA["mixer"]
    model = case.build()
    spec = mc.trace_symmetry(model, case.inputs(1), verify=False)
    found = [(site.module, space_of(spec, s)) for site in find_sites(model, spec, case.inputs(1))
             for s in site.slots]  # fmt: skip
    # mixing over tokens, channel by channel, is no reading of the channels
    assert found == [("tokens.2", "tokens.0"), ("channels.0", "stem"),
                     ("channels.2", "channels.0"), ("head", "stem")]  # fmt: skip


def test_channels_made_of_other_channels_are_read_once_their_pixels_are_held() -> None:
    case = EXTRA["pixel_shuffle"]
    model = case.build()
    spec = mc.trace_symmetry(model, case.inputs(1), verify=False)
    first, _ = find_sites(model, spec, case.inputs(1))
    assert (str(first), first.shape) == ("read by convolution in 3", (1, 6, 16, 16))
    assert space_of(spec, first.slots[0]) == "0"
    assert first.slots[0].axes == (1,)


def test_axes_whose_order_is_not_known_are_named() -> None:
    model = einsums()
    spec = mc.trace_symmetry(model, torch.randn(1, 6), verify=False)
    heads, inner = find_sites(model, spec, torch.randn(1, 6)).sites[1].slots
    assert (heads.axes, heads.others) == ((1,), (2,))
    assert (inner.axes, inner.others) == ((2,), (1,))
    # heads of queries that share keys: which of its 8 numbers is which depends on the keys' order
    model, tokens = gpt(), EXTRA["gpt"].inputs(1)
    spec = mc.trace_symmetry(model, tokens, verify=False)
    mixed = {space_of(spec, s) for site in find_sites(model, spec, tokens) for s in site.slots
             if s.mixed}  # fmt: skip
    assert any("q blocks" in space for space in mixed)


# the moment of reading


def test_what_is_written_into_an_activation_later_is_not_seen() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        y = m.second(x)
        x.relu_()
        return m.out(x + y)

    model = Net(run, first=nn.Linear(6, 9), second=nn.Linear(9, 9), out=nn.Linear(9, 3))
    x = torch.randn(5, 6)
    sites = find_sites(model, mc.trace_symmetry(model, x[:1]), x[:1])
    seen = captured(model, sites, x)
    assert [str(site) for site, _ in seen] == ["read by linear in second", "read by linear in out"]
    first = model.first(x)
    torch.testing.assert_close(seen[0][1], first)
    assert (seen[0][1] < 0).any()
    torch.testing.assert_close(seen[1][1], F.relu(first) + model.second(first))


def test_whoever_sees_activations_may_compute_with_them() -> None:
    model = units_net(F.relu)
    x = torch.randn(4, 6)
    sites = find_sites(model, mc.trace_symmetry(model, x[:1]), x[:1])
    seen = []
    replay(model, sites, x, lambda site, y: seen.append(F.linear(y, torch.ones(2, y.shape[1]))))
    assert [list(y.shape) for y in seen] == [[4, 2], [4, 2]]


@pytest.mark.parametrize("name", ["resnet20_conv", "unet", "encoder", "gru", "conv1d"])
def test_batches_and_fast_kernels_give_what_single_inputs_give(name: str) -> None:
    case = case_of(name)
    model, x = case.build(), case.inputs(4)
    spec = mc.trace_symmetry(model, x[:1], verify=False)
    sites = find_sites(model, spec, x[:1])
    assert fits(model, sites, x[:1])
    single = [captured(model, sites, one) for one in x.split(1)]
    for k, (site, batch) in enumerate(captured(model, sites, x, libraries=True)):
        for s in site.slots:
            together = means(batch, s).mean(1)
            alone = torch.stack([means(found[k][1], s).mean(1) for found in single]).mean(0)
            torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("learned", [True, False])
def test_products_that_depend_on_how_a_batch_lies_in_memory_are_the_same(learned: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(m.first(x)).transpose(0, 1)
        # as PyTorch's own attention calls it, where only what it is made of can be seen
        with torch._C.DisableTorchFunction():
            x = F.linear(x, m.weight, m.bias)
        return m.out(F.relu(x).transpose(0, 1))

    weight, bias = nn.Parameter(torch.randn(7, 8)), nn.Parameter(torch.randn(7))
    model = Net(run, first=nn.Linear(6, 8), weight=weight, bias=bias, out=nn.Linear(7, 3))
    model.requires_grad_(learned)
    x = torch.randn(3, 5, 6)
    sites = find_sites(model, mc.trace_symmetry(model, x[:1], verify=False), x[:1])
    assert [(site.operation, site.shape) for site in sites] == [
        ("addmm", (5, 8)), ("linear", (1, 5, 7)),
    ]  # fmt: skip
    seen = [y for _, y in captured(model, sites, x)]
    assert [list(y.shape) for y in seen] == [[15, 8], [3, 5, 7]]
    torch.testing.assert_close(
        seen[0].reshape(5, 3, 8).transpose(0, 1), F.relu(model.first(x)), rtol=1e-5, atol=1e-6
    )


def test_kernels_that_do_everything_at_once_are_noticed() -> None:
    model, x = recurrent(nn.LSTM, 2).eval(), torch.randn(3, 4, 5)
    sites = find_sites(model, mc.trace_symmetry(model, x[:1], verify=False), x[:1])
    assert not fits(model, sites, x)
    assert len(captured(model, sites, x, libraries=False)) == len(sites)


def test_a_network_is_afterwards_as_before(untouched: Callable) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(),
                                      nn.Linear(8, 3))  # fmt: skip
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.body(x + 0 * torch.rand(()))

    model = Counting().train()
    unchanged = untouched(model)
    x = torch.randn(4, 6)
    random = torch.get_rng_state()
    sites = find_sites(model, mc.trace_symmetry(model, x[:1], verify=False), x[:1])
    assert len(captured(model, sites, x)) == 1
    unchanged()
    assert torch.equal(torch.get_rng_state(), random)


# other specs


def test_the_units_are_those_of_the_spec_that_is_given(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(1, 6)
    traced = mc.trace_symmetry(model, x)
    loaded = mc.PermutationSpec.load(traced.save(tmp_path / "spec"))
    assert [s.slots[0].units.tolist() for s in find_sites(model, loaded, x)] == [
        [*range(8)], [*range(8, 13)]
    ]  # fmt: skip
    (only,) = find_sites(model, traced.without("0"), x)
    assert (only.module, only.slots[0].units.tolist()) == ("4", [*range(5)])
    axes = {"2.weight": ["b", "a"], "2.bias": ["b"], "4.weight": [None, "b"],
            "0.weight": ["a"], "0.bias": ["a"]}  # fmt: skip
    by_hand = mc.PermutationSpec.from_axes(model, axes)
    assert list(by_hand.spaces) == ["b", "a"]
    assert [space_of(by_hand, s.slots[0]) for s in find_sites(model, by_hand, x)] == ["a", "b"]


def test_the_pixels_of_a_flattened_channel_are_positions_of_one_unit() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(1, 1, 2, 2)
    for spec in (
        mc.trace_symmetry(model, x),
        mc.PermutationSpec.from_axes(
            model, {"0.weight": ["c"], "0.bias": ["c"], "2.weight": [None, ("c", 4)]}
        ),
    ):
        (site,) = find_sites(model, spec, x)
        assert site.slots[0].units.tolist() == np.repeat([0, 1, 2], 4).tolist()
        (columns,) = (part for part in spec.slots["2.weight"] if part.axes == (1,))
        assert site.slots[0].rank.tolist() == columns.rank.tolist()


def test_a_space_that_no_weight_reads_or_makes_is_named() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.out(F.relu(m.first(x))) + (m.gains * x[:, :1]).abs().sum(1, keepdim=True)

    gains = nn.Parameter(torch.randn(7))
    model = Net(run, first=nn.Linear(6, 8), out=nn.Linear(8, 3), gains=gains)
    spec = mc.trace_symmetry(model, torch.randn(1, 6))
    assert spec.spaces == {"gains": 7, "first": 8}
    assert find_sites(model, spec, torch.randn(1, 6)).unseen == ("gains",)


# bad input


def test_a_spec_of_another_network_or_one_that_takes_units_apart_is_refused() -> None:
    model, x = units_net(F.relu), torch.randn(1, 6)
    other = mc.trace_symmetry(units_net(F.relu, 9, 9), x)
    with pytest.raises(mc.IncompatibleError, match=r"first.weight is \[8, 6\] instead of \[9, 6\]"):
        find_sites(model, other, x)
    wrong = mc.PermutationSpec.from_axes(
        model, {"first.weight": ["a"], "first.bias": ["b"], "second.weight": [None, "a"]}
    )
    with pytest.raises(
        mc.IncompatibleError, match="found two units in one on axis 0 of first.bias"
    ):
        find_sites(model, wrong, x)


def test_what_cannot_be_run_is_refused() -> None:
    model = units_net(F.relu)
    spec = mc.trace_symmetry(model, torch.randn(1, 6))
    with pytest.raises(ValueError, match="expected an example of the input"):
        find_sites(model, spec)
    with pytest.raises(mc.TraceError, match="activations cannot be looked at, since the network"):
        find_sites(model, spec, torch.randn(1, 7))
    with pytest.raises(TypeError, match="PermutationSpec"):
        find_sites(model, None, torch.randn(1, 6))


@pytest.mark.parametrize("size", [0, 2])
def test_a_forward_pass_that_goes_another_way_is_refused(size: int) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(m.first(x))
        for _ in range(int(x.shape[0] == size) + int(x.shape[0] < 3 and size == 2)):
            x = F.relu(m.again(x))
        return m.out(x)

    model = Net(run, first=nn.Linear(6, 8), again=nn.Linear(8, 8), out=nn.Linear(8, 3))
    x = torch.randn(3, 6)
    sites = find_sites(model, mc.trace_symmetry(model, x[:1], verify=False), x[:1])
    if size:
        with pytest.raises(
            mc.IncompatibleError, match="number 2 linear in out instead of linear in a"
        ):
            captured(model, sites, x)
    else:
        assert len(captured(model, sites, x)) == 1


def test_fewer_operations_or_other_shapes_are_refused() -> None:
    model = attention()
    tokens = EXTRA["encoder"].inputs(2)
    spec = mc.trace_symmetry(model, tokens[:1], verify=False)
    sites = find_sites(model, spec, tokens[:1])
    model.run = lambda m, x: m.embedding(x)
    with pytest.raises(mc.IncompatibleError, match="found as number 2 nothing instead of"):
        captured(model, sites, tokens)
    flat = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(0), nn.Linear(12, 2))
    sites = find_sites(
        flat, mc.trace_symmetry(flat, torch.randn(1, 1, 2, 2)), torch.randn(1, 1, 2, 2)
    )
    flat[2] = nn.Linear(24, 2)
    with pytest.raises(mc.IncompatibleError, match="with units on the axes"):
        captured(flat, sites, torch.randn(2, 1, 2, 2))
