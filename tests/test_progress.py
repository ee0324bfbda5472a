from __future__ import annotations

import sys

import pytest

from mcbook.progress import Bar


def test_a_bar_shows_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MCBOOK_PROGRESS", "1")
    with Bar(3, "training") as bar:
        for _ in range(3):
            bar.advance(loss=0.5)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "training" in shown.err
    last = shown.err.rsplit("\r", 2)[-2:]
    assert "".join(last).strip() == ""


@pytest.mark.parametrize(("show", "variable"), [(False, "1"), (True, "0")])
def test_a_bar_can_be_turned_off(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    show: bool,
    variable: str,
) -> None:
    monkeypatch.setenv("MCBOOK_PROGRESS", variable)
    with Bar(2, "training", show) as bar:
        bar.advance(2, loss=1.0)
    assert capsys.readouterr() == ("", "")


def test_without_tqdm_there_is_no_bar_and_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MCBOOK_PROGRESS", "1")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with Bar(2, "training") as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")
