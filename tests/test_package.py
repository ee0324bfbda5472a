from __future__ import annotations

import inspect
import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import mcbook as mc

HEAVY = ("matplotlib", "ipywidgets", "sklearn", "torchvision", "anywidget", "IPython",
         "jupyter_core", "timm", "nbformat", "jupytext", "papermill", "sphinx")  # fmt: skip
ROOT = Path(mc.__file__).parents[1]

# what the first slice promises by name
CONTRACT = [
    "load_data",
    "build_model",
    "list_models",
    "train",
    "spawn",
    "LinearPath",
    "load_path",
    "profile",
    "verdict",
    "save_model",
    "load_model",
    "save_record",
    "load_record",
    "PathSlider",
    "NetworkSlider",
    "models",
    "trace_symmetry",
    "permute",
    "Permutation",
    "PermutationSpec",
    "plot_symmetry",
    "weight_matching",
    "activation_matching",
    "straight_through",
    "match_many",
    "singular_alignment",
    "repair",
]


def child(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **env}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_is_quick_pulls_in_nothing_heavy_and_needs_no_network() -> None:
    code = f"""
import socket, sys, time
def refuse(*args, **kwargs):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
start = time.process_time()
import torch, numpy, pandas, safetensors
between = time.process_time()
import mcbook
end = time.process_time()
print(end - between, end - start, [m for m in {HEAVY!r} if m in sys.modules])
"""
    own, whole, heavy = child(code).split(maxsplit=2)
    assert heavy == "[]"
    # a ratio, since machines differ: what it needs takes longer than it does itself
    assert float(own) < float(whole) / 2


@pytest.mark.parametrize("name", mc.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    thing = getattr(mc, name)
    assert inspect.getdoc(thing), name


def test_the_contract_is_kept_and_the_list_is_sorted() -> None:
    assert set(CONTRACT) <= set(mc.__all__)
    # as ruff sorts them: names in capitals first
    assert list(mc.__all__) == sorted(mc.__all__, key=lambda name: (not name.isupper(), name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'BezierPath2'"):
        mc.BezierPath2  # noqa: B018


def core() -> list[ModuleType]:
    names = [m.name for m in pkgutil.iter_modules(mc.__path__) if m.name not in ("__main__", "viz")]
    for part in ("models", "paths", "alignment", "analysis", "symmetry", "symmetry/rules"):
        folder = str(Path(mc.__file__).parent / part)
        names += [f"{part.replace('/', '.')}.{m.name}" for m in pkgutil.iter_modules([folder])]
    return [sys.modules[f"mcbook.{n}"] for n in names if f"mcbook.{n}" in sys.modules]


@pytest.mark.parametrize("module", core(), ids=lambda m: m.__name__)
def test_every_public_function_class_and_method_is_explained(module: ModuleType) -> None:
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if inspect.isclass(thing):
            assert thing.__doc__, name
            for key, method in vars(thing).items():
                if inspect.isfunction(method) and not key.startswith("_"):
                    assert inspect.getdoc(getattr(thing, key)), f"{name}.{key}"
        elif inspect.isfunction(thing):
            assert thing.__doc__, name


def test_no_module_is_long() -> None:
    for file in (ROOT / "mcbook").rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file


def test_what_importing_needs_is_what_the_package_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {d.split(">")[0].split("=")[0] for d in project["dependencies"]}
    assert names == {"torch", "numpy", "scipy", "pandas", "safetensors"}
