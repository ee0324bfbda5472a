"""What takes long is made once and shared: every chapter's runs, and the site made of them.

The chapters the selected tests ask for are executed in the background from the first test on,
and the tests that look at them come last: by then they are ready, or nearly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcbook.building import chapter_entry, write_status
from mcbook.chapters import Chapter, find_chapters
from mcbook.checkout import find_checkout
from mcbook.site import build_site
from tests.book.background import Background
from tests.book.chapter_runs import Execution, executions, start_execution
from tests.book.colab import ColabRun, colab_run, start_colab_run

BACKGROUND = pytest.StashKey[Background]()
# what starts the work that a fixture gives the results of
STARTS = {"chapter_runs": start_execution, "on_colab": start_colab_run}


def in_background(config: pytest.Config) -> Background:
    """The work of this session."""
    if BACKGROUND not in config.stash:
        config.stash[BACKGROUND] = Background()
    return config.stash[BACKGROUND]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that wait for the chapters behind all others, whose order stays."""
    waiting = {*STARTS, "background", "site"}
    items.sort(key=lambda item: bool(waiting & set(getattr(item, "fixturenames", ()))))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what the selected tests are going to ask for."""
    if session.config.option.collectonly:
        return
    for fixture, start in STARTS.items():
        for item in session.items:
            parameters = getattr(getattr(item, "callspec", None), "params", {})
            if fixture in getattr(item, "fixturenames", ()) and "chapter" in parameters:
                start(in_background(session.config), parameters["chapter"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing running and nothing lying about."""
    if BACKGROUND in session.config.stash:
        session.config.stash[BACKGROUND].close()
        del session.config.stash[BACKGROUND]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return find_checkout().root


@pytest.fixture(scope="session")
def background(pytestconfig: pytest.Config) -> Background:
    """What runs beside the tests."""
    return in_background(pytestconfig)


@pytest.fixture(scope="session")
def chapter_runs(background: Background) -> Callable[[Chapter], dict[str, Execution]]:
    """A chapter's runs by scale, each made once."""
    return lambda chapter: executions(background, chapter)


@pytest.fixture(scope="session")
def on_colab(background: Background) -> Callable[[Chapter], ColabRun]:
    """A chapter's run as on Colab, made once."""
    return lambda chapter: colab_run(background, chapter)


@pytest.fixture(scope="session")
def site(root: Path, background: Background, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site; a warning fails it.

    It shows this session's runs at default scale. Where a chapter has none, because it failed or
    because no selected test asks for it, the site shows it as committed.
    """
    folder = tmp_path_factory.mktemp("site")
    fresh = folder / "executed"
    fresh.mkdir()
    entries = []
    for chapter in find_chapters():
        if f"execute {chapter.name}" not in background:
            continue
        run = executions(background, chapter)["default"]
        facts = {"seconds": run.seconds, "ok": run.error is None, "error": run.error}
        if run.error is None:
            (fresh / chapter.notebook.name).write_bytes(run.file.read_bytes())
        shown = run.file if run.error is None else None
        entries.append(chapter_entry(chapter, shown, **facts))
    if entries:
        write_status(fresh, "default", entries)
    return build_site(root, folder / "html", fresh if entries else None, quiet=True).parent
