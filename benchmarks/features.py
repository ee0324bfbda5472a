"""Features of two networks and three mixtures: streamed against stored.

Storing everything is what one writes first: hooks keep every layer's output for all images, and
cosines and coefficients are computed from the stored features in float64.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor, nn

import mcbook as mc

from .harness import Result, compare
from .images import images

NAME = "features"
STORED, OURS = "store every feature", "mc.feature_connectivity"
FASTER = 2.0
ALPHAS = (0.25, 0.5, 0.75)
#: cosines and coefficients, computed in float64 both ways
AGREEMENT = 1e-10
_BATCH = 128


def stored_features(model: nn.Module, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
    """Every named layer's output for all images, on the CPU."""
    kept: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keeping(name: str):
        # a copy, since later layers may work in place
        return lambda module, args, output: kept[name].append(output.detach().cpu().clone())

    hooks = [model.get_submodule(name).register_forward_hook(keeping(name)) for name in layers]
    model.eval()
    with torch.no_grad():
        for batch in x.split(_BATCH):
            model(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}


def connectivity_stored(
    path: mc.Path, x: Tensor, layers: list[str], alphas: tuple[float, ...] = ALPHAS
) -> pd.DataFrame:
    """Mean cosine, baseline and coefficient of every layer, from stored features."""
    a, b = (stored_features(path.model_at(t), x, layers) for t in (0.0, 1.0))
    rows = []
    for alpha in alphas:
        own = stored_features(path.model_at(alpha), x, layers)
        for name in layers:
            m, f, g = (z[name].flatten(1).double() for z in (own, a, b))
            t = (1 - alpha) * f + alpha * g
            product, length = (m * t).sum(1), t.norm(dim=1)
            valid = (m.norm(dim=1) > 0) & (length > 0)
            ends = (f.norm(dim=1) > 0) & (g.norm(dim=1) > 0)
            rows.append(
                {
                    "layer": name,
                    "alpha": alpha,
                    "cos": float((product / (m.norm(dim=1) * length))[valid].mean()),
                    "cos_ends": float(
                        ((f * g).sum(1) / (f.norm(dim=1) * g.norm(dim=1)))[ends].mean()
                    ),
                    "coef": float((product / length.square())[valid].mean()),
                }
            )
    return pd.DataFrame(rows)


def differences(stored: pd.DataFrame, ours: pd.DataFrame) -> float:
    """The largest difference of a number, over all layers and alphas."""
    keys, numbers = ["layer", "alpha"], ["cos", "cos_ends", "coef"]
    both = (table.set_index(keys)[numbers].sort_index() for table in (stored, ours))
    one, other = both
    return float((one - other).abs().max().max())


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time both ways, and compare what they found.

    Args:
        rounds: how often.
        smoke: on so few images that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result.
    """
    count, width = (100, (16, 16, 16)) if smoke else (10_000, (512, 512, 512))
    data, said = images("mnist", 100, count)
    a, b = (mc.build_model("mlp", data, width=width, seed=seed) for seed in (0, 1))
    path, x = mc.LinearPath(a, b), data.test.x
    layers = list(mc.feature_connectivity(a, b, x[:1], 0.5)["layer"])
    found: dict[str, pd.DataFrame] = {}

    def stored() -> None:
        found[STORED] = connectivity_stored(path, x, layers)

    def ours() -> None:
        found[OURS] = mc.feature_connectivity(a, b, x, ALPHAS)

    comparison = compare({STORED: stored, OURS: ours}, STORED, rounds, clock=clock)
    apart = differences(found[STORED], found[OURS])
    sizes = "-".join(map(str, (784, *width, 10)))
    return Result(
        NAME,
        f"{len(layers)} layers of two MLPs {sizes} and {len(ALPHAS)} mixtures, {count:,} images",
        said,
        comparison,
        {} if smoke else {OURS: FASTER},
        notes=(f"numbers differ by at most {apart:.1e}",),
        failures=(f"expected at most {AGREEMENT:g}",) if apart > AGREEMENT else (),
    )
