"""Layer-wise paths beside lines, Bezier curves and elastic bands: MNIST, and CIFAR-10 on many nets.

LeNet5 on MNIST: four pairs.  On CIFAR-10, small versions of the architectures of Tian et al.
(2026), one pair each, on 2,000 training images of 16 × 16 pixels; no augmentation, so that the
ends come near a training loss of zero, as the method asks.  The networks of a pair have
their own initial weights and order of images, and are not aligned.  A job is one pair; between its
ends, on the same images, there are the `line`; the `flow`, a layer-wise path in the order of the
data; on some kinds `at once`, a layer-wise path on which all layers move from the first tick, with
as many ticks and about as many gradient steps as the flow; the `curve`, a Bezier curve with one
bend (on the kinds with `at once`, of about as many gradient steps, too); and the `band`, an elastic
band.  What a row is, `part` says:

- `summary`: of a path: the highest training loss at its points and at three places inside each of
  its pieces (`highest`; of the line and the curve, at 61 places), measured on some of the images,
  and the loss of that highest place on all of them (`on_all`); the barriers, the lowest test
  accuracy, the Euclidean length over that of the line (`euclid`), the minibatch gradients it took,
  the processor seconds; of layer-wise paths also `converged`, the distance left, the loss on the
  closing piece and the share of ticks with the most rounds;
- `profile`: at a `t`: training and test loss and accuracy;
- `tick`: of a layer-wise path: the log.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mcbook as mc

_CIFAR: dict[str, Any] = {
    "data": "cifar10",
    "size": 16,
    "subset": {"train": 2_000, "test": 1_000},
    "pairs": 1,
    "epochs": 30,
    "recipe": {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch_size": 64,
        "schedule": "onecycle",
    },
    "flow": {"step": 0.1, "stages": 6, "rounds": (3, 30), "batch_size": 64, "lr": 0.02},
    "curve": {"steps": 400, "lr": 0.05, "batch_size": 64},
    "band": {"steps": 40, "cycles": 3, "images": 300, "batch_size": 64},
    "room": 0.06,
    "measured": {"train": 500, "test": 500},
}
_ADAMW = {
    "optimizer": "adamw", "lr": 0.002, "weight_decay": 0.06, "batch_size": 64, "schedule": "cosine"
}  # fmt: skip
_ADAM = {"optimizer": "adam"}
_AS_LONG = {**_CIFAR["curve"], "steps": 2_400}  # about as many gradients as the flow takes
KINDS: dict[str, dict[str, Any]] = {
    "mnist-lenet5": {
        "data": "mnist",
        "size": None,
        "subset": None,
        "model": "lenet5",
        "options": {},
        "pairs": 4,
        "epochs": 5,
        "recipe": {"lr": 0.02, "momentum": 0.9, "batch_size": 128, "schedule": "cosine"},
        "flow": {"step": 0.05, "rounds": (5, 30), "batch_size": 128, "lr": 0.005},
        "room": 0.02,
        "at once": True,
        "curve": {"steps": 2_000, "lr": 0.02, "batch_size": 128},
        "band": {"steps": 60, "batch_size": 64, "images": 1_000},
        "measured": {"train": 2_000, "test": 1_000},
    },
    "resnet18": {
        **_CIFAR,
        "model": "resnet18",
        "options": {"width": 8},
        "at once": True,
        "curve": _AS_LONG,
    },
    "mobilenetv2": {
        **_CIFAR,
        "model": "mobilenetv2",
        "options": {"width": 0.15, "multiple": 2, "last": 64, "depth": (1, 1, 1, 2, 1, 2, 1)},
    },
    "shufflenetv1": {
        **_CIFAR,
        "model": "shufflenetv1",
        "options": {"width": 0.5, "depth": (1, 2, 1)},
    },
    "efficientnetb0": {
        **_CIFAR,
        "model": "efficientnetb0",
        "options": {"width": 0.15, "depth": 0.3, "multiple": 2, "dropout": 0, "drop_connect": 0},
    },
    "regnetx200mf": {
        **_CIFAR,
        "model": "regnetx200mf",
        "options": {"width": 0.15, "group": 2, "depth": (1, 1, 1, 2)},
    },
    "dla": {
        **_CIFAR,
        "model": "dla",
        "options": {"width": 2},
        "at once": True,
        "curve": _AS_LONG,
    },
    "cct7": {
        **_CIFAR,
        "model": "cct7",
        "options": {"width": 32, "convs": 2, "attention_dropout": 0, "drop_path": 0},
        "recipe": _ADAMW,
        "epochs": 40,
        "flow": {**_CIFAR["flow"], **_ADAM, "lr": 0.0005},
        "curve": {**_CIFAR["curve"], **_ADAM, "lr": 0.001},
    },
}
PATHS = ("line", "flow", "at once", "curve", "band")
_KEPT = ("tick", "stage", "moved", "rounds", "loss_before", "loss", "distance", "t")


def jobs() -> dict[str, dict[str, Any]]:
    """One job a pair of a kind of network: the first pairs of all kinds come first."""
    return {
        f"{kind},pair={pair}": {"kind": kind, "pair": pair}
        for pair in range(max(about["pairs"] for about in KINDS.values()))
        for kind, about in KINDS.items()
        if pair < about["pairs"]
    }


def load(kind: str) -> mc.Data:
    """The images of a kind."""
    about = KINDS[kind]
    data = mc.load_data(about["data"], device="cpu", size=about["size"])
    return data if about["subset"] is None else data.subset(**about["subset"])


def ends(kind: str, pair: int, data: mc.Data, kept: Path) -> list[torch.nn.Module]:
    """The two networks of a pair."""
    about = KINDS[kind]
    return [
        mc.train(
            mc.build_model(about["model"], data, seed=seed, standardize=True, **about["options"]),
            data,
            epochs=about["epochs"],
            seed=seed,
            progress=False,
            checkpoint=kept / f"{kind}-network-{seed}.safetensors",
            **about["recipe"],
        )
        for seed in (2 * pair, 2 * pair + 1)
    ]


def at_once(flow: mc.LayerwisePath) -> dict[str, Any]:
    """How a walk of all layers takes as many ticks, and about as many steps, to the same end."""
    ticks = int(flow.log["tick"].iloc[-1])
    rounds = max(1, round(int(flow.log["batches"].iloc[-1]) / ticks))
    return {"ticks": ticks, "step": 1 - 0.01 ** (1 / ticks), "rounds": (rounds, rounds)}


def measured(path: mc.Path, data: mc.Data, whole: mc.Data, distance: float) -> list[dict[str, Any]]:
    """What every path is measured by: its profile, thinned, and a summary."""
    walked = path.kind in ("layerwise", "polychain")
    found = mc.profile(path, data, points=2 if walked else 61, between=3 * walked, progress=False)
    table = found.table[["t", "train_loss", "test_loss", "train_accuracy", "test_accuracy"]]
    rows = [
        {"part": "profile", **row}
        for row in table.iloc[:: max(1, len(table) // 60)].round(6).to_dict("records")
    ]
    top = float(table["t"].iloc[int(table["train_loss"].argmax())])
    network = mc.reset_batch_norm(path.model_at(top), whole.train.x)
    summary = {
        "highest": float(table["train_loss"].max()),
        "on_all": mc.evaluate(network, whole.train)[0],
        "train_barrier": found.barrier("train"),
        "test_barrier": found.barrier("test"),
        "ends": float(table["train_loss"].iloc[[0, -1]].max()),
        "ends_accuracy": float(table["test_accuracy"].iloc[[0, -1]].min()),
        "lowest_accuracy": float(table["test_accuracy"].min()),
        "euclid": float(np.asarray(found.arc)[-1]) / distance,
    }
    if isinstance(path, mc.LayerwisePath):
        log = path.log
        summary |= {
            "threshold": path.threshold,
            "converged": path.converged,
            "left": path.relative_distance,
            "closing": path.closing,
            "at_most": float(log["at_most"].iloc[1:].mean()),
            "ticks": int(log["tick"].iloc[-1]),
        }
        thin = log.iloc[:: max(1, len(log) // 100)][list(_KEPT)].round(6)
        rows += [{"part": "tick", **row} for row in thin.to_dict("records")]
    return [{"part": "summary", **summary}, *rows]


def run(kind: str, pair: int) -> list[dict[str, Any]]:
    """Train two networks, find the paths, and measure."""
    torch.set_num_threads(1)
    about, data = KINDS[kind], load(kind)
    kept = Path(__file__).parent / "_partial" / "layerwise"  # an interrupted job goes on
    kept.mkdir(parents=True, exist_ok=True)
    a, b = ends(kind, pair, data, kept)
    names = [name for name, _ in a.named_parameters()]
    distance = mc.weights.distance(mc.weights.of(a), mc.weights.of(b), names)
    judged = data.subset(**about["measured"])
    # twice the higher loss of the ends, and some room for what minibatches add
    level = max(float(m.history["train_loss"].iloc[-1]) for m in (a, b))
    threshold = 2 * level + about["room"]
    rows: list[dict[str, Any]] = []
    flow: mc.LayerwisePath | None = None
    for name in PATHS:
        if name == "at once" and not about.get("at once"):
            continue
        place = kept / f"{kind}-{pair}-{name.replace(' ', '-')}.safetensors"
        common = {"seed": pair, "progress": False, "checkpoint": place}
        begun, fresh = time.process_time(), not place.exists()
        path: mc.Path
        gradients = 0
        if name == "line":
            path = mc.LinearPath(a, b)
        elif name == "flow":
            options = {**about["flow"], "threshold": threshold, "points": 30}
            path = flow = mc.layerwise_path(a, b, data, **options, **common)
        elif name == "at once":
            assert flow is not None
            options |= {"stages": "all", **at_once(flow)}
            path = mc.layerwise_path(a, b, data, **options, **common)
        elif name == "curve":
            path = mc.fit_curve(a, b, data, **about["curve"], **common)
            gradients = about["curve"]["steps"]
        else:
            path = mc.elastic_band(a, b, data, **about["band"], **common)
            gradients = about["band"]["steps"] * int(path.history["pivots"].iloc[:-1].sum())
        # of a walk that was interrupted, nobody counted
        seconds = time.process_time() - begun if fresh else None
        if isinstance(path, mc.LayerwisePath):
            gradients = int(path.log["batches"].iloc[-1])
        found = measured(path, judged, data, distance)
        found[0] |= {"gradients": gradients, "seconds": seconds}
        rows += [{"path": name, **row} for row in found]
    parameters = sum(p.numel() for p in a.parameters())
    return [{"kind": kind, "pair": pair, "parameters": parameters, **row} for row in rows]


def provenance() -> dict[str, Any]:
    """The data and the numbers all jobs share."""
    prints = {name: mc.load_data(name, device="cpu").fingerprint for name in ("mnist", "cifar10")}
    return {
        "data": "mnist, cifar10",
        "fingerprint": ", ".join(prints.values()),
        "model": ", ".join(dict.fromkeys(about["model"] for about in KINDS.values())),
        "options": {kind: about["options"] for kind, about in KINDS.items()},
        "epochs": {kind: about["epochs"] for kind, about in KINDS.items()},
        "flow": {kind: about["flow"] for kind, about in KINDS.items()},
        "measured": {kind: about["measured"] for kind, about in KINDS.items()},
    }
