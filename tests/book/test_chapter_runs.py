"""What runs beside the tests: each chapter once, failures told, nothing left behind."""

import os
import sys
import time
from types import SimpleNamespace

import pytest
from tiny_book import CHAPTER, code, make_checkout

from mcbook.chapters import find_chapters
from tests.book.background import Background, CommandError
from tests.book.chapter_runs import executions, start_execution
from tests.book.comparing import code_cells

COUNTED = "file = open('../count.txt', 'a')\n_ = file.write('x')\nfile.close()"
SMOKE_ONLY = code('scale = "default"\nseed = 0', "1 / (scale == 'smoke')").replace(
    "ipython3\nscale", "ipython3\n:tags: [parameters]\nscale"
)


@pytest.fixture
def beside():
    """A background of the test's own."""
    made = Background()
    yield made
    made.close()


def test_each_chapter_runs_once_at_each_scale_and_failures_are_told(tmp_path, beside):
    counted = CHAPTER.replace("seed + 1", f"{COUNTED}\nseed + 1")
    checkout = make_checkout(tmp_path, {"01_half": SMOKE_ONLY, "02_counted": counted})
    half, good = find_chapters((), checkout)
    for chapter in (half, good, good):
        start_execution(beside, chapter)
    # a failure at one scale, and of one chapter, keeps no other run from its end
    found = executions(beside, half)
    assert found["smoke"].error is None
    with pytest.raises(AssertionError, match="01_half, cell 3 .* raised ZeroDivisionError"):
        found["default"].notebook()
    first = executions(beside, good)
    assert executions(beside, good) == first
    assert (tmp_path / "count.txt").read_text() == "xx"
    assert set(first) == {"smoke", "default"}
    for scale, run in first.items():
        assert run.error is None
        assert run.seconds > 0
        assert run.processor_seconds > 0
        shown = str([cell.outputs for cell in code_cells(run.notebook())])
        assert f"at scale {scale}" in shown
    assert not list(checkout.book.glob("*.ipynb"))


def test_tests_that_wait_for_chapters_come_last(request):
    (hooks,) = [
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "STARTS", None) and hasattr(plugin, "pytest_collection_modifyitems")
    ]
    fixtures = {"a": ["chapter_runs"], "b": ["tmp_path"], "c": ["site"], "d": [], "e": ["on_colab"]}
    items = [SimpleNamespace(name=name, fixturenames=used) for name, used in fixtures.items()]
    hooks.pytest_collection_modifyitems(items)
    assert "".join(item.name for item in items) == "bdace"


def test_what_a_command_says_and_how_it_ends(beside):
    assert beside.call(sys.executable, "-c", "print(1)") == "1\n"
    with pytest.raises(CommandError, match="(?s)ended with 3:.*what went wrong"):
        beside.call(sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)")
    with pytest.raises(CommandError, match="(?s)killed after 1 seconds.*begun"):
        beside.call(
            *(sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"),
            seconds=1,
        )


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no priorities here")
def test_commands_give_way_to_the_tests(beside):
    program = "import os, time; time.sleep(0.5); print(os.getpriority(os.PRIO_PROCESS, 0))"
    assert int(beside.call(sys.executable, "-c", program)) >= 10


def test_a_job_is_queued_once_and_its_error_raised_whenever_asked(beside):
    beside.start("a", int, "1")
    beside.start("a", int, "2")
    assert "a" in beside
    assert "b" not in beside
    assert beside.get("a") == 1
    beside.start("b", int, "x")
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            beside.get("b")


def test_the_end_kills_what_runs_and_forgets_what_waits(tmp_path):
    started, late = tmp_path / "started", tmp_path / "late"
    program = f"import time; open({str(started)!r}, 'w'); time.sleep(60); open({str(late)!r}, 'w')"
    one = Background(workers=1)
    one.start("first", one.call, sys.executable, "-c", program)
    one.start("second", one.call, sys.executable, "-c", f"open({str(late)!r}, 'w')")
    until = time.monotonic() + 30
    while not started.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert started.exists()
    (one.folder / "something").write_text("")
    begun = time.monotonic()
    one.close()
    assert time.monotonic() - begun < 30
    assert not late.exists()
    assert not one.folder.exists()
    with pytest.raises(CommandError, match="ended with"):
        one.get("first")


def test_a_run_that_is_killed_is_told_of(tmp_path, beside, monkeypatch):
    def killed(*_, **__):
        raise CommandError("killed after 5 seconds:")

    (chapter,) = find_chapters((), make_checkout(tmp_path))
    monkeypatch.setattr(beside, "call", killed)
    for run in executions(beside, chapter).values():
        with pytest.raises(AssertionError, match="chapter 01_tiny: killed after 5 seconds"):
            run.notebook()
