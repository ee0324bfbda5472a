"""Chapters as Colab runs them: a wheel, ipywidgets 7, an empty folder, no checkout in sight."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat

from mcbook.chapters import Chapter, source_notebook

if TYPE_CHECKING:
    from tests.book.background import Background

__all__ = ["Colab", "ColabRun", "colab_environment", "colab_run", "hosted", "start_colab_run"]

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
PROGRAM = (
    "import sys, nbformat; from nbclient import NotebookClient; "
    "from jupyter_client.kernelspec import KernelSpec; "
    "from jupyter_client import AsyncKernelManager as M; "
    "argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']; "
    "T = type('T', (M,), {'kernel_spec': KernelSpec(argv=argv, language='python')}); "
    "n = nbformat.read(sys.argv[1], as_version=4); "
    "NotebookClient(n, kernel_manager_class=T, timeout=300).execute(); "
    "nbformat.write(n, sys.argv[2])"
)


@dataclass(frozen=True)
class Colab:
    """A Python as Colab has it.

    Attributes:
        wheel: the package, built from a copy of it.
        python: has the wheel and ipywidgets 7, and everything else of this environment.
    """

    wheel: Path
    python: Path


@dataclass(frozen=True)
class ColabRun:
    """A chapter that ran to its end, at smoke scale.

    Attributes:
        file: the executed notebook, as nbclient leaves it.
        asked: what `%pip` was asked for, line by line.
    """

    file: Path
    asked: list[str]


def colab_environment(background: Background, root: Path) -> Colab:
    """The Python of the checkout `root`, made once."""
    background.start("colab", _make, background, root)
    return background.get("colab")


def start_colab_run(background: Background, chapter: Chapter) -> None:
    """Queue a chapter's run; queued once only."""
    background.start("colab", _make, background, chapter.checkout.root)
    background.start(f"colab {chapter.name}", _run, background, chapter)


def colab_run(background: Background, chapter: Chapter) -> ColabRun:
    """A chapter's run, once it is over; fails when the run failed."""
    start_colab_run(background, chapter)
    return background.get(f"colab {chapter.name}")


def hosted(folder: Path) -> dict[str, str]:
    """The environment variables of a kernel there, whose settings are in `folder`."""
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


def _make(background: Background, root: Path) -> Colab:
    folder = background.folder / "colab"
    # setuptools leaves build/ and egg-info where it builds, and takes what an
    # earlier build left there for its own: never in the checkout.
    copy = folder / "source"
    copy.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(root / name, copy / name)
    shutil.copytree(root / "mcbook", copy / "mcbook")
    background.call(
        *(sys.executable, "-m", "pip", "wheel", copy, "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", folder, "--quiet", "--disable-pip-version-check"),
    )
    (wheel,) = folder.glob("mcbook-*.whl")
    place = folder / "venv"
    venv.create(place, with_pip=False)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    own = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    # A plain path in a .pth comes after the environment's own packages, and the .pth files of that
    # folder, the editable installation's among them, are not looked at.
    (own / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    background.call(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet"),
        *("--disable-pip-version-check", "--no-deps", "--force-reinstall"),
        *(wheel, "ipywidgets<8", "ipython_genutils"),
    )
    return Colab(wheel, python)


def _run(background: Background, chapter: Chapter) -> ColabRun:
    colab = background.get("colab")  # queued before, so it is done or under way
    folder = background.folder / "colab" / chapter.name
    empty = folder / "content"
    empty.mkdir(parents=True)
    notebook = source_notebook(chapter)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += '\nscale = "smoke"'
    nbformat.write(notebook, folder / "chapter.ipynb")
    done = folder / "done.ipynb"
    background.call(
        *(colab.python, "-c", PROGRAM, folder / "chapter.ipynb", done),
        cwd=empty,
        env=hosted(folder),
    )
    asked = folder / "asked.txt"
    return ColabRun(done, asked.read_text().splitlines() if asked.exists() else [])
