"""Labelled images, whole and in memory, on the device.

`digits` comes with scikit-learn and never needs a network.  `mnist`, `cifar10` and `cifar100`
are read from `<root>/<name>.npz`; where that file is missing, torchvision's checksummed download
makes it once.  Images are float32 `[n, c, h, w]` in [0, 1] and are never standardised here:
normalisation is an option of the model, so that it travels with the weights.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .archives import ARCHIVES, KEYS, data_root, read_archive
from .errors import DamagedFileError, UnknownNameError

__all__ = [
    "Data",
    "Split",
    "data_from_arrays",
    "default_device",
    "list_data",
    "load_data",
]


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        x: images, float32 `[n, c, h, w]` in [0, 1].
        y: labels, int64 `[n]`.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """The number of images."""
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A data set: two splits, the names of the classes, and a fingerprint.

    Attributes:
        train: what networks are trained on.
        test: what they are judged on.
        classes: the class names, in the order of the labels.
        name: the data set's name, with what was done to it.
        fingerprint: 16 hexadecimal digits of a SHA-256 over the images, the labels and every
            change made since; records carry it.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    name: str
    fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape `(c, h, w)` of one image."""
        c, h, w = self.train.x.shape[1:]
        return int(c), int(h), int(w)

    def __repr__(self) -> str:
        """Name, sizes and image shape: never the images."""
        return (
            f"Data({self.name!r}, train={len(self.train)}, test={len(self.test)}, "
            f"shape={self.shape}, classes={len(self.classes)})"
        )

    def split(self, name: str) -> Split:
        """The split called `name`: `train` or `test`.

        Raises:
            UnknownNameError: for any other name.
        """
        if name not in ("train", "test"):
            raise UnknownNameError("split", name, ("train", "test"))
        return self.train if name == "train" else self.test

    def to(self, device: torch.device | str) -> Data:
        """The same data on another device."""
        return replace(
            self,
            train=Split(self.train.x.to(device), self.train.y.to(device)),
            test=Split(self.test.x.to(device), self.test.y.to(device)),
        )

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> Data:
        """A random part of the data, shuffled with `seed`.

        Args:
            train: how many training images to keep; all when None.
            test: how many test images to keep; all when None.
            seed: which part.

        Raises:
            ValueError: when more images are asked for than there are.
        """

        def cut(split: Split, count: int | None, what: str) -> Split:
            if count is None:
                return split
            if not 0 < count <= len(split):
                raise ValueError(
                    f"expected between 1 and {len(split)} {what} images, found {count}"
                )
            order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
            kept = order[:count].to(split.x.device)
            return Split(split.x[kept], split.y[kept])

        return self._changed(
            f"subset(train={train}, test={test}, seed={seed})",
            train=cut(self.train, train, "training"),
            test=cut(self.test, test, "test"),
        )

    def with_label_noise(self, fraction: float, seed: int = 0) -> Data:
        """The same images with some *training* labels made wrong; the test set stays clean.

        Exactly `round(fraction * n)` training images, drawn without replacement, each get a
        label drawn uniformly from the classes other than their own.

        Args:
            fraction: which part of the training labels to change, in [0, 1].
            seed: which images, and which wrong labels.

        Raises:
            ValueError: when the fraction is outside [0, 1].
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"expected a fraction of labels in [0, 1], found {fraction}")
        generator = torch.Generator().manual_seed(seed)
        n, classes = len(self.train), len(self.classes)
        count = round(fraction * n)
        chosen = torch.randperm(n, generator=generator)[:count]
        shift = torch.randint(1, classes, (count,), generator=generator)
        y = self.train.y.clone()
        chosen, shift = chosen.to(y.device), shift.to(y.device)
        y[chosen] = (y[chosen] + shift) % classes
        return self._changed(f"label_noise({fraction}, seed={seed})", train=Split(self.train.x, y))

    def _changed(self, change: str, train: Split | None = None, test: Split | None = None) -> Data:
        return replace(
            self,
            train=train or self.train,
            test=test or self.test,
            name=f"{self.name} {change}",
            fingerprint=hashlib.sha256(f"{self.fingerprint} {change}".encode()).hexdigest()[:16],
        )


def default_device() -> torch.device:
    """The device everything runs on unless told otherwise: CUDA if present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def list_data() -> list[str]:
    """The names `load_data` knows."""
    return sorted(["digits", *ARCHIVES])


def load_data(
    name: str,
    root: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    size: int | None = None,
    channels: int | None = None,
) -> Data:
    """Load a data set into memory.

    Args:
        name: `digits` (1,797 real 8 × 8 handwritten digits, embedded; stratified into 1,297 for
            training and 500 for testing with one fixed seed), `mnist`, `cifar10` or `cifar100`.
        root: the folder of `<name>.npz`; else `$MCBOOK_DATA`, else the user's cache folder.
        device: where the tensors live; CUDA if present, else the CPU.
        size: resize the images to `size` × `size` (bilinear, antialiased).
        channels: 3 repeats a grey image; 1 averages a coloured one.

    Raises:
        UnknownNameError: for a name that is not in `list_data()`; offers the close ones.
        MissingDataError: when the file is missing and cannot be downloaded; names the file and
            the ways to get it.
        DamagedFileError: when the file is there but is not what it should be; says why.
        ValueError: for a size or number of channels no image can have.
    """
    if name == "digits":
        data = _digits()
    elif name in ARCHIVES:
        data = _archive(name, data_root(root))
    else:
        raise UnknownNameError("data set", name, list_data())
    return _shaped(data, size, channels).to(default_device() if device is None else device)


def data_from_arrays(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    classes: tuple[str, ...] | None = None,
    name: str = "custom",
    white: int = 255,
) -> Data:
    """A data set of your own, on the CPU (`.to(device)` moves it).

    Args:
        x_train: uint8 images `[n, h, w]` or `[n, h, w, c]`.
        y_train: integer labels `[n]`, from 0.
        x_test: test images of the same shape.
        y_test: test labels.
        classes: class names; numbers when None.
        name: what to call it.
        white: the grey level that becomes 1.0.

    Raises:
        ValueError: naming what was expected and what was found.
    """
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4):
            raise ValueError(
                f"expected x_{part} to be uint8 [n, h, w] or [n, h, w, c], "
                f"found {x.dtype} {list(x.shape)}"
            )
        if x.ndim == 4 and x.shape[3] not in (1, 3, 4):
            raise ValueError(
                f"expected x_{part} to have its 1, 3 or 4 channels last, [n, h, w, c], "
                f"found {list(x.shape)}"
            )
        if not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1]:
            raise ValueError(
                f"expected y_{part} to be {len(x)} integers, found {y.dtype} {list(y.shape)}"
            )
        if len(x) == 0:
            raise ValueError(f"expected at least one image in x_{part}, found none")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"expected training and test images of one shape, "
            f"found {list(x_train.shape[1:])} and {list(x_test.shape[1:])}"
        )
    brightest = int(max(x_train.max(), x_test.max()))
    if brightest > white:
        raise ValueError(f"expected grey levels up to {white}, found {brightest}")
    low, high = int(min(y_train.min(), y_test.min())), int(max(y_train.max(), y_test.max()))
    if classes is None:
        classes = tuple(map(str, range(high + 1)))
    if low < 0 or high >= len(classes):
        raise ValueError(
            f"expected labels from 0 to {len(classes) - 1} ({len(classes)} classes), "
            f"found labels from {low} to {high}"
        )
    digest = hashlib.sha256()
    for key in KEYS:
        values = np.ascontiguousarray(arrays[key].astype(np.int64 if key[0] == "y" else np.uint8))
        digest.update(f"{key} {values.shape}".encode())
        digest.update(values.data)

    def split(x: np.ndarray, y: np.ndarray) -> Split:
        images = torch.from_numpy(np.ascontiguousarray(x))
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        images = images.contiguous().to(torch.float32).div_(white)
        return Split(images, torch.from_numpy(y.astype(np.int64)))

    return Data(
        split(x_train, y_train),
        split(x_test, y_test),
        tuple(classes),
        name,
        digest.hexdigest()[:16],
    )


def _digits() -> Data:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        raw.images.astype(np.uint8), raw.target, test_size=500, random_state=0, stratify=raw.target
    )
    # the digits' grey levels run from 0 to 16, not to 255
    return data_from_arrays(x_train, y_train, x_test, y_test, name="digits", white=16)


def _archive(name: str, root: Path) -> Data:
    arrays, classes = read_archive(name, root)
    try:
        x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
        return data_from_arrays(x_train, y_train, x_test, y_test, classes, name)
    except ValueError as error:
        raise DamagedFileError(f"{root / name}.npz: {error}") from error


def _shaped(data: Data, size: int | None, channels: int | None) -> Data:
    c, h, w = data.shape
    if size is not None and (size, size) != (h, w):
        if size < 1:
            raise ValueError(f"expected a size of at least 1 pixel, found {size}")

        def resize(split: Split) -> Split:
            x = F.interpolate(split.x, (size, size), mode="bilinear", antialias=True)
            return Split(x.clamp_(0, 1), split.y)

        data = data._changed(f"size={size}", train=resize(data.train), test=resize(data.test))
    if channels is not None and channels != c:
        if channels not in (1, 3):
            raise ValueError(f"expected 1 or 3 channels, found {channels}")

        def recolour(split: Split) -> Split:
            grey = split.x.mean(1, keepdim=True)
            return Split(grey.repeat(1, channels, 1, 1), split.y)

        data = data._changed(
            f"channels={channels}", train=recolour(data.train), test=recolour(data.test)
        )
    return data
