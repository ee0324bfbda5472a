"""Features of VGG16 on CIFAR-10's test images: streamed against stored, in time and memory.

Memory is the largest resident set of a process of its own that does nothing else.  Storing is
measured at two small numbers of images, and extrapolated on a straight line to all of them, which
no common machine could hold.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import mcbook as mc

from .features import OURS, STORED, connectivity_stored, differences
from .harness import Result, compare
from .images import images

NAME = "features_vgg16"
MOST_BYTES = 2e9
_ROOT = Path(__file__).resolve().parents[1]


def _networks(count: int, width: int) -> tuple[mc.Path, torch.Tensor, list[str], str]:
    data, said = images("cifar10", 100, count)
    a, b = (mc.build_model("vgg16", data, width=width, seed=seed) for seed in (0, 1))
    path = mc.LinearPath(a, b)
    layers = list(mc.feature_connectivity(path, x=data.test.x[:1], alphas=0.5)["layer"])
    return path, data.test.x, layers, said


def alone(way: str, count: int, width: int) -> None:
    """One way, once, then the largest resident set of this process in bytes on standard output."""
    torch.set_num_threads(1)
    # random images take no less memory than others, and no data set has to be unpacked
    pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(10)
    data = mc.data_from_arrays(pixels, labels, pixels, labels, tuple("0123456789"), "random")
    a, b = (mc.build_model("vgg16", data, width=width, seed=seed) for seed in (0, 1))
    path, x = mc.LinearPath(a, b), torch.rand(count, 3, 32, 32)
    layers = list(mc.feature_connectivity(path, x=x[:1], alphas=0.5)["layer"])
    if way == STORED:
        connectivity_stored(path, x, layers, (0.5,))
    else:
        mc.feature_connectivity(path, x=x, alphas=0.5)
    print(_most_resident())


def _most_resident() -> int:
    """The largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # not getrusage: there a child begins with the size of its parent
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return 1024 * int(found[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes


def peak(way: str, count: int, width: int) -> float:
    """The largest resident set, in bytes, of a process that runs one way once."""
    code = f"from benchmarks.features_vgg16 import alone; alone({way!r}, {count}, {width})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time both ways on some images, and measure the memory of both.

    Args:
        rounds: how often both ways are timed; memory is measured once.
        smoke: on so few images that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result; too much memory is a failure.
    """
    width, some, whole = (4, 20, 40) if smoke else (64, 500, 10_000)
    path, x, layers, said = _networks(some, width)
    found: dict[str, pd.DataFrame] = {}

    def stored() -> None:
        found[STORED] = connectivity_stored(path, x, layers, (0.5,))

    def ours() -> None:
        found[OURS] = mc.feature_connectivity(path, x=x, alphas=0.5)

    comparison = compare({STORED: stored, OURS: ours}, STORED, rounds, warmups=0, clock=clock)
    apart = differences(found[STORED], found[OURS])
    half, full = (peak(STORED, count, width) for count in (some // 2, some))
    expected = full + (full - half) / (some - some // 2) * (whole - some)
    streamed = peak(OURS, whole, width)
    failures = []
    if streamed > MOST_BYTES:
        failures.append(f"expected at most {MOST_BYTES / 1e9:g} GB for {whole:,} images")
    if apart > 1e-10:
        failures.append("expected numbers that agree to ten digits")
    return Result(
        NAME,
        f"{len(layers)} layers of two VGG16 of width {width} and one mixture, {some:,} images",
        said,
        comparison,
        {},
        notes=(
            f"numbers differ by at most {apart:.1e}",
            f"peak memory, stored: {half / 1e9:.2f} GB at {some // 2:,} images, {full / 1e9:.2f} "
            f"GB at {some:,}; on a straight line {expected / 1e9:.0f} GB at {whole:,}",
            f"peak memory, streamed: {streamed / 1e9:.2f} GB at {whole:,} images",
        ),
        failures=tuple(failures),
    )
