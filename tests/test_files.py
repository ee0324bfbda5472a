from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcbook import files
from mcbook.files import write_atomic

# a child that has only the one file of the package: no torch, so it starts at once
_CHILD = f"""
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("files", {files.__file__!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
"""


def test_bytes_and_text_are_written_and_the_path_comes_back(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / "a", b"\x00\xff") == tmp_path / "a"
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    write_atomic(str(tmp_path / "b"), "π\n")
    assert (tmp_path / "b").read_bytes() == "π\n".encode()


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x" / "y" / "z", "here")
    assert (tmp_path / "x" / "y" / "z").read_text() == "here"


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_the_last_content_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    file = tmp_path_factory.mktemp("files") / "f"
    for content in contents:
        write_atomic(file, content)
    assert file.read_bytes() == contents[-1]
    assert os.listdir(file.parent) == ["f"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    file = tmp_path / "f"
    write_atomic(file, "old")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_before_the_end_leaves_the_old_file(tmp_path: Path, moment: str) -> None:
    file = tmp_path / "f"
    file.write_text("old")
    kill = f"os.{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    child = _CHILD + kill + "files.write_atomic(sys.argv[1], 'new' * 100)\n"
    done = subprocess.run([sys.executable, "-S", "-c", child, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.read_text() == "old"


def test_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    file, size = tmp_path / "f", 300_000
    write = "files.write_atomic(sys.argv[1], letter * int(sys.argv[2]))"
    child = _CHILD + f"while True:\n    for letter in 'ab':\n        {write}\n"
    for delay in (0.0, 0.003, 0.007):
        file.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-S", "-c", child, str(file), str(size)])
        while not file.exists():
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert file.read_bytes() in (b"a" * size, b"b" * size)
