"""The whole book: every chapter executed, and the site made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .canonical import to_text
from .chapters import SCALES, Chapter, find_chapters, make, source_notebook
from .checkout import Checkout, find_checkout
from .errors import DamagedFileError, UnknownNameError
from .execution import ChapterError
from .files import write_atomic
from .provenance import machine
from .verdicts import count_verdicts, read_verdicts

__all__ = ["Build", "build", "chapter_entry", "write_status"]


@dataclass(frozen=True)
class Build:
    """What a build made.

    Args:
        page: the page to open, or None when there is no site.
        status: what `status.json` says.
    """

    page: Path | None
    status: dict[str, Any]

    @property
    def errors(self) -> list[str]:
        """What went wrong, a text a chapter."""
        return [one["error"] for one in self.status["chapters"] if not one["ok"]]


def _fingerprint(chapter: Chapter, scale: str, surroundings: dict[str, Any]) -> str:
    """A hash of everything that a chapter's outputs follow from."""
    parts = [to_text(source_notebook(chapter)), scale, chapter.checkout.code_hash()]
    parts.append(json.dumps(surroundings, sort_keys=True))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _last_run(file: Path, notebook: Path, fingerprint: str) -> dict[str, Any] | None:
    """The entry of an earlier run that gave this very notebook, if one did."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        same = kept["fingerprint"] == fingerprint and kept["notebook"] == _hash(notebook)
        return dict(kept["entry"]) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def chapter_entry(chapter: Chapter, notebook: Path | None, **more: Any) -> dict[str, Any]:
    """What `status.json` says of a chapter.

    Args:
        chapter: the chapter.
        notebook: the notebook that is shown, whose verdicts are counted; None
            when there is none.
        **more: what else is known of its run: `seconds`, `ok` and `error`.

    Returns:
        The entry; without `more`, that of a chapter that was not run.

    Raises:
        DamagedFileError: the file is no notebook.
    """
    verdicts = read_verdicts(notebook) if notebook else []
    return {
        "name": chapter.name,
        "title": chapter.title,
        "seconds": None,
        "ok": True,
        "verdicts": count_verdicts(verdicts),
        "error": None,
        **more,
    }


def _execute(chapter: Chapter, folder: Path, scale: str, fresh: bool) -> dict[str, Any]:
    notebook, memo = folder / f"{chapter.name}.ipynb", folder / f"{chapter.name}.run.json"
    try:
        fingerprint = _fingerprint(chapter, scale, machine())
        entry = None if fresh else _last_run(memo, notebook, fingerprint)
        if entry:
            print(f"  {chapter.name}: unchanged since it ran in {entry['seconds']:.1f} s")
            return entry
        done = make(chapter, notebook, scale)
    except (ChapterError, DamagedFileError, UnknownNameError) as problem:
        # An earlier result must not pass for this one's.
        memo.unlink(missing_ok=True)
        notebook.unlink(missing_ok=True)
        print(f"  {chapter.name}: FAILED")
        return chapter_entry(chapter, None, ok=False, error=str(problem))
    entry = chapter_entry(chapter, notebook, seconds=round(done.seconds, 2))
    kept = {"fingerprint": fingerprint, "notebook": _hash(notebook), "entry": entry}
    write_atomic(memo, json.dumps(kept, indent=1) + "\n")
    print(f"  {chapter.name}: {done.seconds:.1f} s")
    return entry


def _committed(chapter: Chapter, folder: Path | None = None) -> dict[str, Any]:
    """Show a chapter as committed, not as an earlier build left it in `folder`."""
    if folder is not None:
        for kept in (f"{chapter.name}.run.json", f"{chapter.name}.ipynb"):
            (folder / kept).unlink(missing_ok=True)
    if not chapter.notebook.is_file():
        problem = f"chapter {chapter.name}: there is no committed notebook {chapter.notebook}"
        return chapter_entry(chapter, None, ok=False, error=problem)
    return chapter_entry(chapter, chapter.notebook)


def write_status(folder: Path, scale: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the `status.json` that the status page is made from.

    Args:
        folder: the folder of the executed notebooks.
        scale: the scale they ran at.
        entries: what to say of each chapter: `chapter_entry`.

    Returns:
        What was written: the scale, this machine and the entries.
    """
    status = _status(scale, entries)
    text = json.dumps(status, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / "status.json", text)
    return status


def _status(scale: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"scale": scale, "machine": machine(), "chapters": entries}


def build(
    names: Iterable[str] = (),
    scale: str = "default",
    run: bool = True,
    fresh: bool = False,
    checkout: Checkout | None = None,
) -> Build:
    """Execute the chapters into `_build/book/` and make the site; `book/` stays as it is.

    A chapter whose text, package, machine and scale are those of its last
    successful run there is not run again.  A chapter that fails keeps no
    other from running, and is shown as it was last committed.

    Args:
        names: the chapters to execute; the others are shown as committed.
            All by default.
        scale: "smoke", "default" or "full".
        run: False shows every chapter as committed.
        fresh: run every chapter, whatever there is.
        checkout: where; by default the one this package or the current
            folder belongs to.

    Returns:
        What was made; `.errors` is empty when all went well.

    Raises:
        UnknownNameError: a chapter or the scale is unknown.
        NoCheckoutError: there is no checkout.
    """
    from .site import build_site

    if scale not in SCALES:
        raise UnknownNameError("scale", scale, SCALES)
    checkout = checkout or find_checkout()
    folder = checkout.build / "book"
    chosen = find_chapters(names, checkout)
    every = find_chapters((), checkout)
    if run:
        folder.mkdir(parents=True, exist_ok=True)
        entries = [
            _execute(chapter, folder, scale, fresh)
            if chapter in chosen
            else _committed(chapter, folder)
            for chapter in every
        ]
        status = write_status(folder, scale, entries)
    else:
        entries = [_committed(chapter) for chapter in chosen]
        status = _status("committed", entries)
    # Where a chapter has no new notebook the site shows the committed one.
    fresh_files = {one["name"] for one in entries if run and one["ok"]}
    if any(one.name not in fresh_files and not one.notebook.is_file() for one in every):
        return Build(None, status)
    page = build_site(checkout.root, checkout.build / "html", folder if run else None)
    return Build(page, status)
