"""Curves between aligned and unaligned networks, on MNIST and CIFAR-10.

Three kinds of networks: an MLP 784-32-32-10 and a convolutional network of 8, 16 and 32 maps with
batch norm on MNIST (four pairs each), and TinyTen at half its width on CIFAR-10 (three pairs).  In
a pair, A, B and a third network C have their own initial weights and order of images.  B is taken
as it was trained (`unaligned`) and after activation matching by correlation on 5,000 training
images (`aligned`).  Both ways a Bezier curve with one bend is fitted, for as many steps as each
network was trained.  What a row is, `part` says:

- `profile`: losses and accuracies at a `t` of the straight `line` or of the `curve`, and how far
  along it (`arc`), on part of the training and test images;
- `history`: the mean loss of the minibatches along the curve since the row before, at a `step`;
- `layer`: the mean correlation of the units of a layer, between A and B (`correlation`), and
  between the network at a `t` of the curve and A or B (`with_a`, `with_b`);
- `ensemble`: error and loss on test images of the mean of the probabilities of some networks
  (`members`);
- `plane`: of the first pair, loss and accuracy over the plane of A, B and the bend.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.analysis.planes import curve_plane
from mcbook.analysis.signature import correlation_signature, path_signature
from mcbook.normalized import Normalized, check_normalization
from mcbook.paths import Path

KINDS: dict[str, dict[str, Any]] = {
    "mnist-mlp": {
        "data": "mnist",
        "model": "mlp",
        "options": {"width": (32, 32)},
        "pairs": 4,
        "epochs": 5,
        "recipe": {"optimizer": "adam", "lr": 0.001, "batch_size": 64},
        "curve": {"optimizer": "adam", "lr": 0.003, "schedule": "cosine"},
        "measured": {"train": 10_000, "test": 10_000},
        "plane": 25,
        "points": 25,
    },
    "mnist-convnet": {
        "data": "mnist",
        "model": "convnet",
        "options": {"width": 8},
        "pairs": 4,
        "epochs": 3,
        "recipe": {"lr": 0.05, "batch_size": 128, "schedule": "cosine"},
        "curve": {"lr": 0.05},
        "measured": {"train": 3_000, "test": 5_000},
        "plane": 17,
        "points": 25,
    },
    "cifar10-tinyten": {
        "data": "cifar10",
        "model": "tinyten",
        "options": {"width": 8},
        "pairs": 3,
        "epochs": 4,
        "recipe": {
            "lr": 0.1,
            "weight_decay": 5e-4,
            "batch_size": 128,
            "schedule": "onecycle",
            "augment": True,
            "channels_last": True,
            "precision": "bfloat16",
        },
        "curve": {"lr": 0.05, "schedule": "cosine"},
        "measured": {"train": 1_500, "test": 2_500},
        "plane": 13,
        "points": 17,
    },
}
INSIDE = (0.25, 0.5, 0.75)


def jobs() -> dict[str, dict[str, Any]]:
    """One job a kind of network and pair."""
    return {
        f"{kind},pair={pair}": {"kind": kind, "pair": pair}
        for pair in range(max(about["pairs"] for about in KINDS.values()))
        for kind, about in KINDS.items()
        if pair < about["pairs"]
    }


def blended(networks: list[nn.Module], part: mc.Split) -> dict[str, float]:
    """Error and loss of the mean of some networks' probabilities."""
    with torch.no_grad():
        batches = [
            torch.stack([network(x).softmax(1) for network in networks]).mean(0)
            for x in part.x.split(2048)
        ]
    probabilities = torch.cat(batches)
    loss = F.nll_loss(probabilities.clamp_min(1e-30).log(), part.y)
    return {
        "test_error": float((probabilities.argmax(1) != part.y).float().mean()),
        "test_loss": float(loss),
    }


def networks_along(path: Path, data: mc.Data, at: tuple[float, ...]) -> list[nn.Module]:
    """The networks at some `t`, with their statistics measured where there is batch norm."""
    way = check_normalization(None, path.model_at(0))
    networks = Normalized(path, way, data.train.x)
    return [networks.at(t)[0] for t in at]


def run(kind: str, pair: int) -> list[dict[str, Any]]:
    """Train three networks, fit two curves, and measure."""
    torch.set_num_threads(1)
    about = KINDS[kind]
    data = mc.load_data(about["data"], device="cpu")
    measured = data.subset(**about["measured"])
    a, b, c = (
        mc.train(
            mc.build_model(about["model"], data, seed=seed, **about["options"]),
            data,
            epochs=about["epochs"],
            seed=seed,
            progress=False,
            **about["recipe"],
        )
        for seed in (3 * pair, 3 * pair + 1, 3 * pair + 2)
    )
    steps = about["epochs"] * -(-len(data.train) // about["recipe"]["batch_size"])
    spec = mc.trace_symmetry(a)
    aligned = mc.activation_matching(a, b, data, spec=spec, progress=False).model
    rows: list[dict[str, Any]] = []
    for members, networks in {
        "A": [a],
        "B": [b],
        "C": [c],
        "A, B": [a, b],
        "A, B, C": [a, b, c],
    }.items():
        rows.append({"part": "ensemble", "members": members, **blended(networks, data.test)})
    for way, end in {"unaligned": b, "aligned": aligned}.items():
        curve = mc.fit_curve(
            a, end, data, steps=steps, seed=pair, every=max(1, steps // 40), progress=False,
            **{**about["recipe"], **about["curve"]},
        )  # fmt: skip
        here: list[dict[str, Any]] = []
        for name, path in {"line": mc.LinearPath(a, end), "curve": curve}.items():
            found = mc.profile(path, measured, about["points"], progress=False)
            table = found.table.drop(columns=["distance_a", "distance_b"]).assign(arc=found.arc)
            here += [{"part": "profile", "path": name, **row} for row in table.to_dict("records")]
        here += [
            {"part": "history", "step": row["step"], "loss": row["loss"]}
            for row in curve.history.iloc[1:].to_dict("records")
        ]
        ends = correlation_signature(a, end, measured, spec=spec, progress=False)
        inside = path_signature(curve, measured, INSIDE, images=1_000, spec=spec, progress=False)
        for row in [*ends.to_dict("records"), *inside.to_dict("records")]:
            kept = {
                k: row[k]
                for k in ("layer", "units", "t", "correlation", "with_a", "with_b")
                if k in row
            }
            here.append({"part": "layer", **kept})
        within = networks_along(curve, measured, INSIDE)
        for members, networks in {
            "middle": within[1:2],
            "A, B, middle": [a, end, within[1]],
            "A, B, three points": [a, end, *within],
        }.items():
            here.append({"part": "ensemble", "members": members, **blended(networks, data.test)})
        if pair == 0:
            few = data.subset(train=500, test=1_000)
            plane = curve_plane(curve, few, about["plane"], progress=False).table()
            columns = ["place", "x", "y", "loss", "accuracy", "split", "normalization"]
            here += [{"part": "plane", **row} for row in plane[columns].to_dict("records")]
        rows += [{"way": way, **row} for row in here]
    return [{"kind": kind, "pair": pair, **row} for row in rows]


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    prints = {name: mc.load_data(name, device="cpu").fingerprint for name in ("mnist", "cifar10")}
    return {
        "data": "mnist, cifar10",
        "fingerprint": ", ".join(prints.values()),
        "model": "mlp 784-32-32-10; convnet 8-16-32; tinyten width 8",
        "epochs": {kind: about["epochs"] for kind, about in KINDS.items()},
        "points": {kind: about["points"] for kind, about in KINDS.items()},
    }
