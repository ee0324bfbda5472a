"""What the tests share: real digits, tiny networks, one thread, no network."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator

import hypothesis
import numpy as np
import pytest
import torch

# no bars in the test log; the tests of the bars turn them on
os.environ["MCBOOK_PROGRESS"] = "0"

import mcbook as mc

torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "mcbook", derandomize=True, deadline=None, max_examples=25, database=None
)
hypothesis.settings.load_profile("mcbook")


@pytest.fixture(scope="session")
def digits() -> mc.Data:
    """All the digits."""
    return mc.load_data("digits", device="cpu")


@pytest.fixture(scope="session")
def small(digits: mc.Data) -> mc.Data:
    """A few hundred digits."""
    return digits.subset(train=300, test=150)


@pytest.fixture(scope="session")
def tiny(digits: mc.Data) -> mc.Data:
    """So few digits that an epoch is a few steps, the last on a shorter batch."""
    return digits.subset(train=70, test=30, seed=1)


@pytest.fixture(scope="session")
def endpoints(digits: mc.Data) -> list[torch.nn.Module]:
    """Six small perceptrons, trained from six seeds."""
    return [
        mc.train(mc.build_model("mlp", digits, width=(16, 16), seed=s), digits, 15, seed=s)
        for s in range(6)
    ]


@pytest.fixture(scope="session")
def normed(digits: mc.Data) -> list[torch.nn.Module]:
    """Four small convolutional networks with batch norm, trained from four seeds."""
    return [
        mc.train(
            mc.build_model("convnet", digits, width=8, seed=s), digits, 4, seed=s, batch_size=32
        )
        for s in range(4)
    ]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection to anywhere."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def same_random_state() -> Iterator[None]:
    """Every global generator is afterwards as it was before."""

    def states() -> tuple[bytes, str, str]:
        return (
            torch.get_rng_state().numpy().tobytes(),
            repr(np.random.get_state()),
            repr(random.getstate()),
        )

    torch.manual_seed(12345)
    before = states()
    yield
    assert states() == before


@pytest.fixture
def untouched() -> Callable[[torch.nn.Module], Callable[[], None]]:
    """Photograph a module; the function returned asserts that it looks the same."""

    def photograph(module: torch.nn.Module) -> Callable[[], None]:
        weights = {name: x.clone() for name, x in module.state_dict().items()}
        flags = [m.training for m in module.modules()]
        facts = set(vars(module))

        def compare() -> None:
            now = module.state_dict()
            assert list(now) == list(weights)
            for name, x in weights.items():
                assert torch.equal(now[name], x), name
                assert now[name].dtype == x.dtype, name
            assert [m.training for m in module.modules()] == flags
            assert set(vars(module)) == facts
            assert all(p.grad is None for p in module.parameters())
            hooks = ("_forward_hooks", "_forward_pre_hooks")
            assert not any(getattr(m, hook) for m in module.modules() for hook in hooks)

        return compare

    return photograph
