"""Weight matching: the wall falls; laws, local optima, planted permutations."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from alignment.networks import (
    NESTED,
    PLAIN,
    TWICE,
    Residual,
    change,
    has_choice,
    inner,
    mobile,
    network,
    pair,
    planted,
    spec_of,
    swaps,
    trained,
)
from reference import group_elements
from scipy.optimize import linear_sum_assignment
from torch import nn

import mcbook as mc
from mcbook import weights

# digits, 64-128-128-10 ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets() -> list[nn.Module]:
    return [trained(seed) for seed in range(4)]


def barrier(a: nn.Module, b: nn.Module, data: mc.Data) -> float:
    path = mc.LinearPath(a, b)
    ts = np.linspace(0, 1, 11)
    losses = [mc.evaluate(path.model_at(float(t)), data.test)[0] for t in ts]
    chord = (1 - ts) * losses[0] + ts * losses[-1]
    return float((np.array(losses) - chord).max())


def test_the_wall_falls(nets: list[nn.Module], digits: mc.Data) -> None:
    naive, matched = [], []
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)):
        a, b = nets[i], nets[j]
        naive.append(barrier(a, b, digits))
        al = mc.weight_matching(a, b)
        matched.append(barrier(a, al.model, digits))
        # the distance falls, but far from nothing is left of it
        far, near = (
            weights.distance(*map(weights.of, (a, b))),
            weights.distance(*map(weights.of, (a, al.model))),
        )
        assert 0.5 < near / far < 0.9
    assert min(naive) > 0.2
    assert np.mean(matched) < 0.05
    assert np.mean(matched) / np.mean(naive) < 0.15


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_shuffled_trained_networks_are_put_in_order(nets: list[nn.Module], noise: float) -> None:
    spec = mc.trace_symmetry(nets[0])
    for seed, (start, order) in itertools.product(
        range(4), [("frontier", "random"), ("identity", "random"), ("identity", "forward")]
    ):
        b, p = planted(nets[seed], spec, seed, noise)
        al = mc.weight_matching(nets[seed], b, spec, start=start, order=order, seed=seed)
        assert al.permutation == p
        if not noise:
            for name, x in weights.of(nets[seed]).items():
                assert torch.equal(weights.of(al.model)[name], x)


def test_with_much_noise_the_objective_is_that_of_the_planted_one_or_better(
    nets: list[nn.Module],
) -> None:
    spec = mc.trace_symmetry(nets[0])
    for seed in range(4):
        b, p = planted(nets[seed], spec, seed, 2.0)
        al = mc.weight_matching(nets[seed], b, spec)
        assert al.objective[-1] >= inner(nets[seed], mc.permute(b, p, spec)) * (1 - 1e-9)


def test_the_permutation_is_the_best_step_for_every_layer(nets: list[nn.Module]) -> None:
    """No single layer can be assigned better: the formula of the paper, by scipy, in float64."""
    a, b = nets[:2]
    al = mc.weight_matching(a, b)
    one, two = ({n: x.double().numpy() for n, x in weights.of(m).items()} for m in (a, al.model))
    for layer, after in (("linear1", "linear2"), ("linear2", "output")):
        w, v, bias = f"{layer}.weight", f"{after}.weight", f"{layer}.bias"
        gain = one[w] @ two[w].T + one[v].T @ two[v] + np.outer(one[bias], two[bias])
        best = gain[linear_sum_assignment(gain, maximize=True)].sum()
        assert best - gain.trace() <= 1e-6 * best


# laws ---------------------------------------------------------------------------------------

QUICK = ["cct"]


@pytest.mark.parametrize("name", [*PLAIN, *NESTED, *QUICK])
def test_laws(name: str) -> None:
    a, b, spec = pair(name)
    al = mc.weight_matching(a, b, spec)
    # B's function, in another order
    assert change(name, b, al.model) < 1e-10
    assert al.permutation.sizes == spec.spaces
    moved = mc.permute(b, al.permutation, spec)
    for key, x in weights.of(al.model).items():
        assert torch.equal(x, weights.of(moved)[key])
    # the objective is what it says, rises, and begins no lower than B as it is
    assert al.objective == sorted(set(al.objective))
    assert al.objective[-1] == pytest.approx(inner(a, al.model), rel=1e-10)
    assert al.facts["before"] == pytest.approx(inner(a, b), rel=1e-10, abs=1e-10)
    assert al.objective[0] >= al.facts["before"]
    assert al.objective[-1] > al.facts["before"]
    assert al.facts["runs"] == [al.objective[-1]]
    # |A - B'|² = |A|² + |B|² - 2 ⟨A, B'⟩
    names = [n for n, _ in a.named_parameters()]
    of_a, of_b, of_c = (weights.of(m) for m in (a, b, al.model))
    squares = [weights.dot(w, w, names) for w in (of_a, of_b)]
    assert weights.distance(of_a, of_c, names) ** 2 == pytest.approx(
        sum(squares) - 2 * al.objective[-1], rel=1e-8
    )
    # from there nothing changes
    again = mc.weight_matching(a, b, spec, start=al)
    assert again.permutation == al.permutation
    assert len(again.objective) == 1
    here = mc.weight_matching(a, al.model, spec, start="identity")
    assert here.permutation.is_identity()


# what is known not to hold; the mark goes when the mistake goes
LINEAR = pytest.mark.xfail(reason="a space twice on a tensor: only the linear part is looked at")
JOINT = pytest.mark.xfail(reason="spaces that depend on each other move all together or not at all")
NOT_LOCAL = {**dict.fromkeys(TWICE, LINEAR),
           **dict.fromkeys(["gpt", "grouped_shuffled", "standardized_grouped"], JOINT)}  # fmt: skip
LOCAL = [x for x in [*PLAIN, *NESTED] if "resnet" not in x and x not in ("lenet5", "mobile")]


@pytest.mark.parametrize("name", [pytest.param(x, marks=NOT_LOCAL.get(x, ())) for x in LOCAL])
def test_no_exchange_of_two_units_gains(name: str) -> None:
    for seed in range(2):
        a, b, spec = pair(name, seed)
        al = mc.weight_matching(a, b, spec)
        other = {n: x.numpy() for n, x in weights.of(al.model).items()}
        of_a = {n: x.detach().numpy() for n, x in a.named_parameters()}
        rng = np.random.default_rng(seed)
        for space in spec.spaces:
            if not has_choice(spec, spec.space(space)):
                continue
            names = [n for n in spec.tensors_of(space) if n in of_a]
            now = sum(float((of_a[n] * other[n]).sum()) for n in names)
            every = swaps(spec, space)
            for i in rng.permutation(len(every))[:40]:
                element = spec.element(every[i])
                moved = {
                    n: spec.moved(n, torch.from_numpy(other[n]), element).numpy() for n in names
                }
                then = sum(float((of_a[n] * x).sum()) for n, x in moved.items())
                assert then <= now + 1e-8


def three_groups() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(3, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize(("make", "shape", "elements"), [(three_groups, (1, 4), 48)])
def test_blocks_are_matched_by_an_outer_assignment_over_inner_ones(
    make: Callable[[], nn.Module], shape: tuple[int, ...], elements: int
) -> None:
    """Where all spaces are one family, the best of all elements is found."""
    spec = mc.trace_symmetry(make(), torch.zeros(shape), verify=False)
    every = group_elements([c.size for c in spec.classes], [c.parents for c in spec.classes])
    assert len(every) == elements
    every = [np.concatenate([s + np.array(p) for s, p in zip(spec.starts, e, strict=False)])
             for e in every]  # fmt: skip
    for seed in range(12):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            a, b = make().double(), make().double()
            for x in (x for m in (a, b) for x in m.parameters()):
                nn.init.normal_(x)
        of_a, of_b = weights.of(a), weights.of(b)
        values = [
            sum(float((x * spec.moved(n, of_b[n], e)).sum()) for n, x in of_a.items())
            for e in every
        ]
        for start in ("frontier", "identity"):
            al = mc.weight_matching(a, b, spec, start=start)
            assert al.objective[-1] == pytest.approx(max(values), rel=1e-9)


# planted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [x for x in [*PLAIN, *NESTED] if x not in TWICE and "resnet20" not in x]
)
def test_shuffled_random_networks_are_put_in_order(name: str) -> None:
    spec, a = spec_of(name), network(name, 0)
    b, _ = planted(a, spec, 1)
    al = mc.weight_matching(a, b, spec, restarts=3)
    assert al.objective[-1] == pytest.approx(inner(a, a), rel=1e-10)


@pytest.mark.parametrize("blocks", [1, 3])
def test_shuffled_random_residual_networks(blocks: int) -> None:
    hits = {"frontier": 0, "identity": 0}
    for seed in range(15):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            a = Residual(blocks, 30, 50, 3)
        spec = mc.trace_symmetry(a, torch.zeros(1, 3), verify=False)
        b, p = planted(a, spec, seed)
        hits["frontier"] += mc.weight_matching(a, b, spec, restarts=3).permutation == p
        if blocks == 3:
            al = mc.weight_matching(a, b, spec, start="identity", seed=seed)
            hits["identity"] += al.permutation == p
    assert hits["frontier"] == 15
    if blocks == 3:  # what the frontier is for
        assert hits["identity"] < 12


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_shuffled_networks_with_depthwise_convolutions(noise: float) -> None:
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            a = mobile(16, 64, 5).eval()
        spec = mc.trace_symmetry(a, torch.zeros(1, 3, 8, 8), verify=False)
        b, p = planted(a, spec, seed, noise)
        assert mc.weight_matching(a, b, spec, seed=seed).permutation == p


# a network that is not connected ------------------------------------------------------------


class Corner(nn.Module):
    """2-2-2 units with PReLU(.01), and two logits `(-z, z)`: is `x1 < 0` and `x2 > 0`?"""

    def __init__(self, sign: float):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.act = nn.PReLU(init=0.01)
        with torch.no_grad():
            violations = torch.tensor([[1.0, 0.0], [0.0, -1.0]])  # x1 and -x2: above 0 is wrong
            self.one.weight.copy_(sign * violations)
            self.two.weight.copy_(sign * torch.eye(2))
            # one of the layers is always in its straight part, the other decides
            self.one.bias.fill_(0.0 if sign > 0 else 1.0)
            self.two.bias.fill_(1.0)
            self.out.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
            shift = 2.0 if sign > 0 else 0.0
            self.out.bias.copy_(torch.tensor([-shift, shift]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.act(self.two(self.act(self.one(x)))))


def test_networks_that_no_permutation_connects_are_not_connected() -> None:
    """After Ainsworth et al. 2023, appendix: two perfect networks, four permutations, no path.

    What A reads as `x1` and `-x2`, B reads as `1 - x1` and `1 + x2`: halfway the first layer sees
    nothing, or `x1 + x2` alone.
    """
    a, b = Corner(1.0), Corner(-1.0)
    side = torch.arange(-10, 11) / 10
    x = torch.cartesian_prod(side[side != 0], side[side != 0])
    y = ((x[:, 0] < 0) & (x[:, 1] > 0)).long()
    split = mc.Split(x, y)
    for model in (a, b):
        assert mc.evaluate(model, split)[1] == 1
    spec = mc.trace_symmetry(a, x[:1])
    assert list(spec.spaces.values()) == [2, 2]
    al = mc.weight_matching(a, b, spec)
    values = []
    for one, two in itertools.product(itertools.permutations(range(2)), repeat=2):
        p = mc.Permutation({"one": one, "two": two})
        moved = mc.permute(b, p, spec)
        values.append(inner(a, moved))
        assert mc.evaluate(moved, split)[1] == 1
        assert mc.evaluate(mc.LinearPath(a, moved).model_at(0.5), split)[1] < 0.99
    assert al.objective[-1] == pytest.approx(max(values))
    assert mc.evaluate(mc.LinearPath(a, al.model).model_at(0.5), split)[1] < 0.99
