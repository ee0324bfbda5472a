"""Every chapter as Colab runs it, and the wheel it runs from."""

import json
import re
import subprocess
import zipfile
from pathlib import Path

import nbformat
import pytest

from mcbook.canonical import canonical
from mcbook.chapters import find_chapters, source_notebook
from tests.book.colab import colab_environment, hosted
from tests.book.comparing import code_cells, compare_runs

CHAPTERS = find_chapters()
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)


@pytest.fixture(scope="module")
def colab(background, root):
    return colab_environment(background, root)


def test_the_wheel_carries_everything_the_package_reads(colab, root):
    there = set(zipfile.ZipFile(colab.wheel).namelist())
    wanted = {
        file.relative_to(root).as_posix()
        for file in (root / "mcbook").rglob("*")
        if file.suffix in {".py", ".js", ".css", ".json", ".typed"}
    }
    assert wanted <= there
    assert any(name.endswith(".js") for name in there)
    assert not any(name.startswith(("tests", "book", "study")) for name in there)


def test_the_environment_is_that_of_colab(colab, tmp_path):
    program = "import json, mcbook, ipywidgets, torch; "
    program += "from mcbook.checkout import package_checkout; print(json.dumps(["
    program += "mcbook.__file__, ipywidgets.__version__, torch.__file__, str(package_checkout())]))"
    answer = subprocess.run(
        [colab.python, "-c", program],
        cwd=tmp_path,
        env=hosted(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    package, widgets, torch, checkout = json.loads(answer)
    assert Path(package).is_relative_to(colab.python.parents[1])
    assert int(widgets.split(".")[0]) == 7
    assert not Path(torch).is_relative_to(colab.python.parents[1])
    assert checkout == "None"


@each_chapter
def test_the_set_up_cell_asks_for_the_tag_of_this_version(chapter):
    (cell,) = [
        one
        for one in source_notebook(chapter).cells
        if "colab-setup" in one.metadata.get("tags", ())
    ]
    url, version = chapter.checkout.repository_url(), chapter.checkout.version()
    asked = re.findall(r'%pip install -q "(.*)"', cell.source)
    assert asked == [f"mcbook[book] @ git+{url}@v{version}"]


@each_chapter
def test_the_chapter_runs_to_its_end_from_an_empty_folder(chapter, on_colab):
    run = on_colab(chapter)
    url, version = chapter.checkout.repository_url(), chapter.checkout.version()
    assert run.asked == [f'install -q "mcbook[book] @ git+{url}@v{version}"']
    outputs = [
        output
        for cell in nbformat.read(run.file, as_version=4).cells
        for output in cell.get("outputs", ())
    ]
    assert outputs
    assert not any(output.output_type == "error" for output in outputs)


@each_chapter
def test_smoke_gives_the_same_outputs_again(chapter, chapter_runs, on_colab):
    # Another process, another folder and another installation: what is left to
    # chance, or to the place, would come out differently.
    again = canonical(nbformat.read(on_colab(chapter).file, as_version=4))
    first = chapter_runs(chapter)["smoke"].notebook()
    apart = ("colab-setup", "parameters", "injected-parameters")
    cells = code_cells(first, apart)
    found = compare_runs(code_cells(again, apart), cells, everything=True)
    assert not found.differences, "\n".join(found.differences)
    assert found.compared >= 3
