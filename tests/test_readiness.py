import re

import pytest

import mcbook.readiness
from mcbook.readiness import check_machine, find_browser


def texts(state=None):
    return [one.text for one in check_machine() if state in (None, one.state)]


def test_this_machine_is_ready():
    assert texts("missing") == []
    found = "\n".join(map(str, check_machine()))
    for pattern in (r"✓ python 3\.\d+", r"✓ torch \S+ \(2\.4 or later\)", r"✓ data digits"):
        assert re.search(pattern, found)
    assert "device: " in found
    assert re.search(r"torch uses \d+ threads", found)


def test_each_requirement_stands_there_once_with_its_lower_bound():
    found = mcbook.readiness._requirements()
    names = [name for name, _, _ in found]
    assert len(set(names)) == len(names)
    assert ("torch", "2.4", "") in found
    assert ("jupyter-book", "1.0.4", "site") in found
    assert ("torchvision", "0.19", "book") in found


def test_an_old_or_absent_package_is_missing(monkeypatch):
    def version(name):
        if name == "anywidget":
            raise mcbook.readiness.metadata.PackageNotFoundError(name)
        return "1.9.9" if name == "pandas" else "99.0+cpu"

    monkeypatch.setattr(mcbook.readiness.metadata, "version", version)
    missing = texts("missing")
    assert "anywidget: not installed (0.9.13 or later, the chapters)" in missing
    assert "pandas 1.9.9 (2.2 or later)" in missing
    assert len(missing) == 2


def test_data_sets_are_looked_for_in_their_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MCBOOK_DATA", str(tmp_path))
    (tmp_path / "mnist.npz").touch()
    found = texts()
    assert f"data mnist: {tmp_path / 'mnist.npz'}" in found
    assert any(one.startswith("data cifar10: not in") for one in found)


def test_a_missing_browser_is_a_note(monkeypatch):
    monkeypatch.setattr(mcbook.readiness.shutil, "which", lambda name: None)
    assert find_browser() is None
    assert any("no Chromium" in one for one in texts("note"))


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.4.1+cpu", (2, 4, 1)), ("1.0.4.post1", (1, 0, 4)), ("dev", ())]
)
def test_versions_are_compared_by_their_numbers(version, numbers):
    assert mcbook.readiness._numbers(version) == numbers
