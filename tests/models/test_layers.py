from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mcbook.models.layers import ACTIVATIONS, Shortcut, Standardize, activation, norm2d


def test_standardize_works_channel_by_channel() -> None:
    layer = Standardize(2)
    x = torch.rand(3, 2, 4, 5)
    assert torch.equal(layer(x), x)
    layer.load_state_dict({"mean": torch.tensor([1.0, 2.0]), "std": torch.tensor([4.0, 0.5])})
    torch.testing.assert_close(layer(x)[:, 0], (x[:, 0] - 1) / 4)
    torch.testing.assert_close(layer(x)[:, 1], (x[:, 1] - 2) / 0.5)
    assert list(layer.parameters()) == []


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 3), st.integers(1, 9))
def test_a_shortcut_subsamples_and_pads_with_zeros(
    channels: int, extra: int, stride: int, size: int
) -> None:
    x = torch.rand(2, channels, size, size + 1)
    y = Shortcut(extra, stride)(x)
    assert y.shape == (2, channels + extra, -(-size // stride), -(-(size + 1) // stride))
    for n, c, i, j in torch.cartesian_prod(*(torch.arange(k) for k in y.shape)).tolist():
        assert y[n, c, i, j] == (x[n, c, i * stride, j * stride] if c < channels else 0)


def test_activations_by_name() -> None:
    assert sorted(ACTIVATIONS) == ["gelu", "relu", "silu", "tanh"]
    assert isinstance(activation("relu"), nn.ReLU)
    with pytest.raises(ValueError, match="found 'relu6'"):
        activation("relu6")


@given(st.integers(1, 40))
def test_norms_have_the_groups_they_should(channels: int) -> None:
    group = norm2d("group", channels)
    assert isinstance(group, nn.GroupNorm)
    assert channels % group.num_groups == 0
    assert group.num_groups == max(g for g in range(1, 9) if channels % g == 0)
    assert norm2d("layer", channels).num_groups == 1
    assert norm2d("instance", channels).num_groups == channels
    assert isinstance(norm2d("batch", channels), nn.BatchNorm2d)
    assert isinstance(norm2d(None, channels), nn.Identity)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'spectral'"):
        norm2d("spectral", 4)
