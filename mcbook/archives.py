"""Data sets as files: one npz archive each, downloaded once.

`<root>/<name>.npz` holds `x_train`, `y_train`, `x_test` and `y_test`: uint8 images `[n, h, w]` or
`[n, h, w, 3]` and integer labels.  Where the file is missing, torchvision's checksummed download
makes it.  Archives are never unpickled.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DamagedFileError, MissingDataError
from .files import write_atomic

__all__ = ["ARCHIVES", "KEYS", "data_root", "read_archive"]

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer",
            "dog", "frog", "horse", "ship", "truck")  # fmt: skip
# name: (number of classes, shape of one image, torchvision's class)
ARCHIVES: dict[str, tuple[int, tuple[int, ...], str]] = {
    "mnist": (10, (28, 28), "MNIST"),
    "cifar10": (10, (32, 32, 3), "CIFAR10"),
    "cifar100": (100, (32, 32, 3), "CIFAR100"),
}
KEYS = ("x_train", "y_train", "x_test", "y_test")
# what numpy and zipfile raise for a file that is cut off, altered or something else altogether
_DAMAGE = (EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError,
           zipfile.BadZipFile, zlib.error)  # fmt: skip


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where archives are looked for: `root`, else `$MCBOOK_DATA`, else the user's cache folder."""
    if root is not None:
        return Path(root).expanduser()
    if os.environ.get("MCBOOK_DATA"):
        return Path(os.environ["MCBOOK_DATA"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(cache) if cache else Path.home() / ".cache") / "mcbook"


def read_archive(name: str, root: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of a data set by key, and the names of its classes.

    Args:
        name: one of `ARCHIVES`.
        root: the folder of `<name>.npz`.

    Raises:
        MissingDataError: when the file is missing and cannot be downloaded.
        DamagedFileError: when it is not an archive of such images.
    """
    file = root / f"{name}.npz"
    if not file.exists():
        _download(name, file)
    count, shape, _ = ARCHIVES[name]
    try:
        # opened here, so that a file that is no archive is closed again
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive.files]
            if missing:
                raise DamagedFileError(
                    f"{file}: expected the arrays {', '.join(KEYS)}, "
                    f"found {', '.join(archive.files) or 'none'}"
                )
            arrays = {key: archive[key] for key in KEYS}
    except DamagedFileError:
        raise
    except _DAMAGE as error:
        raise DamagedFileError(
            f"{file}: expected an npz archive of {name}, found a damaged file ({error}); "
            f"delete it and load again"
        ) from error
    if arrays["x_train"].shape[1:] != shape:
        raise DamagedFileError(
            f"{file}: expected images of shape {list(shape)}, "
            f"found {list(arrays['x_train'].shape[1:])}"
        )
    classes = _CIFAR10 if name == "cifar10" else tuple(map(str, range(count)))
    return arrays, classes


def _download(name: str, file: Path) -> None:
    """Fetch `name` through torchvision (checksummed) and keep it as one npz file."""
    import tempfile

    from .models.library import library

    try:
        make: Callable = getattr(library("torchvision").datasets, ARCHIVES[name][2])
        with tempfile.TemporaryDirectory() as folder:
            sets = {part: make(folder, train=part == "train", download=True)
                    for part in ("train", "test")}  # fmt: skip
            arrays: dict[str, Any] = {}
            for part, images in sets.items():
                arrays[f"x_{part}"] = np.asarray(images.data, dtype=np.uint8)
                arrays[f"y_{part}"] = np.asarray(images.targets, dtype=np.int64)
    except (OSError, RuntimeError, ModuleNotFoundError) as error:
        # no network, a download that fails its checksum, or no torchvision
        raise MissingDataError(
            f"{file} is not there, and {name} could not be downloaded ({error}). Three ways to "
            f"get it: (1) connect to the network and load it once; (2) copy a {name}.npz made "
            f"elsewhere to that place (arrays {', '.join(KEYS)}; uint8 images, integer labels); "
            f"(3) name the folder that has it with root= or the variable MCBOOK_DATA. "
            f'Without any of them, load_data("digits") needs no download.'
        ) from error
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_atomic(file, packed.getvalue())
