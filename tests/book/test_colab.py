"""Every chapter as Colab runs it: a wheel, ipywidgets 7, an empty folder, no checkout in sight."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest

from mcbook.chapters import find_chapters, source_notebook

CHAPTERS = find_chapters()
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)

# Runs in every kernel before the first cell: google.colab is loaded, as on
# Colab, and %pip writes down what it is asked for instead of doing it.
STARTUP = """\
import os, sys, types
from IPython.core.magic import register_line_magic

google, colab = types.ModuleType("google"), types.ModuleType("google.colab")
output = types.ModuleType("google.colab.output")
output.enable_custom_widget_manager = lambda: None
output._widgets = types.SimpleNamespace(_installed_url="https://example.org/manager")
google.colab, colab.output = colab, output
sys.modules.update({
    "google": google, "google.colab": colab, "google.colab.output": output,
})

@register_line_magic
def pip(line):
    with open(os.environ["ASKED"], "a") as stream:
        print(line, file=stream)
"""


def call(*command, **options):
    done = subprocess.run(
        [str(one) for one in command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, plain[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the package."""
    folder = tmp_path_factory.mktemp("wheel")
    root = CHAPTERS[0].checkout.root
    # setuptools leaves build/ and egg-info where it builds, and takes what an
    # earlier build left there for its own: never in the checkout.
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(root / name, copy / name)
    shutil.copytree(root / "mcbook", copy / "mcbook")
    call(
        *(sys.executable, "-m", "pip", "wheel", copy, "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", folder, "--quiet", "--disable-pip-version-check"),
    )
    (file,) = folder.glob("mcbook-*.whl")
    return file


@pytest.fixture(scope="module")
def colab(wheel, tmp_path_factory):
    """A Python that has the wheel and ipywidgets 7, and everything else of this environment."""
    place = tmp_path_factory.mktemp("colab") / "venv"
    venv.create(place, with_pip=False)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    ours = sysconfig.get_path("purelib")
    # A plain path in a .pth comes after the environment's own packages, and the .pth files of that
    # folder, the editable installation's among them, are not looked at.
    (own / "ours.pth").write_text(ours + "\n")
    call(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
        *("--disable-pip-version-check", "--no-deps", "--force-reinstall"),
        *(wheel, "ipywidgets<8", "ipython_genutils"),
    )
    return python


def environment(folder):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    profile = folder / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True)
    (profile / "00-colab.py").write_text(STARTUP)
    return kept | {
        "IPYTHONDIR": str(folder / "ipython"),
        "ASKED": str(folder / "asked.txt"),
        "MCBOOK_PROGRESS": "0",
        "OMP_NUM_THREADS": "1",
    }


def test_the_wheel_carries_everything_the_package_reads(wheel):
    root = CHAPTERS[0].checkout.root
    there = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        file.relative_to(root).as_posix()
        for file in (root / "mcbook").rglob("*")
        if file.suffix in {".py", ".js", ".css", ".json", ".typed"}
    }
    assert wanted <= there
    assert any(name.endswith(".js") for name in there)
    assert not any(name.startswith(("tests", "book", "study")) for name in there)


def test_the_environment_is_that_of_colab(colab, wheel, tmp_path):
    program = "import json, mcbook, ipywidgets, torch; "
    program += "from mcbook.checkout import package_checkout; print(json.dumps(["
    program += "mcbook.__file__, ipywidgets.__version__, torch.__file__, str(package_checkout())]))"
    answer = call(colab, "-c", program, cwd=tmp_path, env=environment(tmp_path))
    package, widgets, torch, checkout = json.loads(answer)
    assert Path(package).is_relative_to(colab.parents[1])
    assert int(widgets.split(".")[0]) == 7
    assert not Path(torch).is_relative_to(colab.parents[1])
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
def test_the_chapter_runs_to_its_end_from_an_empty_folder(chapter, colab, tmp_path):
    empty = tmp_path / "content"
    empty.mkdir()
    notebook = source_notebook(chapter)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += '\nscale = "smoke"'
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    program = (
        "import sys, nbformat; from nbclient import NotebookClient; "
        "from jupyter_client.kernelspec import KernelSpec; "
        "from jupyter_client import AsyncKernelManager as M; "
        "argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']; "
        "T = type('T', (M,), {'kernel_spec': KernelSpec(argv=argv, language='python')}); "
        "n = nbformat.read(sys.argv[1], as_version=4); "
        "NotebookClient(n, kernel_manager_class=T, timeout=120).execute(); "
        "nbformat.write(n, sys.argv[2])"
    )
    done = tmp_path / "done.ipynb"
    call(
        *(colab, "-c", program, tmp_path / "chapter.ipynb", done),
        cwd=empty,
        env=environment(tmp_path),
    )
    asked = (tmp_path / "asked.txt").read_text().splitlines()
    url, version = chapter.checkout.repository_url(), chapter.checkout.version()
    assert asked == [f'install -q "mcbook[book] @ git+{url}@v{version}"']
    outputs = [
        output
        for cell in nbformat.read(done, as_version=4).cells
        for output in cell.get("outputs", ())
    ]
    assert outputs
    assert not any(output.output_type == "error" for output in outputs)
