"""The permutation symmetry of known architectures, traced and verified.

For each architecture: how many spaces and units its trace finds, the order of the group, what
cannot move and why, what the check in float64 found, and how long both took (one thread; the
median of three).  The networks are untrained: the group belongs to the architecture, and the check
draws weights of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import mcbook as mc
from mcbook.models import build_from, library

RUNS = 3

# name: (where it comes from, the name there, its options, the shape of an image)
NETWORKS: dict[str, tuple[str, str, dict[str, Any], tuple[int, int, int]]] = {
    "mlp-512-512-512": ("mcbook", "mlp", {"width": [512, 512, 512]}, (3, 32, 32)),
    "lenet5": ("mcbook", "lenet5", {}, (3, 32, 32)),
    "vgg11": ("torchvision", "vgg11", {"init_weights": False}, (3, 32, 32)),
    "vgg11_bn": ("torchvision", "vgg11_bn", {"init_weights": False}, (3, 32, 32)),
    "vgg16": ("torchvision", "vgg16", {"init_weights": False}, (3, 32, 32)),
    "vgg16_bn": ("torchvision", "vgg16_bn", {"init_weights": False}, (3, 32, 32)),
    "resnet20-A": ("mcbook", "resnet20", {}, (3, 32, 32)),
    "resnet20-B": ("mcbook", "resnet20", {"shortcut": "projection"}, (3, 32, 32)),
    "resnet18": ("torchvision", "resnet18", {}, (3, 32, 32)),
    "resnet50": ("torchvision", "resnet50", {}, (3, 32, 32)),
    "mobilenet_v2": ("torchvision", "mobilenet_v2", {}, (3, 32, 32)),
    "mobilenet_v3_small": ("torchvision", "mobilenet_v3_small", {}, (3, 32, 32)),
    "shufflenet_v2_x0_5": ("torchvision", "shufflenet_v2_x0_5", {}, (3, 32, 32)),
    "efficientnet_b0": ("torchvision", "efficientnet_b0", {}, (3, 32, 32)),
    "regnet_x_400mf": ("torchvision", "regnet_x_400mf", {}, (3, 32, 32)),
    "densenet121": ("torchvision", "densenet121", {}, (3, 32, 32)),
    "convnext_tiny": ("torchvision", "convnext_tiny", {}, (3, 32, 32)),
    "vit_b_16": ("torchvision", "vit_b_16", {"image_size": 32}, (3, 32, 32)),
    "swin_t": ("torchvision", "swin_t", {}, (3, 64, 64)),
    "dla34": ("timm", "dla34", {}, (3, 64, 64)),
    "dla46_c": ("timm", "dla46_c", {}, (3, 64, 64)),
    "cct": (
        "vit_pytorch",
        "CCT",
        {
            "img_size": 32, "embedding_dim": 128, "n_conv_layers": 2, "kernel_size": 3,
            "stride": 1, "padding": 1, "num_layers": 4, "num_heads": 4, "mlp_ratio": 2,
            "positional_embedding": "learnable",
        },
        (3, 32, 32),
    ),
}  # fmt: skip

JOBS: dict[str, dict[str, Any]] = {name: {"name": name} for name in NETWORKS}


def build(name: str) -> nn.Module:
    """An architecture with ten classes, in eval mode."""
    source, kind, options, shape = NETWORKS[name]
    torch.manual_seed(0)
    makers: dict[str, Callable[[], nn.Module]] = {
        "mcbook": lambda: build_from(
            {
                "name": kind,
                "shape": list(shape),
                "classes": 10,
                "standardize": False,
                "options": options,
            }
        ),
        "torchvision": lambda: library("torchvision").models.get_model(
            kind, weights=None, num_classes=10, **options
        ),
        "timm": lambda: library("timm").create_model(kind, pretrained=False, num_classes=10),
        "vit_pytorch": lambda: _vit_pytorch(kind)(num_classes=10, **options),
    }
    return makers[source]().eval()


def _vit_pytorch(kind: str) -> Callable[..., nn.Module]:
    library("vit_pytorch")
    from vit_pytorch import cct

    return getattr(cct, kind)


def run(name: str) -> list[dict[str, Any]]:
    """Trace and check one architecture."""
    torch.set_num_threads(1)
    model = build(name)
    example = torch.randn(1, *NETWORKS[name][3], generator=torch.Generator().manual_seed(0))
    traced, checked = [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        spec = mc.trace_symmetry(model, example, verify=False)
        middle = time.perf_counter()
        found = spec.verify(model, example)
        traced.append(middle - start)
        checked.append(time.perf_counter() - middle)
    return [
        {
            "model": name,
            "source": NETWORKS[name][0],
            "parameters": sum(p.numel() for p in model.parameters()),
            "spaces": len(spec.spaces),
            "nested": len(spec.nested),
            "units": spec.units,
            "log10_order": spec.log10_order,
            "axes_free": spec.axes_free,
            "frozen": frozen(spec),
            "verified": found.passed,
            "error_eval": found.error,
            "error_train": found.train_error,
            "control": found.control,
            "trace_seconds": statistics.median(traced),
            "verify_seconds": statistics.median(checked),
        }
    ]


def frozen(spec: mc.PermutationSpec) -> str:
    """What cannot move and why, in a few words."""
    said: dict[str, int] = {}
    for one in spec.frozen:
        if one.reason == "no other unit is like it":
            what = "single channels"
        elif "output" in one.reason:
            what = "classes"
        elif "pos" in one.tensor:
            what = "rows of position tables"
        else:
            what = "input channels"
        said[what] = said.get(what, 0) + 1
    return ", ".join(
        what if n == 1 or what == "classes" else f"{what} (on {n} axes)" for what, n in said.items()
    )
