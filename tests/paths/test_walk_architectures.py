"""Every architecture trains a step, is followed, walks five ticks, and goes on where it stopped."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.paths import walking
from mcbook.paths.walking import Walk

# small ones; of those with few layers as many as they have
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"width": (6, 5), "norm": "batch"},
    "lenet5": {"width": 0.25},
    "convnet": {"width": 4},
    "tinyten": {"width": 2},
    "vgg11": {"width": 2},
    "vgg16": {"width": 2},
    "resnet18": {"width": 2},
    "resnet20": {"width": 2},
    "regnetx200mf": {"width": 0.15, "group": 2, "depth": (1, 1, 1, 2)},
    "densenet": {"growth": 4, "depth": (1, 1, 1, 1)},
    "dla": {"width": 1},
    "mobilenetv2": {"width": 0.1, "multiple": 2, "last": 32, "depth": (1, 1, 1, 1, 1, 1, 1)},
    "mobilenetv3": {"width": 0.1, "multiple": 2},
    "shufflenetv1": {"width": 0.125, "depth": (1, 1, 1)},
    "shufflenetv2": {"width": 0.2, "depth": (1, 1, 1)},
    "efficientnetb0": {"width": 0.15, "depth": 0.3, "multiple": 2},
    "cct2": {"width": 16},
    "cct7": {"width": 16, "depth": 2, "heads": 2, "convs": 2},
}


@pytest.fixture(scope="module")
def coloured() -> mc.Data:
    """A few digits, as large and as many-coloured as the architectures were made for."""
    data = mc.load_data("digits", device="cpu", size=32, channels=3)
    return data.subset(train=24, test=8)


def test_none_is_forgotten() -> None:
    assert set(SMALL) == set(mc.list_models())


def network(name: str, data: mc.Data, seed: int) -> nn.Module:
    """One whose norms have variances, too."""
    model = mc.build_model(name, data, seed=seed, **SMALL[name])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", SMALL)
def test_it_walks(
    name: str, coloured: mc.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = mc.train(
        network(name, coloured, 0), coloured.subset(train=8), 1, batch_size=8, lr=0.01,
        progress=False,
    )  # fmt: skip
    b = network(name, coloured, 1)
    counts = {n: x.clone() for n, x in a.state_dict().items() if not x.is_floating_point()}

    def walk(**more: Any) -> mc.LayerwisePath:
        return mc.layerwise_path(
            a, b, coloured, ticks=5, stages=3, step=0.3, rounds=(1, 1), points=5, images=8,
            batch_size=12, lr=0.002, threshold=100.0, progress=False, **more,
        )  # fmt: skip

    path = walk()
    # the stages: every parameter once, the first layer first, the last one last
    names = [n for n, _ in a.named_parameters()]
    assert sorted(n for stage in path.stages for n in stage) == sorted(names)
    assert 1 < len(path.stages) <= 3
    assert names[0] in path.stages[0]
    assert names[-1] in path.stages[-1]
    # it comes closer at every tick, from A and to B
    distance = path.log["distance"].tolist()
    assert len(distance) == 6
    assert all(x > y for x, y in itertools.pairwise(distance))
    assert all(torch.equal(x, path.at(0)[n]) for n, x in a.state_dict().items())
    end = path.at(1)
    assert all(torch.equal(x, end[n]) for n, x in b.state_dict().items() if x.is_floating_point())
    assert all(torch.equal(end[n], x) for n, x in counts.items())
    assert all(p.isfinite().all() for p in path.control_points.values())
    # on its spheres
    off = (path.variances / path.targets - 1).abs()
    assert (off.isna() == path.targets.isna()).all().all()
    for n, p in a.named_parameters():
        assert path.targets[n].isna().all() == path.targets[n].isna().any() == (p.numel() == 1), n
    assert float(off.max().max()) <= 1e-4
    # the same after an interruption
    note = Walk._note
    monkeypatch.setattr(walking, "_PATIENCE", -1.0)
    with monkeypatch.context() as patch:

        def failing(self: Walk, *args: Any) -> None:
            note(self, *args)
            if self.tick == 3:
                raise KeyboardInterrupt

        patch.setattr(Walk, "_note", failing)
        with pytest.raises(KeyboardInterrupt):
            walk(checkpoint=tmp_path / "walk")
    again = walk(checkpoint=tmp_path / "walk")
    for n, p in path.control_points.items():
        assert torch.equal(p, again.control_points[n]), n
    assert again.log.equals(path.log)
    assert again.closing == path.closing
