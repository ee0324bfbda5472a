from __future__ import annotations

from pathlib import Path as File

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import mcbook as mc
from mcbook import saving
from mcbook.paths import Path, base


@pytest.fixture(autouse=True)
def own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds registered here are forgotten."""
    monkeypatch.setattr(Path, "_kinds", dict(Path._kinds))


def own(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 10))


def quadratic() -> type[Path]:
    """A curve with one bend, as a later method would add it."""

    class Quadratic(Path, kind="quadratic"):
        def coefficients(self, t: float) -> Tensor:
            return torch.tensor([(1 - t) ** 2, 2 * t * (1 - t), t**2], dtype=torch.float64)

        def coefficient_velocities(self, t: float) -> Tensor:
            return torch.tensor([2 * t - 2, 2 - 4 * t, 2 * t], dtype=torch.float64)

    return Quadratic


def points(count: int = 3) -> dict[str, Tensor]:
    models = [own(s).state_dict() for s in range(count)]
    return {
        name: torch.stack([m[name] for m in models])
        for name, x in models[0].items()
        if x.is_floating_point()
    }


def test_a_new_kind_of_path_works_by_its_coefficients(tmp_path: File) -> None:
    path = quadratic()(own(0), points(), knots=(0, 0.5, 1))
    assert path.knots == (0.0, 0.5, 1.0)
    for i, t in ((0, 0.0), (2, 1.0)):
        assert all(torch.equal(path.at(t)[n], p[i]) for n, p in path.control_points.items())
    for name, p in path.control_points.items():
        torch.testing.assert_close(path.at(0.25)[name], (9 * p[0] + 6 * p[1] + p[2]) / 16)
        torch.testing.assert_close(path.velocity(0.5)[name], p[2] - p[0])
    path.save(tmp_path / "curve")
    loaded = mc.load_path(tmp_path / "curve", model=own(7))
    assert loaded.kind == "quadratic"
    assert loaded.knots == path.knots
    assert all(torch.equal(x, path.at(0.3)[n]) for n, x in loaded.at(0.3).items())


@pytest.mark.parametrize("knots", [(0.0, 0.5), (0.1, 1.0), (0.0, 0.5, 0.5, 1.0), (0.0, 2.0, 1.0)])
def test_knots_that_do_not_run_from_0_to_1_are_refused(knots: tuple) -> None:
    with pytest.raises(ValueError, match="increasing knots from 0 to 1, found"):
        quadratic()(own(0), points(), knots)


def test_control_points_that_do_not_fit_are_refused() -> None:
    kind = quadratic()
    missing = points()
    del missing["3.bias"]
    with pytest.raises(mc.IncompatibleError, match=r"3\.bias \[10\] of A is not in B"):
        kind(own(0), missing)
    wrong = {**points(), "1.bias": torch.zeros(3, 5)}
    with pytest.raises(mc.IncompatibleError, match=r"1\.bias is \[4\] in A and \[5\] in B"):
        kind(own(0), wrong)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_no_control_point_may_be_nan(which: int) -> None:
    bad = points()
    bad["1.bias"][which, 2] = float("nan")
    with pytest.raises(ValueError, match=r"1 NaN or infinite entries of 4 in 1\.bias"):
        quadratic()(own(0), bad)


def test_a_path_between_modules_of_ones_own_needs_one_to_load(tmp_path: File) -> None:
    mc.LinearPath(own(0), own(1)).save(tmp_path / "path")
    with pytest.raises(mc.IncompatibleError, match="model="):
        mc.load_path(tmp_path / "path")
    loaded = mc.load_path(tmp_path / "path", model=own(2))
    for t, seed in ((0, 0), (1, 1)):
        assert torch.equal(loaded.at(t)["1.weight"], own(seed)[1].weight)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(mc.IncompatibleError, match=r"1\.weight is \[5, 64\] in A and \[4, 64\]"):
        mc.load_path(tmp_path / "path", model=other)


def test_a_file_that_is_no_path_is_refused(tmp_path: File) -> None:
    file = mc.LinearPath(own(0), own(1)).save(tmp_path / "path")
    whole = file.read_bytes()
    for length in range(0, len(whole), 203):
        file.write_bytes(whole[:length])
        with pytest.raises(mc.DamagedFileError, match=str(file)):
            mc.load_path(file, model=own(0))
    mc.save_model(own(0), file)
    with pytest.raises(mc.DamagedFileError, match="expected a saved path, found a saved model"):
        mc.load_path(file, model=own(0))
    torch.save(own(0).state_dict(), file)
    with pytest.raises(mc.DamagedFileError, match="pickle"):
        mc.load_path(file, model=own(0))
    with pytest.raises(FileNotFoundError):
        mc.load_path(tmp_path / "nowhere")


def test_an_unknown_kind_of_path_is_named(tmp_path: File) -> None:
    file = quadratic()(own(0), points()).save(tmp_path / "path")
    del Path._kinds["quadratic"]
    with pytest.raises(
        mc.DamagedFileError,
        match="kind bezier or layerwise or linear or polychain, found 'quadratic'",
    ):
        mc.load_path(file, model=own(0))


@pytest.mark.parametrize("stray", ["nothing.w", "w", "points"])
def test_tensors_that_belong_to_no_part_are_damage(tmp_path: File, stray: str) -> None:
    file = mc.LinearPath(own(0), own(1)).save(tmp_path / "path")
    tensors, _ = saving.read_tensors(file, "path")
    with safe_open(file, framework="pt") as archive:
        meta = archive.metadata()
    save_file({**tensors, stray: torch.zeros(1)}, file, metadata=meta)
    with pytest.raises((mc.DamagedFileError, mc.IncompatibleError)):
        mc.load_path(file, model=own(0))


def test_a_path_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Path(own(0), points())
    assert base.__all__ == ["Path", "Point", "load_path"]
