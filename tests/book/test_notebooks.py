"""Every chapter: in sync with its text, quick at smoke scale, and the same on every run."""

import nbformat
import pytest

from mcbook.canonical import problems
from mcbook.chapters import check_sync, find_chapters, source_notebook
from mcbook.verdicts import read_verdicts
from tests.book.comparing import code_cells, compare_runs

CHAPTERS = find_chapters()
# The budget is 10 on a quiet machine; machines differ, and this catches what has run away.
SMOKE_SECONDS = 60

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)


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
def test_smoke_runs_in_seconds(chapter, chapter_runs):
    run = chapter_runs(chapter)["smoke"]
    assert run.error is None, run.error
    assert 0.5 < run.processor_seconds <= SMOKE_SECONDS
    scale = [
        cell.source
        for cell in run.notebook().cells
        if "injected-parameters" in cell.metadata.get("tags", ())
    ]
    assert len(scale) == 1
    assert 'scale = "smoke"' in scale[0]


@each_chapter
def test_the_committed_notebook_still_runs_and_says_the_same(chapter, chapter_runs):
    # It is the text that runs; that the notebook has the same code is seen above.
    run = chapter_runs(chapter)["default"].notebook()
    committed = code_cells(nbformat.read(chapter.notebook, as_version=4))
    assert [cell.source for cell in code_cells(run)] == [cell.source for cell in committed]
    found = compare_runs(code_cells(run), committed, everything=False)
    assert not found.differences, "\n".join(found.differences)
    assert found.compared >= 3
    # also in cells that are not compared, such as solutions
    assert read_verdicts(run) == read_verdicts(chapter.notebook)
