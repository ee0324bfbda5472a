import json

import pytest
from tiny_book import CHAPTER, code, make_checkout

import mcbook.site
from mcbook.building import build
from mcbook.errors import UnknownNameError

COUNTED = code(
    "from pathlib import Path\nfile = Path('../count.txt')\n"
    "file.write_text(file.read_text() + 'x' if file.exists() else 'x')\nNone"
)


@pytest.fixture(autouse=True)
def sites(monkeypatch):
    """The calls that would build a site; the site itself is tested elsewhere."""
    calls = []

    def build_site(source, output, notebooks):
        shown = sorted(file.name for file in notebooks.glob("*.ipynb")) if notebooks else None
        calls.append((source, output, shown))
        return output / "index.html"

    monkeypatch.setattr(mcbook.site, "build_site", build_site)
    return calls


def test_runs_every_chapter_and_says_how_it_went(tmp_path, sites, capsys):
    checkout = make_checkout(tmp_path, {"01_tiny": CHAPTER, "02_b": code("1 + 1")})
    made = build(checkout=checkout)
    assert made.page == tmp_path / "_build" / "html" / "index.html"
    assert sites == [(tmp_path, tmp_path / "_build" / "html", ["01_tiny.ipynb", "02_b.ipynb"])]
    assert made.errors == []
    status = json.loads((tmp_path / "_build" / "book" / "status.json").read_text())
    assert status == made.status
    assert status["scale"] == "default"
    assert status["machine"]["cpu"]
    first = status["chapters"][0]
    assert first["title"] == "A tiny chapter"
    assert first["seconds"] > 0
    assert first["verdicts"] == {"held": 1, "expected_not": 0, "unexpected": 0}
    assert (first["ok"], first["error"]) == (True, None)
    assert list(checkout.book.glob("*.ipynb")) == []
    assert "01_tiny:" in capsys.readouterr().out


def count(root):
    return len((root / "count.txt").read_text())


def test_runs_only_what_changed(tmp_path):
    checkout = make_checkout(tmp_path, {"01_counted": COUNTED})
    first = build(checkout=checkout).status["chapters"]
    again = build(checkout=checkout).status["chapters"]
    assert count(tmp_path) == 1
    assert again == first
    build(checkout=checkout, fresh=True)
    assert count(tmp_path) == 2
    (tmp_path / "mcbook" / "new.py").write_text("x = 1\n")
    build(checkout=checkout)
    assert count(tmp_path) == 3
    source = checkout.sources / "01_counted.md"
    source.write_text(source.read_text() + "\nMore.\n")
    build(checkout=checkout)
    assert count(tmp_path) == 4
    # A notebook that was changed or lost since is not taken for the run's.
    (tmp_path / "_build" / "book" / "01_counted.ipynb").write_text("{}")
    build(checkout=checkout)
    assert count(tmp_path) == 5


def test_a_failing_chapter_keeps_no_other_from_running(tmp_path, sites):
    checkout = make_checkout(tmp_path, {"01_bad": code("1 / 0"), "02_b": code("1 + 1")})
    (checkout.book / "01_bad.ipynb").write_text('{"cells": []}')
    made = build(checkout=checkout)
    (error,) = made.errors
    assert "chapter 01_bad, cell 2 ('1 / 0') raised ZeroDivisionError" in error
    assert [one["ok"] for one in made.status["chapters"]] == [False, True]
    assert sites[0][2] == ["02_b.ipynb"]  # the site shows 01_bad as committed
    assert made.page is not None


def test_a_chapter_that_fails_now_is_not_shown_as_it_was(tmp_path, sites):
    checkout = make_checkout(tmp_path, {"01_a": code("1 + 1")})
    build(checkout=checkout)
    source = checkout.sources / "01_a.md"
    source.write_text(source.read_text().replace("1 + 1", "1 / 0"))
    made = build(checkout=checkout)
    assert made.page is None  # and there is no committed one to show
    assert len(sites) == 1
    (checkout.book / "01_a.ipynb").write_text('{"cells": []}')
    assert build(checkout=checkout).page is not None
    assert sites[1][2] == []  # the committed one, not that of the earlier run


def test_without_a_run_the_committed_notebooks_are_shown(tmp_path, sites):
    checkout = make_checkout(tmp_path, {"01_bad": code("1 / 0")})
    (checkout.book / "01_bad.ipynb").write_text('{"cells": []}')
    made = build(run=False, checkout=checkout)
    assert made.errors == []
    assert sites == [(tmp_path, tmp_path / "_build" / "html", None)]
    assert not (tmp_path / "_build" / "book").exists()


def test_only_the_chapters_named_are_run(tmp_path, sites):
    checkout = make_checkout(tmp_path, {"01_bad": code("1 / 0"), "02_counted": COUNTED})
    (checkout.book / "01_bad.ipynb").write_text('{"cells": []}')
    assert build(["2"], checkout=checkout).errors == []
    assert count(tmp_path) == 1
    assert sites[0][2] == ["02_counted.ipynb"]


def test_unknown_names_are_refused(tmp_path):
    checkout = make_checkout(tmp_path)
    with pytest.raises(UnknownNameError, match="unknown scale 'ful'.*'full'"):
        build(scale="ful", checkout=checkout)
    with pytest.raises(UnknownNameError, match="unknown chapter"):
        build(["tiny"], checkout=checkout)
