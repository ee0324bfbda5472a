"""What all runs that can be interrupted keep besides their weights: optimizer, chance, identity."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import IncompatibleError

__all__ = [
    "Chance",
    "check_identity",
    "digest_of",
    "epoch_seed",
    "optimizer_tensors",
    "restore_optimizer_",
]


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for every epoch of every seed, far apart."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]) >> 1


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A short name for the values of some tensors: sixteen hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_identity(
    file: str | os.PathLike[str], found: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    """Refuse to go on from the checkpoint of another run.

    Raises:
        IncompatibleError: naming the first thing that differs.
    """
    for key, value in expected.items():
        if found.get(key) != value:
            raise IncompatibleError(
                f"{file} is a checkpoint of another run: expected {key} = {value!r}, found "
                f"{found.get(key)!r}; give another file or delete this one"
            )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as named tensors: `<number of the parameter>.<what>`."""
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer_(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` took."""
    state = optimizer.state_dict()
    state["state"] = {}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = trained[int(index)]
        if tensor.shape == parameter.shape:
            # in the parameter's memory layout: fused optimizers walk through both at once
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(state)


class Chance:
    """The random numbers of one run (dropout, augmentation): a state of torch's generators.

    Args:
        seed: of the run.
        device: where it computes.

    Attributes:
        state: of the generators, by device.
    """

    def __init__(self, seed: int, device: torch.device):
        self._cuda: Sequence[torch.device] = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=self._cuda):
            torch.manual_seed(epoch_seed(seed, 0))
            self.state = self._current()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Within, torch draws the run's numbers, from `state` on; after it, what it drew before."""
        with torch.random.fork_rng(devices=self._cuda):
            torch.set_rng_state(self.state["cpu"])
            for device in self._cuda:
                torch.cuda.set_rng_state(self.state["cuda"], device)
            yield

    def note(self) -> None:
        """Within `taken`: remember where the generators stand now."""
        self.state = self._current()

    def _current(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        for device in self._cuda:
            state["cuda"] = torch.cuda.get_rng_state(device)
        return state
