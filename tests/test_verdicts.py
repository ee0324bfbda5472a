import json

import numpy as np
import pytest
import torch

from mcbook.errors import DamagedFileError
from mcbook.verdicts import Verdict, count_verdicts, read_verdicts, verdict


@pytest.mark.parametrize(
    ("holds", "expected", "line", "outcome"),
    [
        (True, True, "✓ holds: it grows", "held"),
        (False, False, "✗ does not hold (as expected, see text): it grows", "expected_not"),
        (False, True, "! UNEXPECTED: does not hold: it grows", "unexpected"),
        (True, False, "! UNEXPECTED: holds after all: it grows", "unexpected"),
    ],
)
def test_prints_one_line_that_says_the_outcome(capsys, holds, expected, line, outcome):
    found = verdict("it grows", holds, expected)
    assert capsys.readouterr().out == line + "\n"
    assert found == Verdict("it grows", holds, expected)
    assert found.outcome == outcome


@pytest.mark.parametrize(
    "true",
    [True, np.True_, torch.tensor(True), torch.tensor([True]), np.array(True), np.array([[True]])],
)
def test_accepts_the_truth_values_of_numpy_and_torch(true):
    found = verdict("it grows", true, true)
    assert found.holds is True
    assert found.expected is True


@pytest.mark.parametrize(
    "value",
    [1, 0.3, "yes", None, np.float64(1), torch.tensor(1.0), torch.tensor([True, True]), [True]],
)
def test_refuses_what_is_not_one_truth_value(value, capsys):
    with pytest.raises(TypeError, match="holds: expected one truth value .* found"):
        verdict("it grows", value)
    with pytest.raises(TypeError, match="expected: expected one truth value .* found"):
        verdict("it grows", True, expected=value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("claim", ["", "  ", "two\nlines"])
def test_refuses_a_claim_that_is_not_one_line(claim):
    with pytest.raises(ValueError, match="expected one line"):
        verdict(claim, True)


@pytest.mark.parametrize("claim", ["barrier 0.83712 at most", "below 1e-5", "at 3.1415926"])
def test_refuses_raw_numbers(claim):
    with pytest.raises(ValueError, match="the same in every run"):
        verdict(claim, True)


def test_rounded_numbers_are_welcome():
    assert verdict("barrier below 0.05 over 12 pairs, t = 0.5, 95 %", True).holds


def test_refuses_a_claim_that_is_no_text():
    with pytest.raises(TypeError, match="expected text, found bool"):
        verdict(True, "it grows")


def test_a_notebook_shows_the_line_once():
    assert Verdict("it grows", True)._ipython_display_() is None


def _notebook(*outputs):
    cell = {"cell_type": "code", "source": "", "outputs": list(outputs)}
    return {"cells": [{"cell_type": "markdown", "source": "✓ holds: prose is no output"}, cell]}


def _stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def test_reads_back_what_was_printed(capsys, tmp_path):
    made = [
        verdict("one", True),
        verdict("two", False, expected=False),
        verdict("three", False),
        verdict("four: with a colon", True, expected=False),
    ]
    text = "numbers\n" + capsys.readouterr().out + "more\n"
    notebook = _notebook(
        _stream(text.splitlines(keepends=True)),
        _stream("✓ holds: not on stderr\n", "stderr"),
        {"output_type": "display_data", "data": {"text/plain": "✓ holds: not displayed"}},
    )
    assert read_verdicts(notebook) == made
    file = tmp_path / "a.ipynb"
    file.write_text(json.dumps(notebook), encoding="utf-8")
    assert read_verdicts(file) == made
    assert count_verdicts(made) == {"held": 1, "expected_not": 1, "unexpected": 2}


@pytest.mark.parametrize("content", ["", '{"cells": [', "[]", '{"cells": 3}'])
def test_a_damaged_notebook_is_named(tmp_path, content):
    file = tmp_path / "broken.ipynb"
    file.write_text(content)
    with pytest.raises(DamagedFileError, match=r"broken\.ipynb: expected a notebook, found"):
        read_verdicts(file)
