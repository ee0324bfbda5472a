"""The matrices of layers, and the second moments of what they read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.analysis import input_moments as module
from mcbook.analysis.input_moments import input_moments, root
from mcbook.analysis.layer_matrices import find_layers
from tests import reference
from tests.analysis.networks import NETWORKS, Attention, Idle, build, inputs


def moments_of(model: nn.Module, x: Tensor, **options: int) -> dict[str, np.ndarray]:
    layers = find_layers(model)
    found = input_moments(model, layers, x, **options)
    return {layer.name: c.numpy() for layer, c in zip(layers, found, strict=True)}


# matrices -----------------------------------------------------------------------------------


def test_which_layers_have_a_matrix_and_of_what_shape() -> None:
    shapes = {
        name: {layer.name: tuple(layer.matrix().shape) for layer in find_layers(build(name, 0))}
        for name in NETWORKS
    }
    assert shapes == {
        "convolutions": {
            "0": (1, 6, 18), "3": (6, 1, 9), "5": (2, 2, 6), "7": (2, 12, 2), "11": (1, 3, 24),
        },
        "lines": {"0": (1, 4, 6), "3": (1, 2, 16), "5": (1, 3, 12)},
        "attention": {
            "attention.q_proj": (1, 6, 6), "attention.k_proj": (1, 6, 6),
            "attention.v_proj": (1, 6, 6), "attention.out_proj": (1, 6, 6),
            "others": (1, 6, 6), "output": (1, 3, 6),
        },
        "separate attention": {
            "attention.q_proj": (1, 6, 6), "attention.k_proj": (1, 6, 4),
            "attention.v_proj": (1, 6, 4), "attention.out_proj": (1, 6, 6),
            "others": (1, 4, 6), "output": (1, 3, 6),
        },
        "encoder": {
            "encoder.self_attn.q_proj": (1, 6, 6), "encoder.self_attn.k_proj": (1, 6, 6),
            "encoder.self_attn.v_proj": (1, 6, 6), "encoder.self_attn.out_proj": (1, 6, 6),
            "encoder.linear1": (1, 8, 6), "encoder.linear2": (1, 6, 8), "output": (1, 3, 6),
        },
        "tied": {"first": (1, 6, 6), "output": (1, 3, 6)},
        "repeated": {"again": (1, 6, 6), "output": (1, 3, 6)},
    }  # fmt: skip


def test_a_layer_alone_and_a_weight_that_is_computed_have_matrices_too() -> None:
    (layer,) = find_layers(nn.Linear(3, 2))
    assert (layer.name, layer.inputs) == ("weight", 3)
    normed = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)),
    )
    first, second = find_layers(normed)
    assert torch.equal(first.matrix()[0], normed[0].weight.double())
    assert torch.equal(second.matrix()[0], normed[1].weight.double())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_matrix_put_back_is_the_weight(name: str) -> None:
    model, other = build(name, 0), build(name, 1)
    for layer, source in zip(find_layers(model), find_layers(other), strict=True):
        layer.replace_(source.matrix())
        assert torch.equal(layer.weight, source.weight)


def test_groups_are_blocks_of_one_linear_map() -> None:
    conv = build("convolutions", 0)[5].double()
    (layer,) = find_layers(conv)
    x = torch.randn(6, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_blocks = torch.block_diag(*layer.matrix()) @ x.reshape(-1)
    torch.testing.assert_close(by_blocks, F.conv2d(x[None], conv.weight, groups=2).reshape(-1))


def test_a_transposed_convolution_maps_a_pixel_to_a_patch() -> None:
    conv = build("convolutions", 0)[7].double()
    (layer,) = find_layers(conv)
    x = torch.randn(4, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_blocks = torch.block_diag(*layer.matrix()) @ x.reshape(-1)
    patch = F.conv_transpose2d(x[None], conv.weight, stride=2, groups=2)
    torch.testing.assert_close(by_blocks, patch.reshape(-1))


# moments ------------------------------------------------------------------------------------


def test_the_moments_of_a_perceptron_are_means_of_outer_products(
    endpoints: list[nn.Module], tiny: mc.Data
) -> None:
    for model in endpoints[:2]:
        found = moments_of(model, tiny.train.x)
        z = tiny.train.x.flatten(1)
        for name in ("linear1", "linear2", "output"):
            slow = reference.second_moment(z.double().tolist())
            np.testing.assert_allclose(found[name][0], slow, rtol=1e-5, atol=1e-6)
            z = F.relu(model.get_submodule(name)(z)).detach()


def test_the_moments_of_convolutions_are_those_of_their_patches() -> None:
    model, x = build("convolutions", 0), inputs("convolutions", 3)
    found = moments_of(model, x)
    conv, norm, _, depthwise, _, grouped, _, transposed = list(model)[:8]
    assert isinstance(norm, nn.BatchNorm2d)
    model.double().eval()
    with torch.no_grad():
        z = x.double()
        padded = F.pad(z, (2, 2, 1, 1))
        assert_of_patches(found["0"], padded, (3, 3), (2, 2), (1, 1), groups=1)
        z = F.gelu(norm(conv(z)))
        padded = F.pad(z, (2, 2, 1, 1), mode="circular")
        assert_of_patches(found["3"], padded, (3, 3), (1, 1), (1, 2), groups=6)
        z = F.gelu(depthwise(z))
        assert_of_patches(found["5"], z, (1, 2), (1, 1), (1, 1), groups=2)
        z = F.silu(grouped(z))
        assert_of_patches(found["7"], z, (1, 1), (1, 1), (1, 1), groups=2)
        z = F.adaptive_avg_pool2d(F.gelu(transposed(z)), 2).flatten(1)
        slow = reference.second_moment(z.tolist())
        np.testing.assert_allclose(found["11"][0], slow, rtol=1e-4, atol=1e-5)


def assert_of_patches(
    found: np.ndarray,
    images: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    assert len(found) == groups
    for block, part in zip(found, images.chunk(groups, 1), strict=True):
        seen = [p for z in part.numpy() for p in reference.patches(z, kernel, stride, dilation)]
        np.testing.assert_allclose(block, reference.second_moment(seen), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_they_tell_how_large_outputs_are(name: str) -> None:
    """`E|W z|² = tr(W C Wᵀ)`, with W z measured at the layer itself (its bias taken away)."""
    model, x = build(name, 0).double(), inputs(name).double()
    layers = find_layers(model)
    found = moments_of(model, x)
    model.eval()
    for layer in layers:
        if layer.owner is not None or "_proj" in layer.name or "7" in layer.name:
            continue  # tested by themselves
        outputs: list[Tensor] = []
        handles = [
            m.register_forward_hook(
                lambda m, _, z, kept=outputs: kept.append((z - bias(m)).movedim(axis(m), -1))
            )
            for m in layer.modules
        ]
        with torch.no_grad():
            model(x)
        for handle in handles:
            handle.remove()
        rows = torch.cat([z.reshape(-1, z.shape[-1]) for z in outputs])
        w, c = layer.matrix(), torch.from_numpy(found[layer.name])
        expected = float((w @ c @ w.mT).diagonal(dim1=1, dim2=2).sum())
        assert float(rows.square().sum(1).mean()) == pytest.approx(expected, rel=1e-9)


def axis(m: nn.Module) -> int:
    return -1 if isinstance(m, nn.Linear) else 1


def bias(m: nn.Module) -> Tensor:
    return m.bias if isinstance(m, nn.Linear) else m.bias.reshape(-1, *[1] * len(m.kernel_size))


@pytest.mark.parametrize("others", [None, 4])
def test_an_attention_reads_queries_keys_values_and_heads(others: int | None) -> None:
    torch.manual_seed(0)
    model = Attention(others, dropout=0.5).double()
    for bias in (model.attention.in_proj_bias, model.attention.out_proj.bias):
        nn.init.normal_(bias)
    x = torch.randn(7, 5, 6, dtype=torch.float64)
    found = moments_of(model, x)
    attention = model.attention.eval()
    with torch.no_grad():
        z = model.others(x)
        # two heads of three dimensions, by the definition
        maps = (
            attention.in_proj_weight.chunk(3)
            if others is None
            else [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
        )
        q, k, v = (
            (tokens @ w.T + b).unflatten(2, (2, 3)).transpose(1, 2)
            for tokens, w, b in zip(
                (x, z, 2 * z), maps, attention.in_proj_bias.chunk(3), strict=True
            )
        )
        heads = torch.softmax(q @ k.mT / 3**0.5, -1) @ v
        heads = heads.transpose(1, 2).flatten(2)
    for name, tokens in (("q_proj", x), ("k_proj", z), ("v_proj", 2 * z), ("out_proj", heads)):
        slow = reference.second_moment(tokens.flatten(0, 1).tolist())
        np.testing.assert_allclose(found[f"attention.{name}"][0], slow, rtol=1e-9, atol=1e-12)


def test_a_layer_that_is_used_twice_reads_what_both_uses_read() -> None:
    x = inputs("tied")
    for name, first, second in (("tied", "first", "second"), ("repeated", "again", "again")):
        model = build(name, 0)
        z = torch.tanh(model.get_submodule(first)(x)).detach()
        slow = reference.second_moment([*x.tolist(), *z.tolist()])
        np.testing.assert_allclose(moments_of(model, x)[first][0], slow, rtol=1e-5, atol=1e-6)
        assert model.get_submodule(second).weight is model.get_submodule(first).weight


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_and_passes_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(name, 0).double(), inputs(name).double()
    whole = moments_of(model, x)
    monkeypatch.setattr(module, "_MEMORY", 1)  # a pass for each layer
    monkeypatch.setattr(module, "_PATCHES", 1)  # images one by one
    for size in (1, 5, 100):
        parts = moments_of(model, x, batch_size=size)
        for layer, c in whole.items():
            np.testing.assert_allclose(parts[layer], c, rtol=1e-10, atol=1e-12)


def test_moments_that_do_not_fit_together_take_a_pass_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("convolutions", 0), inputs("convolutions")
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    sizes = [8 * layer.groups * layer.inputs**2 for layer in find_layers(model)]
    for memory, expected in ((2**30, 1), (sum(sizes), 1), (sum(sizes) - 1, 2), (1, len(sizes))):
        monkeypatch.setattr(module, "_MEMORY", memory)
        passes.clear()
        moments_of(model, x)
        assert len(passes) == expected


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("same_random_state")
def test_measuring_changes_nothing(
    name: str, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    model = build(name, 0)
    compare = untouched(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    first, again = (moments_of(model, inputs(name)) for _ in range(2))
    compare()
    assert torch.backends.mha.get_fastpath_enabled() == fast
    for layer, c in first.items():
        np.testing.assert_array_equal(c, again[layer])


def test_whole_numbers_stay_whole_and_images_come_to_the_weights() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(5, (6, 3))
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    z = model[0](tokens).detach().double().flatten(0, 1)
    slow = reference.second_moment(z.tolist())
    np.testing.assert_allclose(moments_of(model, tokens)["1"][0], slow, rtol=1e-6)
    x = torch.randn(6, 3, dtype=torch.float64)
    assert moments_of(nn.Linear(3, 2), x)["weight"].shape == (1, 3, 3)


# the root -----------------------------------------------------------------------------------


def test_the_root_is_scipys_also_where_directions_are_missing() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 20, 6, dtype=torch.float64, generator=generator)
    z[1, :, 4:] = 0
    z[2, :, 0] = z[2, :, 1]
    found = root(z.mT @ z)
    torch.testing.assert_close(found @ found, z.mT @ z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, found.mT)
    assert torch.equal(root(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))
    np.testing.assert_allclose(found[0], sqrtm((z[0].T @ z[0]).numpy()).real, rtol=1e-9, atol=1e-9)
    p = torch.randperm(6, generator=generator)
    torch.testing.assert_close(root((z.mT @ z)[:, p][:, :, p]), found[:, p][:, :, p])


# bad input ----------------------------------------------------------------------------------


def test_a_layer_that_is_not_called_is_named() -> None:
    torch.manual_seed(0)
    model = Idle()
    with pytest.raises(ValueError, match="to call idle, but it does not.*layers="):
        moments_of(model, torch.randn(2, 6))
    layers = find_layers(model, ["used"])
    assert len(list(input_moments(model, layers, torch.randn(2, 6)))) == 1


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[1.0]], TypeError, "expected a tensor of images, such as data.train.x, found list"),
        (torch.zeros(0, 6), ValueError, r"at least one image as inputs, found shape \[0, 6\]"),
        (torch.tensor(1.0), ValueError, r"at least one image as inputs, found shape \[\]"),
        (torch.full((2, 6), torch.nan), ValueError, "finite inputs, found NaN"),
    ],
)
def test_inputs_that_are_none_are_refused(x: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        moments_of(build("tied", 0), x)  # type: ignore[arg-type]


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(mc.UnknownNameError, match="unknown layer 'fist'; did you mean 'first'"):
        find_layers(build("tied", 0), ["fist"])
    with pytest.raises(mc.UnknownNameError, match="unknown layer 'second'"):  # it is the first's
        find_layers(build("tied", 0), ["second"])
    with pytest.raises(ValueError, match="at least one layer, found an empty list"):
        find_layers(build("tied", 0), [])
    with pytest.raises(ValueError, match="at least one linear or convolutional.*BatchNorm1d"):
        find_layers(nn.BatchNorm1d(3))
    with pytest.raises(TypeError, match="expected a torch.nn.Module, found dict"):
        find_layers({})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found that 0 has not been initialised"):
        find_layers(nn.Sequential(nn.LazyLinear(3)))


def test_one_name_is_one_layer() -> None:
    assert [layer.name for layer in find_layers(build("tied", 0), "output")] == ["output"]
