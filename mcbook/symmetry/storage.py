"""Specs on disk: whole numbers and a JSON header."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..errors import DamagedFileError
from ..saving import read_tensors, write_tensors
from .parts import Frozen, Slots, UnitClass
from .spec import PermutationSpec

__all__ = ["load_spec", "save_spec"]


def save_spec(spec: PermutationSpec, file: str | os.PathLike[str]) -> Path:
    """Write a spec, without what a check of it found.

    Returns:
        The path written.
    """
    tensors = {}
    for k, c in enumerate(spec.classes):
        for i, (_, block) in enumerate(c.parents):
            tensors[f"class.{k}.{i}"] = torch.as_tensor(np.asarray(block, np.int64))
    for name, parts in spec.slots.items():
        for i, part in enumerate(parts):
            for what, x in (("units", part.units), ("rank", part.rank)):
                tensors[f"{what}.{i}.{name}"] = torch.as_tensor(np.ascontiguousarray(x, np.int64))
    header = {
        "model": spec.model,
        "shapes": {name: list(shape) for name, shape in spec.shapes.items()},
        "classes": [
            {
                "name": c.name,
                "size": c.size,
                "space": c.is_space,
                "parents": [above for above, _ in c.parents],
                "why": list(c.why),
            }
            for c in spec.classes
        ],
        "axes": {name: [list(part.axes) for part in parts] for name, parts in spec.slots.items()},
        "aliases": dict(spec.aliases),
        "frozen": [[f.tensor, f.axis, f.count, f.size, f.reason] for f in spec.frozen],
        "notes": list(spec.notes),
    }
    return write_tensors(file, "symmetry", tensors, header)


def load_spec(file: str | os.PathLike[str]) -> PermutationSpec:
    """Read what `save_spec` wrote.

    Raises:
        FileNotFoundError: when there is no such file.
        DamagedFileError: when it is not a whole saved spec.
    """
    tensors, header = read_tensors(file, "symmetry")
    try:
        return PermutationSpec(
            model=header["model"],
            shapes={name: tuple(shape) for name, shape in header["shapes"].items()},
            classes=[
                UnitClass(
                    c["name"],
                    c["size"],
                    tuple(
                        (above, tensors[f"class.{k}.{i}"].numpy())
                        for i, above in enumerate(c["parents"])
                    ),
                    c["space"],
                    tuple(c["why"]),
                )
                for k, c in enumerate(header["classes"])
            ],
            slots={
                name: [
                    Slots(
                        tuple(axes),
                        tensors[f"units.{i}.{name}"].numpy(),
                        tensors[f"rank.{i}.{name}"].numpy(),
                    )
                    for i, axes in enumerate(parts)
                ]
                for name, parts in header["axes"].items()
            },
            aliases=header["aliases"],
            frozen=[Frozen(*one) for one in header["frozen"]],
            notes=header["notes"],
        )
    except KeyError as error:
        raise DamagedFileError(f"{file}: expected a whole spec, found none of {error}") from error
