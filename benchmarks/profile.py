"""The profile of a line: `mc.profile` against one model at a time.

One model at a time is what one writes first: build the network at each t,
pass all images in batches, add up the loss and the hits.  Its images are in
memory as well, so that only the evaluation is compared.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

import mcbook as mc

from .harness import Result, compare, has_amx
from .images import images

NAME = "profile"
SINGLE, OURS, LOW = "one model at a time", "mc.profile", "mc.profile in bfloat16"
#: four digits
AGREEMENT = 5e-5
_BATCH = 2048


def _one_at_a_time(path: mc.Path, data: mc.Data, points: int) -> pd.DataFrame:
    rows = []
    for t in np.linspace(0, 1, points):
        model = path.model_at(t)
        model.eval()
        loss, right = 0.0, 0
        with torch.no_grad():
            batches = zip(data.test.x.split(_BATCH), data.test.y.split(_BATCH), strict=True)
            for x, y in batches:
                logits = model(x)
                loss += F.cross_entropy(logits, y, reduction="sum").item()
                right += (logits.argmax(1) == y).sum().item()
        rows.append({"t": t, "loss": loss / len(data.test), "accuracy": right / len(data.test)})
    return pd.DataFrame(rows)


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time the profile each way, and compare what they found.

    Args:
        rounds: how often.
        smoke: on so few images that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result; without AMX, bfloat16 has no target.
    """
    points, count = (5, 100) if smoke else (25, 10_000)
    width = (32, 32, 32) if smoke else (512, 512, 512)
    data, said = images("mnist", count, count)
    ends = []
    for seed in (0, 1):
        model = mc.build_model("mlp", data, width=width, seed=seed)
        ends.append(mc.train(model, data, epochs=1, seed=seed, progress=False, batch_size=128))
    path = mc.LinearPath(*ends)
    found: dict[str, pd.DataFrame] = {}

    def single() -> None:
        found[SINGLE] = _one_at_a_time(path, data, points)

    def ours(precision: str) -> pd.DataFrame:
        options = {"splits": ("test",), "progress": False, "batch_size": _BATCH}
        return mc.profile(path, data, points, precision=precision, **options).table

    def full() -> None:
        found[OURS] = ours("float32")

    def low() -> None:
        found[LOW] = ours("bfloat16")

    ways = {SINGLE: single, OURS: full, LOW: low}
    comparison = compare(ways, SINGLE, rounds, warmups=1, clock=clock)
    expected = found[SINGLE]
    errors = {
        way: (
            (found[way]["test_loss"] / expected["loss"] - 1).abs().max(),
            (found[way]["test_accuracy"] - expected["accuracy"]).abs().max(),
        )
        for way in (OURS, LOW)
    }
    notes = tuple(
        f"{way}: losses differ by at most {loss:.1e} of their value, accuracies by "
        f"{100 * accuracy:.2f} points"
        for way, (loss, accuracy) in errors.items()
    )
    worst = errors[OURS][0]
    failures = (f"four digits should agree, found {worst:.1e}",) if worst > AGREEMENT else ()
    targets = {OURS: 1.4} | ({LOW: 3.0} if has_amx() else {})
    sizes = "-".join(map(str, (784, *width, 10)))
    return Result(
        NAME,
        f"{points} points of a line between MLPs {sizes} on {count:,} images",
        said,
        comparison,
        {} if smoke else targets,
        notes=(*notes, "this processor has AMX" if has_amx() else "no AMX seen"),
        failures=failures,
    )
