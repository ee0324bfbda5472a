"""Runs are compared as nbval compares them; nbval itself is the slow way to see it."""

import copy
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat import v4

from tests.book.comparing import code_cells, compare_runs

CHECK = "nbval-check-output"
VIEW = "application/vnd.jupyter.widget-view+json"
SHOW = "from IPython.display import display\n"
# name: (code, tags, outputs found, outputs expected)
CASES = {
    "the same": ("print(1)", [CHECK], ["1\n"], ["1\n"]),
    "another text": ("print(1)", [CHECK], ["1\n"], ["2\n"]),
    "another text, unmarked": ("print(1)", [], ["1\n"], ["2\n"]),
    "another text, ignored": ("print(1)", ["nbval-ignore-output"], ["1\n"], ["2\n"]),
    "another text, marked by a comment": ("# NBVAL_CHECK_OUTPUT\nprint(1)", [], ["1\n"], ["2\n"]),
    "skipped": ("print(1)", ["nbval-skip"], ["1\n"], ["2\n"]),
    "in pieces": ("print(1)\nprint(2)", [CHECK], ["1\n2\n"], ["1\n", "2\n"]),
    "less than before": ("1;", [CHECK], [], ["1\n"]),
    "more than before": ("print(1)", [CHECK], ["1\n"], []),
    "another picture": (
        SHOW + "display({'image/png': 'aGk='}, raw=True)",
        [CHECK],
        [{"image/png": "aGk="}],
        [{"image/png": "aGo="}],
    ),
    "another page": (
        SHOW + "display({'text/html': 'a'}, raw=True)",
        [CHECK],
        [{"text/html": "a"}],
        [{"text/html": "b"}],
    ),
    "another widget": (
        SHOW + f"display({{'text/html': 'a', {VIEW!r}: {{'model_id': '1'}}}}, raw=True)",
        [CHECK],
        [{"text/html": "a", VIEW: {"model_id": "1"}}],
        [{"text/html": "a", VIEW: {"model_id": "2"}}],
    ),
    "shown twice": (
        SHOW + "display({'text/html': 'a'}, {'text/html': 'a'}, raw=True)",
        [CHECK],
        [{"text/html": "a"}] * 2,
        [{"text/html": "a"}],
    ),
}
DIFFERENT = {
    "another text",
    "another text, marked by a comment",
    "less than before",
    "more than before",
    "another page",
    "shown twice",
}


def output(content):
    if isinstance(content, str):
        return v4.new_output("stream", name="stdout", text=content)
    return v4.new_output("display_data", data=content)


def notebook(which):
    cells = []
    for number, (code, tags, *outputs) in enumerate(CASES.values(), 1):
        cell = v4.new_code_cell(code, execution_count=number)
        cell.metadata["tags"] = list(tags)
        cell.outputs = [output(one) for one in outputs[which]]
        cells.append(cell)
    return v4.new_notebook(cells=cells)


def differing(everything):
    found, expected = (code_cells(notebook(which)) for which in (0, 1))
    comparison = compare_runs(found, expected, everything)
    names = list(CASES)
    numbers = [int(re.match(r"code cell (\d+):", text)[1]) for text in comparison.differences]
    return {names[number] for number in numbers}, comparison


def test_what_differs_is_found_and_shown():
    names, comparison = differing(everything=False)
    assert names == DIFFERENT
    assert comparison.compared == len(CASES) - 3
    (text,) = [one for one in comparison.differences if one.startswith("code cell 1:")]
    assert "print(1)" in text
    assert "stdout" in text
    assert "-2\n+1" in text


def test_unmarked_cells_are_compared_when_everything_is():
    names, comparison = differing(everything=True)
    assert names == DIFFERENT | {"another text, unmarked"}
    assert comparison.compared == len(CASES) - 2


def test_nbval_itself_says_the_same(tmp_path):
    file = tmp_path / "cases.ipynb"
    nbformat.write(notebook(1), file)
    # A process of its own, apart from this project's pytest settings.
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider"]
    command += [
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        "--nbval-current-env",
        "--nbval",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    failed = {int(number) for number in re.findall(r"^FAILED .*::Cell (\d+)", done.stdout, re.M)}
    names = list(CASES)
    assert {names[number] for number in failed} == differing(everything=True)[0], done.stdout


def test_nothing_given_is_changed():
    found, expected = (code_cells(notebook(which)) for which in (0, 1))
    before = copy.deepcopy((found, expected))
    compare_runs(found, expected, everything=True)
    assert (found, expected) == before


def test_runs_of_different_notebooks_are_refused():
    cells = code_cells(notebook(0))
    with pytest.raises(AssertionError, match=f"{len(cells) - 1} code cells, expected {len(cells)}"):
        compare_runs(cells[1:], cells, everything=True)


def test_code_cells_can_be_left_out_by_their_tags():
    made = notebook(0)
    made.cells.insert(0, v4.new_markdown_cell("# A title"))
    assert len(code_cells(made)) == len(CASES)
    assert len(code_cells(made, ("nbval-skip", "nbval-ignore-output"))) == len(CASES) - 2
