"""Tables as strict JSON, and back, without losing a bit or a type.

A column is stored as `{"dtype": ..., "values": [...]}`.  JSON has no NaN and
no infinities: in a numeric column a missing number is `null` and the
infinities are the texts "inf" and "-inf"; in a column of mixed objects a
non-finite number is `{"float": "nan"}`.  Floats are written with as many
digits as bring back the same number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["decode_table", "decode_value", "encode_table", "encode_value"]

_FLOATS = ("float16", "float32", "float64")
_WHOLE = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
_NULLABLE = (
    *(f"{kind}{bits}" for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)),
    "boolean",
    "string",
)
_TEXT = "str"
_KNOWN = (*_FLOATS, *_WHOLE, *_NULLABLE, _TEXT, "bool", "object")


def encode_value(value: Any, where: str = "value") -> Any:
    """One value as strict JSON: text, a truth value, a number or None.

    Args:
        value: of Python, or a scalar of numpy.
        where: what to call it in an error.

    Returns:
        What `json.dumps(..., allow_nan=False)` accepts.

    Raises:
        TypeError: it is anything else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or isinstance(value, (str, bool, int)):
        return None if value is pd.NA else value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    raise TypeError(
        f"{where}: expected text, a number, a truth value or None, "
        f"found {type(value).__name__} {value!r}"
    )


def decode_value(value: Any) -> Any:
    """The value that `encode_value` wrote.

    Args:
        value: as read from JSON.

    Returns:
        The value.

    Raises:
        ValueError: `encode_value` writes no such thing.
    """
    if isinstance(value, dict) and set(value) == {"float"}:
        return float(value["float"])
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ValueError(f"expected a plain value, found {value!r}")


def _encode_column(series: pd.Series) -> dict[str, Any]:
    dtype = str(series.dtype)
    if dtype not in _KNOWN:
        raise TypeError(
            f"column {series.name!r}: expected numbers, texts, truth values or plain objects, "
            f"found dtype {dtype}; convert it first"
        )
    values: list[Any]
    if dtype in _FLOATS:
        values = [
            x if math.isfinite(x) else None if math.isnan(x) else str(x)
            for x in series.astype("float64").tolist()
        ]
    elif dtype == _TEXT or dtype in _NULLABLE:
        values = [None if pd.isna(x) else encode_value(x) for x in series.tolist()]
    else:
        where = f"column {series.name!r}"
        values = [encode_value(x, f"{where}, row {row}") for row, x in enumerate(series.tolist())]
    return {"dtype": dtype, "values": values}


def _decode_column(name: str, column: Any) -> pd.Series:
    if not isinstance(column, dict) or not isinstance(column.get("values"), list):
        raise ValueError(f"column {name!r}: expected a dtype and values, found {column!r:.80}")
    dtype, values = column.get("dtype"), column["values"]
    if dtype not in _KNOWN:
        raise ValueError(f"column {name!r}: expected a known dtype, found {dtype!r}")
    try:
        if dtype in _FLOATS:
            numbers = [math.nan if x is None else float(x) for x in values]
            return pd.Series(np.array(numbers, dtype="float64").astype(dtype), name=name)
        if dtype in _WHOLE or dtype == "bool":
            wanted = bool if dtype == "bool" else int
            for x in values:
                if type(x) is not wanted:
                    raise ValueError(f"expected {wanted.__name__}, found {x!r}")
                # numpy 1 would wrap 256 around to 0
                if wanted is int and not np.iinfo(dtype).min <= x <= np.iinfo(dtype).max:
                    raise ValueError(f"expected a number of that type, found {x}")
            return pd.Series(np.array(values, dtype=dtype), name=name)
        if dtype in _NULLABLE:
            return pd.Series(pd.array(values, dtype=dtype), name=name)
        plain = [decode_value(x) for x in values]
        # pandas 2 holds texts as objects, and would turn None into "None".
        if dtype == _TEXT and int(pd.__version__.partition(".")[0]) >= 3:
            return pd.Series(plain, name=name, dtype="str")
        return pd.Series(plain, name=name, dtype="object")
    except (TypeError, ValueError, OverflowError) as problem:
        raise ValueError(f"column {name!r} of {dtype}: {problem}") from problem


def encode_table(table: pd.DataFrame) -> dict[str, Any]:
    """A table as `{column name: {"dtype", "values"}}`.

    Args:
        table: with plain column names and the default row index.

    Returns:
        The columns, in order.

    Raises:
        TypeError: it is no table, or has columns that JSON cannot hold.
        ValueError: its column names repeat, or its index carries meaning.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table: expected a pandas DataFrame, found {type(table).__name__}")
    names = list(table.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ValueError(f"table: expected column names that are distinct texts, found {names}")
    if not table.index.equals(pd.RangeIndex(len(table))):
        raise ValueError(
            "table: expected the default index 0, 1, 2, ..., found "
            f"{table.index.names} {list(table.index[:3])}...; call reset_index() first"
        )
    return {name: _encode_column(table[name]) for name in names}


def decode_table(columns: Any) -> pd.DataFrame:
    """The table that `encode_table` wrote.

    Args:
        columns: as read from JSON.

    Returns:
        The table.

    Raises:
        ValueError: the columns are damaged; the message says which.
    """
    if not isinstance(columns, Mapping):
        raise ValueError(f"expected columns by name, found {type(columns).__name__}")
    series = {name: _decode_column(name, column) for name, column in columns.items()}
    lengths = {name: len(one) for name, one in series.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected columns of one length, found {lengths}")
    return pd.DataFrame(series)
