"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["write_atomic"]


def write_atomic(file: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write `content` to `file` so that no reader ever sees a part of it.

    The content goes to a new file in the same folder, is flushed to the disk,
    and takes the place of `file` in one step.  A process killed at any moment
    leaves either the old file or the new one.

    Args:
        file: where to write; missing folders are made.
        content: bytes, or text (written as UTF-8).

    Returns:
        The path written.
    """
    file = Path(file)
    data = content.encode() if isinstance(content, str) else content
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return file
