from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mcbook as mc
from mcbook.models import library

# what a torchvision built for CUDA does beside a torch without it
_REFUSING = """
import torch
try:
    torch.ops.torchvision.nms
except AttributeError:
    raise RuntimeError("operator torchvision::nms does not exist")
loaded = True
"""


def test_an_unknown_library_offers_the_close_names() -> None:
    with pytest.raises(mc.UnknownNameError, match=r"unknown library 'torchvison'.*'torchvision'"):
        library("torchvison")


def test_a_library_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, package in (("torchvision", "torchvision"), ("vit_pytorch", "vit-pytorch")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
            library(name)


def test_torchvision_is_imported_here() -> None:
    assert library("torchvision").datasets.MNIST.__name__ == "MNIST"


def test_one_that_misses_its_operators_is_imported_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(_REFUSING)
    child = "from mcbook.models import library; print(library('torchvision').loaded)"
    root = str(Path(mc.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", child],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "True"
