"""What several tests of paths share."""

from __future__ import annotations

import pytest
from torch import nn

import mcbook as mc


@pytest.fixture(scope="session")
def independent(digits: mc.Data) -> list[nn.Module]:
    """Five perceptrons of three hidden layers, each trained on all digits from its own seed."""
    return [
        mc.train(mc.build_model("mlp", digits, width=(64, 64, 64), seed=s), digits, 60, seed=s,
                 lr=0.05, momentum=0.9, batch_size=64, progress=False)
        for s in range(5)
    ]  # fmt: skip
