"""One thread inside, as many as before outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mcbook.threads import one_thread


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_inside_and_as_many_as_before_outside() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_an_error_inside_restores_them_too() -> None:
    with pytest.raises(KeyError, match="inside"), one_thread():
        raise KeyError("inside")
    assert torch.get_num_threads() == 3


def test_one_inside_another_changes_nothing() -> None:
    with one_thread():
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
