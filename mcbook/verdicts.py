"""Claims, and whether this run bears them out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import DamagedFileError

__all__ = ["Verdict", "count_verdicts", "read_verdicts", "verdict"]

# The start of the printed line says everything; reading goes by it alone.
_STARTS: dict[str, tuple[bool, bool]] = {
    "✓ holds: ": (True, True),
    "✗ does not hold (as expected, see text): ": (False, False),
    "! UNEXPECTED: does not hold: ": (False, True),
    "! UNEXPECTED: holds after all: ": (True, False),
}
_RAW_NUMBER = re.compile(r"\d\.\d{3}|\d[eE][+-]\d")


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds in this run, and whether it was expected to.

    Args:
        claim: the claim, in words.
        holds: whether this run bears it out.
        expected: whether it should.
    """

    claim: str
    holds: bool
    expected: bool = True

    @property
    def outcome(self) -> str:
        """One of "held", "expected_not" and "unexpected"."""
        if self.holds != self.expected:
            return "unexpected"
        return "held" if self.holds else "expected_not"

    def __str__(self) -> str:
        """The printed line."""
        for start, key in _STARTS.items():
            if key == (self.holds, self.expected):
                return start + self.claim
        raise AssertionError("every pair of truth values has a line")

    def _ipython_display_(self) -> None:
        # The line stands in the cell's output already; showing the returned
        # object too would say everything twice.
        return


def verdict(claim: str, holds: Any, expected: Any = True) -> Verdict:
    """Print one line that says whether a claim holds in this run.

    The line is the same in every run with the same outcome, so that
    notebooks can be compared by it: put rounded numbers, or none, in it.

    Args:
        claim: the claim, in words, on one line.
        holds: whether it holds: a bool of Python, numpy or torch.
        expected: whether it should; False for a claim that does not hold
            here and is explained in the text.

    Returns:
        The verdict.

    Raises:
        TypeError: `holds` or `expected` is not one truth value.
        ValueError: the claim is empty, has several lines, or carries a
            number with more than two decimals.

    Examples:
        >>> _ = verdict("the barrier shrinks with width", 0.1 < 0.2)
        ✓ holds: the barrier shrinks with width
    """
    if not isinstance(claim, str):
        raise TypeError(f"claim: expected text, found {type(claim).__name__}")
    if not claim.strip() or len(claim.splitlines()) != 1:
        raise ValueError(f"claim: expected one line of text, found {claim!r}")
    raw = _RAW_NUMBER.search(claim)
    if raw:
        raise ValueError(
            f"claim: expected words and rounded numbers (two decimals at most), found the number "
            f"around {raw.group()!r} in {claim!r}; the line must be the same in every run"
        )
    found = Verdict(claim.strip(), _truth(holds, "holds"), _truth(expected, "expected"))
    print(found)
    return found


def _truth(value: Any, argument: str) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, torch.Tensor) and value.dtype == torch.bool and value.numel() == 1:
        return bool(value.item())
    if isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.size == 1:
        return bool(value.item())
    shown = type(value).__name__
    if isinstance(value, (torch.Tensor, np.ndarray)):
        shown += f" of {value.dtype} with shape {tuple(value.shape)}"
    else:
        shown += f" {value!r}"
    raise TypeError(
        f"{argument}: expected one truth value (a bool of Python, numpy or torch), found {shown}; "
        "compare first, and reduce several values with all() or any()"
    )


def read_verdicts(notebook: str | os.PathLike[str] | Mapping[str, Any]) -> list[Verdict]:
    """The verdicts printed in a notebook's outputs, in order.

    Args:
        notebook: an `.ipynb` file, or a notebook already read.

    Returns:
        The verdicts; `.outcome` of each is "held", "expected_not" or
        "unexpected".

    Raises:
        DamagedFileError: the file is no notebook.
    """
    if not isinstance(notebook, Mapping):
        file = Path(notebook)
        try:
            notebook = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise DamagedFileError(f"{file}: expected a notebook, found {problem}") from problem
        if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
            raise DamagedFileError(f"{file}: expected a notebook, found no list of cells in it")
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("output_type") == "stream" and output.get("name") == "stdout":
                text = output["text"]
                lines = (text if isinstance(text, str) else "".join(text)).splitlines()
                found += [one for line in lines if (one := _parse(line)) is not None]
    return found


def _parse(line: str) -> Verdict | None:
    for start, (holds, expected) in _STARTS.items():
        if line.startswith(start):
            return Verdict(line.removeprefix(start), holds, expected)
    return None


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts had each outcome.

    Args:
        verdicts: some verdicts.

    Returns:
        The counts under "held", "expected_not" and "unexpected".
    """
    counts = {"held": 0, "expected_not": 0, "unexpected": 0}
    for one in verdicts:
        counts[one.outcome] += 1
    return counts
