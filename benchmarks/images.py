"""The images benchmarks run on: real ones where they are, else random ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import mcbook as mc

__all__ = ["images"]

_SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3)}


def images(name: str, train: int, test: int) -> tuple[mc.Data, str]:
    """So many images of a data set on the CPU, without any download.

    Args:
        name: "mnist" or "cifar10".
        train: how many training images.
        test: how many test images.

    Returns:
        The data, and which images they are.
    """
    folder = os.environ.get("MCBOOK_DATA", "")
    if folder and (Path(folder).expanduser() / f"{name}.npz").exists():
        data = mc.load_data(name, device="cpu")
        if len(data.train) >= train and len(data.test) >= test:
            cut = data if len(data.train) == train else data.subset(train=train)
            cut = cut if len(cut.test) == test else cut.subset(test=test)
            return cut, f"{name}, {train:,} training and {test:,} test images"
    generator = np.random.default_rng(0)

    def some(count: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = generator.integers(0, 256, (count, *_SHAPES[name]), dtype=np.uint8)
        return pixels, generator.integers(0, 10, count)

    data = mc.data_from_arrays(*some(train), *some(test), tuple("0123456789"), f"random {name}")
    return data, (
        f"random images of the size of {name} ({name}.npz is not in $MCBOOK_DATA), "
        f"{train:,} for training and {test:,} for testing"
    )
