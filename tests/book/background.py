"""Work done beside the tests: a few commands at a time, at low priority."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["Background", "CommandError"]


class CommandError(RuntimeError):
    """A command failed, or took too long; the message has the end of what it said."""


class Background:
    """Jobs that run in threads of their own, and the commands that they wait for.

    Args:
        workers: how many jobs run at a time.

    Attributes:
        folder: for what the jobs write; removed at the end.
    """

    def __init__(self, workers: int = 2) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mcbook-tests-"))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="background")
        self._jobs: dict[str, Future[Any]] = {}
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __contains__(self, name: str) -> bool:
        return name in self._jobs

    def start(self, name: str, job: Callable[..., Any], *arguments: Any) -> None:
        """Queue a job; one of that name is queued once.

        Args:
            name: to ask for its result by.
            job: what to call.
            *arguments: with what.
        """
        if name not in self._jobs:
            self._jobs[name] = self._pool.submit(job, *arguments)

    def get(self, name: str) -> Any:
        """The result of a job, once it is there; what it raised is raised again."""
        return self._jobs[name].result()

    def call(self, *command: object, seconds: float = 1200, **options: Any) -> str:
        """Run a command to its end, giving way to the tests themselves.

        Args:
            *command: the program and its arguments.
            seconds: after which it is killed, on a clock.
            **options: for `subprocess.Popen`.

        Returns:
            What it wrote to its standard output.

        Raises:
            CommandError: it failed, or was killed.
        """
        words = [str(word) for word in command]
        # A group of its own, to be killed by; of the same session, for schedulers that share by
        # sessions and would not see the priority of another one.
        group = {"process_group": 0} if os.name == "posix" else {}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self._lock:
            if self._closed:
                raise CommandError(f"{words[0]}: not started, the tests are over")
            process = subprocess.Popen(words, text=True, **group, **pipes, **options)
            self._running.add(process)
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, process.pid, 10)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            out, err = process.communicate()
            raise CommandError(f"killed after {seconds:g} seconds:\n{_end(out + err)}") from None
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0:
            raise CommandError(f"ended with {process.returncode}:\n{_end(out + err)}")
        return out

    def close(self) -> None:
        """Forget the jobs that wait, kill the commands that run, remove the folder."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            _kill(process)
        self._pool.shutdown(wait=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a command and what it started; a kernel ends by itself when its parent is gone."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass  # it has just ended


def _end(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)[-3000:]
