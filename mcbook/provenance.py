"""What ran where: the facts that a record carries besides its numbers."""

from __future__ import annotations

import datetime
import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checkout import package_checkout

__all__ = ["cpu_model", "device_name", "machine", "package_version", "provenance"]


def package_version() -> str:
    """The version of mcbook that is running: the checkout's, else the installed one's."""
    checkout = package_checkout()
    return checkout.version() if checkout else metadata.version("mcbook")


@functools.cache
def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    try:
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        asked = None
    named = asked.stdout.strip() if asked is not None and asked.returncode == 0 else ""
    return named or platform.processor() or platform.machine()


def device_name() -> str:
    """The accelerator's name, or "cpu" where torch sees none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def machine() -> dict[str, Any]:
    """The versions and the hardware of this run.

    Returns:
        A dictionary with the keys python, torch, numpy, platform, cpu,
        threads and device.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "device": device_name(),
    }


def provenance() -> dict[str, Any]:
    """Everything about this run that needs no telling by the caller.

    Returns:
        `machine()`, with the keys created (UTC date), package (mcbook's
        version) and commit (None outside a git checkout) before it.
    """
    checkout = package_checkout()
    return {
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "package": package_version(),
        "commit": checkout.commit() if checkout else None,
        **machine(),
    }
