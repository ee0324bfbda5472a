"""Every chapter executed once at each scale, in the background.

Run as a program, `chapter_runs.py ROOT NAME FOLDER` executes one chapter of the
checkout ROOT and leaves `FOLDER/SCALE/NAME.ipynb` and `.json`, scale by scale.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat

import mcbook
from mcbook.chapters import Chapter, ChapterError, find_chapters, make
from mcbook.checkout import Checkout
from mcbook.errors import DamagedFileError, UnknownNameError
from mcbook.files import write_atomic

if TYPE_CHECKING:
    from tests.book.background import Background

__all__ = ["Execution", "executions", "start_execution"]

# One after the other: they share the place of the notebook under way.
SCALES = ("smoke", "default")


@dataclass(frozen=True)
class Execution:
    """How one run of a chapter went.

    Attributes:
        file: the executed notebook; it is not there when the run failed.
        seconds: how long it took, on a clock.
        processor_seconds: how long its kernel worked; others on the machine do not count.
        error: what went wrong, or None.
    """

    file: Path
    seconds: float | None
    processor_seconds: float | None
    error: str | None

    def notebook(self) -> nbformat.NotebookNode:
        """The executed notebook; fails with the error of the run when there is none."""
        assert self.error is None, self.error
        return nbformat.read(self.file, as_version=4)


def start_execution(background: Background, chapter: Chapter) -> None:
    """Queue a chapter's runs; queued once only."""
    background.start(f"execute {chapter.name}", _execute, background, chapter)


def executions(background: Background, chapter: Chapter) -> dict[str, Execution]:
    """How a chapter's runs went, by scale, once they are over."""
    start_execution(background, chapter)
    return background.get(f"execute {chapter.name}")


def _execute(background: Background, chapter: Chapter) -> dict[str, Execution]:
    from tests.book.background import CommandError  # not where this file is the program

    folder = background.folder / "executed"
    # The package that is tested here, whatever is installed.
    own = str(Path(mcbook.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))
    problem = "the run left nothing behind"
    try:
        background.call(
            *(sys.executable, __file__, chapter.checkout.root, chapter.name, folder),
            env={**os.environ, "PYTHONPATH": path},
        )
    except CommandError as error:
        problem = f"chapter {chapter.name}: {error}"
    found = {}
    for scale in SCALES:
        file = folder / scale / f"{chapter.name}.ipynb"
        facts = file.with_suffix(".json")
        if facts.exists():
            found[scale] = Execution(file, **json.loads(facts.read_text(encoding="utf-8")))
        else:
            found[scale] = Execution(file, None, None, problem)
    return found


def main(root: str, name: str, folder: str) -> None:
    """Execute one chapter at each scale; a failure of one keeps no other from running."""
    (chapter,) = find_chapters([name], Checkout(Path(root)))
    for scale in SCALES:
        file = Path(folder, scale, f"{name}.ipynb")
        file.parent.mkdir(parents=True, exist_ok=True)
        facts = {"seconds": None, "processor_seconds": None, "error": None}
        before = os.times()
        try:
            facts["seconds"] = make(chapter, file, scale, progress=False).seconds
        except (ChapterError, DamagedFileError, UnknownNameError) as problem:
            facts["error"] = str(problem)
        else:
            after = os.times()
            user = after.children_user - before.children_user
            facts["processor_seconds"] = user + after.children_system - before.children_system
        write_atomic(file.with_suffix(".json"), json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
