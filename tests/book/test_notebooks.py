"""Every chapter: in sync with its text, quick at smoke scale, and the same on every run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mcbook.canonical import problems
from mcbook.chapters import check_sync, find_chapters, make, source_notebook
from mcbook.verdicts import read_verdicts

CHAPTERS = find_chapters()
# The budget is 10 on a quiet machine; machines differ, and this catches what has run away.
SMOKE_SECONDS = 60
# What the chapters' own kernels get: no bars, one thread.
ENVIRONMENT = {
    **os.environ,
    "MCBOOK_PROGRESS": "0",
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)


@pytest.fixture(scope="module")
def smoked(tmp_path_factory):
    """Each chapter's smoke notebook and its seconds, made when first asked for."""
    folder = tmp_path_factory.mktemp("smoke")
    made = {}

    def get(chapter):
        if chapter.name not in made:
            file = folder / chapter.notebook.name
            before = os.times()
            make(chapter, file, "smoke", progress=False)
            after = os.times()
            # The kernel's own seconds: others on this machine do not count.
            user = after.children_user - before.children_user
            system = after.children_system - before.children_system
            made[chapter.name] = file, user + system
        return made[chapter.name]

    return get


def nbval(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # A process of its own, apart from this project's pytest settings.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(file.parent), "--nbval-current-env", *options, str(file)]
    return subprocess.run(
        command,
        cwd=file.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def cells_checked(done: subprocess.CompletedProcess[str]) -> int:
    found = re.search(r"(\d+) passed", done.stdout)
    return int(found[1]) if found else 0


def test_there_are_chapters():
    assert CHAPTERS


def test_every_notebook_belongs_to_a_chapter():
    book = CHAPTERS[0].checkout.book
    assert {file.stem for file in book.glob("*.ipynb")} == {chapter.name for chapter in CHAPTERS}


@each_chapter
def test_the_notebook_is_in_sync_with_its_text(chapter):
    assert check_sync([chapter.name], chapter.checkout) == []


@each_chapter
def test_the_page_has_the_parts_that_tools_look_for(chapter):
    cells = source_notebook(chapter).cells
    tagged = {tag: cell for cell in cells for tag in cell.metadata.get("tags", ())}
    first_code = next(cell for cell in cells if cell.cell_type == "code")
    assert first_code is tagged["colab-setup"]
    assert "remove-cell" in first_code.metadata.tags
    assert 'scale = "default"' in tagged["parameters"].source
    assert "seed = 0" in tagged["parameters"].source
    wide = [
        line
        for cell in cells
        if cell.cell_type == "code" and "remove-cell" not in cell.metadata.get("tags", ())
        for line in cell.source.splitlines()
        if len(line) > 76
    ]
    assert wide == []  # cut off in the page's column


@each_chapter
def test_no_committed_verdict_is_unexpected(chapter):
    verdicts = read_verdicts(chapter.notebook)
    assert verdicts
    assert [one.claim for one in verdicts if one.outcome == "unexpected"] == []


@each_chapter
def test_the_committed_outputs_are_fit_to_be_read(chapter):
    notebook = nbformat.read(chapter.notebook, as_version=4)
    assert problems(notebook) == []


@each_chapter
def test_smoke_runs_in_seconds(chapter, smoked):
    _, seconds = smoked(chapter)
    assert 0.5 < seconds <= SMOKE_SECONDS


@each_chapter
def test_smoke_gives_the_same_outputs_again(chapter, smoked):
    file, _ = smoked(chapter)
    done = nbval(file, "--nbval")
    assert done.returncode == 0, done.stdout[-6000:]
    assert cells_checked(done) >= 3


@each_chapter
def test_the_committed_notebook_still_runs_and_says_the_same(chapter):
    done = nbval(chapter.notebook, "--nbval-lax")
    assert done.returncode == 0, done.stdout[-6000:]
    assert cells_checked(done) >= 3
