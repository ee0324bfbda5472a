from __future__ import annotations

import copy

import torch
from torch import nn

from mcbook.modules import annotate


def test_facts_are_attributes_copied_with_the_module() -> None:
    module = nn.Linear(2, 2)
    annotate(module, history=[1, 2], example_shape=(1, 2))
    assert module.history == [1, 2]
    copied = copy.deepcopy(module)
    copied.history.append(3)
    assert copied.example_shape == (1, 2)
    assert module.history == [1, 2]


def test_facts_are_neither_weights_nor_modules() -> None:
    module = nn.Linear(2, 2)
    names = list(module.state_dict())
    annotate(module, kept=torch.ones(2), other=nn.Linear(3, 3))
    assert list(module.state_dict()) == names
    assert len(list(module.parameters())) == 2
    assert list(module.children()) == []
