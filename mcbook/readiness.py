"""Is this machine ready: versions, device, data, and what the tests need."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata

import torch

from .checkout import package_checkout
from .provenance import cpu_model, device_name, package_version

__all__ = ["Finding", "check_machine", "find_browser"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        state: "ok", "note" (works without) or "missing".
        text: what was found.
    """

    state: str
    text: str

    def __str__(self) -> str:
        """The line to print."""
        return f"{ {'ok': '✓', 'note': '–', 'missing': '✗'}[self.state] } {self.text}"


def find_browser() -> str | None:
    """The installed Chromium or Chrome, or None."""
    found = (shutil.which(name) for name in BROWSERS)
    return next((path for path in found if path), None)


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version, as far as they are numbers: 2.4.1+cpu gives 2, 4, 1."""
    release = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(map(int, release.group().split("."))) if release else ()


def _requirements() -> list[tuple[str, str, str]]:
    """Each requirement of the package: its name, its lower bound, and the extra it is for."""
    found: list[tuple[str, str, str]] = []
    try:
        lines = metadata.requires("mcbook") or []
    except metadata.PackageNotFoundError:  # on the path, but not installed
        return found
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement)
        bound = re.search(r">=\s*([0-9.]+)", requirement)
        extra = re.search(r"""extra\s*==\s*["'](\w+)["']""", marker)
        if name and all(name[0] != earlier for earlier, _, _ in found):
            found.append((name[0], bound[1] if bound else "0", extra[1] if extra else ""))
    return found


def _packages() -> list[Finding]:
    # `models` holds other libraries' architectures, asked for only when used.
    needed = {"": "ok", "book": "ok", "site": "ok" if package_checkout() else "note"}
    purpose = {"": "computing", "book": "the chapters", "site": "building the book"}
    found = []
    for name, bound, extra in _requirements():
        state = "missing" if needed.get(extra) == "ok" else "note"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            for_what = purpose.get(extra, f"the extra {extra!r}")
            found.append(Finding(state, f"{name}: not installed ({bound} or later, {for_what})"))
            continue
        old = _numbers(version) < _numbers(bound)
        found.append(Finding(state if old else "ok", f"{name} {version} ({bound} or later)"))
    return found


def _datasets() -> list[Finding]:
    from .archives import data_root
    from .data import list_data

    root = data_root(None)
    found = []
    for name in list_data():
        file = root / f"{name}.npz"
        if name == "digits":
            found.append(Finding("ok", "data digits: inside scikit-learn"))
        elif file.is_file():
            found.append(Finding("ok", f"data {name}: {file}"))
        else:
            how = "loaded from the network when first used, or put there"
            found.append(Finding("note", f"data {name}: not in {file} ({how})"))
    return found


def check_machine() -> list[Finding]:
    """Look at everything that running, building and testing the book needs.

    Returns:
        A finding for each; the machine is ready when none is "missing".
    """
    enough = sys.version_info >= (3, 11)
    checkout = package_checkout()
    cuda = torch.cuda.is_available()
    where = f"checkout {checkout.root}" if checkout else "installed apart from a checkout"
    device = f"device: {device_name()}" + ("" if cuda else " (enough; a GPU helps at full scale)")
    browser = find_browser()
    return [
        Finding(
            "ok" if enough else "missing", f"python {platform.python_version()} (3.11 or later)"
        ),
        Finding("ok" if checkout else "note", f"mcbook {package_version()}, {where}"),
        *_packages(),
        Finding("ok", device),
        Finding("ok", f"processor: {cpu_model()}, torch uses {torch.get_num_threads()} threads"),
        *_datasets(),
        Finding("ok", f"browser for the tests: {browser}")
        if browser
        else Finding("note", "browser for the tests: no Chromium or Chrome found"),
    ]
