"""Networks and other tensors on disk: safetensors with a JSON header, never pickle."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from . import weights
from .errors import DamagedFileError, IncompatibleError
from .files import write_atomic
from .models.registry import build_from
from .modules import annotate

__all__ = ["load_model", "read_tensors", "save_model", "write_tensors"]


def write_tensors(
    file: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], header: dict[str, Any]
) -> Path:
    """Write named tensors and a JSON header as one safetensors file, whole or not at all.

    Args:
        file: where to write.
        kind: what the file is (`model`, `path`, `training`), checked on reading.
        tensors: by name; tensors that share memory are written separately.
        header: anything JSON can hold.

    Returns:
        The path written.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = json.loads(json.dumps({"kind": kind, **header}, default=_plain))
    # one entry: safetensors writes several in an order that changes from run to run
    meta = {"mcbook": json.dumps({"digest": _digest(header, plain), **header})}
    return write_atomic(file, safetensors_torch.save(plain, metadata=meta))


def read_tensors(
    file: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Args:
        file: what to read.
        kind: what it must be.

    Returns:
        The tensors by name, on the CPU, and the header.

    Raises:
        FileNotFoundError: when there is no such file.
        DamagedFileError: when it is a pickle, is cut off, was not written by mcbook, or is of
            another kind.
    """
    file = Path(file)
    with open(file, "rb") as stream:
        start = stream.read(4)
    try:
        with safe_open(file, framework="pt") as archive:
            meta = archive.metadata() or {}
            names = archive.keys()
            tensors = {name: archive.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        # asked only now: a whole safetensors file may happen to begin like a pickle
        if start[:1] == b"\x80" or start == b"PK\x03\x04":
            raise DamagedFileError(
                f"{file}: expected a safetensors file, found a pickle (as torch.save writes). "
                f"Reading one can run any code it holds, so it is refused; load it where you "
                f"trust it and write it again with mcbook.save_model"
            ) from error
        raise DamagedFileError(
            f"{file}: expected a safetensors file, found a damaged or cut-off one ({error})"
        ) from error
    if "mcbook" not in meta:
        raise DamagedFileError(
            f"{file}: expected a file written by mcbook, found a safetensors file without its "
            f"header"
        )
    try:
        header = json.loads(meta["mcbook"])
    except ValueError:
        header = None
    # safetensors itself keeps no checksum
    if not isinstance(header, dict) or header.pop("digest", None) != _digest(header, tensors):
        raise DamagedFileError(
            f"{file}: expected the content the file was written with, found another (its "
            f"checksum does not match)"
        )
    if header["kind"] != kind:
        raise DamagedFileError(f"{file}: expected a saved {kind}, found a saved {header['kind']}")
    return tensors, header


def save_model(model: nn.Module, file: str | os.PathLike[str]) -> Path:
    """Save a network: its weights, its architecture if `build_model` made it, its history.

    Args:
        model: any module.
        file: where to write; conventionally `.safetensors`.

    Returns:
        The path written.
    """
    return write_tensors(file, "model", weights.of(model), describe(model))


def load_model(file: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Load a network that `save_model` saved, in eval mode, on the CPU.

    Args:
        file: what to read.
        model: a module of the same architecture, needed when `build_model` did not make the one
            that was saved; it is not changed.

    Returns:
        A new module.

    Raises:
        FileNotFoundError: when there is no such file.
        DamagedFileError: when the file is not a whole saved network, a pickle for instance.
        IncompatibleError: when the weights do not fit `model`, or `model` is needed and missing.
    """
    tensors, header = read_tensors(file, "model")
    return rebuild(tensors, header, model, str(file))


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as JSON's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"expected something JSON can hold, found {value!r}")


def _digest(header: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def describe(model: nn.Module) -> dict[str, Any]:
    """What a header says of a module besides its weights."""
    history = getattr(model, "history", None)
    shape = getattr(model, "example_shape", None)
    return {
        "architecture": getattr(model, "architecture", None),
        "example_shape": None if shape is None else list(shape),
        "history": None if history is None else history.to_dict("list"),
    }


def rebuild(
    tensors: dict[str, Tensor], header: dict[str, Any], model: nn.Module | None, file: str
) -> nn.Module:
    """A module with these weights, from what `describe` said or from a module of one's own."""
    if model is not None:
        module = copy.deepcopy(model)
    elif header["architecture"] is not None:
        module = build_from(header["architecture"])
    else:
        raise IncompatibleError(
            f"{file}: the network was not made by build_model, so its weights alone do not say "
            f"what it computes; give a module of the same architecture as model="
        )
    try:
        weights.check_compatible(weights.of(module), tensors)
    except IncompatibleError as error:
        raise IncompatibleError(
            f"{file} does not fit the module (A is the module, B the file): {error}"
        ) from error
    for name, tensor in module.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(tensors[name].dtype)  # loading alone would cast the file's
    module.load_state_dict(tensors)
    if header["example_shape"] is not None:
        annotate(module, example_shape=tuple(header["example_shape"]))
    if header["history"] is not None:
        annotate(module, history=pd.DataFrame(header["history"]))
    return module.eval()
