"""The errors that say what was expected and what was found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DamagedFileError",
    "IncompatibleError",
    "MissingDataError",
    "UnknownNameError",
    "expect",
]


def expect(value: object, kind: type, what: str) -> None:
    """Refuse an argument of another type at the door.

    Args:
        value: what was given.
        kind: the type it must have.
        what: that type in words.

    Raises:
        TypeError: saying what was expected and what was found.
    """
    if not isinstance(value, kind):
        raise TypeError(f"expected {what}, found {type(value).__name__}: {value!r:.60}")


class UnknownNameError(LookupError):
    """A name that is not in a registry; the message offers the close ones.

    Args:
        kind: what the name should have named ("model", "data set", ...).
        name: what was given.
        known: the names there are.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]):
        names = sorted(known)
        close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        there = ", ".join(names) if names else "none"
        super().__init__(f"unknown {kind} {name!r}; {hint}there are: {there}")


class IncompatibleError(ValueError):
    """Two networks, or a network and a file, that do not fit together."""


class DamagedFileError(ValueError):
    """A file that is there but cannot be what it should be."""


class MissingDataError(FileNotFoundError):
    """A data set that is neither on this machine nor to be downloaded."""
