"""Forward passes that wait for each other: exact, in order, and tidy however they end."""

from __future__ import annotations

import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from mcbook import lockstep
from mcbook.lockstep import Lockstep, can_interleave

SETTING: contextvars.ContextVar[str] = contextvars.ContextVar("SETTING", default="default")


class Chain(nn.Module):
    """Three layers in a row; counts how often it begins."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Identity() for _ in range(3)])
        self.begun = 0
        self.ended = 0
        self.during: Callable[[int, Tensor], None] = lambda i, x: None

    def forward(self, x: Tensor) -> Tensor:
        self.begun += 1
        for i, layer in enumerate(self.layers):
            self.during(i, x)
            x = layer(x) + 1
        self.ended += 1
        return x


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


def batches(count: int) -> list[Tensor]:
    return [torch.full((2,), 10.0 * i) for i in range(count)]


def no_hooks(model: nn.Module) -> bool:
    return not any(module._forward_pre_hooks for module in model.modules())


def walked(model: Chain, count: int, rooms: tuple[int, int, int]) -> list[list[float]]:
    """What each layer is given, batch after batch."""
    seen: list[list[float]] = []
    with Lockstep(model, model.layers, batches(count)) as passes:
        for layer, room in zip(model.layers, rooms, strict=True):
            values: list[float] = []
            passes.advance(layer, 1, room, lambda z, values=values: values.append(float(z[0])))
            seen.append(values)
    return seen


# rooms at the three layers, and how many forward passes four batches then begin
@pytest.mark.parametrize(
    ("rooms", "begun"),
    [((9, 9, 0), 4), ((0, 0, 0), 12), ((1, 1, 0), 4 + 3 + 3), ((1, 3, 0), 4 + 3 + 1)],
)
def test_every_batch_comes_by_every_layer_in_order(rooms: tuple[int, int, int], begun: int) -> None:
    model = Chain()
    assert walked(model, 4, rooms) == [[i, 10 + i, 20 + i, 30 + i] for i in range(3)]
    assert model.begun == begun
    assert model.ended == 0  # what comes after the last layer is not needed
    assert no_hooks(model)


class Scale(nn.Module):
    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("most", [0, 2, 256])
def test_a_layer_acts_on_what_waits_as_it_was_left(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is changed at a layer counts for all batches, and before it for none."""
    monkeypatch.setattr(lockstep, "_MOST", most)
    model = nn.Sequential(Scale(), Scale())
    sums: list[float] = []
    with Lockstep(model, model, [torch.ones(1), 2 * torch.ones(1), 3 * torch.ones(1)]) as passes:
        for layer in model:
            values: list[float] = []
            passes.advance(layer, 1, 99, lambda z, values=values: values.append(float(z)))
            layer.factor = sum(values)
            sums.append(sum(values))
    assert sums == [6, 36]


@pytest.mark.parametrize("room", [0, 1, 99])
def test_what_uses_a_layer_again_sees_it_unchanged_until_its_last_use(room: int) -> None:
    layer, last = Scale(), nn.Identity()

    def forward(x: Tensor) -> Tensor:
        return last(layer(layer(x) + 1) + 1)

    seen: list[float] = []
    with Lockstep(forward, [layer, last], batches(3)) as passes:
        passes.advance(layer, 2, room, lambda z: seen.append(float(z[0])))
        assert seen == [0, 1, 10, 11, 20, 21]
        layer.factor = 3.0
        passes.advance(last, 1, room, lambda z: seen.append(float(z[0])))
    assert seen[6:] == [4, 94, 184]  # from the beginning, with the layer as it is now


def test_a_batch_may_go_round_a_layer() -> None:
    model = Chain()

    def forward(x: Tensor) -> Tensor:
        first, second, third = model.layers
        # the second batch takes another way: it comes by the second layer before the first
        return third(second(first(x))) if x[0] != 10 else first(second(x))

    seen: list[list[float]] = []
    with Lockstep(forward, model.layers, batches(3)) as passes:
        for layer in model.layers:
            values: list[float] = []
            passes.advance(layer, 1, 99, lambda z, values=values: values.append(float(z[0])))
            seen.append(values)
    assert seen == [[0, 10, 20], [0, 10, 20], [0, 20]]


@pytest.mark.parametrize("room", [0, 1, 9])
def test_an_error_of_the_network_is_the_callers(room: int) -> None:
    model = Chain()

    def during(i: int, x: Tensor) -> None:
        if i == 1 and float(x[0]) == 21:
            raise LookupError("not this image")

    model.during = during
    with pytest.raises(LookupError, match="not this image"):
        walked(model, 5, (room, room, room))
    assert no_hooks(model)


@pytest.mark.parametrize("room", [0, 9])
def test_an_error_of_who_looks_is_the_callers(room: int) -> None:
    model = Chain()

    def look() -> None:
        with Lockstep(model, model.layers, batches(4)) as passes:
            passes.advance(model.layers[0], 1, room, lambda z: None)
            passes.advance(model.layers[1], 1, room, lambda z: 1 / 0 if z[0] == 21 else None)

    with pytest.raises(ZeroDivisionError):
        look()
    assert no_hooks(model)


@pytest.mark.parametrize("room", [0, 9])
def test_it_can_be_interrupted(room: int) -> None:
    model = Chain()

    def during(i: int, x: Tensor) -> None:
        if i == 1 and float(x[0]) == 11:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            for _ in range(20):  # the interrupt comes while this still computes
                time.sleep(0.01)

    model.during = during
    # whoever started the tests in the background may have had it ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            walked(model, 4, (room, room, room))
    finally:
        signal.signal(signal.SIGINT, before)
    assert no_hooks(model)


def test_a_network_that_catches_errors_does_not_catch_the_end() -> None:
    model, caught = Chain(), []

    def forward(x: Tensor) -> Tensor:
        try:
            return model(x)
        except Exception as error:
            caught.append(error)
            raise

    with Lockstep(forward, model.layers, batches(3)) as passes:
        passes.advance(model.layers[0], 1, 2, lambda z: None)
    assert not caught


def test_a_network_that_insists_goes_on_to_its_end() -> None:
    model = Chain()

    def forward(x: Tensor) -> Tensor:
        try:
            return model(x)
        except BaseException:
            return x

    seen: list[float] = []
    with Lockstep(forward, model.layers, batches(3)) as passes:
        for layer in model.layers:
            passes.advance(layer, 1, 2, lambda z: seen.append(float(z[0])))
    assert seen == [0, 10, 20, 1, 11, 21, 2, 12, 22]


def thread_state() -> dict[str, object]:
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_autocast_dtype("cpu"),
        "cache": torch.is_autocast_cache_enabled(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "setting": SETTING.get(),
    }


@pytest.mark.parametrize(
    "context",
    [
        torch.enable_grad,
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.autocast("cpu", dtype=torch.float16, cache_enabled=False),
        lambda: torch.device("meta"),
    ],
    ids=["gradients", "no gradients", "inference", "bfloat16", "no cache", "device"],
)
def test_a_pass_runs_as_it_would_in_the_callers_thread(context: Callable) -> None:
    model, states, inside = Chain(), [], []

    def during(i: int, x: Tensor) -> None:
        states.append(thread_state())
        inside.append(threading.current_thread())

    model.during = during
    parts = batches(3)
    token = SETTING.set("mine")
    try:
        with context():
            expected = thread_state()
            with Lockstep(model, model.layers, parts) as passes:
                for layer in model.layers:
                    passes.advance(layer, 1, 2, lambda z: None)
            assert thread_state() == expected
    finally:
        SETTING.reset(token)
    assert states
    assert all(state == expected for state in states)
    assert {thread is threading.main_thread() for thread in inside} == {False, True}


def test_only_one_pass_ever_runs() -> None:
    model, running, most = Chain(), set(), []

    def during(i: int, x: Tensor) -> None:
        running.add(threading.get_ident())
        most.append(len(running))
        time.sleep(0.001)
        running.discard(threading.get_ident())

    model.during = during
    walked(model, 5, (9, 9, 9))
    assert set(most) == {1}


@pytest.mark.parametrize("started", [0, 2])
def test_without_threads_it_goes_another_way(started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, left = threading.Thread.start, [started]

    def start(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        plain(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    model = Chain()
    assert walked(model, 4, (9, 9, 9)) == [[i, 10 + i, 20 + i, 30 + i] for i in range(3)]
    assert model.begun == 4 + 2 * (4 - started)


def test_there_are_never_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockstep, "_MOST", 3)
    model, counts, before = Chain(), [], threading.active_count()
    model.during = lambda i, x: counts.append(threading.active_count() - before)
    walked(model, 8, (9, 9, 9))
    assert max(counts) == 3


class Keeps(nn.Module):
    """Keeps what it is given in an attribute, until further on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x
        y = self.first(x * 2)
        return self.second(y + self.kept)


def test_a_network_that_keeps_something_is_found_out() -> None:
    keeps, chain = Keeps(), Chain()
    images = [torch.zeros(1, 4), torch.ones(1, 4)]
    assert not can_interleave(keeps, [(keeps.first, 1), (keeps.second, 1)], images)
    assert can_interleave(chain, [(layer, 1) for layer in chain.layers], images)
    assert no_hooks(keeps)
    assert no_hooks(chain)


def test_a_network_that_draws_numbers_is_found_out() -> None:
    drops = nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Dropout(0.5), nn.Identity())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not can_interleave(drops, [(drops[1], 1), (drops[3], 1)], [torch.ones(1, 64)] * 2)


def test_passes_of_others_are_left_alone() -> None:
    model = Chain()
    with Lockstep(model, model.layers, batches(2)) as passes:
        passes.advance(model.layers[0], 1, 2, lambda z: None)
        assert float(model(torch.zeros(2))[0]) == 3
