"""Reading single files of other people's checkouts as modules."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["known_as", "loaded"]


def loaded(
    folder: Path,
    file: str,
    repository: str,
    needed: Sequence[str],
    mended: Mapping[str, str] | None = None,
) -> ModuleType:
    """One file as a module, without its folder on the path.

    Args:
        folder: the checkout.
        file: its place in there.
        repository: what should be checked out, for the error.
        needed: what the module has to have.
        mended: what to read in place of something that Python no longer takes; the file itself
            stays as it is.

    Raises:
        FileNotFoundError: when the file, or something needed, is not there.
    """
    place = folder / file
    if not place.is_file():
        raise FileNotFoundError(f"expected a checkout of {repository}, found no {file} in {folder}")
    text = place.read_text(encoding="utf-8")
    for old, new in (mended or {}).items():
        text = text.replace(old, new)
    module = ModuleType(f"benchmarks_peer_{place.stem}")
    module.__file__ = str(place)
    exec(compile(text, str(place), "exec"), module.__dict__)
    for name in needed:
        if not hasattr(module, name):
            raise FileNotFoundError(
                f"expected a checkout of {repository}, found no {name} in {place}"
            )
    return module


@contextlib.contextmanager
def known_as(name: str, module: ModuleType) -> Iterator[None]:
    """While this lasts, `import name` gives this module."""
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
