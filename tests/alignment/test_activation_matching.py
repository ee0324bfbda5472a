"""Activation matching: what is planted is found, what is best is chosen, and on which images."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from symmetry.modules import Net, conv, encoder, head, maps, mixer
from torch import Tensor, nn

import mcbook as mc
from mcbook.alignment import activation_matching
from mcbook.alignment.activation_matching import balanced
from mcbook.symmetry.activations import Site, find_sites
from mcbook.symmetry.replaying import replay
from tests import reference

# which images


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_every_class_gets_its_share(labels: list[int], count: int, seed: int) -> None:
    y = torch.tensor(labels)
    chosen = balanced(y, count, seed)
    assert len(chosen) == min(count, len(y)) == len(chosen.unique())
    assert torch.equal(chosen, balanced(y, count, seed))
    there, taken = (torch.bincount(z, minlength=5) for z in (y, y[chosen]))
    # who has images left has no fewer than anyone but for one that cannot be divided
    for c in range(5):
        if taken[c] < there[c]:
            assert taken[c] >= taken.max() - 1


def test_a_sorted_file_does_not_matter_and_the_seed_decides(digits: mc.Data) -> None:
    y = digits.train.y.sort().values
    chosen = balanced(y, 200, seed=3)
    assert torch.bincount(y[chosen], minlength=10).tolist() == [20] * 10
    assert not torch.equal(chosen, balanced(y, 200, seed=4))


# planted permutations


def depthwise() -> nn.Module:
    """Expansion, a depthwise convolution, projection, twice around a stream, as in MobileNet."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                conv(6, 14, 1), nn.BatchNorm2d(14), nn.ReLU6(inplace=True),
                conv(14, 14, groups=14), nn.BatchNorm2d(14), nn.ReLU6(inplace=True),
                conv(14, 6, 1), nn.BatchNorm2d(6),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    return nn.Sequential(conv(1, 6), nn.BatchNorm2d(6), nn.ReLU(inplace=True), Block(), Block(),
                         head(6), nn.Linear(3, 10))  # fmt: skip


def transformer() -> nn.Module:
    """Rows of pixels as tokens; GELU, so that no unit is dead."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.squeeze(1))

    model = encoder(Rows())
    for layer in model.encoder.layers:
        layer.activation = nn.functional.gelu
        layer.activation_relu_or_gelu = 2
    model.head = nn.Linear(8, 10)
    return model


def groups() -> nn.Module:
    layers = maps(conv(1, 12), nn.GroupNorm(3, 12), nn.GELU(), conv(12, 12, groups=3), out=12)
    return nn.Sequential(layers, nn.Linear(3, 10))


def trained(make: Callable[[], nn.Module], data: mc.Data, epochs: float) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
    return mc.train(model, data, epochs, seed=0, batch_size=32, progress=False)


NETWORKS: dict[str, Any] = {
    "resnet20": lambda data: mc.build_model("resnet20", data, width=4),
    "resnet20 projection": lambda data: mc.build_model(
        "resnet20", data, width=4, shortcut="projection"
    ),
    "depthwise": lambda data: depthwise(),
    "transformer": lambda data: transformer(),
    "groups": lambda data: groups(),
}


def never_vary(
    model: nn.Module, spec: mc.PermutationSpec, x: Tensor, example: Tensor
) -> dict[str, set[int]]:
    """Per space the units whose activations are the same on all images, wherever they are read."""
    lively = np.zeros(int(spec.starts[-1]), bool)
    standing = np.zeros_like(lively)

    def see(site: Site, y: Tensor) -> None:
        for s in site.slots:
            flat = y.movedim(s.axes, list(range(len(s.axes)))).reshape(s.units.size, -1)
            for u, row in zip(s.units.reshape(-1).tolist(), flat, strict=True):
                if u >= 0:
                    standing[u], lively[u] = True, lively[u] or bool((row != row[0]).any())

    replay(model, find_sites(model, spec, example), x, see)
    return {
        c.name: set(np.flatnonzero(standing[start : start + c.size] & ~lively[start:][: c.size]))
        for c, start in zip(spec.classes, spec.starts, strict=False)
    }


def recovered(a: nn.Module, data: mc.Data, cost: str, seed: int) -> None:
    """The inverse of a random permutation of A is found, but for units that never vary."""
    example = data.train.x[:1]
    spec = mc.trace_symmetry(a, example, verify=False)
    p = spec.random(seed=seed)
    b = mc.permute(a, p, spec)
    al = activation_matching(a, b, data, cost, spec=spec, example=example, progress=False)
    dead = never_vary(a, spec, data.train.x, example)
    for space, q in (al.permutation @ p).items():
        assert set((q != torch.arange(len(q))).nonzero().flatten().tolist()) <= dead[space]
        assert len(dead[space]) <= len(q) / 4
    assert len(al.objective) == 2
    assert al.objective[1] > al.objective[0]
    assert al.method == "activation matching"
    with torch.no_grad():
        torch.testing.assert_close(al.model(example), a(example), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cost", ["correlation", "dot", "distance"])
def test_planted_permutations_of_trained_networks_are_found(
    endpoints: list[nn.Module], normed: list[nn.Module], small: mc.Data, cost: str
) -> None:
    for seed in range(2):
        recovered(endpoints[seed], small, cost, seed)
        recovered(normed[seed], small, cost, seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_planted_permutations_are_found_in_streams_groups_and_heads(
    name: str, small: mc.Data
) -> None:
    model = trained(lambda: NETWORKS[name](small), small, 2)
    for cost in ("correlation", "dot"):
        recovered(model, small, cost, seed=1)


def test_noise_does_not_hide_a_planted_permutation(
    endpoints: list[nn.Module], small: mc.Data
) -> None:
    a = endpoints[0]
    spec = mc.trace_symmetry(a)
    b = mc.permute(a, spec.random(seed=4), spec)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for x in b.parameters():
            x += 0.1 * x.std() * torch.randn(x.shape, generator=generator)
    al = activation_matching(a, b, small, spec=spec, progress=False)
    dead = never_vary(a, spec, small.train.x, small.train.x[:1])
    for space, q in (al.permutation @ spec.random(seed=4)).items():
        assert set((q != torch.arange(len(q))).nonzero().flatten().tolist()) <= dead[space]


# what is maximised


def test_the_result_is_the_best_of_all_permutations(tiny: mc.Data) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(4, 3), seed=s) for s in (1, 2))
    spec = mc.trace_symmetry(a)
    for cost in ("correlation", "dot", "distance"):
        al = activation_matching(a, b, tiny, cost, spec=spec, progress=False)
        start = best = 0.0
        for depth, space in ((1, "linear1"), (2, "linear2")):
            x, y = (hidden(m, tiny.train.x)[depth - 1] for m in (a, b))
            gain = reference.similarity(x.double().numpy(), y.double().numpy(), cost)
            every = [list(p) for p in itertools.permutations(range(len(gain)))]
            values = [sum(gain[i, j] for i, j in enumerate(p)) for p in every]
            assert every[int(np.argmax(values))] == al.permutation[space].tolist()
            start, best = start + values[0], best + max(values)
        assert al.objective == pytest.approx([start, best], rel=1e-5)


def hidden(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The outputs of the activation functions of a perceptron."""
    found = []
    handles = [m.register_forward_hook(lambda _, __, out: found.append(out.clone()))
               for m in model.modules() if isinstance(m, nn.ReLU)]  # fmt: skip
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def test_distance_and_dot_find_the_same_permutation(
    endpoints: list[nn.Module], normed: list[nn.Module], small: mc.Data
) -> None:
    for a, b in (endpoints[:2], normed[:2]):
        dot, distance = (
            activation_matching(a, b, small, cost, progress=False) for cost in ("dot", "distance")
        )
        assert dot.permutation == distance.permutation
        # the gains differ by a constant that no permutation changes
        assert distance.objective[1] - distance.objective[0] == pytest.approx(
            2 * (dot.objective[1] - dot.objective[0])
        )
        assert distance.objective[1] < 0


def test_every_member_of_a_stream_has_one_voice(tiny: mc.Data) -> None:
    """Scaling a member up leaves correlations alone, and moves `dot` by as much."""
    a, b = (mc.build_model("resnet20", tiny, width=2, seed=s) for s in (1, 2))
    spec = mc.trace_symmetry(a, verify=False)
    al = activation_matching(a, b, tiny, spec=spec, progress=False)
    assert abs(al.objective[1]) <= spec.units
    assert al.facts["unseen"] == ()
    assert al.facts["images"] == len(tiny.train)


def test_other_axes_are_averaged_where_their_order_is_not_known() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a, x = mixer().eval(), torch.randn(60, 4, 5)
    example, data = x[:1], mc.Split(x, torch.arange(60) % 3)
    spec = mc.trace_symmetry(a, example)
    p = spec.random(seed=0)
    b = mc.permute(a, p, spec)
    al = activation_matching(a, b, data, spec=spec, example=example, progress=False)
    assert (al.permutation @ p).is_identity()


def test_what_is_written_into_activations_later_does_not_count(tiny: mc.Data) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x.flatten(1))
        y = m.second(x)
        x.relu_()
        return m.out(x + y)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a = Net(run, first=nn.Linear(64, 9), second=nn.Linear(9, 9), out=nn.Linear(9, 10))
    spec = mc.trace_symmetry(a, tiny.train.x[:1])
    b = mc.permute(a, spec.random(seed=1), spec)
    al = activation_matching(a, b, tiny, spec=spec, progress=False)
    # all correlations are 1, those of the values before as well
    assert al.objective[1] == pytest.approx(9, abs=1e-5)


# invariances


def test_neither_batches_nor_threads_change_the_permutation(
    normed: list[nn.Module], tiny: mc.Data
) -> None:
    a, b = normed[:2]
    spec = mc.trace_symmetry(a, verify=False)

    def run(**options: Any) -> mc.Permutation:
        return activation_matching(a, b, tiny, spec=spec, progress=False, **options).permutation

    expected = run()
    for batch_size in (1, 13, 70):
        assert run(batch_size=batch_size) == expected
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run() == expected
    finally:
        torch.set_num_threads(threads)


def test_networks_and_random_states_are_left_alone(
    normed: list[nn.Module], tiny: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    a, b = (copy.deepcopy(m).train() for m in normed[:2])
    unchanged = [untouched(m) for m in (a, b)]
    al = activation_matching(a, b, tiny, progress=True)
    for compare in unchanged:
        compare()
    assert not al.model.training
    x = tiny.test.x.double()
    with torch.no_grad():
        before, after = (m.double().eval()(x) for m in (copy.deepcopy(b), al.model))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


def test_the_first_images_of_a_sorted_file_are_not_the_ones_taken(
    endpoints: list[nn.Module], digits: mc.Data
) -> None:
    order = digits.train.y.argsort(stable=True)
    data = replace(digits, train=mc.Split(digits.train.x[order], digits.train.y[order]))
    a, b = endpoints[:2]
    al = activation_matching(a, b, data, images=100, progress=False)
    chosen = balanced(data.train.y, 100)
    part = mc.Split(data.train.x[chosen], data.train.y[chosen])
    assert activation_matching(a, b, part, progress=False).permutation == al.permutation
    first = mc.Split(data.train.x[:100], data.train.y[:100])
    assert activation_matching(a, b, first, progress=False).permutation != al.permutation
    again = activation_matching(a, b, data, images=100, seed=1, progress=False)
    assert again.permutation != al.permutation


def test_double_precision_networks_and_tokens_are_run_in_their_own_types(
    endpoints: list[nn.Module], tiny: mc.Data
) -> None:
    a, b = (copy.deepcopy(m).double() for m in endpoints[:2])
    assert (
        activation_matching(a, b, tiny, progress=False).permutation
        == activation_matching(*endpoints[:2], tiny, progress=False).permutation
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        words = [encoder(nn.Embedding(11, 8)).eval() for _ in range(2)]
        tokens = mc.Split(torch.randint(11, (40, 7)), torch.arange(40) % 2)
    al = activation_matching(*words, tokens, progress=False)
    assert al.objective[1] > al.objective[0]


# dead units


def test_dead_units_stay_where_they_are_if_they_can(
    endpoints: list[nn.Module], small: mc.Data
) -> None:
    a = copy.deepcopy(endpoints[0])
    spec = mc.trace_symmetry(a)
    dead = [1, 5, 6]
    with torch.no_grad():
        a.linear1.weight[dead], a.linear1.bias[dead] = 0.0, -0.5
    for cost in ("correlation", "dot", "distance"):
        al = activation_matching(a, a, small, cost, spec=spec, progress=False)
        assert al.permutation.is_identity()
        alive = torch.tensor([i for i in range(16) if i not in dead])
        moved = torch.arange(16)
        moved[alive] = alive.roll(1)
        p = spec.complete({"linear1": moved})
        al = activation_matching(a, mc.permute(a, p, spec), small, cost, spec=spec, progress=False)
        assert al.permutation == p.inverse()


def test_networks_without_any_activity_are_left_as_they_are(tiny: mc.Data) -> None:
    a = mc.build_model("mlp", tiny, width=(6, 5))
    with torch.no_grad():
        for x in a.parameters():
            x.zero_()
    al = activation_matching(a, a, tiny, progress=False)
    assert al.permutation.is_identity()
    assert al.objective == [0.0, 0.0]


# bad input


def test_bad_arguments_are_refused(endpoints: list[nn.Module], tiny: mc.Data) -> None:
    a, b = endpoints[:2]
    with pytest.raises(mc.UnknownNameError, match="did you mean 'correlation'"):
        activation_matching(a, b, tiny, "corelation")
    for images in (0, -3, 2.5):
        with pytest.raises(ValueError, match="whole number from 1 of images"):
            activation_matching(a, b, tiny, images=images)
    with pytest.raises(ValueError, match="one image for each of 10 classes, found 9 of 70"):
        activation_matching(a, b, tiny, images=9)
    with pytest.raises(TypeError, match="expected data, or a split of it, found Tensor"):
        activation_matching(a, b, tiny.train.x)
    with pytest.raises(TypeError, match="torch.nn.Module"):
        activation_matching(a, mc.weights.of(b), tiny)
    nothing = mc.Split(tiny.train.x[:0], tiny.train.y[:0])
    for empty in (nothing, replace(tiny, train=nothing)):
        with pytest.raises(ValueError, match="expected training images to match activations on"):
            activation_matching(a, b, empty)


def test_networks_that_cannot_be_matched_are_refused(
    endpoints: list[nn.Module], tiny: mc.Data
) -> None:
    a = endpoints[0]
    other = mc.build_model("mlp", tiny, width=(16, 15))
    with pytest.raises(mc.IncompatibleError, match="of one architecture"):
        activation_matching(a, other, tiny)
    with pytest.raises(mc.IncompatibleError, match="tensors of this spec"):
        activation_matching(a, a, tiny, spec=mc.trace_symmetry(other))
    broken = copy.deepcopy(a)
    with torch.no_grad():
        broken.linear2.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite entries of 256 in linear2.weight of B"):
        activation_matching(a, broken, tiny)
    huge = copy.deepcopy(a)
    with torch.no_grad():
        huge.linear1.weight *= 1e38
    with pytest.raises(ValueError, match="found NaN or infinite ones .read by linear in"):
        activation_matching(a, huge, tiny)


def test_networks_that_compute_something_else_are_refused(tiny: mc.Data) -> None:
    def make(times: int) -> nn.Module:
        def run(m: Any, x: Tensor) -> Tensor:
            x = m.first(x.flatten(1)).relu()
            for _ in range(times):
                x = m.again(x).relu()
            return m.out(x)

        return Net(run, first=nn.Linear(64, 8), again=nn.Linear(8, 8), out=nn.Linear(8, 10))

    with pytest.raises(mc.IncompatibleError, match="multiply by weights as it does on the example"):
        activation_matching(make(1), make(2), tiny, progress=False)


# levels


def test_activation_matching_takes_the_wall_down(digits: mc.Data) -> None:
    nets = [
        mc.train(
            mc.build_model("mlp", digits, width=(128, 128), seed=s), digits, 60, seed=s,
            optimizer="adam", lr=1e-3, batch_size=64, progress=False,
        )
        for s in range(3)
    ]  # fmt: skip
    for a, b in (nets[:2], nets[1:]):
        naive = mc.profile(mc.LinearPath(a, b), digits, points=11, progress=False).barrier()
        al = activation_matching(a, b, digits, progress=False)
        after = mc.profile(mc.LinearPath(a, al.model), digits, points=11, progress=False).barrier()
        assert naive > 0.2
        assert after < 0.06
