"""The book as a web site: staged, filled in, built, put in place.

The pages in `book/` are written by hand.  Some hold a line such as
`<!-- made by the build: status -->`, which the build replaces: what it ran
and on what machine, where the recorded results come from, what the package
has to offer (`site_pages.py`, `site_api.py`).  Everything happens in a copy,
so that nothing in `book/` is ever written to.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mcbook.checkout import find_checkout
from mcbook.site_api import api_section, names_section
from mcbook.site_pages import provenance_section, read_status, status_section

__all__ = ["SiteError", "build_site", "stage_book"]

# <!-- made by the build: KIND ARGUMENTS -->, alone on its line
_MARK = re.compile(r"^<!-- made by the build: (\w+)([^\n>]*?) ?-->$", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LEFT_OUT = shutil.ignore_patterns("src", "_build", "__pycache__", ".*", "*.part")


class SiteError(RuntimeError):
    """The site could not be built; the message holds the builder's complaints."""


def build_site(
    source: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    notebooks: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Path:
    """Build the book's site; warnings are errors.

    The site takes the place of the earlier one in one step at the end: a
    build that fails or is killed leaves the earlier site as it was.

    Args:
        source: the repository's root, which holds `_config.yml`, `_toc.yml`
            and `book/`; by default that of the checkout around.
        output: the folder of the finished site; `_build/html` by default.
            Working files go beside it, into `source/` and `site.log`.
        notebooks: a folder with freshly executed chapters (and the
            `status.json` that says how the run went), shown in place of the
            committed ones.
        quiet: print nothing.

    Returns:
        The page to open, `index.html`.

    Raises:
        FileNotFoundError: `source` or `notebooks` is not what it should be.
        SiteError: the builder complained; the message shows what about.
    """
    root = Path(source).resolve() if source is not None else find_checkout().root
    place = Path(output).resolve() if output is not None else root / "_build" / "html"
    began = time.perf_counter()
    _bring_back(place)
    staged = stage_book(root, place.parent / "source", notebooks)
    if not quiet:
        print(f"building the site: {len(list((staged / 'book').rglob('*.*')))} files", flush=True)
    log = place.parent / "site.log"
    code = _run_builder(staged, root, log)
    made = staged / "_build" / "html"
    if code != 0 or not (made / "index.html").is_file():
        raise SiteError(_complaint(code, log))
    _put_in_place(made, place)
    index = place / "index.html"
    if not quiet:
        print(f"site built in {time.perf_counter() - began:.1f} s: {index}", flush=True)
    return index


def stage_book(
    root: Path,
    stage: Path,
    notebooks: str | os.PathLike[str] | None = None,
) -> Path:
    """Copy the book to `stage` and fill in what the build makes.

    Args:
        root: the repository's root.
        stage: the folder to (re)make.
        notebooks: a folder with freshly executed chapters, or None for the
            committed ones.

    Returns:
        `stage`.

    Raises:
        FileNotFoundError: a part of the book, or `notebooks`, is missing.
        ValueError: a page asks for something that the build does not make.
    """
    for part in ("_config.yml", "_toc.yml", "book"):
        if not (root / part).exists():
            raise FileNotFoundError(f"{root}: expected the book's root, found no {part} in it")
    fresh = Path(notebooks) if notebooks is not None else None
    if fresh is not None and not fresh.is_dir():
        raise FileNotFoundError(f"{fresh}: expected a folder of executed chapters")
    if stage.exists():
        shutil.rmtree(stage)
    stage.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(root / name, stage / name)
    book = stage / "book"
    shutil.copytree(root / "book", book, ignore=_LEFT_OUT)
    if fresh is not None:
        for notebook in sorted(fresh.glob("*.ipynb")):
            shutil.copy2(notebook, book / notebook.name)
    _fill_in(book, fresh)
    return stage


def _fill_in(book: Path, fresh: Path | None) -> None:
    """Replace every `made by the build` line of the staged pages."""
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(book.rglob("*.md"))}
    shown = {
        page: [
            word for kind, words in _MARK.findall(text) if kind == "api" for word in words.split()
        ]
        for page, text in pages.items()
    }
    for page, text in pages.items():

        def made(mark: re.Match[str], page: Path = page, text: str = text) -> str:
            kind, words = mark[1], mark[2].split()
            if kind == "status":
                return status_section(read_status(fresh), book)
            if kind == "provenance":
                return provenance_section()
            if kind == "api":
                return api_section(words, [word for each in shown.values() for word in each])
            if kind == "names":
                return names_section(
                    {
                        other: (_title(pages[other]), shown[other])
                        for other in pages
                        if shown[other]
                    },
                    page.parent,
                )
            line = text[: mark.start()].count("\n") + 1
            raise ValueError(
                f"{page.name}, line {line}: the build makes status, provenance, api and names, "
                f"and is asked for {kind!r}"
            )

        filled = _MARK.sub(made, text)
        if filled != text:
            page.write_text(filled, encoding="utf-8")


def _title(text: str) -> str:
    """The first heading of a page."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _run_builder(staged: Path, root: Path, log: Path) -> int:
    """Run jupyter-book on the staged copy; all it says goes to `log`."""
    program = Path(sys.executable).with_name("jupyter-book")
    if not program.is_file() and not program.with_suffix(".exe").is_file():
        raise FileNotFoundError(
            f"{program}: expected jupyter-book beside this Python; "
            "install it with: pip install -r requirements.txt"
        )
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    # The API pages must describe the code in `root`, whatever is installed.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    with open(log, "w", encoding="utf-8") as stream:
        return subprocess.run(
            [str(program), "build", ".", "-W", "--keep-going", "-n"],
            cwd=staged,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode


def _complaint(code: int, log: Path) -> str:
    """What went wrong: the warnings, or else the end of the log."""
    lines = _COLOURS.sub("", log.read_text(encoding="utf-8", errors="replace")).splitlines()
    warnings = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
    shown = list(dict.fromkeys(warnings))[:20] or [line for line in lines if line.strip()][-25:]
    return (
        f"the site was not built (jupyter-book ended with {code}; "
        f"{len(set(warnings))} warnings, and a warning is an error). All of it: {log}\n"
        + "\n".join(f"  {line}" for line in shown)
    )


def _kept(place: Path) -> Path:
    """Where the earlier site waits while the new one takes its place."""
    return place.with_name(f".{place.name}.earlier")


def _bring_back(place: Path) -> None:
    """Undo a replacement that was killed between its two steps."""
    if _kept(place).exists() and not place.exists():
        os.replace(_kept(place), place)


def _put_in_place(made: Path, place: Path) -> None:
    """Let `made` take the place of `place`, which stays whole until then."""
    earlier = _kept(place)
    if earlier.exists():
        shutil.rmtree(earlier)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        os.replace(place, earlier)
    os.replace(made, place)
    if earlier.exists():
        shutil.rmtree(earlier)
