"""Saved results with their provenance.

A record is one small table in one JSON file, `<name>.json`, with everything
needed to know where its numbers come from.  The records shipped with the
package are read from the installed package, wherever it runs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pandas as pd

from .checkout import NoCheckoutError, package_checkout
from .errors import DamagedFileError, UnknownNameError
from .files import write_atomic
from .provenance import provenance as this_run
from .tables import decode_table, encode_table, encode_value

__all__ = ["Record", "list_records", "load_record", "save_record"]

FORMAT = "mcbook-record"
VERSION = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Record:
    """A saved result.

    Args:
        name: the record's name, and its file's without `.json`.
        table: the result.
        provenance: where it comes from: arguments, seeds, commit, hardware,
            versions, time, data fingerprint.
    """

    name: str
    table: pd.DataFrame
    provenance: dict[str, Any] = field(repr=False)


def check_name(name: str) -> str:
    """The name, if a record may have it.

    Args:
        name: a name.

    Returns:
        The same name.

    Raises:
        ValueError: it has other characters than small letters, digits, "_"
            and "-", or starts with one of the last two.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "record name: expected small letters, digits, '_' and '-', the first a letter or "
            f"digit (it names a file), found {name!r}"
        )
    return name


def save_record(
    name: str,
    table: pd.DataFrame,
    folder: str | os.PathLike[str] | None = None,
    **provenance: Any,
) -> Path:
    """Write a record, whole or not at all.

    Added by itself: created (UTC date), package, commit ("+changes" when the
    code differs from it), python, torch, numpy, platform, cpu, threads and
    device.  The caller adds what only it knows: seeds, arguments, seconds,
    data fingerprints; what it passes wins.

    Args:
        name: the record's name: small letters, digits, "_" and "-".
        table: the result; numbers, texts, truth values.
        folder: where to; by default `mcbook/results/` of the checkout that
            the package is imported from.
        **provenance: plain values, and lists and dictionaries of them.

    Returns:
        The file written.

    Raises:
        ValueError: the name or the table cannot be saved.
        TypeError: a value cannot be saved.
        NoCheckoutError: no folder is given and the package is not imported
            from a checkout.
    """
    check_name(name)
    if folder is None:
        checkout = package_checkout()
        if checkout is None:
            raise NoCheckoutError(
                f"record {name!r}: mcbook is installed apart from a checkout, so there is no "
                "place for new records; say where with folder="
            )
        folder = checkout.results
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "provenance": _plain({**this_run(), **provenance}, "provenance"),
        "rows": len(table),
        "columns": encode_table(table),
    }
    return write_atomic(Path(folder) / f"{name}.json", _dump(content))


def _plain(value: Any, where: str) -> Any:
    """Nested provenance as strict JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one, f"{where}[{key!r}]") for key, one in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(one, f"{where}[{index}]") for index, one in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    encoded = encode_value(value, where)
    return encoded["float"] if isinstance(encoded, dict) else encoded


def _dump(content: dict[str, Any]) -> str:
    """JSON with a column a line: short to read and short to compare."""
    columns = ",\n".join(
        f"  {json.dumps(name, ensure_ascii=False)}: "
        f"{json.dumps(column, ensure_ascii=False, allow_nan=False)}"
        for name, column in content["columns"].items()
    )
    head = {key: value for key, value in content.items() if key != "columns"}
    text = json.dumps(head, indent=1, ensure_ascii=False, allow_nan=False)
    closing = f"\n {columns.lstrip()}\n" if columns else ""
    return f'{text.removesuffix("}").rstrip()},\n "columns": {{{closing} }}\n}}\n'


def _folder(folder: str | os.PathLike[str] | None) -> Traversable:
    if folder is None:
        return resources.files("mcbook").joinpath("results")
    return Path(folder)


def list_records(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """The names of the records there are.

    Args:
        folder: where; by default the records shipped with the package.

    Returns:
        The names, sorted.
    """
    place = _folder(folder)
    if not place.is_dir():
        return []
    names = (file.name for file in place.iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def load_record(name: str, folder: str | os.PathLike[str] | None = None) -> Record:
    """Read a record.

    Args:
        name: the record's name; `list_records()` shows what there is.
        folder: where; by default the records shipped with the package.

    Returns:
        The record.

    Raises:
        UnknownNameError: there is none of this name.
        DamagedFileError: its file is damaged or truncated, or was written by
            a later version.
    """
    known = list_records(folder)
    if name not in known:
        raise UnknownNameError("record", name, known)
    file = _folder(folder).joinpath(f"{name}.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as problem:  # JSON or UTF-8 cut short
        raise DamagedFileError(f"{file}: expected a record in JSON, found {problem}") from problem
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise DamagedFileError(f"{file}: expected format {FORMAT!r}, found {found!r}")
    if content.get("version") != VERSION:
        raise DamagedFileError(
            f"{file}: expected version {VERSION} of the format, found {content.get('version')!r}; "
            "a later mcbook may read it"
        )
    if content.get("name") != name:
        raise DamagedFileError(f"{file}: expected record {name!r}, found {content.get('name')!r}")
    if not isinstance(content.get("provenance"), dict):
        raise DamagedFileError(f"{file}: expected a provenance, found none")
    try:
        table = decode_table(content.get("columns"))
    except ValueError as problem:
        raise DamagedFileError(f"{file}: {problem}") from problem
    if len(table) != content.get("rows"):
        raise DamagedFileError(
            f"{file}: expected {content.get('rows')} rows, as it says, found {len(table)}"
        )
    return Record(name, table, content["provenance"])


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"the bare constant {constant}, which strict JSON has not")
