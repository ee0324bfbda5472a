"""The benchmarks of curves beside a stand-in for the peer: the same interface, written here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import mcbook as mc

ROOT = Path(__file__).resolve().parents[1]

# Every layer holds all control points; the curve's coefficients come with every call.
_CURVES = """
import torch
from torch import nn
from torch.nn import functional as F

class CurveModule(nn.Module):
    def hold(self, shapes, fix_points):
        self.count, self.momentum = len(fix_points), 0.1
        for name, shape in shapes.items():
            for i, fixed in enumerate(fix_points):
                p = nn.Parameter(torch.zeros(shape), requires_grad=not fixed)
                self.register_parameter(f"{name}_{i}", p)
    def compute_weights_t(self, c):
        return [sum(c[i] * getattr(self, f"{name}_{i}") for i in range(self.count))
                for name in ("weight", "bias")]

class Linear(CurveModule):
    def __init__(self, i, o, fix_points, bias=True):
        super().__init__()
        self.hold({"weight": (o, i), "bias": (o,)}, fix_points)
    def forward(self, x, c):
        return F.linear(x, *self.compute_weights_t(c))

class Conv2d(CurveModule):
    def __init__(self, i, o, size, fix_points):
        super().__init__()
        self.hold({"weight": (o, i, size, size), "bias": (o,)}, fix_points)
    def forward(self, x, c):
        return F.conv2d(x, *self.compute_weights_t(c))

class BatchNorm2d(CurveModule):
    def __init__(self, n, fix_points):
        super().__init__()
        self.hold({"weight": (n,), "bias": (n,)}, fix_points)
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))
    def forward(self, x, c):
        kept = self.running_mean, self.running_var
        return F.batch_norm(x, *kept, *self.compute_weights_t(c), self.training, self.momentum)

class Bezier(nn.Module):
    def __init__(self, count):
        super().__init__()
    def forward(self, t):
        return torch.cat([(1 - t) ** 2, MIDDLE * t * (1 - t), t ** 2])

class CurveNet(nn.Module):
    def __init__(self, classes, curve, architecture, count, architecture_kwargs={}):
        super().__init__()
        self.count, self.coefficients = count, curve(count)
        fix = [True] + [False] * (count - 2) + [True]
        self.net = architecture(classes, fix_points=fix, **architecture_kwargs)
    def import_base_parameters(self, model, index):
        own = list(self.net.parameters())[index :: self.count]
        for p, q in zip(own, model.parameters(), strict=True):
            p.data.copy_(q.data)
    def init_linear(self):
        everything = list(self.net.parameters())
        for a, p, b in zip(everything[::3], everything[1::3], everything[2::3], strict=True):
            p.data.copy_((a + b) / 2)
    def forward(self, x, t=None):
        return self.net(x, self.coefficients(torch.rand(1) if t is None else t))

def l2_regularizer(decay):
    return lambda model: decay * sum((p ** 2).sum() for p in model.parameters()) / 2
"""
_UTILS = """
import torch
import curves

def train(loader, model, optimizer, criterion, regularizer=None):
    model.train()
    assert len(loader) and len(loader.dataset)
    for x, y in loader:
        loss = criterion(model(x.cuda(async=True)), y.cuda(async=True)) + regularizer(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

def test(loader, model, criterion, t):
    model.eval()
    sums = [criterion(model(x.cuda(async=True), t), y).item() * len(y) for x, y in loader]
    return {"nll": sum(sums) / len(loader.dataset)}

def update_bn(loader, model, t):
    model.train()
    norms = [m for m in model.modules() if isinstance(m, curves.BatchNorm2d)]
    seen = 0
    for x, _ in loader:
        seen += len(x)
        for m in norms:
            m.momentum = len(x) / seen
        model(x, t)
"""
_PRERESNET = """
import torch
from torch import nn
import curves

class PreResNetBase(nn.Module):
    def __init__(self, classes, depth):
        super().__init__()
        assert depth == 20
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes)
    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))

class PreResNetCurve(nn.Module):
    def __init__(self, classes, fix_points, depth):
        super().__init__()
        self.conv = curves.Conv2d(3, 4, 3, fix_points)
        self.norm = curves.BatchNorm2d(4, fix_points)
        self.fc = curves.Linear(4, classes, fix_points)
    def forward(self, x, c):
        return self.fc(self.norm(self.conv(x, c), c).relu().mean((2, 3)), c)
"""
_DATA = """
from torchvision import transforms as T

class Transforms:
    class CIFAR10:
        class ResNet:
            test = T.Compose([
                T.ToTensor(), T.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
            ])
"""


@pytest.fixture(autouse=True)
def from_the_repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`benchmarks` is a folder of the repository and no part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("MCBOOK_DATA", raising=False)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def checkout(folder: Path, middle: float = 2.0) -> Path:
    """A stand-in whose bend has the coefficient `middle · t (1 - t)`; 2 is right."""
    (folder / "models").mkdir(parents=True)
    texts = {
        "curves.py": _CURVES.replace("MIDDLE", str(middle)),
        "utils.py": _UTILS,
        "models/preresnet.py": _PRERESNET,
        "data.py": _DATA,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_steps_of_a_curve_are_timed_beside_the_peer(tmp_path: Path, capsys):
    from benchmarks.__main__ import main

    state, before = torch.get_rng_state(), set(sys.modules)
    folder, file = checkout(tmp_path / "peer"), tmp_path / "out.json"
    assert main(["curve_step", "--smoke", "--peer", str(folder), "--json", str(file)]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert "curves" not in set(sys.modules) - before  # its own names are not left behind
    (result,) = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert list(result["comparison"]["seconds"]) == [
        "mc.train",
        "mc.fit_curve",
        "curve layers of the peer",
    ]
    printed = capsys.readouterr().out
    assert printed.count("curve layers of the peer") == 4  # the table, and three networks
    assert "MLP 64-16-16-10, batches of 64: a step of mc.train" in printed
    assert "PreResNet20, batches of 16" in printed
    assert "without" not in printed


def test_the_profile_of_a_curve_agrees_with_the_peer(tmp_path: Path, capsys):
    from benchmarks.__main__ import main

    state = torch.get_rng_state()
    assert main(["curve_profile", "--smoke", "--peer", str(checkout(tmp_path))]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    printed = capsys.readouterr().out
    assert "evaluation of the peer" in printed
    assert "mc.profile: losses differ by at most 0.00 % (train), 0.00 % (test)" in printed
    assert "what all images take is told from 10,000 training images only" in printed
    assert "on a straight line" not in printed
    assert "NOT AS EXPECTED" not in printed


def test_another_curve_than_ours_is_a_failure(tmp_path: Path, capsys):
    from benchmarks.__main__ import main

    assert main(["curve_profile", "--smoke", "--peer", str(checkout(tmp_path, 6.0))]) == 1
    assert "NOT AS EXPECTED: mc.profile: losses should agree to 1 %" in capsys.readouterr().out


def test_the_chain_of_the_peer_is_the_network_itself(tmp_path: Path):
    from benchmarks.mode_connectivity import ModeConnectivity

    peer = ModeConnectivity(checkout(tmp_path))
    data = mc.load_data("digits", device="cpu").subset(train=20, test=10)
    a, b = (mc.build_model("mlp", data, width=(5, 4), seed=s) for s in (0, 1))
    path = mc.BezierPath(a, b, bends=1)
    net = peer.chain_curve([path.model_at(0.0), path.model_at(0.5), path.model_at(1.0)])
    for t in (0.0, 0.3, 1.0):
        expected = path.model_at(t)(data.test.x)
        assert torch.allclose(net(data.test.x, torch.tensor([t])), expected, atol=1e-6)
    with pytest.raises(mc.IncompatibleError, match="expected linear layers .* found LayerNorm"):
        peer.chain_curve([nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))] * 3)


def test_all_images_are_told_from_those_measured():
    from benchmarks.curve_profile import on_all

    # the peer: 22,000 passes measured, 110,000 in all; ours: 12,000 evaluated, 60,000 in all
    assert on_all(22.0, None, 10_000, 2_000) == pytest.approx(110.0)
    assert on_all(22.0, 10.0, 10_000, 2_000) == pytest.approx(70.0)
    assert on_all(7.0, 1.0, 50_000, 10_000) == pytest.approx(7.0)


def test_batches_are_gone_through_as_often_as_it_takes():
    from benchmarks.mode_connectivity import Batches

    batches = Batches(torch.arange(5), torch.arange(5), 2, 4)
    assert len(batches) == 4
    assert [x.tolist() for x, _ in batches] == [[0, 1], [2, 3], [4], [0, 1]]


@pytest.mark.parametrize(
    ("file", "old", "message"),
    [
        ("curves.py", "class CurveNet", "found no CurveNet in"),
        ("utils.py", "def update_bn", "found no update_bn in"),
    ],
)
def test_a_folder_without_all_of_the_peer_is_refused(tmp_path, capsys, file, old, message):
    from benchmarks.__main__ import main

    place = checkout(tmp_path) / file
    place.write_text(place.read_text().replace(old, old[:-2] + "ed"), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["curve_step", "--smoke", "--peer", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    from benchmarks.__main__ import main

    (checkout(tmp_path) / "models" / "preresnet.py").unlink()
    with pytest.raises(SystemExit):
        main(["curve_step", "--smoke", "--peer", str(tmp_path)])
    assert "found no models/preresnet.py in" in capsys.readouterr().err
