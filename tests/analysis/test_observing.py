"""What modules read and put out, call by call; and the networks on which features are tested."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.analysis.observing import batches_of, checked_inputs, find_calls, observe
from tests import reference
from tests.analysis import networks
from tests.analysis.networks import Idle

ALL = ("linear", "activation", "other")


class Block(nn.Module):
    """A residual block with one ReLU for two places, which may overwrite what it is given."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        if self.inplace:
            y += x
        else:
            y = y + x
        return self.relu(y)


def residual(inplace: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(inplace),
        Block(inplace),
        Block(inplace),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))


class Switch(nn.Module):
    """Calls one layer or the other, by the sign of the sum of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.output = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.left(x) if x.sum() > 0 else self.right(x))


class Failing(nn.Module):
    """Fails behind its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("what comes next is missing" + str(self.relu(self.first(x)).shape))


class Recurrent(nn.Module):
    """A layer that puts out a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.output = nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.cell(x)[0][:, -1])


class SequenceFirst(nn.Module):
    """Features whose first axis is not that of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.output = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.first(x.transpose(0, 1)).mean(0))


MAKE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **networks.NETWORKS,
    "residual": (residual, (1, 4, 4)),
    "in place": (lambda: residual(inplace=True), (1, 4, 4)),
    "perceptron": (perceptron, (6,)),
}


def build(make: str | Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network in float64 in which no bias and no statistic is what it is at first."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (MAKE[make][0] if isinstance(make, str) else make)().double()
        with torch.no_grad():
            for x in model.parameters():
                x.add_(0.1 * torch.randn_like(x))
            for x in model.buffers():
                if x.is_floating_point():
                    x.add_(torch.rand_like(x))
    return model


def inputs(name: str, count: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, *MAKE[name][1], generator=generator, dtype=torch.float64)


def test_calls_come_in_the_order_of_the_pass_and_know_their_sizes() -> None:
    calls = find_calls(build("residual", 0).eval(), inputs("residual"), None, ALL)
    assert [(c.name, c.kind) for c in calls] == [
        ("0", "linear"), ("1", "activation"),
        ("2.conv1", "linear"), ("2.norm1", "other"), ("2.relu:1", "activation"),
        ("2.conv2", "linear"), ("2.norm2", "other"), ("2.relu:2", "activation"),
        ("3.conv1", "linear"), ("3.norm1", "other"), ("3.relu:1", "activation"),
        ("3.conv2", "linear"), ("3.norm2", "other"), ("3.relu:2", "activation"),
        ("4", "other"), ("6", "linear"),
    ]  # fmt: skip
    sizes = {c.name: (c.module, c.turn, c.read, c.put_out) for c in calls}
    assert sizes["0"] == ("0", 1, 16, 64)
    assert sizes["2.relu:2"] == ("2.relu", 2, 64, 64)
    assert sizes["4"] == ("4", 1, 64, 16)
    assert sizes["6"] == ("6", 1, 16, 3)


def test_what_has_no_effect_is_not_looked_at() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.Linear(4, 4), nn.Dropout(0.5), nn.Flatten(),
                          nn.AlphaDropout(), nn.Unflatten(1, (2, 2)), nn.LayerNorm(2))  # fmt: skip
    assert [c.name for c in find_calls(model, torch.ones(3, 4), None, ALL)] == ["1", "6"]
    assert [c.name for c in find_calls(model, torch.ones(3, 4), "2", ALL)] == ["2"]  # if wanted


@pytest.mark.parametrize("name", MAKE)
def test_observed_is_what_a_plain_hook_keeps(name: str) -> None:
    model, x = build(name, 0), inputs(name)
    calls = find_calls(model, x, None, ALL)
    slow = reference.calls(model, x, sorted({c.module for c in calls}))
    seen: list[tuple[int, Tensor, Tensor]] = []
    output = observe(
        model, calls, x, lambda i, h, z: seen.append((i, h.clone(), z.clone())), inputs=True
    )
    assert [calls[i].module for i, *_ in seen] == [slow_name for slow_name, *_ in slow]
    assert [i for i, *_ in seen] == list(range(len(calls)))
    for (i, h, z), (_, slow_h, slow_z) in zip(seen, slow, strict=True):
        torch.testing.assert_close(h, slow_h, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(z, slow_z, rtol=1e-12, atol=1e-12)
        assert (calls[i].read, calls[i].put_out) == (h[0].numel(), z[0].numel())
    model.eval()
    torch.testing.assert_close(output, model(x).detach(), rtol=1e-12, atol=1e-12)


def test_what_is_returned_takes_the_place_of_the_output() -> None:
    model, x = build("in place", 0).eval(), inputs("in place")
    (call,) = find_calls(model, x, "2.relu:2", ALL)
    z = torch.rand(11, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = observe(model, [call], x, lambda *_: z.clone())
    with torch.no_grad():
        torch.testing.assert_close(found, model[6](model[5](model[4](model[3](z.clone())))))


@pytest.mark.parametrize("name", ["in place", "encoder", "attention"])
@pytest.mark.usefixtures("same_random_state")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_everything_is_as_before_also_after_a_failure(
    name: str, fails: bool, fast: bool, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    model, x = build(name, 0), inputs(name)
    model[1].eval() if name == "in place" else model.output.eval()  # flags are mixed
    compare, threads = untouched(model), torch.get_num_threads()
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    same = x.clone()

    def see(*_: object) -> None:
        if fails:
            raise KeyError("this one")

    try:
        calls = find_calls(model, x, None, ALL)
        if fails:
            with pytest.raises(KeyError, match="this one"):
                observe(model, calls, x, see)
        else:
            observe(model, calls, x, see)
        assert torch.backends.mha.get_fastpath_enabled() == fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    compare()
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert torch.equal(x, same)


@pytest.mark.usefixtures("same_random_state")
def test_a_pass_that_fails_leaves_nothing_behind(
    untouched: Callable[[nn.Module], Callable[[], None]],
) -> None:
    model = build(Failing, 0)
    compare, fast = untouched(model), torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match="what comes next"):
        find_calls(model, inputs("perceptron"), None, ALL)
    compare()
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.is_grad_enabled()


def test_the_batch_fits_into_a_fixed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("perceptron", 0), inputs("perceptron")
    calls = find_calls(model, x, None, ALL)
    outputs, read = 8 + 8 + 7 + 7 + 3, 6 + 8 + 8 + 7 + 7

    def size(inputs: bool = False) -> int:
        many = torch.zeros(2_000, 6, dtype=torch.float64)
        return len(batches_of(many, calls, None, inputs)[0])

    assert size() == 512
    monkeypatch.setattr("mcbook.analysis.observing._MEMORY", 10 * outputs * 8 * 2)
    assert size() == 10
    assert size(inputs=True) == 10 * outputs // (outputs + read)
    monkeypatch.setattr("mcbook.analysis.observing._MEMORY", 1)
    assert size() == 1
    with pytest.raises(ValueError, match="batch size of at least 1, found 0"):
        batches_of(x, calls, 0)


# names --------------------------------------------------------------------------------------


def test_layers_are_named_by_module_or_by_call() -> None:
    model, x = build("residual", 0), inputs("residual")

    def names(layers: object) -> list[str]:
        return [c.name for c in find_calls(model, x, layers, ("activation",))]  # type: ignore[arg-type]

    assert names("3") == ["3"]
    assert names(["3.relu:2", "0", "2.relu:1", "0"]) == ["0", "2.relu:1", "3.relu:2"]
    assert names(iter(["6", "2.norm1"])) == ["2.norm1", "6"]
    with pytest.raises(mc.UnknownNameError, match="unknown layer '2.con1'; did you mean '2.conv1"):
        names("2.con1")
    with pytest.raises(ValueError, match="'2.relu' called 2 times.*2.relu:1, 2.relu:2"):
        names(["2.relu"])
    with pytest.raises(mc.UnknownNameError, match="unknown call of a layer '2.relu:3'.*2.relu:2"):
        names(["2.relu:3"])
    with pytest.raises(mc.UnknownNameError, match="'0:2'"):
        names("0:2")
    with pytest.raises(ValueError, match="found none"):
        names([])


def test_a_layer_that_is_not_called_is_refused_and_not_found_by_itself() -> None:
    model, x = build(Idle, 0), inputs("perceptron")
    assert [c.name for c in find_calls(model, x, None, ALL)] == ["used"]
    with pytest.raises(ValueError, match="to call the layer 'idle', but it does not"):
        find_calls(model, x, "idle", ALL)


def test_functions_cannot_be_seen_and_the_message_says_so() -> None:
    model = nn.Sequential(nn.Linear(6, 2), nn.Flatten())
    with pytest.raises(ValueError, match="of this Sequential.*kind activation, found none.*F.relu"):
        find_calls(model, torch.ones(2, 6), None, ("activation",))
    with pytest.raises(TypeError, match="expected a torch.nn.Module, found list"):
        find_calls([], torch.ones(2, 6), None, ALL)  # type: ignore[arg-type]


def test_outputs_that_are_no_features_are_refused() -> None:
    model, x = build(Recurrent, 0), torch.ones(3, 5, 6, dtype=torch.float64)
    with pytest.raises(TypeError, match="layer 'cell' to put out one tensor, found tuple; name"):
        find_calls(model, x, "cell", ALL)
    assert [c.name for c in find_calls(model, x, None, ("linear",))] == ["output"]
    other = build(SequenceFirst, 0)
    with pytest.raises(ValueError, match=r"from the layer 'first', found shape \[5, 2, 4\]"):
        find_calls(other, x, None, ("linear",))
    assert [c.name for c in find_calls(other, x, "output", ("linear",))] == ["output"]


def test_a_way_that_depends_on_the_input_is_refused() -> None:
    model = build(Switch, 0)
    x = torch.cat([torch.ones(3, 6), -torch.ones(3, 6)]).double()
    calls = find_calls(model, x, None, ALL)
    assert [c.name for c in calls] == ["left", "output"]
    with pytest.raises(ValueError, match="every forward pass to call left as the first one did"):
        observe(model, calls, x[3:], lambda *_: None)


# inputs -------------------------------------------------------------------------------------


def test_inputs_come_to_the_weights_and_whole_numbers_stay_whole() -> None:
    single = build("perceptron", 0).float()
    assert checked_inputs(single, torch.ones(2, 6, dtype=torch.float64)).dtype == torch.float32
    tokens = torch.ones(2, 6, dtype=torch.int64)
    assert checked_inputs(single, tokens).dtype == torch.int64
    assert checked_inputs(nn.ReLU(), torch.ones(2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[1.0]], TypeError, "expected a tensor of images, such as data.test.x, found list"),
        (torch.zeros(0, 6), ValueError, r"at least one image as inputs, found shape \[0, 6\]"),
        (torch.tensor(1.0), ValueError, r"at least one image as inputs, found shape \[\]"),
        (torch.full((2, 6), torch.nan), ValueError, "finite inputs, found NaN"),
        (torch.full((2, 6), torch.inf), ValueError, "finite inputs, found NaN or infinite"),
    ],
)
def test_inputs_that_are_none_are_refused(x: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        checked_inputs(build("perceptron", 0), x)  # type: ignore[arg-type]
