"""What cannot be traced is refused with the place, the reason and a way out."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import mcbook as mc


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_something_that_is_no_module() -> None:
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, found list"):
        mc.trace_symmetry([nn.Linear(2, 2)])  # type: ignore[arg-type]


def test_a_missing_example() -> None:
    with pytest.raises(ValueError, match=r"expected an example of the input, since a Sequential"):
        mc.trace_symmetry(net())
    spec = mc.trace_symmetry(net(), torch.randn(1, 4))
    with pytest.raises(ValueError, match="expected an example of the input"):
        spec.verify(net())


def test_an_example_of_the_wrong_shape_names_module_and_operation() -> None:
    with pytest.raises(mc.TraceError) as caught:
        mc.trace_symmetry(net(), torch.randn(1, 5))
    said = str(caught.value)
    assert "an example of shape [1, 5] in module '0'" in said
    assert "mat1 and mat2" in said
    assert "PermutationSpec.from_axes" in said


def test_a_forward_pass_that_fails_says_after_which_operation() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.first(x))
            raise KeyError("no such table")
            return h

    with pytest.raises(mc.TraceError, match=r"after the operation tanh: KeyError: 'no such table'"):
        mc.trace_symmetry(Broken(), torch.randn(1, 4))


def test_wrong_arguments() -> None:
    with pytest.raises(mc.TraceError, match="takes 2 positional arguments but 3 were given"):
        mc.trace_symmetry(net(), (torch.randn(1, 4), torch.randn(1, 4)))


def test_hooks_and_modes_are_gone_after_a_failure(untouched: Any) -> None:
    model = net()
    same = untouched(model)
    with pytest.raises(mc.TraceError):
        mc.trace_symmetry(model, torch.randn(1, 5))
    same()
    assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]
    assert torch.backends.mkldnn.enabled


def test_weights_without_values() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3, device="meta"))
    with pytest.raises(mc.TraceError, match=r"with values, found 1.weight on the device meta"):
        mc.trace_symmetry(model, torch.randn(1, 4))


def test_weights_that_are_not_made_yet() -> None:
    with pytest.raises(mc.TraceError, match="found that weight has not been initialised"):
        mc.trace_symmetry(nn.LazyLinear(3), torch.randn(1, 4))


def test_sparse_weights() -> None:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(model.weight.detach().to_sparse())
    with pytest.raises(mc.TraceError, match="dense, unquantised weights, found weight with layout"):
        mc.trace_symmetry(model, torch.randn(1, 4))


def test_compiled_modules() -> None:
    with pytest.raises(mc.TraceError, match="expected a plain module, found a compiled one"):
        mc.trace_symmetry(torch.compile(net(), backend="eager"), torch.randn(1, 4))


def test_a_forward_pass_in_which_the_data_decide_is_followed_for_this_example() -> None:
    class Routed(nn.Module):
        """Which units are read depends on the input: those that are, cannot move."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(4, 8), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            return self.out(h.gather(1, (x[:, :3] > 0).long() + 2))

    spec = mc.trace_symmetry(Routed(), torch.randn(1, 4))
    assert spec.spaces == {}
    assert any("gather" in f.reason for f in spec.frozen)


def test_a_shared_module_is_one_set_of_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 8)
            self.middle = nn.Linear(8, 8)
            self.same = self.middle
            self.out = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.middle(torch.relu(self.first(x))))
            return self.out(torch.relu(self.same(h)))

    spec = mc.trace_symmetry(Twice(), torch.randn(1, 4))
    assert spec.spaces == {"first": 8}
    assert spec.aliases == {"same.weight": "middle.weight", "same.bias": "middle.bias"}
    model = Twice()
    x = torch.randn(5, 4)
    assert torch.allclose(mc.permute(model, spec.random(0), spec)(x), model(x), atol=1e-5)


def test_a_parameter_that_is_never_used_cannot_move() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
            self.spare = nn.Parameter(torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.first(x)))

    spec = mc.trace_symmetry(Spare(), torch.randn(1, 4))
    assert spec.spaces == {"first": 8}
    assert [f.reason for f in spec.frozen if f.tensor == "spare"] == ["not read on this example"]


def test_an_operation_nobody_knows_freezes_what_it_touches_and_says_so() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = nn.Linear(4, 8), nn.Linear(8, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.fft.fft(self.first(x)).real
            return self.out(torch.relu(self.second(h)))

    spec = mc.trace_symmetry(Odd(), torch.randn(1, 4))
    assert spec.spaces == {"second": 5}
    assert any("_fft" in note for note in spec.notes)
    assert "note: no rule knows aten._fft" in str(spec)


def test_a_number_that_decides_the_way_is_noted() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            return self.out(h if h.sum().item() > 0 else -h)

    spec = mc.trace_symmetry(Deciding(), torch.randn(1, 4))
    assert spec.spaces == {"first": 8}
    assert "reads numbers out of its tensors" in " ".join(str(spec).split())


def test_a_network_that_cannot_run_in_float64_is_checked_in_its_own_precision() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            # a float32 constant
            return self.out(torch.matmul(h[..., None], torch.ones(1, 1))[..., 0])

    class Wrong(Single):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.from_numpy(torch.relu(self.first(x)).numpy())
            return self.out(torch.matmul(h[..., None], torch.ones(1, 1))[..., 0])

    spec = mc.trace_symmetry(Single(), torch.randn(1, 4))
    assert spec.spaces == {"first": 8}
    assert spec.verification.precision == "float32"
    assert spec.verification.passed
    assert "verified in float32" in str(spec)
    assert mc.trace_symmetry(Wrong(), torch.randn(1, 4)).spaces == {}


def test_a_check_that_fails_for_no_space_alone_freezes_them_all() -> None:
    from mcbook.symmetry import verification

    model = net()
    spec = mc.trace_symmetry(model, torch.randn(1, 4), verify=False)
    with mock.patch.object(verification, "_change", return_value=1.0):
        found = spec.verify(model, torch.randn(1, 4))
    assert not found.passed
    assert found.spec.spaces == {}
