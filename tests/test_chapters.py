import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from tiny_book import CHAPTER, URL, code, make_checkout

import mcbook.files
from mcbook.chapters import (
    ChapterError,
    check_sync,
    find_chapters,
    make,
    run,
    smoke,
    source_notebook,
    sync,
)
from mcbook.errors import DamagedFileError, UnknownNameError
from mcbook.execution import execute


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The tiny chapter, run once; its bytes are copied where a test needs them."""
    checkout = make_checkout(tmp_path_factory.mktemp("executed"))
    (done,) = run(checkout=checkout, progress=False)
    return done


@pytest.fixture
def checkout(tmp_path, executed):
    made = make_checkout(tmp_path)
    (made.book / "01_tiny.ipynb").write_bytes(executed.file.read_bytes())
    return made


def edit(checkout, before, after, name="01_tiny"):
    file = checkout.sources / f"{name}.md"
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


def read(checkout):
    return nbformat.read(checkout.book / "01_tiny.ipynb", as_version=4)


def test_a_run_writes_the_notebook_with_its_outputs(executed):
    notebook = nbformat.read(executed.file, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert cells[2].outputs[0].text == "at scale default\n✓ holds: two and two is four\n"
    assert cells[3].outputs[0].data["text/plain"] == "1"
    assert not any("injected-parameters" in cell.metadata.get("tags", ()) for cell in cells)
    assert [one.outcome for one in executed.verdicts] == ["held"]
    assert executed.seconds > 0


def test_a_second_run_gives_the_same_bytes(checkout):
    before = (checkout.book / "01_tiny.ipynb").read_bytes()
    run(checkout=checkout, progress=False)
    assert (checkout.book / "01_tiny.ipynb").read_bytes() == before
    assert check_sync(checkout=checkout) == []
    assert not (checkout.build / "running" / "01_tiny.ipynb").exists()


def test_smoke_leaves_the_committed_notebook_alone(checkout):
    before = (checkout.book / "01_tiny.ipynb").read_bytes()
    (done,) = smoke(["1"], checkout, progress=False)
    assert done.file == checkout.build / "smoke" / "01_tiny.ipynb"
    assert "at scale smoke" in done.file.read_text(encoding="utf-8")
    assert (checkout.book / "01_tiny.ipynb").read_bytes() == before


def test_parameters_go_to_a_notebook_of_their_own(checkout):
    before = (checkout.book / "01_tiny.ipynb").read_bytes()
    (done,) = run(parameters={"seed": 41}, checkout=checkout, progress=False)
    assert done.file == checkout.build / "default" / "01_tiny.ipynb"
    assert nbformat.read(done.file, as_version=4).cells[-1].outputs[0].data["text/plain"] == "42"
    assert (checkout.book / "01_tiny.ipynb").read_bytes() == before


def test_the_kernel_is_this_very_python(tmp_path, monkeypatch):
    # A kernel of the same name, installed for the user and ahead of all others.
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    content = {"argv": argv, "display_name": "Other", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(content))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    text = code("import os, sys\nprint(sys.executable, os.getcwd(), os.environ['MCBOOK_PROGRESS'])")
    checkout = make_checkout(tmp_path / "top", {"01_a": text})
    (done,) = run(checkout=checkout, progress=False)
    output = nbformat.read(done.file, as_version=4).cells[-1].outputs[0].text
    assert output == f"{sys.executable} {checkout.book} 0\n"


def test_a_mistyped_parameter_is_refused_before_anything_runs(checkout):
    with pytest.raises(
        UnknownNameError, match="unknown parameter of chapter 01_tiny 'sed'; did you mean 'seed'"
    ):
        run(parameters={"sed": 1}, checkout=checkout, progress=False)
    assert not checkout.build.exists()


def test_an_unknown_chapter_or_scale_offers_the_close_ones(checkout):
    with pytest.raises(UnknownNameError, match="unknown chapter '01_tyny'.*'01_tiny'"):
        run(["01_tyny"], checkout=checkout)
    with pytest.raises(UnknownNameError, match="unknown chapter '7'"):
        run(["7"], checkout=checkout)
    with pytest.raises(UnknownNameError, match="unknown scale 'smok'.*'smoke'"):
        run(scale="smok", checkout=checkout)


def test_chapters_are_found_by_name_and_number_in_order(tmp_path):
    checkout = make_checkout(tmp_path, {"02_b": CHAPTER, "10_c": CHAPTER, "01_a": CHAPTER})
    (checkout.sources / "notes.md").write_text("no chapter")
    assert [one.name for one in find_chapters((), checkout)] == ["01_a", "02_b", "10_c"]
    assert [one.name for one in find_chapters(["10", "1", "01_a"], checkout)] == ["01_a", "10_c"]
    assert find_chapters(["1"], checkout)[0].title == "A tiny chapter"


def test_an_error_names_chapter_cell_and_exception_and_leaves_the_notebook(checkout):
    before = (checkout.book / "01_tiny.ipynb").read_bytes()
    edit(checkout, "seed + 1", "seed / 0")
    with pytest.raises(
        ChapterError, match=r"chapter 01_tiny, cell 6 \('seed / 0'\) raised ZeroDivisionError: div"
    ) as caught:
        run(checkout=checkout, progress=False)
    assert (checkout.book / "01_tiny.ipynb").read_bytes() == before
    draft = checkout.build / "running" / "01_tiny.ipynb"
    assert str(draft) in str(caught.value)
    assert "Traceback" in draft.read_text(encoding="utf-8")
    with pytest.raises(ChapterError, match="cell 6"):  # papermill's own cell is not counted
        smoke(checkout=checkout, progress=False)


def test_a_failing_chapter_does_not_keep_the_next_from_running(tmp_path):
    chapters = {"01_bad": code("1 / 0"), "02_worse": code("x"), "03_good": code("1 + 1")}
    checkout = make_checkout(tmp_path, chapters)
    with pytest.raises(ChapterError, match="01_bad.*\nchapter 02_worse.*NameError"):
        run(checkout=checkout, progress=False)
    assert [file.name for file in checkout.book.glob("*.ipynb")] == ["03_good.ipynb"]


def test_a_dead_kernel_is_told_of(tmp_path):
    text = code("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    checkout = make_checkout(tmp_path, {"01_dies": text})
    with pytest.raises(ChapterError, match="chapter 01_dies: its kernel died"):
        run(checkout=checkout, progress=False)
    assert list(checkout.book.glob("*.ipynb")) == []


def test_what_a_rerun_would_change_is_not_written(tmp_path):
    checkout = make_checkout(tmp_path, {"01_address": code("print(object())")})
    with pytest.raises(ChapterError, match="chapter 01_address ran, but: cell 2 shows a memory"):
        run(checkout=checkout, progress=False)
    assert list(checkout.book.glob("*.ipynb")) == []


def test_a_write_that_is_cut_short_leaves_the_notebook(checkout, monkeypatch):
    before = (checkout.book / "01_tiny.ipynb").read_bytes()
    edit(checkout, "Some prose", "Other prose")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mcbook.files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        sync(checkout=checkout)
    assert (checkout.book / "01_tiny.ipynb").read_bytes() == before
    assert sorted(os.listdir(checkout.book)) == ["01_tiny.ipynb", "src"]


def test_a_run_that_is_killed_leaves_the_notebook(checkout):
    before = (checkout.book / "01_tiny.ipynb").read_bytes()
    started = checkout.root / "started"
    edit(checkout, "seed + 1", f"open({str(started)!r}, 'w')\nimport time\ntime.sleep(60)")
    program = "import sys; from pathlib import Path; from mcbook.chapters import run; "
    program += "from mcbook.checkout import Checkout; "
    program += "run(checkout=Checkout(Path(sys.argv[1])), progress=False)"
    process = subprocess.Popen([sys.executable, "-c", program, str(checkout.root)])
    until = time.monotonic() + 60
    while not started.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert started.exists()
    assert (checkout.book / "01_tiny.ipynb").read_bytes() == before
    assert sorted(os.listdir(checkout.book)) == ["01_tiny.ipynb", "src"]


def test_sync_brings_prose_and_tags_and_keeps_outputs(checkout):
    outputs = [cell.get("outputs") for cell in read(checkout).cells]
    edit(checkout, "Some prose.", "Some better prose.")
    edit(checkout, "```{code-cell} ipython3\nseed", "```{code-cell} ipython3\n:tags: [a]\nseed")
    (sentence,) = check_sync(checkout=checkout)
    assert sentence.startswith("chapter 01_tiny: line ")
    assert "(chapters sync)" in sentence
    assert sync(checkout=checkout) == [checkout.book / "01_tiny.ipynb"]
    assert check_sync(checkout=checkout) == []
    assert sync(checkout=checkout) == []
    notebook = read(checkout)
    assert [cell.get("outputs") for cell in notebook.cells] == outputs
    assert "Some better prose." in notebook.cells[0].source
    assert notebook.cells[-1].metadata["tags"] == ["a"]


def test_new_prose_between_cells_is_synced(checkout):
    edit(checkout, "```{code-cell} ipython3\nprint", "New.\n\n```{code-cell} ipython3\nprint")
    sync(checkout=checkout)
    assert check_sync(checkout=checkout) == []
    assert [cell.source for cell in read(checkout).cells][3] == "New."


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("seed + 1", "seed + 2", r"the code of cell 6 of the text, 'seed \+ 2', is not .*cell 6"),
        ("seed = 0", "seed = 1", "the code of cell 3 of the text, 'scale = \"default\"'"),
        (
            "More prose.",
            "More prose.\n\n```{code-cell} ipython3\nprint(1)\n```\n",
            r"cell 6 of the text, 'print\(1\)'",
        ),
        (
            "```{code-cell} ipython3\nseed + 1\n```\n",
            "",
            "the text has 2 code cells, the notebook 3",
        ),
    ],
)
def test_sync_refuses_when_code_changed(checkout, before, after, found):
    was = (checkout.book / "01_tiny.ipynb").read_bytes()
    edit(checkout, before, after)
    with pytest.raises(ChapterError, match=f"{found}.*python -m mcbook chapters run 01_tiny"):
        sync(checkout=checkout)
    (sentence,) = check_sync(checkout=checkout)
    assert "(chapters run)" in sentence
    assert (checkout.book / "01_tiny.ipynb").read_bytes() == was


def test_a_notebook_edited_by_hand_is_noticed(checkout):
    file = checkout.book / "01_tiny.ipynb"
    file.write_text(file.read_text().replace('"execution_count": 4', '"execution_count": 9', 1))
    (sentence,) = check_sync(checkout=checkout)
    assert '"execution_count": 4' in sentence
    assert '"execution_count": 9' in sentence


def test_a_chapter_without_a_notebook_is_noticed(checkout):
    (checkout.book / "01_tiny.ipynb").unlink()
    (sentence,) = check_sync(checkout=checkout)
    assert "01_tiny.ipynb does not exist yet (chapters run)" in sentence


def test_a_damaged_notebook_is_named(checkout):
    (checkout.book / "01_tiny.ipynb").write_text('{"cells": [')
    with pytest.raises(DamagedFileError, match=r"01_tiny\.ipynb: expected a notebook"):
        check_sync(checkout=checkout)


def test_the_set_up_cell_is_filled_in_and_a_release_needs_no_run(checkout):
    (setup,) = [
        cell for cell in read(checkout).cells if "colab-setup" in cell.metadata.get("tags", ())
    ]
    assert f'%pip install -q "mcbook[book] @ git+{URL}@v9.8.7"' in setup.source
    assert '"google.colab" in sys.modules' in setup.source
    assert setup.outputs == []
    project = checkout.root / "pyproject.toml"
    project.write_text(project.read_text().replace("9.8.7", "9.9.0"))
    assert len(check_sync(checkout=checkout)) == 1
    sync(checkout=checkout)
    assert "@v9.9.0" in (checkout.book / "01_tiny.ipynb").read_text()


def test_code_in_the_set_up_cell_is_refused(checkout):
    edit(checkout, "remove-cell]\n", "remove-cell]\n%pip install mcbook\n")
    with pytest.raises(DamagedFileError, match=r"01_tiny\.md: expected cell 2, tagged colab-setup"):
        source_notebook(find_chapters((), checkout)[0])


def test_braces_in_a_folder_s_name_are_no_fields(tmp_path):
    checkout = make_checkout(tmp_path / "a{b}c", {"01_a": code("1 + 1")})
    (done,) = run(checkout=checkout, progress=False)
    assert done.file.is_file()


def test_a_bar_and_the_time_of_each_chapter_are_shown(checkout, capfd):
    run(checkout=checkout)
    shown = capfd.readouterr()
    assert "01_tiny:" in shown.err
    assert "/6" in shown.err
    assert f"s, {checkout.book / '01_tiny.ipynb'}" in shown.out


def test_the_chapter_given_is_not_changed(checkout, tmp_path):
    chapter = find_chapters((), checkout)[0]
    notebook = source_notebook(chapter)
    before = nbformat.writes(notebook)
    draft = tmp_path / "draft.ipynb"
    execute(notebook, "01_tiny", tmp_path, draft, {"seed": 2}, progress=False)
    assert nbformat.writes(notebook) == before
    assert not draft.exists()
    made = make(chapter, tmp_path / "a.ipynb", progress=False)
    assert made.file.read_bytes() == (checkout.book / "01_tiny.ipynb").read_bytes()
