import subprocess
import sys

import nbformat
import pytest
from tiny_book import code, make_checkout

import mcbook.checkout
import mcbook.site
from mcbook.__main__ import main


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout, as if the package were installed apart and one stood in it."""
    made = make_checkout(tmp_path / "top")
    monkeypatch.setattr(mcbook.checkout, "package_checkout", lambda: None)
    monkeypatch.chdir(made.root)
    return made


def test_chapters_run_sync_list_and_verdicts(checkout, capsys):
    assert main(["chapters", "run", "1"]) == 0
    assert (checkout.book / "01_tiny.ipynb").is_file()
    source = checkout.sources / "01_tiny.md"
    source.write_text(source.read_text().replace("Some prose", "Other prose"))
    capsys.readouterr()
    assert main(["chapters", "list"]) == 0
    assert "01_tiny: A tiny chapter\n  chapter 01_tiny: line" in capsys.readouterr().out
    assert main(["chapters", "sync"]) == 0
    assert "01_tiny.ipynb: brought up to date" in capsys.readouterr().out
    assert main(["chapters", "verdicts"]) == 0
    assert capsys.readouterr().out == "01_tiny: ✓ holds: two and two is four\n"


def test_parameters_are_read_as_values(checkout):
    assert main(["chapters", "run", "-p", "seed=41", "-p", "scale=other"]) == 0
    made = nbformat.read(checkout.build / "default" / "01_tiny.ipynb", as_version=4)
    assert made.cells[-1].outputs[0].data["text/plain"] == "42"
    assert "at scale other" in made.cells[4].outputs[0].text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chapters", "run", "01_tyny"], "unknown chapter '01_tyny'; did you mean '01_tiny'?"),
        (["chapters", "run", "-p", "sed=1"], "unknown parameter of chapter 01_tiny 'sed'"),
        (["chapters", "sync"], "does not exist yet; make it with: python -m mcbook chapters run"),
        (["study", "run", "x"], "unknown study 'x'; there are: none"),
        (["study", "report", "x"], "unknown record 'x'"),
        (["build", "01_tyny"], "unknown chapter '01_tyny'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(checkout, capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("mcbook: ")
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["bild"], ["build", "--scale", "huge"], ["chapters"], ["chapters", "run", "-p", "seed"]],
)
def test_a_mistyped_command_shows_how_it_is_used(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m mcbook" in capsys.readouterr().err


def test_build_prints_the_page_to_open_and_what_failed(checkout, capsys, monkeypatch):
    monkeypatch.setattr(mcbook.site, "build_site", lambda source, output, notebooks: output / "i")
    assert main(["build"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("1 of 1 chapters, ")
    assert lines[-1] == f"open {(checkout.build / 'html' / 'i').as_uri()}"
    (checkout.sources / "02_bad.md").write_text(code("1 / 0"))
    assert main(["build"]) == 1
    shown = capsys.readouterr()
    assert "01_tiny: unchanged since it ran" in shown.out
    assert "1 of 2 chapters" in shown.out
    assert "chapter 02_bad, cell 2 ('1 / 0') raised ZeroDivisionError" in shown.err


def test_a_site_that_fails_is_told_of(checkout, capsys, monkeypatch):
    def build_site(source, output, notebooks):
        raise mcbook.site.SiteError("3 warnings")

    monkeypatch.setattr(mcbook.site, "build_site", build_site)
    assert main(["build"]) == 1
    assert capsys.readouterr().err.endswith("mcbook: 3 warnings\n")


def test_study_run_status_and_report(checkout, capsys):
    text = '"""A study."""\nJOBS = {"a": {"x": 3}}\n\ndef run(x):\n    return [{"x": x}]\n'
    (checkout.study / "squares.py").write_text(text)
    assert main(["study", "status"]) == 0
    table = capsys.readouterr().out
    assert table.split()[:6] == ["name", "jobs", "record", "created", "commit", "changed"]
    assert "squares" in table
    assert main(["study", "run"]) == 0
    assert (checkout.results / "squares.json").is_file()
    capsys.readouterr()
    assert main(["study", "status"]) == 0
    assert "1/1" in capsys.readouterr().out
    assert main(["study", "report"]) == 0


def test_an_interruption_ends_without_a_traceback(checkout, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mcbook.chapters.run", interrupted)
    assert main(["chapters", "run"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_check_says_whether_the_machine_is_ready(capsys, monkeypatch):
    assert main(["check"]) == 0
    assert capsys.readouterr().out.endswith("\nready\n")
    monkeypatch.setattr("mcbook.readiness.metadata.version", lambda name: "0.0.1")
    assert main(["check"]) == 1
    assert "things are missing" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["chapters", "list"], ["build"], ["study", "run"]])
def test_outside_a_checkout_it_says_so(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setattr(mcbook.checkout, "package_checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "this needs the book's checkout" in capsys.readouterr().err


def test_it_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "mcbook", "--help"], capture_output=True, text=True, check=True
    )
    for word in ("build", "chapters", "study", "check"):
        assert word in done.stdout
