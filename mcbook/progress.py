"""Progress bars: there when one looks, gone when the work is done."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["Bar"]


class Bar:
    """A progress bar that leaves nothing behind; silent where nobody could watch it.

    Args:
        total: how many steps there are.
        label: what is being done.
        show: False for no bar.  The variable `MCBOOK_PROGRESS=0` turns all bars off (the book's
            pages are made so, since a page must not change from run to run).
    """

    def __init__(self, total: int, label: str, show: bool = True):
        self._bar: Any = None
        if show and os.environ.get("MCBOOK_PROGRESS", "1") != "0":
            try:
                from tqdm.auto import tqdm
            except ModuleNotFoundError:  # a bare machine: the work matters, the bar does not
                return
            self._bar = tqdm(total=total, desc=label, leave=False, file=sys.stderr)

    def __enter__(self) -> Bar:
        """Nothing to open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, steps: int = 1, **numbers: float) -> None:
        """Move on by `steps` and show `numbers` beside the bar."""
        if self._bar is not None:
            if numbers:
                shown = {key: f"{value:.3g}" for key, value in numbers.items()}
                self._bar.set_postfix(shown, refresh=False)
            self._bar.update(steps)
