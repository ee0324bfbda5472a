"""Networks as people write them: frozen norms, experts, graphs, caches, odd outputs."""

from __future__ import annotations

import copy
import dataclasses
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.errors import IncompatibleError


def same(model: nn.Module, spec: mc.PermutationSpec, *inputs: Tensor) -> bool:
    """Whether random copies in float64 compute the same."""
    exact = copy.deepcopy(model).double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    with torch.no_grad():
        before = exact(*inputs)
        return all(
            torch.allclose(mc.permute(exact, spec.random(seed), spec)(*inputs), before, atol=1e-10)
            for seed in range(3)
        )


class FrozenNorm(nn.Module):
    """A norm whose statistics and affine are buffers, as detection networks have it."""

    def __init__(self, n: int):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full((n,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.mean * scale)[:, None, None]


def test_buffers_that_hold_a_number_a_channel_go_along_whatever_they_hold_now() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), FrozenNorm(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 9, 9)
    fresh = mc.trace_symmetry(model, x[:1])
    assert fresh.spaces == {"0": 8}
    for name, buffer in model.named_buffers():
        buffer.uniform_(0.5, 2) if name.endswith("var") else buffer.normal_()
    assert same(model, fresh, x)  # the spec of the fresh network holds for the loaded one
    assert mc.trace_symmetry(model, x[:1]).spaces == {"0": 8}


def test_a_table_that_varies_is_a_constant_and_one_that_does_not_yet_goes_along() -> None:
    class Table(nn.Module):
        def __init__(self, table: Tensor):
            super().__init__()
            self.embed, self.out = nn.Linear(3, 8), nn.Linear(8, 2)
            self.register_buffer("table", table)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.embed(x) + self.table))

    x = torch.randn(1, 5, 3)
    assert mc.trace_symmetry(Table(torch.randn(5, 8)), x).spaces == {}
    model = Table(torch.zeros(5, 8))
    spec = mc.trace_symmetry(model, x)
    assert spec.spaces == {"embed": 8}
    model.table.normal_()
    assert same(model, spec, x)


class Experts(nn.Module):
    """A sparse mixture: each input sees two of four experts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.out = nn.Linear(5, 16), nn.Linear(16, 4), nn.Linear(16, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        p, chosen = self.gate(h).softmax(-1).topk(2, -1)
        out = torch.zeros_like(h)
        for k, expert in enumerate(self.experts):
            row, place = torch.where(chosen == k)
            out.index_add_(0, row, expert(h[row]) * p[row, place, None])
        return self.out(out)


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("seed", [0, 3])
def test_experts_that_an_example_does_not_reach_are_not_set_free(seed: int, rows: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, few, many = Experts(), torch.randn(rows, 5), torch.randn(200, 5)
    spec = mc.trace_symmetry(model, few)
    inside = {f"experts.{k}.0": 24 for k in range(4)}
    # where no row reaches an expert, what goes in and what comes out of it cannot be followed
    around = {"stem": 16, "experts.0.2": 16} if rows == 64 else {}
    assert spec.spaces == inside | around
    assert same(model, spec, many)


def test_graphs_with_as_many_nodes_as_the_check_has_inputs() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = (
                nn.Linear(5, 16),
                nn.Linear(16, 12),
                nn.Linear(12, 2),
            )

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            heard = torch.zeros_like(h).index_add_(0, edges[1], h[edges[0]])
            return self.out(torch.relu(self.second(heard + h)))

    model, x = Graph(), torch.randn(8, 5)
    edges = torch.randint(0, 8, (2, 20), generator=torch.Generator().manual_seed(0))
    spec = mc.trace_symmetry(model, (x, edges))
    assert spec.spaces == {"first": 16, "second": 12}
    assert spec.verification.passed
    assert same(model, spec, x, edges)


def test_inputs_that_must_be_positive_are_drawn_near_the_example() -> None:
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(5, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.first(torch.log(x))))

    spec = mc.trace_symmetry(Log(), torch.rand(1, 5) + 0.5)
    assert spec.spaces == {"first": 16}
    assert spec.verification.passed


def test_masked_outputs_are_compared_where_they_are_finite() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(5, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.tensor([False, True, False])
            return self.out(torch.relu(self.first(x))).masked_fill(mask, -torch.inf)

    assert mc.trace_symmetry(Masked(), torch.randn(1, 5)).verification.passed


@dataclasses.dataclass
class Result:
    features: Tensor
    logits: Tensor


class Returning(nn.Module):
    """Returns what `wrap` makes of its features and logits."""

    def __init__(self, wrap: Any):
        super().__init__()
        self.first, self.out, self.wrap = nn.Linear(4, 6), nn.Linear(6, 3), wrap

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.first(x))
        return self.wrap(h, self.out(h))


def test_outputs_in_data_classes_are_outputs() -> None:
    assert mc.trace_symmetry(Returning(Result), torch.randn(1, 4)).spaces == {}
    only = Returning(lambda h, z: Result(z, z))
    assert mc.trace_symmetry(only, torch.randn(1, 4)).spaces == {"first": 6}


def test_outputs_without_tensors_are_refused() -> None:
    with pytest.raises(mc.TraceError, match="expected tensors in what the network returns"):
        mc.trace_symmetry(Returning(lambda h, z: "nothing"), torch.randn(1, 4))


def test_gated_linear_units() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(4, 16), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.glu(self.first(x)))

    spec = mc.trace_symmetry(Gated(), torch.randn(1, 4))
    assert spec.spaces == {"first": 8}
    assert "first (out) ×2" in str(spec)


def test_weights_standardised_by_a_batch_norm_of_themselves() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            flat = self.weight.reshape(1, self.out_channels, -1)
            w = F.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
            return F.conv2d(x, w, self.bias, padding=1)

    model = nn.Sequential(
        Scaled(3, 8, 3), nn.ReLU(), Scaled(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip
    spec = mc.trace_symmetry(model, torch.randn(1, 3, 8, 8))
    assert spec.spaces == {"0": 8, "2": 6}


# modules that keep things


class Keeping(nn.Module):
    """Counts its calls in a buffer, and has a history of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.history = ["made"]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.out(torch.relu(self.first(x)))


def test_buffers_are_as_before_and_what_is_the_users_stays() -> None:
    model = Keeping()
    spec = mc.trace_symmetry(model, torch.randn(1, 4))
    assert float(model.calls) == 0
    assert mc.permute(model, spec.random(0), spec).history == ["made"]


def test_extra_state_and_versions_are_kept() -> None:
    class Extra(Keeping):
        _version = 2

        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: dict[str, int]) -> None:
            assert state == {"a": 1}

        def _load_from_state_dict(self, state: Any, prefix: str, local: Any, *rest: Any) -> None:
            assert local.get("version") == 2
            super()._load_from_state_dict(state, prefix, local, *rest)

    model = Extra()
    spec = mc.trace_symmetry(model, torch.randn(1, 4))
    assert same(model, spec, torch.randn(5, 4))


def test_what_cannot_be_copied_is_traced_but_not_verified() -> None:
    model = Keeping()
    model.lock = threading.Lock()
    spec = mc.trace_symmetry(model, torch.randn(1, 4))
    assert spec.spaces == {"first": 6}
    assert spec.verification is None
    assert "note: not verified: expected a network that copy.deepcopy can copy" in str(spec)
    with pytest.raises(IncompatibleError, match="holds something else"):
        mc.permute(model, spec.random(0), spec)


def test_a_truth_value_that_leaves_the_tensors_is_noted() -> None:
    class Comparing(Keeping):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if torch.equal(x, x) else x

    spec = mc.trace_symmetry(Comparing(), torch.randn(1, 4))
    assert spec.spaces == {"first": 6}
    assert any("numbers out of its tensors" in note for note in spec.notes)


def test_threads_leave_the_fast_paths_as_they_were() -> None:
    def work() -> None:
        mc.trace_symmetry(Keeping(), torch.randn(1, 4), verify=False)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled


# arguments


def test_specs_compare_and_copy() -> None:
    spec = mc.trace_symmetry(Keeping(), torch.randn(1, 4))
    assert spec in [spec]
    assert spec != copy.deepcopy(spec)
    assert copy.deepcopy(spec).random(1) == spec.random(1)


def test_arguments_in_the_wrong_place_are_named() -> None:
    model = Keeping()
    spec = mc.trace_symmetry(model, torch.randn(1, 4))
    with pytest.raises(TypeError, match="expected a PermutationSpec"):
        mc.permute(model, spec, spec.random(0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, found str"):
        spec.verify("model")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a dictionary from names of tensors"):
        mc.PermutationSpec.from_axes(model, [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a whole number as seed"):
        spec.random("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least one input, found shape \[0, 4\]"):
        mc.trace_symmetry(model, torch.randn(0, 4))
    assert spec.random(-1) == spec.random(-1)
    assert spec.random(0, []) == spec.identity()
    assert spec.random(0, "first") == spec.random(0)


def test_scripted_parts_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 4), backend="eager"))
    with pytest.raises(mc.TraceError, match=r"found a compiled one \(1\)"):
        mc.trace_symmetry(model, torch.randn(1, 4))
