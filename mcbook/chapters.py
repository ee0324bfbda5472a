"""Text chapters made into executed notebooks.

A chapter is one text file, `book/src/NN_name.md`, in MyST's notebook format.
`book/NN_name.ipynb` is made from it: executed, put into a canonical form and
committed with its outputs, so that a re-run gives the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .canonical import canonical, problems, to_text
from .checkout import Checkout, find_checkout
from .errors import DamagedFileError, UnknownNameError
from .execution import ChapterError, execute
from .files import write_atomic
from .verdicts import Verdict, read_verdicts

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = [
    "SCALES",
    "Chapter",
    "ChapterError",
    "ChapterRun",
    "check_sync",
    "find_chapters",
    "make",
    "run",
    "smoke",
    "source_notebook",
    "sync",
]

SCALES = ("smoke", "default", "full")
_COLAB_TAG = "colab-setup"

# Filled in by `colab_cell`.  Outside Colab the cell does nothing.
_COLAB = """\
# On Colab: install the book's package, at the version this page was made with.
import sys

if "google.colab" in sys.modules:
    %pip install -q "mcbook[book] @ git+{url}@{tag}"
    import torch

    if not torch.cuda.is_available():
        print("No GPU here, and none is needed. For one: Runtime, Change runtime type, GPU.")"""


@dataclass(frozen=True)
class Chapter:
    """One chapter.

    Args:
        name: its name, as in `01_two_minima`.
        checkout: the checkout it is in.
    """

    name: str
    checkout: Checkout

    @property
    def source(self) -> Path:
        """The text file it is written in."""
        return self.checkout.sources / f"{self.name}.md"

    @property
    def notebook(self) -> Path:
        """The committed notebook."""
        return self.checkout.book / f"{self.name}.ipynb"

    @property
    def title(self) -> str:
        """Its first heading."""
        for line in self.source.read_text(encoding="utf-8").splitlines():
            if line.startswith("# "):
                return line.removeprefix("# ").strip()
        return self.name


@dataclass(frozen=True)
class ChapterRun:
    """A chapter that ran from its first cell to its last.

    Args:
        name: the chapter.
        file: the notebook written.
        seconds: how long it took.
        verdicts: what it printed of its claims.
    """

    name: str
    file: Path
    seconds: float
    verdicts: tuple[Verdict, ...]


def find_chapters(names: Iterable[str] = (), checkout: Checkout | None = None) -> list[Chapter]:
    """The chapters there are, or those named.

    Args:
        names: full names (`01_two_minima`) or numbers (`1`); all by default.
        checkout: where; by default the one this package or the current
            folder belongs to.

    Returns:
        The chapters, in the book's order.

    Raises:
        UnknownNameError: there is no chapter of that name.
    """
    checkout = checkout or find_checkout()
    known = sorted(file.stem for file in checkout.sources.glob("[0-9][0-9]_*.md"))
    wanted = set()
    for name in names:
        of_number = [one for one in known if name.isdigit() and int(one[:2]) == int(name)]
        if name not in known and not of_number:
            raise UnknownNameError("chapter", name, known)
        wanted.update([name] if name in known else of_number)
    return [Chapter(name, checkout) for name in known if not wanted or name in wanted]


def colab_cell(checkout: Checkout) -> str:
    """The code of the set-up cell for Colab.

    Args:
        checkout: gives the repository's address and the version's tag.

    Returns:
        The cell's source.
    """
    return _COLAB.format(url=checkout.repository_url(), tag=checkout.tag())


def source_notebook(chapter: Chapter) -> NotebookNode:
    """A chapter's text as a notebook, without outputs.

    Args:
        chapter: the chapter.

    Returns:
        The notebook in canonical form, its set-up cell for Colab filled in.

    Raises:
        DamagedFileError: the text is no MyST notebook, or has code in the
            set-up cell, which is made here.
    """
    import jupytext

    try:
        notebook = jupytext.reads(chapter.source.read_text(encoding="utf-8"), fmt="md:myst")
    except ValueError as problem:
        raise DamagedFileError(
            f"{chapter.source}: expected a MyST notebook, found {problem}"
        ) from problem
    for number, cell in enumerate(notebook.cells, 1):
        if _is_setup(cell):
            if any(line.strip() and line[0] != "#" for line in cell.source.splitlines()):
                raise DamagedFileError(
                    f"{chapter.source}: expected cell {number}, tagged {_COLAB_TAG}, without code "
                    f"(it is filled in from _config.yml and the version), found {cell.source!r:.60}"
                )
            cell.source = colab_cell(chapter.checkout)
    return canonical(notebook)


def _is_setup(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and _COLAB_TAG in cell.metadata.get("tags", ())


def make(
    chapter: Chapter,
    file: Path,
    scale: str = "default",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> ChapterRun:
    """Run one chapter and write the executed notebook, or leave what is there.

    Args:
        chapter: the chapter.
        file: the notebook to write.
        scale: "smoke", "default" or "full".
        parameters: values for others of the chapter's parameters.
        progress: whether to show a bar over its cells.

    Returns:
        What was made.

    Raises:
        ChapterError: a cell failed, or the result cannot be written in a
            form that a re-run reproduces.
        UnknownNameError: the scale or a parameter is unknown.
    """
    if scale not in SCALES:
        raise UnknownNameError("scale", scale, SCALES)
    given = dict(parameters or {})
    if scale != "default":  # at default scale nothing is injected: the page is as written
        given["scale"] = scale
    begun = time.perf_counter()
    executed = execute(
        source_notebook(chapter),
        chapter.name,
        chapter.checkout.book,
        chapter.checkout.build / "running" / f"{chapter.name}.ipynb",
        given,
        progress,
    )
    seconds = time.perf_counter() - begun
    notebook = canonical(executed)
    wrong = problems(notebook)
    if wrong:
        raise ChapterError(f"chapter {chapter.name} ran, but: " + "; ".join(wrong))
    write_atomic(file, to_text(notebook))
    return ChapterRun(chapter.name, file, seconds, tuple(read_verdicts(notebook)))


def run(
    names: Iterable[str] = (),
    scale: str = "default",
    parameters: Mapping[str, Any] | None = None,
    checkout: Checkout | None = None,
    progress: bool = True,
) -> list[ChapterRun]:
    """Run chapters; at default scale and parameters, into the committed notebooks.

    Anything else goes to `_build/<scale>/`: a committed notebook is always
    what its text says.  A chapter that fails does not keep others from
    running.

    Args:
        names: which chapters; all by default.
        scale: "smoke", "default" or "full".
        parameters: values for others of the chapters' parameters.
        checkout: where; by default the one this package or the current
            folder belongs to.
        progress: whether to show bars, and a line for each chapter done.

    Returns:
        What was made.

    Raises:
        ChapterError: chapters failed; the message says where and how.
        UnknownNameError: a chapter, the scale or a parameter is unknown.
    """
    made, failed = [], []
    for chapter in find_chapters(names, checkout):
        file = chapter.notebook
        if scale != "default" or parameters:
            file = chapter.checkout.build / scale / file.name
        try:
            done = make(chapter, file, scale, parameters, progress)
        except ChapterError as problem:
            failed.append(str(problem))
            continue
        made.append(done)
        if progress:
            print(f"{chapter.name}: {done.seconds:.1f} s, {file}")
    if failed:
        raise ChapterError("\n".join(failed))
    return made


def smoke(
    names: Iterable[str] = (), checkout: Checkout | None = None, progress: bool = True
) -> list[ChapterRun]:
    """Run chapters with everything cut small, into `_build/smoke/`.

    Args:
        names: which chapters; all by default.
        checkout: where; by default the one this package or the current
            folder belongs to.
        progress: whether to show bars, and a line for each chapter done.

    Returns:
        What was made.
    """
    return run(names, scale="smoke", checkout=checkout, progress=progress)


def _code(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """The code cells that outputs depend on, with their numbers from 1."""
    cells = enumerate(notebook.cells, 1)
    return [(n, cell) for n, cell in cells if cell.cell_type == "code" and not _is_setup(cell)]


def _merge(chapter: Chapter) -> tuple[str, str | None]:
    """The text of the notebook as it should be, and why it cannot be had without a run."""
    import nbformat

    wanted = source_notebook(chapter)
    if not chapter.notebook.is_file():
        return "", f"{chapter.notebook} does not exist yet"
    try:
        there = nbformat.read(chapter.notebook, as_version=4)
    except (ValueError, nbformat.ValidationError) as problem:
        raise DamagedFileError(
            f"{chapter.notebook}: expected a notebook, found {problem}"
        ) from problem
    new, old = _code(wanted), _code(there)
    for (number, cell), (other, before) in zip(new, old, strict=False):
        if cell.source != before.source:
            return "", (
                f"the code of cell {number} of the text, {_first_line(cell)!r}, is not that of "
                f"cell {other} of the notebook, {_first_line(before)!r}"
            )
    if len(new) != len(old):
        return "", f"the text has {len(new)} code cells, the notebook {len(old)}"
    for (_, cell), (_, before) in zip(new, old, strict=True):
        cell.outputs = before.outputs
    return to_text(canonical(wanted)), None


def _first_line(cell: NotebookNode) -> str:
    return next((line for line in cell.source.splitlines() if line.strip()), "").strip()


def sync(names: Iterable[str] = (), checkout: Checkout | None = None) -> list[Path]:
    """Bring the committed notebooks' text up to date, keeping their outputs.

    For changes of prose and of tags; where code changed, the outputs are no
    longer its outputs, and nothing is written for that chapter.

    Args:
        names: which chapters; all by default.
        checkout: where; by default the one this package or the current
            folder belongs to.

    Returns:
        The notebooks written.

    Raises:
        ChapterError: code changed; the message says in which cells.
    """
    written, refused = [], []
    for chapter in find_chapters(names, checkout):
        text, stale = _merge(chapter)
        if stale:
            refused.append(
                f"chapter {chapter.name}: {stale}; "
                f"make it with: python -m mcbook chapters run {chapter.name}"
            )
        elif text != chapter.notebook.read_text(encoding="utf-8"):
            written.append(write_atomic(chapter.notebook, text))
    if refused:
        raise ChapterError("\n".join(refused))
    return written


def check_sync(names: Iterable[str] = (), checkout: Checkout | None = None) -> list[str]:
    """Where the committed notebooks are not what the texts say.

    Args:
        names: which chapters; all by default.
        checkout: where; by default the one this package or the current
            folder belongs to.

    Returns:
        A sentence for each chapter that differs; empty when all agree.
    """
    differ = []
    for chapter in find_chapters(names, checkout):
        text, stale = _merge(chapter)
        there = "" if stale else chapter.notebook.read_text(encoding="utf-8")
        if stale:
            differ.append(f"chapter {chapter.name}: {stale} (chapters run)")
        elif text != there:
            wanted, lines = text.splitlines(), there.splitlines()
            pairs = enumerate(zip(wanted, lines, strict=False), 1)
            number = next((n for n, (a, b) in pairs if a != b), min(len(wanted), len(lines)) + 1)
            shown = [
                one[number - 1].strip() if number <= len(one) else "" for one in (wanted, lines)
            ]
            differ.append(
                f"chapter {chapter.name}: line {number} of the notebook should be {shown[0]:.90}, "
                f"found {shown[1]:.90} (chapters sync)"
            )
    return differ
