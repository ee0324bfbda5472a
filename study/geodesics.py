"""Geodesics between aligned and unaligned networks, on MNIST and CIFAR-10.

Two kinds of networks without batch norm: an MLP 784-32-32-10 on MNIST (four pairs), and ResNet20 of
base width 8 with group norm of one group on CIFAR-10 (three pairs; the paper's has width 64).  In
a pair, A and B have their own initial weights and order of images.  B is taken as it was trained
(`unaligned`) and after activation matching by correlation on 5,000 training images (`aligned`).
Between A and B there are paths: the `line`; the `geodesic` as `fit_geodesic` finds it; the `curve`,
a Bezier curve with one bend, fitted by its loss; on MNIST the `paper`'s procedure: 25 points,
Jensen-Shannon energy at the points alone, plain SGD.  What a row is, `part` says:

- `profile`: at a `t`, on a split: the Fisher length so far (`arc`), loss, error (the mean of
  1 - p(y | x)), accuracy, and the bound on the error;
- `summary`: of a path, on a split: Fisher length, bound, ratio, unevenness of the speed, error
  bound, worst error, certified accuracy, barrier of the loss, its Euclidean length (`euclid`), and
  on MNIST the length in Jensen-Shannon distances at the points of the paper (`js_length`);
- `history`: of a search, at a `step`: energy and length on the images it is judged by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import mcbook as mc

KINDS: dict[str, dict[str, Any]] = {
    "mnist-mlp": {
        "data": "mnist",
        "model": "mlp",
        "options": {"width": (32, 32)},
        "pairs": 4,
        "epochs": 5,
        "recipe": {"optimizer": "adam", "lr": 0.001, "batch_size": 64},
        "geodesic": {},
        "curve": {"steps": 4690, "lr": 0.003},
        "paper": {"steps": 4000},
        "measured": {"train": 5_000, "test": 5_000},
        "points": 97,
    },
    "cifar10-resnet20": {
        "data": "cifar10",
        "model": "resnet20",
        "options": {"width": 8, "norm": "layer", "shortcut": "projection"},
        "pairs": 3,
        "epochs": 5,
        "recipe": {
            "optimizer": "adam",
            "lr": 0.005,
            "batch_size": 128,
            "schedule": "onecycle",
            "augment": True,
        },
        "geodesic": {"steps": 300, "points": 9, "batch_size": 64, "every": 50, "images": 300},
        "curve": {"steps": 1350, "lr": 0.003, "batch_size": 128, "augment": True},
        "measured": {"train": 500, "test": 1_000},
        "points": 25,
    },
}
PAPER = {
    "kind": "polychain",
    "bends": 23,
    "between": False,
    "energy": "jsd",
    "optimizer": "sgd",
    "momentum": 0.0,
    "lr": 0.1 / (8 * 24),  # the paper minimises Σ JSD, an 8 N-th of the energy
    "schedule": "constant",
    "batch_size": 256,
}


def jobs() -> dict[str, dict[str, Any]]:
    """One job a kind of network and pair."""
    return {
        f"{kind},pair={pair}": {"kind": kind, "pair": pair}
        for kind, about in KINDS.items()
        for pair in range(about["pairs"])
    }


def measured(path: mc.Path, data: mc.Data, points: int, js: bool) -> list[dict[str, Any]]:
    """Certificates of a path on both splits, thinned to 25 rows, and their summaries."""
    arc = mc.profile(path, data.subset(train=2, test=2), 25, progress=False).arc
    rows: list[dict[str, Any]] = []
    for split in ("train", "test"):
        found = mc.certify(path, data, points, split, progress=False)
        thin = found.table.iloc[:: (points - 1) // 24].round(6)
        rows += [{"part": "profile", "split": split, **row} for row in thin.to_dict("records")]
        t, loss = found.table["t"].to_numpy(), found.table["loss"].to_numpy()
        summary = {
            "length": found.length,
            "bound": found.bound,
            "ratio": found.ratio,
            "unevenness": found.unevenness,
            "error_bound": found.error_bound,
            "worst_error": found.worst_error,
            "certified_accuracy": found.certified_accuracy,
            "barrier": float((loss - (1 - t) * loss[0] - t * loss[-1]).max().clip(min=0)),
            "euclid": float(np.asarray(arc)[-1]),
        }
        if js:
            summary["js_length"] = mc.js_length(path, data.split(split).x, 25)
        rows.append({"part": "summary", "split": split, **summary})
    return rows


def run(kind: str, pair: int) -> list[dict[str, Any]]:
    """Train two networks, find the paths, and measure."""
    torch.set_num_threads(1)
    about = KINDS[kind]
    data = mc.load_data(about["data"], device="cpu")
    kept = Path(__file__).parent / "_partial" / "geodesics"  # an interrupted job goes on
    kept.mkdir(parents=True, exist_ok=True)
    a, b = (
        mc.train(
            mc.build_model(about["model"], data, seed=seed, **about["options"]),
            data,
            epochs=about["epochs"],
            seed=seed,
            progress=False,
            checkpoint=kept / f"{kind}-network-{seed}.safetensors",
            **about["recipe"],
        )
        for seed in (2 * pair, 2 * pair + 1)
    )
    aligned = mc.activation_matching(a, b, data, progress=False).model
    judged = data.subset(**about["measured"])
    rows: list[dict[str, Any]] = []
    for way, end in {"unaligned": b, "aligned": aligned}.items():
        place = {
            name: kept / f"{kind}-{pair}-{way}-{name}.safetensors"
            for name in ("geodesic", "curve", "paper")
        }
        paths = {
            "line": mc.LinearPath(a, end),
            "geodesic": mc.fit_geodesic(
                a, end, data, seed=pair, progress=False, checkpoint=place["geodesic"],
                **about["geodesic"],
            ),
        }  # fmt: skip
        if "paper" in about:
            paths["paper"] = mc.fit_geodesic(
                a, end, data, seed=pair, progress=False, checkpoint=place["paper"],
                **PAPER, **about["paper"],
            )  # fmt: skip
        if "paper" in about or way == "aligned":
            paths["curve"] = mc.fit_curve(
                a, end, data, seed=pair, progress=False, checkpoint=place["curve"],
                **about["curve"],
            )  # fmt: skip
        for name, path in paths.items():
            here = measured(path, judged, about["points"], js="paper" in about)
            if name in ("geodesic", "paper"):
                here += [
                    {"part": "history", **{k: row[k] for k in ("step", "energy", "length")}}
                    for row in path.history.to_dict("records")
                ]
            rows += [{"way": way, "path": name, **row} for row in here]
    return [{"kind": kind, "pair": pair, **row} for row in rows]


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    prints = {name: mc.load_data(name, device="cpu").fingerprint for name in ("mnist", "cifar10")}
    return {
        "data": "mnist, cifar10",
        "fingerprint": ", ".join(prints.values()),
        "model": "mlp 784-32-32-10; resnet20 width 8, group norm of one group",
        "epochs": {kind: about["epochs"] for kind, about in KINDS.items()},
        "points": {kind: about["points"] for kind, about in KINDS.items()},
        "measured": {kind: about["measured"] for kind, about in KINDS.items()},
    }
