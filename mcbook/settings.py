"""What every chapter sets before it computes anything."""

from __future__ import annotations

import os
import random
import warnings
from typing import Any, cast

import numpy as np
import torch

__all__ = ["begin_chapter"]


def begin_chapter(seed: int = 0) -> None:
    """Make this process compute the same numbers each time.

    One thread, float32 without reduced precision, deterministic algorithms
    where there are any, every global generator seeded, and no warnings on
    the page.  Chapters call it once, first.

    Args:
        seed: for the generators of Python, numpy and torch.
    """
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    # cuBLAS reads this when it starts; without it deterministic mode refuses to multiply.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Where an operation has no deterministic form, go on: a chapter must run anywhere.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # (torch's types do not know that this module has a setting)
    cast(Any, torch.utils.deterministic).fill_uninitialized_memory = False
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    warnings.filterwarnings("ignore")
