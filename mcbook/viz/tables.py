"""What plots that are given a table ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["distinct", "wanted_columns"]


def wanted_columns(
    table: pd.DataFrame,
    numbers: Sequence[str],
    names: Sequence[str | None] = (),
    positive: Sequence[str] = (),
) -> None:
    """Refuse a table that cannot be drawn.

    Args:
        table: what is to be drawn.
        numbers: columns of finite numbers.
        names: further columns; None stands for none.
        positive: those columns that stand on a logarithmic axis.

    Raises:
        ValueError: if a column is missing, there are no rows, a value is not finite, or one that
            should be above zero is not.
    """
    wanted = [*numbers, *(name for name in names if name is not None)]
    missing = [column for column in wanted if column not in table.columns]
    if missing or not len(table):
        found = ", ".join(map(str, table.columns)) if missing else "no rows"
        raise ValueError(f"expected a table with the columns {wanted}, found {found}")
    for column in numbers:
        values = table[column].to_numpy(dtype=float)
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite numbers in column {column!r}, found others")
        if column in positive and (values <= 0).any():
            raise ValueError(
                f"expected {column!r} above zero on a logarithmic axis, found {values.min():g}"
            )


def distinct(table: pd.DataFrame, column: str | None) -> list[Any]:
    """The values of a column in the order in which they first come; one empty name without one."""
    return [""] if column is None else list(table[column].drop_duplicates())
